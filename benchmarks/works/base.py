"""What a work is, and what a target says."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Protocol

from benchmarks.lab import Lab, Proxy

Figures = dict[str, float]
WORST_COUNTS = frozenset({"growth_mib", "down_growth_mib", "up_growth_mib", "heads"})  # a leak in one round is a leak; all else: the median


def of_rounds(figure: str, values: list[float]) -> float:
    """What the rounds say together."""
    return max(values) if figure in WORST_COUNTS else statistics.median(values)


@dataclass(frozen=True, slots=True)
class Target:
    """Our `figure` must be at most `limit`: of the peer's in the same round, or as it is when `peer` is None."""

    figure: str
    limit: float
    peer: str | None = "nginx"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: full, or quick for a first look."""

    quick: bool
    rounds: int

    def pick(self, full: float, quick: float) -> float:
        return quick if self.quick else full


class Alone:
    """Only we are measured: the peers have no such thing."""


class Work(Protocol):
    name: str
    title: str
    shown: dict[str, str]  # figure -> heading with unit, in the order of the table; the first one is drawn in the chart
    targets: tuple[Target, ...]
    note: str  # what a reader must know to judge the figures

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None: ...

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures: ...

    def command(self) -> str: ...
