"""The development root: what clients think of its leaves, when they are made again, and what it refuses."""

import socket
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from mcpproxy.errors import StartError
from mcpproxy.pki import devca
from mcpproxy.pki.devca import DevFiles, ensure

NOW = datetime.now(UTC).replace(microsecond=0)


def handshake(files: DevFiles, name: str) -> None:
    """A client that trusts the root and checks `name`, against a server with the leaf; raises what the client raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert, files.key)
    client = ssl.create_default_context(cafile=str(files.ca))
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    (to_server, from_client), (to_client, from_server) = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
    ours = client.wrap_bio(to_client, from_client, server_hostname=name)
    theirs = server.wrap_bio(to_server, from_server, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            to_server.write(from_client.read())
            to_client.write(from_server.read())
    assert ours.getpeercert()


def leaf(files: DevFiles) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.cert.read_bytes())


def texts(files: DevFiles) -> list[bytes]:
    return [path.read_bytes() for path in files]


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "proxy.test", "192.168.7.7"])
def test_a_strict_client_that_trusts_the_root_accepts_every_name_asked_for(tmp_path: Path, name: str) -> None:
    handshake(ensure(tmp_path, ["proxy.test", "192.168.7.7"]), name)


def test_a_name_nobody_asked_for_is_not_accepted(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(ensure(tmp_path), "other.test")


def test_this_machine_is_one_of_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Bench-7.example.com")
    handshake(ensure(tmp_path), "bench-7.example.com")


def test_keys_are_private_and_p256(tmp_path: Path) -> None:
    files = ensure(tmp_path / "state")
    for name in ("key.pem", "ca-key.pem"):
        path = tmp_path / "state" / name
        assert path.stat().st_mode & 0o777 == 0o600
        assert devca.read_key(devca.Store(tmp_path / "state"), name) is not None
    assert files.ca.stat().st_mode & 0o777 == 0o644


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    assert texts(ensure(tmp_path)) == texts(ensure(tmp_path))


def test_the_root_cannot_vouch_for_the_public_web(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"bank\.example\.com: the development root vouches only for local names"):
        ensure(tmp_path, ["bank.example.com"])


def test_a_stolen_root_key_is_worth_nothing_on_the_public_web(tmp_path: Path) -> None:
    """The thief signs what we refuse to sign: clients refuse it by the root's name constraints."""
    files = ensure(tmp_path)
    store = devca.Store(tmp_path)
    root = devca.read_pair(store, "ca")
    assert root is not None
    devca.new_leaf(store, root, [x509.DNSName("bank.example.com")], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        handshake(files, "bank.example.com")


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:db8::1"])
def test_public_addresses_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(StartError, match="only for local names and private addresses"):
        ensure(tmp_path, [address])


@pytest.mark.parametrize(
    "host", ["", "two words", "a/b", "-x.test", "x..test", "https://x.test", "x.test:443", "a" * 64 + ".test", "a." * 130 + "test"]
)
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(StartError, match="not a host name"):
        ensure(tmp_path, [host])


# --- made again, in time


def test_a_leaf_is_made_again_in_its_last_ninety_days_by_the_same_root(tmp_path: Path) -> None:
    first = texts(ensure(tmp_path, now=NOW))
    assert texts(ensure(tmp_path, now=NOW + timedelta(days=300))) == first
    files = ensure(tmp_path, now=NOW + timedelta(days=308))
    cert, key, ca = texts(files)
    assert (cert != first[0], key, ca) == (True, first[1], first[2])
    assert leaf(files).not_valid_after_utc == NOW + timedelta(days=308) + devca.LEAF_LIFE


def test_a_leaf_never_outlives_its_root(tmp_path: Path) -> None:
    for day in range(0, 8000, 300):
        files = ensure(tmp_path, now=NOW + timedelta(days=day))
        root = x509.load_pem_x509_certificate(files.ca.read_bytes())
        assert leaf(files).not_valid_after_utc <= root.not_valid_after_utc
        assert devca.signed_by(leaf(files), root)


def test_names_are_only_added_so_two_daemons_can_share_a_directory(tmp_path: Path) -> None:
    ensure(tmp_path, ["one.test"])
    files = ensure(tmp_path, ["two.test"])
    handshake(files, "one.test")
    handshake(files, "two.test")
    assert texts(ensure(tmp_path, ["one.test"])) == texts(files)


@pytest.mark.parametrize("broken", ["cert.pem", "key.pem", "ca.pem", "ca-key.pem"])
@pytest.mark.parametrize("how", ["gone", "empty", "garbage", "swapped"])
def test_what_is_broken_is_made_again(tmp_path: Path, broken: str, how: str) -> None:
    ensure(tmp_path / "a")
    other = ensure(tmp_path / "b").ca.parent
    path = tmp_path / "a" / broken
    match how:
        case "gone":
            path.unlink()
        case "swapped":
            path.write_bytes((other / broken).read_bytes())
        case _:
            path.write_bytes(b"" if how == "empty" else b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    handshake(ensure(tmp_path / "a"), "localhost")


def test_a_clock_that_was_wrong_when_the_files_were_made_does_no_lasting_harm(tmp_path: Path) -> None:
    ensure(tmp_path, now=NOW + timedelta(days=1000))
    handshake(ensure(tmp_path), "localhost")


# --- together


def test_daemons_that_start_together_agree_on_one_root(tmp_path: Path) -> None:
    """Eight processes, one empty directory; each loads what it was given and reports the root it would tell its user to trust."""
    script = (
        "import ssl, sys; from mcpproxy.pki.devca import ensure\n"
        "files = ensure(sys.argv[1], [sys.argv[2]])\n"
        "ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)\n"
        "sys.stdout.buffer.write(files.ca.read_bytes())"
    )

    def start(number: int) -> bytes:
        command = [sys.executable, "-c", script, str(tmp_path / "state"), f"host-{number}.test"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    with ThreadPoolExecutor(8) as pool:
        roots = set(pool.map(start, range(8)))
    assert roots == {(tmp_path / "state" / "ca.pem").read_bytes()}
    files = ensure(tmp_path / "state")
    for number in range(8):
        handshake(files, f"host-{number}.test")
