"""HOT. One request and its response, from the lease of a link to the settled account (docs/request.md, steps 4-9).

The Downstream (edge/downstream) reads the client and starts an exchange; from then on bytes arrive from two sides:

    client ──▶ Downstream ──▶ upload()            ──▶ link ──▶ server
    client ◀── Downstream ◀── receive(exchange, data) ◀── link ◀── server

`receive` is the present state, a plain function called with the exchange: response head → body (plain; or read, by whoever must see the payload) →
nothing. States change by storing another function, so the common path makes no call that decides anything twice.

 1. Bytes are forwarded in the turn of the loop in which they were read, or kept by the one write that could not take them (≤ 64 KiB), and then the
    side they came from is paused.
 2. What the scanner did not accept is never forwarded. A message that was cut is never ended cleanly: the client's connection is reset.
 3. The link is kept only if both messages ended exactly where their framing said; everything else discards it.
 4. Exactly one row per exchange is added to the log: in `_record`, or by the fast path in `response_head`.

It is one file because the states below and the ends above are read against each other: every state may meet every end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from mcpproxy.clock import clock, http_date, monotonic
from mcpproxy.edge import tunnel
from mcpproxy.edge.gathering import Hold
from mcpproxy.edge.plan import CHUNKED_LENGTH, INTERIM_LENGTH, UNTIL_CLOSE_LENGTH, Plan, ResponsePlan, only_head
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http import replies, sse
from mcpproxy.http.framing import CRLF, RESPONSE, ChunkedScanner, LengthScanner, UntilClose, sizes
from mcpproxy.http.head import bad_start
from mcpproxy.net.link import READ, WOULD_BLOCK
from mcpproxy.policy.verdict import Question
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import SLICE, Cancellable, Pool, UpstreamLink
from mcpproxy.upstream.retry import may_retry

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream, Front
    from mcpproxy.edge.ledger import Ledger
    from mcpproxy.edge.stream import Stream

Departure = tuple["Exchange", Any, bytes]  # an event that leaves at the end of this turn, and the `recv` it came by
HEAD_END = b"\r\n\r\n"
RESPONSE_HEAD_LIMIT = 64 * 1024  # bytes; the common servers cap what they send well below, and it is one read
RESPONSE_GLANCE = 256  # bytes of an unfinished head that come before it is looked at again: one-byte packets must not cost a scan each
INTERIM_LIMIT = 16  # 1xx heads before the final one; a server that sends more is broken
EVENT = 4096  # bytes read first while events stream: most are smaller, and what the allocator hands out for them stays small
LINGER_S = 30.0  # seconds that a client may go on sending behind its answer: read and forgotten, so that nothing overtakes the answer (nginx: as long)
LINGER_SILENT_S = 5.0  # seconds of silence meanwhile after which it is not waited for any longer; also all it has while the process ends
HALF_CLOSED_S = 60.0  # seconds a tunnel may be silent once one side has ended its direction
NO_UPSTREAM = b"null"
DOCUMENT = 64 * 1024  # bytes of a server's metadata that is rewritten; real ones have a few hundred
DOCUMENT_FIELDS = ((b"Cache-Control", b"no-cache"), (b"Access-Control-Allow-Origin", b"*"))
LENGTH_LINE = re.compile(rb"\r\ncontent-length: [0-9]+", re.IGNORECASE)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
TOO_LARGE_TO_JUDGE = ProxyError("body-too-large-to-judge", Side.DOWNSTREAM, 413)
ASIDE = 64 * 1024  # bytes of a body that is refused unseen, that are read all the same to say in the answer which call it is for
TOO_MUCH_TO_JUDGE = ProxyError("too-much-to-judge", Side.INTERNAL, 503)
GONE = frozenset(
    {"connect-refused", "connect-failed", "connect-timeout", "upstream-down"}
)  # why an endpoint cannot be reached that is no more
CUT_BY_SERVER = frozenset({b"upstream-gone", b"upstream-error"})  # how an exchange ends that its server did not finish
PROVEN_S = 1.0  # seconds of an event stream after which its server has answered well, as far as a breaker asks that
BROKEN = 500  # logged when a bug of ours ended it before a status went out
CLIENT_LEFT = 499  # logged when the client left before a status went out (nginx's number, which log tools know)


class EventWords:
    """What each event of a stream touches. The slots of a base class lie side by side in front: two cache lines instead of five."""

    __slots__ = ("bytes_out", "client", "departures", "inside", "recv", "send", "touched")


class Exchange(EventWords):
    """One request and its response. An HTTP/1.1 connection has one of these and uses it again and again."""

    __slots__ = (
        "accepted",
        "asked",
        "attempts",
        "began",
        "boundary",
        "bytes_in",
        "commented",
        "continued",
        "ending",
        "first",
        "gathered",
        "held",
        "hold",
        "interims",
        "ledger",
        "link",
        "looked",
        "plan",
        "receive",
        "request_ended",
        "request_id",
        "rest",
        "reused",
        "rplan",
        "scanner",
        "server_done",
        "spoiled",
        "unsent",
        "upstream",
        "waiting",
    )

    head_state: ClassVar[Any]  # of `receive`, while a response head is awaited
    answer_state: ClassVar[
        Any
    ]  # the same, where the request went out whole at its first attempt: most answers are small and come whole, too
    short_states: ClassVar[tuple[Any, ...]]  # of `receive`: those that `event` may stand in for

    def __init__(self, client: Downstream | Stream) -> None:
        self.client: Any = client  # which of the two, only `head_state` and the tunnel must know
        self.plan: Plan
        self.link: UpstreamLink | None = None
        self.receive: Any = self.head_state
        self.rplan: ResponsePlan | None = None
        self.waiting: Cancellable | None = None
        self.scanner: ChunkedScanner | LengthScanner | UntilClose
        self.boundary: sse.EventBoundary | None = None
        self.departures: list[Departure] = client.departures
        self.recv: Callable[[int], bytes] | None = None  # while events stream: the link's own `recv`, one hop nearer
        self.inside = False  # while events stream: the last read ended inside a chunk
        self.send: Callable[[bytes], int] = client.send  # while a response streams: the client's own `send`, one hop nearer
        self.began = self.first = self.touched = self.commented = 0.0
        self.bytes_in = self.bytes_out = self.attempts = self.reused = self.interims = self.asked = 0
        self.held = b""  # a response head that has not all arrived, or bytes that wait for the client to take an interim response
        self.looked = 0  # bytes of an unfinished response head that bad_start has seen
        self.unsent: bytes | None = None  # the request, when it leaves at the end of this turn
        self.rest: bytes | None = None  # the request's body as far as it came with the head, kept for a second attempt
        self.request_id = b""
        self.gathered: bytearray | None = None  # the request's body so far, while a policy waits for all of it
        self.hold: Hold | None = None  # and what Front.gathering knows of that
        self.ending = HEAD_END  # of the head for the server: with a credential of ours, where it takes one
        self.ledger: Ledger | None = None  # what must be told when this is over
        self.upstream = NO_UPSTREAM  # the endpoint, as the log line shows it
        self.request_ended = self.accepted = self.spoiled = self.server_done = self.continued = False

    # -- step 4: lease -----------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """`plan`, `began`, `request_id`, `rest`, `request_ended` and `bytes_in` are set: go on, or ask the plan's guard first."""
        if self.plan.guard is not None:
            self.plan.guard.begin(self)
            return
        link = self.plan.pool.take(self.began)
        if link is not None:
            self.leased(link)
        else:
            self.wait()

    def lease(self, now: float) -> None:
        """The guard lets it pass."""
        link = self.plan.pool.take(now)
        if link is not None:
            self.leased(link)
        else:
            self.wait()

    def gather(self, most: int) -> None:
        """The guard must see the whole body, of at most `most` bytes, before it lets it pass (`Guard.gathered`). A client that waits for 100 gets ours."""
        body, guard = self.gathered, self.plan.guard
        assert guard is not None
        if body is None:
            body = self.gathered = bytearray(self.rest or b"")
            if self.plan.length > most and guard.knows_enough(body):
                guard.overflow(self, TOO_LARGE_TO_JUDGE)
                return
            if self.plan.expects and not body:
                self.interims = 1
                try:
                    self.client.inform(CONTINUE)
                except OSError as error:
                    self.client.lost(error)
                    return
            if self.waiting is not None:  # for an answer, so far: what the client sent meanwhile comes now, to `upload`
                self.waiting = None
                self.client.resume_upload()
            if self.gathered is not body:
                return  # that was all of it
        if len(body) > most:
            guard.overflow(self, TOO_LARGE_TO_JUDGE)
        elif self.request_ended:
            self.whole()
            guard.gathered(self)
        elif guard.has_seen_enough(self, body):
            self.whole()
            guard.unseen(self)
        else:
            if self.hold is None:
                self.hold = Hold(guard.network or self.client.network, clock.now)
            if not self.client.front.gathering.grow(self.hold, len(body)):
                guard.overflow(self, TOO_MUCH_TO_JUDGE)

    def whole(self) -> None:
        """What was gathered is all that is waited for: it goes on as if it had come with the head."""
        assert self.gathered is not None
        self.rest = bytes(self.gathered)
        self.interims = 0  # what we said ourselves is no word of the server's
        self.ungather()

    def ungather(self) -> None:
        """Nothing is waited for any more, or the exchange is over."""
        self.gathered = None
        hold, self.hold = self.hold, None
        if hold is not None:
            self.client.front.gathering.end(hold)

    def body_deadline(self, since: float) -> float:
        """When the client must have gone on with the body that is coming; something of it moved at `since`."""
        front: Front = self.client.front
        guard, deadline = self.plan.guard, since + front.limits.body_stall
        if self.hold is None or guard is None:
            return deadline
        length = self.plan.length if self.plan.length >= 0 else guard.peek
        return min(deadline, front.gathering.deadline(self.hold, length))

    def ask(self, question: Question, go_on: Callable[[Exchange], None]) -> None:
        """The world must be asked first (`waiting`, as for a link). The client is not read meanwhile, unless its request is complete."""
        client, guard = self.client, self.plan.guard
        if not self.request_ended:
            client.pause()
        address = (guard.network if guard is not None else b"") or client.network
        try:
            self.waiting = client.front.questions.ask(question, partial(self._answered, go_on), address)
        except ProxyError as error:
            self.fail(error)

    def _answered(self, go_on: Callable[[Exchange], None]) -> None:
        try:
            go_on(self)
        except Exception as error:
            self.client.front.loop.broken("what followed an answer raised", self._answered, error)

    def wait(self) -> None:
        """No warm link: dial or queue. The client is not read meanwhile unless its request is complete (then a hang-up must be noticed)."""
        self.upstream, self.reused = NO_UPSTREAM, 0
        if not self.request_ended:
            self.client.pause()
        try:
            self.waiting = self.plan.pool.acquire(self, clock.now)
        except ProxyError as error:
            self.fail(error)

    def not_leased(self, error: ProxyError, endpoint: Endpoint | None) -> None:
        """No endpoint could be reached, or the queue took too long."""
        self.waiting = None
        if endpoint is not None:
            self.upstream = endpoint.quoted
        if error.kind in GONE and not isinstance(self.plan.pool, Pool):
            error = ProxyError("session-lost", Side.UPSTREAM, 404)  # its session died with it: the client begins anew (edge/affinity)
        self.fail(error)

    # -- step 5: forward ---------------------------------------------------------------------------------------------------------------

    def leased(self, link: UpstreamLink) -> None:
        """Send what there is of the request."""
        client, plan, endpoint = self.client, self.plan, link.endpoint
        link.lessee = self
        self.link = link
        self.reused = link.uses
        self.upstream = endpoint.quoted
        message = b"".join((plan.heads[endpoint.index], plan.forwarded or client.forwarded, self.request_id, self.ending, self.rest or b""))
        if self.request_ended and self.waiting is None and plan.upgrade is None:
            self.unsent = message
            self.receive = too_early
            late = client.requests
            late.append((self, message))
            if len(late) == 1:
                link.loop.at_end_of_turn(partial(send_requests, late))
            return
        self.receive = self.head_state
        outcome: int | Exception
        try:
            outcome = link.send(message)
        except OSError as error:
            outcome = error
        self.sent(message, outcome)

    def sent(self, message: bytes, outcome: int | Exception) -> None:
        """So much of the request is with the server's kernel; or why nothing is."""
        client = self.client
        if isinstance(outcome, WOULD_BLOCK):
            sent = 0
        elif isinstance(outcome, OSError):
            self.accepted = False
            self.upstream_ended(outcome)
            return
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            sent = outcome
        if sent == len(message):
            self.accepted = True
            if sent > READ:
                self.rest = None  # nothing is sent twice that a server has, and it may take its time
            if self.waiting is not None:
                self.waiting = None
                client.resume_upload()
        else:
            self.accepted = True  # what is held goes on whenever the kernel likes, and nobody tells us of its first byte
            self.waiting = None
            assert self.link is not None
            self.link.hold(message[sent:])
            client.pause_upload()

    def upload(self, data: bytes) -> None:
        """More of the request's body (judged by the client's scanner)."""
        if self.gathered is not None:
            self.gathered += data
            self.gather(self.plan.guard.peek or ASIDE if self.plan.guard is not None else 0)
            return
        self.rest = None  # part of the body is gone: no second attempt
        link = self.link
        if self.spoiled or link is None:
            return
        try:
            if not link.write(data):
                self.client.pause_upload()
        except OSError as error:
            self.upstream_deaf(error)

    def upstream_deaf(self, error: OSError) -> None:
        """The server stopped listening. Its answer may lie unread here (RFC 9112 §9.5): read on, and forget the rest of the upload."""
        if self.receive is tunnel.from_server:
            tunnel.server_ended(self, error)
            return
        self.spoiled = True
        if not self.request_ended:
            self.client.resume_upload()

    def upstream_drained(self) -> None:
        """The server took what was pending."""
        if self.receive is tunnel.from_server:
            tunnel.server_drained(self)
        elif not self.request_ended:
            self.client.resume_upload()

    # -- step 6: the response head -------------------------------------------------------------------------------------------------------

    def judge_response(self, data: bytes, end: int) -> ResponsePlan | None:
        """The slow way to a response plan; None when the exchange is over because the head is no good or not complete."""
        try:
            if end >= len(HEAD_END):
                self.looked = 0
                return self.plan.responses.judge(data[:end])
            if len(data) < RESPONSE_GLANCE or len(data) - self.looked >= RESPONSE_GLANCE or b"\n" in data[self.looked :]:
                self.looked = len(data)
                bad = bad_start(data, response=True)
                if bad is not None:
                    raise bad
            if len(data) > RESPONSE_HEAD_LIMIT:
                raise ProxyError("response-head-too-large", Side.UPSTREAM, 502)
        except ProxyError as error:
            self.fail(error)
            return None
        self.held = data
        return None

    def respond(self, plan: ResponsePlan, data: bytes, end: int) -> None:
        """A response head that is not a whole small response in one read: interim, upgrade, stream, large or early; or one that speaks against its
        endpoint."""
        link = self.link
        if link is not None and (plan.status >= 500 or (plan.status == 101 and link.endpoint.trial)):
            link.pool.group.answered(link.endpoint, plan.status)
        if plan.length == INTERIM_LENGTH:
            if plan.status == 101:
                tunnel.open_tunnel(self, plan, data, end)
            else:
                self._interim(plan, data, end)
            return
        rewriting = self.plan.rewriting
        if plan.challenge and rewriting is not None:
            plan = plan.rewritten(rewriting.challenge)
        client, binding = self.client, self.plan.binding
        if plan.session and binding is not None and self.link is not None:
            plan = binding.sealed(plan, self.link.endpoint)
        self.first = monotonic()
        self.rplan = plan
        keep = self.goes_on() and self.request_ended and plan.client_can_go_on
        client.keep = keep
        head = plan.head if keep else plan.head_close
        if plan.length >= 0:
            self.scanner = LengthScanner(plan.length)
        elif plan.length == CHUNKED_LENGTH:
            self.scanner = ChunkedScanner(RESPONSE)
        else:
            self.scanner = UntilClose()
        route = self.plan.route
        if plan.events and route is not None and route.sse_keepalive and plan.length < 0:
            self.boundary = sse.EventBoundary()
            client.wheel.at_most(client, self.first + route.sse_keepalive)
        if (self.ledger is not None and self.ledger.listens(plan)) or plan.dechunk or self.boundary is not None:
            self.receive = response_body_read
        else:
            self.receive = response_events if plan.events else response_body
        self.commented = self.touched = clock.now
        self.rest = None
        self.send = client.send
        if self.plan.document and plan.status == 200 and rewriting is not None:
            self.gathered = bytearray()
            self.receive = response_document
            response_document(self, data[end:])
            return
        if plan.events and self.link is not None:
            self.recv = self.link.recv
            if self.link.endpoint.trial:
                client.wheel.at_most(client, self.first + PROVEN_S)
        if binding is not None and plan.events and plan.status == 200 and plan.length < 0 and self.plan.method == b"GET":
            binding.listen(self, head, data[end:])
        else:
            self._first_bytes(head, data[end:])
        self.shorten()

    def _first_bytes(self, head: bytes, data: bytes) -> None:
        """The first bytes of a body leave together with the head. A body that breaks its framing already here is a plain 502."""
        pieces: list[bytes] | None = [] if self.receive is response_body_read else None
        try:
            used = self.scanner.feed(data, pieces) if data else 0
        except ProxyError as error:
            self.rplan = None
            self.fail(error)
            return
        if used != len(data):
            self.spoiled = True
            data = data[:used]
        if pieces is not None:
            data = heard(self, pieces, data)
        self.begin_response(head, data)

    def quicken(self) -> None:
        """The state of `receive` is one that lasts: is there a shorter one?"""

    def shorten(self) -> None:
        """Events in chunks, and nobody who must see each: from now on the loop calls `event` itself, past the link."""
        link = self.link
        if link is None or self.recv is None or not link.reading or link.tls is not None or self.receive not in self.short_states:
            return
        if isinstance(self.scanner, ChunkedScanner):
            self.inside = not self.scanner.between
            link.loop.swap_reader(link.fd, self.event)

    def event(self) -> None:
        """There is something to read. The common read, one whole chunk with a size line that was judged before, touches few objects: with thousands
        of streams none of them is in the processor's cache."""
        recv = self.recv
        try:
            data = recv(EVENT)  # type: ignore[misc]
        except OSError as error:
            self.link.read_failed(error)  # type: ignore[union-attr]
            return
        size = len(data)
        end = data.find(b"\r", 1, 9)
        if self.inside or size == EVENT or sizes.get(data[:end]) != size - end - 4 or data[-2:] != CRLF or data[end + 1] != 10:
            self._odd_event(data)
            return
        self.touched = clock.now
        self.bytes_out += size
        late = self.departures
        late.append((self, recv, data))
        if len(late) == 1:
            self.client.loop.at_end_of_turn(partial(depart, late))

    def _odd_event(self, data: bytes) -> None:
        """Not exactly one whole chunk: as UpstreamLink.readable."""
        link = self.link
        assert link is not None
        if not data:
            link.pause()
            self.upstream_ended(None)
            return
        if len(data) == EVENT:  # of a large one the rest is read as any body is
            try:
                data += link.recv(SLICE - EVENT)
            except OSError:
                pass  # nothing is there, or an end that the next read meets again
            if len(data) == SLICE:
                link.loop.again(link.fd)
        self.receive(self, data)
        if self.recv is not None:
            self.inside = not self.scanner.between

    def begin_response(self, head: bytes, data: bytes) -> None:
        """The head and what came with it."""
        pass_on(self, head + data)

    def begin_tunnel(self, head: bytes, data: bytes) -> None:
        """The 101 and what came with it."""
        tunnel.from_server(self, head + data)

    def hold_back(self, out: bytes, sent: int) -> None:
        """The client took only `sent` bytes: the rest is pending, and the server is not read until it is gone."""
        self.client.hold(memoryview(out)[sent:])
        if self.link is not None:
            self.link.pause()

    def _interim(self, plan: ResponsePlan, data: bytes, end: int) -> None:
        """100, 103 and their kin go to an HTTP/1.1 client as they come (RFC 9110 §15.2)."""
        self.interims += 1
        self.continued |= plan.status == 100
        self.client.since = clock.now  # if that was the 100 it waited for, it is the client's turn now
        if self.interims > INTERIM_LIMIT:
            self.fail(ProxyError("too-many-interim-responses", Side.UPSTREAM, 502))
            return
        self.held = data[end:]
        if self.plan.version != 10:
            self.bytes_out += len(plan.head)
            try:
                taken = self.client.inform(plan.head)
            except OSError as error:
                self.client.lost(error)
                return
            if not taken:
                assert self.link is not None
                self.link.pause()
                return  # client_drained goes on with what is held
        if self.held:
            data, self.held = self.held, b""
            self.head_state(self, data)

    def goes_on(self) -> bool:
        """May the client's connection be used for another request?"""
        return self.plan.keep and not self.client.draining.is_set

    def client_drained(self) -> None:
        """The client took what was pending: read the server again."""
        if self.receive is tunnel.from_server:
            tunnel.client_drained(self)
            return
        link = self.link
        if link is not None:
            if self.rplan is None and self.held:
                data, self.held = self.held, b""
                self.head_state(self, data)
            if self.link is link and self.client.pending is None:  # what was held may have filled the client again
                link.resume()
                self.shorten()

    def due(self, now: float) -> float:
        """The wheel asks: is anything overdue? Returns the next deadline."""
        route = self.plan.route
        assert route is not None
        if self.rplan is None:
            deadline: float = (
                max(self.began, self.client.since) + self.plan.pool.limits.response_timeout
            )  # a slow upload is not the server's time
            if deadline <= now:
                self.fail(ProxyError("response-timeout", Side.UPSTREAM, 504))
            return deadline
        half_closed = self.receive is tunnel.from_server and (self.server_done or self.client.input_ended)
        deadline = self.touched + (min(HALF_CLOSED_S, route.idle_timeout) if half_closed else route.idle_timeout)
        if deadline <= now:
            self.cut(b"timeout")
            return deadline
        if self.rplan.events and self.link is not None and self.link.endpoint.trial:
            if self.first + PROVEN_S <= now:
                self.link.pool.group.ended(self.link.endpoint, self.rplan.status)
            else:
                deadline = min(deadline, self.first + PROVEN_S)
        if self.boundary is not None and route.sse_keepalive:
            comment = max(self.touched, self.commented) + route.sse_keepalive
            if comment <= now:
                self._comment(now)
                comment = now + route.sse_keepalive
            return min(deadline, comment)
        return deadline

    def _comment(self, now: float) -> None:
        """Fill the silence of an event stream, but only between two events (and, chunked, between two chunks)."""
        self.commented = now
        assert self.boundary is not None
        bare = self.rplan is not None and self.rplan.dechunk
        if not self.boundary.between or not (bare or self.scanner.between) or self.client.pending is not None:
            return
        comment = sse.COMMENT_CHUNK if isinstance(self.scanner, ChunkedScanner) and not bare else sse.COMMENT
        self.bytes_out += len(comment)
        try:
            if not self.client.write(comment) and self.link is not None:
                self.link.pause()
        except OSError as error:
            self.client.lost(error)

    # -- ends ----------------------------------------------------------------------------------------------------------------------------

    def upstream_ended(self, error: OSError | None) -> None:
        """The server closed or reset the link."""
        link = self.link
        assert link is not None
        if self.receive is tunnel.from_server:
            tunnel.server_ended(self, error)
            return
        if self.rplan is not None:
            if error is None and self.rplan.length == UNTIL_CLOSE_LENGTH and self.receive is response_document:
                document_ended(self)
            elif error is None and self.rplan.length == UNTIL_CLOSE_LENGTH and not self.spoiled:  # a failed write may have eaten the reset
                if link.endpoint.trial:
                    link.pool.group.ended(link.endpoint, self.rplan.status)
                self._settle(keep=False)
                self._over(b"done")
            elif self.receive is response_document:
                self.rplan = None
                self.fail(ProxyError("upstream-cut-document", Side.UPSTREAM, 502))
            else:
                self.cut(b"upstream-gone")
            return
        started = bool(self.held) or self.interims > 0
        if not started and may_retry(
            reused=self.reused > 0,
            attempts=self.attempts + 1,
            accepted=self.accepted and self.unsent is None,
            method=self.plan.method,
            whole=self.request_ended and self.rest is not None,
        ):
            self.attempts += 1
            self._settle(keep=False)
            self._dial_again()
            return
        kind = "upstream-cut-head" if started else "upstream-closed"
        self.fail(ProxyError(kind, Side.UPSTREAM, 502))

    def _dial_again(self) -> None:
        """Attempt two goes over a fresh link, never another idle one."""
        try:
            self.waiting = self.plan.pool.acquire(self, clock.now)
        except ProxyError as error:
            self.fail(error)

    def fail(self, error: ProxyError, end: bytes = b"") -> None:
        """The exchange failed by `error`: tell the client if it has not been told anything, else cut it."""
        if self.rplan is not None:
            self.cut(end or (b"upstream-error" if error.side is Side.UPSTREAM else b"refused"))
            return
        if self.link is not None and error.side is Side.UPSTREAM:
            self.link.pool.group.failed(self.link.endpoint, error.kind)
        route = self.plan.route

        def answer(close: bool) -> bytes:
            return replies.reply(
                error.status,
                error.kind,
                jsonrpc=route is None or route.mcp,
                close=close,
                retry_after=1 if error.status == 503 else None,
                extra=self.plan.responses.fields,
                head_only=self.plan.method == b"HEAD",
            )

        ends = end or {Side.UPSTREAM: b"upstream-error", Side.DOWNSTREAM: b"refused"}.get(error.side, b"failed")
        if error.status == 504:
            ends = b"timeout"
        self.refuse(error.status, error.kind, answer, ends)

    def refuse(self, status: int, kind: str, make: Callable[[bool], bytes], end: bytes = b"refused") -> None:
        """Answer the client ourselves, and nobody else; `make(close)` renders it. Nothing of a response went out before."""
        self._settle(keep=False)
        if self.plan.guard is not None and (end == b"refused" or (end == b"failed" and self.ledger is None)):
            self.plan.guard.note_refusal(self, kind)
        keep = self.goes_on() and self.request_ended and self.plan.version != 10
        answer = replies.dated(make(not keep), http_date())
        if self.plan.method == b"HEAD":
            answer = only_head(answer)
        self.bytes_out += len(answer)
        self._record(end, status, b',"reason":"%b"' % kind.encode())
        self.client.exchange_over(keep, answer)

    def cut(self, end: bytes) -> None:
        """The response cannot be finished, and the client must see that: no chunk or length is ended, no close_notify sent.

        A body that the connection ends needs a reset; the others show the cut by themselves, and a reset might overtake what was already sent.
        """
        plan = self.rplan
        framed = plan is not None and not plan.dechunk and (plan.length >= 0 or plan.length == CHUNKED_LENGTH)
        if end in CUT_BY_SERVER:
            self._blame(end)
        self._settle(keep=False)
        self._record(end, self._status())
        if framed or self.client.tls is not None:
            self.client.drop()
        else:
            self.client.abort()

    def _blame(self, end: bytes) -> None:
        """The server cut its answer: that is as bad as a 500, unless it said one already. Not so where it may have had enough of us: of an upload that goes
        on, or of events that nobody waits for as an answer, or have come for long. Servers, and what stands before them, end those as they like."""
        link, plan = self.link, self.rplan
        if link is None or plan is None or not self.request_ended or self.spoiled:
            return
        group = link.pool.group
        if plan.events and (self.plan.method == b"GET" or monotonic() - self.began >= group.rules.window):
            return
        if plan.status not in group.rules.statuses:
            group.failed(link.endpoint, end.decode())

    def broken(self) -> None:
        """Something raised that should not have (net/loop.broken): the client is cut, rather than left waiting."""
        if self.client is not None:
            self.client.broken()

    def broke(self) -> None:
        """The same, from the client's side: what is held is given back, and there is a line in the log."""
        try:
            self._settle(keep=False)
        finally:
            self._record(b"failed", self._status() or BROKEN)

    def client_left(self, end: bytes = b"client-gone") -> None:
        """The client hung up: stop the server's work at once. If its message had just ended, that is no failure at all."""
        streaming = self.link is not None and self.rplan is not None and self.receive is not tunnel.from_server
        if streaming and self._ended_meanwhile():
            return
        self._settle(keep=self.unsent is not None)  # of a request that did not leave yet the server knows nothing
        self._record(end, self._status() or CLIENT_LEFT)

    def _ended_meanwhile(self) -> bool:
        """Read once: SDK clients reset right after the event they waited for, when the last chunk may lie unread here."""
        link = self.link
        assert link is not None
        ended = self.scanner.done  # the last bytes came, and sending them on showed that the client is gone
        try:
            if not ended:
                data = link.recv(READ)
                link.loop.again(link.fd)
                ended = bool(data) and self.scanner.feed(data) == len(data) and self.scanner.done
        except (OSError, ProxyError):
            return False
        if ended:
            self._settle(keep=self._may_keep())
            self._record(b"done", self._status())
        return ended

    def finished(self) -> None:
        """The response's last byte went to the client (or is pending there)."""
        link, plan = self.link, self.rplan
        if link is not None and plan is not None and link.endpoint.trial:
            link.pool.group.ended(link.endpoint, plan.status)
        self._settle(keep=self._may_keep())
        self._over(b"done")

    def _may_keep(self) -> bool:
        """The response ended where it said. Did everything else end well, too?"""
        link, plan = self.link, self.rplan
        assert link is not None and plan is not None
        if plan.idle_hint is not None:
            link.hint(plan.idle_hint)
        return (
            plan.keep_link
            and self.request_ended
            and not self.spoiled
            and link.pending is None
            and (not self.plan.expects or self.continued)
        )

    def tunnel_over(self, end: bytes) -> None:
        """Both directions of a tunnel ended."""
        self._settle(keep=False)
        self._record(end, 101)
        self.client.close()

    def _over(self, end: bytes) -> None:
        self._record(end, self._status())
        self.client.exchange_over(self.client.keep and self.request_ended)

    def _settle(self, *, keep: bool) -> None:
        """Step 8: the link goes back, or goes. Also ends a lease in the making."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.cancel()
        link, self.link, unsent, self.unsent = self.link, None, self.unsent, None
        if self.recv is not None:
            self.recv = None
            if link is not None and link.reading:
                link.loop.swap_reader(link.fd, link.readable)
        if link is not None:
            if keep:
                link.slice = SLICE
                link.pool.keep(link, monotonic() if unsent is None else link.rested)  # to its server a link that was not used rests on
            else:
                link.pool.discard(link)
        self.receive = self.head_state

    def _opened(self) -> bytes:
        """Log members: the session that was opened."""
        return self.rplan.extra if self.rplan is not None and self.plan.opens else b""

    def _status(self) -> int:
        return self.rplan.status if self.rplan is not None else 0

    def _record(self, end: bytes, status: int, reason: bytes = b"") -> None:
        """Step 9: one row, whatever happened. A session that was opened is told, however the exchange ended."""
        client = self.client
        client.log.add(
            (
                self.plan.about,
                client.about,
                self.request_id,
                self.began,
                self.first,
                monotonic(),
                status,
                self.bytes_in,
                self.bytes_out,
                self.upstream,
                self.reused,
                end,
                reason or self._opened(),
                self.plan.place,
            )
        )
        if self.ledger is not None:
            self.ledger.over(status, self.bytes_out, end)
        self.forget()

    def forget(self) -> None:
        """Ready for the next request of this connection."""
        self.rplan = None
        self.boundary = None
        self.rest = None
        if self.gathered is not None:
            self.ungather()
        self.ledger = None
        self.ending = HEAD_END
        self.held = b""
        self.first = 0.0
        self.bytes_out = self.attempts = self.interims = self.reused = self.looked = self.asked = 0
        self.upstream = NO_UPSTREAM
        self.spoiled = self.server_done = self.continued = False

    def let_go(self) -> None:
        """The client's connection is gone. The two know each other; without this both would wait for the garbage collector."""
        if self.hold is not None:
            self.ungather()
        self.client = None
        self.send = self.client_gone

    @staticmethod
    def client_gone(_: bytes) -> int:
        """There is nobody to send to."""
        raise ConnectionAbortedError


def send_requests(late: list[tuple[Exchange, bytes]]) -> None:
    """The end of a turn: whole requests leave together. Each server is woken once then, and still awake when the next request comes; waking it for each
    one costs more than the request (docs/performance.md). An exchange that ended meanwhile has nothing to ask any more."""
    try:
        for x, message in late:
            if x.unsent is message:
                x.unsent = None
                x.receive = x.answer_state
                outcome: int | Exception
                try:
                    outcome = x.link.send(message)  # type: ignore[union-attr]
                except Exception as error:
                    outcome = error
                if outcome == len(message) <= READ:
                    x.accepted = True
                    continue
                x.receive = x.head_state
                try:
                    x.sent(message, outcome)
                except Exception as error:  # of one of them: the others are sent all the same
                    x.client.front.loop.broken("a request raised", x.event, error)
    finally:
        late.clear()  # whatever happens, the next turn begins with none


def lingers_until(answered: float, heard: float, draining: bool) -> float:
    """How long is a client read that was answered at `answered` and is sending still, last at `heard`?

    Bytes are not counted: they cost no memory, and a client that writes all before it reads anything loses its answer at the first one we refuse.
    """
    return min(heard + LINGER_SILENT_S, answered + (LINGER_SILENT_S if draining else LINGER_S))


# -- the states of `receive` ---------------------------------------------------------------------------------------------------------------


def too_early(x: Exchange, data: bytes) -> None:
    """The request waits for the end of this turn: what comes before it is no answer to it, and its link is no good."""
    x.upstream_ended(None)


def response_head(x: Exchange, data: bytes) -> None:
    """Waiting for a response head. The whole of a small answer passes here, in one read and one write."""
    if x.held:
        data, x.held = x.held + data, b""
    end = data.find(HEAD_END) + 4
    get_plan = x.plan.responses.get
    plan = get_plan(data[:end])
    if plan is None:
        plan = x.judge_response(data, end)
        if plan is None:
            return
    if plan.length != len(data) - end or not x.request_ended or x.spoiled or plan.special or x.plan.document:
        x.respond(plan, data, end)
        return
    client = x.client
    keep = plan.client_can_go_on and x.plan.keep and not client.draining.is_set
    if not keep:
        out = plan.head_close + data[end:]
    elif plan.verbatim:
        out = data
    else:
        out = plan.head + data[end:]
    size = len(out)
    send = client.send
    try:
        sent = send(out)
    except WOULD_BLOCK:
        sent = 0
    except OSError:
        sent = size  # it left with its answer on the way: the exchange is done, the next read finds the hang-up
    now = monotonic()
    if x.ledger is not None:
        x.ledger.answered(plan, data[end:], size, now)
    link = cast(UpstreamLink, x.link)
    client.log.add(
        (
            x.plan.about,
            client.about,
            x.request_id,
            x.began,
            now,
            now,
            plan.status,
            x.bytes_in,
            x.bytes_out + size,
            x.upstream,
            x.reused,
            b"done",
            plan.extra if x.plan.opens else b"",
            x.plan.place,
        )
    )
    x.link = x.rest = None
    if plan.idle_hint is not None:
        link.hint(plan.idle_hint)
    if plan.keep_link and link.pending is None and (not x.plan.expects or x.continued):
        link.pool.keep(link, now)
    else:
        if link.endpoint.trial:
            link.pool.group.ended(link.endpoint, plan.status)
        link.pool.discard(link)
    if x.attempts or x.interims or x.ending is not HEAD_END:
        x.forget()
    else:
        x.ledger = None
    if sent != size:
        client.hold(memoryview(out)[sent:])
        client.exchange_over(keep)
    elif keep and client.reading and not client.ahead:
        client.since = now
        client.input = client.next_head
    else:
        client.exchange_over(keep)


def response_body(x: Exchange, data: bytes) -> None:
    """Splice: bytes pass as they are while the scanner agrees with every one of them. (As pass_on, but no call more than needed.)"""
    scanner = x.scanner
    size = len(data)
    try:
        used = scanner.feed(data)
    except ProxyError as error:
        x.fail(error)
        return
    if used != size:
        x.spoiled = True  # bytes after the end: they go nowhere and the link goes with them
        pass_on(x, data[:used])
        return
    x.touched = clock.now
    x.bytes_out += size
    send = x.send
    try:
        sent = send(data)
    except WOULD_BLOCK:
        sent = 0
    except OSError as error:
        x.client.lost(error)
        return
    if sent != size:
        x.hold_back(data, sent)
    if scanner.done:
        x.finished()


def response_events(x: Exchange, data: bytes) -> None:
    """As response_body, for event streams. Their events leave at the end of the turn: first all are read, then all are written, so that the code of
    each half stays in the processor's cache (3 % of an event's cost with thousands of streams)."""
    scanner = x.scanner
    size = len(data)
    try:
        used = scanner.feed(data)
    except ProxyError as error:
        x.fail(error)
        return
    if used != size or scanner.done:
        if used != size:
            x.spoiled = True
        pass_on(x, data[:used])
        return
    x.touched = clock.now
    x.bytes_out += size
    late = x.departures
    late.append((x, x.recv, data))
    if len(late) == 1:
        x.client.loop.at_end_of_turn(partial(depart, late))


def depart(late: list[Departure]) -> None:
    """The end of a turn: its events leave. An exchange that ended meanwhile (its client left) has nothing to say any more."""
    try:
        for x, recv, data in late:
            if x.recv is not recv:
                continue
            send = x.send
            try:
                sent = send(data)
            except WOULD_BLOCK:
                sent = 0
            except OSError as error:
                x.client.lost(error)
                continue
            except Exception as error:  # of one of them: what the others were to get must not be lost
                x.client.front.loop.broken("an event raised", x.event, error)
                continue
            if sent != len(data):
                x.hold_back(data, sent)
    finally:
        late.clear()  # whatever happens, the next turn begins with none


def response_body_read(x: Exchange, data: bytes) -> None:
    """As response_body, where somebody must see the payload without its framing: it is relayed (HTTP/2, HTTP/1.0), comments are put between events, or
    the ledger wants to know how a call ended."""
    pieces: list[bytes] = []
    try:
        used = x.scanner.feed(data, pieces)
    except ProxyError as error:
        x.fail(error)
        return
    if used != len(data):
        x.spoiled = True
        data = data[:used]
    pass_on(x, heard(x, pieces, data))


def response_document(x: Exchange, data: bytes) -> None:
    """A server's own metadata (RFC 9728), where it is the resource and does not know its public URL: seen whole, and told with the right one."""
    pieces: list[bytes] = []
    gathered, rewriting = x.gathered, x.plan.rewriting
    assert gathered is not None and rewriting is not None
    try:
        used = x.scanner.feed(data, pieces) if data else 0
        for piece in pieces:
            gathered += piece
        if len(gathered) > DOCUMENT:
            raise ProxyError("document-too-large", Side.UPSTREAM, 502)
    except ProxyError as error:
        x.rplan = None
        x.fail(error)
        return
    x.spoiled |= used != len(data)
    if x.scanner.done:
        document_ended(x)


def document_ended(x: Exchange) -> None:
    """All of it is here. What is no such document goes on as it came, but for its chunks; and HEAD is not told the length it had before."""
    rewriting, plan, whole = x.plan.rewriting, x.rplan, bytes(x.gathered or b"")
    assert rewriting is not None and plan is not None
    x.gathered = None
    told = rewriting.document(whole)
    if told is None:
        head = plan.head if x.client.keep else plan.head_close
        if x.plan.method == b"HEAD":
            head = LENGTH_LINE.sub(b"", head)
        elif plan.length == CHUNKED_LENGTH and not plan.dechunk:
            whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(whole), whole) if whole else b"0\r\n\r\n"
        x.receive = response_body
        x.begin_response(head, whole)
        if plan.length == UNTIL_CLOSE_LENGTH and x.rplan is plan:
            x._settle(keep=False)
            x._over(b"done")
        return
    fields = x.plan.responses.fields
    said = {name.lower() for name, _ in fields}
    fields += tuple(field for field in DOCUMENT_FIELDS if field[0].lower() not in said)
    keep = x.goes_on() and x.request_ended and x.plan.version != 10
    answer = replies.dated(replies.document(told, fields, close=not keep), http_date())
    x._settle(keep=x._may_keep())
    x.bytes_out += len(answer)
    x._record(b"done", 200)
    x.client.exchange_over(keep, answer)


def heard(x: Exchange, pieces: list[bytes], data: bytes) -> bytes:
    """Payload passes, in `pieces`; `data` is the same with its framing. What the client gets of it."""
    if x.boundary is not None:
        for piece in pieces:
            x.boundary.feed(piece)
    if x.ledger is not None:
        for piece in pieces:
            x.ledger.hear(piece)
    return b"".join(pieces) if x.rplan is not None and x.rplan.dechunk else data


def pass_on(x: Exchange, out: bytes) -> None:
    """To the client, now; what it does not take stops the server."""
    x.touched = clock.now
    size = len(out)
    x.bytes_out += size
    if size:
        try:
            sent = x.send(out)
        except WOULD_BLOCK:
            sent = 0
        except OSError as error:
            x.client.lost(error)
            return
        if sent != size:
            x.hold_back(out, sent)
    if x.scanner.done:
        x.finished()


Exchange.head_state = Exchange.answer_state = staticmethod(response_head)
Exchange.short_states = (response_events,)
