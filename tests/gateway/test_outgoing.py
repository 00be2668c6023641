"""Requests of our own: answers whole and in events, ends of all kinds, and what is done twice."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mcpproxy.errors import ProxyError, Side
from mcpproxy.gateway import outgoing
from mcpproxy.gateway.outgoing import Reply, Request, principal_of
from mcpproxy.net.tls import client_context
from mcpproxy.policy.limits import identity
from mcpproxy.policy.verdict import Ask, Principal, Question
from mcpproxy.upstream.pool import UpstreamLink
from tests.gateway.room import Room
from tests.support.certs import Certificate
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


def post(**more: Any) -> Request:
    return Request(b"POST", b"/mcp", b"Accept: */*\r\n", b"{}", **more)


def test_an_answer_is_there_with_its_last_byte_and_its_link_is_used_again(room: Room) -> None:
    with ScriptedUpstream(answer(response(b'{"a":1}', extra="Mcp-Session-Id: s\r\n"))) as upstream:
        outgoing = room.outgoing(upstream.url)
        for _ in range(2):
            reply = room.run(outgoing.ask(post()))
            assert (reply.status, reply.body, reply.first(b"mcp-session-id"), reply.events) == (200, b'{"a":1}', b"s", False)
            assert reply.media_type == b"application/json"
        assert len(upstream.links) == 1
        request = upstream.requests()[0]
        assert (request.first("host"), request.first("accept"), request.body) == (b"127.0.0.1:%d" % upstream.port, b"*/*", b"{}")
        assert outgoing.pool.in_use == 0


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\nall of it",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall of it",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n6\r\n of it\r\n0\r\n\r\n",
    ],
)
def test_every_framing_is_read(room: Room, head: bytes) -> None:
    for pieces in ((head,), tuple(head[i : i + 1] for i in range(len(head)))):
        with ScriptedUpstream(once(*pieces)) as upstream:
            assert room.run(room.outgoing(upstream.url).ask(post())).body == b"all of it"


def streaming(room: Room, upstream: ScriptedUpstream, **more: Any) -> tuple[Reply, list[Any]]:
    heard: list[Any] = []
    outgoing = room.outgoing(upstream.url)
    return room.run(outgoing.ask(post(**more), lambda event: heard.append(event.data), heard.append)), heard


def test_events_come_as_they_are_said_and_the_end_once(room: Room) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(SSE + chunk(b"id: 4\r\nretry: 250\r\ndata: one\r\n\r\n") + chunk(b"data: tw"))
        link.read_request()  # which never comes: the test ends it

    with ScriptedUpstream(script) as upstream:
        reply, heard = streaming(room, upstream)
        room.until(lambda: heard == [b"one"])
        assert (reply.events, reply.last_id, reply.retry) == (True, b"4", 0.25)
        upstream.links[0].send(chunk(b"o\n\n") + b"0\r\n\r\n")
        room.until(lambda: heard == [b"one", b"two", None])
        assert reply._asking._outgoing.pool.snapshot()["idle"] == 1


def test_a_flood_of_events_is_read_in_turns_and_none_is_lost(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "FLOOD", 10)
    monkeypatch.setattr(outgoing, "FLOOD_S", 0.05)
    paused: list[UpstreamLink] = []
    pause = UpstreamLink.pause
    monkeypatch.setattr(UpstreamLink, "pause", lambda link: (paused.append(link), pause(link))[1])
    pieces = [b"".join(b"data: %d\n\n" % number for number in range(first, first + 5000)) for first in (0, 5000, 10_000)]
    with ScriptedUpstream(once(SSE, *map(chunk, pieces), b"0\r\n\r\n")) as upstream:
        reply, heard = streaming(room, upstream)
        room.until(lambda: heard[-1:] == [None])
    assert reply.events
    assert heard == [*(b"%d" % number for number in range(15_000)), None]
    assert len(paused) > 1


def test_without_anybody_who_hears_a_stream_is_a_body(room: Room) -> None:
    with ScriptedUpstream(once(SSE + chunk(b"data: one\n\n") + b"0\r\n\r\n")) as upstream:
        assert room.run(room.outgoing(upstream.url).ask(post())).body == b"data: one\n\n"


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_stream_that_is_cut_ends_with_an_error_and_half_an_event_is_none(room: Room, end: str) -> None:
    with ScriptedUpstream(once(SSE + chunk(b"data: one\n\n") + chunk(b"data: half\n"), end=end)) as upstream:
        _, heard = streaming(room, upstream)
        room.until(lambda: len(heard) == 2 or (heard and isinstance(heard[0], ProxyError)))
        assert heard[-1].kind == "upstream-cut-answer"
        assert b"half" not in heard


def test_a_closed_stream_hangs_up_and_says_nothing_more(room: Room) -> None:
    with ScriptedUpstream(once(SSE + chunk(b"data: one\n\n"), end="keep")) as upstream:
        reply, heard = streaming(room, upstream)
        reply.close()
        assert upstream.links[0].ended.wait(10)
        room.turn()
        assert heard in ([], [b"one"])
        assert reply._asking._outgoing.pool.in_use == 0


def test_a_stream_that_lingers_gives_its_link_back_or_is_cut_in_time(room: Room) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(SSE + chunk(b"data: one\n\n"))
        link.read_request()

    with ScriptedUpstream(script) as upstream:
        for ends in (True, False):
            reply, heard = streaming(room, upstream)
            pool = reply._asking._outgoing.pool
            room.until(lambda heard=heard: heard)
            reply.linger()
            if ends:
                upstream.links[0].send(b"0\r\n\r\n")
                room.until(lambda pool=pool: pool.in_use == 0)
                assert pool.snapshot()["idle"] == 1
            else:
                room.until(lambda pool=pool: pool.in_use == 0)
                assert pool.snapshot()["idle"] == 0
            assert heard == [b"one"]


def test_to_cancel_is_to_hang_up(room: Room) -> None:
    with ScriptedUpstream(once(end="keep")) as upstream:
        outgoing = room.outgoing(upstream.url)

        async def ask() -> None:
            with pytest.raises(asyncio.CancelledError):
                await outgoing.ask(post())

        task = room.loop.create_task(ask())
        room.until(upstream.requests)
        task.cancel()
        room.until(task.done)
        assert upstream.links[0].ended.wait(10)
        assert outgoing.pool.in_use == 0


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", "upstream-closed"),
        (b"HTTP/1.1 200 O", "upstream-cut-head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfou", "upstream-cut-answer"),
        (b"SSH-2.0-OpenSSH\r\n", "bad-status-line"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "unasked-101"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 17, "too-many-interim-responses"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "answer-too-large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1001, "answer-too-large"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "bad-chunk-size"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\na", "compressed-answer"),
        (b"HTTP/1.1 200 OK\r\nX: %b\r\n" % (b"a" * 66_000), "response-head-too-large"),
    ],
)
def test_what_is_no_answer_is_an_error(room: Room, reply: bytes, kind: str) -> None:
    with ScriptedUpstream(once(reply)) as upstream:
        outgoing = room.outgoing(upstream.url)
        with pytest.raises(ProxyError) as failed:
            room.run(outgoing.ask(post(most=1000)))
        assert failed.value.kind == kind
        assert outgoing.pool.in_use == 0
        blamed = outgoing.pool.endpoints[0].failures
        assert blamed == (kind not in ("answer-too-large", "compressed-answer"))


def test_an_event_that_is_too_large_ends_its_stream(room: Room) -> None:
    with ScriptedUpstream(once(SSE + chunk(b"data: one\n\n") + chunk(b"data: %b" % (b"a" * 1001)), end="keep")) as upstream:
        _, heard = streaming(room, upstream, most=1000)
        room.until(lambda: heard and isinstance(heard[-1], ProxyError))
        assert heard[-1].kind == "answer-too-large"


def test_nobody_there_is_told_at_once(room: Room) -> None:
    with pytest.raises(ProxyError, match="connect-refused"):
        room.run(room.outgoing(f"http://127.0.0.1:{free_port()}").ask(post()))


@pytest.mark.parametrize(("repeatable", "served"), [(True, True), (False, False)])
def test_a_link_that_died_while_idle_is_replaced_where_doing_it_twice_is_no_harm(room: Room, repeatable: bool, served: bool) -> None:
    def closes(link: Link) -> None:
        link.read_request()
        link.send(response(b"1"))
        link.read_request()
        link.reset()

    with ScriptedUpstream(closes, answer(response(b"2"))) as upstream:
        outgoing = room.outgoing(upstream.url)
        room.run(outgoing.ask(post()))
        if served:
            assert room.run(outgoing.ask(post(repeatable=repeatable))).body == b"2"
        else:
            with pytest.raises(ProxyError, match="upstream-closed"):
                room.run(outgoing.ask(post(repeatable=repeatable)))
        assert outgoing.pool.in_use == 0


def test_a_link_that_was_closed_a_moment_ago_is_not_posted_to(room: Room) -> None:
    closed = threading.Event()

    def closes(link: Link) -> None:
        link.read_request()
        link.send(response(b"1"))
        link.raw.shutdown(socket.SHUT_RDWR)
        closed.set()

    with ScriptedUpstream(closes, answer(response(b"2"))) as upstream:
        outgoing = room.outgoing(upstream.url)

        async def twice() -> bytes:
            await outgoing.ask(post())
            closed.wait(10)  # the loop does not turn meanwhile, and does not see it
            return (await outgoing.ask(post())).body

        assert room.run(twice()) == b"2"
        assert outgoing.pool.in_use == 0


def test_a_session_goes_to_its_own_server(room: Room) -> None:
    with ScriptedUpstream(answer(response(b"1"))) as first, ScriptedUpstream(answer(response(b"2"))) as second:
        outgoing = room.outgoing(first.url, second.url)
        replies = [room.run(outgoing.ask(post())) for _ in range(2)]
        assert {reply.body for reply in replies} == {b"1", b"2"}
        for reply in replies:
            assert all(room.run(outgoing.ask(post(at=reply.endpoint))).body == reply.body for _ in range(3))


class Credentials:
    """An Outbound that asks before it knows, and that is told when its credential was refused."""

    static, each, needs_body = b"X-Static: 1\r\n", True, False

    def __init__(self, *found: bytes | ProxyError) -> None:
        self.found = list(found)
        self.asked = 0
        self.refused: list[Principal | None] = []

    def lines(self, principal: Principal | None, _shown: Any, _now: float, _request: Any) -> bytes | Ask | ProxyError:
        if not self.asked:
            return Ask(Question("token", self._ask))
        return self.found[min(len(self.refused), len(self.found) - 1)]

    async def _ask(self) -> None:
        self.asked += 1

    def rejected(self, principal: Principal | None, _shown: Any, _now: float) -> None:
        self.refused.append(principal)


def test_credentials_are_asked_for_first_and_anew_when_they_are_refused(room: Room) -> None:
    def judge(link: Link) -> None:
        while True:
            request = link.read_request()
            link.send(response(b"{}", status="200 OK" if request.first("authorization") == b"Bearer b" else "401 No"))

    outbound = Credentials(b"Authorization: Bearer a\r\n", b"Authorization: Bearer b\r\n")
    with ScriptedUpstream(judge) as upstream:
        outgoing = room.outgoing(upstream.url, outbound=outbound)
        assert room.run(outgoing.ask(post(principal="oidc\nalice"))).status == 200
        assert outbound.refused == [Principal("alice", "oidc")]
        assert upstream.requests()[0].first("x-static") == b"1"
    outbound.found, outbound.refused = [ProxyError("upstream-credential-refused", Side.INTERNAL, 502)], []
    with pytest.raises(ProxyError, match="upstream-credential-refused"):
        room.run(outgoing.ask(post()))


def test_tls_is_spoken_with_who_shows_a_good_certificate(room: Room, certificate: Certificate) -> None:
    with ScriptedUpstream(answer(response(b"{}")), tls=certificate.server()) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        assert room.run(room.outgoing(url, tls=client_context(str(certificate.cert), True)).ask(post())).status == 200
        with pytest.raises(ProxyError, match="upstream-tls"):
            room.run(room.outgoing(url, tls=client_context(None, True)).ask(post()))
        room.until(lambda: upstream.errors)  # which the refused handshake is on its side
        upstream.errors.clear()


def test_who_calls_is_known_from_its_identity() -> None:
    alice = Principal("alice", "oidc")
    assert principal_of(identity(alice)) == alice
    assert principal_of(identity(None)) is None


def test_what_raises_while_it_hears_ends_the_stream_and_gives_the_link_back(room: Room) -> None:
    def hear(_: Any) -> None:
        raise RuntimeError("of the test")

    with ScriptedUpstream(once(SSE + chunk(b"data: one\n\n"), end="keep")) as upstream:
        outgoing = room.outgoing(upstream.url)
        ends: list[Any] = []
        room.run(outgoing.ask(post(), hear, ends.append))
        room.until(lambda: ends)
        assert outgoing.pool.in_use == 0
        assert len(room.trouble) == 1
        room.trouble.clear()
