"""HTTP/2 is an offer that can be withdrawn: then its preface is a request of a version nobody speaks here, and ALPN says http/1.1."""

import socket
import ssl

from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream, answer

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def test_without_h2_its_preface_is_refused(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        with run(upstream.url, listen={"address": f"127.0.0.1:{free_port()}", "h2": False}).client() as client:
            client.send(PREFACE)
            assert client.response().status == 505
        assert not upstream.links


def test_with_h2_a_request_that_only_looks_like_it_is_refused(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        for head in (b"PRI / HTTP/2.0\r\n\r\n", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n"):
            with daemon.client() as client:
                client.send(head)
                assert client.response().status == 505
        assert not upstream.links


def test_alpn_offers_what_is_spoken(run: Run, certificate: Certificate) -> None:
    for h2, spoken in ((True, "h2"), (False, "http/1.1")):
        port = free_port()
        tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
        with ScriptedUpstream(answer()) as upstream:
            run(upstream.url, listen={"address": f"127.0.0.1:{port}", "h2": h2, "tls": tls})
            context: ssl.SSLContext = certificate.client()
            context.set_alpn_protocols(["h2", "http/1.1"])
            with socket.create_connection(("127.0.0.1", port)) as sock, context.wrap_socket(sock, server_hostname="localhost") as secure:
                assert secure.selected_alpn_protocol() == spoken
