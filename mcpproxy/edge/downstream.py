"""HOT. START HERE. One client connection: accept, handshake, then request after request (docs/request.md, steps 1-3).

`input` is the present state, a plain function called with the connection and what was read:

    next_head ──▶ ahead_bytes   the request came whole; bytes that come meanwhile belong to the next one and wait
       │ └──────▶ body_bytes    its body is still coming ──▶ ahead_bytes
       ▲               │
       └── exchange over (edge/exchange) ──▶ linger_bytes ──▶ closed
                                     101 ──▶ tunnel.from_client

 1. A head is looked up; only an unknown one is judged (edge/plan). Requests on a connection are served in order, one at a time.
 2. While an exchange runs the client is still read: its end means it left (the server's work is stopped at once), its bytes are the next request
    (at most one read's worth is kept). Only an end after `Connection: close`, or behind pipelined requests, on a plain link is a half-close:
    that client still wants its answer.
 3. A connection that is closed while the client may still be sending lingers: answer, FIN, then read and forget, so that no reset eats the answer.
 4. Deadlines live in `due`; every state has one.

It is one file because a connection is one state machine: whoever changes a state must see all of them and every deadline.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import partial
from typing import Any

from mcpproxy.clock import clock, http_date, monotonic
from mcpproxy.config.model import Limits
from mcpproxy.edge import local, tunnel
from mcpproxy.edge.debts import TOO_MUCH_S, Debt, Debts
from mcpproxy.edge.doorstep import Doorstep
from mcpproxy.edge.exchange import CLIENT_LEFT, HEAD_END, LINGER_SILENT_S, NO_UPSTREAM, Exchange, lingers_until
from mcpproxy.edge.facts import ANYBODY, Caller, renamed
from mcpproxy.edge.gathering import Gathering
from mcpproxy.edge.multiplex import Multiplex
from mcpproxy.edge.peephole import Peephole, Pending
from mcpproxy.edge.plan import CHUNKED_LENGTH, Judge, Plan
from mcpproxy.edge.questions import Questions
from mcpproxy.edge.shelf import Shelves
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http import replies
from mcpproxy.http.framing import REQUEST, ChunkedScanner, LengthScanner
from mcpproxy.http.h2 import Connection
from mcpproxy.http.head import bad_start
from mcpproxy.net.link import NO_SOCKET, READ, RECORD, Link
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.timers import Wheel
from mcpproxy.observe.accesslog import OURS, AccessLog
from mcpproxy.policy.limits import network
from mcpproxy.policy.network import Networks
from mcpproxy.policy.verdict import Credential

EMPTY_LINES = 4  # bytes of CRLF before a request line that are forgiven (RFC 9112 §2.2)
DRAIN_GRACE_S = 0.1  # seconds an idle connection may still put a request in that was on its way when the drain began
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"  # how a client begins that knows we speak HTTP/2 (RFC 9113 §3.4), up to its empty line
STAYS = frozenset({"shelves", "draining", "id_prefix"})  # of a Front, whatever the configuration
GLANCE = 256  # bytes of an unfinished head that come before it is looked at again: one-byte packets must not cost a scan each


@dataclass(slots=True)
class Draining:
    """Set when the process is to end, or the listener is no more: connections close after the exchange they are in."""

    is_set: bool = False


@dataclass(slots=True)
class Front:
    """What all connections of one listener share. What has a default here is the process's own; the rest follows from the configuration (`become`)."""

    loop: EdgeLoop
    wheel: Wheel
    judge: Judge
    shelves: Shelves
    log: AccessLog
    limits: Limits
    draining: Draining
    questions: Questions
    networks: Networks
    context: ssl.SSLContext | None  # of a TLS listener
    alpn: Pending | None  # authorities may come to it and look at a certificate made for them
    counts: bool  # some route counts what addresses do
    proxy_line: bool  # connections begin with a PROXY header
    asks_certificates: bool
    links: set[Downstream | Multiplex | Doorstep]
    id_prefix: bytes  # random per process, so request ids are unique across restarts
    patience: float  # seconds: a connection is looked at least this often
    h2: type[Connection] | None  # who reads HTTP/2; None: nobody
    mcp: bool  # every route speaks MCP: refusals have the shape of a JSON-RPC error
    departures: list[Any] = field(default_factory=list)  # see edge/exchange.response_events
    requests: list[Any] = field(default_factory=list)  # see edge/exchange.send_requests
    debts: Debts = field(default_factory=Debts)
    gathering: Gathering = field(default_factory=Gathering)
    served: int = field(default=0)  # requests of connections that are gone; those of living ones are in `links`
    greeted: int = field(default=0)
    handshakes_failed: int = field(default=0)

    def caller(self, host: str) -> Caller:
        """What the address of a connection changes."""
        if self.networks.idle:
            return ANYBODY
        if self.networks.trusts(host):
            return Caller(proxy=host)
        return Caller(barred=self.networks.barred(host))

    def become(self, fresh: Front) -> None:
        """Serve by another configuration from now on: every connection of ours meets it at its next request. Cannot fail."""
        context, before = fresh.context, self.judge
        fresh.judge.compiled += before.compiled
        if fresh.judge.variants.bounded_as(before.variants):
            fresh.judge.variants = before.variants
        self.shelves.refit(fresh.shelves)
        self.recertify(context)
        for each in fields(Front):
            if each.default is MISSING and each.default_factory is MISSING and each.name not in STAYS:
                setattr(self, each.name, getattr(fresh, each.name))
        for link in tuple(self.links):
            if link.front is self:
                link.refit()

    def recertify(self, context: ssl.SSLContext | None) -> None:
        """New connections begin with this one. If it is another, the authorities of clients are others (net/tls.take_over), and what is shown already counts
        no more."""
        before, self.context = self.context, context
        if before is not None and before is not context:
            for link in tuple(self.links):
                if link.front is self and not isinstance(link, Doorstep) and link.shelf.caller.certificate is not None:
                    link.disown()

    def leave(self) -> None:
        """The listener, or all of us, are to end: no connection goes on after the exchange it is in."""
        self.draining.is_set = True
        self.judge.draining = True
        self.shelves.clear()

    def greet(self, sock: socket.socket, peer: Any) -> None:
        """A connection was accepted."""
        host = peer[0] if isinstance(peer, tuple) else "unix"
        if not self.proxy_line:
            self.welcome(sock, host)
        elif self.networks.trusts(host):
            Doorstep(self, sock, host).begin()
        else:
            sock.close()

    def welcome(self, sock: socket.socket, host: str) -> None:
        """Whose connection it is, is known."""
        if self.context is None:
            link = Downstream(self, sock, host)
            self.admit(link, link.begin)
        elif self.alpn is not None and self.alpn.hosts:
            Peephole(self, sock, host).begin()
        else:
            self.secure(sock, host)

    def secure(self, sock: socket.socket, host: str) -> None:
        """TLS begins."""
        assert self.context is not None
        wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False)
        link = Downstream(self, wrapped, host)
        self.admit(link, link.begin_handshake)

    def admit(self, link: Downstream, begin: Callable[[], None]) -> None:
        """Now; later, if its address is in debt."""
        wait = link.debt.wait(monotonic()) if link.debt.until else 0.0
        if not wait:
            begin()
        elif wait < TOO_MUCH_S:
            self.loop.call_later(wait, begin)
        else:
            link.drop()


class Downstream(Link):
    """A client connection."""

    __slots__ = (
        "about",
        "ahead",
        "awaits",
        "began",
        "debt",
        "departures",
        "requests",
        "draining",
        "exchange",
        "flushing",
        "forwarded",
        "front",
        "get_plan",
        "head_began",
        "head_size",
        "held",
        "input",
        "input_ended",
        "keep",
        "lingers",
        "log",
        "looked",
        "network",
        "next_head",
        "number",
        "peer",
        "scanner",
        "served",
        "since",
        "unwanted",
        "id_prefix",
        "shelf",
    )

    def __init__(self, front: Front, sock: socket.socket, host: str) -> None:
        super().__init__(front.loop, front.wheel, sock)
        self.front = front
        self.log = front.log
        self.draining = front.draining
        self.shelf = front.shelves.of(front.caller(host))
        self.get_plan = self.shelf.plans.fresh.get
        self.departures: list[Any] = front.departures
        self.requests: list[Any] = front.requests
        front.greeted += 1
        self.id_prefix = b"%b%x-" % (front.id_prefix, front.greeted)
        self.exchange = Exchange(self)
        self.input: Any = next_head
        self.next_head = next_head
        self.ahead = b""  # bytes of the next request, read while this one is served
        self.held = b""  # a head that has not all arrived
        self.head_began = 0.0
        self.head_size = 0  # bytes of the head of a request whose body is still measured
        self.looked = 0  # bytes of `held` that bad_start has seen
        self.since = monotonic()  # when the present state (idle, body, flush, linger) began or last moved
        self.served = 0
        self.unwanted = 0  # bytes of the body of a request that is answered here, still to come
        self.lingers = 0.0  # when our last word was said to a client that may still be sending
        self.awaits = 0  # bytes of the request, while none of its body came and the client waits for 100
        self.keep = True
        self.flushing = False
        self.input_ended = False
        self.scanner: LengthScanner | ChunkedScanner | None = None
        shared = self.shelf.caller.proxy is not None or host == "unix"  # there is another proxy: many clients, one address
        self.debt = Debt() if shared else front.debts.of(host)
        address = host.encode()
        self.peer = address
        self.network = network(host) if front.counts else b""  # what limits count it as
        self.about = renamed(b':"%b"' % address, self.shelf.caller)
        self.forwarded = b"X-Forwarded-For: %b\r\nX-Real-IP: %b\r\nX-Request-Id: " % (address, address)
        front.links.add(self)

    # -- step 1: accept, handshake ---------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Plain: read at once."""
        if self.fd < 0:
            return  # the process ended while it had to wait
        self.since = monotonic()
        self.wheel.arm(self, self.since + min(self.front.limits.head_timeout, self.front.patience))
        self.resume()

    def begin_handshake(self) -> None:
        """TLS: `input` None means the handshake is not over."""
        if self.fd < 0:
            return
        self.since = monotonic()
        self.input = None
        self.wheel.arm(self, self.since + self.front.limits.handshake_timeout)
        self.loop.add_reader(self.fd, self._shake)
        self.reading = True

    def _shake(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.loop.remove_writer(self.fd)
            return
        except ssl.SSLWantWriteError:
            self.loop.add_writer(self.fd, self._shake)
            return
        except (OSError, ValueError) as error:  # ValueError: OpenSSL and a client that talks nonsense
            self.front.handshakes_failed += 1
            if getattr(error, "reason", "") == "HTTP_REQUEST":
                self.answer_in_plain()
            else:
                self.close()
            return
        self.loop.remove_writer(self.fd)
        cipher = self.tls.cipher()
        self.about += b',"tls":"%b","cipher":"%b"' % (self.tls.version().encode(), cipher[0].encode())
        if self.front.asks_certificates:
            self._see_certificate()
        if self.tls.selected_alpn_protocol() == "h2":
            if self.front.h2 is None:  # it was promised before the configuration changed
                self.drop()
                return
            self.become_h2(b"")
            return
        self.input = next_head
        self.since = monotonic()
        self.wheel.arm(self, self.since + min(self.front.limits.head_timeout, self.front.patience))
        self.loop.add_reader(self.fd, self.readable)

    def _see_certificate(self) -> None:
        """The client's certificate is a fact of the connection: what it changes in judgements is kept apart from everybody else's."""
        shown = self.tls.getpeercert(True)
        if shown is not None:
            caller = replace(self.shelf.caller, certificate=Credential("certificate", shown))
            self.shelf = self.front.shelves.of(caller)
            self.get_plan = self.shelf.plans.fresh.get

    def become_h2(self, data: bytes) -> None:
        """This client speaks HTTP/2: by ALPN, or by its first words (prior knowledge, RFC 9113 §3.3). The socket goes to a Multiplex."""
        sock, self.sock = self.sock, NO_SOCKET
        self.front.links.discard(self)
        self._release()
        Multiplex(self.front, sock, self).begin(data)

    def answer_in_plain(self) -> None:
        """Somebody forgot the s of https (OpenSSL knows a GET, HEAD, POST or PUT when it sees one): tell them in words they understand."""
        self.loop.remove_writer(self.fd)
        self.tls = None
        self.recv, self.send = partial(socket.socket.recv, self.sock), partial(socket.socket.send, self.sock)
        self.loop.add_reader(self.fd, self.readable)
        self.answer_and_end(replies.reply(400, "plain-on-tls-port", jsonrpc=self.front.mcp, close=True))

    def readable(self) -> None:
        recv = self.recv
        try:
            data = recv(READ)
        except OSError as error:
            if not self.read_failed(error):
                return
            data = b""
        if data:
            if len(data) == READ:
                self.loop.again(self.fd)
            state = self.input
            state(self, data)
        else:
            self.ended()

    # -- step 2: an unknown or unfinished head ---------------------------------------------------------------------------------------------

    def unfinished(self, data: bytes) -> None:
        """No end of the head yet: judge the beginning (garbage gets its answer now, not at the deadline), keep it, watch the time."""
        now = monotonic()
        if not self.held:
            self.head_began = now
            self.looked = 0
            self.wheel.at_most(self, now + self.front.limits.head_timeout)
        if PREFACE.startswith(data) and self.front.h2 is not None and not self.served:
            self.held = data
            return
        begun = without_empty_lines(data)
        if begun and len(begun) != len(data):  # empty lines alone are kept: they have begun the time
            data, self.looked = begun, 0
        if len(data) - self.looked >= GLANCE or b"\n" in data[self.looked :] or not self.looked:
            self.looked = len(data)
            bad = bad_start(data, self.front.judge.limits)
            if bad is not None:
                self.refuse(bad, data, now)
                return
        self.held = data

    def judge(self, head: bytes) -> Plan | None:
        """The slow way to a plan. None when the head was refused (and answered)."""
        try:
            return self.shelf.plan_for(head, address=self.network)
        except ProxyError as error:
            self.refuse(error, head, monotonic())
            return None

    def refuse(self, error: ProxyError, head: bytes, began: float) -> None:
        """A head that is not to be served: one answer, one line, and the connection ends (what follows cannot be told apart)."""
        answer = local.refusal(error, head, mcp=self.front.mcp, close=True, date=http_date())
        self.held = b""
        self.log.add(
            (
                local.describe_refused(head, kind=error.kind),
                self.about,
                self.next_id(),
                began,
                0.0,
                monotonic(),
                error.status,
                len(head),
                len(answer),
                NO_UPSTREAM,
                0,
                b"refused" if error.side is Side.DOWNSTREAM else b"failed",
                b',"reason":"%b"' % error.kind.encode(),
                OURS,
            )
        )
        self.answer_and_end(answer)

    def next_id(self) -> bytes:
        """A request id of our own."""
        self.served += 1
        return b"%b%x" % (self.id_prefix, self.served)

    # -- the request's body ----------------------------------------------------------------------------------------------------------------

    def take_body(self, plan: Plan, data: bytes, end: int) -> None:
        """What came with the head is not exactly its body: a part, more than it, chunks, or a request that is answered here."""
        x = self.exchange
        if plan.answer is not None:
            local.answer(self, plan, data, end)
            return
        x.bytes_in = len(data)
        self.head_size = end
        self.scanner = scanner = LengthScanner(plan.length) if plan.length >= 0 else ChunkedScanner(REQUEST, plan.untrailed)
        body = data[end:]
        try:
            used = scanner.feed(body) if body else 0
        except ProxyError as error:
            x.rest, x.request_ended = None, False
            x.fail(error)
            return
        x.bytes_in = end + used
        if plan.length == CHUNKED_LENGTH and self.too_large(x):
            return
        x.rest = body[:used]
        x.request_ended = scanner.done
        self.ahead = body[used:]
        self.since = monotonic()
        self.input = ahead_bytes if scanner.done else body_bytes
        self.awaits = end if plan.expects and not used else 0
        if not scanner.done:
            self.wheel.at_most(self, self.since + self.front.limits.body_stall)
        x.start()

    def swallow(self, missing: int, end: int) -> None:
        """So many bytes of the body behind this head (of `end` bytes) are still to come, and nobody wants them: the answer waits for their end."""
        self.head_size = end
        self.unwanted = missing
        self.input = unwanted_bytes
        self.since = monotonic()
        self.wheel.at_most(self, self.since + self.front.limits.body_stall)

    def too_large(self, x: Exchange) -> bool:
        """A chunked body is measured as it comes."""
        route = x.plan.route
        if route is None or x.bytes_in <= route.max_body + self.head_size:
            return False
        x.request_ended = False
        x.fail(ProxyError("body-too-large", Side.DOWNSTREAM, 413))
        return True

    def pause_upload(self) -> None:
        """The server is slower than this client."""
        if not self.exchange.request_ended:
            self.pause()

    def inform(self, head: bytes) -> bool:
        """An interim response."""
        return self.write(head)

    def resume_upload(self) -> None:
        """The server takes bytes again. The time in which we did not read does not count as the client's."""
        self.since = clock.now
        self.resume()

    # -- what the exchange tells us --------------------------------------------------------------------------------------------------------

    def exchange_over(self, keep: bool, answer: bytes = b"") -> None:
        """The exchange is settled and logged. `answer` is our own reply, still to be sent."""
        self.scanner = None
        self.keep = keep
        if answer:
            if self.pending is not None:  # an interim response it has not taken for ages: there is no place for another word
                self.abort()
                return
            try:
                self.write(answer)
            except OSError:
                self.close()
                return
        if self.pending is not None:
            self.flushing = True
            self.since = monotonic()
            self.input = ahead_bytes
            return
        self._go_on()

    def _go_on(self) -> None:
        self.flushing = False
        if not self.keep:
            self.end()
            return
        self.since = monotonic()
        if self.input_ended and not self.ahead:
            self.close()
            return
        if self.ahead:
            self.input = ahead_bytes
            self.loop.call_soon(self._next_in_line)
        else:
            self.input = next_head
            if self.draining.is_set:
                self.loop.call_later(DRAIN_GRACE_S, self.drain)
        if not self.input_ended and len(self.ahead) < READ:
            self.resume()

    def _next_in_line(self) -> None:
        """A pipelined request: its bytes are here already."""
        if self.fd >= 0 and self.input is ahead_bytes:
            data, self.ahead = self.ahead, b""
            self.input = next_head
            if not self.input_ended:
                self.resume()  # it may have been stopped because so much waited here
            try:
                next_head(self, data)
            except Exception as error:
                self.loop.broken("a pipelined request raised", self._next_in_line, error)
                return
            if len(self.ahead) >= READ:
                self.pause()

    def answer_and_end(self, answer: bytes) -> None:
        """Our last words on this connection."""
        self.exchange.request_ended = False
        self.exchange_over(False, answer)

    def end(self) -> None:
        """Close; linger while the client may still be sending."""
        if self.input_ended or (self.exchange.request_ended and not self.ahead):
            self.close()
            return
        self.ahead = b""
        self.input = linger_bytes
        self.since = self.lingers = monotonic()
        self.wheel.at_most(self, self.since + LINGER_SILENT_S)
        self.finish_writing()
        self.read_raw()
        self.resume()

    def drained(self) -> None:
        if self.flushing:
            self._go_on()
        else:
            self.exchange.client_drained()

    # -- ends ------------------------------------------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """The client's direction is over (FIN or close_notify)."""
        state, x = self.input, self.exchange
        self.pause()
        if state is tunnel.from_client:
            tunnel.client_ended(x)
        elif state is ahead_bytes and self.tls is None and (self.ahead or not x.plan.keep):
            self.input_ended = True
        else:
            self.left(None)

    def lost(self, error: OSError) -> None:
        """The client's connection broke."""
        self.pause()
        self.left(error)

    def left(self, error: OSError | None) -> None:
        """Nobody is there any more."""
        state = self.input
        if self.flushing:
            pass  # the exchange is logged already
        elif state in IN_EXCHANGE:
            if not (state is ahead_bytes and self.between_requests()):
                self.exchange.client_left(b"done" if self.exchange.server_done else b"client-gone")
        elif state is next_head and self.held:
            self._log_unfinished(b"client-gone")
        if error is None:
            self.close()
        else:
            self.abort()

    def _log_unfinished(self, end: bytes) -> None:
        """A head began and will not be finished."""
        row = (local.describe_refused(self.held), self.about, self.next_id(), self.head_began, 0.0, monotonic(), CLIENT_LEFT)
        self.log.add((*row, len(self.held), 0, NO_UPSTREAM, 0, end, b',"reason":"unfinished-head"', OURS))

    def _release(self) -> None:
        front = self.front
        front.links.discard(self)
        front.served += self.served
        self.ahead = self.held = b""
        super()._release()
        self.exchange.let_go()

    def due(self, now: float) -> float | None:
        state, limits = self.input, self.front.limits
        if state is next_head:
            if self.held:
                deadline = self.head_began + limits.head_timeout
                if deadline <= now:
                    self.refuse(ProxyError("head-timeout", Side.DOWNSTREAM, 408), self.held, self.head_began)
            else:
                deadline = self.since + (limits.keepalive if self.served else limits.head_timeout)
                if deadline <= now and self.asked(select.POLLIN):
                    deadline = now + 1.0  # we slept (a frozen machine), the client did not: its request lies unread
                elif deadline <= now:
                    self.close()
        elif state is None:
            self.front.handshakes_failed += 1
            self.abort()
            return None
        elif state is unwanted_bytes:
            deadline = self.since + limits.body_stall
            if deadline <= now:
                local.reply(self, self.exchange.plan, self.head_size, keep=False)
        elif state is linger_bytes:
            deadline = lingers_until(self.lingers, self.since, self.draining.is_set)
            if deadline <= now:
                self.close()
        elif self.flushing:
            deadline = self.since + limits.body_stall
            if deadline <= now:
                self.abort()
        elif state is body_bytes and self.reading and self.exchange.rplan is None and not self.waits_for_100():
            deadline = self.exchange.body_deadline(self.since)
            if deadline <= now:
                self.exchange.fail(ProxyError("body-timeout", Side.DOWNSTREAM, 408))
        elif self.between_requests():
            deadline = now
        elif not self.reading and self.hung_up():
            self.left(ConnectionResetError())
            return None
        else:
            deadline = self.exchange.due(now)
        if self.fd < 0:
            return None
        return min(deadline, now + self.front.patience) if deadline > now else now + self.front.patience

    def hung_up(self) -> bool:
        """Has a client that is not read (its server is slow) left meanwhile? An end that may be a half-close is no hang-up."""
        events = self.asked(select.POLLRDHUP)
        may_wait = self.tls is None and (self.input is tunnel.from_client or not self.exchange.plan.keep)
        return bool(events) and (not may_wait or bool(events & (select.POLLHUP | select.POLLERR)))

    def end_now(self) -> None:
        """The process ends: what runs is cut, and says so in the log."""
        if self.input in IN_EXCHANGE and not self.flushing and not (self.input is ahead_bytes and self.between_requests()):
            self.exchange.client_left(b"stopped")
            self.abort()
            return
        if self.input is next_head and self.held:
            self._log_unfinished(b"stopped")
        self.close()

    def broken(self) -> None:
        try:
            if self.input in IN_EXCHANGE and not self.flushing:
                self.exchange.broke()
        finally:
            self.abort()

    def waits_for_100(self) -> bool:
        """Is it the server's turn to speak (RFC 9110 §10.1.1)? The client's silence is no stall then."""
        x = self.exchange
        return x.bytes_in == self.awaits and not x.interims

    def between_requests(self) -> bool:
        """The next pipelined request is about to begin: there is no exchange to speak of."""
        return self.exchange.link is None and self.exchange.waiting is None

    def refit(self) -> None:
        """The listener has another configuration: the next request is judged by it; what goes on just now ends as it began."""
        front, host = self.front, self.peer.decode()
        caller = replace(front.caller(host), certificate=self.shelf.caller.certificate)
        self.shelf = front.shelves.of(caller)
        self.get_plan = self.shelf.plans.fresh.get
        self.network = network(host) if front.counts else b""
        self.about = renamed(self.about, caller)
        if self.input is next_head and hasattr(self.exchange, "plan"):
            del self.exchange.plan  # it holds what it was judged by

    def disown(self) -> None:
        """The certificate it showed counts no more: nothing goes on but what has begun."""
        self.shelf = self.front.shelves.of(replace(self.shelf.caller, certificate=None))
        self.get_plan = self.shelf.plans.fresh.get
        self.draining = Draining(is_set=True)
        self.drain()

    def drain(self) -> None:
        """The process is ending. An idle connection closes; others finish what they are in."""
        if self.input is next_head and not self.held and not self.flushing:
            self.close()


# -- the states of `input` -----------------------------------------------------------------------------------------------------------------


def next_head(self: Downstream, data: bytes) -> None:
    """Waiting for a request head. A small request passes here whole: look up, lease, forward."""
    if self.held:
        data = self.held + data
        if HEAD_END in data:
            self.held = b""
    end = data.find(HEAD_END) + 4
    if end < 4:
        self.unfinished(data)
        return
    get_plan = self.get_plan
    plan = get_plan(data[:end])
    if plan is None:
        if data.startswith(PREFACE) and self.front.h2 is not None and not self.served:
            self.become_h2(data)
            return
        if data[0] == 13:  # CR
            data = without_empty_lines(data)
            if data:
                next_head(self, data) if data[0] != 13 else self.unfinished(data)
            return
        plan = self.judge(data[:end])
        if plan is None:
            return
    x = self.exchange
    x.plan = plan
    x.began = monotonic()
    self.served = served = self.served + 1
    x.request_id = plan.request_id or b"%b%x" % (self.id_prefix, served)
    size = len(data)
    if plan.length == size - end:
        self.input = ahead_bytes
        x.bytes_in = size
        x.request_ended = True
        x.rest = data[end:]
        x.start()
    else:
        self.take_body(plan, data, end)


def body_bytes(self: Downstream, data: bytes) -> None:
    """More of the request's body."""
    x, scanner = self.exchange, self.scanner
    assert scanner is not None
    if len(data) == RECORD and self.tls is not None:
        data = self.read_on(data)
    try:
        used = scanner.feed(data)
    except ProxyError as error:
        x.fail(error)
        return
    self.since = clock.now
    x.bytes_in += used
    if used != len(data):
        self.ahead = data[used:]
        data = data[:used]
    if x.plan.length == CHUNKED_LENGTH and self.too_large(x):
        return
    if scanner.done:
        x.request_ended = True
        self.input = ahead_bytes
    x.upload(data)


def unwanted_bytes(self: Downstream, data: bytes) -> None:
    """The body of a request that is answered here."""
    self.unwanted -= len(data)
    self.since = clock.now
    if self.unwanted <= 0:
        plan = self.exchange.plan
        self.ahead = data[len(data) + self.unwanted :]
        local.reply(self, plan, self.head_size + plan.body, keep=True)


def ahead_bytes(self: Downstream, data: bytes) -> None:
    """The client talks on while its request is served: that is the next request's business."""
    self.ahead += data
    if len(self.ahead) >= READ:
        self.pause()


def linger_bytes(self: Downstream, data: bytes) -> None:
    """Read and forget."""
    self.since = clock.now


def without_empty_lines(data: bytes) -> bytes:
    """Forgive a little CRLF before the request line."""
    start = 0
    while start < EMPTY_LINES and data[start : start + 2] == b"\r\n":
        start += 2
    return data[start:]


IN_EXCHANGE = (ahead_bytes, body_bytes, unwanted_bytes, tunnel.from_client)  # states in which an exchange is to be told of an end
