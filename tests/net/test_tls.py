"""Contexts are modern, chosen by name, and their files are judged in words."""

import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from mcpproxy.errors import StartError
from mcpproxy.net.tls import Clients, Identity, certificate_names, client_context, server_context
from tests.net.stepping import DEADLINE
from tests.support.certs import Authority, Certificate, make_certificate


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


# -- certificates of clients ------------------------------------------------------------------------------------------------------------------


def told_by(context, *command):
    """What a program says that connects once; `{port}` stands for the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)

        def serve():
            sock, _ = listening.accept()
            sock.settimeout(DEADLINE)
            try:
                with context.wrap_socket(sock, server_side=True) as link:
                    link.recv(1)
            except OSError:
                sock.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        done = subprocess.run([word.format(port=port) for word in command], input=b"", check=False, capture_output=True, timeout=DEADLINE)
        thread.join(DEADLINE)
    return (done.stdout + done.stderr).decode()


def shown(context, client, name="localhost"):
    """The certificate (DER) the server sees of a client, None when it shows none; raises the server's error when it does not get in."""
    ours, theirs = socket.socketpair()
    seen = []

    def serve():
        ours.settimeout(DEADLINE)
        try:
            with context.wrap_socket(ours, server_side=True) as link:
                seen.append(link.getpeercert(binary_form=True))
                link.sendall(b".")
        except OSError as error:
            seen.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    theirs.settimeout(DEADLINE)
    try:
        with client.wrap_socket(theirs, server_hostname=name) as link:
            link.recv(1)  # over TLS 1.3 a refusal comes after the client's handshake
    except OSError:
        theirs.close()
    thread.join(DEADLINE)
    if isinstance(seen[0], Exception):
        raise seen[0]
    return seen[0]


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def with_certificate(request, certificate):
    """Makes clients that show a certificate, or none."""

    def make(own=None):
        client = trusting(certificate, minimum_version=ssl.TLSVersion[request.param], maximum_version=ssl.TLSVersion[request.param])
        if own is not None:
            client.load_cert_chain(own.cert, own.key)
        return client

    return make


def asking(certificate, authority, *, required=False):
    return server_context([identity(certificate)], "1.2", ["http/1.1"], Clients(str(authority.files.cert), required))


def der(certificate):
    return ssl.PEM_cert_to_DER_cert(certificate.cert.read_text())


def test_nobody_is_asked_for_a_certificate_unless_the_listener_wants_one(certificate: Certificate, with_certificate, tmp_path):
    own = Authority.make(tmp_path).issue(tmp_path / "own", x509.DNSName("a.example"))
    assert shown(server_context([identity(certificate)], "1.2", []), with_certificate(own)) is None


@pytest.mark.parametrize("required", [False, True])
def test_a_good_certificate_is_seen(certificate: Certificate, with_certificate, tmp_path, required):
    authority = Authority.make(tmp_path)
    for usage in (None, ExtendedKeyUsageOID.CLIENT_AUTH):
        own = authority.issue(tmp_path / "own", x509.DNSName("a.example"), usage=usage)
        assert der(own) == shown(asking(certificate, authority, required=required), with_certificate(own))


def test_who_has_none_comes_in_unless_it_is_required(certificate: Certificate, with_certificate, tmp_path):
    authority = Authority.make(tmp_path)
    assert shown(asking(certificate, authority), with_certificate()) is None
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shown(asking(certificate, authority, required=True), with_certificate())


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("fault", ["of another authority", "its own authority", "expired", "of a server"])
def test_a_bad_certificate_never_comes_in(certificate: Certificate, with_certificate, tmp_path, fault, required):
    authority, other = Authority.make(tmp_path), Authority.make(tmp_path / "other")
    own = {
        "of another authority": lambda: other.issue(tmp_path / "own", x509.DNSName("a.example")),
        "its own authority": lambda: make_certificate(tmp_path, "a.example"),
        "expired": lambda: authority.issue(tmp_path / "own", x509.DNSName("a.example"), days=-1),
        "of a server": lambda: authority.issue(tmp_path / "own", x509.DNSName("a.example"), usage=ExtendedKeyUsageOID.SERVER_AUTH),
    }[fault]()
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(asking(certificate, authority, required=required), with_certificate(own))


def test_an_authority_below_a_root_stands_for_itself_alone(certificate: Certificate, with_certificate, tmp_path):
    root = Authority.make(tmp_path, "root")
    team, others = Authority.make(tmp_path, "team", root), Authority.make(tmp_path, "others", root)
    context = asking(certificate, team)
    own = team.issue(tmp_path / "own", x509.DNSName("a.example"))
    assert der(own) == shown(context, with_certificate(own))
    with pytest.raises(ssl.SSLCertVerificationError):
        shown(context, with_certificate(others.issue(tmp_path / "foreign", x509.DNSName("a.example"))))


def test_only_the_given_authorities_count(certificate: Certificate, tmp_path):
    context = asking(certificate, Authority.make(tmp_path))
    assert 1 == len(context.get_ca_certs())


def test_every_certificate_of_a_listener_asks(tmp_path: Path):
    authority = Authority.make(tmp_path)
    first, second = make_certificate(tmp_path, "a.example"), make_certificate(tmp_path, "b.example")
    own = authority.issue(tmp_path / "own", x509.DNSName("agent.example"))
    context = server_context([identity(first), identity(second)], "1.2", ["http/1.1"], Clients(str(authority.files.cert), required=True))
    for name in ("a.example", "b.example", "unknown.example"):
        client = trusting(first, second, check_hostname=False)
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            shown(context, client, name)
        client.load_cert_chain(own.cert, own.key)
        assert der(own) == shown(context, client, name)


@pytest.mark.parametrize("content", [None, "junk"])
def test_authorities_that_cannot_be_read_are_named(certificate: Certificate, tmp_path, content):
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(StartError, match=str(file)):
        server_context([identity(certificate)], "1.2", [], Clients(str(file)))


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


# -- files that change ------------------------------------------------------------------------------------------------------------------------


def shown_names(context, client, name=None):
    with meet(context, client, name) as link:
        return link.getpeercert()["subject"][0][0][1]


def replace(old: Certificate, new: Certificate) -> None:
    old.cert.write_bytes(new.cert.read_bytes())
    old.key.write_bytes(new.key.read_bytes())


@pytest.fixture
def pairs(tmp_path: Path):
    """Two certificates for different names, and a client that trusts both and looks at no names."""
    one, other = make_certificate(tmp_path / "one", "a.example"), make_certificate(tmp_path / "other", "b.example")
    client = trusting(one, other, check_hostname=False)
    return one, other, client


def test_a_replaced_certificate_is_shown_to_who_comes_then(pairs):
    one, other, client = pairs
    context = server_context([identity(one)], "1.2", ["http/1.1"])
    client.set_alpn_protocols(["http/1.1"])
    assert list(context.look(100.0)) == []
    assert shown_names(context, client) == "a.example"
    replace(one, other)
    assert list(context.look(101.0)) == [], "not before LOOK_S has gone by"
    [(level, text)] = context.look(102.0)
    assert (level, "b.example" in text) == ("info", True)
    with meet(context, client, None) as link:
        assert link.getpeercert()["subject"][0][0][1] == "b.example"
        assert link.selected_alpn_protocol() == "http/1.1"
    assert list(context.look(104.0)) == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_go_on_behind_a_swap(pairs, version):
    """The listener's own context, and with it the keys of its tickets, is the same one."""
    one, other, client = pairs
    client.minimum_version = client.maximum_version = version
    context = server_context([identity(one)], "1.2", [])

    def session(known=None):
        ours, theirs = socket.socketpair()
        ours.settimeout(DEADLINE)
        theirs.settimeout(DEADLINE)

        def serve():
            with context.wrap_socket(ours, server_side=True) as link:
                link.send(b"x")
                link.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with client.wrap_socket(theirs, server_hostname="a.example", session=known) as link:
            link.recv(1)
            link.send(b"y")
            found = link.session_reused, link.session
        thread.join()
        return found

    _, ticket = session()
    replace(one, other)
    assert [level for level, _ in context.look(100.0)] == ["info"]
    assert session(ticket)[0]


def test_certificate_and_key_may_come_one_after_the_other(pairs):
    one, other, client = pairs
    context = server_context([identity(one)], "1.2", [])
    one.cert.write_bytes(other.cert.read_bytes())
    assert list(context.look(100.0)) == []
    assert list(context.look(105.0)) == []
    assert shown_names(context, client) == "a.example"
    one.key.write_bytes(other.key.read_bytes())
    assert [level for level, _ in context.look(107.0)] == ["info"]
    assert shown_names(context, client) == "b.example"


@pytest.mark.parametrize("damage", ["garbage", "empty", "gone", "another"])
def test_what_cannot_be_used_is_told_once_and_never_shown(pairs, damage):
    one, other, client = pairs
    context = server_context([identity(one), identity(other)], "1.2", [])
    kept = one.cert.read_bytes()
    if damage == "gone":
        one.cert.unlink()
    else:
        one.cert.write_bytes({"garbage": b"\x00garbage", "empty": b"", "another": other.cert.read_bytes()}[damage])
    said = [list(context.look(moment)) for moment in (100.0, 105.0, 111.0, 114.0, 200.0)]
    assert [len(each) for each in said] == [0, 0, 1, 0, 0]
    level, text = said[2][0]
    assert level == "error"
    assert str(one.cert) in text
    assert shown_names(context, client, "a.example") == "a.example"
    assert shown_names(context, client, "b.example") == "b.example"
    one.cert.write_bytes(kept)
    assert [level for level, _ in context.look(300.0)] == ["info"]


def test_names_follow_the_files(pairs, tmp_path: Path):
    one, other, client = pairs
    third = make_certificate(tmp_path / "third", "c.example")
    client.load_verify_locations(third.cert)
    context = server_context([identity(one), identity(other)], "1.2", [])
    replace(other, third)
    list(context.look(100.0))
    assert [shown_names(context, client, name) for name in ("a.example", "b.example", "c.example")] == [
        "a.example",
        "a.example",
        "c.example",
    ]


def test_a_certificate_that_is_still_to_come(pairs, tmp_path: Path):
    one, other, client = pairs
    both = tmp_path / "both.pem"
    both.write_bytes(one.cert.read_bytes() + one.key.read_bytes())
    awaited = Identity(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"), str(both))
    context = server_context([awaited], "1.2", [])
    assert shown_names(context, client) == "a.example"
    assert list(context.look(100.0)) == []
    Path(awaited.key).write_bytes(other.key.read_bytes())
    assert list(context.look(103.0)) == []
    Path(awaited.cert).write_bytes(other.cert.read_bytes())
    assert [level for level, _ in context.look(106.0)] == ["info"]
    assert shown_names(context, client) == "b.example"
    Path(awaited.cert).unlink()
    list(context.look(109.0))
    assert shown_names(context, client) == "b.example", "the last good one goes on"
    Path(awaited.cert).write_bytes(b"torn")
    assert shown_names(server_context([awaited], "1.2", []), client) == "a.example", "a start is not stopped by it"
