"""What Prometheus reads: right over workers, their deaths, and messages that come twice."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from mcpproxy import __version__
from mcpproxy.control.metrics import METRICS, Metrics, buckets
from mcpproxy.control.switchboard import GATEWAY
from mcpproxy.observe.tally import BOUNDS, Sums, new_times

ENDPOINT = {"endpoint": "127.0.0.1:1", "state": "enabled", "breaker": "closed", "alive": True, "in_use": 6, "idle": 2}
GAUGES = {
    "connections": 3,
    "exchanges": {"http1": 1, "http2": 5, "events": 2, "tunnels": 0},
    "heads": {"request": 7, "response": 9},
    "upstreams": {"s": {"waiting": 1, "endpoints": [ENDPOINT]}},
    "audit_blocked": False,
    "lag_s": 0.002,
    "rss": 30_000_000,
    "descriptors": 20,
    "began": 1_700_000_000.0,
}


@dataclass
class Board:
    """A switchboard without lines."""

    hears: dict = field(default_factory=dict)
    joined: list = field(default_factory=list)
    left: list = field(default_factory=list)
    told: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    gateway: dict | None = None

    def tell(self, worker, topic, data):
        self.told.append((worker, topic, data))

    async def ask(self, worker, topic, data=None, wait_s=2.0):
        assert (GATEWAY, "overview") == (worker, topic)
        if self.gateway is None:
            raise LookupError("there is no gateway process")
        return self.gateway

    async def ask_all(self, topic, data=None, wait_s=2.0):
        assert topic == "flush"
        return self.answers


@pytest.fixture
def board():
    return Board()


@pytest.fixture
def metrics(board):
    return Metrics(board)


def said(number, who="one", **numbers):
    sums = Sums()
    for name, by in numbers.items():
        sums.count(name, by=by)
    return {"from": who, "number": number, "sums": sums.message()}


def read(metrics, accept=""):
    """name{labels} → value, as Prometheus understands it."""
    content_type, body = metrics.render(accept)
    parse = openmetrics if "openmetrics" in content_type else plain
    return {(sample.name, *sorted(sample.labels.items())): sample.value for family in parse(body.decode()) for sample in family.samples}


def test_an_exchange_is_one_sample(metrics):
    sums = Sums()
    sums.count("requests", "search", "s", "127.0.0.1:1", "200", "done", by=3)
    metrics.tally(0, {"from": "a", "number": 1, "sums": sums.message()})
    where = (("end", "done"), ("endpoint", "127.0.0.1:1"), ("route", "search"), ("status", "200"), ("upstream", "s"))
    assert read(metrics)["mcpproxy_requests_total", *where] == 3


@pytest.mark.parametrize("accept", ["", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0", "*/*"])
def test_who_asks_says_in_which_words(metrics, accept):
    metrics.tally(0, said(1, accepted=4))
    metrics.stands(0, GAUGES)
    content_type, body = metrics.render(accept)
    assert content_type.startswith("application/openmetrics-text" if "openmetrics" in accept else "text/plain")
    assert body.endswith(b"# EOF\n") == ("openmetrics" in accept)
    assert read(metrics, accept)["mcpproxy_connections_accepted_total",] == 4


def test_what_a_dead_worker_counted_stays_and_what_was_true_of_it_goes(metrics):
    for worker in (0, 1):
        metrics.joined(worker)
        metrics.tally(worker, said(1, who=f"w{worker}", accepted=10))
        metrics.stands(worker, GAUGES)
    assert read(metrics)["mcpproxy_upstream_links", ("endpoint", "127.0.0.1:1"), ("state", "in_use"), ("upstream", "s")] == 12
    metrics.left(1)
    metrics.event({"event": "died", "worker": 1})
    found = read(metrics)
    assert found["mcpproxy_connections_accepted_total",] == 20
    assert found["mcpproxy_workers",] == 1
    assert found["mcpproxy_worker_deaths_total",] == 1
    assert found["mcpproxy_upstream_links", ("endpoint", "127.0.0.1:1"), ("state", "in_use"), ("upstream", "s")] == 6
    assert ("mcpproxy_connections", ("worker", "1")) not in found
    metrics.joined(1)
    metrics.tally(1, said(1, who="another", accepted=5))
    assert read(metrics)["mcpproxy_connections_accepted_total",] == 25


def test_a_message_counts_once_and_is_always_confirmed(metrics, board):
    for _ in range(3):
        board.hears["tally"](0, said(1, accepted=10))
    board.hears["tally"](0, said(2, accepted=1))
    assert read(metrics)["mcpproxy_connections_accepted_total",] == 11
    assert board.told == [(0, "tallied", 1)] * 3 + [(0, "tallied", 2)]


async def test_a_scrape_asks_first(metrics, board):
    board.answers[0] = GAUGES
    content_type, body = await metrics.scrape("")
    assert content_type.startswith("text/plain")
    assert b'mcpproxy_connections{worker="0"} 3.0' in body


async def test_many_scrapes_at_once_ask_the_workers_once(metrics, board, monkeypatch):
    asked = []
    ask_all = board.ask_all

    async def counted(*args, **more):
        asked.append(args)
        return await ask_all(*args, **more)

    monkeypatch.setattr(board, "ask_all", counted)
    board.answers[0] = GAUGES
    bodies = await asyncio.gather(*(metrics.scrape("") for _ in range(50)))
    assert len(asked) == 1
    assert all(b'mcpproxy_connections{worker="0"} 3.0' in body for _, body in bodies)
    await metrics.scrape("")
    assert len(asked) == 2


def test_nothing_happened_yet_is_zero_and_not_nothing(metrics):
    found = read(metrics)
    assert found["mcpproxy_log_lines_lost_total",] == 0
    assert found["mcpproxy_workers",] == 0
    (build,) = [key for key in found if key[0] == "mcpproxy_build_info"]
    assert ("version", __version__) in build


def test_about_an_endpoint_most_workers_are_right(metrics):
    where = (("endpoint", "127.0.0.1:1"), ("upstream", "s"))
    for worker, alive in enumerate((True, False, False)):
        one = ENDPOINT | {"alive": alive, "breaker": "closed" if alive else "open"}
        metrics.stands(worker, GAUGES | {"upstreams": {"s": {"waiting": 2, "endpoints": [one]}}})
    found = read(metrics)
    assert found["mcpproxy_endpoint_up", *where] == 0
    assert found["mcpproxy_endpoint_breakers", where[0], ("state", "open"), where[1]] == 2
    assert found["mcpproxy_endpoint_state", where[0], ("state", "enabled"), where[1]] == 1
    assert found["mcpproxy_upstream_queue", where[1]] == 6


def test_other_parts_add_their_figures(metrics):
    metrics.sources.append(lambda: [("upstream_queue", ("more",), 7)])
    assert read(metrics)["mcpproxy_upstream_queue", ("upstream", "more")] == 7


async def test_every_metric_is_shown_and_none_that_nobody_knows(board, metrics):
    """What METRICS lists and what is rendered is the same, as soon as there is something to say about each."""
    sums = Sums()
    labels = {
        "requests": 5,
        "received": 3,
        "sent": 3,
        "refusals": 2,
        "heads": 2,
        "failed_credentials": 1,
        "endpoint_failures": 2,
        "spans": 1,
    }
    for name, count in labels.items():
        sums.count(name, *"abcde"[:count], by=1)
    for name in ("duration", "first"):
        sums.spread(name, "search", by=new_times())
    metrics.tally(0, {"from": "a", "number": 1, "sums": sums.message()})
    metrics.stands(0, GAUGES)
    metrics.sources.append(
        lambda: [("certificate_expiry_time_seconds", ("a.example", "acme"), 5), ("certificate_failures", ("a.example",), 0)]
    )
    board.gateway = {
        "members": {
            "files": {
                "calls": 3,
                "errors": 1,
                "restarts": 0,
                "children": 2,
                "state": "running",
                "drift": 1,
                "suspicious": 1,
                "refused": {"drift": 2},
            }
        },
        "upstreams": {"all": {"sessions": 4, "streams": 1}},
    }
    await metrics.scrape("")
    shown = {family.name: family for family in metrics.collect()}
    assert set(shown) == {f"mcpproxy_{known.name.removesuffix('_total')}" for known in METRICS}
    for known in METRICS:
        family = shown[f"mcpproxy_{known.name.removesuffix('_total')}"]
        assert family.type == known.kind
        assert family.documentation == known.about
        assert all(set(sample.labels) - {"le"} == set(known.labels) for sample in family.samples), known.name


def test_names_say_what_they_are():
    for known in METRICS:
        assert known.name.endswith("_total") == (known.kind == "counter"), known.name
        assert known.about.endswith("."), known.name
        assert known.kind != "histogram" or known.name.endswith("_seconds")


def test_buckets_hold_all_that_is_below():
    times = new_times()
    times[1] = times[3] = times[-1] = 2
    made = buckets(BOUNDS, times)
    assert made[0] == ("0.001", 2)
    assert made[2] == ("0.005", 4)
    assert made[-1] == ("+Inf", 6)


@given(st.data())
def test_the_sum_is_the_truth_whatever_dies_and_comes_twice(data):
    """Workers count, are killed and replaced, lines are lost with and without what was said: every message that arrived counts once."""
    board = Board()
    metrics, truth, unconfirmed = Metrics(board), 0, {}
    lives = {worker: f"life-{worker}" for worker in range(2)}
    numbers = dict.fromkeys(lives, 0)
    for step in range(data.draw(st.integers(0, 30))):
        worker = data.draw(st.integers(0, 1))
        match data.draw(st.sampled_from(["say", "lose", "again", "die"])):
            case "say" | "lose" as how:
                numbers[worker] += 1
                by = data.draw(st.integers(1, 9))
                message = said(numbers[worker], who=lives[worker], accepted=by)
                unconfirmed.setdefault(worker, []).append((message, by))
                if how == "say":
                    for waiting, amount in unconfirmed[worker]:
                        metrics.tally(worker, waiting)
                        truth += amount
                    unconfirmed[worker] = []
                    if data.draw(st.booleans()):
                        metrics.tally(worker, message)
            case "again":
                for waiting, amount in unconfirmed.pop(worker, []):
                    metrics.left(worker)
                    metrics.joined(worker)
                    metrics.tally(worker, waiting)
                    truth += amount
            case "die":
                metrics.left(worker)
                unconfirmed.pop(worker, None)  # what nobody heard is gone with it
                lives[worker], numbers[worker] = f"life-{worker}-{step}", 0
        assert metrics.sums.numbers.get(("accepted",), 0) == truth
