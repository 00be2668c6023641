"""Server-sent events: each passes as it arrives, in any framing, byte for byte; silence may be filled, but only between events."""

import threading
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import get
from tests.support.upstream import Link, ScriptedUpstream
from tests.support.waiting import stays, until

EVENTS = [
    b"event: message\r\ndata: {}\r\n\r\n",
    b": ping\n\n",
    b"id: 1\nretry: 5\ndata: a\ndata: b\n\n",
    b"data: \xe2\x82\xac\r\r",
    b"data:\n\n",
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n"


def frame(event: bytes, framing: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event) if framing == "chunked" else event


def start(framing: str) -> bytes:
    total = sum(map(len, EVENTS))
    return (
        HEAD + {"chunked": b"Transfer-Encoding: chunked\r\n", "length": b"Content-Length: %d\r\n" % total, "close": b""}[framing] + b"\r\n"
    )


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_every_event_arrives_before_the_next_is_sent(
    framing: str, tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    seen = [threading.Event() for _ in EVENTS]

    def script(link: Link) -> None:
        link.read_request()
        link.send(start(framing))
        for event, arrived in zip(EVENTS, seen, strict=True):
            link.send(frame(event, framing))
            link.wait(arrived)
        if framing == "chunked":
            link.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {})
        with daemon.client(tls=certificate.client() if tls else None) as client:
            client.send(get())
            head = client.read_until(b"\r\n\r\n")
            assert b"X-Accel-Buffering: no\r\n" in head
            for event, arrived in zip(EVENTS, seen, strict=True):
                expected = frame(event, framing)
                assert client.read_exact(len(expected)) == expected
                arrived.set()
            if framing == "chunked":
                assert client.read_exact(5) == b"0\r\n\r\n"
            if framing == "close":
                assert client.is_closed()


def test_the_head_of_a_stream_arrives_before_its_first_event(run: Run) -> None:
    arrived = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(start("chunked"))
        link.wait(arrived)

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(get())
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        arrived.set()


def test_a_client_that_leaves_a_stream_ends_it_upstream_at_once(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(start("chunked") + frame(EVENTS[0], "chunked"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        client = daemon.client()
        client.send(get())
        client.read_until(EVENTS[0])
        client.close()
        until(upstream.links[0].ended.is_set, "the upstream leg ends", deadline_s=2)
        record = daemon.record(path="/mcp")
        assert (record["status"], record["end"]) == (200, "client-gone")


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_silence_is_filled_with_comments_between_events_only(framing: str, run: Run) -> None:
    half = threading.Event()
    rest = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(start(framing) + frame(EVENTS[0], framing))
        link.wait(half)
        link.send(frame(b"data: half", framing))
        link.wait(rest)
        link.send(frame(b" and half\n\n", framing))
        if framing == "chunked":
            link.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, route={"sse_keepalive": "1s"})
        with daemon.client() as client:
            client.send(get())
            client.read_until(EVENTS[0])
            client.read_until(b":\n\n", 5)  # silence between events: a comment
            half.set()
            client.read_until(b"data: half")
            client.buffer = client.buffer.removeprefix(b"\r\n")
            stays(lambda: _quiet(client), 1.7, "inside an event there is no comment")
            rest.set()
            tail = client.read_until(b" and half\n\n")
            assert b":\n" not in tail
        assert len(upstream.links) == 1


def _quiet(client: Any) -> bool:
    try:
        client.receive(0.05)
    except TimeoutError:
        return True
    return not client.buffer.strip(b"\r\n")


def test_silence_is_not_filled_unless_asked(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(start("chunked") + frame(EVENTS[0], "chunked"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(get())
        client.read_until(frame(EVENTS[0], "chunked"))
        stays(lambda: _quiet(client), 1.2, "nothing is added to a stream")


def test_a_stream_with_comments_is_still_well_formed(run: Run) -> None:
    """Chunks of our own are whole chunks: a strict reader takes the body, and what is no comment is what was sent."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(start("chunked"))
        for event in EVENTS[:2]:
            link.send(frame(event, "chunked"))
            gap.wait(1.4)
        link.send(b"0\r\n\r\n")

    gap = threading.Event()
    with ScriptedUpstream(script) as upstream, run(upstream.url, route={"sse_keepalive": "500ms"}).client() as client:
        got = client.exchange(get())
        assert got.ended
        assert got.body.replace(b":\n\n", b"") == EVENTS[0] + EVENTS[1]
        assert got.body.count(b":\n\n") >= 1
