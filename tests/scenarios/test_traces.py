"""A trace through the real daemon: the client's span, ours, the server's."""

from tests.scenarios.conftest import Run
from tests.support.client import post
from tests.support.collector import Collector, attributes
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def naming(link: Link) -> None:
    """An upstream whose answer says whose child it is."""
    while True:
        request = link.read_request()
        link.send(response(body=request.first("traceparent") or b"none"))


def test_the_server_is_our_child_and_we_are_the_clients(run: Run) -> None:
    with Collector() as collector, ScriptedUpstream(naming) as upstream:
        daemon = run(upstream.url, otel={"endpoint": collector.url, "sample": 0.0}, workers=2)
        with daemon.client() as client:
            told = client.exchange(post(b"x", extra=f"traceparent: 00-{TRACE}-{SPAN}-01\r\n")).body.decode()
            assert client.exchange(post(b"x")).body == b"none"
        until(lambda: collector.spans, "a span came")
        (span,) = collector.spans
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
        assert told == f"00-{TRACE}-{span.span_id.hex()}-01"
        assert attributes(span)["mcpproxy.upstream"] == "u"
        assert daemon.stop() == 0
