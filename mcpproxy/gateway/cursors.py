"""Cursors of merged lists: which list, and how far. Sealed, so that nobody makes one up or uses another's (MCP server/utilities/pagination).

   cursor = base64url( AES-SIV( "cursor", hub, caller, kind of list ; digest of the list · offset ) )

A cursor names the list as it was: whoever goes on with another one is told to begin anew (-32602). AES-SIV (RFC 5297) needs no nonce; the key lives as long
as this process, and so do cursors, which clients must not keep longer than they need them.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

DIGEST = 16  # bytes that name a list
OFFSET = 4  # bytes of the number of what comes next
SIZE = 16 + DIGEST + OFFSET  # with the tag
is_sealed = re.compile(r"[A-Za-z0-9_-]{48}").fullmatch  # SIZE bytes in base64, which leaves no spare bits: one text for one cursor


class Cursors:
    """Of one hub."""

    __slots__ = ("_hub", "_key")

    def __init__(self, hub: str, key: bytes | None = None) -> None:
        self._hub, self._key = hub.encode(), AESSIV(key or secrets.token_bytes(64))

    def seal(self, caller: str, kind: str, digest: bytes, offset: int) -> str:
        """The text for the client. `digest`: DIGEST bytes."""
        told = digest + offset.to_bytes(OFFSET, "big")
        return urlsafe_b64encode(self._key.encrypt(told, [b"cursor", self._hub, caller.encode(), kind.encode()])).decode()

    def open(self, caller: str, kind: str, text: str) -> tuple[bytes, int] | None:
        """Digest and offset. None: we did not make it, or not for this caller and this kind of list."""
        if not is_sealed(text):
            return None
        try:
            told = self._key.decrypt(urlsafe_b64decode(text), [b"cursor", self._hub, caller.encode(), kind.encode()])
        except InvalidTag:
            return None
        return told[:DIGEST], int.from_bytes(told[DIGEST:], "big")
