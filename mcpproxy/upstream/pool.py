"""HOT. The warm links of one upstream, and who may use one.

1. A link is leased to exactly one exchange, or idle, or gone. `in_use` counts leases, dials included; idle links are counted by their list.
2. Idle links are bounded (`keepalive`), and a stream that keeps its link for a day takes no idle place: leases have their own bound
   (`max_connections`), and beyond it exchanges wait in a queue that is bounded in length and time.
3. An idle link stays in the loop for reading: readable means the server closed it (or talks out of turn), and it is gone before it is leased.
4. An idle link is not reused past the server's own keep-alive time. One that rested for more than a moment is asked for news first, which
   leaves only a close that is still on the wire as a race; upstream/retry answers that.
5. A lease ends by `keep` (both messages ended cleanly) or `discard` (anything else). There is no third way.
6. Which endpoint a lease goes to is for upstream/group to say, unless who asks must go to a certain one (`take_at`): then it is that or none.

It is one file because a lease has three ways in (warm, dialled, queued) and three out, and all of them keep the same counts.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import ref

from mcpproxy.clock import clock
from mcpproxy.errors import ProxyError, Retry, Side
from mcpproxy.net.link import READ, WOULD_BLOCK, Link
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.resolve import Target
from mcpproxy.net.timers import Wheel
from mcpproxy.upstream.breaker import RULES, Rules
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.group import Group

RESTED = 0.2  # seconds: a link idle for longer is asked for news before it is leased; under load links rest for less and it costs nothing
SLICE = READ - 64  # bytes per read: with the frame headers of HTTP/2 it still fills four TLS records and begins no fifth
BULK_SLICE = 2 * SLICE  # the same, for a download that has its client's connection for itself
HINT_MARGIN = 1.0  # seconds taken off a server's `Keep-Alive: timeout=`: its clock starts earlier than ours


class Lessee(Protocol):
    """Who leases links (edge/exchange)."""

    receive: Callable[[Any, bytes], None]  # the present state; called as receive(lessee, data)

    def leased(self, link: UpstreamLink) -> None:
        """Here is the link that was waited for."""

    def not_leased(self, error: ProxyError, endpoint: Endpoint | None) -> None:
        """There is no link; `endpoint` is the last one that was tried."""

    def upstream_ended(self, error: OSError | None) -> None:
        """The server closed (None) or reset the leased link."""

    def upstream_drained(self) -> None:
        """What was pending towards the server is gone."""

    def upstream_deaf(self, error: OSError) -> None:
        """What was pending could not be written; what the server said before may still be read."""

    def broken(self) -> None:
        """Something of ours raised while it was told one of these."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The bounds of one upstream (configuration: upstream.*)."""

    keepalive: int
    keepalive_idle: float
    max_connections: int
    queue: int
    queue_timeout: float
    connect_timeout: float
    response_timeout: float
    retry_after: float
    balance: str = "round-robin"
    rules: Rules = RULES


class UpstreamLink(Link):
    """A connection to an endpoint."""

    __slots__ = ("endpoint", "idle_s", "lessee", "pool", "rested", "slice", "target", "uses")

    def __init__(self, pool: Pool, endpoint: Endpoint, sock: socket.socket) -> None:
        super().__init__(pool.loop, pool.wheel, sock)
        self.pool = pool
        self.endpoint = endpoint
        self.lessee: Lessee | None = None
        self.target: Target | None = None  # where it leads
        self.rested = 0.0
        self.slice = SLICE  # bytes per read
        self.idle_s = pool.limits.keepalive_idle
        self.uses = 0

    def readable(self) -> None:
        recv = self.recv  # a slot is read twice as fast as it is called through (here and wherever the hot path does this)
        try:
            data = recv(self.slice)
        except OSError as error:
            if not self.read_failed(error):
                return
            data = b""
        lessee = self.lessee
        if lessee is None:
            self.pool.forget(self)  # closed while idle, or bytes nobody asked for
        elif data:
            if len(data) >= SLICE:
                self.loop.again(self.fd)
            receive = lessee.receive
            receive(lessee, data)
        else:
            self.pause()  # an end is said once
            lessee.upstream_ended(None)

    def lost(self, error: OSError) -> None:
        self.pause()
        if self.lessee is None:
            self.pool.forget(self)
        else:
            self.lessee.upstream_ended(error)

    def not_written(self, error: OSError) -> None:
        if self.lessee is None:
            self.pool.forget(self)
        else:
            self.lessee.upstream_deaf(error)

    def drained(self) -> None:
        if self.lessee is not None:
            self.lessee.upstream_drained()

    def broken(self) -> None:
        lessee = self.lessee
        try:
            if lessee is not None:
                lessee.broken()
        finally:
            if self.fd >= 0:
                self.pool.forget(self)

    def due(self, now: float) -> float | None:
        return None  # a leased link is timed by its exchange, an idle one by its pool

    def quiet(self) -> bool:
        """No end and no bytes are waiting to be read: what an idle link must look like."""
        try:
            self.recv(1)
        except WOULD_BLOCK:
            return True
        except OSError:
            return False
        return False

    def hint(self, timeout: int) -> None:
        """The server said how long it keeps an idle connection (`Keep-Alive: timeout=`, seconds)."""
        self.idle_s = min(self.pool.limits.keepalive_idle, max(0.0, timeout - HINT_MARGIN))


class Cancellable(Protocol):
    """A lease in the making."""

    def cancel(self) -> None:
        """The lessee does not want it any more."""


Dialler = Callable[["Pool", Endpoint, Lessee, bool], Cancellable]  # upstream/dial.Dial; calls back from the loop, never at once


class Pool:
    """The endpoints of one upstream and their links."""

    __slots__ = (
        "__weakref__",
        "authorities",
        "dial",
        "endpoints",
        "group",
        "idle_each",
        "in_use",
        "limits",
        "loop",
        "max_in_use",
        "only",
        "tell",
        "waiting",
        "wheel",
    )

    def __init__(
        self,
        loop: EdgeLoop,
        wheel: Wheel,
        endpoints: tuple[Endpoint, ...],
        limits: PoolLimits,
        dial: Dialler,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.endpoints = endpoints
        self.limits = limits
        labels = list(dict.fromkeys(endpoint.authority for endpoint in endpoints))
        for endpoint in endpoints:
            endpoint.index = labels.index(endpoint.authority)
        self.authorities = [label.encode() for label in labels]
        self.only: Endpoint | None = None  # it needs no choice
        self.group = Group(endpoints, limits.rules, limits.retry_after, limits.balance, _ranked(ref(self)), tell)
        self.idle_each = -(-limits.keepalive // len(endpoints))
        self.max_in_use = limits.max_connections
        if len(endpoints) == 1 and endpoints[0].most is not None:
            self.max_in_use = min(self.max_in_use, endpoints[0].most)
        self.in_use = 0
        self.waiting: deque[Ticket] = deque()
        self.dial = dial
        self.tell = tell  # the operator, why an endpoint cannot be reached

    # -- a lease begins ----------------------------------------------------------------------------------------------------------------

    def take(self, now: float) -> UpstreamLink | None:
        """A warm link at once, or None: then `acquire`."""
        if self.in_use >= self.max_in_use:
            return None
        endpoint = self.only or self.group.choose(now)
        if endpoint is None:
            return None
        idle = endpoint.idle
        while idle:
            link = idle.pop()
            rest = now - link.rested
            if rest < RESTED or (rest < link.idle_s and link.quiet()):
                self.in_use += 1
                endpoint.leased += 1
                link.uses += 1
                return link
            link.close()
        self.group.chosen = endpoint
        return None

    def take_at(self, endpoint: Endpoint, now: float) -> UpstreamLink | None:
        """A warm link to this endpoint and no other, or None: then `acquire_at`. Whose session lives there must go there."""
        if self.in_use >= self.max_in_use or endpoint.full or endpoint.state == "disabled":
            return None
        idle = endpoint.idle
        while idle:
            link = idle.pop()
            rest = now - link.rested
            if rest < RESTED or (rest < link.idle_s and link.quiet()):
                self.in_use += 1
                endpoint.leased += 1
                link.uses += 1
                return link
            link.close()
        return None

    def acquire(self, lessee: Lessee, now: float) -> Cancellable:
        """After `take` found nothing: dial the endpoint it looked at, or wait for a place in the queue. Ends in lessee.leased or lessee.not_leased,
        later; cancel the returned object to withdraw.

        Raises ProxyError(503) when the queue is full, or nobody is there.
        """
        if self.in_use < self.max_in_use:
            group = self.group
            endpoint = self.only or group.choose(now)
            if endpoint is not None and not endpoint.full:
                return self._dial(lessee, endpoint)
            if not group.living:
                raise ProxyError("upstream-down", Side.UPSTREAM, 503, Retry.SAFE)
        return self._queue(lessee, None, now)

    def acquire_at(self, lessee: Lessee, endpoint: Endpoint, now: float) -> Cancellable:
        """After `take_at` found nothing: as `acquire`, but this endpoint is dialled or waited for, and no other. `not_leased` hears why it cannot be
        reached. Raises ProxyError(503) also when it is disabled."""
        if endpoint.state == "disabled":
            raise ProxyError("endpoint-disabled", Side.UPSTREAM, 503, Retry.SAFE)
        if self.in_use < self.max_in_use and not endpoint.full:
            return self._dial(lessee, endpoint, alone=True)
        return self._queue(lessee, endpoint, now)

    def _queue(self, lessee: Lessee, endpoint: Endpoint | None, now: float) -> Ticket:
        if len(self.waiting) >= self.limits.queue:
            raise ProxyError("queue-full", Side.UPSTREAM, 503, Retry.SAFE)
        ticket = Ticket(self, lessee, now + self.limits.queue_timeout, endpoint)
        self.waiting.append(ticket)
        return ticket

    def _dial(self, lessee: Lessee, endpoint: Endpoint, *, alone: bool = False) -> Cancellable:
        self.in_use += 1
        endpoint.leased += 1
        return self.dial(self, endpoint, lessee, alone)

    # -- a lease ends ------------------------------------------------------------------------------------------------------------------

    def keep(self, link: UpstreamLink, now: float) -> None:
        """Both messages ended cleanly: the link rests until the next lease."""
        link.lessee = None
        link.rested = now
        endpoint = link.endpoint
        self.in_use -= 1
        endpoint.ended += 1
        if not link.reading:
            link.resume()
        if endpoint.trial:
            self.group.well(endpoint)
        if self.waiting and self._hand_over(link):
            return
        idle = endpoint.idle
        if len(idle) < self.idle_each and endpoint.state != "disabled":
            idle.append(link)
        else:
            link.close()
        if self.waiting:
            self._serve_next()

    def _hand_over(self, link: UpstreamLink) -> bool:
        """To the first in the queue, if that is an endpoint for it."""
        ticket, endpoint = self.waiting[0], link.endpoint
        if ticket.endpoint is not endpoint and (ticket.endpoint is not None or not endpoint.alive):
            return False
        self.waiting.popleft()
        self.in_use += 1
        endpoint.leased += 1
        link.uses += 1
        ticket.lessee.leased(link)
        return True

    def discard(self, link: UpstreamLink) -> None:
        """The link is of no more use."""
        link.lessee = None
        link.close()
        self.lease_ended(link.endpoint)

    def lease_ended(self, endpoint: Endpoint) -> None:
        """A lease or dial ended without a link to keep: the next in the queue may dial."""
        self.in_use -= 1
        endpoint.ended += 1
        if self.waiting:
            self._serve_next()

    def moved(self, old: Endpoint, new: Endpoint) -> None:
        """A dial goes on elsewhere."""
        old.ended += 1
        new.leased += 1

    def _serve_next(self) -> None:
        """There is a place for the first in the queue whose endpoint has one; those for whom nobody is there hear of it."""
        now = clock.now
        while (found := self._next_in_queue(now)) is not None:
            ticket, endpoint = found
            self.waiting.remove(ticket)
            if endpoint is None or endpoint.state == "disabled":
                ticket.lessee.not_leased(ProxyError("upstream-down", Side.UPSTREAM, 503, Retry.SAFE), None)
                continue
            if (link := self.take_at(endpoint, now)) is not None:
                ticket.lessee.leased(link)
            else:
                ticket.dial = self._dial(ticket.lessee, endpoint, alone=ticket.endpoint is not None)
            return

    def _next_in_queue(self, now: float) -> tuple[Ticket, Endpoint | None] | None:
        """Who is served next, and where (None: nobody is there)."""
        for ticket in self.waiting:
            endpoint = ticket.endpoint
            if endpoint is None:
                endpoint = self.only or self.group.choose(now)
                if endpoint is None and self.group.living:
                    continue  # all are full; who waits for a certain one may still be served
            elif endpoint.full:
                continue
            return ticket, endpoint
        return None

    # -- idle links --------------------------------------------------------------------------------------------------------------------

    def forget(self, link: UpstreamLink) -> None:
        """An idle link ended by itself."""
        idle = link.endpoint.idle
        if link in idle:
            idle.remove(link)
        link.close()

    def tick(self, now: float) -> None:
        """Close idle links that are too old or lead where the name does not lead any more, and refuse those who waited too long."""
        for endpoint in self.endpoints:
            idle = endpoint.idle
            old = [link for link in idle if now - link.rested >= link.idle_s]
            name = endpoint.name
            if name is not None and name.targets:
                if endpoint.leased != endpoint.ended and not name.fresh(now):
                    name.refresh(self.loop)  # warm links may be all that is ever needed: has the service moved meanwhile?
                old += [link for link in idle if link.target not in name.targets and link not in old]
            for link in old:
                idle.remove(link)
                link.close()
        while self.waiting and self.waiting[0].deadline <= now:
            self.waiting.popleft().lessee.not_leased(ProxyError("queue-timeout", Side.UPSTREAM, 503, Retry.SAFE), None)

    def retire(self) -> None:
        """The configuration has another one, or none. Who is here goes on; no link stays when it is given back."""
        self.idle_each = 0
        self.close_idle()

    # -- for operators ---------------------------------------------------------------------------------------------------------------------

    def set_state(self, label: str, state: str) -> None:
        """Take an endpoint out by hand ("drain", "disabled"), or in ("enabled"). Raises ValueError."""
        self.group.set_state(label, state)

    def snapshot(self) -> dict[str, Any]:
        """How it goes, for status and metrics (docs/operations.md says what each number means)."""
        return {
            "in_use": self.in_use,
            "max_in_use": self.max_in_use,
            "idle": sum(len(endpoint.idle) for endpoint in self.endpoints),
            "queue": len(self.waiting),
            "endpoints": self.group.snapshot(),
        }

    def close_idle(self) -> None:
        """The process ends."""
        for endpoint in self.endpoints:
            while endpoint.idle:
                endpoint.idle.pop().close()


def _ranked(pool: ref[Pool]) -> Callable[[Endpoint | None], None]:
    """A group does not hold its pool: one that a reload retired is gone with its last exchange, and needs no collector."""

    def ranked(only: Endpoint | None) -> None:
        found = pool()
        if found is not None:
            found.only = only

    return ranked


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue; once a lease ended elsewhere, a dial."""

    pool: Pool
    lessee: Lessee
    deadline: float
    endpoint: Endpoint | None = None  # this one and no other
    dial: Cancellable | None = None

    def cancel(self) -> None:
        if self.dial is not None:
            self.dial.cancel()
        elif self in self.pool.waiting:
            self.pool.waiting.remove(self)
