"""Is an endpoint worth trying? A circuit breaker for each: closed (yes), open (no, until a moment), half-open (a few calls may find out).

Pure: it is told what happened and when, and knows no clock, socket or neighbour.

Two kinds of trouble. **Hard**: nobody could be reached there; it opens at once and closes when somebody is. **Soft**: it answers badly (a status that
counts, a reset, silence past its time); that many within the window and in that share of its calls, and only while the pool can spare it (`spared`).

It is never stuck: an open time has an end, and while it is half-open the right to try comes again by time, whatever became of those who had it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"
LONGEST_S = 60.0  # seconds: the open time doubles up to here
JITTER = 0.2  # of the open time, added at random, so that workers and proxies do not come back all at once
LAST_RESORT_S = 0.5  # seconds between two tries of an endpoint that could not be reached, when there is nobody else
LEAST_TRIAL_S = 1.0  # seconds that half-open calls have before others may try, at the least


@dataclass(frozen=True, slots=True)
class Rules:
    """When soft trouble opens (configuration: upstream.breaker), and what comes after it."""

    failures: int = 5  # within the window; 0: soft trouble is not counted
    window: float = 10.0
    share: float = 0.5  # of the calls begun within the window
    statuses: frozenset[int] = frozenset({500, 502, 503, 504})
    probes: int = 1  # calls that may try at once while it is half-open
    max_ejected: float = 0.5  # of the endpoints may be open by soft trouble
    slow_start: float = 10.0  # seconds in which one that came back gets its full share again


RULES = Rules()


class Breaker:
    """One endpoint's. `first`: seconds of the first open time; 0: trouble of the hard kind does not open it."""

    __slots__ = (
        "_closed_at",
        "_failures",
        "_granted",
        "_leases",
        "_length",
        "_random",
        "_since",
        "_tried",
        "first",
        "hard",
        "opens",
        "rules",
        "state",
        "until",
        "why",
    )

    def __init__(self, rules: Rules, first: float, uniform: Callable[[], float] = random.random) -> None:
        self.rules, self.first, self._random = rules, first, uniform
        self.state = CLOSED
        self.hard = False  # it is not closed because nobody could be reached
        self.until = 0.0  # when the open time ends; half-open: when others may try
        self.opens = 0  # in a row: each open time is twice as long as the one before
        self.why = ""  # what opened it, the last time
        self._length = 0.0  # of the present or last open time, in seconds
        self._closed_at = float("-inf")
        self._tried = float("-inf")  # when somebody last tried in vain, or was allowed to try
        self._since = float("-inf")  # the window of soft trouble: when it began, how often the endpoint had been leased, trouble since
        self._leases = self._failures = 0
        self._granted = 0

    # -- what happened ---------------------------------------------------------------------------------------------------------------------

    def unreachable(self, now: float, why: str) -> bool:
        """Nobody was there. True: that opened it (again)."""
        self._tried = now
        if self.state == OPEN:
            self.hard = True
            return False
        if self.first <= 0:
            return False
        self._open(now, why, hard=True)
        return True

    def failed(self, now: float, leases: int, why: str, *, spared: bool) -> bool:
        """A call went wrong; the endpoint was leased `leases` times so far. `spared`: the pool can do without it. True: that opened it (again)."""
        rules = self.rules
        if self.state == HALF_OPEN:
            self._open(now, why, hard=False)
            return True
        if self.state == OPEN or rules.failures == 0:
            return False
        if now - self._since >= rules.window:
            self._since, self._leases, self._failures = now, leases - 1, 0
        self._failures += 1
        if self._failures < rules.failures or self._failures < rules.share * (leases - self._leases) or not spared:
            return False
        self._open(now, why, hard=False)
        return True

    def well(self, now: float) -> bool:
        """A call was answered. True: that closed it."""
        return (self.state == HALF_OPEN or (self.state == OPEN and self.hard)) and self.close(now)

    def reached(self, now: float) -> bool:
        """Somebody took a connection: that is all that was missing, if the trouble was a hard one. True: that closed it."""
        return self.hard and self.state != CLOSED and self.close(now)

    def close(self, now: float) -> bool:
        """All is well. True: it was not."""
        if self.state == CLOSED:
            return False
        self.state, self.hard = CLOSED, False
        self._closed_at = now
        self._since = float("-inf")
        return True

    def told(self, now: float, seconds: float, why: str, *, hard: bool) -> None:
        """Somebody else (another worker) opened theirs for so long."""
        if self.state == CLOSED or (self.state == HALF_OPEN and hard):
            self._open(now, why, hard=hard)
            self.until = now + min(max(seconds, 0.0), LONGEST_S * (1 + JITTER))

    def _open(self, now: float, why: str, *, hard: bool) -> None:
        if self.state == CLOSED and now - self._closed_at > max(self.rules.window, self._length):
            self.opens = 0  # it was well for long enough that this is a new story
        first = self.first or 1.0
        self._length = min(first * 2.0 ** min(self.opens, 20), max(LONGEST_S, first)) * (1 + JITTER * self._random())
        self.opens += 1
        self.state, self.hard, self.why = OPEN, hard, why
        self.until = now + self._length
        self._tried = now

    # -- who may try -----------------------------------------------------------------------------------------------------------------------

    def probe(self, now: float, *, last_resort: bool = False) -> bool:
        """May one call try? True is a right that is used up by asking. `last_resort`: there is nobody else, so that who could not be reached is
        tried again soon."""
        if self.state == CLOSED:
            return True
        if now >= self.until or (last_resort and self.hard and now - self._tried >= LAST_RESORT_S):
            self.state = HALF_OPEN
            self._granted = 1
            self._tried = now
            self.until = now + max(self._length, LEAST_TRIAL_S)
            return True
        if self.state == HALF_OPEN and self._granted < self.rules.probes:
            self._granted += 1
            return True
        return False

    def asks_again(self, *, last_resort: bool = False) -> float:
        """When `probe` may say yes (monotonic seconds)."""
        if self.state == HALF_OPEN and self._granted < self.rules.probes:
            return float("-inf")
        return min(self.until, self._tried + LAST_RESORT_S) if last_resort and self.hard else self.until


def can_spare(living: int, out: int, rules: Rules) -> bool:
    """May one more of the endpoints be passed over because it answers badly? `living` can be chosen now, `out` cannot. One must be left, and
    of all of them no more than the configured share may be out; of two, one may always."""
    return living > 1 and out + 1 <= max(1.0, rules.max_ejected * (living + out))
