"""Which endpoint is next? Turns by weight, or the less busy of two.

Pure: a balancer is given those that live, with their weights, whenever that changes (`set`), and `next` is asked for each call. Who lives is
the pool's business (upstream/breaker, upstream/health).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from itertools import accumulate, cycle
from typing import Protocol

from mcpproxy.upstream.endpoint import Endpoint

Share = tuple[Endpoint, float]  # an endpoint and its weight, more than zero


class Balancer(Protocol):
    """Whose turn is it?"""

    def set(self, living: Sequence[Share]) -> None:
        """From now on these. `next` is another function then."""

    @property
    def next(self) -> Callable[[], Endpoint | None]:
        """Whose turn it is; None when nobody lives."""


def nobody() -> Endpoint | None:
    """Nobody lives."""
    return None


class RoundRobin:
    """HOT. In turn; with different weights by the earliest deadline: each turn sets an endpoint back by 1/weight, so that the turns of the heavy ones are
    spread between those of the others and never bunched."""

    __slots__ = ("_heap", "_sets", "next")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, float, Endpoint]] = []  # when it is due, a number that decides ties, 1/weight
        self._sets = -1
        self.next: Callable[[], Endpoint | None] = nobody  # with equal weights it is C's own round

    def set(self, living: Sequence[Share]) -> None:
        if len({weight for _, weight in living}) <= 1:
            self._heap = []
            self._sets += 1
            at = self._sets % len(living) if living else 0  # not always the first one after a change, which may come often
            endpoints = [endpoint for endpoint, _ in living]
            self.next = cycle(endpoints[at:] + endpoints[:at]).__next__ if living else nobody
            return
        before = {endpoint: (due, stride) for due, _, stride, endpoint in self._heap}
        start = min((due for due, _ in before.values()), default=0.0)
        heap = []
        for number, (endpoint, weight) in enumerate(living):
            stride = 1 / weight
            due, old = before.get(endpoint, (start + stride, stride))
            heap.append(((due - start) * stride / old, number, stride, endpoint))
        heapify(heap)
        self._heap = heap
        self.next = self._due

    def _due(self) -> Endpoint:
        heap = self._heap
        due, number, stride, endpoint = heap[0]
        heapreplace(heap, (due + stride, number, stride, endpoint))
        return endpoint


class LeastBusy:
    """The power of two choices: two are drawn by weight, the one with fewer leased links for its weight has it. Nobody is flooded by all who saw the
    same idlest one, and no list is sorted."""

    __slots__ = ("_cumulative", "_living", "_random", "_weights")

    def __init__(self, uniform: Callable[[], float] = random.random) -> None:
        self._random = uniform
        self._living: tuple[Endpoint, ...] = ()
        self._weights: tuple[float, ...] = ()
        self._cumulative: tuple[float, ...] = ()  # empty: all are equal

    def set(self, living: Sequence[Share]) -> None:
        self._living = tuple(endpoint for endpoint, _ in living)
        self._weights = tuple(weight for _, weight in living)
        self._cumulative = () if len(set(self._weights)) <= 1 else tuple(accumulate(self._weights))

    def next(self) -> Endpoint | None:
        living = self._living
        count = len(living)
        if count <= 1:
            return living[0] if living else None
        one = self._draw()
        other = self._draw()
        if other == one:
            other = (one + 1 + int(self._random() * (count - 1))) % count
        a, b = living[one], living[other]
        weights = self._weights
        return b if b.in_use * weights[one] < a.in_use * weights[other] else a

    def _draw(self) -> int:
        cumulative = self._cumulative
        if not cumulative:
            return int(self._random() * len(self._living))
        point = self._random() * cumulative[-1]
        for number, upto in enumerate(cumulative):
            if point < upto:
                return number
        return len(cumulative) - 1


BALANCERS: dict[str, Callable[[], Balancer]] = {"round-robin": RoundRobin, "least-busy": LeastBusy}
