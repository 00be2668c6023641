"""What the `acme` library does not say, or says otherwise: under pki/acme, and known by nobody else.

1. A nonce that is refused costs another try and nothing else (RFC 8555 §6.5).
2. What the authority asks us to wait is remembered (Retry-After), in seconds or as a date.
3. An order names the certificate that it replaces (RFC 9773 §5) where the authority knows such things: where it offers `renewalInfo`. One that refuses such an
   order gets it again without: that the certificate is to be renewed does not hang on it.
4. Nobody sleeps here, and no clock on the wall is asked how long something took: who waits does so between two questions.
"""

from __future__ import annotations

import base64
import re
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests
from acme import challenges as kinds
from acme import client, errors, messages
from cryptography import x509
from josepy.json_util import field

from mcpproxy.clock import unix

INSIDES = re.compile(r"^\w+\(host=[^)]*\): |\[Errno -?\d+\] ")  # of the library's words
NONCES = 20  # refused in a row
OTHER_MATTERS = {
    "rateLimited",
    "accountDoesNotExist",
    "serverInternal",
    "badNonce",
    "userActionRequired",
    "externalAccountRequired",
}  # for rule 3


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
    """Rules 1 and 2."""

    wait = 0.0

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(NONCES):
            try:
                return self._post_once(*args, **kwargs)
            except messages.Error as error:
                if problem(error) != "badNonce":
                    raise
                self._nonces.clear()
        return self._post_once(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        response = super()._send_request(method, url, *args, **kwargs)
        self.wait = seconds(response)
        return response


class Replacement(messages.NewOrder):
    """RFC 9773 §5."""

    replaces: str = field("replaces", omitempty=True)


class Suggestion(NamedTuple):
    """When the authority would have a certificate renewed: at some moment of a window. Unix time."""

    begin: float = 0.0  # nothing is suggested
    end: float = 0.0
    ask_in: float = 0.0  # seconds until it wants to be asked again; 0: it does not say
    why: str = ""  # a page for people


class Client(client.ClientV2):
    """Rules 3 and 4."""

    def order(self, csr: bytes, hosts: list[str], old: x509.Certificate | None) -> messages.OrderResource:
        """A new one. `old`: the certificate that it is the renewal of."""
        name = certificate_id(old) if old is not None and self._knows_of_renewals() is not None else None
        if name is not None:
            try:
                return self._ordered(csr, hosts, name)
            except errors.ConflictError:  # alreadyReplaced, as it should be said
                pass
            except messages.Error as error:
                if problem(error) in OTHER_MATTERS:
                    raise
        return self._ordered(csr, hosts, None)

    def _ordered(self, csr: bytes, hosts: list[str], name: str | None) -> messages.OrderResource:
        identifiers = [messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=host) for host in hosts]
        asked = Replacement(identifiers=identifiers, replaces=name) if name is not None else messages.NewOrder(identifiers=identifiers)
        response = self._post(self.directory["newOrder"], asked)
        body = messages.Order.from_json(response.json())
        found = [self._authzr_from_response(self._post_as_get(url), uri=url) for url in body.authorizations]
        return messages.OrderResource(body=body, uri=response.headers.get("Location"), authorizations=found, csr_pem=csr)

    def look(self, uri: str) -> messages.Order:
        """How far is the order that was made there?"""
        found: messages.Order = messages.Order.from_json(self._post_as_get(uri).json())
        return found

    def finish(self, uri: str, order: messages.Order, csr: bytes) -> messages.Order:
        """All its names were seen to be ours: now sign."""
        whole = messages.OrderResource(body=order, uri=uri, authorizations=(), csr_pem=csr)
        body: messages.Order = self.begin_finalization(whole).body
        return body

    def fetch(self, url: str) -> str:
        """The chain, PEM."""
        return self._post_as_get(url).text

    def suggestion(self, leaf: x509.Certificate) -> Suggestion:
        """RFC 9773 §4."""
        name, place = certificate_id(leaf), self._knows_of_renewals()
        if name is None or place is None:
            return Suggestion()
        response = self.net.get(f"{place.rstrip('/')}/{name}")
        told = response.json()
        window = told["suggestedWindow"]
        begin, end = (datetime.fromisoformat(window[each]).timestamp() for each in ("start", "end"))
        if not begin < end:
            raise ValueError("its window is none")  # §4.2: as if nothing had been answered
        return Suggestion(begin, end, seconds(response), str(told.get("explanationURL") or ""))

    def _knows_of_renewals(self) -> str | None:
        found: str | None = getattr(self.directory, "renewalInfo", None)
        return found


def certificate_id(leaf: x509.Certificate) -> str | None:
    """RFC 9773 §4.1; None for one that does not say who signed it."""
    try:
        signer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except (x509.ExtensionNotFound, ValueError):
        return None
    if signer is None:
        return None
    number = leaf.serial_number
    parts = signer, number.to_bytes(number.bit_length() // 8 + 1, "big")  # DER has one bit more, for the sign
    return ".".join(base64.urlsafe_b64encode(each).decode().rstrip("=") for each in parts)


def seconds(response: requests.Response) -> float:
    """Of its Retry-After."""
    said = response.headers.get("Retry-After", "0")
    try:
        return float(said) if said.isdigit() else max(0.0, parsedate_to_datetime(said).timestamp() - unix())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def problem(error: messages.Error) -> str:
    """The last word of its type, if that is one of ACME's."""
    prefix, _, code = str(error.typ).rpartition(":")
    return code if prefix == "urn:ietf:params:acme:error" else ""


def reason(error: BaseException) -> str:
    """The innermost words."""
    while inner := [each for each in error.args if isinstance(each, BaseException)]:
        error = inner[-1]
    found = error.strerror if isinstance(error, OSError) and error.strerror else getattr(error, "reason", None) or error
    return clean(INSIDES.sub("", str(found)))


def clean(value: object) -> str:
    """What may be repeated."""
    return "".join(each if each.isprintable() else " " for each in str(value))[:200]
