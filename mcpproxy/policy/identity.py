"""HOT where a statement is known. Who calls, said to the upstream in a way it can check: a JWT of a minute, signed with a key of our own.

   X-MCP-Identity: eyJ…     {"iss": "mcpproxy", "aud": "files", "sub": "agent-alpha", "auth": "keys", "roles": ["ops"], "iat": …, "exp": …}
   GET /.well-known/mcpproxy-jwks.json  ──▶  {"keys": [{"kty": "OKP", "crv": "Ed25519", …}]}

1. The key is made once and lives in the state directory, for nobody's eyes but ours (the store sees to that): all processes sign with it.
2. A statement is made once per caller and shown again for half its life, so an upstream whose clock is a little off still takes it. Hence no `jti`: it would
   be seen twice.
3. `sub` is the caller's name; names are only unique within one way to know callers, which is `auth`. A caller without a name has no statement.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key

from mcpproxy.config.policies import Identity
from mcpproxy.errors import StartError
from mcpproxy.http.head import RequestHead
from mcpproxy.http.replies import document
from mcpproxy.policy.resource import ALLOW, CORS
from mcpproxy.policy.verdict import Principal

FILE = "identity.key"  # in the state directory
PLACE = b"/.well-known/mcpproxy-jwks.json"
KEPT = 4096  # statements per upstream
as_json = msgspec.json.encode


class Safe(Protocol):
    """The state directory (pki/store)."""

    def read_secret(self, name: str) -> bytes | None: ...
    def write_secret(self, name: str, data: bytes) -> object: ...
    def locked(self) -> AbstractContextManager[None]: ...


class IdentityKey:
    """The key that signs, and what is published of it."""

    __slots__ = ("_key", "_start", "document", "id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = {
            "crv": "Ed25519",
            "kty": "OKP",
            "x": encoded(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode(),
        }
        self.id = encoded(sha256(as_json(public)).digest()).decode()  # RFC 7638, RFC 8037 appendix A.3: in this order, without blanks
        self.document = as_json({"keys": [{**public, "use": "sig", "alg": "EdDSA", "kid": self.id}]}) + b"\n"
        self._start = encoded(as_json({"alg": "EdDSA", "kid": self.id, "typ": "JWT"})) + b"."

    @classmethod
    def kept(cls, store: Safe) -> IdentityKey:
        """The key in the state directory, made if there is none. Raises StartError."""
        with store.locked():
            found = store.read_secret(FILE)
            if found is None:
                key = Ed25519PrivateKey.generate()
                store.write_secret(FILE, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
                return cls(key)
        try:
            key_found = load_pem_private_key(found, None)
        except (ValueError, TypeError):
            key_found = None
        if not isinstance(key_found, Ed25519PrivateKey):
            raise StartError(f"{FILE} in the state directory is no Ed25519 key in PEM", "delete it, and a new one is made")
        return cls(key_found)

    def sign(self, claims: dict[str, object]) -> bytes:
        """A JWT in its compact form. About 60 µs."""
        signed = self._start + encoded(as_json(claims))
        return signed + b"." + encoded(self._key.sign(signed))

    def find(self, head: RequestHead) -> Callable[[bool], bytes] | None:
        """Renders the answer to this head, if it asks for the published key."""
        if head.path != PLACE or head.method not in (b"GET", b"HEAD", b"OPTIONS"):
            return None
        if head.method == b"OPTIONS":
            return lambda close: document(b"", (ALLOW, *CORS, (b"Access-Control-Max-Age", b"86400")), close=close)
        fields, head_only = ((b"Cache-Control", b"max-age=300"), *CORS[:1]), head.method == b"HEAD"
        return lambda close: document(self.document, fields, close=close, head_only=head_only)


class Statement:
    """A caller's line, and when it was made."""

    __slots__ = ("line", "made")

    def __init__(self, line: bytes, made: float) -> None:
        self.line, self.made = line, made


class Statements:
    """What one upstream is told about callers."""

    __slots__ = ("_audience", "_fresh", "_identity", "_key", "_known", "_start")

    def __init__(self, upstream: str, identity: Identity, key: IdentityKey) -> None:
        self._identity, self._key = identity, key
        self._audience = identity.audience or upstream
        self._start = b"%b: " % identity.header.encode()
        self._fresh = identity.lifetime / 2
        self._known: dict[Principal, Statement] = {}

    def line(self, principal: Principal, now: float) -> bytes:
        """The field line that names this caller. `now` is Unix seconds."""
        known = self._known.get(principal)
        if known is not None and -self._fresh < now - known.made < self._fresh:
            return known.line
        identity = self._identity
        claims: dict[str, object] = {
            "iss": identity.issuer,
            "aud": self._audience,
            "sub": principal.name,
            "auth": principal.by,
            "iat": int(now),
            "exp": int(now) + max(1, int(identity.lifetime)),
        }
        if principal.roles:
            claims["roles"] = sorted(principal.roles)
        if principal.scopes:
            claims["scope"] = " ".join(sorted(principal.scopes))
        line = b"%b%b\r\n" % (self._start, self._key.sign(claims))
        self._known.pop(principal, None)
        if len(self._known) >= KEPT:
            del self._known[next(iter(self._known))]
        self._known[principal] = Statement(line, now)
        return line


def encoded(data: bytes) -> bytes:
    """base64url without padding (RFC 7515 §2)."""
    return urlsafe_b64encode(data).rstrip(b"=")
