"""How HTTP/2 connections end with their daemon: GOAWAY at the first signal, open streams to their end, a reset for what is cut (RFC 9113 §6.8)."""

import signal
import threading
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_ends import Stream, refuses_connections
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.h2 import Code, speak
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import stays, until

EVENT = b"data: x\n\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_streams_run_to_their_end_after_the_first_signal(
    number: int, tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {}, drain="60s")
        idle, busy = (speak(daemon, certificate if tls else None) for _ in range(2))
        assert idle.call(body=b"{}").wait().body == b"pong"
        calls = [busy.call("GET", f"/{i}") for i in range(3)]
        for call in calls:
            call.read_until(EVENT)
        daemon.signal(number)
        idle.read_to_end()
        assert (idle.how, idle.goaway) == ("fin", (1, Code.NO_ERROR)), "idle connections are told goodbye and closed"
        busy.until(lambda: busy.goaways, "the others are told as well")
        assert busy.goaways[-1][:2] in ((5, Code.NO_ERROR), (h2.LARGEST, Code.NO_ERROR))
        until(lambda: refuses_connections(daemon), "no new connections")
        stream.go_on.set()
        for call in calls:
            call.read_until(EVENT)
        assert daemon.process.poll() is None, "it waits for the streams"
        stream.end.set()
        for call in calls:
            assert call.wait().ended
        busy.read_to_end()
        assert (busy.how, busy.goaway) == ("fin", (5, Code.NO_ERROR))
        assert daemon.wait() == 0
        assert len(daemon.records) == 4
        assert {record["end"] for record in daemon.records} == {"done"}


def test_a_stream_that_comes_too_late_may_be_tried_elsewhere(run: Run) -> None:
    """§6.8, §8.7: it is refused, or answered as others are; never forwarded and lost."""
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="60s")
        with speak(daemon) as client:
            call = client.call("GET")
            call.read_until(EVENT)
            daemon.signal(signal.SIGTERM)
            client.until(lambda: client.goaway, "GOAWAY")
            late = client.call(body=b"{}")
            stream.go_on.set()
            stream.end.set()
            assert call.wait().ended
            client.read_to_end()
            if late.status:
                assert (late.status, late.ended) == (200, True)
            else:
                assert late.reset in (None, Code.REFUSED_STREAM)
                assert client.goaway == (1, Code.NO_ERROR), "it was told that the stream was not taken"
                assert [request.method for request in upstream.requests()] == [b"GET"]
        assert daemon.wait() == 0


def test_an_upload_under_way_is_finished(run: Run) -> None:
    entered = threading.Event()

    def echo(link: Link) -> None:
        head = link.read_head()
        assert b"POST" in head
        entered.set()
        link.send(response(link.read_exact(10)))
        link.read_until_closed()

    with ScriptedUpstream(echo) as upstream:
        daemon = run(upstream.url, drain="60s")
        with speak(daemon) as client:
            upload = client.open(h2.request_fields(length=10), ended=False)
            upload.send(b"hello")
            assert entered.wait(10)
            daemon.signal(signal.SIGTERM)
            client.until(lambda: client.goaway, "GOAWAY")
            assert upload.send(b"world", ended=True).wait().body == b"helloworld"
        assert daemon.wait() == 0


def test_the_drain_has_an_end(run: Run) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="1s")
        with speak(daemon) as client:
            call = client.call("GET")
            call.read_until(EVENT)
            daemon.signal(signal.SIGTERM)
            client.read_to_end()
            assert not call.ended, "a cut stream does not end cleanly"
            assert daemon.wait(5) == 0
        assert [record["end"] for record in daemon.records] == ["stopped"]


def test_the_second_signal_ends_now(run: Run) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="60s")
        with speak(daemon) as client:
            calls = [client.call("GET", f"/{i}") for i in range(20)]
            for call in calls:
                call.read_until(EVENT)
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses_connections(daemon), "it drains")
            stays(lambda: daemon.process.poll() is None, 0.4, "it waits for the streams")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(3) == 0
            client.read_to_end(5)
            assert not any(call.ended for call in calls)
        assert [record["end"] for record in daemon.records] == ["stopped"] * 20


def test_nothing_is_lost_at_a_clean_stop(run: Run) -> None:
    """A thousand calls, then a signal: a thousand lines, in the order of their answers."""
    with ScriptedUpstream(answer(), keep_bytes=False) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            for turn in range(10):
                calls = [client.call("POST", f"/{turn}/{i}", b"x") for i in range(100)]
                for call in calls:
                    assert call.wait().body == b"x"
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert sorted(record["path"] for record in daemon.records) == sorted(f"/{turn}/{i}" for turn in range(10) for i in range(100))
        assert len({record["id"] for record in daemon.records}) == 1000


def test_a_client_that_never_reads_holds_up_no_stop(run: Run) -> None:
    with ScriptedUpstream(answer(response(bytes(60_000))), keep_bytes=False) as upstream:
        daemon = run(upstream.url, drain="1s")
        with speak(daemon, receive_buffer=65536, settings={h2.INITIAL_WINDOW_SIZE: h2.LARGEST}, window=h2.LARGEST) as client:
            for i in range(120):
                client.call("GET", f"/{i}")
            client.raw.send(h2.frame(h2.PING, 0, 0, bytes(8)))
            daemon.wait_records(5)
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(8) == 0
