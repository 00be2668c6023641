"""Upgrades (RFC 9110 §7.8): after a 101 that was asked for, two directions of opaque bytes; any other 101 opens nothing."""

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import get
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response
from tests.support.waiting import until

WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def test_a_websocket_carries_opaque_bytes_both_ways(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(SWITCH)
        while True:
            link.send(link.read_exact(3)[::-1])

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(WEBSOCKET)
            assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            for word in (b"abc", b"\x00\xff\r", b"\r\n\r"):
                client.send(word)
                assert client.read_exact(3) == word[::-1]
        until(lambda: upstream.links[0].ended.is_set(), "the client's end reaches the upstream")
        record = daemon.record(path="/ws")
        assert record["status"] == 101
        assert record["bytes_out"] > 9


def test_bytes_that_came_with_either_head_belong_to_the_tunnel(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_head()
        link.send(SWITCH + b"early from upstream")
        assert link.read_exact(17) == b"early from client"
        link.send(b"!")

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(WEBSOCKET + b"early from client")
        client.read_until(b"\r\n\r\n")
        assert client.read_exact(20) == b"early from upstream!"


def test_each_direction_of_a_tunnel_ends_by_itself(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(SWITCH + b"bye")
        link.half_close()
        assert link.read_exact(5) == b"still"
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(WEBSOCKET)
            client.read_until(b"\r\n\r\n")
            assert client.read_to_end() == b"bye"
            assert client.how == "fin"
            client.send(b"still")
            until(lambda: upstream.links[0].received.endswith(b"still"), "the other direction still works")
            client.half_close()
            assert daemon.record(path="/ws")["end"] == "done"


def test_a_refused_upgrade_is_an_ordinary_answer(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"no", status="426 Upgrade Required"))) as upstream, run(upstream.url).client() as client:
        assert client.exchange(WEBSOCKET).status == 426
        assert client.exchange(get()).status == 426


@pytest.mark.parametrize(
    "switch",
    [
        SWITCH.replace(b"websocket", b"h2c"),
        SWITCH.replace(b"Upgrade: websocket\r\n", b""),
        SWITCH.replace(b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", b""),
    ],
    ids=["another protocol", "no protocol", "no accept"],
)
def test_a_101_that_does_not_answer_the_question_opens_no_tunnel(switch: bytes, run: Run) -> None:
    with ScriptedUpstream(once(switch, end="keep")) as upstream, run(upstream.url).client() as client:
        assert client.exchange(WEBSOCKET).status == 502
        until(upstream.links[0].ended.is_set, "that link is closed")


def test_upgrades_can_be_forbidden(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, run(upstream.url, route={"upgrade": False}).client() as client:
        client.exchange(WEBSOCKET)
        for request in upstream.requests():
            assert request.first("upgrade") is None


def test_a_tunnel_that_loses_its_upstream_loses_its_client(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(SWITCH)
        link.read_exact(1)
        link.reset()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(WEBSOCKET)
            client.read_until(b"\r\n\r\n")
            client.send(b"x")
            client.read_to_end()
            assert client.how
        assert daemon.record(path="/ws")["end"] == "upstream-gone"
