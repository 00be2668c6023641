"""Asking an authority for a certificate (RFC 8555), by the `acme` library. It waits and it blocks: only for a thread of the control process.

   authority = Authority(url, store, contacts=["ops@example.com"]);  chain, key = authority.certificate(hosts, "http-01", challenges, pause)

1. The account's key is made once for each directory and kept. An authority that has forgotten the account gets it again, with the same key.
2. Every certificate has a new key. The answers to its challenges are files that workers show (pki/acme_files); they are taken away whatever happens.
3. Whatever goes wrong is a `Refused`, in words an operator can use, with the time the authority asks us to wait. Nothing secret is in it.
4. A nonce that is refused costs another try and nothing else (RFC 8555 §6.5).
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import requests
from acme import challenges as kinds
from acme import client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWKEC

from mcpproxy.clock import monotonic, unix
from mcpproxy.errors import StartError
from mcpproxy.pki.acme_files import Challenges
from mcpproxy.pki.acme_plan import explain
from mcpproxy.pki.store import Store

ANSWER_S = 30  # seconds an authority has for one answer
VALIDATION_S = 300.0  # and for looking at a name: it may ask from several places, one after the other
ISSUE_S = 180.0
NONCES = 20  # refused in a row
PENDING_S = 1.6  # until every worker knows of a challenge by TLS (pki/acme_files.Pending is looked at every half second)
POLL_S, LONGEST_POLL_S = 1.0, 30.0
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737 §3

Pause = Callable[[float], None]  # waits; raises Stopped when there is nobody to wait for any more


class Stopped(Exception):
    """The process ends."""


class Refused(Exception):
    """There is no certificate. `wait`: seconds the authority asks us to wait."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.message, self.wait = message, wait


class Issued(NamedTuple):
    """PEM."""

    chain: bytes
    key: bytes


@kinds.ChallengeResponse.register
class TlsAlpnResponse(kinds.KeyAuthorizationChallengeResponse):
    """`acme` 5.5 has no words for TLS-ALPN-01 any more; the protocol has (RFC 8737)."""

    typ = "tls-alpn-01"


@kinds.Challenge.register
class TlsAlpn(kinds.KeyAuthorizationChallenge):
    """The question."""

    response_cls = TlsAlpnResponse
    typ = "tls-alpn-01"

    def validation(self, account_key: Any, **_: Any) -> str:
        """What the authority will look for the digest of."""
        return self.key_authorization(account_key)


class Network(client.ClientNetwork):
    """Rule 4; and it remembers how long we were asked to wait."""

    wait = 0.0

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(NONCES):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if _code(error) != "badNonce":
                    raise
                self._nonces.clear()
        return self._post_once(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._send_request(method, url, *args, **kwargs)
        self.wait = _seconds(response)
        return response


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
        self._client: client.ClientV2 | None = None
        self._network: Network | None = None

    def certificate(self, hosts: Sequence[str], kind: str, answers: Challenges, pause: Pause) -> Issued:
        """A new one for these names. Raises Refused, Stopped."""
        return cast(Issued, self._asked(lambda: self._certificate(hosts, kind, answers, pause), kind))

    def suggestion(self, chain: bytes) -> tuple[float, float]:
        """When this certificate should be renewed (0: nothing is suggested), and when to ask again. Raises Refused."""

        def ask() -> object:
            return self._opened().renewal_time(x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.PEM))

        found, again = cast(tuple[datetime.datetime | None, datetime.datetime], self._asked(ask, ""))
        return found.timestamp() if found is not None else 0.0, again.timestamp()

    # -- who we are --------------------------------------------------------------------------------------------------------------------------

    def _opened(self) -> client.ClientV2:
        if self._client is None:
            key = self._key()
            network = Network(key, alg=ES256, user_agent=self._agent, timeout=ANSWER_S)
            if self._ca is not None:
                network.verify_ssl = cast(bool, self._ca)  # what `requests` takes as well: a file of authorities
            self._network = network
            made = client.ClientV2(client.ClientV2.get_directory(self._url, network), network)
            self._join(made, network, key)
            self._client = made
        return self._client

    def _key(self) -> JWKEC:
        kept = self._store.read_secret("key.pem")
        if kept is None:
            made = ec.generate_private_key(ec.SECP256R1())
            kept = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._store.write_secret("key.pem", kept)
        try:
            return JWKEC(key=load_pem_private_key(kept, None))
        except (ValueError, TypeError):
            raise Refused(f"{self._store.path / 'key.pem'}: this account key cannot be read") from None

    def _join(self, made: client.ClientV2, network: Network, key: JWKEC) -> None:
        """Our account, as it was kept; else by its key; else a new one."""
        kept = self._kept()
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
            email=",".join(self._contacts), terms_of_service_agreed=True, external_account_binding=binding
        )
        try:
            uri = made.new_account(asked).uri
        except errors.ConflictError as known:
            uri = known.location
            network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
            made.update_registration(network.account, messages.Registration.from_data(email=",".join(self._contacts)))
        except messages.Error as error:
            if self._eab is not None and _code(error) in ("unauthorized", "malformed", "externalAccountRequired", ""):
                words = f"the authority does not take acme.eab_key_id and acme.eab_hmac ({_clean(error.detail)})"
                raise Refused(words, network.wait) from None
            raise
        network.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
        self._store.write("account.json", json.dumps({"directory": self._url, "uri": uri, "contacts": self._contacts}).encode())

    def _kept(self) -> Any:
        try:
            found = json.loads(self._store.read("account.json") or b"")
            return found if found["directory"] == self._url and isinstance(found["uri"], str) and "contacts" in found else None
        except (ValueError, KeyError, TypeError):
            return None

    def _forget(self) -> None:
        self._store.write("account.json", b"{}")
        self._client = None

    # -- a certificate -----------------------------------------------------------------------------------------------------------------------

    def _certificate(self, hosts: Sequence[str], kind: str, answers: Challenges, pause: Pause) -> Issued:
        made = self._opened()
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
        asked = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
        order = made.new_order(asked.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
        try:
            self._show_names(made, order, kind, answers, pause)
        finally:
            answers.clear()
        deadline = datetime.datetime.fromtimestamp(unix() + ISSUE_S)
        chain = made.finalize_order(order, deadline).fullchain_pem.encode()
        _must_fit(chain, key, hosts)
        return Issued(chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def _show_names(self, made: client.ClientV2, order: messages.OrderResource, kind: str, answers: Challenges, pause: Pause) -> None:
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

    def _wait(self, made: client.ClientV2, authorization: Any, kind: str, deadline: float, pause: Pause) -> None:
        host = authorization.body.identifier.value
        while True:
            authorization, response = made.poll(authorization)
            if authorization.body.status == messages.STATUS_VALID:
                return
            if authorization.body.status != messages.STATUS_PENDING:
                failed = [each.error for each in authorization.body.challenges if each.error is not None]
                code, detail = (_code(failed[0]), failed[0].detail or "") if failed else ("", f"{host}: {authorization.body.status.name}")
                raise Refused(explain(code, detail, host, kind))
            if monotonic() >= deadline:
                raise Refused(f"the authority did not come to an end about {host} in {VALIDATION_S / 60:.0f} minutes")
            pause(min(max(POLL_S, _seconds(response)), LONGEST_POLL_S))

    # -- what goes wrong ---------------------------------------------------------------------------------------------------------------------

    def _asked(self, question: Callable[[], object], kind: str) -> object:
        """Rule 3; and rule 1: once more, when the authority has forgotten us."""
        try:
            try:
                return question()
            except messages.Error as error:
                if _code(error) != "accountDoesNotExist":
                    raise
                self._forget()
                return question()
        except (Refused, Stopped):
            raise
        except messages.Error as error:
            raise self._refused(error, kind) from None
        except errors.IssuanceError as error:
            raise self._refused(error.error, kind) from None
        except errors.TimeoutError:
            raise Refused("the authority did not issue the certificate in time") from None
        except StartError as error:
            raise Refused(error.message) from None
        except requests.exceptions.SSLError as error:
            words = f"TLS with {self._host} fails; a private authority needs acme.ca ({_clean(error)})"
            raise Refused(words) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise Refused(f"{self._host} cannot be reached ({_reason(error)})") from None
        except (errors.Error, JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._client = None
            raise Refused(f"{self._host} answers what is not ACME ({type(error).__name__}: {_clean(error)})") from None

    def _refused(self, error: messages.Error, kind: str) -> Refused:
        told = [each for each in error.subproblems or () if each.identifier is not None]
        about = told[0] if told else error
        host = about.identifier.value if about.identifier is not None else ""
        code = _code(about) or _code(error)
        return Refused(
            explain(code, about.detail or error.detail or error.title or "", host, kind), self._network.wait if self._network else 0.0
        )

    @property
    def _host(self) -> str:
        return f"the authority ({urlsplit(self._url).netloc})"


def account_name(url: str) -> str:
    """The directory of our account there."""
    host = "".join(each if each.isalnum() or each in ".-" else "-" for each in urlsplit(url).netloc.lower())
    return f"{host}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def challenge_certificate(host: str, proof: str) -> bytes:
    """The certificate, and its key, by which a validator sees that `host` is ours (RFC 8737 §3)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.fromtimestamp(unix(), datetime.UTC)
    digest = b"\x04\x20" + hashlib.sha256(proof.encode()).digest()  # an OCTET STRING of 32 bytes
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _must_fit(chain: bytes, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> None:
    """What was issued is what was asked for."""
    leaf = x509.load_pem_x509_certificates(chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    if leaf.public_key() != key.public_key() or not {*hosts} <= {name.lower() for name in names}:
        raise Refused("the authority issued a certificate that was not asked for")


def _seconds(response: requests.Response) -> float:
    """Of its Retry-After."""
    said = response.headers.get("Retry-After", "0")
    try:
        return float(said) if said.isdigit() else max(0.0, parsedate_to_datetime(said).timestamp() - unix())
    except ValueError:
        return 0.0


def _code(error: messages.Error) -> str:
    """The last word of its type, if that is one of ACME's."""
    prefix, _, code = str(error.typ).rpartition(":")
    return code if prefix == "urn:ietf:params:acme:error" else ""


def _reason(error: BaseException) -> str:
    """The innermost words."""
    while isinstance(error, requests.exceptions.RequestException | OSError) and error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    return _clean(getattr(error, "reason", None) or error)


def _clean(value: object) -> str:
    return "".join(each if each.isprintable() else " " for each in str(value))[:200]
