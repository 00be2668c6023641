"""The endpoints of one upstream: who lives, whose turn it is, and what is done about those that fail.

Four things may speak against an endpoint: the operator (`set_state`), active checks (`set_checked`), its breaker by hard trouble (nobody there) and by
soft trouble (answers badly). What the balancer chooses from is worked out when one of them changes, not when a call comes: `choose` looks at one
moment (`review_at`: a breaker that may be tried, a step of a slow start) and asks the balancer.

 1. Soft trouble takes out no more than `max_ejected`, and never the last one that lives. If all others die meanwhile, those out by soft trouble are
    chosen from again: answering badly is better than not at all.
 2. When nobody lives, `choose` says so at once. Who could not be reached is tried again twice a second then, by one call each time; the others need not wait.
 3. Whatever a client did (left, sent nonsense) is nobody's failure here; nor is any status that is not listed, as 4xx are normal for MCP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mcpproxy.clock import clock, monotonic
from mcpproxy.upstream.balance import BALANCERS
from mcpproxy.upstream.breaker import CLOSED, Breaker, Rules, can_spare
from mcpproxy.upstream.endpoint import STATES, Endpoint

NEVER = float("inf")
AT_ONCE = float("-inf")
STEPS = 10  # of a slow start


def no_one(_: Any) -> None:
    """Nobody listens."""


class Group:
    """Chooses. `ranked` hears of the only endpoint there is whenever it may be taken without asking, else None; `tell` is the operator; `say` hears
    what other workers should know about a breaker."""

    __slots__ = ("_chooses", "_ramping", "bounded", "chosen", "endpoints", "living", "ranked", "review_at", "rules", "say", "tell", "turns")

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        rules: Rules,
        first: float,
        balance: str,
        ranked: Callable[[Endpoint | None], None],
        tell: Callable[[str], None],
    ) -> None:
        self.endpoints, self.rules, self.ranked, self.tell = endpoints, rules, ranked, tell
        self.say: Callable[[dict[str, Any]], object] = no_one
        for endpoint in endpoints:
            endpoint.breaker = Breaker(rules, first)
        self.bounded = any(endpoint.most is not None for endpoint in endpoints)
        self.turns = BALANCERS[balance]()
        self._chooses = self.turns.next
        self.living: tuple[Endpoint, ...] = ()
        self.chosen: Endpoint | None = None  # whose turn it was when a call found no warm link there: the next `choose` finds it again
        self.review_at = NEVER
        self._ramping = False
        self._rank(clock.now)

    # -- whose turn is it ------------------------------------------------------------------------------------------------------------------

    def choose(self, now: float) -> Endpoint | None:
        """HOT. Where the next call goes; None: nobody lives, or (`living`) none of them has room. This uses up a turn, or a right to try: who does
        nothing with it puts it back (`chosen`)."""
        chosen = self.chosen
        if chosen is not None:
            self.chosen = None
            if not chosen.full:
                return chosen
        if now >= self.review_at and (probe := self._review(now)) is not None:
            return probe
        endpoint = self._chooses()
        if self.bounded and endpoint is not None and endpoint.full:
            endpoint = next((other for other in self._after(endpoint) if not other.full), None)
        return endpoint

    def another(self, tried: Iterable[Endpoint], last: Endpoint, now: float) -> Endpoint | None:
        """Nobody could be reached at those that were `tried`: who else? The living in turn, then who may be tried as a last resort."""
        for endpoint in self._after(last):
            if endpoint not in tried and not endpoint.full:
                return endpoint
        for endpoint in self.endpoints:
            if endpoint.wanted and endpoint not in tried and not endpoint.full and endpoint.breaker.probe(now, last_resort=True):
                return endpoint
        return None

    def _after(self, endpoint: Endpoint) -> list[Endpoint]:
        """The living, beginning behind this one."""
        at = self.endpoints.index(endpoint)
        return [other for other in self.endpoints[at + 1 :] + self.endpoints[: at + 1] if other in self.living]

    def _review(self, now: float) -> Endpoint | None:
        """A moment has come: is there a breaker that wants to be tried? Also the next step of slow starts."""
        if self._ramping:
            self._rank(now)
        alone = not self.living
        probe, review_at = None, now + self.rules.slow_start / STEPS if self._ramping else NEVER
        for endpoint in self.endpoints:
            if endpoint.trial and endpoint.wanted:
                if probe is None and endpoint.breaker.probe(now, last_resort=alone):
                    probe = endpoint
                review_at = min(review_at, endpoint.breaker.asks_again(last_resort=alone))
        self.review_at = review_at
        return probe

    def _rank(self, now: float) -> None:
        """Somebody came, went or came back: whom to choose from, with which weights."""
        living = [endpoint for endpoint in self.endpoints if endpoint.alive]
        if not living:
            living = [endpoint for endpoint in self.endpoints if endpoint.wanted and not endpoint.breaker.hard]
        self._ramping = False
        shares = []
        for endpoint in living:
            weight = endpoint.weight
            age = now - endpoint.since
            if age < self.rules.slow_start and len(living) > 1:
                self._ramping = True
                weight *= max(1, int(STEPS * age / self.rules.slow_start)) / STEPS
            shares.append((endpoint, weight))
        self.turns.set(shares)
        self._chooses = self.turns.next
        self.living = tuple(living)
        self.chosen = None
        self.review_at = AT_ONCE if self._ramping or any(endpoint.trial for endpoint in self.endpoints) else NEVER
        self.ranked(living[0] if len(self.endpoints) == 1 and living and not living[0].trial else None)

    # -- what happened ---------------------------------------------------------------------------------------------------------------------

    def failed(self, endpoint: Endpoint, why: str) -> None:
        """A call ended in a way that speaks against the endpoint."""
        now = monotonic()
        endpoint.failures += 1
        endpoint.trouble = why
        wanted = [other for other in self.endpoints if other.wanted]
        living = sum(other.alive for other in wanted)
        if endpoint.breaker.failed(now, endpoint.leased, why, spared=can_spare(living, len(wanted) - living, self.rules)):
            self.tell(f"{endpoint.label}: answers badly ({why}): passed over for {endpoint.breaker.until - now:.1f} s")
            self._opened(endpoint, now)

    def answered(self, endpoint: Endpoint, status: int) -> None:
        """A response head came; asked only for 5xx and for what has no body (101)."""
        if status in self.rules.statuses:
            self.failed(endpoint, f"status {status}")
        elif endpoint.trial:
            self.well(endpoint)

    def ended(self, endpoint: Endpoint, status: int) -> None:
        """The response came whole; asked while the breaker is not closed. A head alone is no good answer then: what it promises may be cut."""
        if status not in self.rules.statuses:
            self.well(endpoint)

    def unreachable(self, endpoint: Endpoint, why: str) -> None:
        """Nobody took a connection there."""
        now = monotonic()
        endpoint.failures += 1
        endpoint.trouble = why
        if endpoint.breaker.unreachable(now, why):
            self._opened(endpoint, now)
        elif endpoint.trial:
            self._rank(now)  # soft trouble may have become hard

    def well(self, endpoint: Endpoint) -> None:
        """A call was answered."""
        now = monotonic()
        if endpoint.breaker.well(now):
            self._closed(endpoint, now)

    def reached(self, endpoint: Endpoint) -> None:
        """It took a connection."""
        now = monotonic()
        if endpoint.breaker.reached(now):
            self._closed(endpoint, now)

    def _opened(self, endpoint: Endpoint, now: float) -> None:
        endpoint.trial = True
        self._rank(now)
        breaker = endpoint.breaker
        self.say({"endpoint": endpoint.label, "for": breaker.until - now, "hard": breaker.hard, "why": breaker.why})

    def _closed(self, endpoint: Endpoint, now: float) -> None:
        self._came_back(endpoint, now)
        self.tell(f"{endpoint.label}: is back")
        self.say({"endpoint": endpoint.label, "for": 0.0})

    def _came_back(self, endpoint: Endpoint, now: float) -> None:
        endpoint.trial = False
        endpoint.since = now
        self._rank(now)

    # -- what others say -------------------------------------------------------------------------------------------------------------------

    def hear(self, said: dict[str, Any]) -> None:
        """What another worker said (`say`) about one of our endpoints."""
        now = monotonic()
        for endpoint in self._named(said["endpoint"]):
            if said["for"] <= 0:
                if endpoint.breaker.close(now):
                    self._came_back(endpoint, now)
                continue
            wanted = [other for other in self.endpoints if other.wanted]
            living = sum(other.alive for other in wanted)
            if said["hard"] or can_spare(living, len(wanted) - living, self.rules):
                endpoint.breaker.told(now, said["for"], said["why"], hard=said["hard"])
                endpoint.trial = endpoint.breaker.state != CLOSED
                self._rank(now)

    def set_checked(self, label: str, up: bool, why: str) -> None:
        """What active checks found."""
        now = monotonic()
        for endpoint in self._named(label):
            before, endpoint.up, endpoint.checked = endpoint.up, up, why
            if before is up or (before is None and up):
                continue
            if up:
                endpoint.breaker.close(now)
                self._came_back(endpoint, now)
            else:
                self._rank(now)

    def set_state(self, label: str, state: str) -> None:
        """By hand. Raises ValueError for what is none of STATES or of ours."""
        if state not in STATES:
            raise ValueError(f'"{state}" is no state: {", ".join(STATES)}')
        found = self._named(label)
        if not found:
            raise ValueError(f'there is no endpoint "{label}": {", ".join(endpoint.label for endpoint in self.endpoints)}')
        for endpoint in found:
            before, endpoint.state = endpoint.state, state
            if state == "disabled":
                while endpoint.idle:
                    endpoint.idle.pop().close()
            if before != state == "enabled":
                endpoint.since = monotonic()
        self._rank(monotonic())

    def adopt(self, old: Group, *, checked: bool) -> None:
        """What was known about endpoints of the same name before a reload goes on; what checks found only where they are still made."""
        now = monotonic()
        for endpoint in self.endpoints:
            for known in old._named(endpoint.label):
                if endpoint.configured == known.configured:
                    endpoint.state = known.state  # by hand, and nobody has said anything else in the file since
                endpoint.trouble = known.trouble
                if checked:
                    endpoint.up, endpoint.checked = known.up, known.checked
                if known.breaker.state != CLOSED:
                    endpoint.breaker.told(now, known.breaker.until - now, known.breaker.why, hard=known.breaker.hard)
                    endpoint.trial = True
        self._rank(now)

    def _named(self, label: str) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if endpoint.label == label]

    def snapshot(self) -> list[dict[str, Any]]:
        """For status and metrics: each endpoint as it is now."""
        now = monotonic()
        return [
            {
                "endpoint": endpoint.label,
                "state": endpoint.state,
                "breaker": endpoint.breaker.state,
                "breaker_for_s": round(max(0.0, endpoint.breaker.until - now), 1) if endpoint.trial else 0.0,
                "up": endpoint.up,
                "checked": endpoint.checked,
                "alive": endpoint.alive,
                "weight": endpoint.weight,
                "in_use": endpoint.in_use,
                "idle": len(endpoint.idle),
                "leased": endpoint.leased,
                "failures": endpoint.failures,
                "last_error": endpoint.trouble,
            }
            for endpoint in self.endpoints
        ]
