"""Leases are bounded; beyond them requests wait in a queue that is bounded too, and then are told 503 with Retry-After."""

import threading
import time

from tests.scenarios.conftest import Run
from tests.support.client import get, post
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import until

ONE = {"max_connections": 1, "queue": 2, "queue_timeout": "1s"}


class Gate:
    """A script that holds its first request until the test opens it, then answers everything."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, link: Link) -> None:
        if not self.entered.is_set():
            link.read_request()
            self.entered.set()
            link.wait(self.opened)
            link.send(response(b"held"))
        answer()(link)


def test_beyond_the_queue_it_is_503_at_once_and_says_when_to_come_back(run: Run) -> None:
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE | {"queue_timeout": "30s"})
        with daemon.client() as held, daemon.client() as second, daemon.client() as third, daemon.client() as fourth:
            held.send(post(b"1"))
            assert gate.entered.wait(10)
            second.send(post(b"2"))
            third.send(post(b"3"))
            got = fourth.exchange(post(b"4"))
            while got.status != 503:  # second and third may not have been read yet when the fourth was
                got = fourth.exchange(post(b"4"))
            assert int(got.first("retry-after") or b"0") >= 1
            assert b'"jsonrpc"' in got.body
            gate.opened.set()
            assert [held.response().body, second.response().body, third.response().body] == [b"held", b"2", b"3"]
        assert len(upstream.links) == 1, "one lease, one link"


def test_who_waited_too_long_is_told_503(run: Run) -> None:
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE)
        with daemon.client() as held, daemon.client() as second:
            held.send(post(b"1"))
            assert gate.entered.wait(10)
            began = time.monotonic()
            got = second.exchange(post(b"2", path="/waited"))
            assert got.status == 503
            assert 0.8 < time.monotonic() - began < 4
            assert got.first("retry-after") is not None
            gate.opened.set()
            assert held.response().body == b"held"
            assert second.exchange(post(b"again")).body == b"again", "the connection goes on"
        assert daemon.record(path="/waited")["status"] == 503


def test_who_leaves_the_queue_is_not_served(run: Run) -> None:
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE | {"queue_timeout": "30s"})
        with daemon.client() as held:
            held.send(post(b"1"))
            assert gate.entered.wait(10)
            leaver = daemon.client()
            leaver.send(post(b"never", path="/leaver"))
            baseline = daemon.resting()
            leaver.close()
            assert daemon.record(path="/leaver")["end"] == "client-gone"
            until(lambda: daemon.descriptors() <= baseline, "its descriptor is closed")
            gate.opened.set()
            assert held.response().body == b"held"
        with daemon.client() as after:
            assert after.exchange(post(b"after")).body == b"after"
        assert b"never" not in [request.body for request in upstream.requests()]


def test_streams_hold_a_lease_but_no_idle_place(run: Run) -> None:
    """Eight streams beside a pool of two idle links: calls go on, and each reuses its link."""

    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if request.method == b"POST":
                link.send(response(request.body))
                continue
            link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n: a\n\r\n")
            link.read_until_closed()
            return

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"keepalive": 2, "keepalive_idle": "60s", "max_connections": 9})
        streams = [daemon.client() for _ in range(8)]
        for stream in streams:
            stream.send(get())
            stream.read_until(b"4\r\n: a\n\r\n")
        with daemon.client() as client:
            for _ in range(20):
                assert client.exchange(post(b"x")).body == b"x"
        assert len(upstream.links) == 9
        for stream in streams:
            stream.close()
        until(lambda: sum(link.ended.is_set() for link in upstream.links) == 8, "the legs of closed streams end at once")


def test_a_queue_longer_than_its_leases_is_served_in_order_and_loses_nobody(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, upstream={"max_connections": 2, "queue": 100, "queue_timeout": "10s"})
        clients = [daemon.client() for _ in range(60)]
        for i, client in enumerate(clients):
            client.send(post(b"%d" % i))
        for i, client in enumerate(clients):
            assert client.response().body == b"%d" % i
            client.close()
        assert len(upstream.links) <= 2
        assert len(daemon.wait_records(60)) == 60
