"""Where workers find the control process: a unix socket without a path, made before all of them are forked, and a secret that only the family knows.

The supervisor keeps the socket, so it outlives a control process that died: workers that connect meanwhile wait in its backlog for the next one. An abstract
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

    @property
    def address(self) -> bytes:
        """For connect(2)."""
        name = self.sock.getsockname()
        assert isinstance(name, bytes), "an abstract address"
        return name

    @staticmethod
    def is_ours(sock: socket.socket) -> bool:
        """Is at the other end a process of our own user, as the kernel knows? Others need not be read to be refused."""
        _, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        return bool(uid == os.geteuid())

    def opens(self, said: object) -> bool:
        """Is it the secret?"""
        return isinstance(said, str) and compare_digest(said.encode(), self.secret.encode())


def make_door() -> Door:
    """At an address that the kernel chooses (unix(7), autobind)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    sock.bind("")
    sock.listen(BACKLOG)
    return Door(sock)
