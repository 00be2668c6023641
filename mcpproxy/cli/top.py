"""mcpproxy top: the dashboard in a terminal, once a second until `q`; piped, once."""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpproxy.cli.adminclient import admin_option, config_option, find
from mcpproxy.cli.options import EXAMPLE
from mcpproxy.cli.status import plain

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_S = 1.0
BLOCKS = "▁▂▃▄▅▆▇█"
KEPT = 60  # looks in the little chart
QUIT = frozenset(b"qQ\x03\x1b")


@click.command(epilog=EXAMPLE("mcpproxy top", "mcpproxy top | head -20"))
@config_option
@admin_option
def command(config: Path | None, admin: str | None) -> int:
    """Requests, latencies, streams, endpoints and refusals, live. `q` ends it."""
    from rich.console import Console

    client = find(config, admin)
    console = Console()
    rates: deque[float] = deque(maxlen=KEPT)
    look = client.get("status")
    if not (console.is_terminal and sys.stdin.isatty()):
        console.print(screen(look, rates))
        return 0
    from rich.live import Live

    with keys() as pressed, Live(screen(look, rates), console=console, screen=True, auto_refresh=False) as live:
        while not pressed(EVERY_S):
            look = client.get("status")
            rates.append(look["rate"] or 0.0)
            live.update(screen(look, rates, console.height), refresh=True)
    return 0


@contextmanager
def keys() -> Iterator[Any]:
    """A function that waits, and says whether somebody wants to leave."""
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)

    def pressed(wait_s: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], wait_s)
        return bool(readable) and not QUIT.isdisjoint(os.read(sys.stdin.fileno(), 64) or QUIT)  # past any buffer: select sees none of that

    try:
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def screen(look: dict[str, Any], rates: deque[float], height: int = 0) -> RenderableType:
    """Everything; of refusals as many as there is room for."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from mcpproxy.units import show_duration

    colour = {"ok": "green", "degraded": "yellow", "draining": "yellow"}.get(look["health"], "red")
    kinds, latency = look["open"]["kinds"], look["latency"]
    streams = kinds.get("stream", 0) + kinds.get("tunnel", 0)
    head = Text.assemble(
        ("mcpproxy ", "bold"),
        look["version"],
        "  ",
        (look["health"], colour),
        f"  up {show_duration(float(look['uptime_s']))}  generation {look['generation']}",
    )
    waits = "  ".join(f"{name[:3]} {_ms(latency[name])}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    numbers = Text(
        f"{look['rate'] or 0:.1f} requests/s {chart(rates)}   {waits}   {streams} streams, {look['connections'].get('open', 0)} connections"
    )

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, header_style="dim")
        for column in columns:
            made.add_column(column.strip(">"), justify="right" if column.startswith(">") else "left", overflow="ellipsis", no_wrap=True)
        return made

    workers = table("worker", "process", "state", ">connections", ">requests")
    for each in look["workers"]:
        workers.add_row(*map(_cell, (each["number"], each["pid"], each["state"], each.get("connections"), each.get("requests"))))
    endpoints = table("upstream", "endpoint", "state", ">in use", ">idle")
    for name, pool in look["upstreams"].items():
        for each in pool["endpoints"]:
            endpoints.add_row(*map(_cell, (name, each["label"], each["state"], each.get("in_use"), each.get("idle"))))
    callers = table("caller", ">streams")
    for each in look["open"]["principals"][:8]:
        callers.add_row(_cell(each["name"] or "(nobody is named)"), _cell(each["streams"]))
    used = 12 + sum(made.row_count + 3 for made in (workers, endpoints, callers))
    refusals = table("refused or failed", ">status", "caller", "request")
    for each in look["refusals"][: max(3, height - used) if height else 10]:
        who = " ".join(str(part) for part in (each["principal"], each["client"]) if part)
        refusals.add_row(*map(_cell, (each["reason"] or each["end"], each["status"], who, f"{each['method'] or ''} {each['path'] or ''}")))
    problems = [Text(f"! {plain(problem)}", style="yellow") for problem in look["problems"]]
    shown = [made for made in (workers, endpoints, callers, refusals) if made.row_count]
    return Group(head, numbers, *problems, *shown)


def chart(rates: deque[float]) -> str:
    """The last minute in one line."""
    most = max(rates, default=0.0) or 1.0
    return "".join(BLOCKS[min(7, int(rate / most * 7.99))] for rate in rates)


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"


def _cell(value: object) -> Any:
    from rich.text import Text

    return Text("" if value is None else plain(str(value)))  # as Text: names are no markup
