"""Event streams: what one costs while silent, what an event costs, and whether the silent ones make their neighbours dearer."""

from __future__ import annotations

import http.client
import json
import statistics
import time

from benchmarks import load
from benchmarks.lab import Lab, Proxy
from benchmarks.load import BadRun
from benchmarks.streams import held
from benchmarks.works.base import Figures, Scale, Target

STREAMS = 2000
RATE = 5  # events a second on each stream
NEIGHBOURS = 5000
SETTLE_S = 1.0  # lets the last handshakes' allocations come to rest


def events_sent(lab: Lab) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", lab.origin, timeout=10)
    connection.request("GET", "/count")
    sent = json.loads(connection.getresponse().read())
    connection.close()
    return int(sent)


def warm(lab: Lab, proxy: Proxy, *, h2: bool) -> None:
    """Code and pools are in place before memory is counted."""
    with held(proxy.tls, 8, "/sse", h2=h2):
        pass
    load.calls(lab, proxy, tls=True, seconds=1)


class Idle:
    shown = {"rss_kib": "RSS KiB/stream", "cpu_ms_s": "idle CPU ms/s", "rss_mib": "RSS MiB with all"}
    note = "RSS of all the proxy's processes with the streams open, less RSS before they were opened"

    def __init__(self, name: str, title: str, limit: float, *, h2: bool = False) -> None:
        self.name, self.title, self.h2 = name, f"{STREAMS:,} idle {title}", h2
        self.targets: tuple[Target, ...] = (Target("rss_kib", limit),)

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        warm(lab, proxy, h2=self.h2)
        before = proxy.rss_kib()
        with held(proxy.tls, STREAMS, "/sse", h2=self.h2) as client:
            time.sleep(SETTLE_S)
            after, cpu, began = proxy.rss_kib(), proxy.cpu_ns(), time.monotonic()
            time.sleep(scale.pick(5, 2))
            idle = (proxy.cpu_ns() - cpu) / 1e6 / (time.monotonic() - began)
            client.events()
        return {"rss_kib": (after - before) / STREAMS, "cpu_ms_s": idle, "rss_mib": after / 1024}

    def command(self) -> str:
        return f"python -m benchmarks.streams PORT {STREAMS} /sse{' h2' * self.h2}"


class Events:
    shown = {"cpu_us": "CPU µs/event", "events_s": "events/s", "proxy_core": "proxy core"}
    targets: tuple[Target, ...] = (Target("cpu_us", 1.0),)
    note = "events are spread evenly over the second; received must equal sent within 1 %"

    def __init__(self, name: str, title: str, *, h2: bool = False) -> None:
        self.name, self.title, self.h2 = name, f"{STREAMS:,} {title}, {RATE} events/s each", h2

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        with held(proxy.tls, STREAMS, f"/sse?rate={RATE}", h2=self.h2) as client:
            time.sleep(SETTLE_S)
            seen, sent, cpu, began = client.events(), events_sent(lab), proxy.cpu_ns(), time.monotonic()
            time.sleep(scale.pick(8, 3))
            seen, sent, cpu, took = client.events() - seen, events_sent(lab) - sent, proxy.cpu_ns() - cpu, time.monotonic() - began
        if abs(seen - sent) > sent / 100:
            raise BadRun(f"{proxy.name}: {sent} events were sent, {seen} arrived")
        return {"cpu_us": cpu / 1000 / seen, "events_s": seen / took, "proxy_core": cpu / 1e9 / took}

    def command(self) -> str:
        return f"python -m benchmarks.streams PORT {STREAMS} '/sse?rate={RATE}'{' h2' * self.h2}"


class Neighbours:
    name = "idle_neighbours"
    title = f"calls (as post_tls) with {NEIGHBOURS:,} idle TLS streams open beside them"
    shown = {"ratio": "with / without", "cpu_us": "CPU µs/request with", "before_us": "without (before)", "after_us": "without (after)"}
    targets: tuple[Target, ...] = (Target("ratio", 1.05, None),)
    note = "without, with, without again, all in one process; 'without' is the mean of both"

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        seconds = scale.pick(5, 2)
        load.calls(lab, proxy, tls=True, seconds=1)
        first = load.calls(lab, proxy, tls=True, seconds=seconds).cpu_us
        with held(proxy.tls, NEIGHBOURS, "/sse") as client:
            time.sleep(SETTLE_S)
            beside = load.calls(lab, proxy, tls=True, seconds=seconds).cpu_us
            client.events()
        time.sleep(2 * SETTLE_S)  # 5 000 streams are being buried
        again = load.calls(lab, proxy, tls=True, seconds=seconds).cpu_us
        return {"ratio": beside / statistics.mean((first, again)), "cpu_us": beside, "before_us": first, "after_us": again}

    def command(self) -> str:
        return f"python -m benchmarks.streams PORT {NEIGHBOURS} /sse; wrk as in post_tls"
