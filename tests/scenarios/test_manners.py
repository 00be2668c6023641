"""HTTP/1.1 as both sides may speak it: expectations, early answers, pipelining, HTTP/1.0, bodiless answers, trailers, half-close.

RFC 9110 and 9112 give the rules; what a client sees has to be well-formed in its own version, what an upstream sees too.
"""

import threading

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import RawClient, get, post
from tests.support.message import Message
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response
from tests.support.waiting import until

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTING = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


# --- Expect: 100-continue (RFC 9110 §10.1.1)


def test_the_upstream_decides_about_100_continue(run: Run) -> None:
    """The client sends its body only after the interim answer, which is the upstream's."""
    head_seen = threading.Event()

    def script(link: Link) -> None:
        link.read_head()
        head_seen.set()
        link.send(CONTINUE)
        link.send(response(link.read_exact(5)))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(EXPECTING)
        client.read_until(CONTINUE)
        assert head_seen.is_set()
        assert client.exchange(b"hello").body == b"hello"
        assert b"expect: 100-continue" in upstream.links[0].received.lower()


def test_a_client_that_does_not_wait_for_100_is_served(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_head()
        link.send(CONTINUE + response(link.read_exact(5)))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        got = client.exchange(EXPECTING + b"hello")
        assert got.body == b"hello"
        assert [each.status for each in got.informational] in ([], [100])


def test_a_final_answer_instead_of_100_ends_the_matter(run: Run) -> None:
    """The body is never sent: the connection cannot go on unless it says so."""
    with ScriptedUpstream(_refuse_expectation) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            got = client.exchange(EXPECTING)
            assert (got.status, got.ended, got.body) == (417, True, b"no")
            assert got.first("connection") == b"close"
            assert client.is_closed()
        assert daemon.record(path="/mcp")["status"] == 417


def _refuse_expectation(link: Link) -> None:
    link.read_head()
    link.send(response(b"no", status="417 Expectation Failed"))
    link.read_until_closed()


def test_an_upstream_that_never_says_100_does_not_hang_the_client_that_sends_anyway(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, run(upstream.url).client() as client:
        client.send(EXPECTING)
        until(lambda: upstream.links and b"\r\n\r\n" in upstream.links[0].received, "the head is forwarded at once")
        assert client.exchange(b"hello").body == b"hello"


def test_an_http_1_0_client_never_sees_an_interim_answer(run: Run) -> None:
    with (
        ScriptedUpstream(once(CONTINUE + b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(b"x"))) as upstream,
        run(upstream.url).client() as client,
    ):
        got = client.exchange(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert (got.status, got.informational) == (200, [])


def test_early_hints_pass(run: Run) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    with ScriptedUpstream(once(hints, response(b"x"))) as upstream, run(upstream.url).client() as client:
        got = client.exchange(get())
        assert [each.first("link") for each in got.informational] == [b"</a.css>; rel=preload"]


# --- pipelining


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(b"".join(post(b"%d" % i) for i in range(50)))
            assert [client.response().body for _ in range(50)] == [b"%d" % i for i in range(50)]
        assert len(upstream.links) == 1, "one at a time"
        assert len(daemon.wait_records(50)) == 50


def test_a_pipelined_request_waits_for_the_answer_before_it(run: Run) -> None:
    opened = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.wait(opened)
        link.send(response(b"first"))
        answer()(link)

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(post(b"1") + post(b"2"))
        upstream.wait_for(1)
        until(lambda: len(upstream.requests()) == 1, "the first arrived")
        assert b"2" not in [request.body for request in upstream.requests()]
        opened.set()
        assert [client.response().body, client.response().body] == [b"first", b"2"]


def test_megabytes_of_pipelined_requests_are_read_as_they_are_served(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"x")), keep_bytes=False) as upstream:
        daemon = run(upstream.url)
        before = daemon.rss()
        with daemon.client() as client:
            sender = threading.Thread(target=client.try_send, args=(post(b"y" * 4000) * 1000,), daemon=True)
            sender.start()
            for _ in range(1000):
                assert client.response().status == 200
            sender.join(10)
        assert daemon.rss() - before < 3 * 1024 * 1024


def test_a_pipelined_request_split_anywhere_is_found(run: Run) -> None:
    two = post(b"1") + post(b"2")
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            for cut in range(1, len(two)):
                client.send(two[:cut])
                client.send(two[cut:])
                assert [client.response().body, client.response().body] == [b"1", b"2"], cut


# --- HTTP/1.0


def ask_1_0(client: RawClient, extra: str = "") -> Message:
    return client.exchange(f"GET / HTTP/1.0\r\nHost: localhost\r\n{extra}\r\n".encode())


def test_an_http_1_0_client_gets_no_chunks(run: Run) -> None:
    with ScriptedUpstream(once(CHUNKED)) as upstream, run(upstream.url).client() as client:
        got = ask_1_0(client)
        assert (got.body, got.ended) == (b"abcde", True)
        assert got.first("transfer-encoding") is None
        assert client.how == "fin"


def test_an_http_1_0_client_sees_a_cut_of_chunks_as_a_reset(run: Run) -> None:
    with ScriptedUpstream(once(CHUNKED[:-5])) as upstream, run(upstream.url).client() as client:
        got = ask_1_0(client)
        assert not got.ended
        assert client.how == "reset"


def test_http_1_0_keep_alive_is_honoured_when_the_length_is_known(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"x"))) as upstream, run(upstream.url).client() as client:
        for _ in range(3):
            got = ask_1_0(client, "Connection: keep-alive\r\n")
            assert (got.body, (got.first("connection") or b"").lower()) == (b"x", b"keep-alive")


def test_http_1_0_without_keep_alive_is_closed(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"x"))) as upstream, run(upstream.url).client() as client:
        assert ask_1_0(client).body == b"x"
        assert client.is_closed()


def test_an_http_1_0_upstream_is_understood_and_its_link_not_kept(run: Run) -> None:
    reply = b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"
    with ScriptedUpstream(once(reply, end="keep")) as upstream, run(upstream.url).client() as client:
        assert client.exchange(get()).body == b"x"
        assert client.exchange(get()).body == b"x"
        assert len(upstream.links) == 2


# --- bodies that are not there


@pytest.mark.parametrize("fields", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""])
def test_an_answer_to_head_has_no_body(fields: str, run: Run) -> None:
    reply = f"HTTP/1.1 200 OK\r\n{fields}\r\n".encode()
    with ScriptedUpstream(answer(lambda request: reply if request.method == b"HEAD" else response(b"x"))) as upstream:
        with run(upstream.url).client() as client:
            got = client.exchange(get(method="HEAD"))
            assert (got.status, got.ended) == (200, True)
            assert got.first("content-length") == (b"5" if "Length" in fields else None)
            assert client.exchange(get()).body == b"x"
        assert len(upstream.links) == 1 or not fields


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_204_and_304_end_with_their_head(status: str, run: Run) -> None:
    reply = f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode()
    with ScriptedUpstream(answer(lambda request: reply if request.target == b"/none" else response(b"x"))) as upstream:
        with run(upstream.url).client() as client:
            assert client.exchange(get("/none")).status == int(status[:3])
            assert client.exchange(get()).body == b"x"
        assert len(upstream.links) == 1


@pytest.mark.parametrize("status", ["202 Accepted", "404 Not Found", "405 Method Not Allowed", "409 Conflict", "503 Service Unavailable"])
def test_statuses_and_their_fields_pass_untouched(status: str, run: Run) -> None:
    fields = "Mcp-Session-Id: s-1\r\nWWW-Authenticate: Bearer\r\nRetry-After: 7\r\nAllow: POST\r\n"
    with ScriptedUpstream(answer(response(b"", status=status, extra=fields))) as upstream, run(upstream.url).client() as client:
        got = client.exchange(post())
        assert got.start == b"HTTP/1.1 " + status.encode()
        assert [got.first(name) for name in ("mcp-session-id", "www-authenticate", "retry-after", "allow")] == [
            b"s-1",
            b"Bearer",
            b"7",
            b"POST",
        ]


# --- trailers, chunk by chunk


def test_trailers_pass_both_ways(run: Run) -> None:
    request = (
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"
    with ScriptedUpstream(answer(reply)) as upstream, run(upstream.url).client() as client:
        got = client.exchange(request)
        assert got.trailers == [(b"X-Sum", b"9")]
        assert upstream.requests()[0].trailers == [(b"X-Sum", b"7")]


def test_chunks_pass_verbatim(run: Run) -> None:
    """Framing included: chunk borders, zeros before, capitals."""
    wire = b"003\r\nabc\r\nA\r\n0123456789\r\na\r\n0123456789\r\n000\r\n\r\n"
    reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + wire
    with ScriptedUpstream(answer(reply)) as upstream, run(upstream.url).client() as client:
        got = client.exchange(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
        assert got.wire == wire
        assert upstream.requests()[0].wire == wire


# --- who closes


def test_connection_close_is_honoured(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"x"))) as upstream, run(upstream.url).client() as client:
        got = client.exchange(get(extra="Connection: close\r\n"))
        assert (got.body, got.first("connection")) == (b"x", b"close")
        assert client.is_closed()
        assert client.how == "fin"


def test_a_closing_upstream_closes_no_client(run: Run) -> None:
    with ScriptedUpstream(once(response(b"x", extra="Connection: close\r\n"))) as upstream, run(upstream.url).client() as client:
        for _ in range(3):
            got = client.exchange(get())
            assert (got.body, got.first("connection") == b"close") == (b"x", False)
        assert len(upstream.links) == 3


@pytest.mark.parametrize(
    "request_bytes", [get(extra="Connection: close\r\n"), b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"], ids=["close", "1.0"]
)
def test_a_half_closed_client_that_said_close_gets_its_answer(request_bytes: bytes, run: Run) -> None:
    opened = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.wait(opened)
        link.send(response(b"late"))

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(request_bytes).half_close()
        upstream.wait_for(1)
        opened.set()
        assert client.response().body == b"late"


def test_a_client_that_hangs_up_cancels_its_call(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        client = daemon.client()
        client.send(post())
        upstream.wait_for(1)
        until(lambda: upstream.requests(), "the call arrived")
        client.close()
        until(upstream.links[0].ended.is_set, "the upstream leg ends at once")
        assert daemon.record(path="/mcp")["end"] == "client-gone"


def test_a_client_that_leaves_after_the_last_event_costs_no_link(run: Run) -> None:
    """It resets right after the event it waited for; the message ends a moment later, and that is not an error."""
    left = threading.Event()

    def script(link: Link) -> None:
        while True:
            if link.read_request().method == b"POST":
                link.send(response(b"x"))
                continue
            link.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n0\r\n\r\n"
            )

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        client = daemon.client()
        client.send(get())
        client.read_until(b"data: x\n\n")
        client.reset()
        left.set()
        assert daemon.record(method="GET")["end"] == "done"
        with daemon.client() as other:
            assert other.exchange(post()).body == b"x"
        assert len(upstream.links) == 1
