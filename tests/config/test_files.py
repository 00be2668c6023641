"""The files a configuration names, as they are found on real disks."""

import os
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from mcpproxy.config import files
from mcpproxy.config.load import Loaded, load, read
from mcpproxy.config.policies import Auth
from mcpproxy.errors import StartError
from mcpproxy.policy import keyring
from mcpproxy.policy.apikey import ApiKeys
from tests.config.samples import GOOD, with_listen, with_route, with_upstream
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
    path, log = tmp_path / "x.sock", tmp_path / "access.log"
    loaded = read(GOOD.replace("127.0.0.1:8000", f"unix:{path}") + f'[log]\naccess = "{log}"\n')
    monkeypatch.setattr("os.access", lambda *_: False)
    assert said(loaded) == [
        f"line 2: listen[0].address: {path}: this user may not make files in {tmp_path}",
        f"line 8: log.access: {log}: this user may not make files in {tmp_path}",
    ]
    log.touch()
    assert said(loaded)[1] == f"line 8: log.access: {log}: may not be written by this user"
    monkeypatch.setattr("os.access", lambda place, _: place in (str(log), str(tmp_path)))
    assert said(loaded) == []


def test_a_socket_that_is_there_may_be_one_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its unit makes it as root, in a directory that is not ours, and hands it over."""
    place = tmp_path / "x.sock"
    monkeypatch.setattr("os.access", lambda *_: False)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place))
        assert said(read(GOOD.replace("127.0.0.1:8000", f"unix:{place}"))) == []


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
    ("left_days", "words"),
    [(20, None), (13.5, "expires in 13 days"), (1.5, "expires in 1 day"), (0.5, "expires within a day"), (-1, "has expired")],
)
def test_a_certificate_that_ends_soon_is_named(left_days: float, words: str | None, tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    os.chmod(made.key, 0o600)
    found = [warning.message for warning in tls(made.cert, made.key).file_warnings(expiry(made) - left_days * 86400)]
    assert found == ([f"{made.cert}: the certificate {words}"] if words else [])


def test_warnings_pass_over_what_cannot_be_read() -> None:
    assert tls("/none.pem", "/none.key").file_warnings(0) == []


# -- API keys ---------------------------------------------------------------------------------------------------------------------------------

NOW, DAY = 1_800_000_000.0, 86_400.0


def with_keys(file: Path) -> Loaded:
    return read(with_route(f'auth = "keys"\n[auth.keys]\ntype = "api-key"\nfile = "{file}"'))


def make_keys(file: Path, **days: float | None) -> None:
    """A key for each name, that ends in so many days."""
    with keyring.changing(str(file)) as entries:
        for name, life in days.items():
            keyring.add(entries, name, roles=(), now=NOW - 100 * DAY, expires=None if life is None else NOW + life * DAY)


def test_keys_that_were_never_made_are_named_with_the_command_that_makes_them(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    assert said(with_keys(file)) == [f"line 10: auth.keys.file: {file}: No such file or directory; `mcpproxy key add NAME` makes it"]
    make_keys(file, alpha=None)
    assert said(with_keys(file)) == []
    assert with_keys(file).file_warnings(NOW) == []


def test_keys_that_cannot_be_used_are_named_before_the_start(tmp_path: Path) -> None:
    file, pipe = tmp_path / "keys", tmp_path / "pipe"
    file.write_text("\nhello\n")
    os.mkfifo(pipe)
    assert said(with_keys(file)) == [f"line 10: auth.keys.file: {file}: line 2: not a JSON object"]
    assert said(with_keys(tmp_path)) == [f"line 10: auth.keys.file: {tmp_path}: is no file"]
    assert said(with_keys(pipe)) == [f"line 10: auth.keys.file: {pipe}: is no file"]
    assert said(with_keys(file / "x")) == [f"line 10: auth.keys.file: {file}/x: Not a directory"]
    file.write_text("")
    file.chmod(0o602)
    assert "everybody on this machine may write to it" in said(with_keys(file))[0]


def test_what_check_says_of_keys_the_start_says_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("hello\n")
    with pytest.raises(StartError) as caught:
        ApiKeys("keys", Auth(type="api-key", file=str(file)))
    assert said(with_keys(file)) == [f"line 10: auth.keys.file: {caught.value.message}"]


def test_keys_others_may_touch_are_unwise(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make_keys(file, alpha=None)
    for mode, words in [
        (0o600, []),
        (0o640, []),
        (0o644, ["everybody on this machine may read it; chmod o-r"]),
        (0o660, ["its group may write to it"]),
    ]:
        file.chmod(mode)
        found = [warning.message for warning in with_keys(file).file_warnings(NOW)]
        assert len(found) == len(words)
        assert all(part in whole for part, whole in zip(words, found, strict=True))


def test_keys_that_end_soon_or_are_all_gone_are_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    make_keys(file, alpha=3.5, beta=20, gamma=-1, delta=None)
    assert [warning.message for warning in with_keys(file).file_warnings(NOW)] == [
        f"{file}: the key of alpha expires in 3 days; mcpproxy key rotate alpha"
    ]
    with keyring.changing(str(file)) as entries:
        keyring.rotate(entries, "alpha", now=NOW, grace=DAY, expires=NOW + 90 * DAY)
    assert with_keys(file).file_warnings(NOW) == []
    with keyring.changing(str(file)) as entries:
        for name in ("alpha", "beta", "delta"):
            keyring.revoke(entries, name, now=NOW)
    (warning,) = with_keys(file).file_warnings(NOW)
    assert "no key in it is valid: nobody comes in by it" in warning.message
    file.unlink()
    assert with_keys(file).file_warnings(NOW) == []


def test_authorities_of_clients_are_looked_at(certificate: Certificate, tmp_path: Path) -> None:
    pair = f'cert = "{certificate.cert}", key = "{certificate.key}"'
    assert said(read(with_listen(f'tls = {{ {pair}, client_ca = "{certificate.cert}" }}'))) == []
    broken = tmp_path / "ca.pem"
    broken.write_text("hello")
    assert said(read(with_listen(f'tls = {{ {pair}, client_ca = "{broken}" }}'))) == [
        f"line 3: listen[0].tls.client_ca: {broken}: no certificate in PEM"
    ]


def expiry(made: Certificate) -> float:
    return x509.load_pem_x509_certificate(Path(made.cert).read_bytes()).not_valid_after_utc.timestamp()


def test_authorities_and_key_sets_of_issuers_are_looked_at(certificate: Certificate, tmp_path: Path) -> None:
    def auth(ca: str | Path, keys: str | Path) -> Loaded:
        text = f'[auth.corp]\ntype = "jwt"\nissuer = "https://login.example"\nca = "{ca}"\njwks = "file:{keys}"\n'
        return read(with_route('host = "a.test"\nauth = "corp"') + text)

    keys = tmp_path / "keys.json"
    for text, wrong in [
        ('{"keys": []}', []),
        ('{"kty": "EC"}', [f'line 13: auth.corp.jwks: {keys}: no key set: {{"keys": [...]}} is one']),
        ("[]", [f'line 13: auth.corp.jwks: {keys}: no key set: {{"keys": [...]}} is one']),
        ("-----BEGIN", [f"line 13: auth.corp.jwks: {keys}: not JSON in UTF-8"]),
    ]:
        keys.write_text(text)
        assert said(auth(certificate.cert, keys)) == wrong
    keys.write_text('{"keys": []}')
    none = tmp_path / "none"
    assert said(auth(certificate.cert, none)) == [f"line 13: auth.corp.jwks: {none}: No such file or directory"]
    assert said(auth(none, keys)) == [f"line 12: auth.corp.ca: {none}: No such file or directory"]
    assert "no certificate in PEM" in said(auth(certificate.key, keys))[0]


def test_authorities_of_token_endpoints_are_looked_at(certificate: Certificate, tmp_path: Path) -> None:
    def credential(ca: str | Path) -> Loaded:
        text = 'credential = { type = "client-credentials", token_url = "https://a.test", client_id = "u", client_secret = "file:%s", ca = "%s" }'
        return read(with_upstream(text % (secret, ca)))

    secret = tmp_path / "secret"
    secret.write_text("x")
    assert said(credential(certificate.cert)) == []
    assert said(credential(tmp_path / "none")) == [f"line 5: upstream.search.credential.ca: {tmp_path}/none: No such file or directory"]


def test_who_shall_serve_must_be_known_here() -> None:
    loaded = read('user = "no-such-user"\ngroup = "no-such-group"\n' + GOOD)
    assert said(loaded) == [
        "line 1: user: there is no user no-such-user on this machine; useradd --system no-such-user",
        "line 2: group: there is no group no-such-group on this machine",
    ]
    assert said(read('user = "root"\ngroup = "0"\n' + GOOD)) == []


@pytest.mark.parametrize(
    ("file", "second"),
    [("/var/log/audit.log", "/var/log/audit.chain1.log"), ("/var/log/audit", "/var/log/audit.chain1"), ("a.b.jsonl", "a.b.chain1.jsonl")],
)
def test_each_chain_has_its_file(file: str, second: str) -> None:
    assert (files.audit_file(file, 0), files.audit_file(file, 1)) == (file, second)


@pytest.mark.parametrize(
    ("quotas", "few"),
    [({}, False), ({"a": "max 100000"}, False), ({"a": "50000 100000"}, True), ({"": "100000 100000"}, True), ({"a/b": "garbage"}, False)],
)
def test_cores_are_those_that_a_cgroup_grants(tmp_path: Path, quotas: dict[str, str], few: bool) -> None:
    """Its own quota, or one above it; a part of one is one."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "ours").write_text("1:cpu:/other\n0::/a/b\n")
    for place, said in quotas.items():
        (tmp_path / place / "cpu.max").write_text(said + "\n")
    assert files.cores(tmp_path, tmp_path / "ours") == (1 if few else len(os.sched_getaffinity(0)))
    assert files.cores(tmp_path, tmp_path / "none") == len(os.sched_getaffinity(0))


def test_every_file_of_the_audit_log_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "audit.chain1.log").mkdir()
    text = f'[audit]\nfile = "{tmp_path}/audit.log"\n'
    for workers, found in (1, []), (2, [f"{tmp_path}/audit.chain1.log: is a directory"]):
        config = load(f"workers = {workers}\n" + GOOD + text)
        assert [each.message for each in files.broken(config)] == found
