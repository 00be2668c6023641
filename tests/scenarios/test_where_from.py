"""Where a request comes from: addresses, proxies that say whose it is, hosts, web pages; and what is added to the answers for their sake."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.talk import WAYS, Talk, listen
from tests.support.upstream import ScriptedUpstream, answer, response

V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(client: str = "192.0.2.7", port: int = 4000) -> bytes:
    family = "TCP6" if ":" in client else "TCP4"
    return f"PROXY {family} {client} {'::1' if ':' in client else '127.0.0.1'} {port} 443\r\n".encode()


def v2(client: str = "192.0.2.7", port: int = 4000, extensions: bytes = b"") -> bytes:
    six = ":" in client
    kind = socket.AF_INET6 if six else socket.AF_INET
    addresses = (
        socket.inet_pton(kind, client) + socket.inet_pton(kind, "::1" if six else "127.0.0.1") + struct.pack("!HH", port, 443) + extensions
    )
    return V2 + bytes((0x21, 0x21 if six else 0x11)) + len(addresses).to_bytes(2) + addresses


def told(request: Message) -> tuple[bytes | None, bytes | None, bytes | None, bytes | None]:
    return tuple(request.first(name) for name in ("x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host"))  # type: ignore[return-value]


# -- PROXY protocol -------------------------------------------------------------------------------------------------------------------------------


def behind(certificate: Certificate, way: str = "plain", trusted: str = "127.0.0.0/8", **more: Any) -> dict[str, Any]:
    return listen(way, certificate) | {"proxy_protocol": True, "trusted_proxies": trusted} | more


@pytest.mark.parametrize("header", [v1(), v2(), v1("2001:db8::7"), v2("2001:db8::7"), v2(extensions=b"\x04\x00\x20" + b"x" * 32)])
@pytest.mark.parametrize("way", ["plain", "tls", "h2"])
def test_the_header_says_whose_connection_it_is(way: str, header: bytes, run: Run, certificate: Certificate) -> None:
    who = b"2001:db8::7" if b"db8" in header or len(header) == 52 else b"192.0.2.7"
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate, way))
        with daemon.client() as raw:
            raw.send(header)
            speak(raw, way, certificate)
        [request] = upstream.requests()
        assert told(request)[:2] == (who, who)
        assert daemon.record(path="/mcp")["client"] == who.decode()


def speak(raw: RawClient, way: str, certificate: Certificate) -> None:
    from tests.support.h2 import H2Client

    if way != "plain":
        raw.link = certificate.client(alpn=("h2",) if way == "h2" else ("http/1.1",)).wrap_socket(raw.raw, server_hostname="localhost")
    if way == "h2":
        assert H2Client(raw).call("POST", "/mcp", b"{}").wait().status == 200
    else:
        for _ in range(1):
            assert raw.exchange(post()).status == 200


@pytest.mark.parametrize("header", [v1(), v2()])
@pytest.mark.parametrize("way", ["plain", "tls"])
def test_a_header_byte_by_byte(way: str, header: bytes, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate, way))
        with daemon.client() as raw:
            for at in range(len(header)):
                raw.send(header[at : at + 1])
                if at % 7 == 0:
                    with daemon.client() as other:  # the daemon has looked at what came so far
                        other.send(v1("198.51.100.9"))
                        speak(other, way, certificate)
            speak(raw, way, certificate)
        assert told(upstream.requests()[-1])[1] == b"192.0.2.7"


def test_header_and_request_in_one_segment(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate))
        for header in (v1(), v2()):
            with daemon.client() as raw:
                raw.send(header + post() + post(b"[]"))
                assert [raw.response(b"POST").body for _ in range(2)] == [b"{}", b"[]"]


@pytest.mark.parametrize(
    "bad",
    [
        get(),
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2" + b" " * 100,
        V2 + b"\x31\x11\x00\x0c" + bytes(12),
        V2 + b"\x21\x11\x00\x02" + bytes(2),
        b"\x16\x03\x01\x02\x00",
    ],
)
def test_a_connection_without_a_good_header_is_closed(bad: bytes, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate))
        with daemon.client() as raw:
            raw.send(bad)
            assert raw.is_closed()
        half = daemon.client()
        half.send(v1()[:9])
        half.close()
        with daemon.client() as raw:
            raw.send(v1())
            assert raw.exchange(post()).status == 200
        assert len(upstream.requests()) == 1


def test_a_proxy_that_speaks_for_itself(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate))
        for header in (b"PROXY UNKNOWN\r\n", V2 + b"\x20\x00\x00\x00"):
            with daemon.client() as raw:
                raw.send(header)
                assert raw.exchange(post()).status == 200
        assert [told(request)[1] for request in upstream.requests()] == [b"127.0.0.1"] * 2


def test_from_others_nothing_is_taken(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate, trusted="192.0.2.0/24"))
        for said in (v1() + post(), post()):
            with daemon.client() as raw:
                assert not raw.try_send(said) or raw.read_to_end() == b""
        assert not upstream.links


def test_a_header_that_never_comes_does_not_keep_the_connection(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate), limits={"handshake_timeout": "1s"})
        with daemon.client() as raw, daemon.client() as begun:
            begun.send(v1()[:-1])
            assert raw.is_closed() and begun.is_closed()


def test_the_address_of_the_header_is_the_one_that_rules_are_about(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=behind(certificate), route={"allow_from": "192.0.2.0/24", "deny_from": "192.0.2.9"})
        for client, status in (("192.0.2.7", 200), ("192.0.2.9", 403), ("198.51.100.1", 403), ("192.0.2.7", 200)):
            with daemon.client() as raw:
                raw.send(v2(client))
                assert raw.exchange(post()).status == status, client


# -- X-Forwarded-For ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_trusted_proxys_word_goes_on_and_nobody_elses(way: str, run: Run, certificate: Certificate) -> None:
    fields = [
        ("X-Forwarded-For", "203.0.113.5, 192.0.2.7"),
        ("x-forwarded-for", "127.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "public.example"),
        ("X-Real-IP", "6.6.6.6"),
    ]
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate) | {"trusted_proxies": "127.0.0.0/8"})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                assert talk.ask(fields).status == 200
        for request in upstream.requests():
            assert told(request) == (b"203.0.113.5, 192.0.2.7, 127.0.0.9, 127.0.0.1", b"192.0.2.7", b"https", b"public.example")
            assert len(request.all("x-forwarded-for")) == len(request.all("x-real-ip")) == 1
    assert all(record["proxy"] == "127.0.0.1" for record in daemon.wait_records(3))


@pytest.mark.parametrize("way", WAYS)
def test_an_untrusted_clients_word_is_replaced(way: str, run: Run, certificate: Certificate) -> None:
    fields = [("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "x"), ("X-Real-IP", "6.6.6.6")]
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate) | {"trusted_proxies": "192.0.2.0/24"}, route={"deny_from": "192.0.2.7"})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                assert talk.ask(fields).status == 200
        scheme = b"http" if way == "plain" else b"https"
        assert {told(request) for request in upstream.requests()} == {(b"127.0.0.1", b"127.0.0.1", scheme, b"localhost")}


@pytest.mark.parametrize("way", WAYS)
def test_rules_about_addresses_hold_through_a_trusted_proxy(way: str, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(
            upstream.url,
            listen=listen(way, certificate) | {"trusted_proxies": "127.0.0.1"},
            route={"allow_from": ["192.0.2.0/24", "2001:db8::/32"], "deny_from": "192.0.2.66"},
        )
        expected = [
            ("192.0.2.7", 200),
            ("192.0.2.66", 403),
            ("::ffff:192.0.2.7", 200),
            ("[2001:db8::1]:443", 200),
            ("198.51.100.1", 403),
            ("192.0.2.7, 198.51.100.1", 403),
            ("198.51.100.1, 192.0.2.7", 200),
            ("192.0.2.7, unknown", 403),
            ("", 403),
        ]
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                for chain, status in expected:
                    assert talk.ask([("X-Forwarded-For", chain)] if chain else []).status == status, chain


@pytest.mark.parametrize("way", WAYS)
def test_who_may_not_come_from_there(way: str, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"allow_from": "10.0.0.0/8"})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                assert talk.ask([("X-Forwarded-For", "10.1.2.3")]).status == 403
        assert not upstream.links
        assert {record["reason"] for record in daemon.wait_records(3)} == {"address-denied"}


def test_a_limit_counts_the_client_behind_the_proxy(run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(
            upstream.url,
            listen={"trusted_proxies": "127.0.0.1"},
            limit={"each": {"per": "address", "rate": "1/h"}},
            route={"limits": "each"},
        )
        with Talk(daemon, "plain", certificate) as talk:
            statuses = [talk.ask([("X-Forwarded-For", f"192.0.2.{number}")]).status for number in (1, 2, 1, 2, 3)]
        assert statuses == [200, 200, 429, 429, 200]


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_behind_a_proxy_that_speaks_tls_clients_find_the_url_they_used(way: str, trusted: bool, run: Run, certificate: Certificate) -> None:
    """Also where the server is the resource; what anybody else says of it changes nothing."""
    place = "/.well-known/oauth-protected-resource"
    challenge = 'WWW-Authenticate: Bearer resource_metadata="http://{}' + place + '/own"\r\n'

    def script(request: Message) -> bytes:
        host = (request.first("host") or b"").decode()
        return response(b"{}", status="401 Unauthorized", extra=challenge.format(host))

    corp = {"type": "jwt", "issuer": "http://localhost:9", "private": True, "audience": "urn:files"}
    with ScriptedUpstream(answer(script)) as upstream:
        table = listen(way, certificate) | ({"trusted_proxies": "127.0.0.1"} if trusted else {})
        with_auth, without = {"upstream": "u", "path": "/mcp", "auth": "corp"}, {"upstream": "u", "path": "/own"}
        daemon = run(upstream.url, listen=table, auth={"corp": corp}, route=with_auth, more=[without])
        said = [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "public.example")]
        own = f"{'http' if way == 'plain' else 'https'}://localhost"
        public = "https://public.example" if trusted else own
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                for fields, url in ((said, public), ([], own)):
                    assert f'"{url}{place}/mcp"'.encode() in (talk.ask(fields).first("www-authenticate") or b"")
                    assert f'"{url}{place}/own"'.encode() in (talk.ask(fields, path="/own").first("www-authenticate") or b"")
                    document = talk.ask(fields, method="GET", path=f"{place}/mcp")
                    assert json.loads(document.body)["resource"] == f"{url}/mcp"


# -- hosts and pages --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_was_rebound_is_refused(way: str, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"allow_hosts": ["localhost", "*.mcp.example"]})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(2):
                for host, status in (
                    *(("localhost", 200), ("LOCALHOST:8000", 200), ("a.mcp.example", 200), ("a.b.mcp.example", 200)),
                    *(("mcp.example", 403), ("evil.example", 403), ("127.0.0.1", 403), ("localhost.evil.example", 403)),
                ):
                    assert talk.ask(host=host).status == status, host


PAGE = "https://app.example.com"


@pytest.mark.parametrize("way", WAYS)
def test_pages_that_may_and_may_not(way: str, run: Run, certificate: Certificate) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"allow_origins": [PAGE, "http://localhost:*"], "cors": True})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                for origin in (PAGE, "http://localhost:6274", "http://localhost"):
                    said = talk.ask([("Origin", origin)])
                    assert (said.status, said.all("access-control-allow-origin")) == (200, [origin.encode()])
                    assert b"Mcp-Session-Id" in (said.first("access-control-expose-headers") or b"")
                    assert said.first("vary") == b"Origin"
                for origin in ("null", "https://evil.example", "https://app.example.com.evil.example", "HTTPS://APP.EXAMPLE.COM", ""):
                    said = talk.ask([("Origin", origin)])
                    assert (said.status, said.first("access-control-allow-origin")) == (403, None), origin
                plain = talk.ask()
                assert (plain.status, plain.first("access-control-allow-origin"), plain.first("vary")) == (200, None, b"Origin")
            twice = talk.ask([("Origin", PAGE), ("Origin", "https://evil.example")])
            assert twice.status == 400


@pytest.mark.parametrize("way", WAYS)
def test_preflights_are_answered_here(way: str, run: Run, certificate: Certificate, tmp_path: Path) -> None:
    """Without a credential, as browsers send them."""
    from tests.support.keys import Keys

    keys = Keys(tmp_path)
    keys.add("agent-alpha")
    with ScriptedUpstream(answer()) as upstream:
        route = {"allow_origins": PAGE, "cors": True, "auth": "keys"}
        daemon = run(upstream.url, listen=listen(way, certificate), auth={"keys": keys.auth()}, route=route)
        asks = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "mcp-param-city, authorization, x-evil")]
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                said = talk.ask([("Origin", PAGE), *asks], method="OPTIONS")
                assert (said.status, said.body, said.first("access-control-allow-origin")) == (204, b"", PAGE.encode())
                assert b"POST" in (said.first("access-control-allow-methods") or b"")
                allowed = (said.first("access-control-allow-headers") or b"").lower().split(b", ")
                assert {b"mcp-param-city", b"authorization", b"x-api-key", b"mcp-session-id"} <= set(allowed) and b"x-evil" not in allowed
                assert talk.ask([("Origin", "https://evil.example"), *asks], method="OPTIONS").status == 403
                refused = talk.ask([("Origin", PAGE)])
                assert (refused.status, refused.first("access-control-allow-origin")) == (401, PAGE.encode()), "the page must see why"
                assert b"WWW-Authenticate" in (refused.first("access-control-expose-headers") or b"")
        assert not upstream.links


@pytest.mark.parametrize("way", WAYS)
def test_what_the_server_says_of_cors_goes_and_its_vary_stays(way: str, run: Run, certificate: Certificate) -> None:
    lines = "Access-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\nVary: Accept\r\n"
    with ScriptedUpstream(answer(response(extra=lines))) as upstream:
        daemon = run(upstream.url, listen=listen(way, certificate), route={"allow_origins": PAGE, "cors": True})
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                said = talk.ask([("Origin", PAGE)])
                assert said.all("access-control-allow-origin") == [PAGE.encode()]
                assert said.first("access-control-allow-credentials") is None
                assert said.all("vary") == [b"Accept", b"Origin"]


# -- fields of answers --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_security_fields_never_replace_the_servers_own(way: str, run: Run, certificate: Certificate) -> None:
    replies = [response(extra="X-Frame-Options: SAMEORIGIN\r\nSERVER: secret/1.0\r\nX-Powered-By: that\r\n"), response()]

    def script(link: Any) -> None:
        while True:
            link.read_request()
            link.send(replies[0])
            replies.reverse()

    with ScriptedUpstream(script) as upstream:
        route = {"security_headers": True, "hide_headers": ["Server", "X-Powered-By"], "max_body": "1KiB"}
        daemon = run(upstream.url, listen=listen(way, certificate), route=route)
        with Talk(daemon, way, certificate) as talk:
            for _ in range(3):
                own, other = talk.ask(), talk.ask()
                assert own.all("x-frame-options") == [b"SAMEORIGIN"] and other.all("x-frame-options") == [b"DENY"]
                for said in (own, other):
                    assert said.all("x-content-type-options") == [b"nosniff"]
                    assert bool(said.all("strict-transport-security")) == (way != "plain")
                    assert not said.all("server") and not said.all("x-powered-by")


@pytest.mark.parametrize("way", WAYS)
def test_answers_of_our_own_have_them_too(way: str, run: Run, certificate: Certificate) -> None:
    config = {"security_headers": True, "allow_from": "10.0.0.0/8"}
    daemon = run("http://127.0.0.1:9", listen=listen(way, certificate), route=config)
    with Talk(daemon, way, certificate) as talk:
        said = talk.ask()
        assert (said.status, said.all("x-content-type-options"), said.all("x-frame-options")) == (403, [b"nosniff"], [b"DENY"])


def test_a_unix_socket_can_be_a_trusted_proxy(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream:
        place = f"unix:{tmp_path}/in.sock"
        config = {
            "listen": [{"address": place, "trusted_proxies": "unix"}, {"address": f"127.0.0.1:{free_port()}"}],
            "upstream": {"u": {"urls": [upstream.url]}},
            "route": [{"upstream": "u", "allow_from": "192.0.2.0/24"}],
        }
        with Daemon(config, tmp_path) as daemon, daemon.client() as client, daemon.client(1) as other:
            for _ in range(2):
                assert client.exchange(post(extra="X-Forwarded-For: 192.0.2.7\r\n")).status == 200
                assert client.exchange(post()).status == 403
                assert other.exchange(post(extra="X-Forwarded-For: 192.0.2.7\r\n")).status == 403
