"""Slow and stuck peers: every half-sent thing has a deadline, every reader who stops slows only his own upstream.

Limits are shortened to a second; a paced sender may sleep between its bytes, because the pace is what is tested.
"""

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_cuts import client_hello
from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon
from tests.support.recorder import Recorder
from tests.support.upstream import Link, ScriptedUpstream, ScriptEnd, answer, response
from tests.support.waiting import stays, until

LIMITS = {"head_timeout": "1s", "body_stall": "1s", "handshake_timeout": "1s", "keepalive": "1s"}
IN_TIME = 12.0  # a limit of 1 s, ticks of up to 1 s, a busy machine
MIB = 1024 * 1024


def drip(client: RawClient, data: bytes, pause: float) -> float:
    """Send byte after byte with a pause until the other side hangs up or answers; the seconds it took."""
    began = time.monotonic()
    client.link.settimeout(pause)
    for i in range(len(data)):
        if not client.try_send(data[i : i + 1]):
            break
        try:
            client.receive(pause)
        except TimeoutError:
            continue
        break
    return time.monotonic() - began


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as upstream:
        yield upstream


def test_a_dripped_head_is_told_408(run: Run, recorder: Recorder) -> None:
    daemon = run(recorder.url, limits=LIMITS)
    with daemon.client() as client:
        assert drip(client, get(extra="X: " + "y" * 500 + "\r\n"), 0.1) < IN_TIME
        assert client.response().status == 408
        assert client.is_closed()
    assert recorder.links == []
    assert daemon.record(status=408)["bytes_in"] > 5


def test_a_dripped_request_line_is_told_408(run: Run, recorder: Recorder) -> None:
    with run(recorder.url, limits=LIMITS).client() as client:
        assert drip(client, b"GET /" + b"a" * 200, 0.1) < IN_TIME
        assert client.response().status == 408


def test_a_second_head_has_the_same_deadline(run: Run, recorder: Recorder) -> None:
    with run(recorder.url, limits=LIMITS).client() as client:
        assert client.exchange(get()).status == 200
        assert drip(client, get(extra="X: " + "y" * 500 + "\r\n"), 0.1) < IN_TIME
        assert client.response().status == 408


def test_dripped_empty_lines_are_no_request_and_no_excuse(run: Run, recorder: Recorder) -> None:
    with run(recorder.url, limits=LIMITS).client() as client:
        assert drip(client, b"\r\n" * 100, 0.1) < IN_TIME
        client.read_to_end(IN_TIME)
        assert client.how


def test_a_dripped_tls_record_is_closed_in_time(run: Run, recorder: Recorder, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    daemon = run(recorder.url, limits=LIMITS, listen=tls_listen)
    with half_record(certificate, daemon, get(extra="X: " + "y" * 500 + "\r\n"), 3) as client:
        assert drip(client, b"\x02" + b"z" * 400, 0.1) < IN_TIME
        client.read_to_end(IN_TIME)
        assert client.how
    assert recorder.links == []


@pytest.mark.parametrize(
    "data",
    [
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r",
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y",
    ],
    ids=lambda data: data[-12:],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_stalled_body_is_told_408(
    data: bytes, tls: bool, run: Run, recorder: Recorder, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    daemon = run(recorder.url, limits=LIMITS, listen=tls_listen if tls else {})
    with daemon.client(tls=certificate.client() if tls else None) as client:
        client.send(data)
        assert client.response(deadline_s=IN_TIME).status == 408
        assert client.is_closed()
    assert recorder.complete == []
    assert daemon.record(path="/mcp")["status"] == 408


def test_a_slow_body_that_goes_on_is_served(run: Run, recorder: Recorder) -> None:
    """The limit is on silence: 12 bytes at 3 a second take longer than the limit and arrive."""
    with run(recorder.url, limits={**LIMITS, "body_stall": "3s"}).client() as client:
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n")
        drip(client, b"hello, world", 0.3)
        assert client.response().status == 200
    assert recorder.complete[0].body == b"hello, world"


@pytest.mark.parametrize("size", [0, 1, 5, 100, -1], ids=lambda size: f"{size} bytes")
def test_a_half_handshake_is_closed_in_time(
    size: int, run: Run, recorder: Recorder, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """Nothing sent, half a ClientHello, or all of it and then silence."""
    daemon = run(recorder.url, limits=LIMITS, listen=tls_listen)
    hello = client_hello(certificate)
    with daemon.client() as client:
        client.send(hello[:size] if size >= 0 else hello)
        client.read_to_end(IN_TIME)
        assert client.how


def test_a_dripped_handshake_is_closed_in_time(run: Run, recorder: Recorder, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    daemon = run(recorder.url, limits=LIMITS, listen=tls_listen)
    with daemon.client() as client:
        assert drip(client, client_hello(certificate), 0.1) < IN_TIME
        client.read_to_end(IN_TIME)
        assert client.how


def half_record(certificate: Certificate, daemon: Daemon, data: bytes, keep: int) -> RawClient:
    """A TLS client that has sent only `keep` bytes of the record that holds `data`."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    client = daemon.client()
    while True:
        try:
            half.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.send(outgoing.read())
            client.receive()
            incoming.write(client.buffer)
            client.buffer = b""
    client.send(outgoing.read())
    half.write(data)
    client.send(outgoing.read()[:keep])
    return client


@pytest.mark.parametrize("keep", [1, 4, 5, 20])
def test_half_a_tls_record_has_the_deadline_of_a_head(
    keep: int, run: Run, recorder: Recorder, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    daemon = run(recorder.url, limits=LIMITS, listen=tls_listen)
    with half_record(certificate, daemon, get(), keep) as client:
        client.read_to_end(IN_TIME)
        assert client.how
    assert recorder.links == []


def test_an_idle_connection_is_closed_without_a_word(run: Run, recorder: Recorder) -> None:
    daemon = run(recorder.url, limits=LIMITS)
    with daemon.client() as client:
        assert client.exchange(get()).status == 200
        assert client.is_closed(IN_TIME)
        assert client.how == "fin"
    daemon.stop()
    assert len(daemon.records) == 1


def test_a_connection_that_never_speaks_is_closed(run: Run, recorder: Recorder) -> None:
    daemon = run(recorder.url, limits=LIMITS)
    with daemon.client() as client:
        client.read_to_end(IN_TIME)
        assert client.how == "fin"


def test_a_response_that_never_comes_is_504(run: Run) -> None:
    with ScriptedUpstream(Link.hang) as upstream:
        daemon = run(upstream.url, upstream={"response_timeout": "1s"})
        with daemon.client() as client:
            got = client.exchange(post(), deadline_s=IN_TIME)
            assert got.status == 504
            assert b'"jsonrpc"' in got.body
        assert daemon.record(path="/mcp")["status"] == 504


def test_a_stream_that_falls_silent_is_cut_after_the_idle_timeout(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n: one\n\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, route={"idle_timeout": "1s"})
        with daemon.client() as client:
            got = client.exchange(get(), deadline_s=IN_TIME)
            assert (got.status, got.ended, got.body) == (200, False, b": one\n\n")
        until(lambda: upstream.links[0].ended.is_set(), "the upstream leg is closed")
        assert daemon.record(path="/mcp")["end"] == "timeout"


# --- readers who stop


class Torrent:
    """A script that sends a big answer and tells when it has been unable to send for a while."""

    def __init__(self, size: int) -> None:
        self.block = bytes(range(256)) * 256  # 64 KiB
        self.size, self.sent = size, 0
        self.blocked = threading.Event()

    def __call__(self, link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.size)
        link.raw.settimeout(0.7)
        link.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262144)  # forty of the kernel's largest would be half a gigabyte
        while self.sent < self.size:
            try:
                self.sent += link.raw.send(self.block[self.sent % 65536 :][: self.size - self.sent])
            except TimeoutError:
                self.blocked.set()
                if link.owner.closing.is_set():
                    raise ScriptEnd("test over") from None
            except OSError as error:
                raise ScriptEnd("cut") from error

    def digest(self) -> str:
        digest = hashlib.sha256()
        for _ in range(self.size // 65536):
            digest.update(self.block)
        return digest.hexdigest()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_client_that_stops_reading_slows_its_upstream_and_costs_no_memory(
    tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    torrent = Torrent(48 * MIB)
    with ScriptedUpstream(torrent) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {})
        with daemon.client(tls=certificate.client() if tls else None) as client:
            before = daemon.rss()
            client.send(get())
            client.read_until(b"\r\n\r\n")
            assert torrent.blocked.wait(10), "the upstream has to wait"
            assert torrent.sent < torrent.size, "only kernel buffers are full"
            assert daemon.rss() - before < 2 * MIB
            digest, received = hashlib.sha256(client.buffer), len(client.buffer)
            client.buffer = b""
            while received < torrent.size:
                assert client.receive()
                digest.update(client.buffer)
                received += len(client.buffer)
                client.buffer = b""
            assert digest.hexdigest() == torrent.digest()
            assert daemon.rss() - before < 2 * MIB


def test_forty_clients_that_stop_reading_cost_two_reads_each_and_hinder_nobody(run: Run) -> None:
    torrents = [Torrent(64 * MIB) for _ in range(40)]  # more than kernel buffers ever take
    numbers = iter(torrents)
    lock = threading.Lock()

    def script(link: Link) -> None:
        with lock:
            torrent = next(numbers, None)
        (torrent or answer())(link)

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        before, baseline = daemon.rss(), daemon.resting()
        clients = [daemon.client(receive_buffer=65536) for _ in torrents]
        for client in clients:
            client.send(get())
        until(
            lambda: all(torrent.blocked.is_set() for torrent in torrents),
            lambda: str([torrent.sent for torrent in torrents]),
            deadline_s=20,
        )
        assert daemon.rss() - before < 40 * 2 * 65536 + 4 * MIB
        used = daemon.cpu_s()
        with daemon.client() as client:
            assert client.exchange(post(b"quick")).body == b"quick"
        stays(lambda: daemon.cpu_s() - used < 0.3, 0.6, "waiting costs no CPU")
        for client in clients:
            client.close()
        with daemon.client() as client:
            assert client.exchange(post(b"after")).body == b"after"
        idle = daemon.descriptors
        until(lambda: idle() < baseline + 6, lambda: f"legs of gone clients are closed; {idle()} descriptors, had {baseline}")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_upstream_that_stops_reading_slows_its_client_and_costs_no_memory(
    tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    resume = threading.Event()
    digest = hashlib.sha256()
    size = 8 * MIB

    def script(link: Link) -> None:
        link.read_head()
        link.wait(resume)
        rest = size
        while rest:
            if not link.unread:
                link.more()
            piece = link.read_exact(min(len(link.unread), rest))
            digest.update(piece)
            rest -= len(piece)
        link.send(response(b"got it"))

    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {}, limits={"body_stall": "30s"})
        with daemon.client(tls=certificate.client() if tls else None) as client:
            before = daemon.rss()
            block = bytes(range(256)) * 256
            client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
            sender = threading.Thread(target=client.send, args=(block * (size // 65536),), daemon=True)
            sender.start()
            upstream.wait_for(1)
            stays(lambda: daemon.rss() - before < 2 * MIB, 0.7, "memory is bounded")
            resume.set()
            sender.join(20)
            assert client.response().body == b"got it"
            assert digest.hexdigest() == hashlib.sha256(block * (size // 65536)).hexdigest()
            assert daemon.rss() - before < 2 * MIB


def test_an_answer_that_comes_byte_by_byte_passes_byte_by_byte(run: Run) -> None:
    """The first byte never waits for a second one."""
    seen = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na")
        link.wait(seen)
        link.send_bytewise(b"bc\r\n0\r\n\r\n")

    with ScriptedUpstream(script) as upstream, run(upstream.url).client() as client:
        client.send(get())
        client.read_until(b"3\r\na")
        seen.set()
        assert client.read_exact(9) == b"bc\r\n0\r\n\r\n"


def test_an_upload_that_waits_for_its_upstream_is_not_blamed_on_the_client(run: Run) -> None:
    """The upstream stops reading for longer than body_stall; the client had no chance to send, so there is no 408."""
    size = 8 * MIB

    def script(link: Link) -> None:
        link.read_head()
        link.owner.closing.wait(2.5)
        link.read_exact(size)
        link.send(response(b"got it"))

    with ScriptedUpstream(script, keep_bytes=False) as upstream, run(upstream.url, limits=LIMITS).client() as client:
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        sender = threading.Thread(target=client.try_send, args=(b"x" * size,), daemon=True)
        sender.start()
        got = client.response(b"POST", 20)
        assert (got.status, got.body) == (200, b"got it")
        sender.join(5)


def test_a_client_that_waits_for_100_is_not_blamed_for_its_silence(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_head()
        link.owner.closing.wait(2.5)
        link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        link.send(response(link.read_exact(5)))

    with ScriptedUpstream(script) as upstream, run(upstream.url, limits=LIMITS).client() as client:
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        client.read_until(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert client.exchange(b"hello").body == b"hello"


def test_pipelined_requests_of_a_client_that_reads_nothing_cost_no_memory(run: Run) -> None:
    with ScriptedUpstream(answer(response(b"y" * 60_000)), keep_bytes=False) as upstream:
        daemon = run(upstream.url)
        before = daemon.rss()
        with daemon.client(receive_buffer=65536) as client:
            client.link.settimeout(1)
            client.try_send(get() * 20_000)
            stays(lambda: daemon.rss() - before < 2 * MIB, 0.7, "memory is bounded")
            with daemon.client() as other:
                assert other.exchange(get()).status == 200


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_a_client_that_leaves_its_stalled_upload_is_noticed(
    secure: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """The server does not read, so the client is not read either: its end must be seen all the same, or both legs stay for a day."""
    entered = threading.Event()

    def deaf(link: Link) -> None:
        link.read_head()
        entered.set()
        link.hang()

    with ScriptedUpstream(deaf) as upstream:
        daemon = run(upstream.url, limits=LIMITS, route={"max_body": "1GiB"}, **({"listen": tls_listen} if secure else {}))
        client = daemon.client(tls=certificate.client()) if secure else daemon.client()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000000\r\n\r\n")
        assert entered.wait(10)
        before = daemon.resting() - 2  # without its two legs
        client.link.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                client.link.send(b"x" * 65536)
        client.reset()
        assert daemon.record(path="/mcp")["end"] == "client-gone"
        until(lambda: daemon.descriptors() <= before, "both legs are closed")
