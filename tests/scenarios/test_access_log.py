"""One JSON line per exchange, whole or refused or broken; complete for an operator, useless for a thief."""

import hashlib
import re
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import get, post
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response
from tests.support.waiting import until

SECRETS = ("bearer-secret-token", "cookie-secret", "query-secret", "session-secret-id", "proxy-secret", "body-secret", "api-key-secret")
FIELDS = (
    "Authorization: Bearer bearer-secret-token\r\nCookie: sid=cookie-secret\r\nMcp-Session-Id: session-secret-id\r\n"
    "X-Api-Key: api-key-secret\r\n"
    "Proxy-Authorization: Basic proxy-secret\r\nMcp-Method: tools/call\r\nMcp-Name: search\r\n"
    "MCP-Protocol-Version: 2025-11-25\r\nUser-Agent: agent/1\r\n"
)


def test_a_line_tells_everything_about_its_exchange(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    reply = response(b"0123456789")
    with ScriptedUpstream(answer(reply)) as upstream:
        daemon = run(upstream.url, listen=tls_listen)
        request = post(b'{"id":1}', path="/mcp?key=query-secret", extra=FIELDS)
        with daemon.client(tls=certificate.client()) as client:
            client.exchange(request)
            client.exchange(request)
            version, cipher = client.link.version(), client.link.cipher()[0]  # type: ignore[attr-defined]
        first, second = daemon.wait_records(2, path="/mcp")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
        assert first["id"] != second["id"]
        assert first["client"] == "127.0.0.1"
        assert (first["method"], first["host"], first["path"], first["protocol"]) == ("POST", "localhost", "/mcp", "HTTP/1.1")
        assert (first["status"], first["end"]) == (200, "done")
        assert first["bytes_in"] == len(request)
        assert first["bytes_out"] >= len(reply)
        assert 0 <= first["ttfb_ms"] <= first["ms"] < 10_000
        assert first["upstream"] == upstream.url.removeprefix("http://")
        assert (first["reused"], second["reused"]) == (False, True)
        assert (first["mcp_method"], first["mcp_name"], first["mcp_version"]) == ("tools/call", "search", "2025-11-25")
        assert first["agent"] == "agent/1"
        assert (first["tls"], first["cipher"]) == (version, cipher)
        assert first["session"] == hashlib.sha256(b"session-secret-id").hexdigest()[: len(first["session"])]
        assert len(first["session"]) <= 16


def test_the_request_id_is_taken_forwarded_and_made(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.exchange(post(path="/taken", extra="X-Request-Id: mine-1\r\n"))
            client.exchange(post(path="/made"))
            client.exchange(post(path="/evil", extra='X-Request-Id: a"},{"b\r\n'))
        seen = {request.target: request.all("x-request-id") for request in upstream.requests()}
        assert seen[b"/taken"] == [b"mine-1"]
        assert daemon.record(path="/taken")["id"] == "mine-1"
        for path in ("/made", "/evil"):
            made = daemon.record(path=path)["id"]
            assert seen[path.encode()] == [made.encode()]
            assert re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,128}", made)


def test_no_secret_is_ever_logged(run: Run) -> None:
    """Not from good requests, refused ones, broken ones, upstream failures, upgrades, or the messages on stderr."""
    with ScriptedUpstream(answer(response(b"body-secret", extra="Mcp-Session-Id: session-secret-id\r\n"))) as upstream:
        daemon = run(upstream.url, log={"level": "debug"})
        line = "POST /mcp?key=query-secret HTTP/1.1\r\nHost: localhost\r\n" + FIELDS
        wires = [
            (line + "Content-Length: 11\r\n\r\nbody-secret").encode(),
            (line + "Content-Length: 11\r\nContent-Length: 12\r\n\r\nbody-secret").encode(),
            (line + "Bad Header: query-secret\r\n\r\n").encode(),
            (line + "Transfer-Encoding: chunked\r\n\r\nbody-secret").encode(),
            (line.replace("localhost", "query-secret@localhost") + "\r\n").encode(),
            line.replace("POST", "CONNECT").encode() + b"\r\n",
            line.replace("/mcp?", "http://user:query-secret@localhost/mcp?").encode() + b"\r\n",
            line.replace("HTTP/1.1", "HTTP/7.7").encode() + b"\r\n",
            line.encode() + b"X: " + b"y" * 40_000 + b"\r\n\r\n",
            line.encode()[:-30],
        ]
        for wire in wires:
            with daemon.client() as client:
                client.try_send(wire)
                if wire is not wires[-1]:
                    client.response()
        daemon.wait_records(len(wires))
        daemon.stop()
        text = "\n".join([*map(str, daemon.records), *daemon.messages])
        assert [secret for secret in SECRETS if secret in text] == []


def test_escape_codes_and_quotes_cannot_forge_a_line(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.exchange(post(path='/"},{"path":"/forged', extra='User-Agent: "\\\\u001b},{"a":"b\r\nMcp-Name: \xe4\xff"\r\n'))
        with daemon.client() as client:
            client.send(b'GET /\x1b[31m"} HTTP/1.1\r\nHost: localhost\r\n\r\n')
            client.response()
        daemon.wait_records(2)
        assert daemon.select(path="/forged") == []
        assert daemon.not_json == []


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", 413),
        (b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    ],
)
def test_a_refused_request_has_its_line(wire: bytes, status: int, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.send(wire)
            got = client.response()
            assert got.status == status
        record = daemon.record(status=status)
        assert record["end"] != "done"
        assert record["bytes_in"] > 0
        assert record["client"] == "127.0.0.1"


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
        for path in ("/done", "/cut", "/garbage", "/closed"):
            with daemon.client() as client:
                client.exchange(post(path=path))
        with daemon.client() as client:
            client.send(post(path="/left"))
            until(lambda: any(request.target == b"/left" for request in upstream.requests()), "it arrived")
        assert daemon.record(path="/done")["end"] == "done"
        assert daemon.record(path="/cut")["end"] == "upstream-gone"
        assert daemon.record(path="/cut")["status"] == 200
        assert daemon.record(path="/garbage")["status"] == 502
        assert daemon.record(path="/closed")["status"] == 502
        assert daemon.record(path="/left")["end"] == "client-gone"
        assert len(daemon.records) == 5


def test_a_stream_is_logged_when_it_ends_with_what_it_carried(run: Run) -> None:
    event = b"data: x\n\n"
    wire = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    with ScriptedUpstream(once(wire, b"9\r\n" + event + b"\r\n", b"9\r\n" + event + b"\r\n", b"0\r\n\r\n")) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            assert client.exchange(get("/stream")).body == event * 2
        record = daemon.record(path="/stream")
        assert record["bytes_out"] >= len(wire) + 2 * 14 + 5


def test_the_log_can_be_off(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, log={"access": "off"})
        with daemon.client() as client:
            assert client.exchange(post()).status == 200
        daemon.stop()
        assert daemon.records == []


def test_a_quiet_line_is_written_within_a_moment(run: Run) -> None:
    """Batches are for busy times; an operator who watches sees a single request soon."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        with daemon.client() as client:
            client.exchange(post(path="/single"))
            daemon.wait_records(1, deadline_s=3, path="/single")
