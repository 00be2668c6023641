"""Listening sockets that somebody else made and gave us: systemd's socket activation (sd_listen_fds(3)).

The socket of an address is one, shared by all workers as a unix socket is: whoever is idle accepts. It stays with systemd when we end, so who connects
meanwhile waits for the next start. Its path, if it has one, is not ours to remove.

A socket that belongs to no listener is a mistake, and so is one that serves two of them (`[::]:443` of a unit without BindIPv6Only=ipv6-only takes what
comes for `0.0.0.0:443`, too).
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from mcpproxy.errors import StartError
from mcpproxy.net.link import prepare
from mcpproxy.net.listener import BACKLOG, Address

FIRST = 3  # SD_LISTEN_FDS_START
WORDS = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Passed:
    """What was given and is not taken yet."""

    def __init__(self, sockets: list[tuple[str, socket.socket]]) -> None:
        self._sockets = sockets  # (its name in the unit, the socket)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], first: int = FIRST) -> Passed:
        """What $LISTEN_FDS says, if it is said to us. No child of ours believes it once more. Raises StartError."""
        meant, many, names = (environment.pop(word, "") for word in WORDS)
        if not meant or meant != str(os.getpid()) or not (many.isascii() and many.isdigit()):
            return cls([])
        named = names.split(":") if names else []
        found = cls([])
        for number in range(int(many)):
            name = named[number] if number < len(named) else f"number {number + 1}"
            try:
                found._sockets.append((name, _adopt(first + number)))
            except (OSError, ValueError) as error:
                found.close()
                said = getattr(error, "strerror", None) or str(error)
                raise StartError(
                    f"the socket that systemd passed as {name} cannot be used: {said}", "the .socket unit needs ListenStream="
                ) from None
        return found

    def take(self, address: Address) -> socket.socket | None:
        """The socket of this address, if it was given."""
        for place, (_, sock) in enumerate(self._sockets):
            if _fits(sock, address):
                del self._sockets[place]
                return sock
        return None

    def none_left(self) -> None:
        """Every socket has found its listener. Raises StartError."""
        if self._sockets:
            left = ", ".join(f"{_address(sock)} ({name})" for name, sock in self._sockets)
            self.close()
            raise StartError(
                f"systemd passed a socket that no listener asks for: {left}",
                "[[listen]] needs the very address of ListenStream=; for IPv4 and IPv6 give both, with BindIPv6Only=ipv6-only",
            )

    def close(self) -> None:
        """They are not wanted."""
        for _, sock in self._sockets:
            sock.close()
        self._sockets.clear()


def _adopt(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    sock = socket.socket(fileno=fd)
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise ValueError("it is no stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("it does not listen (Accept=yes is for other programs)")
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            prepare(sock)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _address(sock: socket.socket) -> Address:
    name = sock.getsockname()
    return Address("", 0, name) if sock.family == socket.AF_UNIX else Address(*name[:2])


def _fits(sock: socket.socket, address: Address) -> bool:
    """The same address; or any IPv4 address, asked of a socket that takes both kinds."""
    theirs = _address(sock)
    if theirs == address:
        return True
    both = sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    return both and theirs == Address("::", address.port) and address.host == "0.0.0.0"
