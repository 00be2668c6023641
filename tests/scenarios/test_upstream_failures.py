"""Upstreams that are dead, deaf or rude: which status, which endpoint next, and what is never sent twice."""

import threading
import time
from contextlib import ExitStack

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import get, post
from tests.support.daemon import Daemon
from tests.support.ports import black_hole, refusing_port
from tests.support.upstream import Link, Script, ScriptedUpstream, answer, once, response
from tests.support.waiting import until

DEAD = {"retry_after": "1s", "connect_timeout": "1s"}


def named(name: str) -> Script:
    return answer(response(name.encode()))


def test_a_refused_connection_is_502_in_json(run: Run) -> None:
    with refusing_port() as port:
        daemon = run(f"http://127.0.0.1:{port}", upstream=DEAD)
        with daemon.client() as client:
            got = client.exchange(post())
            assert got.status == 502
            assert b'"jsonrpc"' in got.body
            assert got.first("content-type") == b"application/json"
            again = client.exchange(post())
            assert again.status in (502, 503), "the only endpoint is dead: an answer at once, not a hang"
        assert daemon.wait_records(2)[0]["status"] == 502


def test_a_dead_endpoint_costs_no_request(run: Run) -> None:
    """A failed connect sent nothing, so even a POST goes to the other endpoint."""
    with refusing_port() as port, ScriptedUpstream(answer()) as alive:
        daemon = run(f"http://127.0.0.1:{port}", alive.url, upstream=DEAD | {"keepalive": 0})
        for i in range(10):
            with daemon.client() as client:
                assert client.exchange(post(b"%d" % i)).body == b"%d" % i
        assert [request.body for request in alive.requests()] == [b"%d" % i for i in range(10)], "each exactly once"


def test_a_dead_endpoint_is_skipped_for_a_while_and_then_tried_again(run: Run) -> None:
    with ExitStack() as dead, ScriptedUpstream(named("alive")) as alive:
        port = dead.enter_context(refusing_port())
        daemon = run(f"http://127.0.0.1:{port}", alive.url, upstream=DEAD | {"keepalive": 0, "retry_after": "2s"})

        def ask() -> bytes:
            with daemon.client() as client:
                return client.exchange(post()).body

        assert {ask() for _ in range(4)} == {b"alive"}  # the dead one was met by now
        died = time.monotonic()
        dead.close()
        with ScriptedUpstream(named("reborn"), port=port):
            while time.monotonic() - died < 0.8:
                assert ask() == b"alive", "skipped"
            until(lambda: ask() == b"reborn", "the endpoint is tried again")
            assert time.monotonic() - died > 0.8


def test_a_black_hole_is_504_after_the_connect_timeout(run: Run) -> None:
    with black_hole() as port:
        daemon = run(f"http://127.0.0.1:{port}", upstream={"connect_timeout": "1s"})
        with daemon.client() as client:
            began = time.monotonic()
            got = client.exchange(post())
            assert got.status == 504
            assert 0.8 < time.monotonic() - began < 4
        assert daemon.record(path="/mcp")["status"] == 504


def test_a_black_hole_beside_a_good_endpoint_is_only_slow(run: Run) -> None:
    with black_hole() as port, ScriptedUpstream(answer()) as alive:
        daemon = run(f"http://127.0.0.1:{port}", alive.url, upstream=DEAD | {"keepalive": 0})
        for i in range(4):
            with daemon.client() as client:
                assert client.exchange(post(b"%d" % i)).body == b"%d" % i
        assert len(alive.requests()) == 4


def test_a_client_that_leaves_while_we_connect_frees_its_place(run: Run) -> None:
    with black_hole() as port:
        daemon = run(f"http://127.0.0.1:{port}", upstream={"connect_timeout": "30s"})
        baseline = daemon.resting()
        client = daemon.client()
        client.send(post())
        until(lambda: daemon.descriptors() >= baseline + 2, "it is connecting")
        client.close()
        until(lambda: daemon.descriptors() <= baseline, "both sides are closed")
        assert daemon.record(path="/mcp")["end"] == "client-gone"


def test_endpoints_take_turns(run: Run) -> None:
    with ExitStack() as stack:
        upstreams = [stack.enter_context(ScriptedUpstream(named(str(i)))) for i in range(3)]
        daemon = run(*[upstream.url for upstream in upstreams])
        with daemon.client() as client:
            bodies = [client.exchange(post()).body for _ in range(12)]
        assert bodies[:3] != [bodies[0]] * 3
        assert bodies == bodies[:3] * 4
        assert sorted(bodies[:3]) == [b"0", b"1", b"2"]


# --- the retry rule


def stale(link: Link) -> None:
    """Answers once and keeps the link; hangs up on the second request, after reading it, without a byte of answer."""
    link.read_request()
    link.send(response(b"first"))
    link.read_request()


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("DELETE", 200), ("POST", 502), ("PUT", 502), ("PATCH", 502)]
)
def test_a_request_on_a_stale_link(method: str, status: int, run: Run) -> None:
    """Repeated on a fresh link only if repeating does no harm; a POST whose bytes went out is never sent again."""
    with ScriptedUpstream(stale, answer()) as upstream:
        daemon = run(upstream.url, upstream={"retry_after": "0s"})
        with daemon.client() as client:
            assert client.exchange(get()).body == b"first"
            if method == "HEAD":
                upstream.scripts = (stale, once(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", end="keep"))
            assert client.exchange(get(method=method)).status == status
        sent = [request.method.decode() for request in upstream.requests()]
        assert sent == ["GET", method] + ([method] if status == 200 else [])
        assert len(daemon.wait_records(2)) == 2


def test_a_request_on_a_stale_link_with_a_body_read_in_parts_is_not_repeated(run: Run) -> None:
    """DELETE may be repeated, but not when part of its body is gone from our hands."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(response(b"first"))
        link.read_head()
        link.read_exact(3)

    with ScriptedUpstream(script, answer()) as upstream:
        with run(upstream.url).client() as client:
            assert client.exchange(get()).body == b"first"
            client.send(b"DELETE /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n")
            until(lambda: b"DELETE" in upstream.links[0].received, "the head was forwarded before the body ended")
            client.try_send(b"abc")
            until(lambda: upstream.links[0].received.endswith(b"abc"), "the first half arrived")
            assert client.response().status == 502
        assert len(upstream.links) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_fresh_link_that_dies_is_never_tried_again(method: str, run: Run) -> None:
    with ScriptedUpstream(once()) as upstream:
        with run(upstream.url, upstream={"retry_after": "0s"}).client() as client:
            assert client.exchange(get(method=method)).status == 502
        assert len(upstream.links) == 1


def test_not_after_the_first_byte_of_an_answer(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(response(b"first"))
        link.read_request()
        link.send(b"HTT")

    with ScriptedUpstream(script, answer()) as upstream:
        with run(upstream.url).client() as client:
            assert client.exchange(get()).body == b"first"
            assert client.exchange(get()).status == 502
        assert len(upstream.links) == 1


def test_two_stale_links_in_a_row_do_not_fail_a_get(run: Run) -> None:
    """The second attempt goes over a fresh link, which cannot be stale."""
    met = threading.Barrier(2)

    def both_then_stale(link: Link) -> None:
        link.read_request()
        met.wait(10)
        link.send(response(b"first"))
        link.read_request()

    with ScriptedUpstream(both_then_stale, both_then_stale, answer(response(b"fresh"))) as upstream:
        daemon = run(upstream.url, upstream={"retry_after": "0s"})
        with daemon.client() as one, daemon.client() as two:
            one.send(get())
            two.send(get())
            assert one.response().body == two.response().body == b"first"
            assert one.exchange(get()).body == b"fresh"


# --- idle links


def test_a_link_closed_while_idle_is_not_leased_again(run: Run) -> None:
    """The close is noticed when it happens, so even a POST never meets it."""
    with ScriptedUpstream(once(response(b"x"))) as upstream:
        daemon = run(upstream.url)
        before = daemon.resting()
        with daemon.client() as client:
            for i in range(5):
                assert client.exchange(post()).status == 200
                until(lambda: daemon.descriptors() <= before + 1, "the dead link is gone")
                assert len(upstream.links) == i + 1


def test_bytes_on_an_idle_link_never_reach_the_next_client(run: Run) -> None:
    talk = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(response(b"mine"))
        link.wait(talk)
        link.send(response(b"poison"))
        link.read_until_closed()

    with ScriptedUpstream(script, answer(response(b"fresh"))) as upstream, run(upstream.url).client() as client:
        assert client.exchange(post()).body == b"mine"
        talk.set()
        until(upstream.links[0].ended.is_set, "the link is closed by the proxy")
        assert client.exchange(post()).body == b"fresh"


def test_an_idle_link_is_not_used_past_its_age(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, upstream={"keepalive_idle": "1s"})
        with daemon.client() as client:
            client.exchange(post())
            client.exchange(post())
            assert len(upstream.links) == 1
            until(upstream.links[0].ended.is_set, "it is closed when it is too old", deadline_s=5)
            client.exchange(post())
            assert len(upstream.links) == 2


def test_the_upstreams_own_keep_alive_time_counts_if_it_is_shorter(run: Run) -> None:
    reply = response(b"x", extra="Keep-Alive: timeout=2\r\nConnection: keep-alive\r\n")
    with ScriptedUpstream(answer(reply)) as upstream:
        daemon = run(upstream.url, upstream={"keepalive_idle": "60s"})
        with daemon.client() as client:
            got = client.exchange(post())
            assert got.first("keep-alive") is None, "hop by hop"
            until(upstream.links[0].ended.is_set, "closed before the upstream would", deadline_s=5)
            client.exchange(post())
            assert len(upstream.links) == 2


def test_the_pool_keeps_no_more_idle_links_than_configured(run: Run) -> None:
    met = threading.Barrier(6)

    def script(link: Link) -> None:
        link.read_request()
        met.wait(10)
        link.send(response(b"x"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"keepalive": 2, "keepalive_idle": "60s"})
        clients = [daemon.client() for _ in range(6)]
        for client in clients:
            client.send(post())
        for client in clients:
            assert client.response().status == 200
        until(lambda: sum(link.ended.is_set() for link in upstream.links) == 4, "four of six are closed")
        for client in clients:
            client.close()


# --- answers that come too early or too late


def test_an_answer_before_the_upload_ended_reaches_the_client(run: Run) -> None:
    """413 from the upstream while the body is on its way: the client hears it, and nothing hangs."""

    def script(link: Link) -> None:
        link.read_head()
        link.send(response(b"too big", status="413 Content Too Large", extra="Connection: close\r\n"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            got = client.response(b"POST")
            assert (got.status, got.body, got.ended) == (413, b"too big", True)
        assert daemon.record(path="/mcp")["status"] == 413


def test_an_upstream_that_refuses_a_big_upload_and_hangs_up_is_heard(run: Run) -> None:
    """It closes with bytes unread, so its answer races with a reset: the client hears the answer or 502, never nothing."""

    def script(link: Link) -> None:
        link.read_head()
        link.send(response(b"too big", status="413 Content Too Large", extra="Connection: close\r\n"))

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        for _ in range(20):
            with daemon.client() as client:
                client.try_send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 4_000_000)
                assert client.response(b"POST").status in (413, 502)
        assert len(daemon.wait_records(20)) == 20


def test_an_early_answer_does_not_cut_an_upload_that_is_still_wanted(run: Run) -> None:
    """The upstream streams its answer while it reads: both directions run to their ends."""

    def script(link: Link) -> None:
        link.read_head()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            piece = link.read_exact(1000)
            link.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        link.send(b"0\r\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n")
        client.read_until(b"\r\n\r\n")
        for i in range(20):
            client.send(b"%d" % (i % 10) * 1000)
            assert client.read_exact(1007)[5:-2] == b"%d" % (i % 10) * 1000
        assert client.read_exact(5) == b"0\r\n\r\n"


def test_a_chatty_upstream_that_speaks_first_poisons_nobody(run: Run) -> None:
    """A banner before any request: the client gets 502 or that answer for its own request, never somebody else's."""

    def script(link: Link) -> None:
        link.send(b"220 mail.example ESMTP\r\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"retry_after": "0s"})
        with daemon.client() as client:
            assert client.exchange(post()).status == 502
            assert client.exchange(post()).status == 502
        assert len(daemon.wait_records(2)) == 2


def test_a_unix_socket_that_is_not_there_is_502(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = str(tmp_path_factory.mktemp("sock") / "up.sock")
    daemon = run(f"unix:{path}", upstream=DEAD)
    with daemon.client() as client:
        assert client.exchange(post()).status == 502
    with ScriptedUpstream(answer(), path=path):
        until(lambda: status(daemon) == 200, "it is found once it is there")


def status(daemon: Daemon) -> int:
    with daemon.client() as client:
        return client.exchange(post()).status
