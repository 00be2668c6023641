"""Streams beside streams on one connection: events pass as they come, whoever stops reading or leaves concerns only himself (RFC 9113 §5, §6.9)."""

import hashlib
import signal
import socket
import threading
from functools import partial
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_slow import MIB, Torrent
from tests.scenarios.test_streams import EVENTS, frame, start
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.h2 import Call, Code, request_fields, speak
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import stays, until

STREAM_HEAD = start("chunked")


def by_path(link: Link) -> None:
    """/stream: an event, then silence until the proxy hangs up; anything else: an echo."""
    while True:
        request = link.read_request()
        if request.target != b"/stream":
            link.send(response(request.body))
            continue
        link.send(STREAM_HEAD + frame(EVENTS[0], "chunked"))
        link.read_until_closed()
        return


# --- events


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_every_event_arrives_before_the_next_is_sent(
    framing: str, tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    seen = [threading.Event() for _ in EVENTS]

    def script(link: Link) -> None:
        link.read_request()
        link.send(start(framing))
        for event, arrived in zip(EVENTS, seen, strict=True):
            link.send(frame(event, framing))
            link.wait(arrived)
        if framing == "chunked":
            link.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {})
        with speak(daemon, certificate if tls else None) as client:
            call = client.call("GET")
            assert call.wait_head().first("x-accel-buffering") == b"no"
            for event, arrived in zip(EVENTS, seen, strict=True):
                assert call.read_exact(len(event)) == event
                arrived.set()
            assert call.wait().ended
            assert call.body == b"".join(EVENTS)


def test_the_head_of_a_stream_arrives_before_its_first_event(run: Run) -> None:
    arrived = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(STREAM_HEAD)
        link.wait(arrived)

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        call = client.call("GET").wait_head()
        assert (call.status, call.ended) == (200, False)
        arrived.set()


def test_a_hundred_streams_on_one_connection_hear_their_own_events(run: Run) -> None:
    """Each its own, in order, and calls go on between them."""
    turn = [threading.Event() for _ in range(3)]

    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if request.method == b"POST":
                link.send(response(request.body))
                continue
            link.send(STREAM_HEAD)
            for i, go in enumerate(turn):
                link.wait(go)
                link.send(frame(b"data: %b %d\n\n" % (request.target, i), "chunked"))
            link.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        streams = [client.call("GET", f"/{i}") for i in range(100)]
        for stream in streams:
            assert stream.wait_head().status == 200
        for go in turn:
            go.set()
            assert client.call(body=b"between").wait().body == b"between"
        for i, stream in enumerate(streams):
            assert stream.wait().body == b"".join(b"data: /%d %d\n\n" % (i, event) for event in range(3))


def test_an_event_is_not_stuck_behind_a_download(run: Run) -> None:
    """One client reads a stream and 64 MiB on the same connection, as fast as it can; the event arrives while most is still to come."""
    go = threading.Event()
    torrent = Torrent(64 * MIB)

    def script(link: Link) -> None:
        if link.read_head().startswith(b"GET /big"):
            link.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % torrent.size)
            for _ in range(torrent.size // len(torrent.block)):
                link.send(torrent.block)
            return
        link.send(STREAM_HEAD)
        link.wait(go)
        link.send(frame(EVENTS[0], "chunked"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon, settings={h2.INITIAL_WINDOW_SIZE: 16 * MIB}, window=16 * MIB, receive_buffer=65536) as client:
            stream = client.call("GET", "/stream").wait_head()
            big = client.call("GET", "/big")
            client.until(lambda: len(big.data) >= MIB, "the download flows")
            go.set()
            before = len(big.data)
            stream.read_until(EVENTS[0])
            between = len(big.data) - before
            assert between < 24 * MIB, f"{between} bytes came first"  # what kernels hold: most of it in the sender's socket
            assert big.wait(30).ended


def test_downloads_share_a_connection_fairly(run: Run) -> None:
    """None of four that flow is done before each of the others had a good part."""
    body = bytes(16 * MIB)
    with ScriptedUpstream(answer(response(body)), keep_bytes=False) as upstream:
        with speak(run(upstream.url), settings={h2.INITIAL_WINDOW_SIZE: MIB}, window=8 * MIB) as client:
            calls = [client.call("GET", f"/{i}") for i in range(4)]
            client.until(lambda: all(call.data for call in calls), "all of them flow")
            client.until(lambda: any(call.ended for call in calls), "the first of them")
            assert min(len(call.data) for call in calls) > len(body) // 4, [len(call.data) for call in calls]
            assert [call.wait().body == body for call in calls] == [True] * 4


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_silence_is_filled_with_comments_between_events_only(framing: str, run: Run) -> None:
    half, rest = threading.Event(), threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(start(framing) + frame(EVENTS[0], framing))
        link.wait(half)
        link.send(frame(b"data: half", framing))
        link.wait(rest)
        link.send(frame(b" and half\n\n", framing))
        if framing == "chunked":
            link.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url, route={"sse_keepalive": "1s"})) as client:
        call = client.call("GET")
        call.read_until(EVENTS[0])
        call.read_until(b":\n\n", 5)
        half.set()
        call.read_until(b"data: half")
        stays(lambda: not client.drain(0.05).how and call.untaken == b"", 1.7, "inside an event there is no comment")
        rest.set()
        assert call.read_until(b" and half\n\n") == b" and half\n\n"
        assert call.wait().ended


# --- who leaves


@pytest.mark.parametrize("code", [Code.CANCEL, Code.NO_ERROR, Code.INTERNAL_ERROR])
def test_a_reset_stream_ends_its_upstream_at_once_and_no_other(code: Code, run: Run) -> None:
    """§6.4."""
    with ScriptedUpstream(by_path) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            first, second = client.call("GET", "/stream"), client.call("GET", "/stream")
            first.read_until(EVENTS[0])
            second.read_until(EVENTS[0])
            first.cancel(code)
            until(lambda: sum(link.ended.is_set() for link in upstream.links) == 1, "one upstream leg ends", deadline_s=2)
            assert daemon.record(path="/stream")["end"] == "client-gone"
            assert client.call(body=b"x").wait().body == b"x"
            assert not second.over
            client.close()
            until(lambda: all(link.ended.is_set() for link in upstream.links if b"/stream" in link.received), "and the other", deadline_s=2)
        assert [record["end"] for record in daemon.wait_records(2, path="/stream")] == ["client-gone"] * 2


def test_a_call_that_is_cancelled_before_its_answer_ends_its_upstream_at_once(run: Run) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            call = client.call(body=b"{}")
            until(upstream.requests, "the call arrived")
            call.cancel()
            until(upstream.links[0].ended.is_set, "the upstream leg ends", deadline_s=2)
            client.ping()
            assert not call.over, "nothing is said on a stream that is gone"
        assert daemon.record(path="/mcp")["end"] == "client-gone"


def test_an_event_of_a_stream_that_was_left_reaches_no_other(run: Run) -> None:
    """The event, the client's RST_STREAM and its next request arrive in one turn of the loop: a stopped daemon finds them together."""
    go, sent = threading.Event(), threading.Event()

    def script(link: Link) -> None:
        while (request := link.read_request()).target != b"/stream":
            link.send(response(request.body))
        link.send(start("close") + EVENTS[0])
        link.wait(go)
        link.send(b"data: of stream one\n\n")
        sent.set()
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            left = client.call("GET", "/stream")
            left.read_until(EVENTS[0])
            assert client.call(body=b"first").wait().body == b"first", "its link is idle now"
            daemon.signal(signal.SIGSTOP)
            go.set()
            assert sent.wait(10)
            left.cancel()
            second = client.call(body=b"second")
            daemon.signal(signal.SIGCONT)
            assert second.wait().body == b"second"


def test_an_upload_that_is_cancelled_is_never_whole_upstream(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            for number, length in enumerate([None, 100], 1):
                upload = client.open(request_fields(length=length), ended=False)
                upload.send(b"x" * 50)
                link = upstream.wait_for(number)
                until(partial(_holds, link, b"x" * 50), "half of it arrived")
                upload.cancel()
                assert link.ended.wait(10), "the leg ends"
        assert upstream.requests() == []
        assert len(daemon.wait_records(2, end="client-gone")) == 2


def _holds(link: Link, data: bytes) -> bool:
    return data in link.received


def test_a_client_that_leaves_ends_every_upstream_at_once(run: Run) -> None:
    with ScriptedUpstream(by_path) as upstream:
        daemon = run(upstream.url)
        baseline = daemon.resting()
        client = speak(daemon)
        streams = [client.call("GET", "/stream") for _ in range(50)]
        for stream in streams:
            stream.read_until(EVENTS[0])
        client.raw.reset()
        until(lambda: sum(link.ended.is_set() for link in upstream.links) == 50, "all upstream legs end", deadline_s=3)
        assert len(daemon.wait_records(50, end="client-gone")) == 50
        until(lambda: daemon.descriptors() <= baseline, "no descriptor stays open")


def test_a_goaway_of_the_client_lets_its_calls_finish(run: Run) -> None:
    """§6.8: it says that it will take no streams from us, and there are none."""
    opened = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.wait(opened)
        link.send(response(b"late"))

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url)) as client:
        call = client.call("GET")
        client.send(h2.frame(h2.GOAWAY, 0, 0, bytes(8)))
        upstream.wait_for(1)
        opened.set()
        assert call.wait().body == b"late"


# --- who stops reading


def fill(call: Call, torrent: Torrent) -> None:
    assert call.wait_head().status == 200
    assert torrent.blocked.wait(10), "the upstream has to wait"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_stalled_stream_stops_its_own_upstream_and_nothing_else(
    tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """§6.9: a closed window is back-pressure; at most one read (64 KiB) of it lies in our memory."""
    torrent = Torrent(48 * MIB)

    def script(link: Link) -> None:
        if link.owner.links[0] is link:
            torrent(link)
        else:
            answer()(link)

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, listen=tls_listen if tls else {})
        with speak(daemon, certificate if tls else None, credit=False, window=64 * MIB) as client:
            before = daemon.rss()
            stalled = client.call("GET")
            fill(stalled, torrent)
            assert len(client.drain().calls[stalled.number].data) == 65535
            for i in range(20):
                assert client.call(body=b"%d" % i).wait().body == b"%d" % i
            assert daemon.rss() - before < 2 * MIB
            used = daemon.cpu_s()
            stays(lambda: daemon.cpu_s() - used < 0.2, 0.5, "waiting costs no CPU")
            assert torrent.sent < torrent.size
            client.credits = True
            stalled.credit(65535)
            stalled.wait(30)
            assert hashlib.sha256(stalled.data).hexdigest() == torrent.digest()
            assert daemon.rss() - before < 2 * MIB


def test_a_hundred_stalled_streams_of_one_connection_are_bounded(run: Run) -> None:
    """The window of the connection is closed: of each stream we hold one read at most."""
    torrents = [Torrent(64 * MIB) for _ in range(100)]
    numbers, lock = iter(torrents), threading.Lock()

    def script(link: Link) -> None:
        with lock:
            torrent = next(numbers)
        torrent(link)

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        before = daemon.rss()
        with speak(daemon, credit=False) as client:
            calls = [client.call("GET", f"/{i}") for i in range(100)]
            until(lambda: all(torrent.blocked.is_set() for torrent in torrents), "every upstream has to wait", deadline_s=20)
            client.drain()
            assert sum(len(call.data) for call in calls) == 65535
            assert daemon.rss() - before < 100 * 65536 + 4 * MIB
            used = daemon.cpu_s()
            stays(lambda: daemon.cpu_s() - used < 0.2, 0.5, "waiting costs no CPU")
            with speak(daemon) as other:
                other.ping()


def test_a_client_that_reads_nothing_at_all_costs_one_read_for_each_stream(run: Run) -> None:
    """The windows are wide open, the socket is full."""
    torrents = [Torrent(64 * MIB) for _ in range(40)]
    numbers, lock = iter(torrents), threading.Lock()

    def script(link: Link) -> None:
        with lock:
            torrent = next(numbers)
        torrent(link)

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url)
        before, baseline = daemon.rss(), daemon.resting()
        client = speak(daemon, settings={h2.INITIAL_WINDOW_SIZE: h2.LARGEST}, window=h2.LARGEST, receive_buffer=65536)
        for i in range(40):
            client.call("GET", f"/{i}")
        until(lambda: all(torrent.blocked.is_set() for torrent in torrents), "every upstream has to wait", deadline_s=20)
        assert daemon.rss() - before < 40 * 2 * 65536 + 4 * MIB
        used = daemon.cpu_s()
        stays(lambda: daemon.cpu_s() - used < 0.3, 0.6, "waiting costs no CPU")
        client.close()
        until(lambda: daemon.descriptors() <= baseline, "legs of gone streams are closed")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_upstream_that_stops_reading_closes_the_window_of_its_stream_only(
    tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    """Windows open as bytes are delivered: what waits is bounded by the window, and other uploads have theirs."""
    resume = threading.Event()
    digest = hashlib.sha256()
    size = 12 * MIB

    def script(link: Link) -> None:
        while not link.read_head().startswith(b"POST /stuck"):
            link.send(response(link.read_exact(5)))
        link.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # the kernel would hold megabytes
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
        daemon = run(upstream.url, listen=tls_listen if tls else {}, limits={"body_stall": "30s"}, route={"max_body": "64MiB"})
        with speak(daemon, certificate if tls else None) as client:
            before = daemon.rss()
            block = bytes(range(256)) * 64
            stuck = client.open(request_fields(path="/stuck", length=size), ended=False)
            sent = 0

            def push() -> bool:
                """Send what the windows allow; True when the window of the stream stays shut."""
                nonlocal sent
                before = sent
                while min(stuck.room, client.room) >= len(block) and sent < size and not stuck.over:
                    stuck.send(block, ended=sent + len(block) == size)
                    sent += len(block)
                client.ping()
                return sent == before and client.drain(0.1) is client and stuck.room < len(block)

            until(push, "the window closes")
            assert sent < size
            assert daemon.rss() - before < 2 * MIB
            assert [client.call(body=b"%05d" % i).wait().body for i in range(20)] == [b"%05d" % i for i in range(20)]
            resume.set()
            while sent < size:
                stuck.send(block, ended=sent + len(block) == size)
                sent += len(block)
            assert stuck.wait().body == b"got it"
            assert digest.hexdigest() == hashlib.sha256(block * (size // len(block))).hexdigest()
            assert daemon.rss() - before < 2 * MIB


def test_ten_stuck_uploads_do_not_use_up_the_connection(run: Run) -> None:
    """Their bytes wait within the windows of their streams; the connection's is larger than all of them."""
    gone = threading.Event()

    def script(link: Link) -> None:
        if link.read_head().startswith(b"POST /stuck"):
            link.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            link.wait(gone)
            return
        link.send(response(link.read_exact(50_000)))
        link.read_until_closed()

    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        daemon = run(upstream.url, route={"max_body": "1GiB"})
        with speak(daemon) as client:
            stuck = [client.open(request_fields(path="/stuck"), ended=False) for _ in range(10)]

            def push() -> bool:
                pushed = False
                for call in stuck:
                    while min(call.room, client.room) >= 16384 and not call.over:
                        call.send(bytes(16384))
                        pushed = True
                client.ping()
                return not pushed and client.drain(0.1) is client and all(call.room < 16384 for call in stuck)

            until(push, "all windows close", deadline_s=30)
            assert client.call(body=b"z" * 50_000).wait().body == b"z" * 50_000
            gone.set()
