"""How much all calls weigh that are not answered yet: a client may leave before its answer is there, and its call goes on (gateway/legacy).

weight.room(caller, size)              # may this caller's call of so many bytes begin?
weight.carry(caller, size, task)       # it has: it weighs so much until the task ends
"""

from __future__ import annotations

import asyncio
from collections import Counter

MOST, MOST_OF_ONE = (
    256 * 1024 * 1024,
    128 * 1024 * 1024,
)  # bytes of all calls, and of one caller's. What is on its way to a server is there twice
OVERHEAD = 4096  # bytes of a call beside its message


class Weight:
    """Of all faces together."""

    __slots__ = ("of", "total")

    def __init__(self) -> None:
        self.total = 0
        self.of: Counter[str] = Counter()  # each caller's

    def room(self, caller: str, size: int) -> bool:
        """Is there any for one more?"""
        size += OVERHEAD
        return self.total + size <= MOST and self.of[caller] + size <= MOST_OF_ONE

    def carry(self, caller: str, size: int, task: asyncio.Task[None]) -> None:
        """Until `task` is done."""
        size += OVERHEAD
        self.total += size
        self.of[caller] += size
        task.add_done_callback(lambda _: self._over(caller, size))

    def _over(self, caller: str, size: int) -> None:
        self.total -= size
        self.of[caller] -= size
        if not self.of[caller]:
            del self.of[caller]
