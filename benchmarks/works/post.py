"""Calls one after another on 64 connections: the same head again and again, or never the same head twice."""

from __future__ import annotations

from benchmarks import load
from benchmarks.lab import OURS, Lab, Proxy
from benchmarks.works.base import Figures, Scale, Target

DISTINCT_HEADS = 1_000_000
DISTINCT_HEADS_QUICK = 100_000


class Post:
    shown = {"cpu_us": "CPU µs/request", "requests_s": "requests/s", "proxy_core": "proxy core", "load_core": "load core"}
    targets: tuple[Target, ...] = (Target("cpu_us", 1.0),)
    note = "closed loop; where 'load core' is near 1 the requests/s are the load generator's, not the proxy's"

    def __init__(self, name: str, title: str, *, tls: bool) -> None:
        self.name, self.title, self.tls, self._command = name, title, tls, ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        load.calls(lab, proxy, tls=self.tls, seconds=1)
        result = load.calls(lab, proxy, tls=self.tls, seconds=scale.pick(5, 2))
        self._command = result.command
        return result.figures()

    def command(self) -> str:
        return self._command


class Misses:
    """Every head is new to the proxy: nothing remembered helps, and nothing may be remembered for ever."""

    name = "misses"
    title = "plan misses only: every head different, TLS"
    shown = {"cpu_us": "CPU µs/request", "growth_mib": "RSS growth MiB", "heads": "distinct heads", "rss_mib": "RSS MiB at the end"}
    targets: tuple[Target, ...] = (Target("cpu_us", 100.0, None), Target("growth_mib", 2.0, None))
    note = (
        "growth: from the end of the first slice (stores are full by then) to the last of the distinct heads; "
        "the long run is made in the first round, and by us alone"
    )

    def __init__(self) -> None:
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        seconds = scale.pick(5, 2)
        first = load.calls(lab, proxy, tls=True, seconds=seconds, script="misses.lua", seed=f"{proxy.name}-{round_number}-0")
        self._command = first.command
        before, heads, slices = proxy.rss_kib(), first.requests, 0
        wanted = scale.pick(DISTINCT_HEADS, DISTINCT_HEADS_QUICK) if round_number == 0 and proxy.name == OURS else 0
        results: list[load.Calls] = []
        while not results or heads < wanted:
            slices += 1
            results.append(
                load.calls(lab, proxy, tls=True, seconds=seconds, script="misses.lua", seed=f"{proxy.name}-{round_number}-{slices}")
            )
            heads += results[-1].requests
        after = proxy.rss_kib()
        done = sum(result.requests for result in results)
        cpu = sum(result.cpu_us * result.requests for result in results) / done
        return {"cpu_us": cpu, "growth_mib": (after - before) / 1024, "heads": heads, "rss_mib": after / 1024}

    def command(self) -> str:
        return self._command
