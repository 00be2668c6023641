"""Traces (`[otel]`): which exchanges are seen, and what is told of each.

An exchange that is about to go to a server is sampled if its client's `traceparent` says so; without one, by chance. Then the server is told our span as its
parent (in a copy of the plan's head: nobody else pays), and when it is over a span is written down. The control process makes OpenTelemetry of it
(control/traces): no worker ever loads that library. What its route refuses has a span, too, with the reason. What belongs to no route has none: whoever
looks for holes is in the log.
"""

from __future__ import annotations

import re
from copy import copy
from random import getrandbits, random
from typing import TYPE_CHECKING, Any

from mcpproxy.clock import wall_offset

if TYPE_CHECKING:
    from mcpproxy.edge.exchange import Exchange
    from mcpproxy.edge.ledger import Ledger

WAITING = 4096  # spans kept until control takes them; beyond it they are dropped and counted
NAME = 256  # characters of what a client names, as in the logs
SAMPLED = 1  # of the flags (W3C Trace Context §3.2.2.5)
parent_of = re.compile(
    rb"\r\ntraceparent:[ ]?00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?=\r\n)", re.IGNORECASE
).search
LINE = re.compile(rb"\r\ntraceparent:[^\r\n]*", re.IGNORECASE)


class Trace:
    """Of one exchange."""

    __slots__ = ("parent", "reason", "span", "trace", "tracer")

    def __init__(self, tracer: Tracer, trace: str, parent: str) -> None:
        self.tracer, self.trace, self.parent = tracer, trace, parent
        self.span = f"{getrandbits(64) or 1:016x}"
        self.reason = ""  # it was refused

    def over(self, ledger: Ledger, status: int, bytes_out: int, end: bytes, now: float) -> None:
        """It is over: one span."""
        tracer, x = self.tracer, ledger.x
        if len(tracer.spans) >= WAITING:
            tracer.dropped += 1
            return
        offset = wall_offset()
        tracer.spans.append(
            {
                "trace": self.trace,
                "span": self.span,
                "parent": self.parent,
                "began": x.began + offset,
                "ended": now + offset,
                "status": status,
                "end": end.decode(),
                "reason": self.reason,
                "in": x.bytes_in,
                "out": bytes_out,
                "about": (b"{%b,%b}" % (x.plan.about, x.client.about)).decode(),
                "id": x.request_id.decode("latin-1"),
                "route": x.plan.place.route,
                "upstream": x.plan.place.upstream,
                "endpoint": x.upstream.decode(),
                "calls": [(call.method[:NAME], call.name and call.name[:NAME]) for call in ledger.calls[:1]],
            }
        )


class Tracer:
    """Of one worker. `sample` is the share of exchanges nobody has decided about."""

    __slots__ = ("dropped", "sample", "spans")

    def __init__(self, sample: float) -> None:
        self.sample = sample
        self.spans: list[dict[str, Any]] = []
        self.dropped = 0

    def begin(self, x: Exchange) -> Trace | None:
        """The exchange goes to a server now. None: it is not sampled, and whatever its client said goes on as it is."""
        trace = self.sampled(x.plan.heads[0])
        if trace is not None:
            plan = x.plan = copy(x.plan)
            line = b"traceparent: 00-%b-%b-01\r\n" % (trace.trace.encode(), trace.span.encode())
            plan.heads = tuple(LINE.sub(b"", head) + line for head in plan.heads)
        return trace

    def sampled(self, head: bytes) -> Trace | None:
        """Is an exchange with this head to be seen? It decides itself, or chance does."""
        found = parent_of(head)
        if found is None:
            return Trace(self, f"{getrandbits(128) or 1:032x}", "") if random() < self.sample else None
        return Trace(self, found[1].decode().lower(), found[2].decode().lower()) if int(found[3], 16) & SAMPLED else None
