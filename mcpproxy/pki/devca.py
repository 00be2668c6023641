"""Certificates for development: a root a user can trust once, and a leaf for this machine.

    ca.pem  ca-key.pem     the root: ten years, kept until it is almost over or deleted
    cert.pem  key.pem      the leaf: made again at start when it is close to its end, or when it lacks a name that is asked for

 1. The root can only vouch for local names and private addresses (name constraints, RFC 5280 §4.2.1.10): who trusts it risks nothing else,
    even if its key is stolen. So a leaf for any other name is refused here; browsers would refuse it anyway.
 2. A leaf made again keeps its key and every name it had. A reader never sees a pair that does not match, and two daemons that share a
    directory do not take each other's names away.
 3. A leaf lives 397 days (Apple clients refuse 826) and is made again in its last 90: a daemon that was just started has that long.
 4. What is broken, expired, from another root or does not match is made again, never served. Only what others could have read is an error
    (`store`, rule 2).
 5. Everything happens under the directory's lock: daemons that start together agree on one root.

ECDSA P-256 throughout: every client knows it, and its handshakes cost a tenth of RSA's.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mcpproxy.clock import monotonic, wall_offset
from mcpproxy.errors import StartError
from mcpproxy.pki.store import Store

ROOT_LIFE = timedelta(days=3653)
LEAF_LIFE = timedelta(days=397)
LEAF_MARGIN = timedelta(days=90)
ROOT_MARGIN = LEAF_LIFE  # a leaf must not outlive its root
CLOCK_SKEW = timedelta(hours=1)  # a container's clock may be behind ours

EVERY_LEAF = ("localhost", "127.0.0.1", "::1")
# Names nobody on the public web can own (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal), and addresses that stay at home.
LOCAL_NAMES = ("localhost", "local", "test", "internal", "lan", "home.arpa")
LOCAL_NETWORKS = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10")
HOST_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*")


class DevFiles(NamedTuple):
    """Where they are."""

    cert: Path
    key: Path
    ca: Path


class Pair(NamedTuple):
    """A certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure(state_dir: str | Path, hosts: Iterable[str] = (), *, now: datetime | None = None) -> DevFiles:
    """A leaf for localhost, this machine's name and `hosts`, valid for a while from `now`; makes only what is missing or worn out."""
    moment = now or datetime.fromtimestamp(monotonic() + wall_offset(), UTC)
    store = Store(state_dir)
    with store.locked():
        root = standing_root(store, moment) or new_root(store, moment)
        machine = [name for name in machine_names() if permitted(root.certificate, name)]
        asked = [general_name(host) for host in hosts]
        for name in asked:
            if not permitted(root.certificate, name):
                raise foreign(name)
        wanted = [*(general_name(host) for host in EVERY_LEAF), *machine, *asked]
        if not leaf_stands(store, root, wanted, moment):
            new_leaf(store, root, wanted, moment)
    return files(store.path)


def files(state_dir: str | Path) -> DevFiles:
    """Where ensure() keeps them."""
    path = Path(os.path.expanduser(state_dir)).absolute()
    return DevFiles(path / "cert.pem", path / "key.pem", path / "ca.pem")


def check_hosts(hosts: Iterable[str]) -> None:
    """Raises what ensure() would raise for a name no root made here can vouch for; touches nothing."""
    local = subtrees()
    for name in map(general_name, hosts):
        if not within(local, name):
            raise foreign(name)


def standing_root(store: Store, now: datetime) -> Pair | None:
    """The root on disk, if it can still sign."""
    pair = read_pair(store, "ca")
    return pair if pair is not None and serves(pair.certificate, now, ROOT_MARGIN) else None


def new_root(store: Store, now: datetime) -> Pair:
    """Make and keep a root for this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mcpproxy development root ({socket.gethostname()})"[:64])])
    certificate = (
        _certificate(name, name, key.public_key(), now, ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=subtrees(), excluded_subtrees=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    store.write_secret("ca-key.pem", key_bytes(key))
    store.write("ca.pem", certificate.public_bytes(Encoding.PEM))
    return Pair(certificate, key)


def leaf_stands(store: Store, root: Pair, wanted: list[x509.GeneralName], now: datetime) -> bool:
    """Is the leaf on disk signed by `root`, for all names, not close to its end, and does its key match?"""
    pair = read_pair(store, "cert", "key")
    if pair is None or not serves(pair.certificate, now, LEAF_MARGIN):
        return False
    return signed_by(pair.certificate, root.certificate) and set(wanted) <= set(names_of(pair.certificate))


def new_leaf(store: Store, root: Pair, wanted: list[x509.GeneralName], now: datetime) -> None:
    """Make and keep a leaf: rule 2."""
    key = read_key(store, "key.pem")
    if key is None:
        key = ec.generate_private_key(ec.SECP256R1())
        store.write_secret("key.pem", key_bytes(key))
    former = read_certificate(store, "cert.pem")
    names = [*wanted, *(name for name in names_of(former) if permitted(root.certificate, name))]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        _certificate(subject, root.certificate.subject, key.public_key(), now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(dict.fromkeys(names)), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key()), critical=False)
        .sign(root.key, hashes.SHA256())
    )
    store.write("cert.pem", certificate.public_bytes(Encoding.PEM))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# --- reading back


def read_pair(store: Store, certificate_name: str, key_name: str | None = None) -> Pair | None:
    """A certificate and its key, if both are there, whole, and belong together."""
    certificate = read_certificate(store, f"{certificate_name}.pem")
    key = read_key(store, f"{key_name or certificate_name + '-key'}.pem")
    if certificate is None or key is None or certificate.public_key() != key.public_key():
        return None
    return Pair(certificate, key)


def read_certificate(store: Store, name: str) -> x509.Certificate | None:
    """None if there is none or it cannot be read as one."""
    data = store.read(name)
    try:
        return x509.load_pem_x509_certificate(data) if data else None
    except ValueError:
        return None


def read_key(store: Store, name: str) -> ec.EllipticCurvePrivateKey | None:
    """None if there is none or it is no P-256 key."""
    data = store.read_secret(name)
    try:
        key = load_pem_private_key(data, None) if data else None
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1) else None


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, PEM, no password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def serves(certificate: x509.Certificate, now: datetime, margin: timedelta) -> bool:
    """Is it valid now, and for `margin` more?"""
    return certificate.not_valid_before_utc <= now and now + margin <= certificate.not_valid_after_utc


def signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Did `root` sign it?"""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# --- names


def general_name(host: str) -> x509.GeneralName:
    """A host of the configuration as a certificate writes it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        name = host.lower() if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        name = ""
    if not HOST_NAME.fullmatch(name) or len(name) > 253 or max(map(len, name.split("."))) > 63:  # as DNS has it
        raise StartError(f"{host!r} is not a host name or an address", code=2)
    return x509.DNSName(name)


def machine_names() -> list[x509.GeneralName]:
    """What this machine calls itself."""
    name = socket.gethostname().lower()
    return [x509.DNSName(name)] if HOST_NAME.fullmatch(name) else []


def names_of(certificate: x509.Certificate | None) -> list[x509.GeneralName]:
    """The names a leaf is good for."""
    if certificate is None:
        return []
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, ValueError):
        return []


def subtrees() -> list[x509.GeneralName]:
    """What a root made here may vouch for."""
    local: list[x509.GeneralName] = [x509.DNSName(name) for name in LOCAL_NAMES]
    local += [x509.IPAddress(ipaddress.ip_network(network)) for network in LOCAL_NETWORKS]
    return local + [name for name in machine_names() if not within(local, name)]


def permitted(root: x509.Certificate, name: x509.GeneralName) -> bool:
    """Do the root's name constraints let it vouch for `name`?"""
    try:
        return within(root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or [], name)
    except (x509.ExtensionNotFound, ValueError):
        return False


def within(subtrees: Iterable[x509.GeneralName], name: x509.GeneralName) -> bool:
    """Is `name` in one of `subtrees`? (RFC 5280 §4.2.1.10: a domain covers itself and what lies below it.)"""
    if isinstance(name, x509.IPAddress):
        networks = [ipaddress.ip_network(subtree.value) for subtree in subtrees if isinstance(subtree, x509.IPAddress)]
        return any(ipaddress.ip_address(str(name.value)) in network for network in networks)
    domains = [subtree.value for subtree in subtrees if isinstance(subtree, x509.DNSName)]
    return any(name.value == domain or name.value.endswith("." + domain) for domain in domains)


def foreign(name: x509.GeneralName) -> StartError:
    """The answer to a name that is not local."""
    return StartError(
        f"{name.value}: the development root vouches only for local names and private addresses",
        f"names may end in {', '.join(LOCAL_NAMES)}; for public names give the listener cert and key files",
    )
