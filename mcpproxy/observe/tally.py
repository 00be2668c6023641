"""HOT. What the finished exchanges come to: how many, how they ended, how long they took.

Nothing is counted on an exchange's way. It leaves one row for the log anyway (observe/accesslog), and rows are counted in batches, when they are rendered.

    rows ──▶ Tally.count ──▶ cells, by (place, endpoint, status, end) ──▶ Sums ──▶ the line, once a tick ──▶ Sums of all workers (control/metrics)

 1. Names come from the configuration and from fixed lists (endings, reasons, statuses that mean something), never from a client, and of a server not
    more than the class of an odd status: memory is bounded by the configuration.
 2. `Sums` add up: of ticks, of workers, of what could not be sent and what came after. Nothing falls when a worker ends.
 3. What a row costs is measured: benchmarks/works/counting.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from http import HTTPStatus
from typing import Any

from mcpproxy.observe.accesslog import Place, RowTuple

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)  # seconds, of exchanges
LAGS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)  # seconds, of the loop
CLIENT_LEFT = 499  # in our rows, and in no list
STATUSES = frozenset(map(int, HTTPStatus)) | {CLIENT_LEFT}
reason_of = re.compile(rb',"reason":"([a-z0-9-]{1,64})"').search

SLOTS = len(BOUNDS) + 1
WHOLE, STREAMED, FIRST, CELL = (5 + times * SLOTS for times in range(4))
Times = list[float]  # sum, then how many up to each of the bounds and, last, beyond all of them
Cell = list[
    Any
]  # bytes in, bytes out; seconds: of those whose answer came whole, of others, to the first byte of these; and how many, in the same order
Key = tuple[str, ...]


def new_times(bounds: tuple[float, ...] = BOUNDS) -> Times:
    """Nothing yet."""
    return [0.0] + [0] * (len(bounds) + 1)


class Sums:
    """Numbers that only grow, by name and labels; made to be added to others of their kind."""

    __slots__ = ("numbers", "times")

    def __init__(self) -> None:
        self.numbers: dict[Key, float] = {}  # (name, label, …)
        self.times: dict[Key, Times] = {}  # histograms, likewise

    def count(self, *key: str, by: float) -> None:
        """One number grew."""
        if by:
            self.numbers[key] = self.numbers.get(key, 0) + by

    def spread(self, *key: str, by: Times) -> None:
        """One histogram grew."""
        if not any(by):
            return
        old = self.times.get(key)
        self.times[key] = list(by) if old is None else [one + other for one, other in zip(old, by, strict=True)]

    def message(self) -> dict[str, Any]:
        """As it goes over the line."""
        return {
            "numbers": [[*key, value] for key, value in self.numbers.items()],
            "times": [[*key, each] for key, each in self.times.items()],
        }

    def add(self, message: dict[str, Any]) -> None:
        """What another one said."""
        for *key, value in message["numbers"]:
            self.count(*key, by=value)
        for *key, times in message["times"]:
            self.spread(*key, by=times)

    def clear(self) -> None:
        """It was taken."""
        self.numbers.clear()
        self.times.clear()

    def __bool__(self) -> bool:
        return bool(self.numbers or self.times)


class Tally:
    """Of one worker. `count` is called with every batch of rows, `fold` once in a while.

    A cell has sums in front and histograms behind. Most answers are small and come whole: their first byte comes when they end, and one number says both.
    """

    __slots__ = ("_cells", "_reasons", "sums")

    def __init__(self) -> None:
        self.sums = Sums()  # what nobody has taken yet
        self._cells: dict[tuple[Place, bytes, int, bytes], Cell] = {}
        self._reasons: dict[tuple[Place, bytes], int] = {}

    def count(self, rows: list[RowTuple]) -> None:
        """These exchanges are over."""
        cells = self._cells
        for _, _, _, began, first, ended, status, bytes_in, bytes_out, upstream, _, end, extra, place in rows:
            key = (place, upstream, status, end)
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = [0] * CELL
            cell[0] += bytes_in
            cell[1] += bytes_out
            took = ended - began
            if first == ended:
                cell[2] += took
                cell[WHOLE + bisect_left(BOUNDS, took)] += 1
            else:
                cell[3] += took
                cell[STREAMED + bisect_left(BOUNDS, took)] += 1
                if first:
                    cell[4] += first - began
                    cell[FIRST + bisect_left(BOUNDS, first - began)] += 1
            if extra:
                self._reason(place, extra)

    def _reason(self, place: Place, extra: bytes) -> None:
        found = reason_of(extra)
        if found is not None:
            key = (place, found[1])
            self._reasons[key] = self._reasons.get(key, 0) + 1

    def fold(self) -> Sums:
        """What was counted since the last time, with names, added to what nobody has taken yet."""
        sums = self.sums
        for (place, quoted, code, end), cell in self._cells.items():
            where = (place.route, place.upstream, json.loads(quoted) or "")
            status = str(code) if code in STATUSES else f"{min(max(code // 100, 0), 9)}xx"
            whole, streamed, first = cell[WHOLE:STREAMED], cell[STREAMED:FIRST], cell[FIRST:]
            duration = [a + b for a, b in zip(whole, streamed, strict=True)]
            sums.count("requests", *where, status, end.decode(), by=sum(duration))
            sums.count("received", *where, by=cell[0])
            sums.count("sent", *where, by=cell[1])
            sums.spread("duration", place.route, by=[cell[2] + cell[3], *duration])
            sums.spread("first", place.route, by=[cell[2] + cell[4], *(a + b for a, b in zip(whole, first, strict=True))])
        for (place, slug), number in self._reasons.items():
            sums.count("refusals", place.route, slug.decode(), by=number)
        self._cells.clear()
        self._reasons.clear()
        return sums
