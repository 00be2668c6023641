"""Lines of a stream, each of at most so many bytes: what is longer is passed over, and its two ends are kept.

lines = Lines(most=16 << 20)
for line in lines.feed(data): ...      # bytes, or Cut where one was too long
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ENDS = 512  # bytes kept of either end of a line that is too long

# Where an id stands that is the message's own: in front of everything else but the version, or behind it (TypeScript SDK).
_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*"?([0-9]{1,18})\b')
_LAST = re.compile(rb'"id"\s*:\s*"?([0-9]{1,18})"?\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


@dataclass(frozen=True, slots=True)
class Cut:
    """A line that was too long."""

    head: bytes
    tail: bytes
    size: int

    @property
    def id(self) -> bytes | None:
        """Of the request it seems to answer: a guess, good enough to end one call."""
        found = _FIRST.match(self.head) or _LAST.search(self.tail)
        return None if found is None else found.group(1)


class Lines:
    """Cuts a stream at its line ends. Empty lines are left out."""

    __slots__ = ("_head", "_most", "_parts", "_size", "_tail")

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._head = self._tail = b""

    def feed(self, data: bytes) -> list[bytes | Cut]:
        """The lines that end in `data`."""
        first, *rest = data.split(b"\n")
        found: list[bytes | Cut] = []
        self._keep(first)
        for part in rest:
            line = self._whole()
            if line.__class__ is Cut or line.strip():  # type: ignore[union-attr]
                found.append(line)
            self._keep(part)
        return found

    def _keep(self, part: bytes) -> None:
        if not part:
            return
        self._size += len(part)
        if self._size <= self._most:
            self._parts.append(part)
            return
        if self._parts or not self._head:
            self._head = (b"".join(self._parts) + part)[:ENDS]
            self._parts = []
        self._tail = (self._tail + part)[-ENDS:]

    def _whole(self) -> bytes | Cut:
        line = Cut(self._head, self._tail, self._size) if self._size > self._most else b"".join(self._parts)
        self._parts, self._size, self._head, self._tail = [], 0, b"", b""
        return line
