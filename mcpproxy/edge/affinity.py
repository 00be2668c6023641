"""A session stays with the server that opened it (docs/request.md, steps 2, 4 and 6).

   POST without a session id ─▶ any replica ─▶ 2xx with Mcp-Session-Id ─▶ the client gets it sealed: (this endpoint, the server's id, this caller)
   any request with a sealed id ─▶ opened while its head is judged ─▶ a plan with the server's id in its head, and a Home where the pool would be
   GET without a session id ─▶ any replica ─▶ an event stream whose first event may be `endpoint` (HTTP+SSE): the id in its URL goes on sealed
   POST with a session id in its query ─▶ as above

1. No body is read to know an `initialize`: the protocol has servers name a session in the answer to nothing else, and in a 2xx alone it counts. A server
   that opened one for another call without a session would have opened it there all the same.
2. Clients never see a server's own id, on whatever field: what is neither such an answer nor opens to us has no Mcp-Session-Id when it goes on.
3. What does not open, has expired, or lives at an endpoint that is gone, is 404: the client begins anew. It is never sent to another replica.
4. Since revision 2026-07-28 there are no sessions: the field is taken off such requests, and they go anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from mcpproxy.clock import clock, unix
from mcpproxy.edge.exchange import heard, pass_on
from mcpproxy.edge.facts import short_hash
from mcpproxy.edge.plan import CHUNKED_LENGTH, SESSION, ResponsePlan
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.forward import NOTHING, Dress
from mcpproxy.http.framing import ChunkedScanner
from mcpproxy.http.head import RequestHead
from mcpproxy.mcp import session
from mcpproxy.mcp.mirror import MODERN, is_revision
from mcpproxy.policy.limits import identity
from mcpproxy.policy.seal import FIELD, QUERY, SealKeys, place_of
from mcpproxy.policy.verdict import Principal
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Cancellable, Lessee, Pool, PoolLimits, UpstreamLink

if TYPE_CHECKING:
    from mcpproxy.edge.exchange import Exchange

VERSION = b"mcp-protocol-version"
UNREADABLE = frozenset({b"accept-encoding"})  # a stream in a coding could not be looked at
SESSIONLESS = frozenset({SESSION})
SESSION_LINE = re.compile(rb"(\r\n%b: )[^\r]*" % SESSION, re.IGNORECASE)


class Home:
    """Stands in a plan where its pool would: a link comes from one endpoint, or there is none."""

    __slots__ = ("endpoint", "pool", "until")

    def __init__(self, pool: Pool, endpoint: Endpoint, until: float) -> None:
        self.pool, self.endpoint, self.until = pool, endpoint, until

    @property
    def limits(self) -> PoolLimits:
        """The pool's."""
        return self.pool.limits

    def take(self, now: float) -> UpstreamLink | None:
        """As of a pool."""
        return self.pool.take_at(self.endpoint, now) if clock.wall < self.until else None

    def acquire(self, lessee: Lessee, now: float) -> Cancellable:
        """As of a pool. Raises ProxyError(404) when the session has expired, or its endpoint was taken out."""
        if clock.wall >= self.until:
            raise ProxyError("session-expired", Side.DOWNSTREAM, 404)
        if self.endpoint.state == "disabled":
            raise ProxyError("session-lost", Side.UPSTREAM, 404)
        return self.pool.acquire_at(lessee, self.endpoint, now)


class Bound(NamedTuple):
    """What a session, or its absence, changes in a plan."""

    head: RequestHead  # with the server's id
    pool: Pool | Home
    dress: Dress | None
    binding: Binding | None = None
    drop: frozenset[bytes] = NOTHING
    about: bytes = b""  # members of the log lines
    refused: str = ""  # why it is answered here,
    status: int = 404  # with this


class Affinity:
    """Of one upstream."""

    __slots__ = ("_keys", "_places", "_pool", "_ttl")

    def __init__(self, pool: Pool, keys: SealKeys, ttl: float) -> None:
        self._pool, self._keys, self._ttl = pool, keys, ttl
        self._places = {place_of(url_of(endpoint)): endpoint for endpoint in pool.endpoints}

    def bind(self, head: RequestHead, caller: Principal | None, dress: Dress | None) -> Bound:
        """What becomes of this head."""
        who = identity(caller).encode()
        found = [value for _, lower, value in head.fields if lower == SESSION]
        sessionless = undressed(dress)
        if is_modern(head):
            return Bound(head, self._pool, sessionless, drop=SESSIONLESS)
        if len(found) > 1:
            return Bound(head, self._pool, sessionless, refused="header-mismatch", status=400)
        if found:
            place, id, refused = self._find(FIELD, who, found[0])
            fields = tuple((name, lower, id if lower == SESSION else value) for name, lower, value in head.fields)
            return Bound(with_fields(head, fields), place or self._pool, sessionless, refused=refused)
        if head.method == b"POST":
            sealed = session.sealed_in(head.target)
            if sealed is None:
                return Bound(head, self._pool, (dress or Dress())._replace(opens=True), Binding(self, who))
            place, id, refused = self._find(QUERY, who, sealed)
            if not refused:
                head = copy(head)
                head.target = session.restored(head.target, id)
            return Bound(head, place or self._pool, sessionless, about=b',"session":"%b"' % short_hash(sealed), refused=refused)
        if head.method == b"GET":
            return Bound(head, self._pool, sessionless, Binding(self, who), UNREADABLE)
        return Bound(head, self._pool, sessionless)

    def _find(self, kind: bytes, who: bytes, text: bytes) -> tuple[Home | None, bytes, str]:
        """Where it lives and how it is called there; or why it does not."""
        opened = self._keys.open(kind, who, text)
        if opened is None:
            return None, b"", "session-unknown"
        endpoint, until = self._places.get(opened.place), opened.issued + self._ttl
        if until <= unix():
            return None, b"", "session-expired"
        if endpoint is None:
            return None, b"", "session-lost"
        return Home(self._pool, endpoint, until), opened.id, ""

    def seal(self, kind: bytes, who: bytes, endpoint: Endpoint, id: bytes) -> bytes:
        """How the client is to call it."""
        return self._keys.seal.seal(kind, who, place_of(url_of(endpoint)), id, unix())


class Binding:
    """What a plan without a session does with one that its answer opens."""

    __slots__ = ("_affinity", "_who")

    def __init__(self, affinity: Affinity, who: bytes) -> None:
        self._affinity, self._who = affinity, who

    def sealed(self, plan: ResponsePlan, endpoint: Endpoint) -> ResponsePlan:
        """A 2xx that names a session, as the client is to see it."""
        id = self._affinity.seal(FIELD, self._who, endpoint, plan.session)
        plan = copy(plan)
        plan.head, plan.head_close = in_line(plan.head, id), in_line(plan.head_close, id)
        plan.extra, plan.verbatim = new_session(id), False
        return plan

    def listen(self, x: Exchange, head: bytes, data: bytes) -> None:
        """An event stream begins: its first event may open a session."""
        plan, link = x.rplan, x.link
        assert plan is not None and link is not None
        endpoint, said = link.endpoint, copy(plan)
        x.rplan = said

        def seal(id: bytes) -> bytes:
            sealed = self._affinity.seal(QUERY, self._who, endpoint, id)
            said.extra = new_session(sealed)
            return sealed

        first = session.FirstEvent(lambda url: session.with_sealed(url, seal, endpoint.authority.encode()))
        opening = Opening(first, x.receive, chunks=plan.length == CHUNKED_LENGTH and not plan.dechunk)
        try:
            out = opening.take(x, data)
        except ProxyError as error:
            x.rplan = None
            x.fail(error)
            return
        if not opening.over(x):
            x.receive = opening
        x.begin_response(head, out)


class Opening:
    """The state of `receive` until the first event has passed; then it is the one it would have been. The payload goes on in chunks of our own meanwhile."""

    __slots__ = ("_chunks", "_first", "_later")

    def __init__(self, first: session.FirstEvent, later: Callable[[Exchange, bytes], None], *, chunks: bool) -> None:
        self._first, self._later, self._chunks = first, later, chunks

    def __call__(self, x: Exchange, data: bytes) -> None:
        try:
            out = self.take(x, data)
        except ProxyError as error:
            x.fail(error)
            return
        if self.over(x):
            x.receive = self._later
            x.quicken()
        pass_on(x, out)
        x.shorten()

    def over(self, x: Exchange) -> bool:
        """Can bytes pass as they come? Not within one of the server's chunks, of which a part went on as a chunk of ours."""
        return self._first.done and (not self._chunks or x.scanner.between)

    def take(self, x: Exchange, data: bytes) -> bytes:
        """What goes on of this. Raises what the scanner raises."""
        pieces: list[bytes] = []
        scanner = x.scanner
        if data and scanner.feed(data, pieces) != len(data):
            x.spoiled = True
        out = self._first.feed(b"".join(pieces))
        if scanner.done:
            out += self._first.end()
        heard(x, [out], b"")
        if not self._chunks:
            return out
        if out:
            out = b"%x\r\n%b\r\n" % (len(out), out)
        if scanner.done:
            assert isinstance(scanner, ChunkedScanner)
            out += b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % field for field in scanner.trailers])
        return out


def is_modern(head: RequestHead) -> bool:
    """Does it say that it is of an era without sessions?"""
    version = head.first(VERSION)
    return version is not None and version >= MODERN and is_revision(version) is not None


def undressed(dress: Dress | None) -> Dress:
    """No session id goes to the client."""
    dress = dress or Dress()
    return dress._replace(drop=dress.drop | SESSIONLESS)


def in_line(head: bytes, id: bytes) -> bytes:
    """A rendered head that names a session, with this one."""
    return SESSION_LINE.sub(lambda line: line[1] + id, head, 1)


def with_fields(head: RequestHead, fields: tuple[tuple[bytes, bytes, bytes], ...]) -> RequestHead:
    """The same head with other fields, for the next hop."""
    head = copy(head)
    head.fields = fields
    return head


def new_session(id: bytes) -> bytes:
    """A member of the log line."""
    return b',"new_session":"%b"' % short_hash(id)


def url_of(endpoint: Endpoint) -> str:
    """Where it is, in one spelling: however the configuration writes it, and wherever in the list it stands."""
    return endpoint.label if endpoint.label.startswith("unix:") else f"{'http' if endpoint.tls is None else 'https'}://{endpoint.label}"
