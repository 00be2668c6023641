"""HOT. What must be told when an exchange is over: places given back, and one audit entry for what was called and how it ended.

An exchange whose guard found something to tell has one; all others have none, and pay one look at an empty slot for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mcpproxy.clock import clock, monotonic
from mcpproxy.mcp.call import Call
from mcpproxy.mcp.outcome import Outcome, Watch, outcome_of
from mcpproxy.observe.audit import AuditLog, Entry
from mcpproxy.policy.limits import Held
from mcpproxy.policy.tools import Verdict

if TYPE_CHECKING:
    from mcpproxy.edge.exchange import Exchange
    from mcpproxy.edge.guard import Guard
    from mcpproxy.edge.plan import ResponsePlan
    from mcpproxy.edge.tracing import Trace

trace_of = re.compile(rb"\r\ntraceparent: ?[0-9a-f]{2}-([0-9a-f]{32})-", re.IGNORECASE).search
new_entry = tuple.__new__  # what Entry(...) comes to, without the function around it
UNJUDGED = Verdict(True, "")


class Ledger:
    """Of one exchange."""

    __slots__ = ("audit", "calls", "decision", "guard", "held", "trace", "verdict", "watch", "x")

    def __init__(self, x: Exchange, guard: Guard, audit: AuditLog | None, calls: tuple[Call, ...]) -> None:
        self.x, self.guard, self.audit, self.calls = x, guard, audit, calls
        self.held: Held | None = None  # a place among those that may go on at once
        self.verdict = UNJUDGED
        self.decision = "allowed"
        self.watch: Watch | None = None
        self.trace: Trace | None = None  # it is sampled

    def judged(self, verdict: Verdict, decision: str) -> None:
        """What the rules, or the limits, said; `decision` is what became of it: allowed, denied, shadow-denied."""
        self.verdict, self.decision = verdict, decision

    def listens(self, plan: ResponsePlan) -> bool:
        """Must the payload of this response be heard?"""
        hints = self.guard.hints
        wanted = hints is not None and len(self.calls) == 1 and self.calls[0].method == "tools/list"
        if self.audit is not None or wanted:
            self.watch = Watch(stream=plan.events, wanted=wanted)
        return self.watch is not None

    def hear(self, piece: bytes) -> None:
        """Payload passes."""
        if self.watch is not None:
            self.watch.feed(piece)

    def answered(self, plan: ResponsePlan, body: bytes, size: int, now: float) -> None:
        """The whole answer came at once, and was one of `size` bytes for the client. Nearly always nothing but the audit log wants to know."""
        if len(self.calls) == 1 and self.guard.hints is None and self.held is None and not plan.events and plan.status != 401:
            if self.trace is not None:
                self.trace.over(self, plan.status, self.x.bytes_out + size, b"done", now)
            self._write_down(plan.status, self.x.bytes_out + size, outcome_of(body), (), now)
            return
        if self.listens(plan):
            self.hear(body)
        self.over(plan.status, self.x.bytes_out + size)

    def over(self, status: int, bytes_out: int, end: bytes = b"done") -> None:
        """The exchange is over; its account is not forgotten yet."""
        if self.trace is not None:
            self.trace.over(self, status, bytes_out, end, monotonic())
        if self.held is not None:
            self.held.leave()
        outbound = self.guard.outbound
        if status == 401 and outbound is not None and self.decision != "denied":  # the server's word, not ours
            outbound.rejected(self.guard.principal, self.guard.credentials, clock.wall)
        watch = self.watch
        hints = self.guard.hints
        outcome = watch.end() if watch is not None else None
        if watch is not None and watch.result and hints is not None:
            hints.learn(watch.result)
        if self.audit is not None:
            answers = watch.answers if watch is not None and len(self.calls) > 1 else ()
            self._write_down(status, bytes_out, outcome, answers, monotonic())

    def _write_down(
        self, status: int, bytes_out: int, outcome: Outcome | None, answers: Sequence[tuple[bytes, Outcome]], now: float
    ) -> None:
        """One entry of the audit log."""
        x, guard, verdict = self.x, self.guard, self.verdict
        trace = trace_of(x.plan.heads[0]) if guard.traced and x.plan.heads else None
        assert self.audit is not None
        self.audit.add(
            new_entry(
                Entry,
                (
                    x.began,
                    now,
                    x.request_id,
                    x.client.about,
                    guard.who,
                    guard.where,
                    trace[1] if trace is not None else b"",
                    guard.era,
                    self.calls,
                    self.decision,
                    verdict.rule,
                    verdict.reason,
                    outcome,
                    status,
                    x.bytes_in,
                    bytes_out,
                    answers,
                ),
            )
        )
