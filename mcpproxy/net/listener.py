"""A listening socket that cannot be lost.

Accepts in batches, so a burst of clients costs one turn of the loop. When descriptors run out (EMFILE, ENFILE) it stops listening to the kernel
for a moment instead of spinning, and goes on by itself. Beyond the connection limit a client is turned away before any TLS work.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass

from mcpproxy.errors import StartError
from mcpproxy.net.link import prepare
from mcpproxy.net.loop import EdgeLoop

BACKLOG = 4096  # the kernel caps it at net.core.somaxconn (4096 by default)
BATCH = 64  # accepts per turn: a storm of connections does not hold up the streams that are already there
PAUSE = 0.5  # seconds without accepting after the descriptors ran out
DIRECTORY_HINT = "the directory of the socket must be there, and the daemon must be able to write to it"
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a TCP host and port, or the path of a unix socket."""

    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """`0.0.0.0:443`, `[::]:443` or `unix:/run/mcpproxy.sock` (checked by the configuration already)."""
        if text.startswith("unix:"):
            return cls("", 0, text[5:])
        host, _, port = text.rpartition(":")
        return cls(host.strip("[]"), int(port))

    @classmethod
    def of(cls, sock: socket.socket) -> Address:
        """Where a socket listens."""
        return cls("", 0, sock.getsockname()) if sock.family == socket.AF_UNIX else cls(*sock.getsockname()[:2])

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind(address: Address) -> socket.socket:
    """The listening socket. Raises StartError that says in words why it cannot be had."""
    try:
        return _bind_unix(address.path) if address.path else _bind_tcp(address)
    except PermissionError:
        hint = "ports below 1024 need CAP_NET_BIND_SERVICE (the systemd unit grants it), or choose a higher one"
        raise StartError(f"no permission to listen on {address}", DIRECTORY_HINT if address.path else hint) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"{address} is in use by another process",
                "end that process (ss -ltnp shows it), or choose another address: --listen, or `address` in the configuration",
            ) from None
        hint = DIRECTORY_HINT if address.path else "is it an address of this machine?"
        raise StartError(f"cannot listen on {address}: {error.strerror or error}", hint) from None


def bind_all(address: Address, count: int) -> list[socket.socket]:
    """A listening socket for each of `count` processes: the kernel spreads connections over them by a hash of both addresses, so evenly, and one that was
    given to a socket waits there. A unix socket is the same one for all: who is idle accepts. Raises StartError as `bind` does."""
    first = bind(address)
    if address.path or count == 1:
        return [first] * count
    with first:  # with SO_REUSEPORT alone another daemon of the same user would share the port with us, and neither would know
        address = Address(*first.getsockname()[:2])
    made: list[socket.socket] = []
    try:
        while len(made) < count:
            made.append(_bind_tcp(address, several=True))
    except OSError as error:
        for sock in made:
            sock.close()
        raise StartError(f"cannot listen on {address}: {error.strerror or error}") from None
    return made


def _bind_tcp(address: Address, *, several: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if several:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # "[::]:443" beside "0.0.0.0:443" is two listeners, on every system
        prepare(sock)  # inherited by every connection that is accepted, for nothing
        sock.bind((address.host, address.port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(path) == 0:
                    raise OSError(errno.EADDRINUSE, "in use")
            os.unlink(path)  # left behind by a process that was killed
        elif os.path.lexists(path):
            raise StartError(f"unix:{path}: something is there that is no socket", "remove it, or choose another path")
        sock.bind(path)
        os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Listener:
    """Hands every accepted socket to `greet`; turns clients away with `full` (bytes or nothing) while `has_room` says no.

    Only an `owner` takes the path of a unix socket away. `name`: by which a changed configuration finds it again."""

    def __init__(
        self,
        loop: EdgeLoop,
        sock: socket.socket,
        greet: Callable[[socket.socket, object], None],
        has_room: Callable[[], bool],
        full: bytes,
        *,
        owner: bool = True,
        name: str = "",
    ) -> None:
        self._loop, self._sock, self._greet, self._has_room, self.full = loop, sock, greet, has_room, full
        self.name = name
        self._again: asyncio.TimerHandle | None = None
        self.address = Address.of(sock)
        self._path = self.address.path
        self._owner = owner
        self.turned_away = 0

    def start(self) -> None:
        """Accept from now on."""
        self._again = None
        self._loop.add_reader(self._sock.fileno(), self._ready)

    def pause(self) -> None:
        """Accept no more until `start`; who comes meanwhile waits, or is accepted by another process."""
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock.fileno())

    def stop(self) -> None:
        """Accept no more and give the address back."""
        if self._sock.fileno() < 0:
            return
        self.pause()
        self._sock.close()
        if self._path and self._owner:
            try:
                os.unlink(self._path)
            except OSError:
                pass  # somebody tidied up already

    def last_call(self) -> None:
        """Take who is waiting already: closing the address would reset them."""
        for _ in range(BACKLOG // BATCH):
            if self._accept():
                return

    def _ready(self) -> None:
        self._accept()

    def _accept(self) -> bool:
        """Is nobody waiting any more?"""
        for _ in range(BATCH):
            try:
                sock, peer = self._sock.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._loop.remove_reader(self._sock.fileno())
                    self._again = self._loop.call_later(PAUSE, self.start)
                    return True
                continue  # ECONNABORTED and its kin: that client left, the next may be fine
            if not self._has_room():
                self._turn_away(sock)
                continue
            sock.setblocking(False)
            try:
                self._greet(sock, peer)
            except OSError:  # the client left between accept and greeting
                sock.close()
            except Exception as error:  # a bug of ours costs this client its connection, never us the listener
                sock.close()
                self._loop.call_soon(_tell, error)
        return False

    def _turn_away(self, sock: socket.socket) -> None:
        self.turned_away += 1
        try:
            if self.full:
                sock.setblocking(False)
                sock.send(self.full)
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was to be closed anyway
        finally:
            sock.close()


def _tell(error: Exception) -> None:
    """Let the loop report it, with its traceback."""
    raise error
