"""What just happened, for somebody who looks: the last requests that were refused or failed, and how long the others took.

A batch of log rows is looked at when it is rendered (observe/accesslog), once. How long answers took is only noted while somebody asks: whoever stops
asking costs nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from math import log2
from typing import Any

import msgspec

from mcpproxy.clock import monotonic, wall_offset

KEPT = 256  # rows
WELL = frozenset({b"done", b"local", b"client-gone", b"stopped"})  # ends that nobody needs to look at
TOLD = ("method", "host", "path", "principal", "client", "status", "reason", "end", "upstream")
WATCHED_S = 5.0  # after the last question
PER_OCTAVE = 8  # of the histogram of durations: two neighbours differ by 9 %
SHORTEST_MS = 2.0**-7  # anything quicker is counted as this


def slot_of(ms: float) -> int:
    """The place of a duration in the histogram."""
    return round(log2(max(ms, SHORTEST_MS)) * PER_OCTAVE)


def quantile(histogram: dict[int, int], share: float) -> float | None:
    """Milliseconds that `share` of the durations did not exceed, to 5 %; None when there are none."""
    left: float = sum(histogram.values()) * share
    for slot in sorted(histogram):
        left -= histogram[slot]
        if left <= 0:
            return float(2.0 ** (slot / PER_OCTAVE))
    return None


class Recent:
    """Of one process."""

    __slots__ = ("_durations", "_until", "failed", "heard", "rows")

    def __init__(self) -> None:
        self.rows: deque[tuple[Any, ...]] = deque(maxlen=KEPT)
        self.heard = 0  # exchanges that are over
        self.failed = 0  # rows that were ever kept: their numbers count up to this
        self._durations: Counter[int] = Counter()
        self._until = 0.0

    def hear(self, rows: list[Any]) -> None:
        """Exchanges are over (rows of observe/accesslog)."""
        self.heard += len(rows)
        bad = [row for row in rows if row[11] not in WELL]
        if bad:
            self.rows.extend(bad)
            self.failed += len(bad)
        if self._until and monotonic() < self._until:
            self._durations.update(slot_of(((row[4] or row[5]) - row[3]) * 1000) for row in rows if row[11] == b"done")
        elif self._until:
            self._until = 0.0
            self._durations.clear()

    def durations(self) -> dict[int, int]:
        """Until the first byte of the answer, of those that ended since this was last asked."""
        found, self._durations = dict(self._durations), Counter()
        self._until = monotonic() + WATCHED_S
        return found

    def since(self, number: int, most: int = KEPT) -> list[dict[str, Any]]:
        """Refusals and failures after that `number`, the oldest first."""
        if not 0 <= number <= self.failed:
            number = 0
        newest = min(self.failed - number, len(self.rows), most)
        first = self.failed - newest
        return [{"number": first + place + 1, **_shown(row)} for place, row in enumerate(list(self.rows)[len(self.rows) - newest :])]


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    about, client, identity, began, _, ended, status, _, _, upstream, _, end, extra = row[:13]
    line = msgspec.json.decode(b'{%b,%b,"status":%d,"upstream":%b,"end":"%b"%b}' % (about, client, status, upstream, end, extra))
    shown = {name: line.get(name) for name in TOLD}
    shown["client"] = shown["client"] or line.get("proxy")
    return shown | {"time": round(ended + wall_offset(), 3), "id": identity.decode("latin-1"), "ms": round((ended - began) * 1000, 3)}
