"""What an attack on the finished edge found: the smallest reproduction of each."""

from typing import Any

import pytest

from mcpproxy.edge import exchange
from mcpproxy.edge.cut import REQUEST_CUTS, cut, template
from mcpproxy.edge.plan import Responses
from tests.edge.conftest import Proxy
from tests.scenarios.conftest import Run
from tests.support.client import get
from tests.support.upstream import ScriptedUpstream, answer, response

WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


def test_a_length_decides_about_an_upgrade_even_from_a_template(run: Run) -> None:
    """`Content-Length: 0` may ask for a websocket, `Content-Length: 5` may not; their heads have one template key."""
    with ScriptedUpstream(answer(response())) as upstream:
        daemon = run(upstream.url, route={"upgrade": True})
        for body in (b"", b"", b"", b"hello"):
            with daemon.client() as client:
                assert client.exchange(get(extra=WEBSOCKET + f"Content-Length: {len(body)}\r\n") + body).status == 200
        heads = [head.lower().count(b"upgrade: websocket") for link in upstream.links for head in link.received.split(b"GET ")[1:]]
    assert heads == [1, 1, 1, 0]


def test_a_second_interim_response_that_waits_keeps_the_server_paused(proxy: Proxy) -> None:
    """The client took the first, not the second: reading on would overwrite what is pending."""
    edge = proxy()
    client = edge.client()
    client.sendall(get())
    server = edge.accept()
    edge.read(server)
    downstream = next(iter(edge.runtime.links))
    link, send, places = downstream.exchange.link, downstream.send, []

    def narrow(data: Any) -> int:
        if not places:
            raise BlockingIOError
        return send(data[: places.pop()])

    downstream.send = narrow
    interims = [b"HTTP/1.1 103 Early Hints\r\nLink: <%d>\r\n\r\n" % i for i in range(2)]
    server.sendall(b"".join(interims))
    edge.until(lambda: downstream.pending is not None)
    places.append(len(interims[0]))
    edge.until(lambda: downstream.pending is not None and bytes(downstream.pending) == interims[1])
    assert not link.reading
    places.extend([1 << 20] * 9)
    edge.until(lambda: downstream.pending is None)
    assert link.reading
    server.sendall(response(b"ok"))
    assert edge.read(client, b"ok").startswith(b"".join(interims) + b"HTTP/1.1 200")


@pytest.mark.parametrize(("coding", "events"), [("gzip", False), ("br, gzip", False), ("Identity", True)])
def test_no_comment_is_put_into_a_compressed_event_stream(coding: str, events: bool) -> None:
    """`sse_keepalive` writes plain text; in a stream with a Content-Encoding that is damage."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: {coding}\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert Responses(b"GET", 11, False, 64, 1 << 20).compile(head.encode()).events is events


def test_a_response_head_that_drips_is_not_judged_anew_at_every_byte(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at 60 KiB of unfinished head costs 0.2 ms: byte by byte a hostile server would hold the whole loop."""
    looks: list[int] = []
    monkeypatch.setattr(exchange, "bad_start", lambda data, *, response: looks.append(len(data)))
    edge = proxy()
    client = edge.client()
    client.sendall(get())
    server = edge.accept()
    edge.read(server)
    x = next(iter(edge.runtime.links)).exchange
    head = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4000
    for i in range(len(head)):
        exchange.response_head(x, head[i : i + 1])
    assert x.held == head and len(looks) < 300
    server.sendall(b"\r\nContent-Length: 2\r\n\r\nok")
    edge.read(client, b"ok")


def test_a_field_that_came_twice_makes_no_template() -> None:
    """The second line is cut, the first (two blanks) is not: what holds for these values need not hold for others."""
    head = b"GET /mcp HTTP/1.1\r\nHost: a\r\nX-Request-Id:  same\r\nX-Request-Id: same\r\n\r\n"
    found = cut(REQUEST_CUTS, head)
    assert found is None or template(b"GET /mcp HTTP/1.1\r\nHost: a\r\n", found) is None
