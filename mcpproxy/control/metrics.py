"""Metrics for Prometheus: what all workers counted since this process began, and how things stand in each of them.

    worker ── "tally" (what was added) ──▶ Sums of all, for good: nothing falls when a worker dies
    worker ── "gauges" (what is true) ───▶ of each worker; gone when it goes

Every metric is in METRICS, with its labels and its sentence; docs/operations.md has the same table (a test compares). A scrape asks the workers first, so it
shows every exchange that ended before. When this process itself is replaced its counters begin at zero, which Prometheus knows how to read.
"""

from __future__ import annotations

import asyncio
import platform
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mcpproxy import __version__
from mcpproxy.control.switchboard import BROKEN, GATEWAY, Refused
from mcpproxy.observe.tally import BOUNDS, LAGS, Sums
from mcpproxy.upstream.breaker import CLOSED, HALF_OPEN, OPEN
from mcpproxy.upstream.endpoint import STATES

TOGETHER_S = 0.02  # that a scrape waits for others
FLUSH_S = 0.5  # for workers to say what they counted; one that stands still must not hold up a scrape
BREAKERS = (CLOSED, OPEN, HALF_OPEN)
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Known:
    """A metric. Counters are listed as they are exposed, with their `_total`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    about: str


WHERE = ("route", "upstream", "endpoint")
METRICS = (
    Known(
        "requests_total",
        COUNTER,
        (*WHERE, "status", "end"),
        "Exchanges that are over, by route, where they went, status and how they ended.",
    ),
    Known("request_duration_seconds", HISTOGRAM, ("route",), "From the request's head to the end of the exchange; a stream's whole life."),
    Known("request_first_byte_seconds", HISTOGRAM, ("route",), "From the request's head to the first byte of the server's response."),
    Known("received_bytes_total", COUNTER, WHERE, "Bytes of requests, before TLS, counted when their exchange is over."),
    Known("sent_bytes_total", COUNTER, WHERE, "Bytes of responses, before TLS, counted when their exchange is over."),
    Known(
        "refusals_total",
        COUNTER,
        ("route", "reason"),
        "Requests that were refused, failed or answered by us instead of a server, by reason.",
    ),
    Known("endpoint_failures_total", COUNTER, ("upstream", "endpoint"), "What speaks against an endpoint: not reached, a failed answer."),
    Known("connections_accepted_total", COUNTER, (), "Client connections that were accepted."),
    Known("connections_turned_away_total", COUNTER, (), "Client connections beyond the limit."),
    Known("tls_handshakes_failed_total", COUNTER, (), "TLS handshakes of clients that failed, or took too long."),
    Known(
        "new_heads_total",
        COUNTER,
        ("message", "how"),
        "Heads not remembered byte for byte: filled into the template of a like one, judged anew.",
    ),
    Known("failed_credentials_total", COUNTER, ("outcome",), "Access tokens verified in vain, and those answered 429 unseen."),
    Known(
        "spans_total",
        COUNTER,
        ("outcome",),
        "Spans of traces: exported to the collector, dropped for want of room or because it did not take them.",
    ),
    Known("audit_lost_total", COUNTER, (), "Calls that are missing in the audit log."),
    Known("audit_warnings_total", COUNTER, (), "Warnings in the audit log."),
    Known("log_lines_lost_total", COUNTER, (), "Lines of the access log that could not be written."),
    Known("loop_lag_seconds", HISTOGRAM, (), "How late a worker's loop came to its tick (two a second): how long a turn may take."),
    Known("generation", GAUGE, (), "Which configuration is in force: 1 since the start, one more with each reload."),
    Known("worker_deaths_total", COUNTER, (), "Workers that died and were not told to."),
    Known("workers", GAUGE, (), "Workers that are there."),
    Known("connections", GAUGE, ("worker",), "Client connections that are open."),
    Known("exchanges", GAUGE, ("worker", "protocol"), "Exchanges under way: http1, http2."),
    Known("event_streams", GAUGE, ("worker",), "Of these, responses that are event streams."),
    Known("tunnels", GAUGE, ("worker",), "Of these, WebSockets and other tunnels."),
    Known("heads_kept", GAUGE, ("worker", "message"), "Heads that are remembered."),
    Known("upstream_links", GAUGE, ("upstream", "endpoint", "state"), "Connections to servers: in_use, idle."),
    Known("upstream_queue", GAUGE, ("upstream",), "Calls that wait for a connection."),
    Known(
        "endpoint_up",
        GAUGE,
        ("upstream", "endpoint"),
        "1 where calls go, 0 where they do not (checks, breaker, operator), as most workers see it.",
    ),
    Known("endpoint_breakers", GAUGE, ("upstream", "endpoint", "state"), "Workers whose breaker is closed, open, half-open."),
    Known("endpoint_state", GAUGE, ("upstream", "endpoint", "state"), "1 for what the operator made of it: enabled, drain, disabled."),
    Known("audit_blocked", GAUGE, (), "1 while calls are refused because the audit log cannot be written."),
    Known("loop_lag_worst_seconds", GAUGE, ("worker",), "The longest lag since the last look."),
    Known("worker_resident_bytes", GAUGE, ("worker",), "Memory of the process."),
    Known("worker_descriptors", GAUGE, ("worker",), "Open descriptors of the process."),
    Known("worker_start_time_seconds", GAUGE, ("worker",), "When it began, in Unix time."),
    Known(
        "certificate_expiry_time_seconds",
        GAUGE,
        ("certificate", "source"),
        "When a certificate ends, in Unix time; source: acme, file, dev.",
    ),
    Known("certificate_failures", GAUGE, ("certificate",), "Times in a row that a certificate was asked for (ACME) and did not come."),
    Known("member_calls_total", COUNTER, ("member",), "Calls that a member of the gateway process answered, or failed."),
    Known("member_errors_total", COUNTER, ("member",), "Of these, answered with an error."),
    Known("member_restarts_total", COUNTER, ("member",), "Times that a member's process was started again."),
    Known("member_up", GAUGE, ("member",), "1; 0 when a member was asked last and could not be started or reached."),
    Known("member_children", GAUGE, ("member",), "Processes of a member."),
    Known("member_drift", GAUGE, ("member",), "What a member offers that is not as its lock file has it, of what clients were given last."),
    Known(
        "member_refused_total",
        COUNTER,
        ("member", "reason"),
        "Calls refused for what the member says about itself; reason: drift, suspicious.",
    ),
    Known(
        "member_suspicious",
        GAUGE,
        ("member",),
        "What a member offers that seems to speak to models behind people's backs, of what clients were given last.",
    ),
    Known("gateway_sessions", GAUGE, ("upstream",), "Sessions of clients in the gateway process."),
    Known("gateway_streams", GAUGE, ("upstream",), "Streams of clients there that belong to no call."),
    Known("build_info", GAUGE, ("version", "python", "openssl"), "1; the labels say what runs."),
)
BY_NAME = {known.name: known for known in METRICS}
COUNTED = {  # topics of Sums that are named otherwise there
    "requests": "requests_total",
    "received": "received_bytes_total",
    "sent": "sent_bytes_total",
    "refusals": "refusals_total",
    "endpoint_failures": "endpoint_failures_total",
    "accepted": "connections_accepted_total",
    "turned_away": "connections_turned_away_total",
    "handshakes_failed": "tls_handshakes_failed_total",
    "heads": "new_heads_total",
    "failed_credentials": "failed_credentials_total",
    "spans": "spans_total",
    "audit_lost": "audit_lost_total",
    "audit_warnings": "audit_warnings_total",
    "log_lines_lost": "log_lines_lost_total",
}
TIMED = {
    "duration": ("request_duration_seconds", BOUNDS),
    "first": ("request_first_byte_seconds", BOUNDS),
    "lag": ("loop_lag_seconds", LAGS),
}
EVEN_AT_ZERO = tuple(name for name, known in BY_NAME.items() if known.kind == COUNTER and not known.labels)

Sample = tuple[str, tuple[str, ...], float]  # metric, label values, value


class Workers(Protocol):
    """What is needed of the switchboard."""

    hears: dict[str, Callable[[int, Any], None]]
    joined: list[Callable[[int], None]]
    left: list[Callable[[int], None]]

    def tell(self, worker: int, topic: str, data: Any) -> None:
        """If it is there."""

    async def ask(self, worker: int, topic: str, data: Any = None, wait_s: float = FLUSH_S) -> Any:
        """One of them. Raises LookupError, TimeoutError, Refused."""

    async def ask_all(self, topic: str, data: Any = None, wait_s: float = FLUSH_S) -> dict[int, Any]:
        """Who is silent is left out."""


class Metrics(Collector):
    """What control knows in numbers. Its parts add their own figures by `sources`: each yields samples of metrics that METRICS knows."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.sums = Sums()
        self.gauges: dict[int, dict[str, Any]] = {}  # by worker
        self.sources: list[Callable[[], Iterable[Sample]]] = []
        self._heard: dict[int, tuple[str, int]] = {}  # by worker: who it was, the number of its last message
        self._there: set[int] = set()
        self._gateway: dict[str, Any] | None = None  # how things stand there
        self._deaths = 0
        self._generation = 1
        self._flush: asyncio.Task[None] | None = None  # that is about to begin
        workers.hears["tally"] = self.tally
        workers.hears["gauges"] = self.stands
        workers.joined.append(self.joined)
        workers.left.append(self.left)

    # -- what workers say ------------------------------------------------------------------------------------------------------------------

    def tally(self, worker: int, message: dict[str, Any]) -> None:
        """What it counted, once however often it says so."""
        who, number = message["from"], message["number"]
        known = self._heard.get(worker)
        if known is None or known[0] != who or known[1] < number:
            self.sums.add(message["sums"])
            self._heard[worker] = who, number
        self._workers.tell(worker, "tallied", number)

    def stands(self, worker: int, gauges: dict[str, Any]) -> None:
        """How things stand there."""
        self.gauges[worker] = gauges

    def joined(self, worker: int) -> None:
        """A worker is there."""
        self._there.add(worker)

    def left(self, worker: int) -> None:
        """It is gone, and with it what was true of it; what it counted stays."""
        self._there.discard(worker)
        self.gauges.pop(worker, None)

    def event(self, event: dict[str, Any]) -> None:
        """The supervisor tells what became of a worker, or which configuration is in force."""
        self._deaths += event.get("event") == "died"
        self._generation = event.get("generation", self._generation)

    # -- what Prometheus is told -----------------------------------------------------------------------------------------------------------

    async def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and body, with everything that ended until now. However many ask at once, workers are asked once for those that wait together."""
        if self._flush is None:
            self._flush = asyncio.ensure_future(self._ask_workers())
        await asyncio.shield(self._flush)
        return self.render(accept)

    async def _ask_workers(self) -> None:
        await asyncio.sleep(TOGETHER_S)
        self._flush = None  # who asks from here on waits for the next one: it may have seen more
        for worker, gauges in (await self._workers.ask_all("flush", wait_s=FLUSH_S)).items():
            self.stands(worker, gauges)
        self._gateway = None
        with suppress(LookupError, TimeoutError, Refused):  # there is none; it is silent
            self._gateway = await self._workers.ask(GATEWAY, "overview", None, FLUSH_S)

    def render(self, accept: str) -> tuple[str, bytes]:
        """What is known, as text for Prometheus or, for who asks for it (`Accept`), OpenMetrics."""
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self)

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value."""
        found: dict[str, list[tuple[tuple[str, ...], float]]] = {name: [((), 0.0)] for name in EVEN_AT_ZERO}
        for name, labels, value in self._samples():
            if name in EVEN_AT_ZERO:
                found[name] = [((), value)]
            else:
                found.setdefault(name, []).append((labels, value))
        for known in METRICS:
            if known.kind == HISTOGRAM:
                yield self._histogram(known)
            elif known.name in found:
                kind = CounterMetricFamily if known.kind == COUNTER else GaugeMetricFamily
                family = kind(f"mcpproxy_{known.name}", known.about, labels=known.labels)
                for values, value in found[known.name]:
                    family.add_metric(values, value)
                yield family

    def _histogram(self, known: Known) -> Metric:
        family = HistogramMetricFamily(f"mcpproxy_{known.name}", known.about, labels=known.labels)
        for (topic, *labels), times in self.sums.times.items():
            name, bounds = TIMED[topic]
            if name == known.name:
                family.add_metric(labels, buckets(bounds, times), times[0])
        return family

    def _samples(self) -> Iterator[Sample]:
        for (topic, *labels), number in self.sums.numbers.items():
            yield COUNTED[topic], tuple(labels), number
        yield "worker_deaths_total", (), self._deaths
        yield "workers", (), len(self._there)
        yield "generation", (), self._generation
        yield "build_info", (__version__, platform.python_version(), ssl.OPENSSL_VERSION), 1
        yield from self._of_workers()
        yield from _of_upstreams([gauges["upstreams"] for gauges in self.gauges.values()])
        if self._gateway is not None:
            yield from _of_gateway(self._gateway)
        for source in self.sources:
            yield from source()

    def _of_workers(self) -> Iterator[Sample]:
        for number, gauges in sorted(self.gauges.items()):
            worker, exchanges = str(number), gauges["exchanges"]
            yield "connections", (worker,), gauges["connections"]
            for protocol in ("http1", "http2"):
                yield "exchanges", (worker, protocol), exchanges[protocol]
            yield "event_streams", (worker,), exchanges["events"]
            yield "tunnels", (worker,), exchanges["tunnels"]
            for message, kept in gauges["heads"].items():
                yield "heads_kept", (worker, message), kept
            yield "loop_lag_worst_seconds", (worker,), gauges["lag_s"]
            yield "worker_resident_bytes", (worker,), gauges["rss"]
            yield "worker_descriptors", (worker,), gauges["descriptors"]
            yield "worker_start_time_seconds", (worker,), gauges["began"]
        yield "audit_blocked", (), any(gauges["audit_blocked"] for gauges in self.gauges.values())


def _of_gateway(gateway: dict[str, Any]) -> Iterator[Sample]:
    for name, member in gateway["members"].items():
        for key in ("calls", "errors", "restarts"):
            yield f"member_{key}_total", (name,), member.get(key, 0)
        yield "member_up", (name,), member.get("state") not in BROKEN
        yield "member_children", (name,), member.get("children", 0)
        for key in ("drift", "suspicious"):
            yield f"member_{key}", (name,), member.get(key, 0)
        for reason, number in member.get("refused", {}).items():
            yield "member_refused_total", (name, reason), number
    for name, upstream in gateway["upstreams"].items():
        for key in ("sessions", "streams"):
            yield f"gateway_{key}", (name,), upstream[key]


def _of_upstreams(workers: list[dict[str, Any]]) -> Iterator[Sample]:
    """Links, queues and breakers are summed; about an endpoint most workers are right."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    waiting: Counter[str] = Counter()
    for upstreams in workers:
        for name, upstream in upstreams.items():
            waiting[name] += upstream["waiting"]
            for endpoint in upstream["endpoints"]:
                seen.setdefault((name, endpoint["endpoint"]), []).append(endpoint)
    for name, number in waiting.items():
        yield "upstream_queue", (name,), number
    for where, each in seen.items():
        yield "upstream_links", (*where, "in_use"), sum(one["in_use"] for one in each)
        yield "upstream_links", (*where, "idle"), sum(one["idle"] for one in each)
        yield "endpoint_up", where, sum(one["alive"] for one in each) * 2 > len(each)
        for state in BREAKERS:
            yield "endpoint_breakers", (*where, state), sum(one["breaker"] == state for one in each)
        for state in STATES:
            yield "endpoint_state", (*where, state), any(one["state"] == state for one in each)


def buckets(bounds: Sequence[float], times: Sequence[float]) -> list[tuple[str, float]]:
    """As Prometheus wants them: each with all that is in those before it."""
    names = [*map(repr, bounds), "+Inf"]
    return list(zip(names, accumulate(times[1:]), strict=True))
