"""HOT. What a plan cannot say once and for all: asked every time a request with its head comes (docs/request.md, step 3).

    begin ─▶ still the same caller? ─▶ the body, where a rule needs it ─▶ which calls? ─▶ tool rules ─▶ limits ─▶ our credential ─▶ lease
               │ a question                  (gathered)                      400             403       429/503       │ a question
               └─ wait, begin again                                                                                  └─ wait, go on

Every step either calls the next one, waits (and is called again), or answers the client and ends the exchange. A guard belongs to one plan: route and
caller are fixed, so what depends on them alone was worked out when the plan was compiled (`prepare`). One file because every step must
know what each of the others may have left behind in the exchange.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf, nextafter
from typing import TYPE_CHECKING

from mcpproxy.clock import clock, monotonic, unix
from mcpproxy.edge.exchange import ASIDE, NO_UPSTREAM
from mcpproxy.edge.facts import who_line
from mcpproxy.edge.ledger import Ledger
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http import replies
from mcpproxy.http.framing import REQUEST, ChunkedScanner
from mcpproxy.mcp.call import Call, calls_of, ids_of
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.mirror import Mirror
from mcpproxy.policy.exempt import DISCOVER_BODY, Exemption, discovers
from mcpproxy.policy.limits import Denied, Gate, Held, identity, too_many, tools_of
from mcpproxy.policy.sigv4 import Outgoing
from mcpproxy.policy.tools import Needs, Verdict
from mcpproxy.policy.tools import View as Allowance
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Principal, Question, Refused

if TYPE_CHECKING:
    from mcpproxy.edge.admission import Admission
    from mcpproxy.edge.exchange import Exchange
    from mcpproxy.edge.tracing import Tracer

GLANCE = 256  # bytes of a body that tell whether it is a batch
# As the most generous server reads it: with a byte order mark, in UTF-16 or UTF-32. Nothing but blanks: it may become one.
opens_batch = re.compile(rb"(?:\xef\xbb\xbf|\xfe\xff|\xff\xfe|\x00\x00\xfe\xff)?[\x00\t\n\r ]*(?:(\[)|\Z)").match
ASKED = 3  # questions that one request may wait for, one after the other; an issuer that never gets to the point is broken


class Guard:
    """What is asked every time, for one head."""

    __slots__ = (
        *("admission", "credentials", "head", "origin", "principal", "question", "until"),
        *(
            "admit",
            "allowance",
            "audit",
            "batches",
            "compared",
            "counts",
            "era",
            "exemption",
            "gate",
            "has_body",
            "hints",
            "identity",
            "keeps_account",
            "mirror",
            "must_read",
            "names_calls",
            "network",
        ),
        *("outbound", "peek", "reads", "ruled", "shadow", "tooled", "traced", "tracer", "where", "who"),
    )

    def __init__(self, admission: Admission, origin: tuple[str, str], *, has_body: bool) -> None:
        self.admission, self.origin, self.has_body = admission, origin, has_body
        self.head = b""  # to be judged again, once `question` is answered
        self.credentials: tuple[Credential, ...] = ()
        self.question: Question | None = None  # nobody knows yet who this is
        self.principal: Principal | None = None
        self.who = b""  # members of log lines
        self.until = inf  # Unix seconds: until then it is `principal`
        self.mirror: Mirror | None = None  # what the head says about the call; None: the request has no body
        self.exemption = Exemption.NONE
        self.network = b""  # of the client, when the head says its address
        self.where = b""  # members of the audit line
        self.traced = True  # the head may name a trace
        self.gate, self.outbound, self.audit, self.hints = admission.gate, admission.outbound, admission.audit, admission.hints
        self.tracer = admission.tracer
        self.keeps_account = self.audit is not None or self.hints is not None  # of calls and how they end
        self.era = ""  # the revision that the head names

    def accept(self, verdict: Accepted | Ask) -> None:
        """Who it is, or what has to be asked first."""
        if isinstance(verdict, Ask):
            self.question, self.until = verdict.question, -inf
        else:
            self.question, self.principal, self.until = None, verdict.principal, verdict.until
        self.who = who_line(self.principal)

    def prepare(self) -> None:
        """What follows from route and caller, for every request alike: called once all of the above is known, and before anything else."""
        admission, mirror = self.admission, self.mirror
        self.identity = identity(self.principal)
        self.allowance: Allowance | None = admission.rules.seen_by(self.principal) if admission.rules is not None else None
        needs = Needs.NOTHING if self.allowance is None else self.allowance.needs
        tooled = self.gate is not None and self.gate.needs_tool
        self.ruled = ruled = needs is Needs.BODY or (needs is Needs.HEADERS and (mirror is None or mirror.call is None))
        counted = tooled or (self.exemption is Exemption.IF_BODY_SAYS and self.gate is not None)
        audited = self.audit is not None
        self.era = mirror.version or "" if mirror is not None else ""
        signs = self.outbound is not None and self.outbound.needs_body
        self.shadow = self.allowance is not None and self.allowance.shadow
        self.must_read = self.has_body and ((ruled and not self.shadow) or counted or signs)  # what is too large for that is refused
        self.reads = self.must_read or (self.has_body and (ruled or audited))
        self.batches = (
            self.gate is not None and self.has_body and admission.route.mcp and self.exemption is not Exemption.CERTAIN
        )  # of a batch each call counts
        self.peek = admission.peek if self.reads or self.batches else 0
        self.names_calls = mirror is not None and (
            (needs is not Needs.NOTHING and not self.shadow) or counted
        )  # what cannot be read is refused
        self.compared = mirror if self.names_calls or self.shadow else None
        self.counts = self.gate.admit if self.gate is not None and self.exemption is Exemption.NONE else None
        self.tooled = tooled
        alone = not self.reads and self.allowance is None and self.outbound is None and self.tracer is None
        self.admit = self.counts if alone else None  # a limit is all there is to ask

    def needed(self) -> bool:
        """Is there anything to ask at all?"""
        return (
            self.until != inf
            or self.gate is not None
            or self.allowance is not None
            or self.audit is not None
            or self.outbound is not None
            or self.tracer is not None
        )

    # -- step by step ------------------------------------------------------------------------------------------------------------------

    def begin(self, x: Exchange) -> None:
        """A request with this head."""
        x.upstream, x.reused = NO_UPSTREAM, 0  # a refusal must not name the server of the connection's last request
        if self.until <= clock.wall:
            self._look_again(x)
        elif self.batches and not self.reads and (x.rest is None or x.rest[:1] != b"{"):
            self._glance(x)
        elif self.admit is not None:
            found = self.admit(unix(), self.network or x.client.network, self.identity)
            if found is not None:
                self._counted(x, found, ())
            elif x.asked:
                self._lease(x)
            else:
                x.lease(x.began)  # that was just now
        elif self.reads:
            if x.request_ended and not x.asked and 0 < x.plan.length <= self.peek:
                self.gathered(x)  # it came whole
            else:
                x.gather(self.peek)
        else:
            self.unseen(x)

    def unseen(self, x: Exchange) -> None:
        """Nobody asks what the body says."""
        if self.allowance is not None:
            self._judge(x, self._told_by_head())
        else:
            self._limit(x, ())

    def _glance(self, x: Exchange) -> None:
        """Limits alone ask what the body is: one call, or a batch of them?"""
        if _is_batch(x, x.rest or b"") is False:
            self.unseen(x)
        elif x.request_ended:
            self.gathered(x)
        else:
            x.gather(self.peek)

    def knows_enough(self, body: bytes | bytearray) -> bool:
        """Is it known what becomes of a body that is too large to be gathered?"""
        return bool(body) or self.must_read or not self.batches

    def has_seen_enough(self, x: Exchange, body: bytearray) -> bool:
        """It was gathered only to tell whether it is a batch, and it is none."""
        return self.batches and not self.reads and _is_batch(x, x.rest or b"") is not False and _is_batch(x, body) is False

    def overflow(self, x: Exchange, error: ProxyError) -> None:
        """The body is too large to be gathered, or there is no room. Where nobody must judge it, it goes on as it comes, and that is written down."""
        if self.must_read or not self.peek or (self.batches and _is_batch(x, x.gathered or b"") is not False):
            x.fail(error)
            return
        x.whole()
        audit, allowance, told = self.audit, self.allowance, self._told_by_head()
        if audit is not None and audit.blocked:
            self._answer(x, 503, "audit-unavailable", ())
            return
        x.ledger = ledger = Ledger(x, self, audit, ())
        ledger.judged(Verdict(not self.ruled, "", error.kind), "shadow-denied" if self.ruled else "allowed")
        if told and allowance is not None and not self.ruled:
            verdict = allowance.judge(told[0])
            if not verdict.allowed:
                ledger.calls = told
                ledger.judged(verdict, "shadow-denied" if self.shadow else "denied")
                if not self.shadow:
                    self._answer(x, 403, verdict.reason, told)
                    return
        self._limit(x, ())

    def gathered(self, x: Exchange) -> None:
        """The whole body is in `x.rest`."""
        calls: tuple[Call, ...] = ()
        try:
            body = x.rest if x.rest and x.plan.length >= 0 else payload(x)
            calls = calls_of(body) if body or self.names_calls else ()
            if calls and (mirror := self.compared) is not None and (mirror.modern or len(calls) > 1 or calls[0].raw_meta):
                mirror.check(calls)
        except CallError as error:
            self._misread(x, error, calls, refused=self.names_calls or (self.batches and _is_batch(x, x.rest or b"") is not False))
        else:
            self._judge(x, calls)

    def _misread(self, x: Exchange, error: CallError, calls: tuple[Call, ...], *, refused: bool) -> None:
        """The body can not be judged, or is not what its head says. Where rules only watch, or nobody asks for them, it goes on."""
        audit = self.audit
        if audit is not None:
            if audit.blocked:
                self._answer(x, 503, "audit-unavailable", calls)
                return
            decision = "denied" if refused else "shadow-denied" if self.shadow else "allowed"
            x.ledger = Ledger(x, self, audit, calls)
            x.ledger.judged(Verdict(decision == "allowed", "", error.kind), decision)
        if refused:
            self._refuse_call(x, error)
        else:
            self._limit(x, calls)

    def _told_by_head(self) -> tuple[Call, ...]:
        call = self.mirror.call if self.mirror is not None else None
        return () if call is None else (call,)

    def _judge(self, x: Exchange, calls: tuple[Call, ...]) -> None:
        """The tool rules."""
        audit = self.audit
        if calls and self.keeps_account:
            if audit is not None and audit.blocked:
                self._answer(x, 503, "audit-unavailable", calls)
                return
            x.ledger = Ledger(x, self, audit, calls)
        allowance = self.allowance
        if allowance is not None and calls:
            try:
                verdict = allowance.judge(calls[0]) if len(calls) == 1 else allowance.judge_all(calls)
            except CallError as error:
                self._misread(x, error, calls, refused=not allowance.shadow)
                return
            if x.ledger is not None:
                x.ledger.verdict = verdict
            if not verdict.allowed:
                if x.ledger is not None:
                    x.ledger.decision = "shadow-denied" if allowance.shadow else "denied"
                if not allowance.shadow:
                    self._answer(x, 403, verdict.reason, calls)
                    return
        self._limit(x, calls)

    def _limit(self, x: Exchange, calls: tuple[Call, ...]) -> None:
        """Rates, quotas, places."""
        if self.gate is not None:
            admit = self.counts
            if admit is not None and len(calls) < 2:
                tool = calls[0].name if self.tooled and calls and calls[0].method == "tools/call" else None
                found = admit(unix(), self.network or x.client.network, self.identity, tool)
            else:
                found = self._count(self.gate, x, calls)
            if found is not None:
                self._counted(x, found, calls)
                return
        self._lease(x)

    def _count(self, gate: Gate, x: Exchange, calls: tuple[Call, ...]) -> Denied | Held | None:
        """Of a batch, or of what may be exempt."""
        now, where, tools = unix(), self.network or x.client.network, tools_of(calls)
        if self.exemption is Exemption.CERTAIN or (self.exemption is Exemption.IF_BODY_SAYS and self._discovers(x, calls)):
            return gate.probe(now, where)
        if len(tools) > 1:
            return gate.admit_batch(now, where, self.identity, tools)
        return gate.admit(now, where, self.identity, tools[0] if tools else None)

    def _counted(self, x: Exchange, found: Denied | Held, calls: tuple[Call, ...]) -> None:
        """More than a yes."""
        if isinstance(found, Denied):
            self._too_many(x, found, calls)
            return
        if x.ledger is None:
            x.ledger = Ledger(x, self, None, ())
        x.ledger.held = found
        self._lease(x)

    @staticmethod
    def _discovers(x: Exchange, calls: tuple[Call, ...]) -> bool:
        """Is it what its head claims?"""
        return discovers(calls) and x.rest is not None and len(x.rest) <= DISCOVER_BODY

    def _lease(self, x: Exchange) -> None:
        """With our credential, where the upstream wants one."""
        outbound = self.outbound
        if outbound is not None:
            request = Outgoing.of(x.plan.heads[0], payload(x)) if outbound.needs_body else None
            found = outbound.lines(self.principal, self.credentials, unix(), request)
            if isinstance(found, Ask):
                self._ask(x, found.question, self._lease)
                return
            if isinstance(found, ProxyError):
                x.fail(found)
                return
            x.ending = b"\r\n%b\r\n" % found
            if x.ledger is None:
                x.ledger = Ledger(x, self, None, ())
        tracer = self.tracer
        if tracer is not None and (x.ledger is None or x.ledger.trace is None):
            trace = tracer.begin(x)
            if trace is not None:
                if x.ledger is None:
                    x.ledger = Ledger(x, self, None, ())
                x.ledger.trace = trace
        x.asked = 0  # of this request; nobody else tidies up behind an exchange without a ledger
        x.lease(monotonic())

    # -- who is it? ----------------------------------------------------------------------------------------------------------------------

    def _look_again(self, x: Exchange) -> None:
        """The token ended, or nobody knew it yet."""
        if self.question is not None:
            self._ask(x, self.question, self._judge_anew)
            return
        verdict = self.admission.who(self.credentials, clock.wall, self.network or x.client.network)
        if isinstance(verdict, Ask):
            self._ask(x, verdict.question, self.begin)
        elif isinstance(verdict, Accepted) and self.principal is not None and verdict.principal.name == self.principal.name:
            self.accept(verdict)
            self.prepare()
            self.until = max(self.until, nextafter(clock.wall, inf))  # it was judged just now
            self.begin(x)
        else:
            refused = verdict if isinstance(verdict, Refused) else Refused("bad-token")
            x.refuse(refused.status, refused.kind, self.admission.refusal(refused, self.origin, x.plan.responses.fields))

    def _ask(self, x: Exchange, question: Question, go_on: Callable[[Exchange], None]) -> None:
        x.asked += 1
        if x.asked > ASKED:
            x.fail(ProxyError("no-answer-to-a-question", Side.INTERNAL, 503))
        else:
            x.ask(question, go_on)

    def _judge_anew(self, x: Exchange) -> None:
        """Now it is known: the plan for this head, as if it came just now."""
        try:
            plan = x.client.shelf.plan_for(self.head, h2=x.plan.version == 20, address=x.client.network)
        except ProxyError as error:
            x.fail(error)
            return
        x.plan = plan
        if plan.answer is not None:
            answer, closing = plan.answer, plan.answer_close
            x.refuse(plan.status, plan.reason.decode(), lambda close: closing if close else answer)
        elif plan.guard is None:
            x.asked = 0
            x.lease(monotonic())
        else:
            plan.guard.begin(x)

    # -- answers of our own ----------------------------------------------------------------------------------------------------------------

    def refused(self, x: Exchange, status: int, reason: str, bytes_out: int) -> None:
        """Its head was enough to refuse it: nothing else is told when it is over."""
        self.note_refusal(x, reason)
        if x.ledger is not None:
            x.ledger.over(status, bytes_out, b"refused")
            x.ledger = None

    def note_refusal(self, x: Exchange, reason: str) -> None:
        """It is being refused, for whatever reason: the audit log must know, unless it cannot be written just now; a trace, too."""
        if self.tracer is not None:
            self._trace_refusal(x, self.tracer, reason)
        audit, ledger = self.audit, x.ledger
        if audit is None:
            return
        if ledger is None:
            if audit.blocked:
                return
            ledger = x.ledger = Ledger(x, self, audit, ())
        elif ledger.audit is None and not audit.blocked:
            ledger.audit = audit
        if ledger.decision != "denied":
            ledger.judged(Verdict(False, "", reason), "denied")

    def _trace_refusal(self, x: Exchange, tracer: Tracer, reason: str) -> None:
        if x.ledger is None or x.ledger.trace is None:
            trace = tracer.sampled(x.plan.heads[0] if x.plan.heads else self.head)
            if trace is None:
                return
            if x.ledger is None:
                x.ledger = Ledger(x, self, None, ())
            x.ledger.trace = trace
        if x.ledger.trace is not None:
            x.ledger.trace.reason = reason

    def _answer(self, x: Exchange, status: int, kind: str, calls: tuple[Call, ...]) -> None:
        ids, fields = ids_of(calls), x.plan.responses.fields
        x.refuse(status, kind, lambda close: replies.rpc_error(status, status, "", ids, kind, fields, close=close))

    def _refuse_call(self, x: Exchange, error: CallError) -> None:
        fields = x.plan.responses.fields
        x.refuse(
            error.status,
            error.kind,
            lambda close: replies.rpc_error(error.status, error.code, "", error.id, error.kind, fields, close=close),
        )

    def _too_many(self, x: Exchange, denied: Denied, calls: tuple[Call, ...]) -> None:
        if not x.request_ended and x.ledger is None and 0 < x.plan.length <= ASIDE and self.admission.route.mcp and not x.plan.expects:
            x.gather(ASIDE)  # it is nearly here: then the answer says whom it is for, and the connection can go on
            return
        if x.ledger is not None:
            x.ledger.judged(Verdict(False, f"limits {denied.name}", denied.kind), "denied")
        if not calls and x.request_ended and x.rest and self.admission.route.mcp:
            try:
                calls = calls_of(payload(x))  # only to tell whom the answer is for
            except CallError:
                calls = ()
        jsonrpc, head_only, ids, fields = self.admission.route.mcp, x.plan.method == b"HEAD", ids_of(calls), x.plan.responses.fields
        x.refuse(
            denied.status,
            denied.kind,
            lambda close: too_many(denied, jsonrpc=jsonrpc, close=close, id=ids, head_only=head_only, extra=fields),
        )


def _is_batch(x: Exchange, body: bytes | bytearray) -> bool | None:
    """Does the body that begins so hold several calls? None: that cannot be said yet."""
    start = bytes(body[:GLANCE])
    if x.plan.length < 0:
        pieces: list[bytes] = []
        ChunkedScanner(REQUEST).feed(start, pieces)
        start = b"".join(pieces)
    found = opens_batch(start)
    return False if found is None else True if found[1] or len(start) == GLANCE else None


def payload(x: Exchange) -> bytes:
    """The request's whole body without its framing."""
    body = x.rest or b""
    if x.plan.length >= 0:
        return body
    pieces: list[bytes] = []
    ChunkedScanner(REQUEST).feed(body, pieces)  # it was judged when it came
    return b"".join(pieces)
