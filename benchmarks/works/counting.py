"""What it costs that exchanges are counted (observe/tally), and that a limit holds for all workers together. Ours alone.

Three daemons run at once and are asked in turns of a second, so all costs come from the same seconds: `bare` counts nothing, `counted` does, `shared` has two
workers and counts, too. A limit costs what one route of a daemon costs more than another; sharing it, what that is more with two workers than with one.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from benchmarks import load
from benchmarks.lab import Lab, Proxy
from benchmarks.works.base import Alone, Figures, Scale, Target

TURN_S = 1.0
LIMIT_US = 1.5  # per request, counting and sharing together


class Counting(Alone):
    name = "counting"
    title = "what counting adds to a call over TLS, and a limit that two workers share"
    shown = {
        "both_us": "counting and sharing, µs/request",
        "counters_us": "counting",
        "sharing_us": "sharing a limit",
        "limit_us": "the limit itself",
        "bare": "CPU µs/request without",
        "shared": "the same, two workers",
    }
    targets: tuple[Target, ...] = (Target("both_us", LIMIT_US, None),)
    note = (
        "medians of turns of a second; counting: a process that counts beside one that does not; limits: two routes of one daemon, one worker and two. "
        "CPU of all processes of the daemon, the control process included"
    )

    def __init__(self) -> None:
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        with ExitStack() as stack:
            bare, counted, shared = (
                stack.enter_context(
                    lab.variant("counting-", NAME=name, WORKERS=workers, ADMIN=f"unix:{lab.directory}/{name}.sock" if counts else "off")
                )
                for name, workers, counts in (("bare", 1, False), ("counted", 1, True), ("shared", 2, True))
            )
            turns = [self._turns(lab, bare, counted, shared) for _ in range(round(scale.pick(5, 3)) + 1)]
        del turns[0]  # all processes are warm now
        counters = statistics.median(turn["counted"] - turn["bare"] for turn in turns)
        limit = statistics.median(turn["limited"] - turn["counted"] for turn in turns)
        sharing = statistics.median(turn["shared_limited"] - turn["shared"] for turn in turns) - limit
        medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
        return {"both_us": counters + sharing, "counters_us": counters, "sharing_us": sharing, "limit_us": limit, **medians}

    def _turns(self, lab: Lab, bare: Proxy, counted: Proxy, shared: Proxy) -> Figures:
        return {
            "bare": self._turn(lab, bare, "/mcp"),
            "counted": self._turn(lab, counted, "/mcp"),
            "shared": self._turn(lab, shared, "/mcp"),
            "limited": self._turn(lab, counted, "/mcp/limited"),
            "shared_limited": self._turn(lab, shared, "/mcp/limited"),
        }

    def _turn(self, lab: Lab, proxy: Proxy, path: str) -> float:
        result = load.calls(lab, proxy, tls=True, seconds=TURN_S, path=path, pooled=False)
        self._command = result.command
        return result.cpu_us

    def command(self) -> str:
        return self._command
