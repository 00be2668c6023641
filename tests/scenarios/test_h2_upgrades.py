"""WebSocket over HTTP/2 (RFC 8441): an extended CONNECT becomes an HTTP/1.1 handshake, its DATA frames are the tunnel's bytes; nothing else does."""

import base64
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_slow import MIB
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.h2 import Call, Code, H2Client, Pairs, speak
from tests.support.message import Message
from tests.support.upstream import Link, Script, ScriptedUpstream, answer, response
from tests.support.waiting import until

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


def handshake(path: str = "/ws", *, protocol: str = "websocket", fields: Pairs = ()) -> Pairs:
    start: Pairs = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "https"), (":path", path), (":authority", "localhost")]
    return [*start, ("sec-websocket-version", "13"), ("origin", "https://localhost"), *fields]


def switch(request: Message, extra: bytes = b"") -> bytes:
    """The 101 that answers this handshake."""
    key = request.first("sec-websocket-key") or b""
    accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
    return b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%bSec-WebSocket-Accept: %b\r\n\r\n" % (
        extra,
        accept,
    )


def mirror(link: Link) -> None:
    """A tunnel that sends back three bytes, reversed."""
    link.send(switch(link.read_request()))
    while True:
        link.send(link.read_exact(3)[::-1])


def connect(client: H2Client, fields: Pairs | None = None) -> Call:
    client.until(lambda: client.peer.get(h2.ENABLE_CONNECT_PROTOCOL) == 1, "SETTINGS_ENABLE_CONNECT_PROTOCOL")
    return client.open(handshake() if fields is None else fields, ended=False)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_websocket_carries_opaque_bytes_both_ways(tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    """§5: and calls go on beside it."""

    def script(link: Link) -> None:
        if link.owner.links[0] is link:
            mirror(link)
        answer()(link)

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {})
        with speak(daemon, certificate if tls else None) as client:
            socket = connect(client, handshake("/ws?x=y", fields=[("sec-websocket-protocol", "mcp")])).wait_head()
            assert (socket.status, socket.ended) == (200, False)
            assert [
                socket.first(name) for name in ("upgrade", "connection", "sec-websocket-accept", "transfer-encoding", "content-length")
            ] == [None] * 5
            for word in (b"abc", b"\x00\xff\r", b"\r\n\r"):
                socket.send(word)
                assert socket.read_exact(3) == word[::-1]
                assert client.call(body=word).wait().body == word
            socket.cancel()
            until(upstream.links[0].ended.is_set, "the client's end reaches the upstream")
        (request, *_) = upstream.requests()
        assert request.start == b"GET /ws?x=y HTTP/1.1"
        assert [(request.first(name) or b"").lower() for name in ("upgrade", "connection")] == [b"websocket", b"upgrade"]
        assert request.first("sec-websocket-version") == b"13"
        assert len(base64.b64decode(request.first("sec-websocket-key") or b"")) == 16
        assert request.first("sec-websocket-protocol") == b"mcp"
        assert [request.first(name) for name in ("transfer-encoding", "content-length", ":protocol")] == [None] * 3
        record = daemon.record(path="/ws")
        assert (record["protocol"], record["end"]) == ("HTTP/2", "client-gone")
        assert record["bytes_out"] >= 9


def test_the_subprotocol_that_was_chosen_is_told(run: Run) -> None:
    def script(link: Link) -> None:
        link.send(switch(link.read_request(), b"Sec-WebSocket-Protocol: mcp\r\n"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        socket = connect(client, handshake(fields=[("sec-websocket-protocol", "mcp, other")])).wait_head()
        assert socket.first("sec-websocket-protocol") == b"mcp"


def test_bytes_that_came_with_either_head_belong_to_the_tunnel(run: Run) -> None:
    def script(link: Link) -> None:
        link.send(switch(link.read_request()) + b"early from upstream")
        assert link.read_exact(17) == b"early from client"
        link.send(b"!")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        socket = connect(client)
        socket.send(b"early from client")
        assert socket.read_exact(20) == b"early from upstream!"
        client.ping()
        assert socket.room <= client.peer[h2.INITIAL_WINDOW_SIZE], "what waited for the tunnel is given back once"


def test_an_upstream_that_ends_its_side_ends_the_stream(run: Run) -> None:
    """§5: an orderly close is END_STREAM."""

    def script(link: Link) -> None:
        link.send(switch(link.read_request()) + b"bye")

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        socket = connect(client)
        assert socket.read_exact(3) == b"bye"
        client.until(lambda: socket.over, "the end")
        assert socket.ended
        client.ping()


def test_a_client_that_ends_its_side_may_still_hear(run: Run) -> None:
    def script(link: Link) -> None:
        link.send(switch(link.read_request()))
        assert link.read_exact(4) == b"last"
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            socket = connect(client).wait_head()
            socket.send(b"last", ended=True)
            until(upstream.links[0].ended.is_set, "the half-close reaches the upstream")
            socket.wait()
        assert daemon.record(path="/ws")["end"] == "done"


def test_an_upstream_that_breaks_off_resets_the_stream_only(run: Run) -> None:
    """§5: a reset of TCP is a stream error."""

    def script(link: Link) -> None:
        while (request := link.read_request()).method == b"POST":
            link.send(response(request.body))
        link.send(switch(request))
        link.read_exact(1)
        link.reset()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            socket = connect(client).wait_head()
            socket.send(b"x")
            socket.wait()
            assert not socket.ended
            assert socket.reset is not None
            assert client.call(body=b"y").wait().body == b"y"
        assert daemon.record(path="/ws")["end"] == "upstream-gone"


def test_a_refused_upgrade_is_an_ordinary_answer(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"no", status="403 Forbidden"))) as upstream, speak(run(upstream.url)) as client:
        socket = connect(client)
        socket.wait()
        assert (socket.status, socket.body, socket.ended) == (403, b"no", True)
        assert client.call("GET").wait().status == 403


@pytest.mark.parametrize("together", [True, False], ids=["with the head", "behind it"])
def test_nothing_of_a_tunnel_goes_on_before_the_server_switched(together: bool, run: Run) -> None:
    """A server that refuses goes on reading requests: bytes meant for a tunnel would be one."""
    with ScriptedUpstream(answer(response(b"no", status="403 Forbidden"))) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            for _ in range(3):
                socket = connect(client)
                if not together:
                    client.ping()
                socket.send(b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert socket.wait().status == 403
                assert client.call("GET", "/after").wait().status == 403
        assert [request.target for request in upstream.requests()] == [b"/ws", b"/after"] * 3


@pytest.mark.parametrize("accept", [b"", b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n"], ids=["none", "wrong"])
def test_a_101_that_does_not_answer_the_question_opens_no_tunnel(accept: bytes, run: Run) -> None:
    """The key was ours, so the answer to it is ours to judge (RFC 6455 §4.1)."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + accept + b"\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        assert connect(client).wait().status == 502
        until(upstream.links[0].ended.is_set, "that link is closed")


@pytest.mark.parametrize("protocol", ["connect-udp", "", "WebSocket2"])
def test_another_protocol_is_refused(protocol: str, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        call = connect(client, handshake(protocol=protocol))
        client.until(lambda: call.over, "a judgement")
        assert call.reset == Code.PROTOCOL_ERROR or 400 <= call.status <= 501
        assert upstream.requests() == []


def test_upgrades_can_be_forbidden(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url, route={"upgrade": False})) as client:
        client.ping()
        call = client.open(handshake(), ended=False)
        client.until(lambda: call.over, "a judgement")
        assert call.status != 200
        assert [request for request in upstream.heads() if request.first("upgrade")] == []


@pytest.mark.parametrize("shadow", [False, True], ids=["", "shadow"])
def test_no_tunnel_is_opened_where_calls_are_judged(shadow: bool, run: Run) -> None:
    """Nobody would see what passes in it."""
    rules = {"allow": [{"methods": ["*"]}], "shadow": shadow}
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url, route={"tools": rules})) as client:
        call = connect(client).wait()
        assert (call.status, b"upgrade-off" in call.body) == (501, True)
        assert upstream.requests() == []


def test_a_tunnel_has_the_windows_of_its_stream(run: Run) -> None:
    """Who does not read slows the other side, in either direction, and costs no memory."""
    resume = threading.Event()
    size = 8 * MIB

    def script(link: Link) -> None:
        link.send(switch(link.read_request()))
        link.wait(resume)
        link.read_exact(size)
        link.send(bytes(size))
        link.read_until_closed()

    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        daemon = run(upstream.url)
        before = daemon.rss()
        with speak(daemon) as client:
            socket = connect(client).wait_head()
            resume.set()
            block = bytes(65536)
            for _ in range(size // len(block)):
                socket.send(block)
            assert socket.read_exact(size) == bytes(size)
            assert daemon.rss() - before < 3 * MIB


# --- limits


def closes(link: Link) -> None:
    link.send(switch(link.read_request()))
    link.read_exact(1)


def breaks_off(link: Link) -> None:
    closes(link)
    link.reset()


def refuses(link: Link) -> None:
    link.read_request()
    link.send(response(b"no", status="403 Forbidden"))


def client_resets(client: H2Client, socket: Call) -> None:
    socket.cancel()


def client_leaves(client: H2Client, socket: Call) -> None:
    client.close()


def client_ends(client: H2Client, socket: Call) -> None:
    """Its own side; the server then ends the other."""
    socket.send(b"!", ended=True)
    client.until(lambda: socket.over, "the end of the tunnel")


ENDS: list[tuple[Script, Callable[[H2Client, Call], None]]] = [
    (mirror, client_resets),
    (mirror, client_leaves),
    (closes, client_ends),
    (breaks_off, client_ends),
]


@pytest.mark.parametrize(("script", "end"), ENDS, ids=[f"{script.__name__} {end.__name__}" for script, end in ENDS])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_tunnel_has_a_place_until_it_ends(
    tls: bool, script: Script, end: Callable[[H2Client, Call], None], run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """For as long as bytes pass, whoever else of this caller asks over whatever connection is told to wait."""
    answers = answer()
    with ScriptedUpstream(lambda link: (script if link.owner.links.index(link) in (0, 2) else answers)(link)) as upstream:
        one = {"route": {"limits": ["one"]}, "limit": {"one": {"concurrent": 1}}}
        daemon = run(upstream.url, listen=tls_listen if tls else {}, upstream={"keepalive": 0}, **one)
        with speak(daemon, certificate if tls else None) as other:
            for _ in range(2):
                with speak(daemon, certificate if tls else None) as client:
                    socket = connect(client).wait_head()
                    assert socket.status == 200
                    told = client.call(body=b"beside").wait()
                    assert (told.status, told.first("retry-after")) == (429, b"1")
                    assert other.call(body=b"elsewhere").wait().status == 429
                    end(client, socket)
                until(lambda: other.call(body=b"after").wait().status == 200, "a place")
        assert [request.body for request in upstream.requests() if request.method == b"POST"] == [b"after"] * 2


def test_a_refused_upgrade_keeps_no_place(run: Run) -> None:
    one = {"route": {"limits": ["one"]}, "limit": {"one": {"concurrent": 1}}}
    with ScriptedUpstream(refuses) as upstream:
        daemon = run(upstream.url, upstream={"keepalive": 0}, **one)
        with speak(daemon) as client:
            assert [connect(client).wait().status for _ in range(3)] == [403] * 3
