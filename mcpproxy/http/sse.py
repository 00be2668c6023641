"""Is this moment between two events? (WHATWG HTML, server-sent events: an event ends with an empty line; lines end with CR, LF or CRLF.)

Only then a comment may be put into a silent stream. The watcher keeps the last three bytes of the payload and changes nothing.
"""

from __future__ import annotations

COMMENT = b":\n\n"  # ignored by every client, and a whole "event" by itself, so the stream is between events afterwards too
COMMENT_CHUNK = b"3\r\n:\n\n\r\n"
ENDS = (b"\n\n", b"\r\r", b"\n\r\n", b"\r\r\n")


class EventBoundary:
    """Fed with every byte of a stream's payload, knows whether an event is open."""

    __slots__ = ("_tail", "between")

    def __init__(self) -> None:
        self._tail = b""
        self.between = True  # nothing sent yet: no event is open

    def feed(self, payload: bytes) -> None:
        """More of the stream passed."""
        if payload:
            self._tail = tail = (self._tail + payload[-3:])[-3:]
            self.between = tail.endswith(ENDS)
