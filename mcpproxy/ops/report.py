"""What a worker tells control: what was counted, once a tick; how things stand, now and then and whenever control asks.

    "tally"     {"from": us, "number": n, "sums": …}: Sums since the last time (observe/tally). What the line does not take is kept, and grows on; what it took
                is kept until control says "tallied" n, and said again to whoever is there after the line was lost. Control counts each number once.
    "gauges"    what is true now, every GAUGES seconds; also the answer to "flush", which sends the counts first: on one line they arrive first, too

The figures are those of `ops/counts`, which a signal writes down as well. Numbers that the process counts from its start on are told as what was added.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Any

from mcpproxy.assemble import Runtime
from mcpproxy.clock import clock, monotonic
from mcpproxy.net.timers import TICK
from mcpproxy.observe.tally import LAGS, Tally, new_times
from mcpproxy.ops.counts import counts, exchanges

GAUGES = 5.0  # seconds
TOLD = ("endpoint", "state", "breaker", "alive", "in_use", "idle")  # of a pool's snapshot
SPANS = 512  # in one message
UNHEARD = 8  # messages that may wait for their "tallied"; then no more are made, and the sums grow on
PAGE = os.sysconf("SC_PAGE_SIZE")
GROWING = {  # of `counts`: what only grows, and the labels it has
    ("connections", "accepted"): ("accepted",),
    ("connections", "turned_away"): ("turned_away",),
    ("connections", "handshakes_failed"): ("handshakes_failed",),
    ("new_request_heads", "filled"): ("heads", "request", "filled"),
    ("new_request_heads", "judged"): ("heads", "request", "judged"),
    ("new_response_heads", "filled"): ("heads", "response", "filled"),
    ("new_response_heads", "judged"): ("heads", "response", "judged"),
    ("failed_credentials", "verified"): ("failed_credentials", "verified"),
    ("failed_credentials", "unseen"): ("failed_credentials", "unseen"),
    ("audit", "lost"): ("audit_lost",),
    ("audit", "warnings"): ("audit_warnings",),
    ("log_lines_lost",): ("log_lines_lost",),
}


class Report:
    """Of one worker. `say(topic, data)` is the line's: False when nothing was taken."""

    def __init__(self, runtime: Runtime, say: Callable[[str, Any], bool]) -> None:
        self._runtime, self._say = runtime, say
        self.tally = Tally()
        self._us = secrets.token_hex(8)  # another worker may get our number, and the kernel's number for us as well
        self._number = 0
        self._unheard: deque[tuple[int, dict[str, Any]]] = deque()
        runtime.log.hears.append(self.tally.count)
        self._before: dict[tuple[str, ...], int] = {}  # what was told of the numbers that grow
        self._ticked = 0.0  # when the last tick came
        self._lags = new_times(LAGS)
        self._worst = 0.0  # lag since gauges were last told
        self._rest = 1  # ticks until gauges are due

    def tick(self, now: float) -> None:
        """A chore of the ticker, called when the tick comes."""
        if self._ticked:
            lag = max(0.0, now - self._ticked - TICK)
            self._lags[0] += lag
            self._lags[bisect_left(LAGS, lag) + 1] += 1
            self._worst = max(self._worst, lag)
        self._ticked = now
        self._rest -= 1
        if self._rest <= 0:
            self._rest = ceil(GAUGES / TICK)
            self._say("gauges", self.flush())
        else:
            self._tell()

    def flush(self, _: Any = None) -> dict[str, Any]:
        """Everything that ended until now is counted and on its way; returns how things stand."""
        self._runtime.log.tick()
        known = counts(self._runtime)
        self._grown(known)
        self._tell()
        worst, self._worst = self._worst, 0.0
        return gauges(self._runtime, known, worst)

    def _grown(self, known: dict[str, Any]) -> None:
        sums = self.tally.sums
        for path, key in GROWING.items():
            value: Any = known
            for step in path:
                value = value[step] if value is not None else None
            if value is not None:
                self._grew(key, value)
        for name, pool in self._runtime.pools.items():
            for endpoint in pool.endpoints:
                self._grew(("endpoint_failures", name, endpoint.label), endpoint.failures)
        sums.spread("lag", by=self._lags)
        self._lags = new_times(LAGS)

    def _grew(self, key: tuple[str, ...], value: int) -> None:
        self.tally.sums.count(*key, by=max(0, value - self._before.get(key, 0)))
        self._before[key] = value  # where something was given up with what it had counted, it begins anew

    def _tell(self) -> None:
        tracer = self._runtime.offices.tracer
        if tracer is not None:
            self.tally.sums.count("spans", "dropped", by=tracer.dropped)
            tracer.dropped = 0
            while tracer.spans and self._say("spans", tracer.spans[:SPANS]):
                del tracer.spans[:SPANS]
        sums = self.tally.fold()
        if sums and len(self._unheard) < UNHEARD:
            message = {"from": self._us, "number": self._number + 1, "sums": sums.message()}
            if self._say("tally", message):
                self._number += 1
                self._unheard.append((self._number, message))
                sums.clear()

    def last_words(self) -> None:
        """The process ends, and its last rows are rendered."""
        self._grown(counts(self._runtime))
        self._tell()

    def tallied(self, number: int) -> None:
        """Control has counted all messages up to this one."""
        while self._unheard and self._unheard[0][0] <= number:
            self._unheard.popleft()

    def joined(self) -> None:
        """There is a line again: whoever is at its other end may not have heard the last words."""
        for _, message in self._unheard:
            self._say("tally", message)


def gauges(runtime: Runtime, known: dict[str, Any], worst_lag_s: float) -> dict[str, Any]:
    """How things stand in this process."""
    open_now = exchanges(runtime)
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * PAGE
    return {
        "connections": known["connections"]["open"],
        "exchanges": open_now,
        "heads": {"request": known["new_request_heads"]["kept"], "response": known["new_response_heads"]["kept"]},
        "upstreams": {
            name: {"waiting": len(pool.waiting), "endpoints": [{key: each[key] for key in TOLD} for each in pool.group.snapshot()]}
            for name, pool in runtime.pools.items()
        },
        "audit_blocked": bool(known["audit"] and known["audit"]["blocked"]),
        "lag_s": round(worst_lag_s, 6),
        "rss": resident,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "began": round(clock.wall - (monotonic() - runtime.began), 3),
    }
