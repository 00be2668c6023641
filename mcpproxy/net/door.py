"""Where workers find the control process, and the gateway process: at a unix socket without a path, and by a secret.

Both are made before all of them are forked, and only the family knows them.

The supervisor keeps the socket, so it outlives a process that died: workers that connect meanwhile wait in its backlog for the next one. An abstract
address has no permissions: whoever has another user id is sent away unheard, and whoever does not say the secret first, too.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from dataclasses import dataclass, field
from hmac import compare_digest

BACKLOG = 128
CREDENTIALS = struct.Struct("3i")  # ucred, unix(7): process, user, group


@dataclass(slots=True)
class Door:
    """Made once, by the supervisor."""

    sock: socket.socket
    secret: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    address: bytes = field(init=False)  # for connect(2); known also to who has closed the socket

    def __post_init__(self) -> None:
        name = self.sock.getsockname()
        assert isinstance(name, bytes), "an abstract address"
        self.address = name

    @staticmethod
    def is_ours(sock: socket.socket) -> bool:
        """Is at the other end a process of our own user, as the kernel knows? Others need not be read to be refused."""
        _, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return bool(uid == os.geteuid())

    def opens(self, said: object) -> bool:
        """Is it the secret?"""
        return isinstance(said, str) and compare_digest(said.encode(), self.secret.encode())


def make_door(backlog: int = BACKLOG) -> Door:
    """At an address that the kernel chooses (unix(7), autobind)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.bind("")
    sock.listen(backlog)
    return Door(sock)
