"""What a client asks for in its first TLS message, before OpenSSL sees it: the name (SNI) and the protocols (ALPN).

`read` takes what `recv(MSG_PEEK)` saw. It follows RFC 8446 §4.1.2 and §5.1 as far as needed: a ClientHello may be cut into several records. Only asked while
an authority is about to look at a challenge (edge/peephole), so it is written to be read.
"""

from __future__ import annotations

from typing import NamedTuple

LONGEST = 16384  # bytes that are waited for; the hello of a validator is a few hundred
RECORDS = 16  # in which it may come: every look begins at the first, and thousands of a byte each would cost milliseconds a look
HANDSHAKE, CLIENT_HELLO = 22, 1
SERVER_NAME, ALPN = 0, 16


class Hello(NamedTuple):
    """What it asks for."""

    name: str
    protocols: tuple[bytes, ...]


class Truncated(Exception):
    """A length leads behind the end."""


class Reader:
    """Takes bytes off the front."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """So many."""
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise Truncated
        self._at += count
        return found

    def number(self, width: int) -> int:
        """One of so many bytes."""
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> Reader:
        """What follows its own length."""
        return Reader(self.take(self.number(width)))

    def rest(self) -> bytes:
        """Whatever is left."""
        return self._data[self._at :]

    def more(self) -> bool:
        """Is anything left?"""
        return self._at < len(self._data)


def read(data: bytes) -> Hello | None:
    """None: more bytes are needed. Raises ValueError for what is no ClientHello."""
    records = Reader(data)
    message, pieces = b"", 0
    while len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        try:
            if records.number(1) != HANDSHAKE:
                raise ValueError("no TLS handshake")
            if records.take(2)[0] != 3:
                raise ValueError("no TLS")
            piece = records.vector(2).rest()
        except Truncated:
            if len(data) >= LONGEST:
                raise ValueError("too long") from None
            return None
        if not piece:
            raise ValueError("an empty record")
        pieces += 1
        if pieces > RECORDS:
            raise ValueError("in too many pieces")
        message += piece
    if message[0] != CLIENT_HELLO:
        raise ValueError("no ClientHello")
    try:
        return _hello(Reader(message[4:]))
    except Truncated:
        raise ValueError("a ClientHello that is cut") from None


def _hello(body: Reader) -> Hello:
    body.take(2 + 32)  # version, random
    body.vector(1)  # session id
    body.vector(2)  # cipher suites
    body.vector(1)  # compression methods
    name, protocols = "", []
    extensions = body.vector(2) if body.more() else Reader(b"")
    while extensions.more():
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == SERVER_NAME and content.more():
            names = content.vector(2)
            if names.more() and names.number(1) == 0:
                name = names.vector(2).rest().decode("latin-1").lower()
        elif kind == ALPN and content.more():
            offered = content.vector(2)
            while offered.more():
                protocols.append(offered.vector(1).rest())
    return Hello(name, tuple(protocols))
