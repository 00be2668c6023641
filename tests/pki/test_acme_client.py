"""What is said to an authority beyond the library: which certificate an order replaces, when one should be renewed, and nonces. Pebble answers, with moods."""

import contextlib
import datetime
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from mcpproxy.clock import unix
from mcpproxy.pki import acme_files
from mcpproxy.pki.acme import Authority, Issued, Refused
from mcpproxy.pki.acme_client import NONCES, certificate_id
from mcpproxy.pki.acme_files import Challenges, Place
from tests.support.meddler import Meddler, Said, problem
from tests.support.pebble import Pebble
from tests.support.ports import free_port

pytestmark = pytest.mark.needs("pebble", "pebble-challtestsrv")
HOSTS = ("b.example.com", "a.example.com")
WINDOW = {"start": "2036-01-03T00:00:00Z", "end": "2036-01-03T12:00:00Z"}
BEGIN = 2082931200.0


class Rig:
    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._state = str(directory / "state")
        pebble = stack.enter_context(Pebble(directory, http=free_port(), tls=free_port(), PEBBLE_VA_ALWAYS_VALID="1"))
        self.between = stack.enter_context(Meddler(pebble))
        self.place = Place.of(self._state, HOSTS).store()
        store, config = acme_files.within(self._state, "acme", "accounts", "x"), self.between.config
        self.authority = Authority(config["directory"], store, ca=config["ca"])

    def ask(self) -> Issued:
        issued = self.authority.certificate(HOSTS, "http-01", Challenges(self._state), lambda _: None, self.place)
        issued.keep(self.place)
        return issued

    def name(self, issued: Issued) -> str:
        return certificate_id(x509.load_pem_x509_certificates(issued.chain)[0]) or ""

    def replaced(self) -> list[str | None]:
        return [order.get("replaces") for order in self.between.orders()]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack, tmp_path)


def suggests(status: int = 200, body: Any = None, **fields: str) -> Any:
    told = {"suggestedWindow": WINDOW} if body is None else body
    return lambda _: Said(status, told, {name.replace("_", "-"): value for name, value in fields.items()})


# -- orders -------------------------------------------------------------------------------------------------------------------------------


def test_an_order_names_the_certificate_it_replaces(rig: Rig) -> None:
    rig.between.offer_renewal_info(suggests())
    issued = [rig.ask() for _ in range(3)]
    assert rig.replaced() == [None, rig.name(issued[0]), rig.name(issued[1])]


def test_an_authority_that_knows_nothing_of_renewals_is_not_told(rig: Rig) -> None:
    rig.ask()
    rig.ask()
    assert rig.replaced() == [None, None]


@pytest.mark.parametrize(
    ("status", "kind"), [(409, "alreadyReplaced"), (409, "conflict"), (404, "malformed"), (403, "unauthorized"), (400, "somethingNew")]
)
def test_an_authority_that_refuses_to_replace_gets_the_order_without(rig: Rig, status: int, kind: str) -> None:
    rig.between.instead = lambda asked: (
        Said(status, problem(kind, "certificate replaced")) if asked.path == "/order-plz" and "replaces" in asked.payload else None
    )
    rig.between.offer_renewal_info(suggests())
    first = rig.ask()
    second = rig.ask()
    assert rig.replaced() == [None, rig.name(first), None]
    assert rig.name(second) != rig.name(first)


def test_a_limit_is_not_asked_about_twice(rig: Rig) -> None:
    limit = Said(429, problem("rateLimited", "too many"), {"Retry-After": "60"})
    rig.between.instead = lambda asked: limit if asked.path == "/order-plz" and "replaces" in asked.payload else None
    rig.between.offer_renewal_info(suggests())
    rig.ask()
    with pytest.raises(Refused, match="limit is reached") as caught:
        rig.ask()
    assert caught.value.wait == 60
    assert len(rig.between.orders()) == 2


# -- suggestions --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "expected"), [("7200", 7200), ("date", 7200), ("", 0), ("soon", 0), ("9" * 400, float("inf"))])
def test_the_window_an_authority_suggests(rig: Rig, after: str, expected: float) -> None:
    fields = {"Retry_After": formatdate(unix() + 7200, usegmt=True) if after == "date" else after} if after else {}
    rig.between.offer_renewal_info(suggests(body={"suggestedWindow": WINDOW, "explanationURL": "https://authority.example/why"}, **fields))
    chain = rig.ask().chain
    told = rig.authority.suggestion(chain)
    assert (told.begin, told.end, told.why) == (BEGIN, BEGIN + 43200, "https://authority.example/why")
    assert told.ask_in == expected or abs(told.ask_in - expected) < 60
    assert rig.between.asked[-1].path == f"/renewal-info/{rig.name(Issued(chain, b''))}"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"suggestedWindow": {}},
        {"suggestedWindow": {"start": WINDOW["end"], "end": WINDOW["start"]}},
        {"suggestedWindow": "now"},
        [],
        b"<html>",
    ],
)
def test_a_window_that_is_none(rig: Rig, body: Any) -> None:
    rig.between.offer_renewal_info(suggests(body=body))
    chain = rig.ask().chain
    with pytest.raises(Refused, match="answers what is not ACME"):
        rig.authority.suggestion(chain)


@pytest.mark.parametrize(("status", "body"), [(429, problem("rateLimited", "slowly")), (503, b"<html>later"), (503, b"")])
def test_an_authority_that_would_rather_be_asked_later(rig: Rig, status: int, body: Any) -> None:
    rig.between.offer_renewal_info(suggests(status, body, Retry_After="5000"))
    chain = rig.ask().chain
    with pytest.raises(Refused) as caught:
        rig.authority.suggestion(chain)
    assert caught.value.wait == 5000


def test_nothing_is_suggested_by_who_knows_nothing_of_it(rig: Rig) -> None:
    assert rig.authority.suggestion(rig.ask().chain) == (0, 0, 0, "")


def test_the_name_of_a_certificate() -> None:
    """The example of RFC 9773 §4.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin, signer = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 0x87654321, begin, begin + datetime.timedelta(days=1))
    assert certificate_id(builder.sign(key, SHA256())) is None, "it does not say who signed it"
    known = builder.add_extension(x509.AuthorityKeyIdentifier(signer, None, None), critical=False).sign(key, SHA256())
    assert certificate_id(known) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_who_gives_no_address_has_an_account(rig: Rig) -> None:
    rig.ask()
    [account] = [each.payload for each in rig.between.asked if each.path == "/sign-me-up"]
    assert "contact" not in account


# -- words --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cut", "said"), [(b"", "Remote end closed connection without response"), (b"SSH-2.0-x\r\n", "SSH-2.0-x")])
def test_what_went_wrong_is_said_in_words_for_people(tmp_path: Path, cut: bytes, said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        threading.Thread(target=_cut, args=(stranger, cut), daemon=True).start()
        store = acme_files.within(str(tmp_path / "state"), "acme", "accounts", "x")
        with pytest.raises(Refused) as caught:
            Authority(f"http://127.0.0.1:{stranger.getsockname()[1]}/dir", store).suggestion(b"")
    assert caught.value.message.partition(") cannot be reached (")[2].strip("()\r\n ") == said


def _cut(server: socket.socket, said: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            link, _ = server.accept()
            with link:
                link.recv(4096)
                link.send(said)


# -- nonces -------------------------------------------------------------------------------------------------------------------------------


def test_nonces_that_are_refused_again_and_again(rig: Rig) -> None:
    rig.between.instead = lambda asked: Said(400, problem("badNonce", "again")) if asked.path == "/order-plz" else None
    with pytest.raises(Refused, match="the authority refuses .again"):
        rig.ask()
    assert len(rig.between.orders()) == NONCES + 1
