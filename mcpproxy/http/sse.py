"""May a keep-alive comment be put in here? Only exactly between two events of an event stream.

An event ends with an empty line; lines end with LF, CRLF or CR (WHATWG HTML §9.2.5). Two bytes of the past decide, three with CRLF, so that is all
that is kept. A CR at the very end may be half of a CRLF: it counts as the end of an empty line only where the line before ended with a CR too.
At the start of the stream nothing is open, so a comment may go there (a stream that begins with a byte order mark after long silence would
lose it to the comment; no MCP server sends one).
"""

from __future__ import annotations

COMMENT = b":\n\n"
COMMENT_CHUNK = b"3\r\n:\n\n\r\n"  # the same as a chunk of its own
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
