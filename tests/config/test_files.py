"""The files a configuration names, as they are found on real disks."""

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from mcpproxy.config.load import Loaded, read
from tests.config.samples import GOOD, with_listen, with_upstream
from tests.support.certs import Certificate, make_certificate


def tls(cert: str | Path, key: str | Path) -> Loaded:
    return read(with_listen(f'tls = {{ cert = "{cert}", key = "{key}" }}'))


def said(loaded: Loaded) -> list[str]:
    return [str(mistake) for mistake in loaded.check_files()]


def test_a_matching_pair_is_fine(certificate: Certificate) -> None:
    assert said(tls(certificate.cert, certificate.key)) == []


def test_several_pairs_are_looked_at_one_by_one(certificate: Certificate) -> None:
    pair = f'{{ cert = "{certificate.cert}", key = "{certificate.key}" }}'
    loaded = read(with_listen(f'tls = {{ certificates = [{pair}, {{ cert = "{certificate.cert}", key = "/none" }}] }}'))
    assert said(loaded) == ["line 3: listen[0].tls.certificates[1].key: /none: No such file or directory"]


def test_a_key_of_another_certificate_is_named(certificate: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path)
    (words,) = said(tls(certificate.cert, other.key))
    assert words.startswith(f"line 3: listen[0].tls.key: {other.key} is not the key of {certificate.cert}; ")


def test_a_certificate_that_is_none(certificate: Certificate, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("hello\n")
    assert "not a certificate in PEM" in said(tls(broken, certificate.key))[0]
    assert "not a private key in PEM" in said(tls(certificate.cert, broken))[0]
    assert "not a certificate in PEM" in said(tls(certificate.key, certificate.key))[0]


def test_a_key_with_a_passphrase(certificate: Certificate, tmp_path: Path) -> None:
    key = load_pem_private_key(Path(certificate.key).read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert "protected by a passphrase" in said(tls(certificate.cert, locked))[0]


def test_a_directory_is_no_certificate(certificate: Certificate, tmp_path: Path) -> None:
    assert said(tls(tmp_path, certificate.key)) == [f"line 3: listen[0].tls.cert: {tmp_path}: Is a directory"]


def test_a_pipe_is_no_certificate_and_is_not_waited_for(certificate: Certificate, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert said(tls(pipe, certificate.key)) == [f"line 3: listen[0].tls.cert: {pipe}: is a pipe, not a file"]
    assert said(read(with_upstream(f'ca = "{pipe}"'))) == [f"line 5: upstream.search.ca: {pipe}: is a pipe, not a file"]


def test_a_certificate_whose_names_cannot_be_read(certificate: Certificate, tmp_path: Path) -> None:
    """OpenSSL takes its own TRUSTED kind of file; which names are in it, nobody else can say."""
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(
        Path(certificate.cert).read_text().replace("BEGIN CERT", "BEGIN TRUSTED CERT").replace("END CERT", "END TRUSTED CERT")
    )
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(trusted, certificate.key)
    assert "not a certificate in PEM" in said(tls(trusted, certificate.key))[0]


def test_authorities_of_upstreams(certificate: Certificate, tmp_path: Path) -> None:
    good, empty = with_upstream(f'ca = "{certificate.cert}"'), tmp_path / "empty.pem"
    empty.touch()
    assert said(read(good)) == []
    assert said(read(with_upstream('ca = "/none.pem"'))) == ["line 5: upstream.search.ca: /none.pem: No such file or directory"]
    assert said(read(with_upstream(f'ca = "{empty}"'))) == [f"line 5: upstream.search.ca: {empty}: no certificate in PEM"]


def test_directories_for_sockets_and_logs_must_be_there(tmp_path: Path) -> None:
    assert said(read(GOOD.replace("127.0.0.1:8000", f"unix:{tmp_path}/x.sock") + f'[log]\naccess = "{tmp_path}/access.log"\n')) == []
    loaded = read(GOOD.replace("127.0.0.1:8000", f"unix:{tmp_path}/no/x.sock") + f'[log]\naccess = "{tmp_path}"\n')
    assert said(loaded) == [
        f"line 2: listen[0].address: {tmp_path}/no/x.sock: there is no directory {tmp_path}/no",
        f"line 8: log.access: {tmp_path}: is a directory",
    ]


def test_sockets_and_logs_must_be_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket, log = tmp_path / "x.sock", tmp_path / "access.log"
    loaded = read(GOOD.replace("127.0.0.1:8000", f"unix:{socket}") + f'[log]\naccess = "{log}"\n')
    monkeypatch.setattr("os.access", lambda *_: False)
    assert said(loaded) == [
        f"line 2: listen[0].address: {socket}: this user may not make files in {tmp_path}",
        f"line 8: log.access: {log}: this user may not make files in {tmp_path}",
    ]
    log.touch()
    assert said(loaded)[1] == f"line 8: log.access: {log}: may not be written by this user"
    monkeypatch.setattr("os.access", lambda place, _: place in (str(log), str(tmp_path)))
    assert said(loaded) == []


def test_what_is_no_socket_is_not_in_the_way_unseen(tmp_path: Path) -> None:
    file = tmp_path / "x.sock"
    loaded = read(GOOD.replace("127.0.0.1:8000", f"unix:{file}"))
    assert said(loaded) == []
    file.touch()
    assert said(loaded) == [f"line 2: listen[0].address: {file}: is there, and is no socket; the daemon removes only sockets"]


def test_a_key_everybody_may_read_is_unwise(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    os.chmod(made.key, 0o640)
    now = expiry(made) - 30 * 86400
    assert tls(made.cert, made.key).file_warnings(now) == []
    os.chmod(made.key, 0o644)
    (warning,) = tls(made.cert, made.key).file_warnings(now)
    assert (warning.path, warning.line) == ("listen[0].tls.key", 3)


@pytest.mark.parametrize(
    ("left_days", "words"), [(20, None), (13.5, "expires in 13 days"), (0.5, "expires in 0 days"), (-1, "has expired")]
)
def test_a_certificate_that_ends_soon_is_named(left_days: float, words: str | None, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    os.chmod(made.key, 0o600)
    found = [warning.message for warning in tls(made.cert, made.key).file_warnings(expiry(made) - left_days * 86400)]
    assert found == ([f"{made.cert}: the certificate {words}"] if words else [])


def test_warnings_pass_over_what_cannot_be_read() -> None:
    assert tls("/none.pem", "/none.key").file_warnings(0) == []


def expiry(made: Certificate) -> float:
    return x509.load_pem_x509_certificate(Path(made.cert).read_bytes()).not_valid_after_utc.timestamp()
