"""HOT. Where does this body end?

A scanner is shown bytes as they pass and says how many of them belong to the message. It never copies, changes or keeps a body.

 1. feed() returns less than it was given only when the body is complete (`done`); what is left over is the next message's, or nobody's.
 2. A scanner that has raised is dead, and so is its link: not one byte of the slice that broke the framing may be forwarded.
 3. Trailers belong to the body: the peer sent them, the peer gets them. They are read as strictly as a head, and may not say what only a head may.
 4. What a scanner keeps between two slices is a part of one line, bounded by LINE_LIMIT.

With `pieces` the payload (without framing) is appended as slices: for clients that do not know chunks, and for those who watch events pass.
"""

from __future__ import annotations

import re
from typing import Any

from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.fields import NEVER_IN_TRAILERS

NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = 0, 1, 2, 3
REQUEST, RESPONSE = 0, 1

LINE_LIMIT = 4096  # bytes of a chunk line or trailer line: a size has 16 digits, an extension or a trailer field is a short thing
TRAILER_LIMIT = 8192  # bytes of all trailers; real ones are a checksum or a status
SIZE_MEMO = 4096  # chunk size lines remembered (they repeat: servers write in blocks, events have few lengths)

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
SIZE_LINE = (
    re.compile(rb"([0-9A-Fa-f]{1,16})"),
    re.compile(rb"([0-9A-Fa-f]{1,16})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"[\t !#-\[\]-~]*"))?)*'),
)
"""RFC 9112 §7.1.1. Requests: no extensions at all, nobody sends them and parsers differ. Responses: only as tokens or plain quoted strings."""
SIZE_START = (
    re.compile(rb"[0-9A-Fa-f]{1,16}\r?"),
    re.compile(rb"[0-9A-Fa-f]{1,16}(?:;[\t -~]*)?\r?"),
)
TRAILER_LINE = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?[ \t]*")
TRAILER_START = re.compile(rb"(?:" + _TOKEN + rb"(?::[\t -~\x80-\xff]*)?)?\r?")

_SIZE, _DATA, _DATA_END, _TRAILER = 0, 1, 2, 3


class FramingError(ProxyError):
    """A body that broke its own framing (RFC 9112 §7.1)."""

    def __init__(self, kind: str, trailing: int) -> None:
        if trailing == REQUEST:
            super().__init__(kind, Side.DOWNSTREAM, 400)
        else:
            super().__init__(kind, Side.UPSTREAM, 502)


class LengthScanner:
    """Content-Length (RFC 9112 §6.2)."""

    __slots__ = ("done", "left")
    between = False  # nothing may be put between these bytes

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes, pieces: list[Any] | None = None) -> int:
        """How many bytes of `data` belong to the body."""
        size = len(data)
        left = self.left
        if size < left:
            self.left = left - size
        else:
            size = left
            self.left = 0
            self.done = True
        if pieces is not None and size:
            pieces.append(data if size == len(data) else data[:size])
        return size


class UntilClose:
    """A response that ends with its connection (RFC 9112 §6.3, rule 8)."""

    __slots__ = ()
    done = False
    between = True

    def feed(self, data: bytes, pieces: list[Any] | None = None) -> int:
        """All of them."""
        if pieces is not None and data:
            pieces.append(data)
        return len(data)


class ChunkedScanner:
    """Chunked transfer coding (RFC 9112 §7.1), with CRLF everywhere and nothing lenient."""

    __slots__ = ("_left", "_part", "_sizes", "_state", "_trailing", "_trailers", "done")

    def __init__(self, trailing: int) -> None:
        self.done = False
        self._trailing = trailing
        self._state = _SIZE
        self._left = 0  # payload bytes of this chunk still to come
        self._part = b""  # the beginning of a line
        self._trailers = 0
        self._sizes = SIZES[trailing]

    @property
    def between(self) -> bool:
        """Does the next byte begin a chunk?"""
        return self._state == _SIZE and not self._part

    def feed(self, data: bytes, pieces: list[Any] | None = None) -> int:
        """How many bytes of `data` belong to the body. Raises FramingError."""
        size = len(data)
        if self._state == _SIZE:
            if not self._part and pieces is None:
                line_end = data.find(b"\r\n", 0, 18)
                if line_end > 0:  # the common slice: exactly one whole chunk
                    length = self._sizes.get(data[:line_end])
                    if length and line_end + length + 4 == size and data[-2:] == b"\r\n":
                        return size
        elif self._left > size:  # the other one: all of it lies inside a chunk
            self._left -= size
            if pieces is not None and size:
                pieces.append(data)
            return size
        return self._walk(data, pieces)

    def _walk(self, data: bytes, pieces: list[Any] | None) -> int:
        at, size = 0, len(data)
        while at < size:
            state = self._state
            if state == _DATA:
                take = min(self._left, size - at)
                if pieces is not None:
                    pieces.append(data[at : at + take])
                at += take
                self._left -= take
                if not self._left:
                    self._state = _DATA_END
            elif state == _DATA_END:
                wanted = b"\n" if self._part else b"\r\n"
                got = data[at : at + len(wanted)]
                if not wanted.startswith(got):
                    raise FramingError("bad-chunk-end", self._trailing)
                at += len(got)
                if got == wanted:
                    self._part, self._state = b"", _SIZE
                else:
                    self._part = b"\r"
            else:
                line_end = data.find(b"\n", at, at + LINE_LIMIT)
                if line_end < 0:
                    self._unfinished(self._part + data[at:])
                    return size
                line = self._part + data[at : line_end + 1] if self._part else data[at : line_end + 1]
                self._part = b""
                at = line_end + 1
                if line[-2:-1] != b"\r":
                    raise FramingError("bad-line-end", self._trailing)
                if state == _SIZE:
                    self._size_line(line[:-2])
                elif self._trailer_line(line[:-2]):
                    return at
        return size

    def _size_line(self, line: bytes) -> None:
        length = self._sizes.get(line)
        if length is None:
            found = SIZE_LINE[self._trailing].fullmatch(line)
            if found is None:
                raise FramingError("bad-chunk-size", self._trailing)
            length = int(found.group(1), 16)
            if len(line) <= 16:
                if len(self._sizes) >= SIZE_MEMO:
                    self._sizes.clear()
                self._sizes[line] = length
        if length:
            self._left = length
            self._state = _DATA
        else:
            self._state = _TRAILER

    def _trailer_line(self, line: bytes) -> bool:
        """True when this was the empty line that ends the message."""
        if not line:
            self.done = True
            return True
        self._trailers += len(line)
        found = TRAILER_LINE.fullmatch(line)
        if found is None or self._trailers > TRAILER_LIMIT or found.group(1).lower() in NEVER_IN_TRAILERS:
            raise FramingError("bad-trailer", self._trailing)
        return False

    def _unfinished(self, part: bytes) -> None:
        """Keep the beginning of a line, unless it can only become a bad one."""
        if self._state == _SIZE:
            good, kind = SIZE_START[self._trailing].fullmatch(part), "bad-chunk-size"
        else:
            good, kind = TRAILER_START.fullmatch(part), "bad-trailer"
        if good is None or len(part) > LINE_LIMIT:
            raise FramingError(kind, self._trailing)
        self._part = part


SIZES: tuple[dict[bytes, int], dict[bytes, int]] = ({}, {})
"""Size lines that were judged well-formed, for requests and responses apart (they differ in extensions)."""
