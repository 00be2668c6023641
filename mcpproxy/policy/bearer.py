"""HOT where a token is known. Access tokens that are signed (RFC 9068, RFC 7519): who signed this, and may we believe it?

   judge ── known token, key still published ──▶ Accepted                                  (a digest and a look-up)
     └─ else: shape → algorithm → type → claims → key → signature ──▶ Accepted, remembered

1. Only the configured algorithms, all asymmetric; `none` and HMAC are not among those that can be configured. The key decides too: it must be of the
   algorithm's type and curve (policy/jwks). Keys, certificates and URLs that a token brings along (`jwk`, `x5c`, `jku`, `x5u`) are never looked at.
2. A header that says something must be understood (`crit`, `b64`, `zip`, `enc`) is refused: we understand none of these in a JWT.
3. Nothing is parsed above 16 KiB. Claims are looked at before the signature, so that tokens of others cost no signature and no question.
4. A token is remembered by its digest, with the key that signed it. When that key is not published any more, the token is nothing any more.
5. What was refused is not remembered: refusals are cheap but for wrong signatures, which their sender pays for (policy/failures), and nobody can push
   good tokens out by sending bad ones.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from hashlib import sha256
from typing import Any

from mcpproxy.config.policies import Auth
from mcpproxy.policy.claims import Believed, Expected, in_time, invalid
from mcpproxy.policy.issuer import json_object
from mcpproxy.policy.jwks import Key, KeySource
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Judgement, Payer, Refused

LONGEST = 16 * 1024  # bytes of a token; a head holds 32 KiB at most
TOKENS = 4096  # remembered
WITHOUT_KID = 4  # keys tried for a token that names none; each costs a verification
TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
NOT_UNDERSTOOD = ("crit", "b64", "zip", "enc")
UNREACHABLE = Refused("issuer-unreachable", 503, "", "")

three_parts = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch


class Known:
    """A token whose signature was found good."""

    __slots__ = ("accepted", "believed", "thumbprint")

    def __init__(self, believed: Believed, thumbprint: str) -> None:
        self.believed = believed
        self.thumbprint = thumbprint
        self.accepted = Accepted(believed.principal, 0.0)


class Bearer:
    """An [auth.NAME] of type jwt, for routes with this audience. Those with another audience have another, with the same `keys`."""

    __slots__ = ("_algorithms", "_expected", "_keys", "_known", "name")

    def __init__(self, name: str, auth: Auth, audience: tuple[str, ...], keys: KeySource) -> None:
        self.name = name
        self._keys = keys
        self._algorithms = frozenset(auth.algorithms) | ({"Ed25519"} if "EdDSA" in auth.algorithms else frozenset())
        self._expected = Expected(name, auth, audience)
        self._known: dict[bytes, Known] = {}

    def judge(self, credential: Credential, now: float, payer: Payer | None = None) -> Judgement:
        """Who shows this token? None: it is no JWT."""
        token = credential.value
        if credential.scheme != "bearer":
            return None
        if len(token) > LONGEST:
            return invalid("token-too-large")
        digest = sha256(token).digest()
        known = self._known.get(digest)
        if known is not None:
            keys = self._keys.keys(now)
            if keys is not None and known.thumbprint in keys.thumbprints:
                return in_time(known.believed.since, known.believed.until, now) or self._accept(known, now)
            del self._known[digest]
        if token.count(b".") != 2:
            return None
        return self._first(token, digest, now, payer)

    def _accept(self, known: Known, now: float) -> Accepted:
        """Until it ends, or until somebody should look whether its key is still published."""
        until = min(known.believed.until, self._keys.settled(now))
        if until != known.accepted.until:
            known.accepted = Accepted(known.believed.principal, until)
        return known.accepted

    def _first(self, token: bytes, digest: bytes, now: float, payer: Payer | None) -> Judgement:
        """A token nobody has seen yet."""
        try:
            header, claims, signature = taken_apart(token)
        except ValueError:
            return invalid("token-malformed")
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            return invalid("token-algorithm")
        if not (kid is None or isinstance(kid, str)) or any(name in header for name in NOT_UNDERSTOOD):
            return invalid("token-malformed")
        if not is_access_token(header, claims):
            return invalid("token-type")
        believed = self._expected.judge(claims, now, digest=digest.hex())
        if isinstance(believed, Refused):
            return believed
        key = self._signer(token, signature, algorithm, kid, now, payer)
        if not isinstance(key, Key):
            return key
        if len(self._known) >= TOKENS:
            del self._known[next(iter(self._known))]
        self._known[digest] = known = Known(believed, key.thumbprint)
        return self._accept(known, now)

    def _signer(
        self, token: bytes, signature: bytes, algorithm: str, kid: str | None, now: float, payer: Payer | None
    ) -> Key | Refused | Ask:
        """The key that signed it."""
        source = self._keys
        keys = source.keys(now)
        if keys is None:
            return Ask(source.question) if source.may_ask_about(kid, now) else UNREACHABLE
        named = keys.named(kid)
        fit = [key for key in named if algorithm in key.algorithms]
        signed = token[: token.rindex(b".")]
        tried = fit[: WITHOUT_KID if kid is None else None]
        if tried and payer is not None and (broke := payer.broke(now)) is not None:
            return broke
        for key in tried:
            if key.verifies(algorithm, signed, signature):
                return key
        if tried and payer is not None:
            payer.charge(now, len(tried))
        if (kid is None or not named) and source.may_ask_about(kid, now):
            return Ask(source.question)  # the keys may have changed
        return invalid("token-key-unknown" if not named else "token-signature" if fit else "token-algorithm")


def taken_apart(token: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Header, claims, signature of a JWS in its compact form (RFC 7515 §3.1). Raises ValueError."""
    parts = three_parts(token)
    if parts is None:
        raise ValueError("not three parts in base64url")
    header, claims, signature = map(decoded, parts.groups())
    return json_object(header), json_object(claims), signature


def decoded(text: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2), in its one canonical form: no two texts are the same token."""
    if (
        len(text) % 4 == 1
        or (len(text) % 4 == 2 and text[-1:] not in b"AQgw")
        or (len(text) % 4 == 3 and text[-1:] not in b"AEIMQUYcgkosw048")
    ):
        raise ValueError("not base64url")
    return urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def is_access_token(header: dict[str, Any], claims: dict[str, Any]) -> bool:
    """Not an ID token, a refresh token, or a grant that is redeemed elsewhere (`oauth-id-jag+jwt`), which their issuers sign with the same keys."""
    said = header.get("typ", "JWT")
    if not isinstance(said, str) or said.lower() not in TYPES:
        return False
    kind, use = claims.get("typ"), claims.get("token_use")  # how Keycloak and Cognito tell them apart
    return not ("at_hash" in claims or "c_hash" in claims or kind in ("ID", "Refresh", "Offline", "Logout") or use in ("id", "refresh"))
