"""What the trouble of one client address may cost everybody else: a fixed part of the time.

http/budget ends a connection that makes trouble; the next one has a fresh budget, and a client that comes again as soon as it is told to go would have
the process to itself. So what an address spends is a debt, and a debt is paid in time: while it is above the credit, connections of that address that
spend are not read, and new ones are not greeted. Whoever spends nothing never waits on a connection it has, whatever its neighbours behind the same
address do.

A point buys about 4 µs of work at most (`python -m benchmarks abuse`: a DATA frame of one byte, sent on) and costs ten times as much: trouble has a
tenth of the process, however many connections it takes.
"""

from __future__ import annotations

from ipaddress import IPv6Address

POINT_S = 40e-6  # seconds of debt for a point
CREDIT_S = 0.25  # of debt that nobody waits for: 125 requests taken back at once
MOST_S = 10.0  # of debt; beyond it is forgiven, so that an address that was misused is not shut out for minutes
TOO_MUCH_S = 5.0  # of debt with which new connections are closed, not kept waiting
ADDRESSES = 4096  # remembered; the oldest is forgotten
UNASKED = 250  # points of a connection that asked for nothing: a TLS handshake is a millisecond
ABANDONED = 50  # points of a request whose client closed the connection before it was answered: what RST_STREAM costs (http/budget.CANCEL)


class Debt:
    """Of one address."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        self.until = 0.0  # when it is paid

    def charge(self, points: int, now: float) -> float:
        """Add to it; seconds to wait before more is read."""
        self.until = min(max(self.until, now) + points * POINT_S, now + MOST_S)
        return self.wait(now)

    def wait(self, now: float) -> float:
        """Seconds until it is within the credit."""
        return max(0.0, self.until - now - CREDIT_S)


class Debts:
    """The debts of all addresses that were seen lately."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str | bytes, Debt] = {}

    def of(self, host: str) -> Debt:
        """The debt of an address; of IPv6 the network that one customer has (/64) counts."""
        known = self._known
        key = IPv6Address(host).packed[:8] if ":" in host else host
        debt = known.pop(key, None) or Debt()
        if len(known) >= ADDRESSES:
            del known[next(iter(known))]
        known[key] = debt
        return debt
