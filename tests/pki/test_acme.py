"""Asking pebble, who plays an authority with its moods: refused nonces, forgotten accounts, bindings, and what cannot be reached."""

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
from mcpproxy.errors import StartError
from mcpproxy.pki import acme, acme_files
from mcpproxy.pki.acme import Authority, Refused, Stopped, account_name
from mcpproxy.pki.acme_files import ORDER, Challenges, Place
from mcpproxy.pki.store import Store
from tests.support.meddler import Asked, Meddler, Said, problem
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
        self.between = stack.enter_context(Meddler(self.pebble))

    def authority(self, *, between: bool = False, **more: Any) -> Authority:
        """`between`: with somebody who meddles."""
        config = self.between.config if between else self.pebble.config
        store = acme_files.within(self.state, "acme", "accounts", account_name(config["directory"]))
        return Authority(config["directory"], store, **({"contacts": ["ops@example.com"], "ca": config["ca"]} | more))

    def ask(self, authority: Authority, *hosts: str, kind: str = "http-01") -> Any:
        issued = authority.certificate(hosts or HOSTS, kind, Challenges(self.state), lambda _: None, self.place(*hosts))
        issued.keep(self.place(*hosts))
        return issued

    @property
    def account(self) -> Path:
        [found] = Path(acme_files.root(self.state), "accounts").iterdir()
        return found

    def place(self, *hosts: str) -> Store:
        return Place.of(self.state, hosts or HOSTS).store()


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


@pytest.mark.parametrize("left", [True, False])
def test_a_key_that_was_lost_is_another_account(rig: Rig, left: bool) -> None:
    rig.ask(rig.authority())
    before = json.loads((rig.account / "account.json").read_text())
    (rig.account / "key.pem").unlink()
    if left:  # another one lies there: somebody's backup
        authority = rig.authority()
        authority._store = acme_files.within(rig.state, "acme", "elsewhere")
        rig.ask(authority)
        (rig.account / "key.pem").write_bytes(authority._store.read_secret("key.pem") or b"")
        (rig.account / "key.pem").chmod(0o600)
    rig.ask(rig.authority())
    after = json.loads((rig.account / "account.json").read_text())
    assert after["key"] != before["key"]
    assert after["uri"] != before["uri"]


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
    with pytest.raises(
        Refused, match=r"127\.0\.0\.1:\d+\) cannot be reached \(Failed to establish a new connection: Connection refused\)$"
    ):
        rig.ask(rig.authority())
    with refusing_port() as port, pytest.raises(Refused, match="cannot be reached"):
        Authority(f"http://127.0.0.1:{port}/", acme_files.within(rig.state, "acme", "other")).suggestion(b"")


def test_who_ends_while_waiting_leaves_nothing(rig: Rig) -> None:
    def stop(_: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        rig.authority().certificate(HOSTS, "tls-alpn-01", Challenges(rig.state), stop, rig.place())
    assert not list(Path(acme_files.root(rig.state), "tls-alpn").iterdir())


# -- what is signed is not lost ---------------------------------------------------------------------------------------------------------------


def serial(chain: bytes) -> int:
    return x509.load_pem_x509_certificates(chain)[0].serial_number


def gets(rig: Rig, path: str, said: Said) -> None:
    """What is asked there gets this."""
    rig.between.instead = lambda asked: said if asked.path.startswith(path) else None


def processes(asked: Asked, said: Said) -> Said:
    """An authority that signs and signs."""
    if not asked.path.startswith("/my-order/"):
        return said
    told = json.loads(said.body)
    if told["status"] == "valid":
        del told["certificate"]
        told["status"] = "processing"
    return Said(said.status, told, {**said.fields, "Retry-After": "7"})


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody sleeps where nobody could wake him."""
    monkeypatch.setattr(acme, "ISSUE_S", 0.5)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it sleeps"))


def test_an_order_that_is_being_signed_is_waited_for_as_it_says(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it sleeps"))
    rig.between.changed, waited = processes, []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) >= 4:
            rig.between.changed = lambda _, said: said

    rig.authority(between=True).certificate(HOSTS, "http-01", Challenges(rig.state), pause, rig.place())
    assert waited[-2:] == [7, 7]


def test_an_order_that_is_being_signed_for_ever_is_asked_about_again(rig: Rig, impatient: None) -> None:
    rig.between.changed = processes
    authority = rig.authority(between=True)
    for _ in range(2):
        with pytest.raises(Refused, match="did not sign within .* the same order is asked for again"):
            rig.ask(authority)
    assert (rig.place().path / ORDER).stat().st_mode & 0o777 == 0o600
    rig.between.changed = lambda _, said: said
    assert rig.ask(rig.authority(between=True)).chain, "by somebody else, too"
    assert len(rig.between.orders()) == 1
    assert not (rig.place().path / ORDER).exists()


def test_an_order_is_not_asked_about_for_ever(rig: Rig, impatient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acme, "ORDER_S", -1.0)
    rig.between.changed = processes
    for _ in range(2):
        with pytest.raises(Refused, match="did not sign within"):
            rig.ask(rig.authority(between=True))
    assert len(rig.between.orders()) == 2


@pytest.mark.parametrize("status", [502, 200])
def test_a_certificate_that_does_not_arrive_is_fetched_again(rig: Rig, status: int) -> None:
    gets(rig, "/certZ/", Said(status, b"<html>gone for a moment"))
    authority = rig.authority(between=True)
    with pytest.raises(Refused, match="502" if status == 502 else "not ACME"):
        rig.ask(authority)
    gets(rig, "/nothing", Said(500, b""))
    assert rig.ask(authority).chain
    assert len(rig.between.orders()) == 1


def test_a_certificate_that_cannot_be_kept_is_fetched_again(rig: Rig) -> None:
    authority, place = rig.authority(between=True), rig.place()
    (place.path / "pair.pem").mkdir()
    with pytest.raises(StartError, match="pair.pem: Is a directory"):
        rig.ask(authority)
    kept = place.read_secret(ORDER)
    (place.path / "pair.pem").rmdir()
    issued = rig.ask(authority)
    assert json.loads(kept or b"")["key"].encode() == issued.key
    assert len(rig.between.orders()) == 1


def test_nothing_is_signed_while_its_key_cannot_be_kept(rig: Rig) -> None:
    (rig.place().path / ORDER).mkdir()
    authority = rig.authority(between=True)
    for _ in range(2):
        with pytest.raises(Refused, match="order.json: Is a directory"):
            rig.ask(authority)
    assert not [each for each in rig.between.asked if each.path.startswith("/finalize-order/")]


def test_who_ends_while_it_is_signed_leaves_the_order_to_the_next(rig: Rig) -> None:
    def pause(_: float) -> None:
        if (rig.place().path / ORDER).exists():
            raise Stopped

    rig.between.changed = processes
    with pytest.raises(Stopped):
        rig.authority(between=True).certificate(HOSTS, "http-01", Challenges(rig.state), pause, rig.place())
    rig.between.changed = lambda _, said: said
    assert rig.ask(rig.authority(between=True)).chain
    assert len(rig.between.orders()) == 1


@pytest.mark.parametrize(
    "said",
    [
        Said(404, problem("malformed", "no such order")),
        Said(200, {"status": "invalid", "error": problem("caa", "CAA")}),
        Said(200, {"status": "invalid"}),
        Said(401, problem("accountDoesNotExist", "who?")),
    ],
    ids=["unknown", "invalid", "invalid without a word", "stranger"],
)
def test_an_order_that_leads_to_nothing_is_made_again(rig: Rig, impatient: None, said: Said) -> None:
    rig.between.changed = processes
    authority = rig.authority(between=True)
    with pytest.raises(Refused):
        rig.ask(authority)
    lost = json.loads(rig.place().read_secret(ORDER) or b"")["uri"].removeprefix(rig.between.base)
    rig.between.changed = lambda _, said: said
    gets(rig, lost, said)
    assert rig.ask(authority).chain
    assert len(rig.between.orders()) == 2


@pytest.mark.parametrize("change", [{"directory": "https://elsewhere.example/"}, {"account": "https://127.0.0.1/another"}, {"key": 5}])
def test_an_order_of_somebody_else_is_left_alone(rig: Rig, impatient: None, change: dict[str, Any]) -> None:
    rig.between.changed = processes
    authority, place = rig.authority(between=True), rig.place()
    with pytest.raises(Refused):
        rig.ask(authority)
    place.write_secret(ORDER, json.dumps(json.loads(place.read_secret(ORDER) or b"") | change).encode())
    rig.between.changed = lambda _, said: said
    assert rig.ask(authority).chain
    assert len(rig.between.orders()) == 2


def test_an_order_that_was_already_shown_is_not_shown_again(rig: Rig) -> None:
    """Somebody was killed between two files."""
    authority, place = rig.authority(between=True), rig.place()
    issued = authority.certificate(HOSTS, "http-01", Challenges(rig.state), lambda _: None, place)
    order = place.read_secret(ORDER) or b""
    issued.keep(place)
    place.write_secret(ORDER, order)
    assert serial(rig.ask(authority).chain) != serial(issued.chain)


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


def asked(url: str, state: Path) -> Any:
    authority = Authority(url, acme_files.within(str(state), "acme", "accounts", account_name(url)), contacts=["ops@example.com"])
    return authority.certificate(HOSTS, "http-01", Challenges(str(state)), lambda _: None, Place.of(str(state), HOSTS).store())


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


def test_a_caa_record_in_the_last_moment(rig: Rig) -> None:
    gets(rig, "/finalize-order/", Said(403, problem("caa", "CAA record for one.example.com prevents issuance")))
    with pytest.raises(Refused, match=r"a CAA record of one\.example\.com does not allow this authority \(CAA record for"):
        rig.ask(rig.authority(between=True), "one.example.com")
    assert not (rig.place("one.example.com").path / ORDER).exists()


def test_an_account_that_may_not_do_that(rig: Rig) -> None:
    gets(rig, "/order-plz", Said(403, problem("unauthorized", "account is deactivated")))
    with pytest.raises(Refused, match=r"does not let our account do that \(account is deactivated\); without .*/accounts/.* another one"):
        rig.ask(rig.authority(between=True), "one.example.com")


@pytest.mark.parametrize("path", ["/dir", "/order-plz", "/nonce-plz"])
def test_somebody_before_the_authority_who_says_how_long_to_wait(rig: Rig, path: str) -> None:
    gets(rig, path, Said(503, b"<html>maintenance", {"Retry-After": "1800"}))
    with pytest.raises(Refused, match=r"127\.0\.0\.1:\d+\) answers 503") as caught:
        rig.ask(rig.authority(between=True))
    assert caught.value.wait == 1800


def test_a_directory_that_changes_is_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = rig.authority(between=True)
    rig.ask(authority)
    rig.ask(authority)
    assert [each.path for each in rig.between.asked].count("/dir") == 1
    monkeypatch.setattr(acme, "DIRECTORY_S", -1.0)
    rig.ask(authority)
    paths = [each.path for each in rig.between.asked]
    assert (paths.count("/dir"), paths.count("/sign-me-up")) == (2, 1)


def test_directories_of_one_host_have_accounts_of_their_own() -> None:
    one, other = account_name("https://acme.example/directory"), account_name("https://acme.example/staging")
    assert one != other
    assert one.startswith("acme.example-")
    assert "/" not in account_name("https://[::1]:14000/../dir")
