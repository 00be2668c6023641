"""Spans arrive at a collector, in the words of the conventions."""

import pytest

from mcpproxy.config.serving import Otel
from mcpproxy.control.traces import BATCH, WAITING, Traces, attributes_of, name_of
from mcpproxy.observe.tally import Sums
from tests.support.collector import Collector, attributes

SPAN = {
    "trace": "0af7651916cd43dd8448eb211c80319c",
    "span": "00f067aa0ba902b7",
    "parent": "b7ad6b7169203331",
    "began": 1_700_000_000.0,
    "ended": 1_700_000_000.25,
    "status": 200,
    "end": "done",
    "reason": "",
    "in": 10,
    "out": 20,
    "about": '{"method":"POST","host":"mcp.test","path":"/mcp","protocol":"HTTP/2","mcp_method":"tools/call","mcp_name":"search",'
    '"mcp_version":"2026-07-28","agent":"x/1","client":"192.0.2.1","tls":"TLSv1.3"}',
    "id": "abc",
    "route": "search",
    "upstream": "s",
    "endpoint": '"127.0.0.1:8000"',
    "calls": [],
}


@pytest.fixture
def collector():
    with Collector() as made:
        yield made


@pytest.fixture
def said():
    return []


async def traces(collector, said, spans, **changes):
    """All that was sent until the end, and what was counted."""
    hears, sums = {}, Sums()
    made = Traces(Otel(endpoint=collector.url, **changes), hears, sums, lambda level, text: said.append((level, text)))
    await made.start()
    hears["spans"](0, spans)
    await made.stop()
    return sums


async def test_a_span_arrives(collector, said, monkeypatch):
    monkeypatch.setenv("COLLECTOR", "Bearer secret")
    sums = await traces(collector, said, [SPAN], service_name="edge", authorization="env:COLLECTOR")
    (span,) = collector.spans
    assert collector.services == {"edge"}
    assert collector.authorizations == {"Bearer secret"}
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (SPAN["trace"], SPAN["span"], SPAN["parent"])
    assert (span.name, span.kind) == ("tools/call search", 2)
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(250_000_000, abs=1000)
    assert span.status.code == 0
    found = attributes(span)
    assert found["mcp.method.name"] == "tools/call"
    assert found["gen_ai.tool.name"] == "search"
    assert found["gen_ai.operation.name"] == "execute_tool"
    assert found["http.response.status_code"] == 200
    assert found["network.protocol.version"] == "2"
    assert (found["network.peer.address"], found["network.peer.port"]) == ("127.0.0.1", 8000)
    assert sums.numbers["spans", "exported"] == 1


async def test_more_than_a_batch_arrives(collector, said):
    await traces(collector, said, [SPAN] * (2 * BATCH + 1))
    assert len(collector.spans) == 2 * BATCH + 1


async def test_a_collector_that_refuses_is_told_of_once(collector, said):
    collector.status = 400
    hears, sums = {}, Sums()
    made = Traces(Otel(endpoint=collector.url), hears, sums, lambda level, text: said.append((level, text)))
    await made.start()
    for _ in range(2):
        hears["spans"](0, [SPAN])
        await made._send()
    assert [level for level, _ in said] == ["warning"]
    assert sums.numbers["spans", "dropped"] == 2
    collector.status = 200
    hears["spans"](0, [SPAN])
    await made.stop()
    assert said[-1][0] == "info"


async def test_what_waits_is_bounded(said):
    hears, sums = {}, Sums()
    Traces(Otel(endpoint="http://127.0.0.1:1"), hears, sums, print)
    hears["spans"](0, [SPAN] * WAITING)
    hears["spans"](0, [SPAN] * 3)
    assert sums.numbers["spans", "dropped"] == 3


@pytest.mark.parametrize(
    ("status", "end", "kind"),
    [
        (200, "done", None),
        (404, "done", None),
        (499, "client-gone", None),
        (502, "upstream-error", "502"),
        (200, "upstream-gone", "upstream-gone"),
    ],
)
def test_what_is_an_error(status, end, kind):
    assert attributes_of(SPAN | {"status": status, "end": end}).get("error.type") == kind


async def test_a_refusal_names_its_reason_and_is_the_clients_mistake(collector, said):
    await traces(collector, said, [SPAN | {"status": 429, "end": "refused", "reason": "rate-limited"}])
    (span,) = collector.spans
    assert (attributes(span)["error.type"], attributes(span)["http.response.status_code"]) == ("rate-limited", 429)
    assert span.status.code == 0


def test_a_name_never_holds_what_a_client_may_choose_freely():
    about = '{"method":"GET","host":"a","path":"/secret/1","protocol":"HTTP/1.1"}'
    span = SPAN | {"about": about, "endpoint": "null"}
    assert name_of(span, attributes_of(span)) == "GET search"


def test_what_the_body_said_counts_more_than_the_head():
    found = attributes_of(SPAN | {"calls": [["resources/read", "file:///a"]]})
    assert found["mcp.method.name"] == "resources/read"
    assert found["mcp.resource.uri"] == "file:///a"
    assert "gen_ai.tool.name" not in found
    assert name_of(SPAN, found) == "resources/read"
