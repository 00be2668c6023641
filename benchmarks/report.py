"""From rounds to a verdict: medians, ratios within a round, targets, one JSON file per work, one table on the screen."""

from __future__ import annotations

import datetime
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.lab import HERE, OURS
from benchmarks.works.base import Figures, Scale, Target, Work

RESULTS = HERE / "results"
NOISY = 0.08  # share of the proxy's core used by others in the worst round that a reader must be told of
LOAD_FULL = 0.95  # share of the load core from which on the load generator is the bottleneck


def judge(work: Work, rounds: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """One row per target. Without our own figures there is nothing to judge."""
    if not rounds.get(OURS):
        return []
    return [row for target in work.targets if (row := _judge(target, rounds)) is not None]


def _judge(target: Target, rounds: dict[str, list[Figures]]) -> dict[str, Any] | None:
    ours = [figures[target.figure] for figures in rounds[OURS]]
    if target.peer is None:
        value = statistics.median(ours)
    elif rounds.get(target.peer):
        peer = [figures[target.figure] for figures in rounds[target.peer]]
        value = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    else:
        return None
    return {"figure": target.figure, "against": target.peer, "limit": target.limit, "value": round(value, 3), "met": value <= target.limit}


def save(work: Work, rounds: dict[str, list[Figures]], scale: Scale) -> Path:
    """benchmarks/results/<date>-<work>.json, with everything needed to repeat or doubt it."""
    now = datetime.datetime.now(datetime.UTC)
    medians = {
        name: {figure: statistics.median(one[figure] for one in figures) for figure in figures[0]}
        for name, figures in rounds.items()
        if figures
    }
    peers = [name for name in rounds if name != OURS and rounds[name]]
    ratios = {}
    if rounds.get(OURS):
        for figure in work.shown:
            for peer in peers:
                pairs = [
                    (mine[figure], theirs[figure]) for mine, theirs in zip(rounds[OURS], rounds[peer], strict=True) if theirs.get(figure)
                ]
                if pairs:
                    ratios[f"{figure} / {peer}"] = round(statistics.median(mine / theirs for mine, theirs in pairs), 3)
    report = {
        "work": work.name,
        "title": work.title,
        "note": work.note,
        "taken": now.isoformat(timespec="seconds"),
        "quick": scale.quick,
        "machine": machine.describe(),
        "command": work.command(),
        "shown": work.shown,
        "medians": {name: {figure: round(value, 4) for figure, value in figures.items()} for name, figures in medians.items()},
        "median_ratios": ratios,
        "targets": judge(work, rounds),
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
            cells = [
                _number(statistics.median(one[figure] for one in figures)).rjust(max(14, len(heading) + 2))
                for figure, heading in work.shown.items()
            ]
            print("  " + name.ljust(10) + "".join(cells))
    for row in judge(work, rounds):
        against = f"{row['against']}'s" if row["against"] else "absolute"
        spread = _spread(row, rounds)
        print(f"  {row['figure']}: {row['value']:g}{spread}, target ≤ {row['limit']:g} ({against}): {'met' if row['met'] else 'NOT MET'}")
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


def _spread(row: dict[str, Any], rounds: dict[str, list[Figures]]) -> str:
    if row["against"] is None or len(rounds[OURS]) < 2:
        return ""
    values = [mine[row["figure"]] / theirs[row["figure"]] for mine, theirs in zip(rounds[OURS], rounds[row["against"]], strict=True)]
    return f" [{min(values):.3f} to {max(values):.3f}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
