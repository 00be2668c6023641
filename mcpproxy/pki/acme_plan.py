"""When is a certificate asked for, how is it shown that its names are ours, and what is said when that fails? Nothing here asks a clock, a disk or a network.

1. Renewal is at two thirds of life, a little earlier by chance, so that not everybody comes at once; at the moment the authority suggests where it does (ARI,
   RFC 9773).
2. A failure doubles the wait, up to LONGEST_WAIT (less where certificates live for days only); never shorter than the authority asks for (Retry-After). The
   certificate as it was serves to its end, and on.
3. Somebody is told of every failure, each day once little of its life is left, and at its end.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

DAY = 86_400.0
SOON = 14 * DAY  # before this much is left, everything should have been renewed long ago
LONGEST_WAIT = DAY / 2
STEPS = 24  # of its life: the longest wait for a certificate that lives less than 12 days; the last third of life should see eight tries
SHORTEST_LONGEST_WAIT = DAY / 24
LONGEST_TOLD = 7 * DAY  # of what an authority may ask for: its limits are counted by weeks
EARLIER = 0.05  # of its life: as much earlier than at two thirds a renewal may be by chance
JUMP_S = 60.0  # that much a clock is set back without anybody having to notice
LATEST = 1 / 12  # of its life
SAID = 300  # characters of what an authority says that are repeated


class Span(NamedTuple):
    """From when to when a certificate is valid (Unix time)."""

    begin: float
    end: float


class Story(msgspec.Struct):
    """What was tried for a certificate: kept beside it, so that a restart is not another try."""

    failures: int = 0  # in a row
    error: str = ""  # of the last one
    failed_at: float = 0.0
    not_before: float = 0.0  # nothing is tried earlier
    chance: float = 0.5  # of this certificate, from 0 to 1
    suggested: float = 0.0  # when the authority suggests to renew it; 0: it does not
    ask_at: float = 0.0  # when to ask it again
    challenge: str = ""  # of the last try
    warned_at: float = 0.0

    def failed(self, now: float, error: str, first: float, chance: float, told: float = 0.0, span: Span | None = None) -> None:
        """Rule 2. `first`: seconds to wait after the first failure; `chance` from 0 to 1; `told`: seconds that the authority asks for; `span`: of the present
        certificate."""
        self.failures = min(self.failures + 1, 1000)
        self.error, self.failed_at = error, now
        longest = min(max((span.end - span.begin) / STEPS, SHORTEST_LONGEST_WAIT), LONGEST_WAIT) if span is not None else LONGEST_WAIT
        wait = min(first * 2.0 ** min(self.failures - 1, 40), longest) * (0.8 + 0.4 * chance)
        self.not_before = now + max(wait, min(told, LONGEST_TOLD))

    def succeeded(self, chance: float) -> None:
        """A new certificate is there."""
        self.failures, self.error, self.failed_at, self.not_before = 0, "", 0.0, 0.0
        self.suggested = self.ask_at = self.warned_at = 0.0
        self.chance = chance


def suggested(begin: float, end: float, span: Span, chance: float) -> float:
    """The moment of a window that an authority suggests. Some are open until the certificate ends: as much as lies in the last LATEST of its life is left out,
    for a renewal may fail."""
    latest = max(min(end, span.end - (span.end - span.begin) * LATEST), begin)
    return begin + (latest - begin) * min(max(chance, 0.0), 1.0)


def renewal(span: Span, story: Story) -> float:
    """Rule 1, failures aside."""
    life = span.end - span.begin
    if 0 < story.suggested < span.end:
        return max(story.suggested, span.begin + min(DAY, life / 10))  # an authority that always says "now" is not asked without end
    return span.begin + life * (2 / 3 - EARLIER * min(max(story.chance, 0.0), 1.0))


def due(span: Span | None, story: Story, now: float) -> float:
    """When to ask for a certificate, the present one (None: there is none) being valid for `span`. A wait that the clock has jumped away from is none: one
    that began in what is now the future, too."""
    earliest = story.not_before if story.not_before - now <= LONGEST_TOLD and story.failed_at - now <= JUMP_S else 0.0
    return earliest if span is None else max(renewal(span, story), earliest)


def warns(span: Span, story: Story, now: float) -> bool:
    """Rule 3: is it time to tell how little is left? For one that lives for days only: in its last quarter."""
    little = min(SOON, (span.end - span.begin) / 4)
    return span.end - now < little and (not 0 <= now - story.warned_at < DAY or story.warned_at < span.end <= now)


def choose(configured: str, plain: bool, secure: bool, story: Story) -> str:
    """The kind of challenge for the next try. `plain`: there is a plain listener; `secure`: the listener with the names can be reached by TCP."""
    if configured != "auto":
        return configured
    if not (plain and secure):
        return "http-01" if plain else "tls-alpn-01"
    return "tls-alpn-01" if story.failures and story.challenge == "http-01" else "http-01"


def left(seconds: float) -> str:
    """How long that is, in words."""
    if seconds < 0:
        return "has expired"
    days = int(seconds // DAY)
    return "expires within a day" if days == 0 else f"expires in {days} day{'s' * (days != 1)}"


WORDS = {
    "dns": "the authority finds no address for {host}: does an A or AAAA record lead here?",
    "connection": "the authority cannot connect to {host} on port {port}: does its DNS lead here (AAAA, too), and is the port open?",
    "unauthorized": "somebody else answers for {host} on port {port}: does its DNS lead here (AAAA, too), and does nobody stand before us?",
    "incorrectResponse": "somebody else answers for {host} on port {port}: does its DNS lead here (AAAA, too), and does nobody stand before us?",
    "tls": "TLS with {host} on port {port} failed: does somebody before us end TLS?",
    "caa": "a CAA record of {host} does not allow this authority",
    "rateLimited": "the authority's limit is reached; it is asked again when it says",
    "rejectedIdentifier": "the authority does not sign for {host}",
    "externalAccountRequired": "the authority wants to know whose account this is: give acme.eab_key_id and acme.eab_hmac, which it hands out",
    "userActionRequired": "the authority wants something to be agreed to first",
    "invalidContact": "the authority does not take this email address",
    "unsupportedContact": "the authority does not take this email address",
    "serverInternal": "the authority has troubles of its own",
}


def explain(code: str, detail: str, host: str = "", challenge: str = "") -> str:
    """A failure in words: ours for what it usually means, then the authority's."""
    ours = WORDS.get(code, "the authority refuses").format(host=host or "a name", port=443 if challenge == "tls-alpn-01" else 80)
    said = "".join(each if each.isprintable() else " " for each in detail)[:SAID].strip()
    return f"{ours} ({said})" if said else ours


def told(text: str) -> Story:
    """A story as it was kept; a new one where it cannot be read."""
    try:
        return msgspec.json.decode(text, type=Story)
    except (ValueError, msgspec.MsgspecError):
        return Story()
