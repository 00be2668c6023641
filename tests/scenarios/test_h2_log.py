"""The access log of HTTP/2: the same lines, one for each stream; and the queue, which is the same for streams as for connections."""

import hashlib
import re
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_access_log import SECRETS
from tests.scenarios.test_queue import ONE, Gate
from tests.support import h2
from tests.support.certs import Certificate
from tests.support.h2 import Code, Pairs, frame, literals, request_fields, speak
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import until

FIELDS: Pairs = [
    ("authorization", "Bearer bearer-secret-token"),
    ("cookie", "sid=cookie-secret"),
    ("mcp-session-id", "session-secret-id"),
    ("x-api-key", "api-key-secret"),
    ("proxy-authorization", "Basic proxy-secret"),
    ("mcp-method", "tools/call"),
    ("mcp-name", "search"),
    ("mcp-protocol-version", "2025-11-25"),
    ("user-agent", "agent/1"),
]


def test_a_line_tells_everything_about_its_exchange(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer(response(b"0123456789"))) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        with speak(daemon, certificate) as client:
            for _ in range(2):
                client.call("POST", "/mcp?key=query-secret", b'{"id":1}', fields=FIELDS).wait()
            version, cipher = client.raw.link.version(), client.raw.link.cipher()[0]  # type: ignore[attr-defined]
        first, second = daemon.wait_records(2, path="/mcp")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
        assert first["id"] != second["id"]
        assert first["client"] == "127.0.0.1"
        assert (first["method"], first["host"], first["path"], first["protocol"]) == ("POST", "localhost", "/mcp", "HTTP/2")
        assert (first["status"], first["end"]) == (200, "done")
        assert first["bytes_in"] > 8
        assert first["bytes_out"] >= 10
        assert 0 <= first["ttfb_ms"] <= first["ms"] < 10_000
        assert first["upstream"] == upstream.url.removeprefix("http://")
        assert (first["reused"], second["reused"]) == (False, True)
        assert (first["mcp_method"], first["mcp_name"], first["mcp_version"]) == ("tools/call", "search", "2025-11-25")
        assert first["agent"] == "agent/1"
        assert (first["tls"], first["cipher"]) == (version, cipher)
        assert first["session"] == hashlib.sha256(b"session-secret-id").hexdigest()[: len(first["session"])]


def test_the_request_id_is_taken_forwarded_and_made(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            calls = [client.call("GET", "/taken", fields=[("x-request-id", "mine-1")])]
            calls += [client.call("GET", f"/made{i}") for i in range(3)]
            for call in calls:
                assert call.wait().status == 200
        seen = {request.target: request.all("x-request-id") for request in upstream.requests()}
        assert seen[b"/taken"] == [b"mine-1"]
        assert daemon.record(path="/taken")["id"] == "mine-1"
        made = [daemon.record(path=f"/made{i}")["id"] for i in range(3)]
        assert [seen[b"/made%d" % i] for i in range(3)] == [[each.encode()] for each in made]
        assert len(set(made)) == 3


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (request_fields("GET", "/" + "x" * 9000), 414),
        (request_fields("GET", fields=[("x", "y")] * 200), 431),
        (request_fields(length=99_999_999), 413),
        (request_fields("GET", host="evil.example"), 421),
        (request_fields("TRACE"), 405),
    ],
)
def test_a_refused_request_has_its_line(fields: Pairs, status: int, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route={"host": ["localhost"]})
        with speak(daemon) as client:
            assert client.open(fields, ended=status != 413).wait().status == status
        record = daemon.record(status=status)
        assert record["end"] != "done"
        assert (record["client"], record["protocol"]) == ("127.0.0.1", "HTTP/2")
        assert record["bytes_in"] > 0


def test_a_broken_connection_has_its_line(run: Run) -> None:
    """There was no request to tell of: the reason is what counts."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        for wire in (
            frame(h2.DATA, 0, 1, b"x"),
            frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff"),
            frame(h2.PING, 0, 0, b"short"),
            b"GET / HTTP/1.1\r\n" * 900,
        ):
            with speak(daemon) as client:
                client.try_send(wire)
                client.read_to_end()
                assert client.goaway is not None
                assert client.goaway[1] in (Code.PROTOCOL_ERROR, Code.STREAM_CLOSED, Code.COMPRESSION_ERROR, Code.FRAME_SIZE_ERROR)
        records = daemon.wait_records(4, protocol="HTTP/2")
        assert {record["end"] for record in records} == {"refused"}
        assert all(re.fullmatch(r"[a-z0-9-]+", record["reason"]) for record in records)


def test_no_secret_is_ever_logged(run: Run) -> None:
    """Not from good requests, refused ones, broken ones, upstream failures, or the messages on stderr."""
    with ScriptedUpstream(answer(response(b"body-secret", extra="Mcp-Session-Id: session-secret-id\r\n"))) as upstream:
        daemon = run(upstream.url, log={"level": "debug"})
        path = "/mcp?key=query-secret"
        requests: list[Pairs] = [
            request_fields("GET", path, fields=FIELDS),
            request_fields("GET", path, fields=[*FIELDS, ("x", "y" * 40_000)]),
            request_fields("GET", path, fields=[*FIELDS, ("x", "query-secret\r\nquery-secret: x")]),
            request_fields("GET", path, fields=FIELDS, host="query-secret@localhost"),
            request_fields("CONNECT", path, fields=FIELDS),
            request_fields("GET", "http://user:query-secret@localhost/mcp", fields=FIELDS),
            request_fields("GET", path + "#query-secret", fields=FIELDS),
            request_fields("GET", path, fields=[*FIELDS, ("bad query-secret", "x")]),
        ]
        with speak(daemon) as client:
            for fields in requests:
                call = client.stream(b"GET")
                client.send_block(call.number, literals(fields), h2.END_STREAM)
                call.wait()
            half = client.open(request_fields(path=path, fields=FIELDS, length=100), ended=False)
            half.send(b"body-secret")
            client.ping()
            client.send(frame(h2.PING, 0, 0, b"query-secret"))
            client.read_to_end()
        daemon.wait_records(3)
        daemon.stop()
        text = "\n".join([*map(str, daemon.records), *daemon.messages])
        assert [secret for secret in SECRETS if secret in text] == []


def test_escape_codes_and_quotes_cannot_forge_a_line(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with speak(daemon) as client:
            client.call("GET", '/"},{"path":"/forged', fields=[("user-agent", '"\\\\u001b},{"a":"b'), (b"mcp-name", b'\xe4\xff"')]).wait()
            call = client.stream(b"GET")
            client.send_block(call.number, literals(request_fields("GET", '/\x1b[31m"}')), h2.END_STREAM)
            call.wait()
        daemon.wait_records(1)
        daemon.stop()
        assert daemon.select(path="/forged") == []
        assert daemon.not_json == []


def test_how_it_ended_is_told(run: Run) -> None:
    def script(link: Link) -> None:
        while True:
            target = link.read_request().target
            if target == b"/done":
                link.send(response(b"x"))
            elif target == b"/cut":
                link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
                return
            elif target == b"/garbage":
                link.send(b"garbage\r\n\r\n")
            elif target == b"/left":
                link.read_until_closed()
            else:
                return

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"retry_after": "0s"})
        with speak(daemon) as client:
            for path in ("/done", "/cut", "/garbage", "/closed"):
                client.call("POST", path, b"{}").wait()
            left = client.call("POST", "/left", b"{}")
            until(lambda: any(request.target == b"/left" for request in upstream.requests()), "it arrived")
            left.cancel()
            assert daemon.record(path="/left")["end"] == "client-gone"
        assert daemon.record(path="/done")["end"] == "done"
        assert (daemon.record(path="/cut")["end"], daemon.record(path="/cut")["status"]) == ("upstream-gone", 200)
        assert daemon.record(path="/garbage")["status"] == 502
        assert daemon.record(path="/closed")["status"] == 502
        assert len(daemon.records) == 5


# --- the queue


def test_beyond_the_queue_it_is_503_at_once_and_says_when_to_come_back(run: Run) -> None:
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE | {"queue_timeout": "30s"})
        with speak(daemon) as client:
            held = client.call(body=b"1")
            assert gate.entered.wait(10)
            waiting = [client.call(body=b"2"), client.call(body=b"3")]
            over = client.call(body=b"4").wait()
            assert (over.status, over.ended) == (503, True)
            assert int(over.first("retry-after") or b"0") >= 1
            assert b'"jsonrpc"' in over.body
            gate.opened.set()
            assert held.wait().body == b"held"
            assert [call.wait().body for call in waiting] == [b"2", b"3"]
        assert len(upstream.links) == 1, "one lease, one link"


def test_who_waited_too_long_is_told_503_and_who_leaves_is_not_served(run: Run) -> None:
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE)
        with speak(daemon) as client:
            held = client.call(body=b"1")
            assert gate.entered.wait(10)
            leaver = client.call("POST", "/leaver", b"never")
            client.ping()
            leaver.cancel()
            assert daemon.record(path="/leaver")["end"] == "client-gone"
            waited = client.call("POST", "/waited", b"2").wait()
            assert waited.status == 503
            assert waited.first("retry-after") is not None
            gate.opened.set()
            assert held.wait().body == b"held"
            assert client.call(body=b"again").wait().body == b"again"
        assert daemon.record(path="/waited")["status"] == 503
        assert b"never" not in [request.body for request in upstream.requests()]


def test_an_upload_that_waits_in_the_queue_keeps_to_its_window(run: Run) -> None:
    """Until there is a link nothing is read on: at most the window of the stream lies in memory, and all of it goes on afterwards."""
    gate = Gate()
    with ScriptedUpstream(gate) as upstream:
        daemon = run(upstream.url, upstream=ONE | {"queue_timeout": "30s"})
        with speak(daemon) as client:
            held = client.call(body=b"1")
            assert gate.entered.wait(10)
            body = bytes(range(256)) * 2000
            upload = client.open(request_fields(length=len(body)), ended=False)
            upload.send(body[:65535])
            client.ping()
            assert upload.room == 0, "its window stays shut"
            gate.opened.set()
            assert held.wait().body == b"held"
            assert upload.send(body[65535:], ended=True).wait().body == body


def test_a_queue_longer_than_its_leases_is_served_in_order_and_loses_nobody(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, upstream={"max_connections": 2, "queue": 100, "queue_timeout": "10s"})
        with speak(daemon) as client:
            calls = [client.call(body=b"%d" % i) for i in range(60)]
            assert [call.wait().body for call in calls] == [b"%d" % i for i in range(60)]
        assert len(upstream.links) <= 2
        assert len(daemon.wait_records(60)) == 60
