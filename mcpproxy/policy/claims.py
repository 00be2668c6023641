"""What a token says of itself, whoever vouched for it: a signature (bearer) or the issuer's answer (introspect).

Everything that is needed must be there and of the right type: `iss` and `aud` exactly ours, `exp` in the future, `nbf` and `iat` not, no key it is
bound to (`cnf`: a token that is for the holder of a key, shown by somebody without it, is stolen), and a name for the caller.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from typing import Any
from unicodedata import is_normalized

from mcpproxy.config.policies import Auth
from mcpproxy.policy.resource import canonical
from mcpproxy.policy.verdict import Principal, Refused

NUMBER = (int, float)
LARGEST = sys.float_info.max  # JSON has larger whole numbers
NAME = 256  # characters; it goes to logs and perhaps to the upstream

Claims = Mapping[str, Any]


def invalid(kind: str) -> Refused:
    """401 with OAuth's `invalid_token`; the sentence to `kind` is in http/replies."""
    return Refused(kind)


@dataclass(frozen=True, slots=True)
class Believed:
    """A token that says the right things, and when it is good for anything."""

    principal: Principal
    since: float
    until: float


class Expected:
    """What tokens must say, by an [auth.NAME] and the URLs they must be for."""

    __slots__ = ("_auth", "_by", "_roles", "audience")

    def __init__(self, by: str, auth: Auth, audience: tuple[str, ...]) -> None:
        self._by = by
        self._auth = auth
        self._roles = frozenset(auth.roles)
        self.audience = frozenset(map(canonical, auth.audience or audience))

    def judge(self, claims: Claims, now: float, *, issuer: bool = True, end: bool = True, digest: str = "") -> Believed | Refused:
        """`issuer`, `end`: whether `iss` and `exp` must be there (an introspection answer may do without). `digest`: of the token, for its key id."""
        auth, skew = self._auth, self._auth.skew
        said_by = claims.get("iss")
        if (said_by is None and issuer) or (said_by is not None and auth.issuer is not None and said_by != auth.issuer):
            return invalid("token-issuer")
        times = [_moment(claims, name) for name in ("exp", "nbf", "iat")]
        if None in times or (end and "exp" not in claims):
            return invalid("token-claims")
        exp, nbf, iat = (time or 0.0 for time in times)
        until = exp + skew if "exp" in claims else inf
        since = max(nbf, iat) - skew
        if (refused := in_time(since, until, now)) is not None:
            return refused
        if self.audience.isdisjoint(map(canonical, words(claims.get("aud"), split=False))):
            return invalid("token-audience")
        if claims.get("cnf") is not None:
            return invalid("token-bound")
        name = lead(claims, auth.name_claim)
        if not isinstance(name, str) or not is_plain(name):
            return invalid("token-claims")
        roles = words(lead(claims, auth.roles_claim)) if auth.roles_claim else ()
        jti = claims.get("jti")
        principal = Principal(
            name=name,
            by=self._by,
            roles=self._roles.union(roles),
            scopes=frozenset((*words(claims.get("scope")), *words(claims.get("scp")))),
            scoped=True,
            key=sha256(f"{said_by}\0{jti}".encode("utf-8", "replace")).hexdigest()[:16] if isinstance(jti, str) and jti else digest[:16],
        )
        return Believed(principal, since, until)


def is_plain(name: str) -> bool:
    """A name that persons, logs and rules read in one way: nothing that does not print or turns the reading direction, no spaces around it, one form."""
    return 0 < len(name) <= NAME and name.isprintable() and name == name.strip() and is_normalized("NFC", name)


def in_time(since: float, until: float, now: float) -> Refused | None:
    """Is it good now?"""
    if now >= until:
        return invalid("token-expired")
    return invalid("token-not-yet-valid") if now < since else None


def _moment(claims: Claims, name: str) -> float | None:
    """A NumericDate; 0 when it is not there, None when it is something else."""
    value = claims.get(name, 0)
    return float(value) if isinstance(value, NUMBER) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def words(value: object, *, split: bool = True) -> tuple[str, ...]:
    """A list of texts, or a text: of words, or (`split=False`) one of its own. Whatever is no text is no word."""
    if isinstance(value, str):
        return tuple(value.split()) if split else (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def lead(claims: Claims, path: str) -> object:
    """The claim of this name, or, dots leading into it: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    found: object = claims
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found
