"""A certificate that nobody signed, for names whose real one has not come yet: a handshake that a client refuses says more than none.

Certificate and key are one file, so that they always fit. It is kept: a restart shows the same one.
And the one that only a validator sees by TLS-ALPN-01, which nobody signs either.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from mcpproxy.clock import unix
from mcpproxy.pki.acme_files import Place

NAME = "meanwhile.pem"
ISSUER = "mcpproxy: the certificate has not come yet"
LIFE = timedelta(days=365)
MARGIN = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 §3


def ensure(place: Place, hosts: tuple[str, ...]) -> str:
    """The file for these names; made when it is missing, broken or close to its end. Raises StartError."""
    now = datetime.fromtimestamp(unix(), UTC)
    store = place.store()
    with store.locked():
        if not _serves(store.read_secret(NAME), now):
            store.write_secret(NAME, _made(hosts, now))
    return str(store.path / NAME)


def challenge_certificate(host: str, proof: str) -> bytes:
    """The certificate, and its key, by which a validator sees that `host` is ours (RFC 8737 §3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.fromtimestamp(unix(), UTC)
    digest = b"\x04\x20" + hashlib.sha256(proof.encode()).digest()  # an OCTET STRING of 32 bytes
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _serves(found: bytes | None, now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(found or b"")
        load_pem_private_key(found or b"", None)
    except ValueError:
        return False
    return certificate.not_valid_after_utc > now + MARGIN


def _made(hosts: tuple[str, ...], now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
