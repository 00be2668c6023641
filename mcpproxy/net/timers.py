"""When must somebody look at this connection again?

A wheel of half-second slots. The hot path never touches it: a connection stores *when it was last active* (one attribute), and the wheel asks
`due(now)` when the armed moment comes; the connection answers with its next deadline (most often: "later, I was active meanwhile") or None.

 1. A deadline fires late by at most one tick, never early.
 2. An item is in at most one slot; `disarm` and `arm` are O(1), so a closed connection is forgotten at once.
 3. A state with an *earlier* deadline than the armed one must call `arm` (or `at_most`); a later one need not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from mcpproxy.clock import clock
from mcpproxy.net.loop import EdgeLoop

TICK = 0.5  # seconds; every timeout of the configuration is a second or more, so half of that is exact enough
NOT_ARMED = 0


class Item(Protocol):
    """Something with deadlines. `wake` belongs to the wheel: the slot the item sits in, 0 when in none."""

    wake: int

    def due(self, now: float) -> float | None:
        """The armed moment has come: act, and return the next deadline (monotonic seconds) or None for never."""


class Wheel:
    """Slots of items, keyed by tick number."""

    __slots__ = ("_slots", "_tick", "broken")

    def __init__(self, now: float) -> None:
        self._slots: dict[int, set[Item]] = {}
        self._tick = int(now / TICK)
        self.broken: Callable[[Callable[..., object], Exception], None] | None = (
            None  # hears of a `due` that raised; the others are asked all the same
        )

    def arm(self, item: Item, deadline: float) -> None:
        """Ask `item` again at `deadline`, wherever it was armed before."""
        if item.wake:
            self.disarm(item)
        slot = max(int(deadline / TICK) + 1, self._tick + 1)
        item.wake = slot
        members = self._slots.get(slot)
        if members is None:
            self._slots[slot] = {item}
        else:
            members.add(item)

    def at_most(self, item: Item, deadline: float) -> None:
        """Ask `item` at `deadline` unless it is asked earlier anyway."""
        if not item.wake or item.wake > int(deadline / TICK) + 1:
            self.arm(item, deadline)

    def disarm(self, item: Item) -> None:
        """Forget `item`."""
        slot, item.wake = item.wake, NOT_ARMED
        members = self._slots.get(slot)
        if members is not None:
            members.discard(item)
            if not members:
                del self._slots[slot]

    def turn(self, now: float) -> None:
        """Ask every item whose moment has come."""
        target = int(now / TICK)
        if target - self._tick > len(self._slots):  # the process slept (suspend, SIGSTOP): do not step through empty slots one by one
            due = sorted(slot for slot in self._slots if slot <= target)
        else:
            due = [slot for slot in range(self._tick + 1, target + 1) if slot in self._slots]
        self._tick = target
        for slot in due:
            for item in tuple(self._slots.pop(slot, ())):
                if item.wake != slot:  # closed or moved by a neighbour's `due` in this very turn
                    continue
                item.wake = NOT_ARMED
                try:
                    deadline = item.due(now)
                except Exception as error:
                    if self.broken is None:
                        raise
                    self.broken(item.due, error)
                    continue
                if deadline is not None:
                    self.arm(item, deadline)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))


class Ticker:
    """The one timer handle of the process: moves the coarse clock, turns the wheel, then runs the chores (pools, logs)."""

    def __init__(self, loop: EdgeLoop, wheel: Wheel, chores: list[Callable[[float], None]]) -> None:
        self._loop, self._wheel, self._chores = loop, wheel, chores
        self._handle: asyncio.TimerHandle | None = None
        wheel.broken = partial(loop.broken, "a deadline raised")

    def add(self, chore: Callable[[float], None]) -> None:
        """One more, behind the others."""
        self._chores.append(chore)

    def start(self) -> None:
        """Tick now and every TICK seconds from now on."""
        self._handle = self._loop.call_later(TICK, self.start)
        now = clock.tick()
        self._wheel.turn(now)
        for chore in self._chores:
            chore(now)

    def stop(self) -> None:
        """No more ticks."""
        if self._handle is not None:
            self._handle.cancel()
