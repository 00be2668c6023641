"""Who calls from where: proxies before us, address ranges, web pages; and what their browsers are told."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.net.test_proxyline import block, first, second
from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon, simple_config
from tests.support.recorder import Recorder
from tests.support.upstream import ScriptedUpstream, answer, response
from tests.support.waiting import until

CLIENT = ip_address("192.0.2.7")
HEADERS = [first(CLIENT, 5), second(CLIENT, 5, [(4, b"x" * 300)]), second(ip_address("::ffff:192.0.2.7"), 5, [])]
BEHIND = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}


def logged(daemon: Daemon, number: int = 1) -> list[str]:
    """Whose requests they were, by the log."""
    until(lambda: len(daemon.records) >= number, "log lines")
    return [str(record["client"]) for record in daemon.records]


@pytest.mark.parametrize("header", HEADERS, ids=["1", "2", "2-mapped"])
def test_a_connection_is_whose_its_proxy_header_says(header: bytes, run: Run) -> None:
    with Recorder() as upstream:
        daemon = run(upstream.url, listen=BEHIND)
        for cut in (0, 1, 6, 12, 16, len(header) - 1):
            with daemon.client() as client:
                client.send(header[:cut])
                assert client.send(header[cut:]).exchange(post(b"x", extra="X-Forwarded-For: 198.51.100.1\r\n")).status == 200
        assert set(logged(daemon, 6)) == {"192.0.2.7"}
        assert {request.first("x-forwarded-for") for request in upstream.complete} == {b"192.0.2.7"}


def test_tls_begins_behind_the_proxy_header(run: Run, tls_listen: dict[str, Any], certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen | BEHIND)
        with daemon.client() as client:
            client.send(HEADERS[1])
            client.link = certificate.client().wrap_socket(client.raw, server_hostname="localhost")
            assert client.exchange(post(b"x")).status == 200
        assert logged(daemon) == ["192.0.2.7"]


@pytest.mark.parametrize("wire", [post(b"x"), b"PROXY TCP4 1.2.3.4\r\n", block(0x11, bytes(11)), b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_proxy_that_does_not_say_for_whom_is_closed(wire: bytes, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=BEHIND)
        with daemon.client() as client:
            client.try_send(wire)
            assert client.is_closed()
        assert upstream.requests() == []


def test_a_proxy_header_of_anybody_else_is_closed(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=BEHIND | {"trusted_proxies": ["192.0.2.0/24"]})
        with daemon.client() as client:
            client.try_send(HEADERS[0] + post(b"x"))
            assert client.is_closed()
        assert upstream.requests() == []


def told(upstream: Recorder) -> tuple[bytes | None, ...]:
    """What the server heard about the client of its last request."""
    last = upstream.complete[-1]
    assert len(last.all("x-forwarded-for")) == len(last.all("x-real-ip")) == len(last.all("x-forwarded-proto")) == 1
    return tuple(last.first(name) for name in ("x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host"))


CLAIM = "X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\nX-Real-IP: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: mcp.example.com\r\n"


def test_a_trusted_proxy_is_believed(run: Run) -> None:
    with Recorder() as upstream:
        daemon = run(upstream.url, listen={"trusted_proxies": ["127.0.0.0/8"]})
        with daemon.client() as client:
            assert client.exchange(post(b"x", extra=CLAIM)).status == 200
            assert told(upstream) == (b"198.51.100.1, 192.0.2.7, 127.0.0.1", b"192.0.2.7", b"https", b"mcp.example.com")


def test_others_are_not(run: Run) -> None:
    with Recorder() as upstream:
        daemon = run(upstream.url, listen={"trusted_proxies": ["10.0.0.0/8"]})
        with daemon.client() as client:
            assert client.exchange(post(b"x", extra=CLAIM)).status == 200
            assert told(upstream) == (b"127.0.0.1", b"127.0.0.1", b"http", b"localhost")
        assert logged(daemon) == ["127.0.0.1"]


def test_a_neighbour_on_a_unix_socket_is_believed_when_it_is_named(run: Run, tmp_path: Path) -> None:
    with Recorder() as upstream:
        listen = {"address": f"unix:{tmp_path}/in.sock", "trusted_proxies": ["unix"]}
        run(upstream.url, listen=listen, route={"deny_from": ["192.0.2.7"]})
        with RawClient(f"{tmp_path}/in.sock") as client:
            assert client.exchange(post(b"x", extra=CLAIM)).status == 403
            assert client.exchange(post(b"x", extra="X-Forwarded-For: 192.0.2.7, 192.0.2.8\r\n")).status == 200
            assert told(upstream)[1] == b"192.0.2.8"


def test_addresses_decide_who_comes_in(tmp_path: Path) -> None:
    with Recorder() as upstream:
        routes = [
            {"upstream": "u", "path": "/mcp"},
            {"upstream": "u", "path": "/inside", "allow_from": ["10.0.0.0/8", "127.0.0.1"]},
            {"upstream": "u", "path": "/outside", "allow_from": ["10.0.0.0/8"]},
            {"upstream": "u", "path": "/barred", "deny_from": ["127.0.0.0/8"]},
        ]
        with Daemon(simple_config(upstream.url) | {"route": routes}, tmp_path) as daemon, daemon.client() as client:
            assert [client.exchange(get(route["path"])).status for route in routes] == [200, 200, 403, 403]
            assert b"address-denied" in client.exchange(post(path="/barred")).body
        assert len(upstream.complete) == 2


PAGE = "Origin: https://app.example.com\r\n"
CORS = {
    "allow_origins": ["https://app.example.com", "http://localhost:*"],
    "cors": True,
    "security_headers": True,
    "hide_headers": ["Server"],
}
OWN = "Server: x\r\nVary: Accept-Encoding\r\nX-Frame-Options: SAMEORIGIN\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\n"


def test_pages_that_may_call_read_the_answer(run: Run) -> None:
    with ScriptedUpstream(answer(response(extra=OWN))) as upstream:
        daemon = run(upstream.url, route=CORS)
        with daemon.client() as client:
            found = client.exchange(post(b"x", extra=PAGE))
            assert found.status == 200
            assert found.all("access-control-allow-origin") == [b"https://app.example.com"]
            assert found.all("vary") == [b"Accept-Encoding", b"Origin"]
            assert found.all("access-control-allow-credentials") == found.all("server") == found.all("strict-transport-security") == []
            assert found.all("x-frame-options") == [b"SAMEORIGIN"]
            assert found.all("x-content-type-options") == [b"nosniff"]
            other = client.exchange(post(b"x", extra="Origin: http://localhost:6274\r\n"))
            assert other.all("access-control-allow-origin") == [b"http://localhost:6274"]
            nobody = client.exchange(post(b"x"))
            assert nobody.all("access-control-allow-origin") == []
            assert nobody.all("vary") == [b"Accept-Encoding", b"Origin"]


@pytest.mark.parametrize("origin", ["null", "https://evil.test", "https://app.example.com:443", "https://app.example.com.evil.test", ""])
def test_other_pages_may_not(origin: str, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route=CORS)
        with daemon.client() as client:
            found = client.exchange(post(b"x", extra=f"Origin: {origin}\r\n"))
            assert found.status == 403
            assert b"origin-denied" in found.body
            assert found.all("access-control-allow-origin") == []
            assert found.all("x-frame-options") == [b"DENY"]
            assert client.exchange(post(b"x", extra=PAGE + f"Origin: {origin}\r\n")).status == 400
        assert upstream.requests() == []


def test_preflights_are_answered_here(run: Run) -> None:
    asks = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,mcp-param-region,x-other\r\n"
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route=CORS)
        with daemon.client() as client:
            found = client.exchange(get(method="OPTIONS", extra=PAGE + asks))
            assert found.status == 204
            assert found.all("access-control-allow-origin") == [b"https://app.example.com"]
            allowed = (found.first("access-control-allow-headers") or b"").lower().split(b", ")
            assert {b"authorization", b"mcp-session-id", b"mcp-param-region"} <= set(allowed)
            assert b"x-other" not in allowed
            assert client.exchange(get(method="OPTIONS", extra="Origin: https://evil.test\r\n" + asks)).status == 403
        assert upstream.requests() == []


def test_browsers_are_told_to_come_back_over_tls_only_where_there_is_tls(
    run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=tls_listen, route={"security_headers": True})
        with daemon.client(tls=certificate.client()) as client:
            assert client.exchange(post(b"x")).all("strict-transport-security") == [b"max-age=63072000; includeSubDomains"]


def test_a_name_that_was_rebound_is_refused(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route={"allow_hosts": ["localhost", "*.mcp.test"]})
        with daemon.client() as client:
            assert [client.exchange(post(b"x", host=host)).status for host in ("localhost", "LOCALHOST:80", "a.mcp.test.")] == [
                200,
                200,
                200,
            ]
            for host in ("evil.test", "mcp.test", "127.0.0.1", "localhost.evil.test"):
                assert client.exchange(post(b"x", host=host)).status == 403


def test_the_log_names_the_client_a_trusted_proxy_named(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen={"trusted_proxies": ["127.0.0.0/8"]}, route={"deny_from": ["192.0.2.8"]})
        with daemon.client() as client:
            assert client.exchange(post(b"x", extra=CLAIM)).status == 200
            assert client.exchange(post(b"x", extra="X-Forwarded-For: 192.0.2.8\r\n")).status == 403
        until(lambda: len(daemon.records) == 2, "both log lines")
        assert [(record.get("client"), record.get("proxy")) for record in daemon.records] == [
            ("192.0.2.7", "127.0.0.1"),
            ("192.0.2.8", "127.0.0.1"),
        ]
