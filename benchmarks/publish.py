"""Every figure that is printed in README.md and docs/performance.md comes from a result file: `python -m benchmarks publish`.

The newest full result of each work is drawn (chart.svg, chart-h2.svg) and written as tables between the figure markers of both pages.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import chart
from benchmarks.chart import ORDER, PANELS, readable
from benchmarks.report import RESULTS, verdict
from benchmarks.works import ALL
from benchmarks.works.guard import STEPS

README = RESULTS.parent.parent / "README.md"
PAGE = RESULTS.parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


def newest() -> dict[str, dict[str, Any]]:
    """The latest full result of each work, in the order of the works; what follows from its rounds is worked out anew."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        report = json.loads(path.read_text())
        if not report["quick"]:
            found[report["work"]] = report
    return {name: {**found[name], **verdict(ALL[name], found[name]["rounds"])} for name in ALL if name in found}


def table(reports: dict[str, dict[str, Any]]) -> str:
    lines = ["| what | mcpproxy | nginx | HAProxy |", "|---|--:|--:|--:|"]
    for work, figure, title, unit in PANELS:
        if work in reports:
            values = reports[work]["figures"]
            lines.append(
                f"| {title} ({unit}) | " + " | ".join(readable(values[name][figure]) if name in values else "–" for name in ORDER) + " |"
            )
    return "\n".join(lines)


def costs(reports: dict[str, dict[str, Any]]) -> str:
    """What each policy adds to a call, when it was measured."""
    if "guard_costs" not in reports:
        return ""
    mine = reports["guard_costs"]["figures"]["mcpproxy"]
    lines = [f"| what it adds to a call over TLS ({readable(mine['plain'])} µs without) | µs |", "|---|--:|"]
    return "\n".join([*lines, *(f"| {what} | {mine[step]:+.1f} |" for step, (_, what) in STEPS.items())]) + "\n\n"


def draw(reports: dict[str, dict[str, Any]]) -> None:
    for name, svg in chart.charts(reports).items():
        (RESULTS / name).write_text(svg)


def publish() -> int:
    """Chart, the README's table and the tables of docs/performance.md: every printed figure comes from a result file."""
    reports = newest()
    if not reports:
        print("no results yet: run the works first")
        return 1
    draw(reports)
    pictures = "\n\n".join(f"![{chart.CHARTS[name][0]}](benchmarks/results/{name})" for name in chart.charts(reports))
    short = f"{pictures}\n\n{table(reports)}\n\n{costs(reports)}{_where(reports)}; method and more in [docs/performance.md](docs/performance.md)."
    done = [_between(README, short), _between(PAGE, "\n\n".join([f"{_where(reports)}.", targets(reports), *map(_work, reports.values())]))]
    return 0 if all(done) else 1


def _where(reports: dict[str, dict[str, Any]]) -> str:
    machine = max(reports.values(), key=lambda report: str(report["taken"]))["machine"]
    return (
        f"Medians of interleaved rounds, {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, nginx {machine['nginx']}, HAProxy {machine['haproxy']}"
    )


def targets(reports: dict[str, dict[str, Any]]) -> str:
    lines = ["| work | figure | value | target | |", "|---|---|--:|--:|---|"]
    for report in reports.values():
        for row in report["targets"]:
            against = f" × {row['against']}" if row["against"] else ""
            verdict = "met" if row["met"] else "**not met**"
            lines.append(f"| {report['work']} | {row['figure']} | {row['value']:g}{against} | ≤ {row['limit']:g}{against} | {verdict} |")
    return "\n".join(lines)


def _work(report: dict[str, Any]) -> str:
    """One work with all its figures and how it was taken."""
    shown: dict[str, str] = report["shown"]
    names = [name for name in ORDER if name in report["figures"]]
    lines = [f"### {report['work']}: {report['title']}", "", "| | " + " | ".join(shown.values()) + " |", "|---|" + "--:|" * len(shown)]
    lines += ["| " + " | ".join([name, *(readable(report["figures"][name][figure]) for figure in shown)]) + " |" for name in names]
    rounds = len(next(iter(report["rounds"].values())))
    others = max(one["others"] for figures in report["rounds"].values() for one in figures)
    command = report["command"].replace("|", "\\|")
    note = report["note"][:1].upper() + report["note"][1:]
    when = report["taken"][:16].replace("T", " ")
    congestion = f", TCP {report['machine']['congestion']}" if "congestion" in report["machine"] else ""  # older results do not know
    lines += ["", f"{rounds} rounds, {when} UTC{congestion}, others took at most {others:.0%} of the proxy's core, `{command}`. {note}."]
    return "\n".join(lines)


def _between(page: Path, block: str) -> bool:
    before, marker, rest = page.read_text().partition(BEGIN)
    if not marker or END not in rest:
        print(f"{page.name} has no {BEGIN} and {END}; this would stand there:\n{block}\n")
        return False
    page.write_text(f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}")
    return True
