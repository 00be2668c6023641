"""Client certificates: who must have one, who is known by it, and that nobody is taken for somebody else on the same listener."""

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.scenarios.conftest import Run
from tests.support.certs import Authority, Certificate
from tests.support.client import RawClient, post
from tests.support.daemon import Daemon
from tests.support.h2 import H2Client
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream, answer

Context = Callable[..., ssl.SSLContext]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "clients")


@pytest.fixture
def context(authority: Authority, certificate: Certificate, tmp_path: Path) -> Context:
    """`context("ann.test")`: of a client with this name; without one, of a client without a certificate."""

    def make(name: str = "", *, alpn: str = "http/1.1", signed_by: Authority | None = None, days: float = 30) -> ssl.SSLContext:
        made = certificate.client(alpn=(alpn,))
        if name:
            issued = (signed_by or authority).issue(tmp_path / f"{name}-{days}", x509.DNSName(name), days=days)
            made.load_cert_chain(issued.cert, issued.key)
        return made

    return make


def start(run: Run, url: str, authority: Authority, certificate: Certificate, client_cert: str = "optional", **more: Any) -> Daemon:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key), "client_ca": str(authority.files.cert), "client_cert": client_cert}
    route = {"auth": "certs"} | more.pop("route", {})
    auth = {"certs": {"type": "mtls"}} | more.pop("auth", {})
    listen = {"address": f"127.0.0.1:{free_port()}", "tls": tls}
    return run(url, listen=listen, auth=auth, route=route, upstream={"principal_header": "X-Agent"}, **more)


def agents(upstream: ScriptedUpstream) -> list[bytes]:
    return [b"".join(request.all("x-agent")) for request in upstream.requests()]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_is_a_name(
    version: ssl.TLSVersion, run: Run, authority: Authority, certificate: Certificate, context: Context
) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate)
        made = context("Ann.test")
        made.minimum_version = made.maximum_version = version
        with daemon.client(tls=made) as client:
            for _ in range(4):
                assert client.exchange(post(extra="X-Agent: admin\r\n")).status == 200
        assert agents(upstream) == [b"ann.test"] * 4
        assert {record["principal"] for record in daemon.wait_records(4)} == {"ann.test"}


def test_two_with_the_same_words_are_two(run: Run, authority: Authority, certificate: Certificate, context: Context) -> None:
    """Byte for byte the same request, in turn, on two connections and on a third without a certificate."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate)
        with (
            daemon.client(tls=context("ann.test")) as ann,
            daemon.client(tls=context("ben.test")) as ben,
            daemon.client(tls=context()) as nobody,
            H2Client(daemon.client(tls=context("cleo.test", alpn="h2"))) as cleo,
            H2Client(daemon.client(tls=context("dora.test", alpn="h2"))) as dora,
        ):
            for _ in range(5):
                assert [client.exchange(post()).status for client in (ann, ben, nobody)] == [200, 200, 401]
                assert [client.call("POST", "/mcp", b"{}").wait().status for client in (cleo, dora)] == [200, 200]
        assert agents(upstream) == agents(upstream)
        assert sorted(agents(upstream)) == [name for name in (b"ann.test", b"ben.test", b"cleo.test", b"dora.test") for _ in range(5)]


def test_who_shows_nothing_is_told_so(run: Run, authority: Authority, certificate: Certificate, context: Context) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate)
        with daemon.client(tls=context()) as client:
            got = client.exchange(post())
            assert (got.status, json.loads(got.body)["error"]["data"]["reason"]) == (401, "no-credential")
            assert client.exchange(post(extra="Authorization: Bearer x\r\n")).status == 401
        assert not upstream.links


def refused(daemon: Daemon, made: ssl.SSLContext) -> bool:
    """Is the handshake (TLS 1.3: what follows it) refused?"""
    try:
        with daemon.client(tls=made) as client:
            return not client.try_send(post()) or client.read_to_end() == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_where_it_is_required_nobody_else_gets_in(
    run: Run, authority: Authority, certificate: Certificate, context: Context, tmp_path: Path
) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate, "required")
        stranger = Authority.make(tmp_path / "strangers")
        assert refused(daemon, context())
        assert refused(daemon, context("ann.test", signed_by=stranger))
        assert refused(daemon, context("old.test", days=-1))
        with daemon.client(tls=context("ann.test")) as client:
            assert client.exchange(post()).status == 200
        assert agents(upstream) == [b"ann.test"]


def test_a_certificate_of_strangers_is_refused_also_where_none_is_needed(
    run: Run, authority: Authority, certificate: Certificate, context: Context, tmp_path: Path
) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate)
        assert refused(daemon, context("ann.test", signed_by=Authority.make(tmp_path / "strangers")))


@pytest.mark.parametrize("client_cert", ["optional", "required"])
def test_a_resumed_connection_is_whose_it_was(
    client_cert: str, run: Run, authority: Authority, certificate: Certificate, context: Context
) -> None:
    """Also among others with the same words; OpenSSL keeps the certificate in the ticket."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate, client_cert)
        sessions = []
        for name in ("ann.test", "ben.test"):
            made = context(name)
            made.maximum_version = ssl.TLSVersion.TLSv1_2
            with daemon.client(tls=made) as client:
                assert client.exchange(post()).status == 200
                sessions.append((made, client.link.session))  # type: ignore[attr-defined]
        for made, session in sessions * 2:
            with RawClient(daemon.port()) as plain:
                link = made.wrap_socket(plain.raw, server_hostname="localhost", session=session)
                assert link.session_reused
                plain.link = link
                assert plain.exchange(post()).status == 200
        assert agents(upstream) == [b"ann.test", b"ben.test"] * 3


def test_a_ticket_is_good_for_its_own_listener_only(
    run: Run, authority: Authority, certificate: Certificate, context: Context, tmp_path: Path
) -> None:
    """What one listener took as a caller's certificate another, with other authorities, never saw."""
    other = Authority.make(tmp_path / "others", "others")
    pair = {"cert": str(certificate.cert), "key": str(certificate.key)}
    with ScriptedUpstream(answer()) as upstream:
        config = {
            "listen": [
                {"address": f"127.0.0.1:{free_port()}", "tls": pair | {"client_ca": str(authority.files.cert)}},
                {"address": f"127.0.0.1:{free_port()}", "tls": pair | {"client_ca": str(other.files.cert)}},
            ],
            "upstream": {"u": {"urls": [upstream.url], "principal_header": "X-Agent"}},
            "auth": {"certs": {"type": "mtls"}},
            "route": [{"upstream": "u", "auth": "certs"}],
        }
        with Daemon(config, tmp_path) as daemon:
            made = context("ann.test")
            made.maximum_version = ssl.TLSVersion.TLSv1_2
            with daemon.client(tls=made) as client:
                assert client.exchange(post()).status == 200
                session = client.link.session  # type: ignore[attr-defined]
            with RawClient(daemon.port(1)) as plain:
                try:
                    link = made.wrap_socket(plain.raw, server_hostname="localhost", session=session)
                    link.sendall(post())
                    said = link.recv(4096)
                except (ssl.SSLError, ConnectionError):
                    said = b""
            assert b" 200 " not in said
        assert agents(upstream) == [b"ann.test"]


def test_a_key_counts_more_than_the_certificate_beside_it(
    run: Run, authority: Authority, certificate: Certificate, context: Context, tmp_path: Path
) -> None:
    keys = Keys(tmp_path)
    key = keys.add("by-key")
    with ScriptedUpstream(answer()) as upstream:
        daemon = start(run, upstream.url, authority, certificate, route={"auth": ["certs", "keys"]}, auth={"keys": keys.auth()})
        with daemon.client(tls=context("ann.test")) as client:
            for _ in range(3):
                assert client.exchange(post(extra=f"X-API-Key: {key}\r\n")).status == 200
                assert client.exchange(post()).status == 200
                assert client.exchange(post(extra="X-API-Key: wrong\r\n")).status == 401
        assert agents(upstream) == [b"by-key", b"ann.test"] * 3
