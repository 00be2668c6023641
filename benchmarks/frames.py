"""HTTP/2 as a load generator needs it: frames by hand, written once and read in one look, so that the load core keeps up with every proxy.

It asks and counts; it judges nothing. Windows are opened to the utmost at once, so no WINDOW_UPDATE is ever due, and the request head is
rendered as literals that leave the server's dynamic table alone.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable

from hpack import Decoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 0x20
LARGEST_WINDOW, FIRST_WINDOW = 2**31 - 1, 65535
ENABLE_PUSH, INITIAL_WINDOW_SIZE = 2, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


OPENING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0, struct.pack(">HIHI", ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
    + frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - FIRST_WINDOW).to_bytes(4, "big"))
)


class Gone(ConnectionError):
    """The server ended the connection, or our stream before its time."""


def head(stream: int, method: str, path: str, fields: dict[str, str], *, ended: bool) -> bytes:
    """The HEADERS frame of a request for 127.0.0.1 over TLS."""
    pseudo = {":method": method, ":scheme": "https", ":authority": "127.0.0.1", ":path": path}
    block = b"".join(_literal(name.lower().encode(), value.encode()) for name, value in {**pseudo, **fields}.items())
    return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, block)


def _literal(name: bytes, value: bytes) -> bytes:
    """Literal field without indexing, new name (RFC 7541 section 6.2.2), no Huffman code."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """RFC 7541 section 5.1 with a prefix of seven bits."""
    if size < 127:
        return bytes((size,))
    rest, out = size - 127, b"\x7f"
    while rest >= 128:
        out, rest = out + bytes((rest & 127 | 128,)), rest >> 7
    return out + bytes((rest,))


class Frames:
    """feed() bytes as they come, get (kind, flags, stream, payload) of the frames that are whole; `owed` is to be sent now and then."""

    __slots__ = ("owed", "rest")

    def __init__(self) -> None:
        self.rest = self.owed = b""

    def feed(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        if self.rest:
            data = self.rest + data
        found, at, size = [], 0, len(data)
        while at + 9 <= size:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > size:
                break
            kind, flags, stream, payload = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : end]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.owed += frame(kind, ACK, 0, payload if kind == PING else b"")
            elif kind in (RST_STREAM, GOAWAY) or (kind == DATA and flags & PADDED):
                raise Gone(f"frame of kind {kind}, flags {flags}: {payload[:64].hex()}")
            found.append((kind, flags, stream, payload))
            at = end
        self.rest = data[at:]
        return found


class Client:
    """One blocking connection that asks one thing at a time."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        raw = socket.create_connection(("127.0.0.1", port), 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link = context.wrap_socket(raw)
        self.speaks = self.link.selected_alpn_protocol() == "h2"
        self.frames, self.decoder, self.stream = Frames(), Decoder(), -1
        if self.speaks:
            self.link.sendall(OPENING)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()

    def ask(self, method: str, path: str, fields: dict[str, str], body: bytes = b"") -> None:
        """One small request in one piece."""
        self.stream += 2
        asked = head(self.stream, method, path, {**fields, "content-length": str(len(body))} if body else fields, ended=not body)
        self.link.sendall(asked + (frame(DATA, END_STREAM, self.stream, body) if body else b""))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """(status, fields, body) of what was asked last."""
        found: dict[str, str] = {}
        body = b"".join(self.body(found))
        return int(found.pop(":status")), found, body

    def body(self, found: dict[str, str]) -> Iterable[bytes]:
        """The payload of the DATA frames as it comes, until the end of the stream; the head goes into `found`."""
        block, ended = b"", False
        while not ended:
            data = self.link.recv(256 * 1024)
            if not data:
                raise Gone("the server closed the connection")
            for kind, flags, stream, payload in self.frames.feed(data):
                if stream != self.stream:
                    continue
                if kind == DATA:
                    yield payload
                elif kind in (HEADERS, CONTINUATION):
                    block += payload[5:] if kind == HEADERS and flags & PRIORITY else payload
                    if flags & END_HEADERS:
                        found |= {str(name): str(value) for name, value in self.decoder.decode(block)}
                        block = b""
                ended = ended or (kind in (DATA, HEADERS) and bool(flags & END_STREAM))
            if self.frames.owed:
                owed, self.frames.owed = self.frames.owed, b""
                self.link.sendall(owed)
