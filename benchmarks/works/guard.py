"""Calls of somebody who must be known: what policies cost beside the peers' own, and what each of them costs.

Contenders run as conf/guard-* says. Every route of ours adds one thing to the one before, so all costs are taken in one process, in turns of a second.
"""

from __future__ import annotations

import statistics

from benchmarks import load
from benchmarks.lab import Lab, Proxy
from benchmarks.works.base import Alone, Figures, Scale, Target

STEPS = {  # route -> the route it is held against, and what it adds
    "key": ("plain", "API key"),
    "limit": ("key", "rate limit"),
    "headers": ("limit", "security headers"),
    "tools": ("headers", "tool rules with a look at the body"),
    "audit": ("tools", "audit log"),
    "jwt": ("headers", "JWT instead of the key"),
    "identity": ("headers", "signed identity for the server"),
}
TURN_S = 1.0


class Guarded:
    """Contenders are started so that callers must be known."""


class Calls(Guarded):
    shown = {"cpu_us": "CPU µs/request", "requests_s": "requests/s", "proxy_core": "proxy core", "load_core": "load core"}

    def __init__(self, name: str, path: str, title: str, limit: float, note: str) -> None:
        self.name, self.path, self.title, self.note, self._command = name, path, title, note, ""
        self.targets: tuple[Target, ...] = (Target("cpu_us", limit),)

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        shows = lab.callers.by_key
        load.calls(lab, proxy, tls=True, seconds=1, script="guard.lua", path=self.path, shows=shows)
        result = load.calls(lab, proxy, tls=True, seconds=scale.pick(5, 2), script="guard.lua", path=self.path, shows=shows)
        self._command = result.command
        return result.figures()

    def command(self) -> str:
        return self._command


class Costs(Guarded, Alone):
    """The peers have no such steps, or not one by one."""

    name = "guard_costs"
    title = "what each policy adds to a call over TLS"
    shown = {"plain": "CPU µs/request without", **{step: f"+ {what}" for step, (_, what) in STEPS.items()}}
    targets: tuple[Target, ...] = ()
    note = (
        "µs that a request costs more than without this one thing (the JWT: than with a key), everything before it being on; "
        "one process, all routes in turns of a second, medians of the turns"
    )

    def __init__(self) -> None:
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        turns = [{step: self._turn(lab, proxy, step) for step in ("plain", *STEPS)} for _ in range(round(scale.pick(3, 2)) + 1)]
        del turns[0]  # the process is warm now
        more = {step: statistics.median(turn[step] - turn[before] for turn in turns) for step, (before, _) in STEPS.items()}
        return {"plain": statistics.median(turn["plain"] for turn in turns), **more}

    def _turn(self, lab: Lab, proxy: Proxy, step: str) -> float:
        shows = lab.callers.by_token if step == "jwt" else lab.callers.by_key
        result = load.calls(lab, proxy, tls=True, seconds=TURN_S, script="guard.lua", path=f"/mcp/{step}", shows=shows)
        self._command = result.command
        return result.cpu_us

    def command(self) -> str:
        return self._command
