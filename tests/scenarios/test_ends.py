"""How a daemon stops: the first signal drains, the second ends, nothing in the log is lost, and a full table of descriptors is no end."""

import os
import resource
import select
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import get, post
from tests.support.daemon import Daemon
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import stays, until

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"9\r\ndata: x\n\n\r\n"


class Stream:
    """Sends one event, then another each time the test says so, then ends cleanly."""

    def __init__(self) -> None:
        self.go_on, self.end = threading.Event(), threading.Event()

    def __call__(self, link: Link) -> None:
        while True:
            if link.read_request().method == b"POST":
                link.send(response(b"pong"))
                continue
            link.send(STREAM_HEAD + EVENT)
            link.wait(self.go_on)
            link.send(EVENT)
            link.wait(self.end)
            link.send(b"0\r\n\r\n")


def refuses_connections(daemon: Daemon) -> bool:
    try:
        daemon.client().close()
    except ConnectionError:  # refused, or reset: still waiting at the moment when the socket was closed
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_runs_to_its_end_after_the_first_signal(number: int, run: Run) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="60s")
        idle, streaming = daemon.client(), daemon.client()
        assert idle.exchange(post()).status == 200
        streaming.send(get())
        streaming.read_until(EVENT)
        daemon.signal(number)
        until(lambda: refuses_connections(daemon), "no new connections")
        assert idle.is_closed(), "idle connections are closed"
        stream.go_on.set()
        streaming.read_until(EVENT)
        assert daemon.process.poll() is None, "it waits for the stream"
        stream.end.set()
        assert streaming.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"
        assert streaming.is_closed()
        assert daemon.wait() == 0
        assert len(daemon.records) == 2
        assert {record["end"] for record in daemon.records} == {"done"}


def test_an_idle_daemon_ends_at_once(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, drain="60s")
        with daemon.client() as client:
            client.exchange(post())
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(5) == 0
        assert len(daemon.records) == 1


def test_an_exchange_in_flight_is_answered_with_close(run: Run) -> None:
    entered, opened = threading.Event(), threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        entered.set()
        link.wait(opened)
        link.send(response(b"slow"))

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, drain="60s")
        with daemon.client() as client:
            client.send(post())
            assert entered.wait(10)
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses_connections(daemon), "it drains")
            opened.set()
            got = client.response()
            assert (got.body, got.first("connection")) == (b"slow", b"close")
            assert client.is_closed()
        assert daemon.wait() == 0


def test_who_waits_to_be_accepted_when_it_is_told_to_stop_is_served(run: Run) -> None:
    """Also where several workers have an address: the last one that closes it would reset them."""
    with ScriptedUpstream(answer(response(b"late"))) as upstream:
        daemon = run(upstream.url, workers=2)
        until(lambda: len(daemon.workers) == 2, "both serve")
        for pid in daemon.workers:
            os.kill(pid, signal.SIGSTOP)
        clients = [daemon.client().send(post()) for _ in range(400)]  # more than a worker accepts in one go
        daemon.signal(signal.SIGTERM)
        for pid in daemon.workers:
            os.kill(pid, signal.SIGCONT)
        assert {client.response().status for client in clients} == {200}
        assert daemon.wait() == 0
        for client in clients:
            client.close()


def test_a_request_half_sent_is_still_taken(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, drain="60s")
        before = daemon.resting()
        with daemon.client() as client:
            client.send(get()[:20])
            until(lambda: daemon.descriptors() > before, "connected")
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses_connections(daemon), "it drains")
            client.try_send(get()[20:])
            try:
                assert client.response().status == 200
            except ConnectionError:  # or it was closed before it was a request: a client may repeat it safely
                assert upstream.requests() == []
        assert daemon.wait() == 0


def test_the_drain_has_an_end(run: Run) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="1s")
        with daemon.client() as client:
            client.send(get())
            client.read_until(EVENT)
            daemon.signal(signal.SIGTERM)
            client.read_to_end(5)
            assert client.how == "reset", "a cut stream does not end cleanly"
            assert daemon.wait(5) == 0
        assert len(daemon.records) == 1
        assert daemon.records[0]["end"] != "done"


def test_the_second_signal_ends_now(run: Run) -> None:
    stream = Stream()
    with ScriptedUpstream(stream) as upstream:
        daemon = run(upstream.url, drain="60s")
        with daemon.client() as client:
            client.send(get())
            client.read_until(EVENT)
            daemon.signal(signal.SIGTERM)
            until(lambda: refuses_connections(daemon), "it drains")
            stays(lambda: daemon.process.poll() is None, 0.4, "it waits for the stream")
            daemon.signal(signal.SIGTERM)
            assert daemon.wait(3) == 0
            client.read_to_end(5)
            assert client.how
        assert len(daemon.records) == 1, "the cut stream is logged"


def test_nothing_is_lost_at_a_clean_stop(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            for i in range(500):
                assert client.exchange(post(path=f"/{i}")).status == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert [record["path"] for record in daemon.records] == [f"/{i}" for i in range(500)]


def test_log_rotation_loses_nothing(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, log={"access": str(log)})
        with daemon.client() as client:
            for part in range(3):
                for i in range(50):
                    assert client.exchange(post(path=f"/{part}/{i}")).status == 200
                if part < 2:
                    os.rename(log, tmp_path / f"access.log.{part}")
                    daemon.signal(signal.SIGUSR1)
                    until(log.exists, "a new file is opened")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    lines = [(tmp_path / f"access.log.{part}").read_text().splitlines() for part in range(2)] + [log.read_text().splitlines()]
    assert [len(part) for part in lines] == [50, 50, 50]


def test_rotation_without_a_log_harms_nobody(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, log={"access": "off"})
        daemon.resting()
        daemon.signal(signal.SIGUSR1)
        with daemon.client() as client:
            assert client.exchange(post(b"x")).body == b"x"
            stays(lambda: daemon.process.poll() is None, 0.2, "it lives on")


def test_a_log_reader_that_stopped_reading_stops_nobody(run: Run, tmp_path: Path) -> None:
    """stdout is a pipe nobody empties: requests are served on; what cannot be written may be dropped, the loop never blocks."""
    pipe = tmp_path / "log.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with ScriptedUpstream(answer(response(b"x")), keep_bytes=False) as upstream:
            daemon = run(upstream.url, log={"access": str(pipe)})
            with daemon.client() as client:
                for _ in range(1500):  # some 400 bytes each: several pipes full
                    assert client.exchange(get()).status == 200
    finally:
        os.close(reader)


def test_a_log_reader_that_is_gone_does_not_end_the_daemon(run: Run, tmp_path: Path) -> None:
    """EPIPE on the log is no reason to stop serving."""
    pipe = tmp_path / "log.pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, log={"access": str(pipe)})
        with daemon.client() as client:
            assert client.exchange(post(b"x")).status == 200
            until(lambda: _readable(reader), "the first line is written")
            os.close(reader)
            for _ in range(50):
                assert client.exchange(post(b"x")).status == 200
            used = daemon.cpu_s()
            stays(lambda: daemon.process.poll() is None, 0.7, "it lives on past the next batch of lines")
            assert daemon.cpu_s() - used < 0.3
            assert client.exchange(post(b"x")).status == 200


def _readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


# --- descriptors


def test_running_out_of_descriptors_neither_spins_nor_ends_the_listener(run: Run, tls_listen: dict[str, Any]) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        before = daemon.resting()
        full = before + 10
        resource.prlimit(daemon.worker, resource.RLIMIT_NOFILE, (full, full))  # after it has counted how many clients fit
        clients = []
        for _ in range(100):
            client = daemon.client()
            client.send(b"GET / HT")
            clients.append(client)
        until(lambda: daemon.descriptors() >= full, "the table fills")
        used = daemon.cpu_s()
        stays(lambda: daemon.cpu_s() - used < 0.4, 1.0, "no spinning while it is full")
        assert daemon.process.poll() is None
        for client in clients:
            client.close()
        until(lambda: daemon.descriptors() <= before + 2, lambda: f"{before} descriptors again, have {daemon.descriptors()}")
        with daemon.client() as client:
            assert client.exchange(post(b"alive")).body == b"alive"


def test_with_all_descriptors_taken_by_clients_the_first_ones_are_still_served(run: Run) -> None:
    """A place for upstream links is kept back: accepting may not eat the descriptors that forwarding needs."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, nofile=64)
        clients = [daemon.client() for _ in range(100)]
        first = clients[0]
        assert first.exchange(post(b"served")).body == b"served"
        for client in clients:
            client.close()


def test_beyond_the_connection_limit_a_plain_client_is_told_503(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, limits={"connections": 4})
        daemon.resting()
        clients = [daemon.client() for _ in range(4)]
        for client in clients:
            assert client.exchange(post(b"x")).status == 200
        with daemon.client() as fifth:
            fifth.try_send(post())
            got = fifth.response()
            assert got.status == 503
            assert got.first("retry-after") is not None
        for client in clients:
            client.close()
        until(lambda: _serves(daemon), "places are free again")


def _serves(daemon: Daemon) -> bool:
    try:
        with daemon.client() as client:
            return client.exchange(post(b"x")).status == 200
    except ConnectionError:
        return False


def test_beyond_the_connection_limit_a_tls_client_is_closed_before_any_handshake(
    run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen, limits={"connections": 2})
        daemon.resting()
        clients = [daemon.client(tls=certificate.client()) for _ in range(2)]
        with daemon.client() as third:
            third.try_send(b"\x16\x03\x01")
            assert third.read_to_end(5) == b""
            assert third.how
        for client in clients:
            assert client.exchange(post()).status == 200
            client.close()
