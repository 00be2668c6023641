"""Asking pebble, who plays an authority with its moods: refused nonces, forgotten accounts, bindings, and what cannot be reached."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mcpproxy.clock import unix
from mcpproxy.pki import acme_files
from mcpproxy.pki.acme import ACME_IDENTIFIER, Authority, Refused, Stopped, account_name, challenge_certificate
from mcpproxy.pki.acme_files import Challenges
from tests.support.pebble import EAB, Pebble
from tests.support.ports import free_port, refusing_port

pytestmark = pytest.mark.needs("pebble", "pebble-challtestsrv")
HOSTS = ("b.example.com", "a.example.com")


class Rig:
    """An authority that believes everything, unless told otherwise, and who asks it."""

    def __init__(self, stack: ExitStack, directory: Path, settings: dict[str, Any]) -> None:
        settings = {"PEBBLE_VA_ALWAYS_VALID": "1"} | settings
        self.state = str(directory / "state")
        self.pebble = stack.enter_context(Pebble(directory, http=free_port(), tls=free_port(), **settings))

    def authority(self, **more: Any) -> Authority:
        config = self.pebble.config
        store = acme_files.within(self.state, "acme", "accounts", account_name(config["directory"]))
        return Authority(config["directory"], store, **({"contacts": ["ops@example.com"], "ca": config["ca"]} | more))

    def ask(self, authority: Authority, *hosts: str, kind: str = "http-01") -> Any:
        return authority.certificate(hosts or HOSTS, kind, Challenges(self.state), lambda _: None)


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack, tmp_path, getattr(request, "param", {}))


def moods(*settings: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rig", settings, indirect=True, ids=lambda each: ",".join(each) or "well")


@moods({}, {"PEBBLE_WFE_NONCEREJECT": "60"}, {"PEBBLE_AUTHZREUSE": "100"})
@pytest.mark.parametrize("kind", ["http-01", "tls-alpn-01"])
def test_a_certificate_is_for_the_names_and_has_a_key_of_its_own(rig: Rig, kind: str) -> None:
    authority = rig.authority()
    first, second = rig.ask(authority, kind=kind), rig.ask(authority, kind=kind)
    for issued in (first, second):
        chain = x509.load_pem_x509_certificates(issued.chain)
        assert len(chain) == 2
        names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == set(HOSTS)
        key = load_pem_private_key(issued.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert chain[0].public_key() == key.public_key()
    assert first.key != second.key
    for name in ("challenges", "tls-alpn"):
        assert not list(Path(acme_files.root(rig.state), name).iterdir()), "nothing is left"


def test_the_account_is_kept(rig: Rig) -> None:
    rig.ask(rig.authority())
    [account] = Path(acme_files.root(rig.state), "accounts").iterdir()
    key, kept = (account / "key.pem").read_bytes(), json.loads((account / "account.json").read_text())
    rig.ask(rig.authority())
    assert (account / "key.pem").read_bytes() == key
    assert json.loads((account / "account.json").read_text()) == kept
    assert rig.pebble.log.read_text().count("There are now") and "There are now 2 accounts" not in rig.pebble.log.read_text()
    (account / "account.json").unlink()
    rig.ask(rig.authority())
    assert json.loads((account / "account.json").read_text())["uri"] == kept["uri"], "found again by its key"
    rig.ask(rig.authority(contacts=["other@example.com"]))
    assert json.loads((account / "account.json").read_text()) == {**kept, "contacts": ["other@example.com"]}


def test_an_authority_that_forgot_us_gets_to_know_us_again(rig: Rig) -> None:
    authority = rig.authority()
    rig.ask(authority)
    rig.pebble.stop()
    rig.pebble.start()
    assert rig.ask(authority).chain


@moods({"eab": True})
def test_an_account_that_must_be_bound(rig: Rig) -> None:
    with pytest.raises(Refused, match="acme.eab_key_id"):
        rig.ask(rig.authority())
    with pytest.raises(Refused, match="does not take acme.eab_key_id") as caught:
        rig.ask(rig.authority(eab=(EAB[0], "AAAA" + EAB[1][4:])))
    assert EAB[1][4:] not in caught.value.message
    with pytest.raises(Refused, match="does not take|base64url"):
        rig.ask(rig.authority(eab=(EAB[0], "!")))
    assert rig.ask(rig.authority(eab=EAB)).chain


@moods({"PEBBLE_VA_ALWAYS_VALID": ""})
def test_names_that_do_not_lead_here(rig: Rig) -> None:
    with pytest.raises(Refused, match=r"cannot connect to .*\.example\.com on port 80: does its DNS lead here"):
        rig.ask(rig.authority())
    with pytest.raises(Refused, match=r"answers for .*\.example\.com on port 443: does its DNS lead here"):  # as pebble calls it
        rig.ask(rig.authority(), kind="tls-alpn-01")
    for name in ("challenges", "tls-alpn"):
        assert not list(Path(acme_files.root(rig.state), name).iterdir()), "nothing is left"


def test_a_name_it_does_not_sign_for(rig: Rig) -> None:
    with pytest.raises(Refused, match="authority"):
        rig.ask(rig.authority(), "a_b.example.com")


def test_who_cannot_be_reached_or_trusted(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="TLS with the authority .* fails.*acme.ca"):
        rig.ask(rig.authority(ca=None))
    rig.pebble.stop()
    with pytest.raises(Refused, match=r"127\.0\.0\.1:\d+\) cannot be reached"):
        rig.ask(rig.authority())
    with refusing_port() as port, pytest.raises(Refused, match="cannot be reached"):
        Authority(f"http://127.0.0.1:{port}/", acme_files.within(rig.state, "acme", "other")).suggestion(b"")


def test_who_ends_while_waiting_leaves_nothing(rig: Rig) -> None:
    def stop(_: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        rig.authority().certificate(HOSTS, "tls-alpn-01", Challenges(rig.state), stop)
    assert not list(Path(acme_files.root(rig.state), "tls-alpn").iterdir())


# -- what pebble cannot play --------------------------------------------------------------------------------------------------------------


@contextmanager
def scripted(answers: dict[str, tuple[int, Any, dict[str, str]]]) -> Iterator[str]:
    """A server with answers by path; the directory names them."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = next((answers[name] for name in answers if self.path.startswith(f"/{name}")), None)
            status, told, fields = found or (
                200,
                {each: f"{base}/{each}" for each in ("newNonce", "newAccount", "newOrder", "renewalInfo")},
                {},
            )
            body = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            for name, value in {"Replay-Nonce": "bm9uY2U", "Content-Length": str(len(body)), **fields}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        do_GET = do_HEAD = do_POST = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{base}/"
    finally:
        server.shutdown()
        server.server_close()


ACCOUNT = (201, {"status": "valid"}, {"Location": "http://127.0.0.1/account/1"})


def problem(kind: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": f"urn:ietf:params:acme:error:{kind}", "detail": detail, **more}


def asked(url: str, state: Path) -> Any:
    authority = Authority(url, acme_files.within(str(state), "acme", "accounts", account_name(url)), contacts=["ops@example.com"])
    return authority.certificate(HOSTS, "http-01", Challenges(str(state)), lambda _: None)


@pytest.mark.parametrize("after", ["3600", "date"])
def test_a_limit_says_how_long_to_wait(tmp_path: Path, after: str) -> None:
    fields = {"Retry-After": after if after.isdigit() else formatdate(unix() + 3600, usegmt=True)}
    with scripted(
        {"newAccount": ACCOUNT, "newOrder": (429, problem("rateLimited", "too many certificates (5) already issued"), fields)}
    ) as url:
        with pytest.raises(Refused, match="limit is reached.*too many certificates") as caught:
            asked(url, tmp_path / "state")
    assert 3500 < caught.value.wait <= 3600


@pytest.mark.parametrize(
    ("kind", "said"),
    [("caa", "CAA record of a.example.com"), ("rejectedIdentifier", "does not sign for a.example.com"), ("userActionRequired", "agreed")],
)
def test_the_name_in_question_is_told(tmp_path: Path, kind: str, said: str) -> None:
    sub = problem(kind, "no", identifier={"type": "dns", "value": "a.example.com"})
    with scripted({"newAccount": ACCOUNT, "newOrder": (403, problem(kind, "see below", subproblems=[sub]), {})}) as url:
        with pytest.raises(Refused, match=said):
            asked(url, tmp_path / "state")


@pytest.mark.parametrize("nonsense", [b"<html>", b"[]", b'{"newAccount": 5}', b"{}", b"\xff"])
def test_what_is_no_authority(tmp_path: Path, nonsense: bytes) -> None:
    with scripted({"": (200, nonsense, {})}) as url, pytest.raises(Refused, match="authority"):
        asked(url, tmp_path / "state")


def test_nonces_are_not_asked_for_without_end(tmp_path: Path) -> None:
    with scripted({"newAccount": (400, problem("badNonce", "again"), {})}) as url, pytest.raises(Refused):
        asked(url, tmp_path / "state")


def test_the_moment_an_authority_suggests(tmp_path: Path, certificate: Any) -> None:
    """RFC 9773; pebble knows nothing of it yet."""
    window = {"suggestedWindow": {"start": "2036-01-03T00:00:00Z", "end": "2036-01-03T12:00:00Z"}}
    chain = signed(tmp_path)
    with scripted({"newAccount": ACCOUNT, "renewalInfo": (200, window, {"Retry-After": "7200"})}) as url:
        authority = Authority(url, acme_files.within(str(tmp_path / "state"), "acme", "accounts", "x"))
        found, again = authority.suggestion(chain)
    assert 2082931200 <= found <= 2082931200 + 43200
    assert 7000 < again - unix() < 7300


def signed(directory: Path) -> bytes:
    """A certificate that says who signed it, as ARI needs."""
    from tests.support.certs import Authority as Signer

    signer = Signer.make(directory / "signer")
    key = signer.key()
    leaf = x509.load_pem_x509_certificate(signer.issue(directory / "leaf", x509.DNSName("a.example")).cert.read_bytes())
    builder = x509.CertificateBuilder(
        issuer_name=leaf.issuer,
        subject_name=leaf.subject,
        public_key=leaf.public_key(),
        serial_number=leaf.serial_number,
        not_valid_before=leaf.not_valid_before_utc,
        not_valid_after=leaf.not_valid_after_utc,
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_the_certificate_for_validators_says_the_digest_of_the_proof() -> None:
    made = x509.load_pem_x509_certificate(challenge_certificate("a.example", "token.thumb"))
    [extension] = [each for each in made.extensions if each.oid == ACME_IDENTIFIER]
    assert extension.critical
    assert extension.value.public_bytes() == b"\x04\x20" + hashlib.sha256(b"token.thumb").digest()
    assert made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == ["a.example"]


def test_directories_of_one_host_have_accounts_of_their_own() -> None:
    one, other = account_name("https://acme.example/directory"), account_name("https://acme.example/staging")
    assert one != other
    assert one.startswith("acme.example-")
    assert "/" not in account_name("https://[::1]:14000/../dir")
