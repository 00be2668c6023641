"""Who calls in the works where callers must be known: a hundred keys, in each contender's own words, and a token whose issuer's key set is a file.

Our keys are made as `mcpproxy key add` makes them; the peers hold the same texts in a map.
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks import machine

CALLER = "agent-alpha"  # who calls; the others only fill the maps
CALLERS = 100
DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Callers:
    """What the one who calls may show."""

    key: str
    token: str
    issuer: Ed25519PrivateKey

    def another_token(self, number: int) -> str:
        """As good as `token`."""
        return _token(self.issuer, number)

    @property
    def by_key(self) -> str:
        """As a field line."""
        return f"X-API-Key: {self.key}"

    @property
    def by_token(self) -> str:
        """As a field line."""
        return f"Authorization: Bearer {self.token}"


def make_callers(directory: Path) -> Callers:
    """Files: keys.jsonl (ours), keys.nginx, keys.haproxy, jwks.json."""
    names = [CALLER, *(f"agent-{number}" for number in range(1, CALLERS))]
    keys = _ours(directory / "keys.jsonl", names) if machine.has_mcpproxy() else [f"mcpp_{secrets.token_hex(22)}" for _ in names]
    pairs = list(zip(keys, names, strict=True))
    (directory / "keys.nginx").write_text("".join(f'"{key}" "{name}";\n' for key, name in pairs))
    (directory / "keys.haproxy").write_text("".join(f"{key} {name}\n" for key, name in pairs))
    issuer = _issuer(directory / "jwks.json")
    return Callers(keys[0], _token(issuer, 0), issuer)


def _ours(file: Path, names: list[str]) -> list[str]:
    from mcpproxy.policy import keyring

    with keyring.changing(str(file)) as entries:
        return [keyring.add(entries, name, roles=(), now=time.time(), expires=None).text for name in names]


def _issuer(key_set: Path) -> Ed25519PrivateKey:
    """An authorization server, which publishes its key here."""
    key = Ed25519PrivateKey.generate()
    public = _base64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    key_set.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "1", "alg": "EdDSA", "use": "sig", "x": public}]}))
    return key


def _token(key: Ed25519PrivateKey, number: int) -> str:
    """A JWT (EdDSA) as an authorization server would issue it."""
    now = int(time.time())
    claims = {
        "iss": "https://login.example.com",
        "aud": "bench",
        "sub": CALLER,
        "iat": now,
        "nbf": now,
        "exp": now + DAY_S,
        "jti": str(number),
    }
    signed = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "EdDSA", "kid": "1", "typ": "at+jwt"}, claims))
    return f"{signed}.{_base64(key.sign(signed.encode()))}"


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
