"""Clients are told whose certificates are taken, where the TLS library lets us say it; nothing else depends on it."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from mcpproxy.net import authorities
from mcpproxy.net.authorities import name_authorities
from mcpproxy.net.tls import Clients, Identity, server_context
from tests.net.test_tls import told_by
from tests.support.certs import Authority, Certificate, make_certificate


def test_it_is_possible_here() -> None:
    assert authorities.libssl is not None


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_names_of_all_authorities_are_sent_whatever_certificate_answers(tmp_path: Path, version: str) -> None:
    one, other = Authority.make(tmp_path, "one"), Authority.make(tmp_path, "other")
    both = tmp_path / "both.pem"
    both.write_bytes(one.files.cert.read_bytes() + other.files.cert.read_bytes() + one.files.cert.read_bytes())
    pairs = [make_certificate(tmp_path, "a.example"), make_certificate(tmp_path, "b.example")]
    identities = [Identity(str(pair.cert), str(pair.key)) for pair in pairs]
    context = server_context(identities, "1.2", ["http/1.1"], Clients(str(both)))
    for name in ("a.example", "b.example"):
        said = told_by(context, "openssl", "s_client", "-connect", "127.0.0.1:{port}", "-servername", name, version)
        list_ = said.partition("Acceptable client certificate CA names\n")[2]
        assert [line.replace(" ", "") for line in list_.splitlines()[:2]] == ["CN=one", "CN=other"]
        assert not list_.splitlines()[2].startswith("CN")


def test_without_such_a_library_all_else_stays(certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority.make(tmp_path)
    monkeypatch.setattr(authorities, "libssl", None)
    context = server_context(
        [Identity(str(certificate.cert), str(certificate.key))], "1.2", ["http/1.1"], Clients(str(authority.files.cert), required=True)
    )
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert not name_authorities(context, str(authority.files.cert))


def test_a_file_without_certificates_names_nobody(certificate: Certificate, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    context = server_context([Identity(str(certificate.cert), str(certificate.key))], "1.2", ["http/1.1"])
    assert not name_authorities(context, str(tmp_path / "empty"))
    assert name_authorities(context, str(certificate.cert))


def test_contexts_come_and_go(certificate: Certificate) -> None:
    """The list belongs to the context: nothing is freed twice, nothing is left."""
    script = (
        "import resource, ssl, sys\n"
        "from mcpproxy.net.authorities import name_authorities\n"
        "def once():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "    assert name_authorities(context, sys.argv[1]) and name_authorities(context, sys.argv[1])\n"
        "for _ in range(300): once()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for _ in range(3000): once()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(certificate.cert)], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 1024  # KiB
