"""May this head come in on this route, and as whom? The part of a judgement that policies make, once per distinct head (docs/request.md, step 2).

    where from? ─▶ which host? ─▶ which web page? ─▶ who? ─▶ with which scopes? ─▶ Found: what the next hop is told, and a guard for what is left

Each step may end it with an answer of our own: 403, 204 for a preflight, 401 or 403 with a challenge. What needs the body or the moment is the guard's
(edge/guard). What the world must be asked first stands in the guard as a question: then the plan is for this one request, and judged again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from mcpproxy.config.model import Route, Upstream
from mcpproxy.config.policies import Auth
from mcpproxy.edge.facts import Caller, Told, client_line, origin_of, said_by_proxy, short_hash, who_line
from mcpproxy.edge.guard import Guard
from mcpproxy.edge.tracing import Tracer
from mcpproxy.errors import ProxyError
from mcpproxy.http import replies
from mcpproxy.http.forward import NOTHING, Dress
from mcpproxy.http.framing import NO_BODY
from mcpproxy.http.head import HeadError, RequestHead
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.mirror import Mirror
from mcpproxy.mcp.mirror import read as read_mirror
from mcpproxy.observe.audit import AuditLog
from mcpproxy.policy.exempt import Exemption, exemption
from mcpproxy.policy.failures import Failures
from mcpproxy.policy.hints import Hints
from mcpproxy.policy.limits import Gate, network
from mcpproxy.policy.network import Networks
from mcpproxy.policy.origin import Origins
from mcpproxy.policy.outbound import Outbound
from mcpproxy.policy.present import NOT_KNOWN, NOTHING_SHOWN, Look, ours
from mcpproxy.policy.resource import Endpoint, public_url
from mcpproxy.policy.tools import Rules
from mcpproxy.policy.verdict import Accepted, Ask, Authenticator, Credential, Principal, Refused, judge_by_any

as_json = msgspec.json.encode
Fields = tuple[tuple[bytes, bytes], ...]
SAYS_NOTHING = Mirror(False, None)
UNREACHABLE_S = 10  # seconds after which an issuer that could not be asked may be asked again
PEEK = 1 << 20  # bytes of a body that are looked at where no rule says how many (limits of tools, the audit log)
# What some frameworks take for the method, whatever the request line says: where anybody judges, the server must see the method that was judged.
OTHER_METHODS = frozenset({b"x-http-method-override", b"x-http-method", b"x-method-override"})


@dataclass(slots=True)
class Found:
    """A judgement."""

    told: Told
    dress: Dress | None
    about: bytes = b""  # members for the log line, each with its leading comma
    guard: Guard | None = None
    principal: Principal | None = None
    answer: Callable[[bool], bytes] | None = None  # of our own: rendered with or without `Connection: close`
    status: int = 0
    kind: str = ""


@dataclass(slots=True)
class Staff:
    """What one route needs of the other rooms to judge, made once (assemble)."""

    authenticators: tuple[Authenticator, ...] = ()
    auths: tuple[Auth, ...] = ()
    look: Look | None = None  # where credentials are looked for; None: nobody is asked who he is
    failures: Failures | None = None  # what callers may cost who show what is worth nothing; None: they cost little
    gate: Gate | None = None
    rules: Rules | None = None
    hints: Hints | None = None  # of the upstream, where a rule asks what tools say of themselves
    outbound: Outbound | None = None
    audit: AuditLog | None = None
    tracer: Tracer | None = None
    dress: Dress | None = None
    scheme: str = "https"  # of the listener

    @property
    def idle(self) -> bool:
        """It has nothing to say."""
        return (
            self.look is None
            and self.gate is None
            and self.rules is None
            and self.outbound is None
            and self.audit is None
            and self.tracer is None
        )


class Admission:
    """The policies of one route on one listener."""

    def __init__(self, index: int, route: Route, upstream: Upstream, networks: Networks, staff: Staff) -> None:
        self.index, self.route, self.networks = index, route, networks
        self.authenticators, self.auths, self.look, self.scheme = staff.authenticators, staff.auths, staff.look, staff.scheme
        self.dress, self.gate, self.rules, self.hints = staff.dress, staff.gate, staff.rules, staff.hints
        self.outbound, self.audit, self.failures, self.tracer = staff.outbound, staff.audit, staff.failures, staff.tracer
        self.shows = staff.outbound  # its `static` may change: then all plans are made anew
        if staff.outbound is not None and not staff.outbound.each:
            self.outbound = None
        self.hosts = frozenset(route.allow_hosts)
        keys = [name for auth in staff.auths if auth.type == "api-key" for name in auth.headers]
        self.origins = Origins(route.allow_origins, keys) if route.allow_origins else None
        self.scopes = frozenset(route.scopes)
        self.peek = route.tools.peek if route.tools is not None else PEEK
        self.principal_header = upstream.principal_header.encode() if upstream.principal_header else b""
        self.drop = ours(upstream) if self.look is None else self.look.ends_here(upstream)
        if not (self.look is None and self.gate is None and self.rules is None and self.audit is None):
            self.drop |= OTHER_METHODS
        self.untrailed = self.drop | (self.look.fields if self.look is not None else NOTHING)
        self.where = b',"route":%b,"upstream":%b' % (as_json(f"route[{index}]"), as_json(route.upstream))

    def judge(self, head: RequestHead, raw: bytes, caller: Caller, now: float, address: bytes = b"") -> Found:
        """`raw` is the head as it came, `now` Unix seconds, `address` what the connection's is counted as (it changes no judgement that is kept)."""
        found = Found(Told(drop=self.drop, lines=self.shows.static if self.shows is not None else b""), self.dress)
        guard = Guard(self, origin_of(head, caller, self.scheme), has_body=head.framing != NO_BODY)
        try:
            self._judge(head, caller, found, guard, now, address)
        except ProxyError as error:  # what is shown, or said about the call, in a way that nobody can judge
            self._deny(found, guard, error.status, error.kind, code=error.code if isinstance(error, CallError) else None)
        found.about, found.principal = guard.who + client_line(found.told.address), guard.principal
        guard.where += client_line(found.told.address)
        if found.answer is None:
            guard.head = raw if guard.question is not None else b""
            found.guard = guard if guard.needed() else None
        elif found.kind and (self.audit is not None or self.tracer is not None):
            guard.head = raw if self.tracer is not None else b""
            found.guard = guard
        return found

    def bars(self, head: RequestHead, caller: Caller) -> Found | None:
        """Where from, and which host: asked also for what is answered to everybody who is let near. None: come in."""
        found = Found(Told(), self.dress)
        guard = Guard(self, origin_of(head, caller, self.scheme), has_body=False)
        if not self._place(head, caller, found, guard):
            return None
        found.about = client_line(found.told.address)
        return found

    def _place(self, head: RequestHead, caller: Caller, found: Found, guard: Guard) -> bool:
        """Does it end here?"""
        barred = caller.barred
        if caller.proxy is not None:
            self._relay(head, caller.proxy, found.told)
            barred = self.networks.barred(found.told.address.decode())
        if self.index in barred:
            self._deny(found, guard, 403, "address-denied")
        elif self.hosts and not host_allowed(head.host, self.hosts):
            self._deny(found, guard, 403, "host-denied")
        return found.answer is not None

    def _judge(self, head: RequestHead, caller: Caller, found: Found, guard: Guard, now: float, address: bytes) -> None:
        """Step by step. Raises HeadError 400, 431 for what is shown in two ways, CallError 400, 415 for what is said in two ways about the call."""
        told = found.told
        session = head.first(b"mcp-session-id")
        guard.where = self.where + (b',"session":"%b"' % short_hash(session) if session else b"")
        origins, page = self.origins, head.first(b"origin")
        allowed = origins is not None and (page is None or origins.allows(page))
        if origins is not None and self.route.cors:  # from here on every answer can be read by the page that asked
            found.dress = dressed(self.dress, origins.grants(page) if page is not None and allowed else origins.varies())
        if self._place(head, caller, found, guard):
            return
        if origins is not None:
            origin = one(head, b"origin", "bad-origin")
            if not allowed:
                self._deny(found, guard, 403, "origin-denied")
                return
            asks = head.method == b"OPTIONS" and head.first(b"access-control-request-method") is not None
            if self.route.cors and origin is not None and asks:
                own = self.dress.fields() if self.dress is not None else ()
                fields = (*origins.preflight(origin, head.first(b"access-control-request-headers") or b""), *own)
                found.answer, found.status = lambda close: replies.empty(204, fields, close=close), 204
                return
        guard.network = network(told.address.decode()) if told.address else b""
        if self.look is not None:
            shown = self.look.credential(head)
            shown = shown or caller.certificate  # a certificate counts where the head shows nothing
            guard.credentials = (shown,) if shown is not None else ()
            verdict = self.who(guard.credentials, now, guard.network or address)
            if isinstance(verdict, Refused):
                guard.who = who_line(verdict.principal)
                self._deny(found, guard, verdict.status, verdict.kind, self.challenge(verdict, guard.origin))
                return
            guard.accept(verdict)
        if self.route.mcp:
            self._read(head, guard)
        guard.prepare()
        if guard.principal is not None and self.principal_header:
            told.lines += b"%b: %b\r\n" % (self.principal_header, field_value(guard.principal.name))

    def _read(self, head: RequestHead, guard: Guard) -> None:
        """What the head says about the call in its body."""
        claim = head.first(b"mcp-method")
        if self.gate is not None:
            guard.exemption = exemption(
                head.method, head.path, claim, 0 if head.framing == NO_BODY else 1
            )  # its length is looked at every time
        guard.traced = head.first(b"traceparent") is not None
        if head.framing != NO_BODY and (self.rules is not None or self.audit is not None or self.gate is not None):
            try:
                guard.mirror = read_mirror(head.fields)
            except CallError:
                if (self.rules is not None and not self.rules.shadow) or (self.gate is not None and self.gate.needs_tool):
                    raise
                guard.mirror, guard.exemption = SAYS_NOTHING, Exemption.NONE  # nobody judges its body

    def who(self, shown: tuple[Credential, ...], now: float, address: bytes = b"") -> Accepted | Ask | Refused:
        """Who shows this? `address` pays if it is worth nothing."""
        if not shown:
            return NOTHING_SHOWN
        payer = self.failures.payer(address) if self.failures is not None else None
        found = judge_by_any(self.authenticators, shown[0], now, payer) or NOT_KNOWN
        return self._scoped(found) if isinstance(found, Accepted) else found

    def _scoped(self, accepted: Accepted) -> Accepted | Refused:
        """Scopes are a token's; keys and certificates have none, and need none."""
        principal = accepted.principal
        if not self.scopes or not principal.scoped or self.scopes <= principal.scopes:
            return accepted
        return Refused("insufficient-scope", 403, "insufficient_scope", principal=principal)

    def challenge(self, refused: Refused, origin: tuple[str, str]) -> Fields:
        """How to do better (RFC 6750 §3)."""
        if refused.retry_after:
            return ((b"Retry-After", b"%d" % refused.retry_after),)
        if refused.status == 503:
            return ((b"Retry-After", b"%d" % UNREACHABLE_S),)
        endpoint = Endpoint(self.route, public_url(self.route, *origin), self.auths)
        if refused.status == 403:
            value = endpoint.insufficient(self.scopes)
        elif refused is NOTHING_SHOWN:
            value = endpoint.missing()
        else:
            value = endpoint.invalid(refused.kind, refused.description)
        return ((b"WWW-Authenticate", value),)

    def refusal(self, refused: Refused, origin: tuple[str, str], fields: Fields) -> Callable[[bool], bytes]:
        """The answer to somebody who was known a moment ago."""
        more, jsonrpc = (*self.challenge(refused, origin), *fields), self.route.mcp
        return lambda close: replies.reply(refused.status, refused.kind, jsonrpc=jsonrpc, close=close, extra=more)

    def _deny(self, found: Found, guard: Guard, status: int, kind: str, fields: Fields = (), *, code: int | None = None) -> None:
        """The answer is no. `code`: JSON-RPC's or MCP's own, where one fits."""
        more = (*fields, *(found.dress.fields() if found.dress is not None else ()))
        found.answer, found.status, found.kind = refused(status, kind, more, mcp=self.route.mcp, code=code), status, kind

    def _relay(self, head: RequestHead, peer: str, told: Told) -> None:
        """What a trusted proxy says about the client goes on; its own address joins the chain."""
        chain = [value for _, lower, value in head.fields if lower == b"x-forwarded-for"]
        client = self.networks.client(peer, chain)
        told.address = client.encode()
        before = b", ".join(chain)
        told.forwarded = b"X-Forwarded-For: %b%b\r\nX-Real-IP: %b\r\nX-Request-Id: " % (
            before + b", " if before else b"",
            peer.encode(),
            told.address,
        )
        told.proto, told.host = said_by_proxy(head)


def refused(status: int, kind: str, fields: Fields, *, mcp: bool, code: int | None = None) -> Callable[[bool], bytes]:
    """Renders an answer that says no."""
    if mcp and code is not None:
        return lambda close: replies.rpc_error(status, code, "", b"", kind, fields, close=close)
    return lambda close: replies.reply(status, kind, jsonrpc=mcp, close=close, extra=fields)


def host_allowed(host: bytes, allowed: frozenset[str]) -> bool:
    """`example.com`, or `*.example.com` for what is below it."""
    name = host.decode("latin-1").removesuffix(".")
    if name in allowed:
        return True
    while "." in name:
        name = name.partition(".")[2]
        if f"*.{name}" in allowed:
            return True
    return False


def one(head: RequestHead, name: bytes, kind: str) -> bytes | None:
    """The value of a field that may come once."""
    values = [value for _, lower, value in head.fields if lower == name]
    if len(values) > 1:
        raise HeadError(400, kind)
    return values[0] if values else None


def dressed(dress: Dress | None, fields: Fields) -> Dress | None:
    """With these said by us, whatever the server says about CORS."""
    if not fields and dress is None:
        return None
    return (dress or Dress())._replace(put=(*(dress.put if dress else ()), *fields), drop=(dress.drop if dress else NOTHING) | CORS_FIELDS)


def field_value(name: str) -> bytes:
    """A caller's name in a field: visible ASCII as it is, everything else percent-encoded (RFC 8187 without its frame)."""
    return quote(name, safe=" !#$&'()*+,/:;=?@[]^`{|}~").encode()


CORS_FIELDS = frozenset(
    b"access-control-" + name
    for name in (b"allow-origin", b"allow-credentials", b"allow-methods", b"allow-headers", b"expose-headers", b"max-age")
)
