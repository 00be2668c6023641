"""The admin listener's socket.

1. A unix socket is bound beside its place, given its mode, and renamed: nobody finds it half made, and a successor (a new control process, a new program)
   takes the place of its predecessor in one step.
2. Whoever ends removes it only if it is still his.
3. The kernel takes paths of 107 bytes; longer ones are reached through their directory (/proc/self/fd), so a deep state directory is no mistake.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mcpproxy.net.listener import Address

BACKLOG = 64
OWNER, GROUP = 0o600, 0o660
LONGEST = 107  # bytes of a path in sockaddr_un (unix(7))


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """A path to the same place that the kernel takes."""
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class Place:
    """Where it listens. `address` as in `[[listen]]`; `mode`: of a unix socket."""

    def __init__(self, address: str, mode: int = OWNER) -> None:
        self.address, self._mode = address, mode
        self._path = address[5:] if address.startswith("unix:") else ""
        self._mine: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Listening. Raises OSError."""
        return self._unix() if self._path else self._tcp()

    def _tcp(self) -> socket.socket:
        address = Address.parse(self.address)
        sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address.host, address.port))
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    def _unix(self) -> socket.socket:
        path = Path(self._path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not path.is_socket():
            raise FileExistsError(17, "is there, and is no socket")
        beside = f"{path}.{os.getpid()}"
        with suppress(FileNotFoundError):
            os.unlink(beside)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        try:
            with reachable(beside) as name:
                sock.bind(name)
            os.chmod(beside, self._mode)
            sock.listen(BACKLOG)
            made = os.stat(beside)
            os.rename(beside, path)
            self._mine = (made.st_dev, made.st_ino)
        except OSError:
            sock.close()
            with suppress(OSError):
                os.unlink(beside)
            raise
        finally:
            os.umask(mask)
        return sock

    def leave(self) -> None:
        """Rule 2."""
        with suppress(OSError):
            found = os.stat(self._path)
            if self._path and self._mine == (found.st_dev, found.st_ino):
                os.unlink(self._path)


def dial(path: str) -> socket.socket:
    """A connection to the socket at `path`. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with reachable(path) as name:
            sock.connect(name)
    except OSError:
        sock.close()
        raise
    return sock
