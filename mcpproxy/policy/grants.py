"""HOT where a token is known. Access tokens that we show to an upstream: asked for at a token endpoint, kept until shortly before their end.

    line ── a token that is good ──▶ its field line                                         (a look-up)
      └─ else: failed a moment ago ──▶ ProxyError;  otherwise ──▶ Ask, and afterwards again

A token is for us (client credentials, RFC 6749 §4.4: the subject is empty) or for one caller (token exchange, RFC 8693: the subject is the caller's own
token, which must have been judged before).

 1. One question at a time per subject, however many wait, and no more than 64 at once.
 2. Our own token is renewed in the last quarter of its life, before anybody waits for it (`due`), while it is used at all. When that fails it serves on,
    to its end. Tokens of callers are asked for again when they are needed again.
 3. An endpoint that could not be reached is left alone for a few seconds, one whose answer was no use is not asked the same: 503 meanwhile. One that says
    no is not asked the same for ten: 502, or 403 where it was the caller whom it refused. Nothing else is ever shown instead.
 4. A token that the upstream did not take is forgotten, unless it is younger than ten seconds: so upstreams that take none make us ask little.
 5. What the endpoint answers is read strictly, and repeated nowhere: logs tell an error by its name in the RFCs.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from urllib.parse import urlencode

from mcpproxy.clock import unix
from mcpproxy.config.policies import Credential
from mcpproxy.errors import ProxyError, Side
from mcpproxy.net.fetch import Bounds, FetchError, fetch
from mcpproxy.policy.introspect import basic
from mcpproxy.policy.issuer import Fetch, json_object
from mcpproxy.policy.jwks import Say
from mcpproxy.policy.verdict import Ask, Question

FLYING = 64  # questions on their way; the others wait
KEPT = 4096  # tokens, and as many failures
LONGEST = 16 * 1024  # bytes of a token; upstreams take heads of 8 to 64 KiB
UNSAID_S = 300.0  # what a token is believed that does not say how long it lasts (RFC 6749 §5.1 only recommends it)
LONGEST_S = 86_400.0
MARGIN_S = 10.0  # before a token's end it is not used any more: requests are on their way for a while
COOL_S = 10.0  # between two questions nobody waits for; the youngest token an upstream's 401 makes us forget
UNREACHED_S, REFUSED_S = 3.0, 10.0
UNREACHED = frozenset({"name-unknown", "address-refused", "connect-failed", "tls-failed", "timeout"})  # kinds of FetchError: whoever asks
BOUNDS = Bounds(body=64 * 1024)

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - the name of a type
JWT = "urn:ietf:params:oauth:token-type:jwt"
ABOUT_US = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target"})
ABOUT_CALLER = frozenset({"invalid_request", "invalid_grant", "invalid_token", "access_denied"})  # RFC 8693 §2.2.2, and what servers say
is_token = re.compile(r"[!-~]+").fullmatch  # RFC 6749, appendix A.12, without blanks: it stands in a field


class Granted:
    """A token, as its field line. Times are Unix seconds; of two moments the distance counts, as clocks are set."""

    __slots__ = ("heard", "lasts", "line", "renew", "used")

    def __init__(self, line: bytes, heard: float, lasts: float) -> None:
        self.line, self.heard = line, heard
        self.lasts = lasts - min(MARGIN_S, lasts / 10)
        self.renew = lasts * 0.75
        self.used = False


class Failed:
    """Why there is none, and how long this is believed."""

    __slots__ = ("heard", "kind", "lasts", "status")

    def __init__(self, kind: str, status: int, heard: float, lasts: float) -> None:
        self.kind, self.status, self.heard, self.lasts = kind, status, heard, lasts


class Refusal(Exception):
    """The endpoint says no. `error` is OAuth's word, if it is one."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(f"the answer is {status}" + (f" {error}" if error else ""))
        self.error = error


def fetcher(credential: Credential) -> Fetch:
    """How the token endpoint may be asked."""
    return partial(fetch, private=credential.private, ca=credential.ca, bounds=BOUNDS)


class Grants:
    """What one upstream's token endpoint grants. `secret` is our client secret there."""

    __slots__ = (
        "_credential",
        "_exchange",
        "_failed",
        "_failing",
        "_fetch",
        "_flights",
        "_headers",
        "_known",
        "_name",
        "_now",
        "_say",
        "_seats",
        "_tried",
        "_unreached",
    )

    def __init__(self, name: str, credential: Credential, secret: str, fetch: Fetch, say: Say, now: Callable[[], float] = unix) -> None:
        self._name = name
        self._credential = credential
        self._exchange = credential.type == "token-exchange"
        self._headers: tuple[tuple[str, str], ...] = ()
        self.renew(secret)
        self._fetch, self._say, self._now = fetch, say, now
        self._known: dict[bytes, Granted] = {}
        self._failed: dict[bytes, Failed] = {}
        self._unreached: Failed | None = None
        self._flights: dict[bytes, asyncio.Future[None]] = {}
        self._seats = asyncio.Semaphore(FLYING)
        self._tried = float("-inf")
        self._failing = False

    def renew(self, secret: str) -> None:
        """Our client secret is this one from now on. Tokens that it got us are good to their end."""
        self._headers = (
            ("Accept", "application/json"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Authorization", basic(self._credential.client_id or "", secret)),
        )

    def line(self, subject: bytes, now: float) -> bytes | Ask | ProxyError:
        """The field line for this caller's token, or for ours (no subject)."""
        known = self._known.get(subject)
        if known is not None and -known.lasts < now - known.heard < known.lasts:
            known.used = True
            return known.line
        if subject not in self._flights:
            for failed in (self._failed.get(subject), self._unreached):
                if failed is not None and abs(now - failed.heard) < failed.lasts:
                    return ProxyError(failed.kind, Side.DOWNSTREAM if failed.status == 403 else Side.INTERNAL, failed.status)
        return Ask(self._question(subject))

    def due(self, now: float) -> Question | None:
        """What should be asked now, though nobody waits for it: at the start, and every few seconds."""
        if self._exchange or self._flights or abs(now - self._tried) < COOL_S:
            return None
        known = self._known.get(b"")
        if known is None:
            return self._question(b"") if self._tried == float("-inf") else None
        return self._question(b"") if known.used and abs(now - known.heard) >= known.renew else None

    def rejected(self, subject: bytes, now: float) -> None:
        """The upstream answered 401 to it."""
        known = self._known.get(subject)
        if known is not None and abs(now - known.heard) >= COOL_S:
            del self._known[subject]

    def _question(self, subject: bytes) -> Question:
        whose = f" for {sha256(subject).hexdigest()}" if subject else ""
        return Question(f"credential of upstream.{self._name}{whose}", lambda: self._ask(subject))

    async def _ask(self, subject: bytes) -> None:
        """Those who come meanwhile wait for the same answer, and it goes on when one of them leaves."""
        flight = self._flights.get(subject)
        if flight is None:
            flight = self._flights[subject] = asyncio.ensure_future(self._learn(subject))
            flight.add_done_callback(lambda _: self._flights.pop(subject, None))
        await asyncio.shield(flight)

    async def _learn(self, subject: bytes) -> None:
        heard = self._tried = self._now()
        try:
            async with self._seats:
                token, lasts = await self._grant(subject)
        except Refusal as refusal:
            if subject and refusal.error in ABOUT_CALLER:
                _remember(self._failed, subject, Failed("exchange-refused", 403, self._now(), REFUSED_S))
                self._known.pop(subject, None)
                return  # the endpoint works
            self._fails(subject, refusal, Failed("upstream-credential-refused", 502, self._now(), REFUSED_S))
        except (FetchError, ValueError) as error:
            failed = Failed("upstream-credential-unavailable", 503, self._now(), UNREACHED_S)
            if isinstance(error, FetchError) and error.kind in UNREACHED:
                self._unreached = failed
            self._fails(subject, error, failed)
        else:
            if self._failing:
                self._say("info", f"upstream.{self._name}.credential: tokens can be had again")
            self._failing, self._unreached = False, None
            self._failed.pop(subject, None)
            _remember(self._known, subject, Granted(b"Authorization: Bearer %b\r\n" % token.encode(), heard, lasts))

    def _fails(self, subject: bytes, error: Exception, failed: Failed) -> None:
        _remember(self._failed, subject, failed)
        if not self._failing:
            serves = "; the older token serves to its end" if not self._exchange and subject in self._known else ""
            self._say("warning", f"upstream.{self._name}.credential: no token from {self._credential.token_url}: {error}{serves}")
        self._failing = True

    async def _grant(self, subject: bytes) -> tuple[str, float]:
        """A new token and how long it lasts. Raises FetchError, Refusal, or ValueError for an answer that is none."""
        credential = self._credential
        form = {"grant_type": EXCHANGE if subject else "client_credentials"}
        if subject:
            form |= {"subject_token": subject.decode("ascii"), "subject_token_type": ACCESS_TOKEN, "requested_token_type": ACCESS_TOKEN}
        for name in ("scope", "resource", "audience"):
            value = getattr(credential, name)
            if value is not None:
                form[name] = value
        assert credential.token_url is not None, "config/check asks for it"
        answer = await self._fetch(credential.token_url, method="POST", body=urlencode(form).encode(), headers=self._headers)
        if answer.status in (400, 401, 403):
            raise Refusal(answer.status, error_in(answer.body))
        if answer.status != 200:
            raise ValueError(f"the answer is {answer.status}")
        return granted(answer.body, exchange=bool(subject))


def error_in(body: bytes) -> str:
    """OAuth's word for what is wrong, if the body says one we know."""
    try:
        error = json_object(body).get("error")
    except ValueError:
        return ""
    return error if isinstance(error, str) and error in ABOUT_US | ABOUT_CALLER else ""


def granted(body: bytes, *, exchange: bool) -> tuple[str, float]:
    """The token in a successful answer (RFC 6749 §5.1, RFC 8693 §2.2.1), and how long it lasts. Raises ValueError."""
    said = json_object(body)
    token, kind, lasts = said.get("access_token"), said.get("token_type"), said.get("expires_in", UNSAID_S)
    if not isinstance(token, str) or not 0 < len(token) <= LONGEST or not is_token(token):
        raise ValueError("the answer holds no token that can be shown")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise ValueError("the token is not a bearer token")
    if exchange and said.get("issued_token_type", ACCESS_TOKEN) not in (ACCESS_TOKEN, JWT):
        raise ValueError("the token is not an access token")
    if isinstance(lasts, str) and lasts.isascii() and lasts.isdigit() and len(lasts) <= 12:  # as some servers say it
        lasts = int(lasts)
    if isinstance(lasts, bool) or not isinstance(lasts, int | float) or not lasts > 0:
        raise ValueError("the token has ended, or does not say when it ends")
    return token, float(min(lasts, LONGEST_S))


def _remember(table: dict[bytes, Granted] | dict[bytes, Failed], subject: bytes, value: Granted | Failed) -> None:
    """As the newest; the oldest goes when there are too many."""
    table.pop(subject, None)
    if len(table) >= KEPT:
        del table[next(iter(table))]
    table[subject] = value  # type: ignore[assignment]
