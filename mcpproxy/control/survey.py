"""One look at everything, from what the workers answer (ops/answers): what `status`, `top` and the dashboard show.

While somebody looks (`watch`) there is one look a second, shared by all who do; what is per second is the difference between two looks. Nobody looks:
nobody is asked.
A control process that has just begun waits for workers that are on their way to it (ARRIVE_S), so nobody is called silent who is not.
A worker that died takes its numbers along, so rates never become negative: they are differences of each worker's own numbers.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Any

from mcpproxy import __version__
from mcpproxy.clock import monotonic, unix
from mcpproxy.control.switchboard import BROKEN, GATEWAY, Refused, Switchboard
from mcpproxy.control.web import Refusal, as_json
from mcpproxy.observe.recent import quantile

EVERY_S = 1.0
ASK_S = 1.5  # a worker that stands still for longer is shown as silent
ARRIVE_S = 2.0  # for workers to join a control process that has just begun; they come at once, or a second later (ops/line)
HISTORY = 180  # looks that a newcomer is shown
LONG_S = 60.0  # between two looks: what is per second of so long a time is nothing to show
REFUSALS = 100  # that are shown
VIEWERS = 32
NAMED = 20  # callers with open streams
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}

Look = dict[str, Any]


@dataclass(slots=True)
class Family:
    """What the supervisor told: replaced as it changes."""

    generation: int = 1
    pids: dict[int, int] = field(default_factory=dict)  # of workers, by their number
    count: int = 1  # workers there should be
    refused: str = ""  # what was wrong with the configuration when it was to be read again; nothing: it was taken


class Survey:
    """Made once."""

    def __init__(self, switchboard: Switchboard, family: Callable[[], Family], certificates: Callable[[], list[Look]]) -> None:
        self._switchboard, self._family, self._certificates = switchboard, family, certificates
        self._served: dict[tuple[int, int], int] = {}  # by worker and its process: requests at the last look
        self._refusals: deque[Look] = deque(maxlen=REFUSALS)
        self._heard: dict[tuple[int, int], int] = {}  # the number of its last refusal
        self._looked = -inf
        self._history: deque[Look] = deque(maxlen=HISTORY)
        self.viewers: set[asyncio.Queue[Look]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._newest: Look | None = None
        self._arrived = False

    async def look(self) -> Look:
        """How it goes, now: the last look, when it is fresh enough."""
        async with self._turn:
            if not self._arrived:
                await self._arrive()
            if self._newest is None or monotonic() - self._looked >= EVERY_S * 0.9:
                self._newest = await self._take()
            return self._newest

    def forget(self) -> None:
        """Something was changed: whoever asks now must see it."""
        self._newest = None

    async def _arrive(self) -> None:
        self._arrived = True
        with suppress(TimeoutError):
            async with asyncio.timeout(ARRIVE_S):
                while not self._family().pids.keys() <= self._switchboard.workers.keys():  # noqa: ASYNC110 - it ends soon, and once
                    await asyncio.sleep(0.02)

    async def _take(self) -> Look:
        pids = {number: peer.pid for number, peer in self._switchboard.workers.items()}
        news = {number: self._heard.get((number, pid), 0) for number, pid in pids.items()}
        asked = (self._switchboard.ask(number, "overview", {"after": after}, ASK_S) for number, after in news.items())
        said = await asyncio.gather(*asked, return_exceptions=True)
        answers: dict[int, Look] = {number: each for number, each in zip(news, said, strict=True) if isinstance(each, dict)}
        gateway: Look | None = None
        if self._switchboard.gateway is not None:
            with suppress(LookupError, TimeoutError, Refused):
                gateway = await self._switchboard.ask(GATEWAY, "overview", None, ASK_S)
        now = monotonic()
        took, self._looked = now - self._looked, now
        known, rate = self._served, 0
        self._served = {}
        for number, answer in answers.items():
            key = (number, pids[number])
            self._served[key] = answer["requests"]
            rate += max(0, answer["requests"] - known.get(key, answer["requests"]))
            self._heard[key] = answer["failed"]
            self._refusals.extend({**each, "worker": number} for each in answer["refusals"])
        self._heard = {key: value for key, value in self._heard.items() if key in self._served}
        family = self._family()
        look = {
            "time": round(unix(), 3),
            "version": __version__,
            "generation": family.generation,
            "pid": os.getppid(),  # the supervisor's: who is sent signals
            "refused": family.refused,
            "uptime_s": max((answer["uptime_s"] for answer in answers.values()), default=0),
            "workers": [
                self._worker(number, family.pids.get(number, pids.get(number)), answers.get(number))
                for number in sorted({*family.pids, *pids, *range(family.count)})
            ],
            "requests": sum(answer["requests"] for answer in answers.values()),
            "rate": round(rate / took, 2) if 0 < took < LONG_S else None,
            "connections": _sum(answers, "connections"),
            "latency": _latency(answers),
            "open": _open(answers),
            "upstreams": _upstreams(answers),
            "gateway": gateway,
            "refusals": list(reversed(sorted(self._refusals, key=lambda each: each["time"])[-50:])),
            "certificates": self._certificates(),
        }
        look["health"], look["problems"] = health(look)
        self._history.append({name: look[name] for name in ("time", "rate", "latency")} | {"streams": _streaming(look)})
        return look

    @staticmethod
    def _worker(number: int, pid: int | None, answer: Look | None) -> Look:
        if answer is None:
            return {"number": number, "pid": pid, "state": "missing" if pid is None else "silent"}
        state = "draining" if answer["draining"] else "serving"
        open_now = answer["connections"]["open"]
        return {
            "number": number,
            "pid": pid,
            "state": state,
            "uptime_s": answer["uptime_s"],
            "connections": open_now,
            "requests": answer["requests"],
        }

    # -- those who look on -------------------------------------------------------------------------------------------------------------------

    def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events: `history` once, then `look` every second. Who reads too slowly misses some. Raises Refusal when too many look."""
        if len(self.viewers) >= VIEWERS:
            raise Refusal(503, "too many are looking", (("Retry-After", "10"),))
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        mine: asyncio.Queue[Look] = asyncio.Queue(1)
        self.viewers.add(mine)
        try:
            if self._looking is None:
                self._history.clear()  # it has holes
                self._looking = asyncio.ensure_future(self._keep_looking())
            yield _event("history", list(self._history))
            while True:
                yield _event("look", await mine.get())
        finally:
            self.viewers.discard(mine)

    async def _keep_looking(self) -> None:
        while self.viewers:
            began = monotonic()
            with suppress(OSError, LookupError, ValueError):
                newest = await self.look()
                for each in self.viewers:
                    if each.full():
                        each.get_nowait()
                    each.put_nowait(newest)
            await asyncio.sleep(max(0.1, EVERY_S - (monotonic() - began)))
        self._looking = None

    async def stop(self) -> None:
        """Nobody looks any more."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


def health(look: Look) -> tuple[str, list[str]]:
    """`ok`, or `degraded` with what an operator should look at; `draining` when all end; `down` when nobody serves."""
    problems = [f"worker {each['number']} is {each['state']}" for each in look["workers"] if each["state"] not in ("serving", "draining")]
    if look["refused"]:
        problems.append(f"the last reload was refused: {look['refused']} (generation {look['generation']} goes on until one is taken)")
    for name, upstream in look["upstreams"].items():
        down = [each for each in upstream["endpoints"] if each["state"] not in ("up", "draining", "disabled")]
        if down:
            problems.append(f"upstream {name}: {len(down)} of {len(upstream['endpoints'])} endpoints not up")
    for name, member in (look["gateway"] or {"members": {}})["members"].items():
        if member.get("state") in BROKEN:
            problems.append(f"member {name} is {member['state']}: {member.get('last_error') or 'no reason known'}")
    problems += [
        f"certificate {', '.join(each['names'][:3])} has not come yet" + (f": {each['error']}" if each["error"] else "")
        for each in look["certificates"]
        if each["days"] is None
    ]
    soon = [each for each in look["certificates"] if each["days"] is not None and each["days"] < 14]
    problems += [
        f"certificate {', '.join(each['names'][:3])} " + ("has expired" if each["days"] < 0 else f"expires in {each['days']:.0f} days")
        for each in soon
    ]
    if not any(each["state"] in ("serving", "draining") for each in look["workers"]):
        return "down", problems
    if all(each["state"] == "draining" for each in look["workers"]):
        return "draining", problems
    return ("degraded" if problems else "ok"), problems


def _event(name: str, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), as_json(data).strip())


def _sum(answers: dict[int, Look], name: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for answer in answers.values():
        total.update(answer[name])
    return dict(total)


def _latency(answers: dict[int, Look]) -> Look:
    histogram: Counter[int] = Counter()
    for answer in answers.values():
        histogram.update({int(slot): number for slot, number in answer["durations"].items()})
    return {name: None if (found := quantile(histogram, share)) is None else round(found, 3) for name, share in QUANTILES.items()}


def _open(answers: dict[int, Look]) -> Look:
    kinds: Counter[str] = Counter()
    principals: Counter[str] = Counter()
    upstreams: Counter[str] = Counter()
    others = 0
    for answer in answers.values():
        kinds.update(answer["open"]["kinds"])
        principals.update(answer["open"]["principals"])
        upstreams.update(answer["open"]["upstreams"])
        others += answer["open"]["others"]
    named = principals.most_common(NAMED)
    return {
        "kinds": dict(kinds),
        "principals": [{"name": name, "streams": number} for name, number in named],
        "others": others + principals.total() - sum(number for _, number in named),
        "upstreams": [{"name": name, "streams": number} for name, number in upstreams.most_common()],
    }


def _streaming(look: Look) -> int:
    kinds = look["open"]["kinds"]
    return int(kinds.get("stream", 0) + kinds.get("tunnel", 0))


def _upstreams(answers: dict[int, Look]) -> dict[str, Look]:
    """The workers agree about endpoints' states, or will in a moment: the worst is shown. Counts are added."""
    found: dict[str, Look] = {}
    for answer in answers.values():
        for name, pool in answer["pools"].items():
            total = found.setdefault(name, {"in_use": 0, "waiting": 0, "endpoints": {}})
            total["in_use"] += pool["in_use"]
            total["waiting"] += pool["waiting"]
            for endpoint in pool["endpoints"]:
                one = total["endpoints"].setdefault(endpoint["label"], {**endpoint, "in_use": 0, "idle": 0})
                one["in_use"] += endpoint["in_use"]
                one["idle"] += endpoint["idle"]
                if one["state"] == "up":
                    one["state"], one["said"] = endpoint["state"], endpoint["said"]
    return {name: {**each, "endpoints": list(each["endpoints"].values())} for name, each in found.items()}
