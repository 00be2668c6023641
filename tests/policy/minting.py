"""Tokens good and bad, and key sets, without a server: what an attacker or a careless issuer would make.

mint(good(), key)                         a token as it should be
mint(good(exp=NOW - 60), key, kid=None)   one that is not; keyword arguments are of the header, None takes a member out
"""

import base64
import json
import warnings
from typing import Any

import msgspec
from joserfc.errors import SecurityWarning
from joserfc.jwk import Key
from joserfc.jws import JWSRegistry

from mcpproxy.config.policies import Auth
from mcpproxy.policy.jwks import KeySource
from mcpproxy.policy.verdict import Credential

NOW = 1_800_000_000.0
ISSUER = "https://login.example/tenant"
RESOURCE = "https://mcp.example/mcp"
AUTH = Auth(type="jwt", issuer=ISSUER)


def settings(**given: Any) -> Auth:
    return msgspec.structs.replace(AUTH, **given)


def good(**given: Any) -> dict[str, Any]:
    """The claims of a token that is accepted at NOW; a member given as None is left out."""
    claims = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": RESOURCE,
        "exp": NOW + 600,
        "iat": NOW - 5,
        "jti": "1",
        "scope": "files:read mail",
        **given,
    }
    return {name: value for name, value in claims.items() if value is not None}


def encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def signed_with(algorithm: str, data: bytes, key: Any) -> bytes:
    with warnings.catch_warnings(action="ignore", category=SecurityWarning):
        return JWSRegistry.algorithms[algorithm].sign(data, key)


def mint(claims: Any, key: Key, *, sign_as: str | None = None, **header: Any) -> bytes:
    """A signed token. `sign_as` signs by another algorithm than the header says."""
    said = {"alg": key.get("alg"), "typ": "at+jwt", "kid": key.kid, **header}
    said = {name: value for name, value in said.items() if value is not None}
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    data = encoded(json.dumps(said).encode()) + b"." + encoded(payload)
    return data + b"." + encoded(signed_with(sign_as or said["alg"], data, key))


def key_set(*keys: Key, **more: Any) -> bytes:
    return json.dumps({"keys": [{**key.as_dict(private=False), **more} for key in keys]}).encode()


def bearer(token: bytes) -> Credential:
    return Credential("bearer", token, b"authorization")


class Said:
    """What the operator was told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, level: str, text: str) -> None:
        self.lines.append((level, text))


class Publisher:
    """Where keys come from, without a network: counts, fails, and has a clock."""

    def __init__(self, *keys: Key) -> None:
        self.body: bytes | Exception = key_set(*keys) if keys else b""
        self.now = NOW
        self.asked = 0
        self.said = Said()
        self.source = KeySource("corp", self.load, self.said, now=lambda: self.now)

    async def load(self) -> bytes:
        self.asked += 1
        if isinstance(self.body, Exception):
            raise self.body
        return self.body

    def publish(self, *keys: Key) -> None:
        self.body = key_set(*keys)
