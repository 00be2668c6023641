"""What is shown until the certificate comes: for the right names, the same after a restart, made again before it ends."""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from mcpproxy.pki import selfmade
from mcpproxy.pki.acme_files import Place
from mcpproxy.pki.selfmade import ACME_IDENTIFIER, challenge_certificate

HOSTS = ("a.example", "b.example")


def certificate(file: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(file).read_bytes())


def test_it_is_for_these_names_and_says_what_it_is(tmp_path: Path) -> None:
    made = selfmade.ensure(Place.of(str(tmp_path / "state"), HOSTS), HOSTS)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made)
    found = certificate(made)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(HOSTS)
    assert "has not come yet" in found.issuer.rfc4514_string()
    assert Path(made).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", [None, b"", b"torn", "old"])
def test_it_is_kept_unless_it_cannot_serve(tmp_path: Path, damage: object, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place.of(str(tmp_path / "state"), HOSTS)
    made = selfmade.ensure(place, HOSTS)
    before = certificate(made).serial_number
    if isinstance(damage, bytes):
        Path(made).write_bytes(damage)
    elif damage == "old":
        later = (datetime.now(UTC) + timedelta(days=340)).timestamp()
        monkeypatch.setattr(selfmade, "unix", lambda: later)
    assert (certificate(selfmade.ensure(place, HOSTS)).serial_number == before) == (damage is None)


def test_the_certificate_for_validators_says_the_digest_of_the_proof() -> None:
    made = x509.load_pem_x509_certificate(challenge_certificate("a.example", "token.thumb"))
    [extension] = [each for each in made.extensions if each.oid == ACME_IDENTIFIER]
    assert extension.critical
    assert extension.value.public_bytes() == b"\x04\x20" + hashlib.sha256(b"token.thumb").digest()
    assert made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["a.example"]
