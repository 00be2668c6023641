"""A head is judged once.

`Judge.request(head)` and `judge_response(head)` are the careful, slow half: h11 parses, we refuse, the router picks, the next hop's head is rendered.
The result is an immutable Plan; the fast half is one dictionary look-up (edge/store). Sans-io: a plan depends on the head's bytes, the facts of the
connection that are part of the key (edge/shelf), the listener and the configuration, never on a body. What may change with time (a token's end, a
limit) is not in the plan but asked of its guard (edge/guard) every time. It is one file because request and response plans are one idea.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from mcpproxy.clock import unix
from mcpproxy.config.model import Route
from mcpproxy.config.policies import Auth
from mcpproxy.edge.cut import RESPONSE_CUTS, Cut, Template, cut, template
from mcpproxy.edge.facts import ANYBODY, DIRECT, Caller, origin_of, short_hash
from mcpproxy.edge.router import Router
from mcpproxy.edge.store import Store
from mcpproxy.http import replies
from mcpproxy.http.forward import NOTHING, Dress, render_request, render_response
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE
from mcpproxy.http.head import HeadError, HeadLimits, RequestHead, parse_request, parse_response
from mcpproxy.observe.accesslog import OURS, Place
from mcpproxy.policy.limits import identity
from mcpproxy.policy.resource import WELL_KNOWN, Endpoint, Rewriting, asks_for_issuer, endpoint_path, public_url
from mcpproxy.policy.resource import answer as metadata
from mcpproxy.policy.verdict import Principal
from mcpproxy.upstream.pool import Pool

if TYPE_CHECKING:
    from mcpproxy.edge.admission import Admission, Found
    from mcpproxy.edge.affinity import Affinity, Binding, Home
    from mcpproxy.edge.guard import Guard

CHUNKED_LENGTH, UNTIL_CLOSE_LENGTH, INTERIM_LENGTH, LOCAL_LENGTH = (
    -1,
    -2,
    -3,
    -4,
)  # Plan.length when it is no number: never equal to a count of bytes
CHALLENGE = re.compile(rb"(\r\nwww-authenticate: )([^\r]*)", re.IGNORECASE)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")  # a client's own id is taken only when it cannot break a log line or a header

ACME_CHALLENGE = b"/.well-known/acme-challenge/"
SILENT = frozenset(
    {"credential-in-url"}
)  # refusals for which nothing of the request line is written down: the secret may be anywhere in it
UNTOLD = b'"method":null,"host":null,"path":null,"protocol":null'
CODINGS = frozenset({b"accept-encoding", b"range"})
SESSION, MEMBER = b"mcp-session-id", b"mcpproxy-member"
ROUTE_BITS = 16  # of what the gateway process takes for a route: its index; above it, which tool rules concern the caller
ORIGINS = 64  # a route's public names that are remembered
NOWHERE = cast(Pool, None)  # the pool of a plan that is answered here: nobody asks it for a link


class Documents(Protocol):
    """What is answered at `/.well-known/`, whoever asks."""

    def find(self, head: RequestHead) -> Callable[[bool], bytes] | None:
        """Renders the answer to this head, if it asks for one of these."""


@dataclass(frozen=True, slots=True)
class LiveRoute:
    """A route of the configuration with what it needs at run time."""

    config: Route
    pool: Pool
    host_policy: str  # upstream.host: "upstream", "keep" or a name
    place: Place = OURS
    admission: Admission | None = None  # None: everybody may do everything
    affinity: Affinity | None = None  # None: sessions are nobody's business here
    dress: Dress | None = None  # what is changed in the heads of its responses
    auths: tuple[Auth, ...] = ()
    call: bytes = b""  # what the gateway process is told of each request, up to its route and caller; empty: another server
    index: int = 0  # of the route
    rewritings: dict[tuple[str, bytes], Rewriting] = field(
        default_factory=dict
    )  # by the origin that clients use, and the Host that is kept


@dataclass(slots=True, eq=False)
class Plan:
    """What to do with every request that has this head. Nobody changes it after it was compiled."""

    heads: tuple[bytes, ...]  # for the upstream, one per distinct authority (endpoint.index), up to the per-connection fields
    length: int  # of the body; CHUNKED_LENGTH when chunked, LOCAL_LENGTH when answered here
    method: bytes
    version: int  # 10, 11 or 20
    keep: bool  # may the client's connection go on afterwards
    pool: Pool | Home  # a Home: the session of this head lives at one endpoint
    route: Route | None
    responses: Responses
    about: bytes  # the log line's members for this head
    request_id: bytes | None = None  # the client's own
    upgrade: bytes | None = None
    expects: bool = False  # the client waits for 100 before it sends its body
    opens: bool = True  # it names no session: one in the response is new; the gateway process says with each answer whose it is
    answer: bytes | None = None  # answered here, nothing goes upstream
    answer_close: bytes = b""
    status: int = 0
    body: int = 0  # bytes of body of a request that is answered here; -1: nobody knows, its connection ends
    reason: bytes = b""  # slug of a refusal that is answered here
    lasts: bool = True  # may be remembered
    place: Place = OURS  # what it is counted under
    guard: Guard | None = None  # what is asked every time; of a refusal that is answered here: who writes it into the audit log
    address: bytes = b""  # of the client, when the head says it (a trusted proxy's X-Forwarded-For)
    rewriting: Rewriting | None = None  # the upstream is an OAuth resource that does not know its public URL
    document: bool = False  # and this asks for its metadata
    forwarded: bytes = b""  # then: what replaces the connection's own fields for the upstream, up to the request id
    untrailed: frozenset[bytes] = (
        NOTHING  # names of fields (lower case) that may not come behind the body: credentials, and what only we say
    )
    binding: Binding | None = None  # what seals a session that its answer opens
    usual: bool = field(init=False)  # nothing about it asks for a second look at its answer

    def __post_init__(self) -> None:
        self.usual = not self.expects and not self.document

    def refused(self, status: int, kind: str) -> Plan:
        """The plan for a head like this one that is refused after all, though route and caller are known: with their fields, audit line and trace."""
        assert self.route is not None
        mcp, head_only, fields = self.route.mcp, self.method == b"HEAD", self.responses.fields
        plan = copy(self)
        plan.length, plan.body, plan.pool, plan.route, plan.upgrade = LOCAL_LENGTH, self.length, NOWHERE, None, None
        plan.answer, plan.answer_close = (
            replies.reply(status, kind, jsonrpc=mcp, close=close, extra=fields, head_only=head_only) for close in (False, True)
        )
        plan.keep = False  # nobody waits for the end of a body that nobody wants
        plan.status, plan.reason, plan.lasts = status, kind.encode(), False
        if plan.guard is None or (plan.guard.audit is None and plan.guard.tracer is None):
            plan.guard, plan.heads = None, ()
        return plan


@dataclass(slots=True, eq=False)
class ResponsePlan:
    """What to do with every response that has this head."""

    head: bytes  # for a client whose connection goes on
    head_close: bytes  # for one whose connection ends with this response
    verbatim: bool  # `head` equals what the upstream sent: pass its bytes on as they are
    length: int  # of the body; CHUNKED_LENGTH, UNTIL_CLOSE_LENGTH, INTERIM_LENGTH (1xx)
    sized: bool  # `length` came from Content-Length
    status: int
    keep_link: bool
    idle_hint: int | None  # Keep-Alive: timeout=, seconds
    client_can_go_on: bool  # false when only the end of the connection ends this body
    dechunk: bool
    events: bool  # text/event-stream, as plain text: a comment may be put between its events
    upgrade: bytes | None
    extra: bytes  # log members: the session a server just opened
    challenge: bool = False  # it names the metadata of an OAuth resource
    session: bytes = b""  # the server's id of one that it opens, and that clients must not see
    special: bool = field(init=False)  # it must be changed, or speaks against its endpoint
    usual: bool = field(init=False)  # nothing about it asks for a second look

    def __post_init__(self) -> None:
        self.special = self.challenge or self.status >= 500 or self.session != b""
        self.usual = self.keep_link and not self.special

    def rewritten(self, challenge: Callable[[bytes], bytes]) -> ResponsePlan:
        """With every WWW-Authenticate in other words, and the length that was hidden."""
        plan = copy(self)
        plan.head, plan.head_close = (
            CHALLENGE.sub(lambda found: found[1] + challenge(found[2]), head) for head in (self.head, self.head_close)
        )
        return plan


class Responses:
    """Response plans for one kind of request (HEAD or not, HTTP/1.0 or 1.1): a bounded store with templates."""

    def __init__(self, method: bytes, version: int, keep_alive_1_0: bool, entries: int, total: int, dress: Dress | None = None) -> None:
        self.method, self.version, self.keep_alive_1_0, self.dress = method, version, keep_alive_1_0, dress
        self.fields = dress.fields() if dress is not None else ()  # for answers of our own
        self.store: Store[ResponsePlan] = Store(entries, total)
        self.templates: Store[tuple[ResponsePlan, Template, Template, int]] = Store(entries, total)
        self.get = self.store.fresh.get  # HOT: bytes → ResponsePlan | None

    def judge(self, head: bytes) -> ResponsePlan:
        """The plan for a head the fast look-up did not know. Raises HeadError (502)."""
        plan = self.store.older(head)
        if plan is not None:
            return plan
        found = cut(RESPONSE_CUTS, head)
        if found is not None:
            made = self.templates.find(found.key)
            if made is not None:
                plan = self._fill(head, found, *made)
                if self.store.earned(head):
                    self.store.put(head, plan)
                return plan
        plan = self.compile(head)
        if self.store.earned(head):
            self.store.put(head, plan)
        if found is not None and plan.length != INTERIM_LENGTH and self.templates.earned(found.key):
            self._remember(found, plan)
        return plan

    def compile(self, head: bytes) -> ResponsePlan:
        """The slow half."""
        parsed = parse_response(head, self.method)
        old = self.version == 10
        interim = 100 <= parsed.status < 200
        dechunk = self.version != 11 and parsed.framing == CHUNKED
        ends_by_close = self.version != 20 and (dechunk or parsed.framing == UNTIL_CLOSE or (old and not self.keep_alive_1_0))
        length = {
            NO_BODY: 0,
            LENGTH: parsed.length,
            CHUNKED: CHUNKED_LENGTH,
            UNTIL_CLOSE: UNTIL_CLOSE_LENGTH,
        }[parsed.framing]
        dress = self.dress
        session = b""
        if dress is not None and dress.opens:
            ids = [value for _, lower, value in parsed.fields if lower == SESSION]
            if 200 <= parsed.status < 300 and len(ids) == 1:
                session = ids[0]
            if not session:
                dress = dress._replace(drop=dress.drop | {SESSION})
        go_on = render_response(parsed, close=False, client_version=self.version, dechunk=dechunk, dress=dress)
        opened = parsed.first(SESSION) if dress is None or SESSION not in dress.drop else None
        return ResponsePlan(
            head=go_on,
            head_close=render_response(parsed, close=True, client_version=self.version, dechunk=dechunk, dress=dress),
            verbatim=go_on == head,
            length=INTERIM_LENGTH if interim else length,
            sized=parsed.framing == LENGTH,
            status=parsed.status,
            keep_link=parsed.keep_alive and parsed.framing != UNTIL_CLOSE,
            idle_hint=parsed.keep_alive_timeout,
            client_can_go_on=not ends_by_close,
            dechunk=dechunk,
            events=(parsed.first(b"content-type") or b"").lower().startswith(b"text/event-stream")
            and (parsed.first(b"content-encoding") or b"identity").lower() == b"identity",
            upgrade=parsed.upgrade,
            extra=_said(opened, parsed.first(MEMBER) if dress is not None and dress.gateway else None) if not interim else b"",
            session=session,
            challenge=any(lower == b"www-authenticate" and b"resource_metadata" in value.lower() for _, lower, value in parsed.fields),
        )

    def _remember(self, found: Cut, plan: ResponsePlan) -> None:
        go_on, close = template(plan.head, found), template(plan.head_close, found)
        if go_on is not None and close is not None:
            names = [name.lower() for name in found.names]
            length_at = names.index(b"content-length") if b"content-length" in names else -1
            like = (plan, go_on, close, length_at)
            filled = self._fill(b"", found, *like)
            if (
                filled.extra == plan.extra and filled.session == plan.session
            ):  # not so when a field came twice and only its second line was cut
                self.templates.put(found.key, like)

    @staticmethod
    def _fill(head: bytes, found: Cut, like: ResponsePlan, go_on: Template, close: Template, length_at: int) -> ResponsePlan:
        plan = copy(like)
        plan.head, plan.head_close = go_on.fill(found.values), close.fill(found.values)
        plan.verbatim = plan.head == head
        if plan.sized and length_at >= 0:
            plan.length = int(found.values[length_at])
        if plan.extra:
            names = [name.lower() for name in found.names]
            if SESSION in names:
                value = found.values[names.index(SESSION)]
                plan.extra = b',"new_session":"%b"' % short_hash(value)
                plan.session = plan.session and value
        return plan


KindOfRequest = tuple[bool, int, bool, Dress | None]  # HEAD?, version, HTTP/1.0 with keep-alive?, what is changed
COMMON = ((False, 11, False), (False, 20, False))  # nearly all; answers to others get little of the memory
KINDS = 64  # remembered at once; a pattern of allowed origins could make any number
COMMON_SHARE, SHARE = 8, 256  # parts of the memory for response heads: two common kinds and all others together take the whole


class Variants(dict[KindOfRequest, Responses]):
    """Response plans, for each kind of request apart."""

    def __init__(self, entries: int, total: int) -> None:
        self._entries, self._total = entries, total

    def bounded_as(self, other: Variants) -> bool:
        """May it stand for the other one? What a response's head means does not depend on the configuration."""
        return (self._entries, self._total) == (other._entries, other._total)

    def __missing__(self, kind: KindOfRequest) -> Responses:
        head, version, keep_alive_1_0, dress = kind
        if len(self) >= KINDS:
            self.clear()
        share = COMMON_SHARE if (head, version, keep_alive_1_0) in COMMON and dress is None else SHARE
        made = Responses(b"HEAD" if head else b"GET", version, keep_alive_1_0, self._entries, self._total // share, dress)
        self[kind] = made
        return made


@dataclass(slots=True)
class Judge:
    """Compiles request plans for one listener."""

    router: Router
    routes: tuple[LiveRoute, ...]
    limits: HeadLimits
    scheme: bytes  # b"https" or b"http": X-Forwarded-Proto
    variants: Variants
    documents: Documents | None = None  # what is answered here by path, whoever asks (RFC 9728 metadata, our own keys)
    health: bytes | None = None
    challenges: Callable[[bytes], bytes | None] | None = None  # token → what an authority wants to see (RFC 8555 §8.3)
    certified: frozenset[bytes] = frozenset()  # names of ours: no server may prove that they are its own
    redirect: bool = False
    redirect_port: int = 443
    draining: bool = False
    compiled: int = field(default=0)

    def request(self, head: bytes, caller: Caller = ANYBODY, *, h2: bool = False, address: bytes = b"") -> Plan:
        """The slow half for requests. Raises HeadError for what must be refused before its route is known (400, 405, 414, 431, …)."""
        self.compiled += 1
        parsed = parse_request(head, self.limits, h2=h2)
        about = describe(parsed)
        if self.health is not None and parsed.path == self.health:
            return self._local(parsed, about, 200, lambda close: replies.health(close=close))
        if self.challenges is not None and parsed.path.startswith(ACME_CHALLENGE):
            proof = self.challenges(parsed.path[len(ACME_CHALLENGE) :])
            if proof is not None:
                plan = self._local(parsed, about, 200, lambda close: replies.text(proof, close=close))
                plan.lasts = False
                return plan
            if parsed.host in self.certified and not self.redirect:
                return self._local(parsed, about, 404, lambda close: replies.reply(404, "no-route", jsonrpc=False, close=close), "no-route")
        if self.redirect:
            location = self._location(parsed)
            return self._local(parsed, about, 308, lambda close: replies.redirect(location, close=close))
        if self.documents is not None and parsed.path.startswith(b"/.well-known/"):
            make = self.documents.find(parsed)
            if make is not None:
                return self._local(parsed, about, 200, make)
        asks = endpoint_path(parsed.path)  # for the metadata of an endpoint: its route has them
        index = self.router.find(parsed.host, asks) if asks is not None else None
        if index is None:
            asks, index = None, self.router.find(parsed.host, parsed.path)
        if index is None:
            kind, status = ("no-route", 404) if self.router.knows_host(parsed.host) else ("unknown-host", 421)
            return self._local(parsed, about, status, lambda close: replies.reply(status, kind, jsonrpc=False, close=close), kind)
        live = self.routes[index]
        route = live.config
        if route.auth and live.admission is not None and (asks is not None or asks_for_issuer(parsed.path)):
            barred = live.admission.bars(parsed, caller)
            if barred is not None:
                return self._answered(parsed, about, barred, live.place)
        if route.auth and asks is None and asks_for_issuer(parsed.path):
            return self._local(parsed, about, 404, lambda close: metadata(None, parsed.method, close=close), "no-route")
        if asks is not None and route.auth:
            public = public_url(route, *origin_of(parsed, caller, self.scheme.decode()))
            endpoint = Endpoint(route, public, live.auths)
            return self._local(parsed, about, 200, lambda close: metadata(endpoint, parsed.method, close=close))
        guard: Guard | None = None
        told = DIRECT
        dress = live.dress
        principal: Principal | None = None
        affinity = live.affinity
        if live.admission is not None:
            found = live.admission.judge(parsed, head, caller, unix(), address)
            told, dress = found.told, found.dress
            if found.answer is not None:
                return self._answered(parsed, about, found, live.place)
            about += found.about
            guard, principal = found.guard, found.principal
            if guard is not None and guard.question is not None:
                affinity = None  # whose session it would be is not known yet, and nothing goes anywhere before that
        judged = route.tools is not None or (
            guard is not None and guard.audit is not None
        )  # neither rule nor audit sees what passes in a tunnel
        upgrade = parsed.upgrade if route.upgrade and not judged else None
        sent, bound = parsed, None
        if affinity is not None:
            bound = affinity.bind(parsed, principal, dress)
            sent, dress = bound.head, bound.dress
            about += bound.about
            if guard is not None:
                guard.where += bound.about
        target = strip(sent.target, route.path.encode()) if route.strip_prefix else sent.target
        if asks is not None and route.strip_prefix:
            target = WELL_KNOWN.encode() + strip(asks, route.path.encode()).rstrip(b"/")
        rewriting = self._rewriting(live, parsed, caller) if not route.auth and route.mcp else None
        drop = told.drop | CODINGS if asks is not None and rewriting is not None else told.drop  # what we must be able to read
        if bound is not None and bound.drop:
            drop |= bound.drop
        lines = told.lines
        if live.call:
            lines += said_to_gateway(live, principal)
        own = parsed.first(b"x-request-id")
        plan = Plan(
            heads=tuple(
                render_request(
                    sent,
                    target=target,
                    host=host,
                    proto=told.proto or self.scheme,
                    upgrade=upgrade is not None,
                    drop=drop,
                    lines=lines,
                    told_host=told.host,
                )
                for host in self._hosts(live, parsed)
            ),
            length=CHUNKED_LENGTH if parsed.framing == CHUNKED else parsed.length if parsed.framing == LENGTH else 0,
            method=parsed.method,
            version=parsed.version,
            keep=parsed.keep_alive and not self.draining,
            pool=live.pool if bound is None else bound.pool,
            route=route,
            place=live.place,
            responses=self._responses(parsed, dress),
            about=about,
            request_id=own if own is not None and REQUEST_ID.fullmatch(own) else None,
            upgrade=upgrade,
            expects=parsed.expect_continue,
            opens=parsed.first(SESSION) is None or live.call != b"",
            binding=None if bound is None else bound.binding,
            lasts=guard is None or guard.question is None,
            guard=guard,
            rewriting=rewriting,
            document=asks is not None,
            address=told.address,
            forwarded=told.forwarded,
            untrailed=live.admission.untrailed if live.admission is not None else NOTHING,
        )
        if plan.length > route.max_body:
            return plan.refused(413, "body-too-large")
        if bound is not None and bound.refused:
            return plan.refused(bound.status, bound.refused)
        if parsed.version == 20 and parsed.upgrade is not upgrade:
            return plan.refused(501, "upgrade-off")  # over HTTP/2 any 2xx would mean that a tunnel is open (RFC 8441 §5)
        return plan

    def _answered(self, head: RequestHead, about: bytes, found: Found, place: Place) -> Plan:
        """The policies of its route answer it."""
        assert found.answer is not None
        plan = self._local(head, (UNTOLD if found.kind in SILENT else about) + found.about, found.status, found.answer, found.kind)
        plan.guard, plan.lasts, plan.place = found.guard, False, place
        return plan

    def _hosts(self, live: LiveRoute, head: RequestHead) -> list[bytes]:
        """The Host for each of the upstream's authorities, in the order of endpoint.index."""
        authorities = live.pool.authorities
        if live.host_policy == "upstream":
            return authorities
        return [head.authority if live.host_policy == "keep" else live.host_policy.encode()] * len(authorities)

    def _rewriting(self, live: LiveRoute, head: RequestHead, caller: Caller) -> Rewriting:
        public = live.config.public_url or "://".join(origin_of(head, caller, self.scheme.decode()))
        key = "/".join(public.split("/", 3)[:3]), head.authority if live.host_policy == "keep" else b""
        known = live.rewritings.get(key)
        if known is None:
            if len(live.rewritings) >= ORIGINS:
                live.rewritings.clear()
            names = {f"{scheme}://{host.decode('latin-1')}" for scheme in ("http", "https") for host in self._hosts(live, head)}
            known = live.rewritings[key] = Rewriting(names, key[0], live.config.path if live.config.strip_prefix else "")
        return known

    def _responses(self, head: RequestHead, dress: Dress | None = None) -> Responses:
        return self.variants[head.method == b"HEAD", head.version, head.keep_alive and head.version == 10, dress]

    def _location(self, head: RequestHead) -> bytes:
        port = b"" if self.redirect_port == 443 else b":%d" % self.redirect_port
        return b"https://%b%b%b" % (head.host, port, b"" if head.target == b"*" else head.target)

    def _local(self, head: RequestHead, about: bytes, status: int, make: Callable[[bool], bytes], kind: str = "") -> Plan:
        answer, answer_close = make(False), make(True)
        if head.method == b"HEAD":
            answer, answer_close = only_head(answer), only_head(answer_close)
        return Plan(
            heads=(),
            length=LOCAL_LENGTH,
            method=head.method,
            version=head.version,
            keep=head.keep_alive and head.version != 10 and not self.draining,
            pool=NOWHERE,
            route=None,
            responses=self._responses(head),
            about=about,
            answer=answer,
            answer_close=answer_close,
            status=status,
            expects=head.expect_continue,
            body=0 if head.framing == NO_BODY else head.length if head.framing == LENGTH else -1,
            reason=kind.encode(),
        )


@dataclass(slots=True)
class RequestTemplate:
    """A plan for all heads that differ only in cut values (edge/cut)."""

    plan: Plan
    heads: tuple[Template, ...]
    length_at: int
    id_at: int
    worth_storing: bool  # the values differ little (lengths): the filled plan may well be met again

    @classmethod
    def of(cls, plan: Plan, found: Cut) -> RequestTemplate | None:
        """The template behind a compiled plan, or None when it is an answer, or its heads do not show the cut values one to one."""
        if plan.answer is not None:
            return None
        heads: list[Template] = []
        for head in plan.heads:
            made = template(head, found)
            if made is None:
                return None
            heads.append(made)
        names = [name.lower() for name in found.names]
        length_at = names.index(b"content-length") if b"content-length" in names else -1
        if length_at >= 0 and b"\r\nupgrade:" in found.key.lower():
            return None  # whether there may be an upgrade depends on the length
        id_at = names.index(b"x-request-id") if b"x-request-id" in names else -1
        if id_at >= 0 and found.values[id_at] != plan.request_id:
            return None  # it came twice, and only the second line was cut
        return cls(plan, tuple(heads), length_at, id_at, names == [b"content-length"])

    def plan_for(self, found: Cut, size: int, limits: HeadLimits) -> Plan:
        """The plan for these values in a head of this size. Raises what compiling would raise for them: 431."""
        plan = copy(self.plan)
        values = found.values
        if size > limits.head:
            raise HeadError(431, "head-too-large")
        if self.length_at >= 0:
            plan.length = int(values[self.length_at])
        if self.id_at >= 0:
            plan.request_id = values[self.id_at]
        plan.heads = tuple(head.fill(values) for head in self.heads)
        if plan.route is not None and plan.length > plan.route.max_body:
            return plan.refused(413, "body-too-large")
        return plan


def said_to_gateway(live: LiveRoute, principal: Principal | None) -> bytes:
    """Who asks, by which route, and which of its tool rules concern who asks: the gateway process shows in lists what these let it call."""
    rules = live.admission.rules if live.admission is not None else None
    bits = 0 if rules is None else rules.concerning(principal)
    caller = urlsafe_b64encode(identity(principal).encode()).rstrip(b"=")
    return b"%b%d;%b\r\n" % (live.call, live.index | bits << ROUTE_BITS, caller)


def _said(opened: bytes | None, member: bytes | None) -> bytes:
    """Log members of a response: the session it opens, or the member of the gateway process that answered (`name`, or `name;recovered`)."""
    if opened:
        return b',"new_session":"%b"' % short_hash(opened)
    if not member:
        return b""
    name, _, recovered = member.decode("latin-1").partition(";")
    return b',"member":%b%b' % (as_json(name), b',"recovered":true' if recovered else b"")


def strip(target: bytes, prefix: bytes) -> bytes:
    """The target without the route's prefix: /mcp/a?b → /a?b, /mcp?b → /?b. (A prefix matched through percent-encoding is left alone.)"""
    if prefix == b"/" or not target.startswith(prefix):
        return target
    rest = target[len(prefix) :]
    return rest if rest.startswith(b"/") else b"/" + rest


def only_head(answer: bytes) -> bytes:
    """What HEAD gets of an answer."""
    return answer[: answer.index(b"\r\n\r\n") + 4]


LOGGED_FIELDS = (
    (b"mcp-method", "mcp_method"),
    (b"mcp-name", "mcp_name"),
    (b"mcp-protocol-version", "mcp_version"),
    (b"user-agent", "agent"),
)
LOGGED_LENGTH = 256  # characters of a value that reach the log
PROTOCOLS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
as_json = msgspec.json.Encoder().encode


def describe(head: RequestHead) -> bytes:
    """The members of the log line that this head decides, JSON-escaped. No query (it may carry secrets), no credential, no session id."""
    facts = {
        "method": head.method.decode("ascii"),
        "host": head.host.decode("latin-1"),
        "path": head.path.decode("latin-1")[:LOGGED_LENGTH],
        "protocol": PROTOCOLS[head.version],
    }
    first = head.first
    for name, label in LOGGED_FIELDS:
        value = first(name)
        if value is not None:
            facts[label] = value.decode("utf-8", "backslashreplace")[:LOGGED_LENGTH]
    session = first(b"mcp-session-id")
    if session:
        facts["session"] = short_hash(session).decode()
    return as_json(facts)[1:-1]
