"""Event streams (WHATWG HTML §9.2): what they say (`Events`), and where something may be put in (`EventBoundary`).

May a keep-alive comment be put in here? Only exactly between two events of an event stream. An event ends with an empty line; lines end with LF,
CRLF or CR (WHATWG HTML §9.2.5). Two bytes of the past decide, three with CRLF, so that is all that is kept. A CR at the very end may be half of a CRLF:
it counts as the end of an empty line only where the line before ended with a CR too. At the start of the stream nothing is open, so a comment may go
there (a stream that begins with a byte order mark after long silence would lose it to the comment; no MCP server sends one).
"""

from __future__ import annotations

from typing import NamedTuple

from mcpproxy.errors import ProxyError, Side

COMMENT = b":\n\n"
COMMENT_CHUNK = b"3\r\n:\n\n\r\n"  # the same as a chunk of its own
BOM = b"\xef\xbb\xbf"
RETRY_DIGITS = 8  # of milliseconds: a day
EMPTY_LINE = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")


class EventBoundary:
    """Watches the payload of an event stream."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\n\n"

    def feed(self, payload: bytes) -> None:
        """The next bytes of the stream, without framing."""
        self._tail = payload[-3:] if len(payload) >= 3 else (self._tail + payload)[-3:]

    @property
    def between(self) -> bool:
        """Does the stream so far end between two events?"""
        return self._tail.endswith(EMPTY_LINE)


class Event(NamedTuple):
    """One that was dispatched. `type` is empty where the stream named none ("message"); `id` is the last that was said, b"" for none."""

    type: bytes
    data: bytes
    id: bytes


class Events:
    """Takes a stream apart as it comes (WHATWG HTML §9.2.6), in any pieces. An event that did not come to its end is none, and its id does not count.

    No event may be larger than `most` bytes: then ProxyError("answer-too-large"), and what comes after it is not read.
    """

    __slots__ = ("_data", "_held", "_id", "_most", "_size", "_skip", "_started", "_type", "last_id", "retry")

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()  # of a line that is not all there
        self._skip = False  # the line before ended with CR: a LF at the beginning belongs to it
        self._started = False
        self._data: list[bytes] = []
        self._size = 0  # bytes of the present event's lines
        self._type = b""
        self._id = b""
        self.last_id = b""  # what Last-Event-ID tells when the stream goes on elsewhere
        self.retry: float | None = None  # seconds until then, if it said

    def feed(self, payload: bytes) -> list[Event]:
        """The next bytes, without framing. What events end in them?"""
        found: list[Event] = []
        held = self._held
        if held:
            held += payload
            payload = bytes(held) if self._ends(payload) else b""
            if not payload:
                self._bound(len(held))
                return found
            held.clear()
        at, size = 0, len(payload)
        if size and self._skip:
            self._skip = False
            at = payload[:1] == b"\n"
        if not self._started and size > at:
            if BOM.startswith(payload[at : at + 3]) and size - at < len(BOM):
                held += payload[at:]
                return found
            self._started = True
            at += len(BOM) if payload.startswith(BOM, at) else 0
        cr, lf = payload.find(b"\r", at), payload.find(b"\n", at)
        while cr >= 0 or lf >= 0:
            if lf < 0 or 0 <= cr < lf:
                end, after = cr, cr + 2 if lf == cr + 1 else cr + 1
                self._skip = after == size and lf < 0
            else:
                end, after = lf, lf + 1
            if end == at:
                self._dispatch(found)
            else:
                self._line(payload[at:end])
            at = after
            if 0 <= cr < at:
                cr = payload.find(b"\r", at)
            if 0 <= lf < at:
                lf = payload.find(b"\n", at)
        if at < size:
            held += payload[at:]
            self._bound(len(held))
        return found

    def _ends(self, payload: bytes) -> bool:
        return not self._started or b"\n" in payload or b"\r" in payload

    def _bound(self, held: int) -> None:
        if self._size + held > self._most:
            raise ProxyError("answer-too-large", Side.UPSTREAM, 502)

    def _line(self, line: bytes) -> None:
        if line[:1] == b":":
            return
        self._bound(len(line))
        name, _, value = line.partition(b":")
        if value[:1] == b" ":
            value = value[1:]
        if name == b"data":
            self._size += len(value) + 1
            self._data.append(value)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) <= RETRY_DIGITS:
            self.retry = int(value) / 1000

    def _dispatch(self, found: list[Event]) -> None:
        self.last_id = self._id
        if self._data:
            found.append(Event(self._type, b"\n".join(self._data), self._id))
            self._data = []
            self._size = 0
        self._type = b""
