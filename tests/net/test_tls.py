"""Contexts are modern, chosen by name, and their files are judged in words."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from mcpproxy.errors import StartError
from mcpproxy.net.tls import Identity, certificate_names, client_context, server_context
from tests.net.stepping import DEADLINE
from tests.support.certs import Certificate, make_certificate


def identity(certificate):
    return Identity(str(certificate.cert), str(certificate.key))


def meet(context, client, name="localhost"):
    """One handshake; returns the client's side."""
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE)
    theirs.settimeout(DEADLINE)
    failed = []

    def serve():
        try:
            with context.wrap_socket(ours, server_side=True) as link:
                link.recv(1)
        except OSError as error:
            failed.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return client.wrap_socket(theirs, server_hostname=name)
    except OSError:
        theirs.close()
        raise
    finally:
        if failed:
            theirs.close()


def trusting(*certificates, **settings):
    context = ssl.create_default_context()
    for certificate in certificates:
        context.load_verify_locations(certificate.cert)
    for name, value in settings.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize(("minimum", "refused"), [("1.2", []), ("1.3", ["TLSv1_2"])])
def test_versions(certificate: Certificate, minimum, refused):
    context = server_context([identity(certificate)], minimum, ["http/1.1"])
    for version in ("TLSv1_2", "TLSv1_3"):
        client = trusting(certificate, minimum_version=ssl.TLSVersion[version], maximum_version=ssl.TLSVersion[version])
        if version in refused:
            with pytest.raises(ssl.SSLError):
                meet(context, client)
        else:
            with meet(context, client) as link:
                assert version.replace("_", ".") == link.version()


def test_nothing_older_than_1_2_is_ever_spoken(certificate: Certificate):
    assert server_context([identity(certificate)], "1.2", []).minimum_version == ssl.TLSVersion.TLSv1_2
    assert client_context(None, verify=True).minimum_version == ssl.TLSVersion.TLSv1_2


def test_every_suite_is_forward_secret_and_authenticated(certificate: Certificate):
    ciphers = server_context([identity(certificate)], "1.2", []).get_ciphers()
    assert ciphers
    for cipher in ciphers:
        assert cipher["aead"], cipher["name"]
        assert cipher["protocol"] == "TLSv1.3" or cipher["kea"] == "kx-ecdhe", cipher["name"]


def test_the_protocol_is_agreed_on(certificate: Certificate):
    context = server_context([identity(certificate)], "1.2", ["http/1.1"])
    client = trusting(certificate)
    client.set_alpn_protocols(["h2", "http/1.1"])
    with meet(context, client) as link:
        assert "http/1.1" == link.selected_alpn_protocol()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_name_chooses_the_certificate(tmp_path: Path, version):
    first, second = make_certificate(tmp_path, "a.example"), make_certificate(tmp_path, "b.example", "*.b.example")
    context = server_context([identity(first), identity(second)], "1.2", ["http/1.1"])
    client = trusting(first, second, minimum_version=version, maximum_version=version, check_hostname=False)
    client.set_alpn_protocols(["http/1.1"])
    for name, shown in [
        ("a.example", "a.example"),
        ("b.example", "b.example"),
        ("B.Example", "b.example"),
        ("x.b.example", "b.example"),
        ("x.y.b.example", "a.example"),
        ("unknown.example", "a.example"),
        (None, "a.example"),
    ]:
        with meet(context, client, name) as link:
            assert shown == link.getpeercert()["subject"][0][0][1], name
            assert "http/1.1" == link.selected_alpn_protocol()


def test_the_names_of_a_certificate(tmp_path: Path):
    assert ["a.example", "*.b.example", "127.0.0.1"] == certificate_names(str(make_certificate(tmp_path, "a.example", "*.B.example").cert))


# -- files that are no good -------------------------------------------------------------------------------------------------------------------


def told(cert, key):
    with pytest.raises(StartError) as caught:
        server_context([Identity(str(cert), str(key))], "1.2", ["http/1.1"])
    assert caught.value.hint
    return caught.value.message


def test_a_missing_file_is_named(tmp_path: Path, certificate: Certificate):
    missing = tmp_path / "none.pem"
    assert f"{missing}: No such file or directory" == told(missing, certificate.key)
    assert f"{missing}: No such file or directory" == told(certificate.cert, missing)


def test_a_key_of_another_certificate_is_named(tmp_path: Path, certificate: Certificate):
    other = make_certificate(tmp_path, "other.example")
    assert f"{other.key} is not the key of {certificate.cert}" == told(certificate.cert, other.key)


@pytest.mark.parametrize("content", ["", "junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_named(tmp_path: Path, certificate: Certificate, content):
    bad = tmp_path / "bad.pem"
    bad.write_text(content)
    assert f"{bad}: not a certificate in PEM" == told(bad, certificate.key)


@pytest.mark.parametrize("content", ["", "junk"])
def test_what_is_no_key_is_named(tmp_path: Path, certificate: Certificate, content):
    bad = tmp_path / "bad.key"
    bad.write_text(content)
    assert told(certificate.cert, bad).startswith(f"{bad}: not a private key in PEM")


def test_a_key_with_a_passphrase_is_named_and_nobody_is_asked_for_it(tmp_path: Path, certificate: Certificate):
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    )
    assert f"{locked}: the key is protected by a passphrase" == told(certificate.cert, locked)


def test_swapped_files_are_named(certificate: Certificate):
    assert "in PEM" in told(certificate.key, certificate.cert)


# -- towards upstreams ------------------------------------------------------------------------------------------------------------------------


def test_upstreams_are_checked_unless_told_otherwise(certificate: Certificate):
    careful = client_context(str(certificate.cert), verify=True)
    assert (True, ssl.CERT_REQUIRED) == (careful.check_hostname, careful.verify_mode)
    assert 1 == len(careful.get_ca_certs())
    careless = client_context(None, verify=False)
    assert (False, ssl.CERT_NONE) == (careless.check_hostname, careless.verify_mode)


@pytest.mark.parametrize("content", [None, "junk"])
def test_a_bad_authority_file_is_named(tmp_path: Path, content):
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(StartError, match=r"ca\.pem"):
        client_context(str(file), verify=True)
