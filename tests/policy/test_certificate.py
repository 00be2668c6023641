"""Who is it whose client certificate was found good: names as they are in certificates, and what is nobody's name."""

import datetime
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.policies import Auth
from mcpproxy.http.replies import MESSAGES
from mcpproxy.net.tls import Clients, Identity, server_context
from mcpproxy.policy.certificate import OVER, SEEN, UNREADABLE, Certificates, is_plain
from mcpproxy.policy.verdict import Accepted, Credential, Principal, Refused
from tests.support.certs import Authority, Certificate

KEY = ec.generate_private_key(ec.SECP256R1())
BEGINS, ENDS = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).timestamp()
DNS, URI, EMAIL = x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name


def made(*names: x509.GeneralName, cn: tuple[str, ...] = (), serial: int = 0x1234) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each, _validate=False) for each in cn])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(x509.Name([])).public_key(KEY.public_key())
    builder = builder.serial_number(serial).not_valid_before(BEGINS).not_valid_after(ENDS)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def judged(der: bytes, name_from: str = "dns", now: float = NOW, **more: object) -> object:
    return Certificates("certs", Auth(type="mtls", name_from=name_from, **more)).judge(Credential("certificate", der), now)  # type: ignore[arg-type]


def name(der: bytes, name_from: str = "dns") -> str | None:
    found = judged(der, name_from)
    return found.principal.name if isinstance(found, Accepted) else None


def test_a_certificate_names_its_caller_until_its_end() -> None:
    found = judged(made(DNS("agent.example")), roles=("agents",))
    assert found == Accepted(Principal("agent.example", "certs", frozenset({"agents"}), key="1234"), ENDS.timestamp())


@pytest.mark.parametrize(
    ("name_from", "found"),
    [("dns", "a.example"), ("uri", "spiffe://example/Agent"), ("email", "Agent@example.com"), ("cn", "Agent Alpha")],
)
def test_the_name_comes_from_where_the_configuration_says(name_from: str, found: str) -> None:
    der = made(EMAIL("Agent@example.com"), DNS("A.example"), URI("spiffe://example/Agent"), DNS("b.example"), cn=("Agent Alpha",))
    assert name(der, name_from) == found


@pytest.mark.parametrize("name_from", ["dns", "uri", "email", "cn"])
def test_who_is_not_named_there_is_nobody(name_from: str) -> None:
    others = {
        "dns": made(URI("x:y"), cn=("a.example",)),
        "uri": made(DNS("a.example")),
        "email": made(cn=("a@b.c",)),
        "cn": made(DNS("a.example")),
    }
    assert judged(others[name_from], name_from) is UNREADABLE
    assert judged(made(), name_from) is UNREADABLE


def test_two_common_names_are_nobodys() -> None:
    assert judged(made(cn=("alpha", "beta")), "cn") is UNREADABLE


@pytest.mark.parametrize(
    "odd",
    [
        "",
        " alpha",
        "alpha ",
        "al\0pha",
        "al\npha",
        "al\x1b[2Jpha",
        "al\x7fpha",
        "al\u202epha",
        "al\u200bpha",
        "alphae\u0301",
        "*",
        "a" * 254,
    ],
)
def test_an_odd_name_is_nobodys(odd: str) -> None:
    assert not is_plain(odd)
    if odd.isascii():
        for kind, name_from in ((DNS, "dns"), (URI, "uri"), (EMAIL, "email")):
            assert judged(made(kind._init_without_validation(odd)), name_from) is UNREADABLE
    if 0 < len(odd) < 254:
        assert judged(made(cn=(odd,)), "cn") is UNREADABLE


def test_a_name_on_the_net_has_no_space_and_no_wildcard() -> None:
    for odd in ("a b.example", "*.example", "a\xe4.example"):
        assert judged(made(DNS._init_without_validation(odd))) is UNREADABLE


def test_a_name_is_read_to_its_very_end() -> None:
    """`admin.example\\0.evil.example`: whoever stops at the NUL takes it for admin."""
    assert judged(made(DNS._init_without_validation("admin.example\0.evil.example"))) is UNREADABLE


def test_the_validity_is_asked_each_time() -> None:
    known, shown = Certificates("certs", Auth(type="mtls")), Credential("certificate", made(DNS("a.example")))
    for moment, good in [
        (NOW, True),
        (ENDS.timestamp() - 1, True),
        (ENDS.timestamp(), False),
        (BEGINS.timestamp() - 1, False),
        (NOW, True),
    ]:
        found = known.judge(shown, moment)
        assert isinstance(found, Accepted) if good else found is OVER


def test_what_is_no_certificate_of_a_connection_is_for_others() -> None:
    known = Certificates("certs", Auth(type="mtls"))
    assert known.judge(Credential("bearer", made(DNS("a.example")), b"authorization"), NOW) is None


def test_the_memory_is_bounded_and_no_verdict_is_mixed_up() -> None:
    known = Certificates("certs", Auth(type="mtls"))
    ders = [made(DNS(f"a{number}.example"), serial=number + 1) for number in range(SEEN + 3)]
    for _ in range(2):
        for number, der in enumerate(ders):
            found = known.judge(Credential("certificate", der), NOW)
            assert isinstance(found, Accepted) and found.principal.name == f"a{number}.example"
    assert len(known._seen) <= SEEN


GOOD = made(DNS("a.example"), URI("x:y"), EMAIL("a@b.example"), cn=("alpha",))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.sampled_from(["dns", "uri", "email", "cn"]))
def test_a_damaged_certificate_is_judged_without_a_fall(place: int, value: int, name_from: str) -> None:
    found = judged(GOOD[:place] + bytes((value,)) + GOOD[place + 1 :], name_from)
    assert isinstance(found, Accepted | Refused)
    if isinstance(found, Accepted):
        assert is_plain(found.principal.name)


def test_every_refusal_has_its_sentence() -> None:
    assert {UNREADABLE.kind, OVER.kind} <= set(MESSAGES)


# -- as real clients show it ------------------------------------------------------------------------------------------------------------------


@contextmanager
def server(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes | None]]]:
    """Answers every client that gets through the handshake; notes the certificate each one showed, as a link sees it."""
    shown: list[bytes | None] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def serve() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                sock.settimeout(20)
                try:
                    with context.wrap_socket(sock, server_side=True) as link:
                        link.recv(65536)
                        shown.append(link._sslobj.getpeercert(True))  # type: ignore[attr-defined]
                        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], shown
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("clients"))


def context(certificate: Certificate, authority: Authority, *, required: bool) -> ssl.SSLContext:
    clients = Clients(str(authority.files.cert), required)
    return server_context([Identity(str(certificate.cert), str(certificate.key))], "1.2", ["http/1.1"], clients)


def curl(port: int, trusted: Certificate, *options: str) -> int:
    url = f"https://127.0.0.1:{port}/"
    command = ["curl", "--silent", "--max-time", "20", "--cacert", str(trusted.cert), *options, url]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.mark.needs("curl")
@pytest.mark.parametrize("tls", ["--tls-max 1.2", "--tlsv1.3"])
def test_curl_with_its_certificate_is_known(certificate: Certificate, authority: Authority, tmp_path: Path, tls: str) -> None:
    mine = authority.issue(tmp_path / "mine", DNS("Agent.example"))
    now = datetime.datetime.now(datetime.UTC).timestamp()
    with server(context(certificate, authority, required=True)) as (port, shown):
        assert curl(port, certificate, *tls.split(), "--cert", str(mine.cert), "--key", str(mine.key)) == 0
        assert curl(port, certificate, *tls.split()) != 0
    (der,) = shown
    assert der is not None
    found = judged(der, now=now)
    assert isinstance(found, Accepted) and found.principal.name == "agent.example"


@pytest.mark.needs("openssl")
def test_openssl_comes_back_with_its_session_and_is_known_again(certificate: Certificate, authority: Authority, tmp_path: Path) -> None:
    """A resumed session shows no certificate on the wire; the one it was made with counts."""
    mine = authority.issue(tmp_path / "mine", DNS("agent.example"))
    kept = str(tmp_path / "session")
    with server(context(certificate, authority, required=False)) as (port, shown):
        common = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-ign_eof"]
        for options in (["-sess_out", kept, "-cert", str(mine.cert), "-key", str(mine.key)], ["-sess_in", kept], []):
            done = subprocess.run([*common, *options], input=b"GET / HTTP/1.0\r\n\r\n", check=False, capture_output=True, timeout=30)
            assert b"200 OK" in done.stdout
            assert (b"Reused, TLSv1.3" in done.stdout) == ("-sess_in" in options)
    assert shown[0] is not None
    assert shown == [shown[0], shown[0], None]
