"""Asking an authority for a certificate (RFC 8555), by the `acme` library. It waits and it blocks: only for a thread of the control process.

   authority = Authority(url, store, contacts=["ops@example.com"]);  chain, key = authority.certificate(hosts, "http-01", challenges, pause, place)

1. The account's key is made once for each directory and kept. An authority that has forgotten the account gets it again, with the same key; a key that was
   lost is another account.
2. Every certificate has a new key. The answers to its challenges are files that workers show (pki/acme_files); they are taken away whatever happens.
3. Whatever goes wrong is a `Refused`, in words an operator can use, with the time the authority asks us to wait. Nothing secret is in it.
4. Before anything is signed, the order and its key are on the disk (order.json). Whoever is interrupted then (by the network, a full disk, a signal, an
   authority that takes its time) gets what was signed the next time, instead of ordering once more: authorities count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import msgspec
import requests
from acme import challenges as kinds
from acme import errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from mcpproxy.clock import monotonic, unix
from mcpproxy.errors import StartError
from mcpproxy.pki.acme_client import Client, Network, Suggestion, clean, problem, reason, seconds
from mcpproxy.pki.acme_files import CHAIN, ORDER, PAIR, Challenges
from mcpproxy.pki.acme_plan import DAY, explain
from mcpproxy.pki.selfmade import challenge_certificate
from mcpproxy.pki.store import Store

ANSWER_S = 30  # seconds an authority has for one answer
VALIDATION_S = 300.0  # and for looking at a name: it may ask from several places, one after the other
ISSUE_S = 180.0  # and for signing; the next try goes on waiting for the same order,
ORDER_S = DAY  # as long as it is not older
DIRECTORY_S = DAY  # until its directory is read again
PENDING_S = 1.6  # until every worker knows of a challenge by TLS (pki/acme_files.Pending is looked at every half second)
POLL_S, LONGEST_POLL_S = 1.0, 30.0
PASSING = {"rateLimited", "serverInternal", "badNonce"}  # the order is as good as it was

Pause = Callable[[float], None]  # waits; raises Stopped when there is nobody to wait for any more


class Stopped(Exception):
    """The process ends."""


class Refused(Exception):
    """There is no certificate. `wait`: seconds the authority asks us to wait."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.message, self.wait = message, wait


class Late(Refused):
    """Not yet."""


class NotAsked(Refused):
    """It ended as something else than what was asked for."""


class Issued(NamedTuple):
    """PEM."""

    chain: bytes
    key: bytes

    def keep(self, place: Store) -> None:
        """Where it is shown; rule 4 is done with then. Raises StartError."""
        place.write_secret(PAIR, self.chain + self.key)
        place.write(CHAIN, self.chain)
        place.remove(ORDER)


class Order(msgspec.Struct):
    """Rule 4: one that only has to be signed."""

    directory: str
    account: str
    uri: str
    key: str  # PEM
    csr: str
    began: float  # Unix time


class Authority:
    """One directory, and our account there."""

    def __init__(
        self,
        url: str,
        store: Store,
        *,
        contacts: Sequence[str] = (),
        ca: str | None = None,
        eab: tuple[str, str] | None = None,
        agent: str = "mcpproxy",
    ) -> None:
        self._url, self._store, self._contacts, self._ca, self._eab, self._agent = url, store, sorted(set(contacts)), ca, eab, agent
        self._client: Client | None = None
        self._network: Network | None = None
        self._opened_at = 0.0

    def certificate(self, hosts: Sequence[str], kind: str, answers: Challenges, pause: Pause, place: Store) -> Issued:
        """A new one for these names, the present one being in `place`. Raises Refused, Stopped."""
        return cast(Issued, self._asked(lambda: self._certificate(hosts, kind, answers, pause, place), kind, hosts))

    def suggestion(self, chain: bytes) -> Suggestion:
        """When this certificate should be renewed. Raises Refused."""
        return cast(Suggestion, self._asked(lambda: self._opened().suggestion(x509.load_pem_x509_certificates(chain)[0])))

    # -- who we are --------------------------------------------------------------------------------------------------------------------------

    def _opened(self) -> Client:
        if self._client is None or monotonic() - self._opened_at > DIRECTORY_S:
            key = self._key()
            network = Network(key, alg=ES256, user_agent=self._agent, timeout=ANSWER_S)
            if self._ca is not None:
                network.verify_ssl = cast(bool, self._ca)  # what `requests` takes as well: a file of authorities
            self._network = network
            made = Client(Client.get_directory(self._url, network), network)
            self._join(made, network, key)
            self._client, self._opened_at = made, monotonic()
        return self._client

    def _key(self) -> JWKEC:
        kept = self._store.read_secret("key.pem")
        if kept is None:
            self._store.remove("account.json")  # it was somebody else's
            kept = _pem(ec.generate_private_key(ec.SECP256R1()))
            self._store.write_secret("key.pem", kept)
        try:
            return JWKEC(key=load_pem_private_key(kept, None))
        except (ValueError, TypeError):
            raise Refused(f"{self._store.path / 'key.pem'}: this account key cannot be read") from None

    def _join(self, made: Client, network: Network, key: JWKEC) -> None:
        """Our account, as it was kept; else by its key; else a new one."""
        thumb = key.thumbprint().hex()
        kept = self._kept(thumb)
        if kept is not None and kept["contacts"] == self._contacts:
            network.account = messages.RegistrationResource(uri=kept["uri"], body=messages.Registration())
            return
        binding = None
        if self._eab is not None:
            try:
                binding = messages.ExternalAccountBinding.from_data(key.public_key(), *self._eab, made.directory)
            except (ValueError, TypeError):
                raise Refused("acme.eab_hmac is not in base64url: give it as the authority gave it") from None
        asked = messages.NewRegistration.from_data(
            email=",".join(self._contacts) or None, terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            uri = made.new_account(asked).uri
        except errors.ConflictError as known:
            uri = known.location
            network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
            made.update_registration(network.account, messages.Registration.from_data(email=",".join(self._contacts) or None))
        except messages.Error as error:
            if self._eab is not None and problem(error) in ("unauthorized", "malformed", "externalAccountRequired", ""):
                words = f"the authority does not take acme.eab_key_id and acme.eab_hmac ({clean(error.detail)})"
                raise Refused(words, network.wait) from None
            raise
        network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
        told = {"directory": self._url, "uri": uri, "contacts": self._contacts, "key": thumb}
        self._store.write("account.json", json.dumps(told).encode())

    def _kept(self, thumb: str) -> Any:
        try:
            found = json.loads(self._store.read("account.json") or b"")
            fits = found["directory"] == self._url and isinstance(found["uri"], str) and found.get("key", thumb) == thumb
            return found if fits and "contacts" in found else None
        except (ValueError, KeyError, TypeError):
            return None

    def _forget(self) -> None:
        self._store.write("account.json", b"{}")
        self._client = None

    # -- a certificate -----------------------------------------------------------------------------------------------------------------------

    def _certificate(self, hosts: Sequence[str], kind: str, answers: Challenges, pause: Pause, place: Store) -> Issued:
        made, old = self._opened(), _leaf(place.read(CHAIN))
        order = self._interrupted(made, place)
        if order is not None:
            try:
                issued = self._signed(made, order, hosts, pause, place)
                leaf = _leaf(issued.chain)
                if leaf is not None and leaf != old and leaf.not_valid_after_utc.timestamp() > unix():
                    return issued
            except (messages.Error, errors.IssuanceError, NotAsked) as error:
                if _passes(error):
                    raise
            place.remove(ORDER)  # it leads to nothing any more
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
        csr = asked.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
        ordered = made.order(csr, list(hosts), old)
        try:
            self._show_names(made, ordered, kind, answers, pause)
        finally:
            answers.clear()
        order = Order(self._url, self._account(made), ordered.uri, _pem(key).decode(), csr.decode(), unix())
        place.write_secret(ORDER, msgspec.json.encode(order))
        return self._signed(made, order, hosts, pause, place)

    def _interrupted(self, made: Client, place: Store) -> Order | None:
        """Rule 4: what somebody before us did not come to the end of, if we may go on with it."""
        try:
            order = msgspec.json.decode(place.read_secret(ORDER) or b"", type=Order)
        except (ValueError, msgspec.MsgspecError):
            return None
        return order if (order.directory, order.account) == (self._url, self._account(made)) else None

    def _signed(self, made: Client, order: Order, hosts: Sequence[str], pause: Pause, place: Store) -> Issued:
        """What this order leads to. Orders that lead to nothing are forgotten; others stay where they are, also when this fails."""
        try:
            chain = self._chain(made, order, pause).encode()
            key = cast(ec.EllipticCurvePrivateKey, load_pem_private_key(order.key.encode(), None))
            _must_fit(chain, key, hosts)
        except (messages.Error, errors.IssuanceError, NotAsked) as error:
            if not _passes(error):
                place.remove(ORDER)
            raise
        except Late:
            if not 0 <= unix() - order.began <= ORDER_S:
                place.remove(ORDER)
            raise
        return Issued(chain, order.key.encode())

    def _chain(self, made: Client, order: Order, pause: Pause) -> str:
        end, body, asked = monotonic() + ISSUE_S, made.look(order.uri), False
        while body.status != messages.STATUS_VALID or body.certificate is None:
            wait = self._wait_told()
            if body.status == messages.STATUS_INVALID:
                raise (
                    errors.IssuanceError(body.error)
                    if body.error is not None
                    else NotAsked("the authority gave up the order, and does not say why")
                )
            if body.status == messages.STATUS_READY and not asked:
                try:
                    body, asked = made.finish(order.uri, body, order.csr.encode()), True
                    continue
                except messages.Error as error:
                    if problem(error) != "orderNotReady":
                        raise
            if monotonic() >= end:
                raise Late(f"the authority did not sign within {ISSUE_S / 60:.0f} minutes; the same order is asked for again", wait)
            pause(min(max(POLL_S, wait), LONGEST_POLL_S))
            body = made.look(order.uri)
        return made.fetch(body.certificate)

    @staticmethod
    def _account(made: Client) -> str:
        return str(cast(Network, made.net).account.uri)  # type: ignore[union-attr]

    def _wait_told(self) -> float:
        return self._network.wait if self._network is not None else 0.0

    def _show_names(self, made: Client, order: messages.OrderResource, kind: str, answers: Challenges, pause: Pause) -> None:
        """Answer the challenges of all names that are not known to be ours, and wait until the authority has looked."""
        answers.clear()
        key = cast(Network, made.net).key
        pending = []
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue
            host = authorization.body.identifier.value
            offered = next((each for each in authorization.body.challenges if each.chall.typ == kind), None)
            if offered is None:
                raise Refused(f"the authority does not offer {kind} for {host}; acme.challenge says which is used")
            proof = offered.chall.key_authorization(key)
            if kind == kinds.HTTP01.typ:
                answers.answer_http(offered.chall.encode("token"), proof.encode())
            else:
                answers.answer_alpn(host, challenge_certificate(host, proof))
            pending.append((authorization, offered, offered.chall.response(key)))
        if pending and kind != kinds.HTTP01.typ:
            pause(PENDING_S)
        for _, offered, answer in pending:
            made.answer_challenge(offered, answer)
        deadline = monotonic() + VALIDATION_S
        for authorization, _, _ in pending:
            self._wait(made, authorization, kind, deadline, pause)

    def _wait(self, made: Client, authorization: Any, kind: str, deadline: float, pause: Pause) -> None:
        host = authorization.body.identifier.value
        while True:
            authorization, response = made.poll(authorization)
            if authorization.body.status == messages.STATUS_VALID:
                return
            if authorization.body.status != messages.STATUS_PENDING:
                failed = [each.error for each in authorization.body.challenges if each.error is not None]
                code, detail = (problem(failed[0]), failed[0].detail or "") if failed else ("", f"{host}: {authorization.body.status.name}")
                raise Refused(explain(code, detail, host, kind))
            if monotonic() >= deadline:
                raise Refused(f"the authority did not come to an end about {host} in {VALIDATION_S / 60:.0f} minutes")
            pause(min(max(POLL_S, seconds(response)), LONGEST_POLL_S))

    # -- what goes wrong ---------------------------------------------------------------------------------------------------------------------

    def _asked(self, question: Callable[[], object], kind: str = "", hosts: Sequence[str] = ()) -> object:
        """Rule 3; and rule 1: once more, when the authority has forgotten us."""
        try:
            try:
                return question()
            except messages.Error as error:
                if problem(error) != "accountDoesNotExist":
                    raise
                self._forget()
                return question()
        except (Refused, Stopped):
            raise
        except messages.Error as error:
            raise self._refused(error, kind, hosts) from None
        except errors.IssuanceError as error:
            raise self._refused(error.error, kind, hosts) from None
        except StartError as error:
            raise Refused(error.message) from None
        except requests.exceptions.SSLError as error:
            words = f"TLS with {self._host} fails; a private authority needs acme.ca ({clean(error)})"
            raise Refused(words) from None
        except (requests.exceptions.RequestException, OSError) as error:
            if not isinstance(error, requests.exceptions.RequestException) and error.filename is not None:
                raise Refused(f"{error.filename}: {error.strerror}") from None  # ours
            raise Refused(f"{self._host} cannot be reached ({reason(error)})") from None
        except (errors.Error, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._client = None
            answer = error.args[0] if error.args else None
            if isinstance(answer, requests.Response):
                raise Refused(f"{self._host} answers {answer.status_code} {clean(answer.reason)}".rstrip(), self._wait_told()) from None
            raise Refused(f"{self._host} answers what is not ACME ({type(error).__name__}: {clean(error)})") from None

    def _refused(self, error: messages.Error, kind: str, hosts: Sequence[str]) -> Refused:
        told = [each for each in error.subproblems or () if each.identifier is not None]
        about = told[0] if told else error
        code, detail = problem(about) or problem(error), about.detail or error.detail or error.title or ""
        if about.identifier is None and code == "unauthorized":  # not about a name: those that do not lead here fail with their challenge
            words = (
                f"the authority does not let our account do that ({clean(detail)}); without {self._store.path} it is asked for another one"
            )
            return Refused(words, self._wait_told())
        host = about.identifier.value if about.identifier is not None else hosts[0] if len(hosts) == 1 else ""
        return Refused(explain(code, detail, host, kind), self._wait_told())

    @property
    def _host(self) -> str:
        return f"the authority ({urlsplit(self._url).netloc})"


def account_name(url: str) -> str:
    """The directory of our account there."""
    host = "".join(each if each.isalnum() or each in ".-" else "-" for each in urlsplit(url).netloc.lower())
    return f"{host}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _must_fit(chain: bytes, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> None:
    """What was issued is what was asked for."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    if leaf.public_key() != key.public_key() or not {*hosts} <= {name.lower() for name in names}:
        raise NotAsked("the authority issued a certificate that was not asked for")


def _leaf(chain: bytes | None) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(chain or b"")[0]
    except ValueError:
        return None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _passes(error: Exception) -> bool:
    """Is it nothing that the order would be given up for?"""
    return isinstance(error, messages.Error) and problem(error) in PASSING
