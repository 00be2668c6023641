"""The keys an issuer signs with: read carefully, kept while they are good, asked for again when they may have changed.

1. A key set is bytes of others: at most 256 KiB, 64 keys, RSA keys of 2048 to 8192 bits with a small exponent, the curves of the algorithms we know.
   A key that is not understood, or not for signatures, is passed over (RFC 7517 §5); only its public members are looked at. Symmetric keys never count.
2. A key verifies only the algorithms of its type and curve, and only the one it names, if it names one.
3. Keys are asked for again every few minutes, before anybody waits for them, so a key that was withdrawn is gone soon. While the issuer cannot be
   asked, the older keys serve, for a day.
4. A key id nobody knows may be a new key, or made up. It makes us ask, but at most once in ten seconds for one id, and beyond that a few times a minute
   for all: so a made-up one does not keep a new key waiting, and many of them cost little.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from joserfc.jwk import Key as JoseKey
from joserfc.jws import JWSRegistry

from mcpproxy.clock import unix
from mcpproxy.config.policies import Auth
from mcpproxy.net.fetch import FetchError
from mcpproxy.policy.issuer import Fetch, Issuer, json_object
from mcpproxy.policy.verdict import Question

FRESH_S = 300.0  # keys are asked for again after this, unless configured (`refresh`): how long a withdrawn key works at most
FRESH_FILE_S = 10.0
STALE_S = 86_400.0  # and thrown away after this, when nobody could be asked
COOL_S = 10.0  # between two questions, whatever the reason
ABOUT, ABOUT_S = 6, 60.0  # but for so many unknown key ids in this time: each of them is asked about at once
LARGEST = 256 * 1024  # bytes of a key set
KEYS = 64
KID = 512  # characters

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
ALGORITHMS_OF: Mapping[tuple[str, str], frozenset[str]] = {
    ("RSA", ""): RSA,
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA", "Ed25519"}),  # the second is the newer name (RFC 9864)
}
MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class Key:
    """One public key and what it may verify."""

    __slots__ = ("_key", "algorithms", "kid", "thumbprint")

    def __init__(self, key: JoseKey, kid: str | None, algorithms: frozenset[str]) -> None:
        self._key = key
        self.kid = kid
        self.algorithms = algorithms
        self.thumbprint = key.thumbprint()

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Did this key sign it so?"""
        if algorithm not in self.algorithms:
            return False
        try:
            return JWSRegistry.algorithms[algorithm].verify(signed, signature, self._key)
        except (JoseError, ValueError):
            return False


class KeySet:
    """The keys of one document. Never changes."""

    __slots__ = ("keys", "thumbprints")

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self.thumbprints = frozenset(key.thumbprint for key in keys)

    def named(self, kid: str | None) -> tuple[Key, ...]:
        """The keys of this id; all, where a token names none."""
        return self.keys if kid is None else tuple(key for key in self.keys if key.kid == kid)


def read(body: bytes) -> KeySet:
    """A JWK Set (RFC 7517 §5). Raises ValueError when it is none, or holds no key that can be used."""
    if len(body) > LARGEST:
        raise ValueError(f"more than {LARGEST} bytes")
    members = json_object(body).get("keys")
    if not isinstance(members, list):
        raise ValueError("no list of keys")
    if len(members) > KEYS:
        raise ValueError(f"more than {KEYS} keys")
    keys = tuple(key for member in members if (key := _key(member)) is not None)
    if not keys:
        raise ValueError("no key in it can be used for signatures")
    return KeySet(keys)


def _key(said: object) -> Key | None:
    if not isinstance(said, dict):
        return None
    kind, curve, kid, named, operations = (said.get(name) for name in ("kty", "crv", "kid", "alg", "key_ops"))
    if said.get("use", "sig") != "sig" or (operations is not None and not (isinstance(operations, list) and "verify" in operations)):
        return None
    if not isinstance(kind, str) or kind not in MEMBERS or not isinstance(named, str | None):
        return None
    if not isinstance(kid, str | None) or len(kid or "") > KID:
        return None
    fit = ALGORITHMS_OF.get((kind, curve if kind != "RSA" and isinstance(curve, str) else ""), frozenset())
    if named is not None:
        fit = frozenset() if named not in fit else ALGORITHMS_OF["OKP", "Ed25519"] if kind == "OKP" else frozenset({named})
    if not fit or (kind == "RSA" and not _good_rsa(said)):
        return None
    try:
        key = JWKRegistry.import_key({"kty": kind, **{name: said[name] for name in MEMBERS[kind]}})
        _ = key.public_key  # made now, so that a point off its curve is found now
        return Key(key, kid, fit)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        return None


def _good_rsa(said: dict[str, Any]) -> bool:
    """2048 to 8192 bits, and an exponent that makes verifying cheap: it is others who choose them, and we who compute."""
    n, e = said.get("n"), said.get("e")
    if not (isinstance(n, str) and isinstance(e, str) and len(n) <= 1400 and len(e) <= 8):
        return False
    try:
        modulus, exponent = (int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big") for text in (n, e))
    except ValueError:
        return False
    return 2048 <= modulus.bit_length() <= 8192 and modulus & 1 == 1 and 3 <= exponent < 1 << 33 and exponent & 1 == 1


# -- where they come from -----------------------------------------------------------------------------------------------------------------------

Load = Callable[[], Awaitable[bytes]]
Say = Callable[[str, str], None]


def from_file(path: str) -> Load:
    """A key set of the operator."""

    def look() -> bytes:
        with Path(path).open("rb") as file:
            return file.read(LARGEST + 1)

    async def load() -> bytes:
        try:
            return await asyncio.to_thread(look)
        except OSError as error:
            raise FetchError("bad-response", f"{path}: {error.strerror}") from None

    return load


def from_url(url: str | None, issuer: Issuer, fetch: Fetch) -> Load:
    """A key set at `url`, or where the issuer says it is."""

    async def load() -> bytes:
        where = url or (await issuer.metadata()).jwks_uri
        if where is None:
            issuer.doubt()
            raise FetchError("bad-response", f"the metadata of {issuer.url} name no key set")
        try:
            answer = await fetch(where, headers=(("Accept", "application/jwk-set+json, application/json"),))
            if answer.status != 200:
                raise FetchError("bad-response", f"{where} answered {answer.status}")
        except FetchError:
            issuer.doubt()
            raise
        return answer.body

    return load


def key_source(name: str, auth: Auth, fetch: Fetch, say: Say) -> KeySource:
    """The keys of an [auth.NAME] of type jwt."""
    if auth.jwks is not None and auth.jwks.startswith("file:"):
        return KeySource(name, from_file(auth.jwks.removeprefix("file:")), say, fresh=FRESH_FILE_S)
    assert auth.issuer is not None, "config/check asks for it"
    return KeySource(name, from_url(auth.jwks, Issuer(auth.issuer, fetch), fetch), say, fresh=auth.refresh)


class KeySource:
    """The present keys, and when to ask for others.

    Times are Unix seconds. `now` may be a little behind (the edge's clock ticks); a clock that was set back makes us ask, not wait: so the distance of
    two moments counts, in either direction."""

    __slots__ = (
        "_about",
        "_flight",
        "_fresh",
        "_keys",
        "_load",
        "_loaded",
        "_now",
        "_say",
        "_tried",
        "_wanted",
        "failing",
        "name",
        "question",
    )

    def __init__(self, name: str, load: Load, say: Say, *, fresh: float = FRESH_S, now: Callable[[], float] = unix) -> None:
        self.name = name
        self._load = load
        self._say = say
        self._fresh = fresh
        self._now = now
        self._keys: KeySet | None = None
        self._loaded = self._tried = float("-inf")
        self._flight: asyncio.Future[None] | None = None
        self._about: dict[str, float] = {}  # key ids nobody knew, and when they made us ask
        self._wanted = False  # for the sake of one of them it is about to be asked
        self.failing = False
        self.question = Question(f"keys of {name}", self._ask)

    def keys(self, now: float) -> KeySet | None:
        """What may be believed now."""
        return self._keys if abs(now - self._loaded) < STALE_S else None

    def may_ask(self, now: float) -> bool:
        """Is it long enough since we asked (or are we asking right now, so that one can wait for it)?"""
        return self._flight is not None or self._wanted or abs(now - self._tried) >= COOL_S

    def may_ask_about(self, kid: str | None, now: float) -> bool:
        """The same for the sake of a key id that is not among the keys, if there is one. Counts it."""
        if kid is None or self._flight is not None:
            return self.may_ask(now)
        about = self._about = {each: when for each, when in self._about.items() if abs(now - when) < ABOUT_S}
        if not self.may_ask(now):
            asked = abs(now - about.get(kid, float("-inf"))) < COOL_S  # the keys have come since
            if asked or self.failing or len(about) >= ABOUT:
                return False
            self._wanted = True
        about[kid] = now
        return True

    def due(self, now: float) -> Question | None:
        """What should be asked now, though nobody waits for it. Ask this every few seconds, and at the start."""
        return self.question if abs(now - self._loaded) >= self._fresh and self._flight is None and self.may_ask(now) else None

    def settled(self, now: float) -> float:
        """Until when what these keys say need not be asked again: the next time they are loaded, and a little for the loading."""
        return max(self._loaded + self._fresh, now) + 2 * COOL_S

    async def _ask(self) -> None:
        """Load them; those who come meanwhile wait for the same loading, and it goes on when one of them leaves."""
        if self._flight is None:
            self._wanted = False
            self._flight = asyncio.ensure_future(self._refresh())
            self._flight.add_done_callback(self._landed)
        await asyncio.shield(self._flight)

    def _landed(self, _: asyncio.Future[None]) -> None:
        self._flight = None

    async def _refresh(self) -> None:
        self._tried = self._now()
        try:
            self._keys = read(await self._load())
        except (FetchError, ValueError) as error:
            if not self.failing:
                serve = "; the older keys serve" if self._keys is not None else ""
                self._say("warning", f"auth.{self.name}: the key set cannot be had: {error}{serve}")
            self.failing = True
        else:
            if self.failing:
                self._say("info", f"auth.{self.name}: the key set is there again")
            self.failing = False
            self._loaded = self._now()
        finally:
            self._tried = self._now()
