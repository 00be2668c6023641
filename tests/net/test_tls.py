"""TLS contexts: what is spoken, which certificate answers whom, and what a broken file is told in."""

import contextlib
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mcpproxy.errors import StartError
from mcpproxy.net.tls import Identity, certificate_names, client_context, server_context
from tests.support.certs import Certificate, make_certificate


def identity(made: Certificate) -> Identity:
    return Identity(str(made.cert), str(made.key))


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = "localhost") -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory: (client's end, server's end)."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=name)
    theirs = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return ours, theirs


def trusting(*made: Certificate) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for each in made:
        context.load_verify_locations(each.cert)
    return context


@pytest.fixture
def server(certificate: Certificate) -> ssl.SSLContext:
    return server_context([identity(certificate)], "1.2", ("http/1.1",))


def test_tls_1_3_by_default_and_the_protocol_is_agreed(server: ssl.SSLContext, certificate: Certificate) -> None:
    ours, _ = shake(server, certificate.client(alpn=("h2", "http/1.1")))
    assert (ours.version(), ours.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")


def test_a_client_of_tls_1_2_gets_forward_secrecy_and_aead(server: ssl.SSLContext, certificate: Certificate) -> None:
    client = certificate.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = shake(server, client)
    cipher = ours.cipher()
    assert cipher is not None
    assert ours.version() == "TLSv1.2"
    assert cipher[0].startswith("ECDHE-")
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
def test_weaker_suites_are_refused(server: ssl.SSLContext, certificate: Certificate, suite: str) -> None:
    client = certificate.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(suite)
    with pytest.raises(ssl.SSLError):
        shake(server, client)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_1_is_refused(server: ssl.SSLContext, certificate: Certificate) -> None:
    client = certificate.client()
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(server, client)


def test_tls_1_2_is_refused_when_1_3_is_asked_for(certificate: Certificate) -> None:
    client = certificate.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(server_context([identity(certificate)], "1.3", ("http/1.1",)), client)


# --- several certificates


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Certificate]:
    place = tmp_path_factory.mktemp("three")
    return [make_certificate(place, "one.test"), make_certificate(place, "two.test", "*.two.test"), make_certificate(place, "x.two.test")]


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("one.test", 0),
        ("two.test", 1),
        ("TWO.test", 1),
        ("a.two.test", 1),
        ("x.two.test", 2),
        ("a.b.two.test", 0),
        ("other.test", 0),
        (None, 0),
    ],
)
def test_the_certificate_of_the_asked_name_answers_else_the_first(three: list[Certificate], name: str | None, answers: int) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    ours, _ = shake(server_context([identity(each) for each in three], "1.2", ("http/1.1",)), client, name)
    assert ours.getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(three[answers].cert.read_text())


def test_the_other_certificates_speak_the_same_protocols(three: list[Certificate]) -> None:
    client = trusting(*three)
    client.set_alpn_protocols(["http/1.1"])
    ours, _ = shake(server_context([identity(each) for each in three], "1.2", ("http/1.1",)), client, "two.test")
    assert ours.selected_alpn_protocol() == "http/1.1"


def test_names_and_addresses_of_a_certificate(three: list[Certificate]) -> None:
    assert certificate_names(str(three[1].cert)) == ["two.test", "*.two.test", "127.0.0.1"]


# --- broken files


def test_files_are_named_in_the_error(tmp_path: Path, certificate: Certificate) -> None:
    other = make_certificate(tmp_path / "other")
    locked = tmp_path / "locked.key"
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    )
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    cert, good = str(certificate.cert), str(certificate.key)
    for pair, blamed, words in (
        ((str(tmp_path / "none.pem"), good), "none.pem", "No such file"),
        ((cert, str(tmp_path / "none.key")), "none.key", "No such file"),
        ((str(tmp_path), good), str(tmp_path), "Is a directory"),
        ((str(garbage), good), "garbage.pem", "not a PEM certificate"),
        ((cert, str(garbage)), "garbage.pem", "not a PEM private key"),
        ((cert, str(other.key)), str(other.key), "is not the key of"),
        ((cert, str(locked)), "locked.key", "passphrase"),
    ):
        with pytest.raises(StartError) as caught:
            server_context([Identity(*pair)], "1.2", ("http/1.1",))
        assert blamed in caught.value.message
        assert words in caught.value.message
        assert caught.value.hint


# --- towards upstreams


def test_an_upstream_is_verified_by_the_given_authority_and_by_name(
    certificate: Certificate, server: ssl.SSLContext, tmp_path: Path
) -> None:
    shake(server, client_context(str(certificate.cert), True), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(server, client_context(str(certificate.cert), True), "other.test")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(str(make_certificate(tmp_path / "x").cert), True), "localhost")


def test_the_systems_authorities_are_the_default(server: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(None, True), "localhost")


def test_verification_can_be_turned_off(server: ssl.SSLContext) -> None:
    shake(server, client_context(None, False), "whatever.test")


def test_upstreams_are_asked_for_http_1_1(certificate: Certificate) -> None:
    server = server_context([identity(certificate)], "1.2", ("h2", "http/1.1"))
    _, theirs = shake(server, client_context(str(certificate.cert), True))
    assert theirs.selected_alpn_protocol() == "http/1.1"


def test_an_authority_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"none\.pem"):
        client_context(str(tmp_path / "none.pem"), True)
