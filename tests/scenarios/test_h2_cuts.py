"""Both sides of an HTTP/2 exchange cut after every byte: never a clean lie, nothing left open, the only lease free again, one log line each.

A cut answer is RST_STREAM on its stream, and the connection goes on: all cuts of one test happen on one connection.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_cuts import ANSWERS, check_log, hard, soft, start
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.h2 import Code, frame, literals, request_fields, speak
from tests.support.message import read_requests
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

HELLO = h2.PREFACE + h2.settings({h2.ENABLE_PUSH: 0})
REQUEST = (
    frame(h2.HEADERS, h2.END_HEADERS, 1, literals(request_fields(path="/cut", length=8)))
    + frame(h2.DATA, 0, 1, b'{"id"')
    + frame(h2.DATA, h2.END_STREAM, 1, b":1}")
)
OPEN_ENDED = (
    frame(h2.HEADERS, h2.END_HEADERS, 1, literals(request_fields(path="/cut")))
    + frame(h2.DATA, 0, 1, b"abc")
    + frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, literals([("x-sum", "7")]))
)


def check_free(daemon: Daemon) -> None:
    """The lease is free: another request works (it may queue until the broken one was noticed)."""
    with speak(daemon) as client:
        assert client.call("GET", "/sentinel").wait().status == 200


@pytest.mark.parametrize("end", [hard, soft])
@pytest.mark.parametrize("kind", ANSWERS)
def test_upstream_cuts_its_answer_after_every_byte(kind: str, end: Callable[[Link], None], run: Run) -> None:
    answer = ANSWERS[kind]
    head = answer.index(b"\r\n\r\n") + 4
    at = 0

    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if request.target == b"/sentinel":
                link.send(response(b"sentinel"))
                continue
            link.send(answer[:at])
            if at < len(answer) or kind == "until close":
                return end(link)

    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        daemon = start(run, upstream)
        check_free(daemon)
        descriptors = daemon.resting()
        with speak(daemon) as client:
            for at in range(len(answer) + 1):
                got = client.call("POST", "/cut", b'{"id":1}').wait()
                whole = got.status == 200 and got.ended
                if at < head:
                    assert (got.status, got.ended) == (502, True), f"cut at {at}: {got}"
                elif kind == "until close" and end is soft:
                    assert whole, f"cut at {at}: {got}"
                    assert got.body == answer[head:at]
                elif at < len(answer) or kind == "until close":
                    assert not whole, f"cut at {at} of {len(answer)} looks whole: {got}"
                    assert got.reset == Code.INTERNAL_ERROR
                else:
                    assert whole
                assert client.call("GET", "/sentinel").wait().body == b"sentinel"
            assert client.goaway is None
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        check_log(daemon, len(answer) + 1, len(answer) + 2)


@pytest.mark.parametrize("end", ["hard", "soft"])
@pytest.mark.parametrize("wire", [REQUEST, OPEN_ENDED], ids=["length", "trailers"])
def test_client_hangs_up_after_every_byte(wire: bytes, end: str, run: Run) -> None:
    """A request that is not whole never looks whole upstream, and one that is may be served or not; either way nothing stays."""

    def script(link: Link) -> None:
        while True:
            link.send(response(link.read_request().body))

    with ScriptedUpstream(script) as upstream:
        daemon = start(run, upstream)
        check_free(daemon)
        descriptors = daemon.resting()
        for at in range(1, len(wire)):
            client = speak(daemon, greet=False)
            client.send(HELLO + wire[:at])
            client.raw.reset() if end == "hard" else client.close()
            check_free(daemon)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        daemon.stop()
        cuts = daemon.select(path="/cut")
        assert {record["end"] for record in cuts} <= {"client-gone"}
        after_head = len(wire) - 9 - int.from_bytes(wire[:3])
        assert len(cuts) <= after_head, "one line each"
        assert end == "hard" or len(cuts) == after_head  # a reset may overtake the head it follows: then there was no exchange
        whole = [request for link in upstream.links for request in read_requests(link.received)[0] if request.ended]
        assert {request.target for request in whole} == {b"/sentinel"}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_client_hangs_up_after_every_frame_of_the_answer(tls: bool, run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    def script(link: Link) -> None:
        while link.read_request().target == b"/sentinel":
            link.send(response(b"sentinel"))
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            link.send(b"9\r\ndata: x\n\n\r\n")
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = start(run, upstream, listen=tls_listen if tls else {})
        speaker = certificate if tls else None
        with speak(daemon, speaker) as client:
            assert client.call("GET", "/sentinel").wait().status == 200
        descriptors = daemon.resting()
        for size in (0, 9, 18, 27):
            for leave in ("reset", "close", "cancel"):
                client = speak(daemon, speaker)
                call = client.call("GET", "/cut").wait_head()
                call.read_exact(size)
                if leave == "cancel":
                    call.cancel()
                    client.ping()
                    assert client.call("GET", "/sentinel").wait().status == 200
                    client.close()
                else:
                    client.raw.reset() if leave == "reset" else client.close()
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        assert len(daemon.wait_records(12, path="/cut", end="client-gone", status=200)) == 12


@pytest.mark.parametrize("end", [hard, soft])
def test_upstream_hangs_up_after_the_head_of_an_upload(end: Callable[[Link], None], run: Run) -> None:
    """502, and what the client still sends harms nobody."""

    def script(link: Link) -> None:
        if link.read_head().startswith(b"GET"):
            link.send(response(b"sentinel", extra="Connection: close\r\n"))
            return
        end(link)

    with ScriptedUpstream(script) as upstream:
        daemon = start(run, upstream)
        with speak(daemon) as client:
            for _ in range(5):
                upload = client.open(request_fields(path="/cut", length=300_000), ended=False)
                upload.send(bytes(300_000), ended=True).wait()
                assert (upload.status, upload.ended) == (502, True)
                client.ping()
                assert client.call("GET", "/sentinel").wait().body == b"sentinel"
            assert client.goaway is None
        check_log(daemon, 5, 5)
