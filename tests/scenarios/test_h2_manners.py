"""HTTP/2 to clients: what works over HTTP/1.1 works the same, each message well-formed on either side (RFC 9113).

The client judges every frame (tests/support/h2.py), the upstream every byte (tests/support/message.py).
"""

import threading
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.client import get, post
from tests.support.h2 import Code, H2Client, Pairs, frame, request_fields, speak
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response
from tests.support.waiting import until

MIB = 1024 * 1024


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def way(request: pytest.FixtureRequest, tls_listen: dict[str, Any], certificate: Certificate) -> dict[str, Any]:
    """`run(url, listen=way["listen"])`, `speak(daemon, way["certificate"])`."""
    return {"listen": tls_listen, "certificate": certificate} if request.param else {"listen": {}, "certificate": None}


# --- how a connection becomes HTTP/2


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(("h2",), "h2"), (("http/1.1", "h2"), "h2"), (("spdy/3", "h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), ((), None)],
)
def test_alpn_prefers_h2_and_forces_nobody(
    offered: tuple[str, ...], chosen: str | None, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """RFC 9113 §3.2."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with daemon.client(tls=certificate.client(alpn=offered)) as raw:
            assert raw.link.selected_alpn_protocol() == chosen  # type: ignore[attr-defined]
            if chosen == "h2":
                assert H2Client(raw).call(body=b"x").wait().body == b"x"
            else:
                assert raw.exchange(post(b"x")).body == b"x"


def test_a_plain_listener_speaks_what_the_client_begins_with(run: Run) -> None:
    """RFC 9113 §3.3, prior knowledge; however the preface is cut."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        hello = h2.PREFACE + h2.settings()
        for pieces in [[hello[:at], hello[at:]] for at in range(1, len(hello))] + [[hello[i : i + 1] for i in range(len(hello))]]:
            with speak(daemon, greet=False) as client:
                for piece in pieces:
                    client.send(piece)
                assert client.call(body=b"x").wait().body == b"x"
        with daemon.client() as client:
            assert client.exchange(post(b"y")).body == b"y"
            assert client.exchange(get()).status == 200


def test_an_upgrade_to_h2c_is_not_taken(run: Run) -> None:
    """RFC 9113 §3.1: obsolete, and the best known way around a proxy's rules; the request is an ordinary one."""
    with ScriptedUpstream(answer()) as upstream, run(upstream.url).client() as client:
        fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        assert client.exchange(get(extra=fields)).status == 200
        (request,) = upstream.requests()
        assert [request.first(name) for name in ("upgrade", "http2-settings", "connection")] in ([None] * 3, [None, None, b"keep-alive"])


def test_the_servers_settings(run: Run) -> None:
    """Announced at once, ours acknowledged (§6.5.3)."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        client.until(lambda: client.acknowledged == 1, "our SETTINGS are acknowledged")
        assert 100 <= client.peer[h2.MAX_CONCURRENT_STREAMS] <= 256
        assert client.peer[h2.INITIAL_WINDOW_SIZE] >= 65535
        assert client.peer[h2.MAX_FRAME_SIZE] >= 16384
        assert 16384 <= client.peer[h2.MAX_HEADER_LIST_SIZE] <= 131072
        assert client.room >= MIB // 2, "a larger window for the connection than for one stream"
        client.send(h2.settings({h2.INITIAL_WINDOW_SIZE: 100_000, 0xABCD: 7}))
        client.until(lambda: client.acknowledged == 2, "the second SETTINGS, one of them unknown (§6.5.2)")


# --- a request as its server sees it


def test_a_call_becomes_an_http_1_1_request(run: Run, way: dict[str, Any]) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=way["listen"])
        with speak(daemon, way["certificate"]) as client:
            call = client.call(
                "POST", "/mcp?a=b", b'{"id":1}', fields=[("mcp-session-id", "s-1"), ("te", "trailers"), ("x-own", "a, b")]
            ).wait()
            assert (call.status, call.body, call.ended) == (200, b'{"id":1}', True)
        (request,) = upstream.requests()
        assert request.start == b"POST /mcp?a=b HTTP/1.1"
        assert request.body == b'{"id":1}'
        assert request.all("host") == [upstream.url.removeprefix("http://").encode()]
        expected = {
            "content-length": [b"8"],
            "content-type": [b"application/json"],
            "mcp-session-id": [b"s-1"],
            "x-own": [b"a, b"],
            "x-forwarded-for": [b"127.0.0.1"],
            "x-forwarded-proto": [b"https" if way["certificate"] else b"http"],
            "x-forwarded-host": [b"localhost"],
        }
        assert {name: request.all(name) for name in expected} == expected
        assert [request.first(name) for name in ("transfer-encoding", "te", "upgrade", ":path", ":authority")] == [None] * 5
        assert len(request.all("x-request-id")) == 1


def test_a_get_has_no_body(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        assert client.call("GET").wait().status == 200
        assert client.call("DELETE").wait().status == 200
        for request in upstream.requests():
            assert [request.first("content-length"), request.first("transfer-encoding")] == [None, None]


def test_bodies_of_known_and_of_unknown_length(run: Run, way: dict[str, Any]) -> None:
    """content-length → Content-Length, else chunks; one byte, one frame, many frames, empty frames between, an empty end."""
    with ScriptedUpstream(answer(lambda request: response(request.body[::-1]))) as upstream:
        daemon = run(upstream.url, listen=way["listen"])
        with speak(daemon, way["certificate"]) as client:
            for body in (b"", b"x", b"y" * 16384, bytes(range(256)) * 1200):
                length = client.call(body=body).wait()
                assert (length.status, length.body) == (200, body[::-1])
                open_ended = client.call(body=body, ended=False).send(b"").end().wait()
                assert (open_ended.status, open_ended.body) == (200, body[::-1])
            split = client.call(body=b"", ended=False)
            for i in range(10):
                split.send(b"%d" % i)
            assert split.end().wait().body == b"9876543210"
        known, unknown = upstream.requests()[2:4]
        assert (known.first("content-length"), known.first("transfer-encoding")) == (b"1", None)
        assert (unknown.first("content-length"), unknown.first("transfer-encoding")) == (None, b"chunked")


def test_a_promised_length_may_end_with_an_empty_frame(run: Run) -> None:
    """§8.1.1: what counts is the sum of the DATA frames."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        call = client.open(request_fields(length=3), ended=False)
        call.send(b"abc")
        assert call.end().wait().body == b"abc"
        none = client.open(request_fields(length=0), ended=False)
        assert none.end().wait().status == 200
        assert client.open(request_fields(length=0)).wait().status == 200


def test_padding_is_no_payload_and_is_paid_for(run: Run) -> None:
    """§6.1, §6.2: 64 KiB windows would be used up by padding alone, were it not given back."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        fields = request_fields(fields=[("x", "y")])
        call = client.open(fields, ended=False, block=client.encoder.encode(fields))
        for _ in range(1000):
            client.until(lambda: min(call.room, client.room) >= 260, "windows open again")
            client.send(frame(h2.DATA, h2.PADDED, call.number, b"\xff" + b"abcd" + bytes(255)))
            call.room, client.room = call.room - 260, client.room - 260
        assert call.end().wait().body == b"abcd" * 1000
        padded, head = client.stream(b"GET"), client.encoder.encode(request_fields("GET"))
        flags = h2.PADDED | h2.WITH_PRIORITY | h2.END_HEADERS | h2.END_STREAM
        client.send(frame(h2.HEADERS, flags, padded.number, b"\7\0\0\0\0\x10" + head + bytes(7)))
        assert padded.wait().status == 200


def test_a_head_in_many_continuations(run: Run) -> None:
    """§6.10."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        block = client.encoder.encode(request_fields("GET", fields=[("x-long", "y" * 3000)]))
        size = len(block) // 8 + 1
        pieces = [block[at : at + size] for at in range(0, len(block), size)]
        call = client.stream(b"GET")
        client.send(frame(h2.HEADERS, h2.END_STREAM, 1, pieces[0]))
        for piece in pieces[1:-1]:
            client.send(frame(h2.CONTINUATION, 0, 1, piece))
        client.send(frame(h2.CONTINUATION, h2.END_HEADERS, 1, pieces[-1]))
        assert call.wait().status == 200
        assert upstream.requests()[0].first("x-long") == b"y" * 3000


def test_cookies_are_joined_again(run: Run) -> None:
    """§8.2.3."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        client.call("GET", fields=[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")]).wait()
        assert upstream.requests()[0].all("cookie") == [b"a=1; b=2; c=3"]


@pytest.mark.parametrize(
    "fields",
    [
        [(":authority", "localhost")],
        [(":authority", "localhost:8443"), ("host", "localhost:8443")],
        [("host", "localhost")],
        [(":authority", "LOCALHOST"), ("host", "localhost")],
    ],
    ids=["authority", "both", "host", "capitals"],
)
def test_the_authority_is_the_host(fields: Pairs, run: Run) -> None:
    """§8.3.1."""
    config: dict[str, Any] = {"route": {"host": ["localhost"]}}
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url, **config)) as client:
        pseudo = [pair for pair in fields if pair[0] != "host"]
        plain = [pair for pair in fields if pair[0] == "host"]
        call = client.open([(":method", "GET"), (":scheme", "http"), (":path", "/mcp"), *pseudo, ("accept", "*/*"), *plain]).wait()
        assert call.status == 200
        (request,) = upstream.requests()
        assert len(request.all("host")) == 1
        assert (request.first("x-forwarded-host") or b"").lower() == str(fields[-1][1]).lower().encode()


def test_a_name_no_route_knows_is_421_and_a_path_404(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route={"host": ["localhost"], "path": "/mcp"})
        with speak(daemon) as client:
            assert client.call("GET", host="evil.example").wait().status == 421
            assert client.call("GET", "/other").wait().status == 404
            assert client.call("GET").wait().status == 200
        assert len(upstream.requests()) == 1


def test_options_asks_about_the_whole_server(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        assert client.call("OPTIONS", "*").wait().status == 200
        assert upstream.requests()[0].start == b"OPTIONS * HTTP/1.1"


def test_what_is_ignored_is_ignored(run: Run) -> None:
    """Priorities (§5.3.2), loops of them too, unknown frames and flags (§4.1, §5.5), priority updates (RFC 9218)."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        client.send(frame(h2.PRIORITY, 0, 5, b"\0\0\0\7\x10") + frame(h2.PRIORITY, 0, 7, b"\0\0\0\5\x10"))
        client.send(frame(0xFA, 0xFF, 0, b"grease") + frame(0xFA, 0xFF, 3, b"") + frame(0x10, 0, 0, b"\0\0\0\1u=1"))
        call = client.call("POST", body=b"a", ended=False)
        client.send(frame(h2.PRIORITY, 0, call.number, b"\x80\0\0\0\xff") + frame(0xFB, 0, call.number, b"?"))
        client.send(frame(h2.DATA, 0x40, call.number, b"b"))
        call.room -= 1
        client.room -= 1
        assert call.end().wait().body == b"ab"
        assert client.goaway is None


# --- answers


@pytest.mark.parametrize("status", ["202 Accepted", "404 Not Found", "405 Method Not Allowed", "409 Conflict", "503 Service Unavailable"])
def test_statuses_and_their_fields_pass(status: str, run: Run) -> None:
    fields = "Mcp-Session-Id: s-1\r\nWWW-Authenticate: Bearer\r\nRetry-After: 7\r\nAllow: POST\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
    with ScriptedUpstream(answer(response(b"", status=status, extra=fields))) as upstream, speak(run(upstream.url)) as client:
        got = client.call(body=b"{}").wait()
        assert (got.status, got.body, got.ended) == (int(status[:3]), b"", True)
        names = ("mcp-session-id", "www-authenticate", "retry-after", "allow", "content-length")
        assert [got.first(name) for name in names] == [b"s-1", b"Bearer", b"7", b"POST", b"0"]
        assert got.all("set-cookie") == [b"a=1", b"b=2"]


FRAMINGS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcde",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nabcde",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nabcde",
    "keep-alive": b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nabcde",
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_in_any_framing_becomes_data(framing: str, run: Run, way: dict[str, Any]) -> None:
    with ScriptedUpstream(once(FRAMINGS[framing])) as upstream:
        daemon = run(upstream.url, listen=way["listen"])
        with speak(daemon, way["certificate"]) as client:
            for _ in range(3):
                got = client.call("GET").wait()
                assert (got.status, got.body, got.ended, got.reset) == (200, b"abcde", True, None)
                assert got.first("content-length") == (b"5" if b"Length" in FRAMINGS[framing] else None)
                assert got.first("x-hop") is None


@pytest.mark.parametrize("fields", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""])
def test_an_answer_to_head_has_no_body(fields: str, run: Run) -> None:
    reply = f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode()
    with ScriptedUpstream(answer(lambda request: reply if request.method == b"HEAD" else response(b"x"))) as upstream:
        with speak(run(upstream.url)) as client:
            got = client.call("HEAD").wait()
            assert (got.status, got.ended, got.body) == (200, True, b"")
            assert got.first("content-length") == (b"5" if "Length" in fields else None)
            assert client.call("GET").wait().body == b"x"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_204_and_304_end_with_their_head(status: str, run: Run) -> None:
    reply = f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()
    with ScriptedUpstream(answer(lambda request: reply if request.target == b"/none" else response(b"x"))) as upstream:
        with speak(run(upstream.url)) as client:
            got = client.call("GET", "/none").wait()
            assert (got.status, got.ended, got.first("etag")) == (int(status[:3]), True, b"x")
            assert client.call("GET").wait().body == b"x"
        assert len(upstream.links) == 1


def test_trailers_of_a_request_pass(run: Run) -> None:
    """§8.1: as trailers of chunks."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        assert client.call(body=b"abc", ended=False).end([("x-sum", "7")]).wait().body == b"abc"
        (request,) = upstream.requests()
        assert (request.body, [(name.lower(), value) for name, value in request.trailers]) == (b"abc", [(b"x-sum", b"7")])


def test_trailers_of_a_response_pass(run: Run) -> None:
    """§8.1: as a second HEADERS frame, which ends the stream; what HTTP/1.1 knows about a hop and HTTP/2 does not is left out."""
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
    with ScriptedUpstream(answer(reply)) as upstream, speak(run(upstream.url)) as client:
        got = client.call(body=b"{}").wait()
        assert (got.body, got.trailers, got.ended, got.reset) == (b"abc", [(b"x-sum", b"9")], True, None)


def test_trailers_after_a_promised_length(run: Run) -> None:
    """HTTP/1.1 has no place for them behind Content-Length: the call is served all the same, and well-formed."""
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        call = client.open(request_fields(length=3), ended=False)
        assert call.send(b"abc").end([("x-sum", "7")]).wait().body == b"abc"
        assert [request.body for request in upstream.requests()] == [b"abc"]


def test_early_hints_pass(run: Run) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    with ScriptedUpstream(once(hints + hints, response(b"x"))) as upstream, speak(run(upstream.url)) as client:
        got = client.call("GET").wait()
        assert [dict(each)[b"link"] for each in got.informational] == [b"</a.css>; rel=preload"] * 2
        assert (got.status, got.body) == (200, b"x")


def test_the_upstream_decides_about_100_continue(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        link.send(response(link.read_exact(5)))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        call = client.open(request_fields(fields=[("expect", "100-continue")], length=5), ended=False)
        client.until(lambda: call.informational, "the interim answer comes before the body goes")
        assert call.informational[0][0] == (b":status", b"100")
        assert call.send(b"hello", ended=True).wait().body == b"hello"


def test_a_final_answer_instead_of_100_ends_the_matter(run: Run) -> None:
    """The answer is whole, the client takes its request back, the connection goes on."""

    def script(link: Link) -> None:
        link.read_head()
        link.send(response(b"no", status="417 Expectation Failed"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            call = client.open(request_fields(fields=[("expect", "100-continue")], length=5), ended=False).wait()
            assert (call.status, call.ended, call.body) == (417, True, b"no")
            call.cancel()
            client.ping()
            assert client.goaway is None
        assert daemon.record(path="/mcp")["status"] == 417


def test_an_early_answer_ends_nothing_but_the_answer(run: Run) -> None:
    """A reset without an error would be allowed (§8.1), but clients forget the answer over it: what still comes is read, and forgotten."""

    def script(link: Link) -> None:
        if b"POST /early" in link.read_head():
            link.send(response(b"enough", status="403 Forbidden", extra="Connection: close\r\n"))
        else:
            link.send(response(b"other"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            upload = client.open(request_fields(path="/early"), ended=False)
            upload.send(b"x" * 10_000).wait()
            assert (upload.status, upload.body, upload.ended) == (403, b"enough", True)
            for rest in range(199, -1, -1):  # 3 MB: more than any window
                client.until(lambda: min(upload.room, client.room) >= 15_000, "both windows are open")
                client.send(frame(h2.DATA, 0 if rest else h2.END_STREAM, upload.number, bytes(15_000)))
                upload.room -= 15_000
                client.room -= 15_000
            assert client.call("GET").wait().body == b"other"
            assert upload.reset is None
            assert client.goaway is None
        assert daemon.record(path="/early")["status"] == 403


def test_bytes_of_an_upload_nobody_wants_are_given_back_to_the_connection(run: Run) -> None:
    """§5.1, §6.9: else every early answer would cost a piece of the connection's window, until it stands still."""

    def script(link: Link) -> None:
        while True:
            if b"POST /early" in link.read_head():
                link.send(response(b"enough", extra="Connection: close\r\n"))
                return
            link.send(response(b"other"))

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        client.ping()
        for _ in range(40):  # 2.5 MB, more than any window of a connection
            upload = client.open(request_fields(path="/early"), ended=False)
            upload.wait()
            assert upload.status == 200
            for _ in range(3):
                client.until(lambda: client.room >= 16384, "the connection's window is open")
                client.send(frame(h2.DATA, 0, upload.number, bytes(16384)))
                client.room -= 16384
            upload.cancel()
        assert client.call("GET").wait().body == b"other"


@pytest.mark.parametrize("promised", [True, False], ids=["length", "chunks"])
def test_a_body_that_is_too_large_is_413(promised: bool, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route={"max_body": "10KiB"})
        with speak(daemon) as client:
            call = client.open(request_fields(length=20_000 if promised else None), ended=False)
            call.send(b"x" * 20_000, ended=True).wait()
            assert call.status == 413
            assert b'"jsonrpc"' in call.body
            client.ping()
            assert client.call(body=b"small").wait().body == b"small"
        assert daemon.record(status=413)["end"] == "refused"
        assert [request.body for request in upstream.requests()] == [b"small"]


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/" + "x" * 9000, [], 414),
        ("/", [("x", "y")] * 150, 431),
        ("/", [("x", "y" * 40_000)], 431),
        ("/", [(f"x-{i}", "y" * 900) for i in range(60)], 431),
    ],
    ids=["target", "fields", "one field", "all fields"],
)
def test_a_head_that_is_too_large_is_refused_and_the_connection_goes_on(path: str, fields: Pairs, status: int, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url)) as client:
        call = client.open(request_fields("GET", path, fields=fields)).wait()
        assert call.status == status
        assert client.call(body=b"x").wait().body == b"x"
        assert len(upstream.requests()) == 1


def test_health_and_redirects_are_answered_here(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen={"redirect": "https"}, route={"host": ["localhost"]})
        with speak(daemon) as client:
            got = client.call("GET", "/mcp?x=y").wait()
            assert (got.status, got.first("location")) == (308, b"https://localhost/mcp?x=y")
        assert upstream.links == []


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\x00: b\r\n\r\n",
        b"",
    ],
    ids=["garbage", "two lengths", "unasked 101", "NUL", "nothing"],
)
def test_a_broken_answer_is_502(reply: bytes, run: Run) -> None:
    with ScriptedUpstream(once(reply)) as upstream:
        daemon = run(upstream.url, upstream={"retry_after": "0s"})
        with speak(daemon) as client:
            got = client.call(body=b"{}").wait()
            assert (got.status, got.ended) == (502, True)
            assert b'"jsonrpc"' in got.body
            client.ping()
        assert daemon.record(path="/mcp")["status"] == 502


def test_nobody_there_is_502_on_its_stream(run: Run) -> None:
    daemon = run(f"http://127.0.0.1:{free_port()}")
    with speak(daemon) as client:
        calls = [client.call(body=b"{}") for _ in range(5)]
        assert [call.wait().status for call in calls] == [502] * 5


# --- many at once


def test_a_hundred_calls_at_once_each_get_their_own_answer(run: Run, way: dict[str, Any]) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=way["listen"])
        with speak(daemon, way["certificate"]) as client:
            for turn in range(3):
                calls = [client.call(body=b"%d/%d" % (turn, i)) for i in range(100)]
                assert [call.wait().body for call in calls] == [b"%d/%d" % (turn, i) for i in range(100)]
        assert len(daemon.wait_records(300)) == 300


def test_a_slow_call_holds_up_no_other(run: Run) -> None:
    """No head-of-line blocking between streams: what HTTP/1.1 pipelining could not do."""
    opened = threading.Event()

    def reply(request: Message) -> bytes:
        if request.body == b"slow":
            assert opened.wait(10)
        return response(request.body)

    with ScriptedUpstream(answer(reply)) as upstream, speak(run(upstream.url)) as client:
        slow = client.call(body=b"slow")
        assert [client.call(body=b"%d" % i).wait().body for i in range(20)] == [b"%d" % i for i in range(20)]
        assert not slow.over
        opened.set()
        assert slow.wait().body == b"slow"
        assert len(upstream.links) == 2, "one link for the slow call, one kept for the others"


def test_more_streams_than_allowed_are_refused_and_may_be_tried_again(run: Run) -> None:
    """§5.1.2: REFUSED_STREAM, which says that nothing was done; or PROTOCOL_ERROR. The others go on."""
    opened = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.wait(opened)
        link.send(response(b"x"))

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        client.ping()
        allowed = client.peer[h2.MAX_CONCURRENT_STREAMS]
        calls = [client.call("GET") for _ in range(allowed + 5)]
        for call in calls[allowed:]:
            assert call.wait().reset in (Code.REFUSED_STREAM, Code.PROTOCOL_ERROR)
        opened.set()
        assert [call.wait().status for call in calls[:allowed]] == [200] * allowed
        assert client.call("GET").wait().status == 200
        until(lambda: len(upstream.requests()) == allowed + 1, "every stream that was not refused, and no other")


# --- windows


def test_big_answers_fit_small_windows(run: Run) -> None:
    """§6.9: to the byte, with the smallest frames and the largest."""
    body = bytes(range(256)) * 1000
    with ScriptedUpstream(answer(response(body))) as upstream:
        daemon = run(upstream.url)
        for window in (0, 1000, 65535, MIB):
            with speak(daemon, settings={h2.INITIAL_WINDOW_SIZE: window}) as client:
                call = client.call("GET")
                if window == 0:
                    call.wait_head()
                    assert (call.status, call.body) == (200, b"")
                    call.credit(len(body))
                assert call.wait().body == body


def test_a_change_of_the_initial_window_moves_open_streams(run: Run) -> None:
    """§6.9.2: also below zero; then the stream waits until it is above zero again."""
    body = b"x" * 100_000
    with ScriptedUpstream(answer(response(body))) as upstream:
        with speak(run(upstream.url), settings={h2.INITIAL_WINDOW_SIZE: 40_000}, credit=False, window=MIB) as client:
            call = client.call("GET")
            client.until(lambda: len(call.data) == 40_000, "all that the window takes")
            client.send(h2.settings({h2.INITIAL_WINDOW_SIZE: 10_000}))
            call.window -= 30_000
            client.until(lambda: client.acknowledged == 2, "the smaller window is known")
            assert call.window == -30_000
            call.credit(30_000)
            client.ping()
            assert len(call.data) == 40_000, "zero is no room"
            call.credit(1)
            client.until(lambda: len(call.data) == 40_001, "one byte of room")
            client.send(h2.settings({h2.INITIAL_WINDOW_SIZE: 70_000}))
            call.window += 60_000
            assert call.wait().body == body


def test_the_end_of_a_body_needs_no_room(run: Run) -> None:
    """§6.9: an empty DATA frame with END_STREAM may be sent whatever the window says, also below zero."""
    ends = threading.Event()

    def two_parts(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n" + b"x" * 40_000 + b"\r\n")
        ends.wait(30)
        link.send(b"0\r\n\r\n")

    with ScriptedUpstream(two_parts) as upstream:
        with speak(run(upstream.url), settings={h2.INITIAL_WINDOW_SIZE: 40_000}, credit=False, window=MIB) as client:
            call = client.call("GET")
            client.until(lambda: len(call.data) == 40_000, "all that the window takes")
            client.send(h2.settings({h2.INITIAL_WINDOW_SIZE: 10_000}))
            call.window -= 30_000
            client.until(lambda: client.acknowledged == 2, "the smaller window is known")
            ends.set()
            assert len(call.wait().body) == 40_000


def test_a_client_without_a_dynamic_table_is_understood_and_understands(run: Run) -> None:
    """RFC 7541 §4.2: SETTINGS_HEADER_TABLE_SIZE = 0, then larger again."""
    with ScriptedUpstream(answer(response(b"x", extra="X-Long: abcdefghijklmnop\r\n"))) as upstream:
        with speak(run(upstream.url), settings={h2.HEADER_TABLE_SIZE: 0}) as client:
            for _ in range(5):
                call = client.call("GET").wait()
                assert (call.status, call.first("x-long")) == (200, b"abcdefghijklmnop")
            assert len(client.decoder.header_table.dynamic_entries) == 0
            client.decoder.max_allowed_table_size = 4096
            client.send(h2.settings({h2.HEADER_TABLE_SIZE: 4096}))
            client.until(lambda: client.acknowledged == 2, "the table may grow")
            for _ in range(5):
                assert client.call("GET").wait().first("x-long") == b"abcdefghijklmnop"
