"""What is decided before anything is forwarded: host, path, redirect, health; and what an upstream is told about its client."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import get, post
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream, answer, response


def test_the_longest_path_of_the_best_host_wins(tmp_path: Path) -> None:
    names = ["any", "host", "host-a", "host-ab", "wild", "long-wild"]
    with ExitStack() as stack:
        ups = {name: stack.enter_context(ScriptedUpstream(answer(response(name.encode())))) for name in names}
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}"}],
            "upstream": {name: {"urls": [up.url]} for name, up in ups.items()},
            "route": [
                {"upstream": "any"},
                {"host": "h.example", "upstream": "host"},
                {"host": "h.example", "path": "/a", "upstream": "host-a"},
                {"host": "h.example", "path": "/a/b", "upstream": "host-ab"},
                {"host": "*.example", "upstream": "wild"},
                {"host": "*.w.example", "upstream": "long-wild"},
            ],
        }
        daemon = stack.enter_context(Daemon(config, tmp_path))
        with daemon.client() as client:
            for host, path, expected in [
                ("h.example", "/", b"host"),
                ("H.Example:8443", "/", b"host"),
                ("h.example", "/a", b"host-a"),
                ("h.example", "/a?b", b"host-a"),
                ("h.example", "/a/", b"host-a"),
                ("h.example", "/ab", b"host"),
                ("h.example", "/a/b/c", b"host-ab"),
                ("h.example", "/a/bc", b"host-a"),
                ("x.example", "/a", b"wild"),
                ("a.b.example", "/", b"wild"),
                ("q.w.example", "/", b"long-wild"),
                ("elsewhere.test", "/", b"any"),
            ]:
                assert client.exchange(get(path, host=host)).body == expected, (host, path)


@pytest.mark.parametrize(
    ("path", "seen"), [("/mcp", "/"), ("/mcp/", "/"), ("/mcp/a/b", "/a/b"), ("/mcp?x=y", "/?x=y"), ("/mcp/a?x=%2f", "/a?x=%2f")]
)
def test_a_prefix_can_be_stripped(path: str, seen: str, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url, route={"path": "/mcp", "strip_prefix": True}).client() as client:
            client.exchange(get(path))
        assert upstream.requests()[0].target == seen.encode()


def test_no_route_is_404_and_an_unknown_name_421(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, route={"host": "known.example", "path": "/mcp"})
        with daemon.client() as client:
            assert client.exchange(get("/other", host="known.example")).status == 404
            assert client.exchange(get("/mcp", host="unknown.example")).status == 421
            assert client.exchange(post(host="known.example")).status == 200
        assert {record["status"] for record in daemon.wait_records(3)} == {404, 421, 200}
        assert len(upstream.requests()) == 1


def test_a_redirect_listener_keeps_method_path_and_query(tmp_path: Path, tls_listen: dict[str, Any]) -> None:
    with ScriptedUpstream(answer()) as upstream:
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}", "redirect": "https"}, tls_listen],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u"}],
        }
        with Daemon(config, tmp_path) as daemon, daemon.client() as client:
            port = daemon.port(1)
            for request in (get("/mcp?a=b%20c"), get("/mcp?a=b%20c", method="HEAD"), post(path="/mcp?a=b%20c")):
                with daemon.client() as client:
                    got = client.exchange(request)
                    assert got.status == 308
                    assert got.first("location") == f"https://localhost:{port}/mcp?a=b%20c".encode()
            with daemon.client() as client:
                assert client.exchange(get("//evil.example/")).first("location") == f"https://localhost:{port}//evil.example/".encode()
        assert upstream.links == []


def test_health_is_answered_here(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, health="/healthz")
        with daemon.client() as client:
            got = client.exchange(get("/healthz", host="anything.example"))
            assert (got.status, got.first("content-type")) == (200, b"application/json")
            assert b'"ok"' in got.body
            assert client.exchange(get("/healthz?x")).status == 200
            assert client.exchange(get("/healthzz")).status == 200
        assert [request.target for request in upstream.requests()] == [b"/healthzz"]


# --- what the upstream is told


def test_an_upstream_learns_who_asked_and_only_from_us(run: Run) -> None:
    lies = (
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil\r\n"
        "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
        "X_Forwarded_For: 6.6.6.6\r\nProxy: http://evil\r\nProxy-Authorization: Basic eA==\r\n"
    )
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url).client() as client:
            client.exchange(post(host="mcp.example:1234", extra=lies))
        seen = upstream.requests()[0]
        assert b"6.6.6.6" not in upstream.links[0].received
        assert b"evil" not in upstream.links[0].received
        assert b"proxy" not in upstream.links[0].received.lower()
        assert seen.all("x-forwarded-for") == [b"127.0.0.1"]
        assert seen.all("x-real-ip") == [b"127.0.0.1"]
        assert seen.all("x-forwarded-proto") == [b"http"]
        assert seen.all("x-forwarded-host") == [b"mcp.example:1234"]
        assert seen.all("host") == [upstream.url.removeprefix("http://").encode()]


@pytest.mark.parametrize(("policy", "seen"), [("keep", b"mcp.example:1234"), ("other.example", b"other.example")])
def test_the_host_policy_can_be_chosen(policy: str, seen: bytes, run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url, upstream={"host": policy}).client() as client:
            client.exchange(post(host="mcp.example:1234"))
        assert upstream.requests()[0].all("host") == [seen]


def test_mcp_fields_pass_untouched(run: Run) -> None:
    fields = (
        "Mcp-Session-Id: abc\r\nMCP-Protocol-Version: 2025-11-25\r\nMcp-Method: tools/call\r\nMcp-Name: search\r\n"
        "Mcp-Param-X: =?base64?YQ==?=\r\n"
        "Last-Event-ID: 7\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nAuthorization: Bearer t\r\nOrigin: https://a\r\n"
    )
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url).client() as client:
            client.exchange(post(extra=fields))
        head = upstream.links[0].received.partition(b"\r\n\r\n")[0]
        for line in fields.encode().splitlines():
            assert line in head.splitlines(), "name and value as sent"


def test_hop_by_hop_fields_stay_on_their_hop(run: Run) -> None:
    fields = "Connection: keep-alive, X-Mine\r\nX-Mine: a\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\nX-Kept: b\r\n"
    reply = response(
        b"x", extra="Connection: keep-alive, X-Yours\r\nX-Yours: a\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nX-Kept: b\r\n"
    )
    with ScriptedUpstream(answer(reply)) as upstream:
        with run(upstream.url).client() as client:
            got = client.exchange(post(extra=fields))
        seen = upstream.requests()[0]
        for name in ("connection", "x-mine", "x-yours", "keep-alive", "te", "upgrade", "proxy-authenticate"):
            assert seen.all(name) == [], f"{name} upstream"
            assert got.all(name) == [], f"{name} downstream"
        assert seen.all("x-kept") == got.all("x-kept") == [b"b"]


def test_a_unix_socket_serves_on_both_sides(tmp_path: Path) -> None:
    with ScriptedUpstream(answer(), path=str(tmp_path / "up.sock")) as upstream:
        config = {
            "listen": [{"address": f"unix:{tmp_path}/in.sock"}],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u"}],
        }
        with Daemon(config, tmp_path) as daemon:
            with daemon.client() as client:
                assert client.exchange(post(b"x")).body == b"x"
            assert daemon.record(path="/mcp")["status"] == 200


def test_ipv6_listens_too(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        port = free_port("::1")
        config = {"listen": [{"address": f"[::1]:{port}"}], "upstream": {"u": {"urls": [upstream.url]}}, "route": [{"upstream": "u"}]}
        with Daemon(config, tmp_path) as daemon, daemon.client() as client:
            assert client.exchange(post(b"x", host=f"[::1]:{port}")).body == b"x"
            assert upstream.requests()[0].first("x-forwarded-for") == b"::1"
