"""While a validation is pending: the authority sees its certificate, everybody else what they always see, and nobody stays for ever."""

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from mcpproxy.edge.peephole import PROTOCOL, Peephole, Validator
from mcpproxy.pki.acme_files import Challenges
from mcpproxy.pki.selfmade import challenge_certificate

HOST = "mcp.example.com"


@pytest.fixture
def edge(proxy, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    made = proxy(listen=f'tls = {{ hosts = ["{HOST}"], acme = "ops@example.com" }}', limits='handshake_timeout = "5s"')
    made.front = made.runtime.fronts[0]
    made.challenges = Challenges(str(tmp_path / "state"))
    made.challenges.answer_alpn(HOST, challenge_certificate(HOST, "token.thumb"))
    made.front.alpn.look()
    return made


def handshake(edge, *protocols, name=HOST):
    """The client's side of one, step by step: its socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    client = context.wrap_socket(edge.client(), server_hostname=name, do_handshake_on_connect=False)
    client.setblocking(False)

    def shaken() -> bool:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    edge.until(shaken)
    return client


def shown(client) -> str:
    found = x509.load_der_x509_certificate(client.getpeercert(binary_form=True))
    return "challenge" if any(each.oid.dotted_string == "1.3.6.1.5.5.7.1.31" for each in found.extensions) else "ours"


def peepholes(edge):
    return [link for link in edge.runtime.links if isinstance(link, Peephole | Validator)]


def test_a_validator_sees_its_certificate_and_nothing_else(edge):
    client = handshake(edge, PROTOCOL)
    assert (shown(client), client.selected_alpn_protocol()) == ("challenge", PROTOCOL)
    edge.until(lambda: not edge.runtime.links)


@pytest.mark.parametrize(
    ("protocols", "name"),
    [
        ((), HOST),
        (("h2", "http/1.1"), HOST),
        ((PROTOCOL, "http/1.1"), HOST),
        (("http/1.1", PROTOCOL), HOST),
        ((PROTOCOL,), "other.example"),
    ],
)
def test_everybody_else_sees_what_they_always_see(edge, protocols, name):
    client = handshake(edge, *protocols, name=name)
    assert shown(client) == "ours"
    assert not peepholes(edge)


def test_while_nothing_is_pending_nobody_is_looked_at(edge, monkeypatch):
    edge.challenges.clear()
    edge.front.alpn.look()
    monkeypatch.setattr(Peephole, "begin", lambda _: pytest.fail("looked at"))
    assert shown(handshake(edge, PROTOCOL)) == "ours"


def test_a_challenge_that_is_over_before_its_validator_comes(edge):
    os.unlink(edge.front.alpn.hosts[HOST])
    with pytest.raises((ssl.SSLError, OSError)):
        handshake(edge, PROTOCOL)
    assert not edge.runtime.links


def test_a_hello_that_comes_byte_by_byte(edge):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([PROTOCOL])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    half = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    client = edge.client()
    for byte in outgoing.read():
        client.send(bytes([byte]))
        edge.steps.turn(1)

    def shaken() -> bool:
        try:
            incoming.write(client.recv(65536))
            half.do_handshake()
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    edge.until(shaken)
    assert half.selected_alpn_protocol() == PROTOCOL


def test_who_says_nothing_or_leaves_is_gone(edge):
    silent, leaving = edge.client(), edge.client()
    leaving.sendall(b"\x16\x03\x01\x02\x00")
    edge.until(lambda: len(peepholes(edge)) == 2)
    leaving.shutdown(1)
    edge.until(lambda: len(peepholes(edge)) == 1)
    edge.later(6)
    assert edge.end(silent)[0] == b""
    assert not edge.runtime.links


def test_plain_http_is_told_so_all_the_same(edge):
    client = edge.client()
    client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"plain-on-tls-port" in edge.end(client)[0]


def test_the_proof_is_served_over_http_on_every_listener(proxy, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    second = '[[listen]]\naddress = "127.0.0.1:0"\ntls = { hosts = ["mcp.example.com"], acme = "ops@example.com" }'
    edge = proxy(listen=f'redirect = "https"\n{second}')
    token = "x" * 43
    Challenges(str(tmp_path / "state")).answer_http(token, token.encode() + b".thumb")
    client = edge.client()
    client.sendall(f"GET /.well-known/acme-challenge/{token}?x=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    answer = edge.read(client, b".thumb")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n" + token.encode() + b".thumb")
    client.sendall(f"HEAD /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert edge.read(client).endswith(b"\r\n\r\n")
    client.sendall(b"GET /.well-known/acme-challenge/" + b"y" * 43 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert edge.read(client).startswith(b"HTTP/1.1 308 ")


def test_no_server_proves_that_a_name_of_ours_is_its_own(proxy, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    edge = proxy(listen='[[listen]]\naddress = "127.0.0.1:0"\ntls = { hosts = ["mcp.example.com"], acme = "ops@example.com" }')
    client = edge.client()
    ask = b"GET /.well-known/acme-challenge/" + b"y" * 43 + b" HTTP/1.1\r\nHost: %b\r\n\r\n"
    client.sendall(ask % b"MCP.example.com:80")
    assert edge.read(client, 40).startswith(b"HTTP/1.1 404 ")
    client.sendall(ask % b"other.example.com")
    assert b"X-Forwarded-Host: other.example.com\r\n" in edge.read(edge.accept()), "names that are not ours are its business"
