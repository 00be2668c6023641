"""HOT. Where does this body end?

A scanner is shown bytes as they pass and says how many belong to the message. It never changes or keeps them (but for a line that was cut in
two, bounded by the limits below). With `pieces`, a list, it also hands out the payload without its framing.

 1. feed() returns less than it was given only when the body is complete; then `done` is true.
 2. A scanner that has raised is dead, and so is its link. What it raised for is never passed on, and neither is any byte of that slice.
 3. Of a line that is not all there yet, every byte is already known to be a good beginning: the peer never sees one that we will refuse,
    only lines that we will not let come to their end.
 4. Trailers belong to the body: the peer sent them, the peer gets them. But none by a name that is refused there (http/fields), nor by one that this
    route takes credentials from or speaks itself (`barred`).
 5. What any two servers could read differently is refused: signs, blanks, 17 digits, LF without CR, a CR alone, extensions in requests.
"""

from __future__ import annotations

import re

from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.fields import TEXT, TOKEN, may_be_trailer

NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = 0, 1, 2, 3
REQUEST, RESPONSE = Side.DOWNSTREAM, Side.UPSTREAM  # whose body it is

CHUNK_LIMIT = 2**63  # bytes: a size that a signed 64-bit integer cannot hold means something else to somebody
LINE_LIMIT = 4096  # bytes of one chunk extension or one trailer: far beyond any use seen
TRAILER_LIMIT = 8192  # bytes of all trailers: what most servers grant a whole head
TRAILER_LINES = 32  # trailers carry a digest or a status, not a head

SIZES = 4096  # size lines remembered: events have few lengths, and servers write in blocks of one

CRLF = b"\r\n"
sizes: dict[bytes, int] = {}  # plain size lines that were judged good, never of the last chunk
LAST_CHUNK = b"0\r\n\r\n"
size_line = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n").match
size_begins = re.compile(rb"[0-9A-Fa-f]{1,16}\r?").fullmatch
QUOTED = rb'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
extended_size_line = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[ \t]*[%(t)b]+(?:[ \t]*=[ \t]*(?:[%(t)b]+|%(q)b))?)+\r\n" % {b"t": TOKEN, b"q": QUOTED}
).match
extended_size_begins = re.compile(rb"[0-9A-Fa-f]{1,16}(?:[ \t]*(?:;[\t -~]*)?\r?)?").fullmatch
trailer_line = re.compile(rb"([%b]+):([%b]*)\r\n" % (TOKEN, TEXT)).match
trailer_begins = re.compile(rb"(?:[%b]+(?::[%b]*\r?)?|\r)" % (TOKEN, TEXT)).fullmatch


class FramingError(ProxyError):
    """A body broke its own framing: 400 for a client's, 502 for a server's."""

    def __init__(self, kind: str, side: Side) -> None:
        super().__init__(kind, side, 502 if side is Side.UPSTREAM else 400)


class LengthScanner:
    """A body of a length that is known from the start."""

    __slots__ = ("done", "left")
    between = False  # there is no place where anything could be added

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes, pieces: list[bytes] | None = None) -> int:
        """How many of these bytes belong to the body."""
        size, left = len(data), self.left
        if size < left:
            self.left = left - size
            if pieces is not None:
                pieces.append(data)
            return size
        self.left = 0
        self.done = True
        if pieces is not None and left:
            pieces.append(data[:left])
        return left


class UntilClose:
    """A body that ends with its connection: every byte belongs to it, and only the caller sees the end."""

    __slots__ = ()
    between = True
    done = False

    def feed(self, data: bytes, pieces: list[bytes] | None = None) -> int:
        """All of them."""
        if pieces is not None:
            pieces.append(data)
        return len(data)


class ChunkedScanner:
    """A body in chunks (RFC 9112 §7.1): size CRLF data CRLF … 0 CRLF, trailers, CRLF."""

    __slots__ = ("_barred", "_held", "_left", "_lines", "_side", "_trailing", "done", "trailers")

    def __init__(self, side: Side, barred: frozenset[bytes] = frozenset()) -> None:
        self._side = side
        self._barred = barred  # names, in lower case, that no trailer may have beside those that none has anywhere
        self._left = 0  # bytes of the present chunk still to come, its CRLF included
        self._held = b""  # the beginning of a line that was cut
        self._trailing = 0  # bytes left for trailers; 0 before the last chunk
        self._lines = 0
        self.trailers: list[tuple[bytes, bytes]] = []  # names in lower case; for whoever writes another framing
        self.done = False

    @property
    def between(self) -> bool:
        """Exactly between two chunks: one more could be put in here."""
        return not (self._left or self._held or self._trailing or self.done)

    def feed(self, data: bytes, pieces: list[bytes] | None = None, view: memoryview | None = None) -> int:
        """How many of these bytes belong to the body. With a `view` of the data, pieces are parts of that: nothing is copied."""
        size, left = len(data), self._left
        source: bytes = data if view is None else view  # type: ignore[assignment]  # both are cut and joined alike
        if left:
            if size <= left - 2:  # wholly inside one chunk
                self._left = left - size
                if pieces is not None:
                    pieces.append(source)
                return size
            at = self._end_chunk(data, left, pieces, source)
        elif self.done or not size:
            return 0
        elif self._held or self._trailing:
            return self._resume(data, pieces)
        else:
            if pieces is None:  # the common slice: exactly one whole chunk, with a size line that was judged before
                end = data.find(b"\r", 1, 9)
                if sizes.get(data[:end]) == size - end - 4 and data[-2:] == CRLF and data[end + 1] == 10:
                    return size
            at = 0
        while at != size:
            line = size_line(data, at) or self._odd_line(data, at)
            if line is None:
                return size
            length = int(line[1], 16)
            start = line.end()
            if length and start <= 10 and line[1] not in sizes:
                if len(sizes) >= SIZES:
                    sizes.clear()
                sizes[line[1]] = length
            if not length:
                return self._trailers(data, start)
            at = start + length + 2
            if at > size:
                self._begin_chunk(data, start, length, pieces, source)
                return size
            if data[at - 2 : at] != CRLF:
                raise FramingError("bad-chunk-end", self._side)
            if pieces is not None:
                pieces.append(source[start : at - 2])
        return size

    def whole_chunk(self, data: bytes) -> bytes | None:
        """The payload when `data` is exactly one chunk whose size line was judged before, as events mostly come; else None, and nothing was fed."""
        if self._left or self.done or self._held or self._trailing:
            return None
        end = data.find(b"\r", 1, 9)
        if sizes.get(data[:end]) == len(data) - end - 4 and data[-2:] == CRLF and data[end + 1] == 10:
            return data[end + 2 : -2]
        return None

    # -- a chunk that does not lie in one slice ------------------------------------------------------------------------------------------

    def _begin_chunk(self, data: bytes, start: int, length: int, pieces: list[bytes] | None, source: bytes) -> None:
        if length >= CHUNK_LIMIT:
            raise FramingError("bad-chunk-size", self._side)
        end = start + length
        if end < len(data) and data[end] != 13:
            raise FramingError("bad-chunk-end", self._side)
        if pieces is not None and start < len(data):
            pieces.append(source[start:end])
        self._left = end + 2 - len(data)

    def _end_chunk(self, data: bytes, left: int, pieces: list[bytes] | None, source: bytes) -> int:
        """The rest of a chunk and what is here of its CRLF. Returns where that stops."""
        at = left - 2 if left > 2 else 0
        wanted = CRLF if left >= 2 else b"\n"
        got = data[at : at + len(wanted)]
        if not wanted.startswith(got):
            raise FramingError("bad-chunk-end", self._side)
        if pieces is not None and at:
            pieces.append(source[:at])
        self._left = len(wanted) - len(got)
        return at + len(got)

    # -- lines that are cut, extended or wrong ---------------------------------------------------------------------------------------------

    def _resume(self, data: bytes, pieces: list[bytes] | None) -> int:
        """Put a cut line together and go on."""
        held, self._held = self._held, b""
        data = held + data
        used = self._trailers(data, 0) if self._trailing else self.feed(data, pieces)
        return used - len(held)

    def _odd_line(self, data: bytes, at: int) -> re.Match[bytes] | None:
        """No plain size line at `at`: one with extensions, one that is cut (None), or none at all."""
        begins = size_begins
        if self._side is RESPONSE:
            begins = extended_size_begins
            line = extended_size_line(data, at, at + LINE_LIMIT)
            if line is not None:
                return line
        if len(data) - at > LINE_LIMIT or not begins(data, at):
            raise FramingError("bad-chunk-size", self._side)
        self._held = data[at:]
        return None

    def _trailers(self, data: bytes, at: int) -> int:
        """After the last chunk: fields, then an empty line."""
        if not self._trailing:
            self._trailing = TRAILER_LIMIT
        while data[at : at + 2] != CRLF:
            line = trailer_line(data, at, at + LINE_LIMIT)
            if line is None:
                rest = data[at:]
                if len(rest) >= min(LINE_LIMIT, self._trailing) and rest != b"\r":
                    raise FramingError("trailers-too-large", self._side)
                if rest and not trailer_begins(rest):
                    raise FramingError("bad-trailer", self._side)
                self._held = rest
                return len(data)
            self._trailing -= line.end() - at
            self._lines += 1
            if self._trailing <= 0 or self._lines > TRAILER_LINES:
                raise FramingError("trailers-too-large", self._side)
            name = line[1].lower()
            if not may_be_trailer(name) or name in self._barred or (self._side is REQUEST and b"_" in name):
                raise FramingError("bad-trailer", self._side)
            self.trailers.append((name, line[2].strip(b" \t")))
            at = line.end()
        self.done = True
        return at + 2
