"""Both sides cut after every byte of a small exchange.

Whatever the place: the right status or a visible cut, never a clean lie; no descriptor stays open; the only lease allowed
(max_connections = 1) is free for the next request; one log line per exchange.
"""

import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import RawClient, post
from tests.support.daemon import Daemon
from tests.support.message import read_requests
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

REQUEST = post(b'{"id":1}', path="/cut")
CHUNKED_REQUEST = b"POST /cut HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n"
ANSWERS = {
    "length": response(b"hello"),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx: y\r\n\r\n",
    "until close": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello",
}
SENTINEL = b"GET /sentinel HTTP/1.1\r\nHost: localhost\r\n\r\n"


def start(run: Run, upstream: ScriptedUpstream, **changes: object) -> Daemon:
    return run(upstream.url, upstream={"max_connections": 1, "queue": 1, "queue_timeout": "5s", "retry_after": "0s"}, **changes)


def check_free(daemon: Daemon, **options: Any) -> None:
    """The lease is free: another request works (it may queue until the broken one was noticed)."""
    with daemon.client(**options) as client:
        assert client.exchange(SENTINEL).status == 200


def check_log(daemon: Daemon, cuts: int, sentinels: int) -> None:
    until(lambda: len(daemon.records) >= cuts + sentinels, lambda: f"{cuts} + {sentinels} log lines, have {len(daemon.records)}")
    daemon.stop()  # nothing may follow
    assert len(daemon.select(path="/sentinel")) == sentinels
    assert len(daemon.records) - sentinels == cuts, [record for record in daemon.records if record.get("path") != "/sentinel"]


def hard(link: Link) -> None:
    link.reset()


def soft(link: Link) -> None:
    link.close()


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
        for at in range(len(answer) + 1):
            with daemon.client() as client:
                got = client.exchange(REQUEST)
                whole = got.status == 200 and got.ended
                if at < head:
                    assert (got.status, got.ended) == (502, True), f"cut at {at}: {got.start!r}"
                elif kind == "until close" and end is soft:
                    assert whole, f"cut at {at}"
                    assert got.body == answer[head:at]
                elif at < len(answer) or kind == "until close":
                    assert not whole, f"cut at {at} of {len(answer)} looks whole: {got.start!r} {got.body!r}"
                else:
                    assert whole
            check_free(daemon)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        check_log(daemon, len(answer) + 1, len(answer) + 2)


@pytest.mark.parametrize("end", [hard, soft])
def test_upstream_hangs_up_after_every_byte_of_the_request(end: Callable[[Link], None], run: Run) -> None:
    """Before any byte of an answer: 502, and a POST whose bytes may have arrived is never sent a second time."""
    size = 0
    arrived: list[bytes] = []

    def script(link: Link) -> None:
        first = link.read_exact(4)
        if first == b"GET ":
            link.read_head()
            link.send(response(b"sentinel", extra="Connection: close\r\n"))
            return
        if size > 4:
            link.read_exact(size - 4)
        arrived.append(link.received)
        end(link)

    with ScriptedUpstream(script) as upstream:
        daemon = start(run, upstream)
        check_free(daemon)
        descriptors = daemon.resting()
        sizes = range(4, len(REQUEST) + 60, 3)  # the forwarded head is longer than ours by X-Forwarded fields
        for size in sizes:  # noqa: B007 - the script reads it
            with daemon.client() as client:
                got = client.exchange(REQUEST)
                assert (got.status, got.ended) == (502, True)
            check_free(daemon)
        assert len(arrived) == len(sizes), "one link for each POST"
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        check_log(daemon, len(sizes), len(sizes) + 1)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("hard", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("request_bytes", [REQUEST, CHUNKED_REQUEST], ids=["length", "chunked"])
def test_client_goes_after_every_byte_of_its_request(
    request_bytes: bytes, hard: bool, tls: bool, run: Run, tls_listen: dict[str, object], certificate: Certificate
) -> None:
    """Nothing of it becomes a request upstream unless all of it was sent."""

    def script(link: Link) -> None:
        while True:
            if link.read_request().target == b"/sentinel":
                link.send(response(b"sentinel"))  # and /cut is never answered

    with ScriptedUpstream(script) as upstream:
        daemon = start(run, upstream, listen=tls_listen if tls else {})
        options: dict[str, Any] = {"tls": certificate.client()} if tls else {}
        check_free(daemon, **options)
        descriptors = daemon.resting()
        sizes = range(1, len(request_bytes))
        for size in sizes:
            client: RawClient = daemon.client(**options)
            client.send(request_bytes[:size])
            client.reset() if hard else client.close()
            check_free(daemon, **options)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        for link in upstream.links:
            whole = [request.target for request in read_requests(link.received)[0] if request.ended]
            assert set(whole) <= {b"/sentinel"}
        # a reset may overtake the bytes before it, so an exchange that never began is no fault; more lines than exchanges are
        until(lambda: len(daemon.select(path="/sentinel")) == len(sizes) + 1, "every sentinel is logged")
        daemon.stop()
        others = [record for record in daemon.records if record.get("path") != "/sentinel"]
        assert len(others) <= len(sizes)
        if not hard:
            assert len(others) == len(sizes)


@pytest.mark.parametrize("hard", [True, False], ids=["reset", "close"])
@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_client_goes_after_every_byte_of_the_answer(kind: str, hard: bool, run: Run) -> None:
    """The upstream leg ends at once when the answer is not over; the client's place in the log is one line."""
    answer = ANSWERS[kind]
    at = 0
    gone = threading.Event()

    def script(link: Link) -> None:
        while True:
            if link.read_request().target == b"/sentinel":
                link.send(response(b"sentinel"))
                continue
            link.send(answer[:at])
            link.read_until_closed()  # the proxy must hang up: the rest is never sent
            gone.set()
            return

    with ScriptedUpstream(script, keep_bytes=False) as upstream:
        daemon = start(run, upstream)
        check_free(daemon)
        descriptors = daemon.resting()
        for at in range(len(answer)):
            gone.clear()
            client: RawClient = daemon.client()
            client.send(REQUEST)
            if at > answer.index(b"\r\n\r\n") + 4:
                client.read_until(answer[at - 1 : at])
            client.reset() if hard else client.close()
            until(gone.is_set, f"the upstream leg ends, cut at {at}")
            check_free(daemon)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        until(lambda: len(daemon.select(path="/sentinel")) == len(answer) + 1, "every sentinel is logged")
        daemon.stop()
        others = [record for record in daemon.records if record.get("path") != "/sentinel"]
        assert len(others) <= len(answer)
        if not hard:
            assert len(others) == len(answer)


@pytest.mark.parametrize("hard", [True, False], ids=["reset", "close"])
def test_client_goes_inside_the_handshake(hard: bool, run: Run, tls_listen: dict[str, object], certificate: Certificate) -> None:
    hello = client_hello(certificate)
    with ScriptedUpstream(lambda link: link.send(response(link.read_request().body, extra="Connection: close\r\n"))) as upstream:
        daemon = start(run, upstream, listen=tls_listen)
        options: dict[str, Any] = {"tls": certificate.client()}
        check_free(daemon, **options)
        descriptors = daemon.resting()
        for size in range(0, len(hello) + 1, 7):
            client = daemon.client()
            client.send(hello[:size])
            client.reset() if hard else client.close()
        check_free(daemon, **options)
        until(lambda: daemon.descriptors() <= descriptors, lambda: f"{descriptors} descriptors again, have {daemon.descriptors()}")
        check_log(daemon, 0, 2)


def client_hello(certificate: Certificate) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = certificate.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()
