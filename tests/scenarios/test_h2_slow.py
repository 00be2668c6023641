"""Slow and stuck HTTP/2 clients: every half-sent thing has a deadline, and what one stream waits for is no other stream's business."""

import threading
import time
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_slow import IN_TIME, LIMITS
from tests.scenarios.test_streams import EVENTS
from tests.scenarios.test_streams import frame as chunk
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.h2 import Code, frame, request_fields, speak
from tests.support.recorder import Recorder
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import stays, until

HELLO = h2.PREFACE + h2.settings()
HEADERS = frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, h2.literals(request_fields("GET")))
HALF = {
    "no word": b"",
    "one byte": HELLO[:1],
    "half a preface": HELLO[:10],
    "a preface but for a byte": h2.PREFACE[:-1],
    "no SETTINGS": h2.PREFACE,
    "half of SETTINGS": HELLO[:-3],
    "half a frame's head": HELLO + HEADERS[:4],
    "a frame's head": HELLO + HEADERS[:9],
    "half a block": HELLO + HEADERS[:-5],
    "a block without its end": HELLO + frame(h2.HEADERS, h2.END_STREAM, 1, HEADERS[9:]),
    "half a CONTINUATION": HELLO
    + frame(h2.HEADERS, h2.END_STREAM, 1, HEADERS[9:30])
    + frame(h2.CONTINUATION, h2.END_HEADERS, 1, HEADERS[30:])[:-2],
    "half a PING": HELLO + frame(h2.PING, 0, 0, b"12345678")[:-1],
    "half an unknown frame": HELLO + frame(0xEE, 0, 0, bytes(1000))[:-1],
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("name", HALF)
def test_what_is_half_sent_has_the_deadline_of_a_head(
    name: str, tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    with Recorder() as recorder:
        daemon = run(recorder.url, limits=LIMITS, listen=tls_listen if tls else {})
        with speak(daemon, certificate if tls else None, greet=False) as client:
            if HALF[name]:
                client.send(HALF[name])
            client.raw.read_to_end(IN_TIME)
            assert client.how
        assert recorder.links == []


def test_a_dripped_frame_is_no_excuse(run: Run) -> None:
    """Bytes come, but the head is never whole."""
    with Recorder() as recorder:
        daemon = run(recorder.url, limits=LIMITS)
        client = speak(daemon)
        client.until(lambda: client.acknowledged, "the connection is up")
        began = time.monotonic()
        drip = frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, h2.literals([*request_fields("GET"), (b"x", b"y" * 900)]))
        for i in range(len(drip)):
            if not client.try_send(drip[i : i + 1]) or client.how:
                break
            client.drain(0.05)
        assert time.monotonic() - began < IN_TIME
        assert recorder.links == []
        client.close()


def test_half_a_frame_beside_a_stream_has_a_deadline_too(run: Run) -> None:
    """Nothing can be read behind it: the connection is of no more use, whatever runs on it."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(EVENTS[0], "chunked"))
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, limits=LIMITS)
        with speak(daemon) as client:
            client.call("GET").read_until(EVENTS[0])
            client.send(HEADERS[:20])
            client.read_to_end(IN_TIME)
            assert client.how
        until(upstream.links[0].ended.is_set, "its upstream leg ends")


@pytest.mark.parametrize("sent", [b"", b"half"], ids=["nothing", "half"])
@pytest.mark.parametrize("length", [10, None], ids=["length", "chunks"])
def test_a_stalled_body_is_told_408_on_its_stream(length: int | None, sent: bytes, run: Run) -> None:
    with Recorder() as recorder:
        daemon = run(recorder.url, limits=LIMITS)
        with speak(daemon) as client:
            stalled = client.open(request_fields(path="/stalled", length=length), ended=False)
            if sent:
                stalled.send(sent)
            stalled.wait(IN_TIME)
            assert (stalled.status, stalled.ended) == (408, True)
            assert stalled.wait_reset() == Code.NO_ERROR
            assert client.call(body=b"x").wait().status == 200
            assert client.goaway is None
        assert [request.target for request in recorder.complete] == [b"/mcp"]
        assert daemon.record(path="/stalled")["status"] == 408


def test_a_slow_body_that_goes_on_is_served(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream, speak(run(upstream.url, limits={**LIMITS, "body_stall": "3s"})) as client:
        call = client.open(request_fields(length=12), ended=False)
        for byte in b"hello, world":
            call.send(bytes([byte]))
            client.drain(0.3)
        assert call.end().wait().body == b"hello, world"


def test_an_idle_connection_is_told_goodbye(run: Run) -> None:
    """§6.8: GOAWAY with the last stream that was served, then the end."""
    with Recorder() as recorder:
        daemon = run(recorder.url, limits=LIMITS)
        with speak(daemon) as client:
            for _ in range(3):
                assert client.call("GET").wait().status == 200
            client.read_to_end(IN_TIME)
            assert client.goaway == (5, Code.NO_ERROR)
            assert client.how == "fin"
        daemon.stop()
        assert len(daemon.records) == 3


def test_a_connection_with_an_open_stream_is_not_idle(run: Run) -> None:
    go = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.wait(go)
        link.send(response(b"late"))

    with ScriptedUpstream(script) as upstream, speak(run(upstream.url, limits=LIMITS)) as client:
        call = client.call("GET")
        stays(lambda: not client.drain(0.05).how and client.goaway is None, 2.5, "it waits for its answer")
        go.set()
        assert call.wait().body == b"late"


def test_pings_keep_no_idle_connection_open(run: Run) -> None:
    """Signs of life are no requests."""
    with Recorder() as recorder, speak(run(recorder.url, limits=LIMITS)) as client:
        assert client.call("GET").wait().status == 200
        began = time.monotonic()
        while not client.how and time.monotonic() - began < IN_TIME:
            client.try_send(frame(h2.PING, 0, 0, b"are you?"))
            client.drain(0.1)
        assert client.how


def test_an_answer_that_never_comes_is_504_on_its_stream(run: Run) -> None:
    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if request.target == b"/never":
                link.hang()
            link.send(response(request.body))

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"response_timeout": "1s"})
        with speak(daemon) as client:
            never = client.call("POST", "/never", b"{}")
            assert client.call(body=b"x").wait().body == b"x"
            assert never.wait(IN_TIME).status == 504
            assert b'"jsonrpc"' in never.body
            assert client.call(body=b"y").wait().body == b"y"
        assert daemon.record(path="/never")["status"] == 504


def test_a_stream_that_falls_silent_is_cut_after_the_idle_timeout(run: Run) -> None:
    """By RST_STREAM: it does not look whole."""

    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n: one\n\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, route={"idle_timeout": "1s"})
        with speak(daemon) as client:
            call = client.call("GET").wait(IN_TIME)
            assert (call.status, call.ended, call.body) == (200, False, b": one\n\n")
            assert call.reset is not None
            client.ping()
        until(lambda: upstream.links[0].ended.is_set(), "the upstream leg is closed")
        assert daemon.record(path="/mcp")["end"] == "timeout"


def test_frames_in_any_slices_are_the_same_frames(run: Run) -> None:
    """A request and its body, cut in two at every byte, and byte by byte."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:

            def wire() -> tuple[h2.Call, bytes]:
                call = client.stream()
                block = client.encoder.encode(request_fields(length=5))
                parts = [frame(h2.HEADERS, h2.END_HEADERS, call.number, block), frame(h2.DATA, 0, call.number, b"he")]
                client.room -= 5
                return call, b"".join([*parts, frame(h2.DATA, h2.END_STREAM, call.number, b"llo")])

            call, data = wire()
            client.send(data)
            assert call.wait().body == b"hello"
            call, data = wire()
            for i in range(len(data)):
                client.send(data[i : i + 1])
            assert call.wait().body == b"hello"
            for cut in range(1, len(data)):
                call, data = wire()
                client.send(data[:cut])
                client.send(data[cut:])
                assert call.wait().body == b"hello", cut
