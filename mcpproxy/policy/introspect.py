"""HOT where an answer is remembered. Access tokens only their issuer can read (RFC 7662): it is asked once, and believed for a while.

1. An answer is remembered by the token's digest: `active` ones for `cache`, never past the token's own end; the others for ten seconds, in a table of
   their own, so that nobody can push good answers out with words of their own.
2. Each unknown token is a question, and who shows it pays for a vain one (policy/failures); one token is asked about once however many wait. At most
   32 questions are on their way and 256 wait; beyond it 503, as an issuer that drowns helps nobody. Tokens that were good the last time have 32 places of
   their own and never wait behind words that somebody made up.
3. An issuer that cannot be asked is not asked again for the same token for three seconds: 503. A remembered answer is not used longer for that.
4. The answer is judged like the claims of a signed token (policy/claims), `aud` included: a token for somebody else is active, too.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from mcpproxy.clock import unix
from mcpproxy.config.policies import Auth
from mcpproxy.net.fetch import FetchError
from mcpproxy.policy.apikey import PREFIX
from mcpproxy.policy.bearer import LONGEST, UNREACHABLE
from mcpproxy.policy.claims import Believed, Expected, in_time, invalid
from mcpproxy.policy.issuer import Fetch, Issuer, json_object
from mcpproxy.policy.jwks import Say
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Judgement, Payer, Question, Refused

ANSWERS = 4096  # of each kind
NO_S = 10.0  # how long "not active" is believed
UNREACHED_S = 3.0
FLYING, WAITING = 32, 256
is_token = re.compile(rb"[A-Za-z0-9._~+/-]+=*").fullmatch  # RFC 6750 §2.1
BEARER = (None, "bearer", "access_token")  # token_type as issuers say it


class Answer:
    """What the issuer said of an active token, and what the last authenticator that looked at it made of that."""

    __slots__ = ("accepted", "believed", "by", "claims", "heard")

    def __init__(self, claims: dict[str, Any], heard: float) -> None:
        self.claims = claims
        self.heard = heard
        self.by: Introspected | None = None
        self.believed: Believed
        self.accepted: Accepted


class Introspection:
    """What one issuer says of tokens, for all audiences. Times are Unix seconds, and of two moments the distance counts (as in jwks)."""

    __slots__ = (
        *(
            "_active",
            "_again",
            "_auth",
            "_failing",
            "_fetch",
            "_flights",
            "_headers",
            "_inactive",
            "_issuer",
            "_now",
            "_say",
            "_seats",
            "_unreached",
        ),
        "name",
    )

    def __init__(self, name: str, auth: Auth, secret: str | None, fetch: Fetch, say: Say, now: Callable[[], float] = unix) -> None:
        self.name = name
        self._auth = auth
        self._fetch = fetch
        self._headers: tuple[tuple[str, str], ...] = ()
        self.renew(secret)
        self._issuer = Issuer(auth.issuer, fetch) if auth.issuer is not None else None
        self._say = say
        self._now = now
        self._active: dict[bytes, Answer] = {}
        self._inactive: dict[bytes, float] = {}
        self._unreached: dict[bytes, float] = {}
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self._seats = asyncio.Semaphore(FLYING)
        self._again = asyncio.Semaphore(FLYING)  # for tokens that were good the last time
        self._failing = False

    def renew(self, secret: str | None) -> None:
        """Our client secret is this one from now on."""
        self._headers = (("Accept", "application/json"), ("Content-Type", "application/x-www-form-urlencoded"))
        if self._auth.client_id is not None:
            self._headers += (("Authorization", basic(self._auth.client_id, secret or "")),)

    def known(self, digest: bytes, now: float) -> Answer | None:
        """What the issuer said of this token, if that may still be believed."""
        found = self._active.get(digest)
        return found if found is not None and abs(now - found.heard) < self._auth.cache else None

    def unknown(self, token: bytes, digest: bytes, now: float, payer: Payer | None = None) -> Refused | Ask:
        """Nothing good is known of it: is anything else, may we ask?"""
        heard = self._inactive.get(digest)
        if heard is not None and abs(now - heard) < NO_S:
            return invalid("token-inactive")
        failed = self._unreached.get(digest)
        if failed is not None and abs(now - failed) < UNREACHED_S:
            return UNREACHABLE
        if digest not in self._flights:
            if digest in self._active:
                payer = None  # it was good a moment ago
            elif len(self._flights) >= WAITING:
                return UNREACHABLE
            if payer is not None and (broke := payer.broke(now)) is not None:
                return broke
        return Ask(Question(f"token {self.name} {digest.hex()}", lambda: self._ask(token, digest, payer)))

    async def _ask(self, token: bytes, digest: bytes, payer: Payer | None) -> None:
        """One question per token; it goes on when one of those who wait leaves."""
        flight = self._flights.get(digest)
        if flight is None:
            if payer is not None:
                payer.charge(self._now())
            flight = self._flights[digest] = asyncio.ensure_future(self._learn(token, digest, payer))
            flight.add_done_callback(lambda _: self._flights.pop(digest, None))
        await asyncio.shield(flight)

    async def _learn(self, token: bytes, digest: bytes, payer: Payer | None) -> None:
        try:
            async with self._again if digest in self._active else self._seats:
                claims = await self._introspect(token)
        except (FetchError, ValueError) as error:
            if not self._failing:
                self._say("warning", f"auth.{self.name}: tokens cannot be introspected: {error}")
            self._failing = True
            _remember(self._unreached, digest, self._now())
            if payer is not None:
                payer.refund()
            return
        if self._failing:
            self._say("info", f"auth.{self.name}: tokens can be introspected again")
        self._failing = False
        self._active.pop(digest, None)
        if claims is None:
            _remember(self._inactive, digest, self._now())
        else:
            self._inactive.pop(digest, None)
            if payer is not None:
                payer.refund()
            _remember(self._active, digest, Answer(claims, self._now()))

    async def _introspect(self, token: bytes) -> dict[str, Any] | None:
        """Ask. Raises FetchError, or ValueError for an answer that is none."""
        where = self._auth.introspection
        if where is None and self._issuer is not None:
            where = (await self._issuer.metadata()).introspection_endpoint
        if where is None:
            raise ValueError("the issuer's metadata name no introspection endpoint")
        form = urlencode({"token": token.decode("ascii"), "token_type_hint": "access_token"}).encode()
        answer = await self._fetch(where, method="POST", body=form, headers=self._headers)
        if answer.status != 200:
            raise ValueError(
                f"{where} answered {answer.status}" + (": are client_id and client_secret right?" if answer.status == 401 else "")
            )
        claims = json_object(answer.body)
        if not isinstance(claims.get("active"), bool):
            raise ValueError("the answer does not say whether the token is active")
        return claims if claims["active"] else None


class Introspected:
    """An [auth.NAME] of type introspection, for routes with this audience. Those with another audience have another, with the same `source`."""

    __slots__ = ("_cache", "_expected", "_source", "name")

    def __init__(self, name: str, auth: Auth, audience: tuple[str, ...], source: Introspection) -> None:
        self.name = name
        self._cache = auth.cache
        self._expected = Expected(name, auth, audience)
        self._source = source

    def judge(self, credential: Credential, now: float, payer: Payer | None = None) -> Judgement:
        """Who shows this token?"""
        token = credential.value
        if credential.scheme != "bearer" or token.startswith(PREFIX):
            return None  # one of our own keys is not told to an issuer
        if len(token) > LONGEST:
            return invalid("token-too-large")
        digest = sha256(token).digest()
        answer = self._source.known(digest, now)
        if answer is None:
            return self._source.unknown(token, digest, now, payer) if is_token(token) else invalid("token-malformed")
        if answer.by is not self and (refused := self._look(answer, digest, now)) is not None:
            return refused
        return in_time(answer.believed.since, answer.believed.until, now) or answer.accepted

    def _look(self, answer: Answer, digest: bytes, now: float) -> Refused | None:
        kind = answer.claims.get("token_type")
        if not (kind is None or isinstance(kind, str)) or (kind.lower() if kind else kind) not in BEARER:
            return invalid("token-type")
        believed = self._expected.judge(answer.claims, now, issuer=False, end=False, digest=digest.hex())
        if isinstance(believed, Refused):
            return believed
        answer.by, answer.believed = self, believed
        answer.accepted = Accepted(believed.principal, min(believed.until, answer.heard + self._cache))
        return None


Value = TypeVar("Value")


def _remember(table: dict[bytes, Value], digest: bytes, value: Value) -> None:
    """As the newest; the oldest goes when there are too many."""
    table.pop(digest, None)
    if len(table) >= ANSWERS:
        del table[next(iter(table))]
    table[digest] = value


def basic(client: str, secret: str) -> str:
    """Our own credentials as RFC 6749 §2.3.1 wants them: each form-encoded, then as HTTP's Basic. (A blank as `%20`: some servers decode no `+`; what
    most ids and secrets are made of is not encoded at all, for those that decode nothing.)"""
    return "Basic " + base64.b64encode(f"{quote(client, safe='')}:{quote(secret, safe='')}".encode()).decode()
