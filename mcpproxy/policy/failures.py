"""What may credentials cost us that are worth nothing? For each client address so many per time; beyond it nothing of it is verified.

    failures.payer(network("192.0.2.7"))  ──▶  Payer: `wait` before something is verified, `charge` when it was in vain

To find a signature wrong takes 150 µs, to learn that a token is none takes a question to its issuer: a client that makes tokens up pays nothing for either.
So both are counted, by the address that limits count by (policy/limits.network), as one more limit in the table that all limits share (policy/buckets):
what is bounded and who is displaced is said there.

 1. Only what failed counts. What is known (a signature found good, an answer that says active) is neither counted nor refused, so callers who share an
    address with a flood go on with the tokens they have.
 2. Who would have to be asked is counted before and gets it back when the token is good, or when nobody could say: so questions that are on their way
    are within the budget, too.
 3. Keys and certificates do not count: looking at them costs less than refusing to.
 4. A client without an address (a unix socket whose word does not count) has no budget to spend: it would be everybody's.
"""

from __future__ import annotations

from math import ceil

from mcpproxy.config.policies import Limit
from mcpproxy.policy.buckets import DAY, NO_ROOM, Buckets, Slot
from mcpproxy.policy.limits import Check
from mcpproxy.policy.verdict import Refused
from mcpproxy.units import Rate, many

KIND = "too-many-failed-credentials"
SAY_S = 60.0  # seconds between two log lines


class Failures:
    """The budgets of all addresses."""

    __slots__ = ("_check", "_said", "_told", "buckets", "failed", "refused")

    def __init__(self, rate: Rate, buckets: Buckets) -> None:
        self.buckets = buckets
        self._check = Check(buckets, "failed", Limit(per=("address",), rate=rate), ("failed",))
        self.failed = 0  # verified in vain
        self.refused = 0  # not verified any more
        self._told = 0  # of `refused`, in the log
        self._said = float("-inf")  # when that was

    def payer(self, address: bytes) -> Account | None:
        """Whoever is at this address; None: nobody knows who that is."""
        slot = self._check.slot(address, "", None) if address else None
        return Account(self, self._check, slot) if slot is not None else None

    def tick(self, now: float) -> str:
        """What the log should hear of it, now and then. `now` is monotonic."""
        more = self.refused - self._told
        if not more or now - self._said < SAY_S:
            return ""
        self._told, self._said = self.refused, now
        which = f"{many(more, 'request')} {'was' if more == 1 else 'were'} answered 429 with"
        return f"{which} tokens unseen: too many tokens from their addresses failed (limits.failed_credentials)"


class Account:
    """One address's."""

    __slots__ = ("_check", "_failures", "_slot")

    def __init__(self, failures: Failures, check: Check, slot: Slot) -> None:
        self._failures, self._check, self._slot = failures, check, slot

    def broke(self, now: float) -> Refused | None:
        """The answer to what must be verified, when that is not done any more. `now` is Unix seconds. Takes nothing, and no place in the table."""
        failures, slot = self._failures, self._slot
        index = failures.buckets.look(slot)
        wait = 0.0 if index == NO_ROOM else self._check.wait(index, now, int(now // DAY), 1)[0]
        if not wait:
            return None
        failures.refused += 1
        return Refused(KIND, 429, "", "", retry_after=ceil(wait))

    def charge(self, now: float, count: int = 1) -> None:
        """So many were verified in vain, or will have been."""
        self._failures.failed += count
        locks = self._failures.buckets.locks
        if locks is not None:
            locks.take((self._slot.stripe,))
        try:
            index = self._failures.buckets.find(self._slot, now)
            if index != NO_ROOM:
                self._check.take(index, now, int(now // DAY), count)
        finally:
            if locks is not None:
                locks.give()

    def refund(self, count: int = 1) -> None:
        """It was not in vain."""
        self._failures.failed -= count
        locks = self._failures.buckets.locks
        if locks is not None:
            locks.take((self._slot.stripe,))
        try:
            index = self._failures.buckets.look(self._slot)
            if index != NO_ROOM:
                self._check.give_back(index, count)
        finally:
            if locks is not None:
                locks.give()
