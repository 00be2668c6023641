"""From rounds to a verdict: medians, ratios within a round, targets, one JSON file per work, one table on the screen."""

from __future__ import annotations

import datetime
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.lab import HERE, OURS
from benchmarks.works.base import Figures, Scale, Target, Work, of_rounds

RESULTS = HERE / "results"
NOISY = 0.08  # share of the proxy's core used by others in the worst round that a reader must be told of
LOAD_FULL = 0.95  # share of the load core from which on the load generator is the bottleneck


def verdict(work: Work, rounds: dict[str, list[Figures]]) -> dict[str, Any]:
    """All that follows from the rounds: one figure per contender, ratios within a round, targets."""
    measured = {name: figures for name, figures in rounds.items() if figures}
    return {
        "figures": {name: {key: round(together(key, figures), 4) for key in figures[0]} for name, figures in measured.items()},
        "ratios": {
            f"{figure} / {peer}": round(statistics.median(found), 3)
            for figure in work.shown
            for peer in measured
            if peer != OURS and (found := ratios(figure, rounds, peer))
        },
        "targets": judge(work, rounds),
    }


def together(figure: str, rounds: list[Figures]) -> float:
    return of_rounds(figure, [one[figure] for one in rounds])


def ratios(figure: str, rounds: dict[str, list[Figures]], peer: str) -> list[float]:
    """Ours to the peer's, round by round; empty when one of both was not measured or the peer's is nothing."""
    pairs = zip(rounds.get(OURS, []), rounds.get(peer, []), strict=False)
    return [mine[figure] / theirs[figure] for mine, theirs in pairs if theirs.get(figure)]


def judge(work: Work, rounds: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """One row per target. Without our own figures, or the peer's, there is nothing to judge."""
    return [row for target in work.targets if (row := _judge(target, rounds)) is not None]


def _judge(target: Target, rounds: dict[str, list[Figures]]) -> dict[str, Any] | None:
    values = ratios(target.figure, rounds, target.peer) if target.peer else [one[target.figure] for one in rounds.get(OURS, [])]
    if not values:
        return None
    value = of_rounds(target.figure, values)
    return {
        "figure": target.figure,
        "against": target.peer,
        "limit": target.limit,
        "value": round(value, 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
        "met": value <= target.limit,
    }


def save(work: Work, rounds: dict[str, list[Figures]], scale: Scale) -> Path:
    """benchmarks/results/<date>-<work>.json, with everything needed to repeat or doubt it."""
    now = datetime.datetime.now(datetime.UTC)
    report = {
        "work": work.name,
        "title": work.title,
        "note": work.note,
        "taken": now.isoformat(timespec="seconds"),
        "quick": scale.quick,
        "machine": machine.describe(),
        "command": work.command(),
        "shown": work.shown,
        **verdict(work, rounds),
        "rounds": rounds,
    }
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{now:%Y-%m-%d}-{work.name}{'-quick' if scale.quick else ''}.json"
    target.write_text(json.dumps(report, indent=1) + "\n")
    return target


def show(work: Work, rounds: dict[str, list[Figures]]) -> None:
    print(f"\n{work.name}: {work.title}")
    headings = list(work.shown.values())
    print("  " + "".ljust(10) + "".join(heading.rjust(max(14, len(heading) + 2)) for heading in headings))
    for name, figures in rounds.items():
        if figures:
            cells = [_number(together(figure, figures)).rjust(max(14, len(heading) + 2)) for figure, heading in work.shown.items()]
            print("  " + name.ljust(10) + "".join(cells))
    for row in judge(work, rounds):
        against, spread = f"{row['against']}'s" if row["against"] else "absolute", f"{row['lowest']:g} to {row['highest']:g}"
        said = "met" if row["met"] else "NOT MET"
        print(f"  {row['figure']}: {row['value']:g} [{spread}], target ≤ {row['limit']:g} ({against}): {said}")
    full = [
        name for name, figures in rounds.items() if figures and statistics.median(one.get("load_core", 0) for one in figures) > LOAD_FULL
    ]
    if full:
        print(
            f"  note: the load core was full with {', '.join(full)}: there requests/s are the load generator's; CPU per request is not touched by it"
        )
    noisy = [
        f"{name} {worst:.0%}" for name, figures in rounds.items() if figures and (worst := max(one["others"] for one in figures)) > NOISY
    ]
    if noisy:
        print(f"  note: others used the proxy's core during a round ({', '.join(noisy)}); measure again on a quiet machine")
    print(f"  ({work.note})")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
