"""HOT. One HTTP/2 stream: the client, as its exchange sees it.

An exchange (edge/exchange) speaks to a client that takes bytes, may be full, and ends. Here that client is a stream of an HTTP/2 connection
(edge/multiplex): `send` makes DATA frames as far as both windows and the socket allow, `hold` keeps the rest (one read at most) until there is
room, and the ends are END_STREAM and RST_STREAM. When the response ends before the request does, what still comes is read, forgotten and given back to
the windows until the client ends its side, too; a reset instead, even one without an error (RFC 9113 §8.1), makes clients such as curl forget the answer.

Towards the server everything is HTTP/1.1: a body of known length goes on as it is, another in chunks of our own. The client's windows open as its
bytes are with the server's kernel, and not before: that is the back-pressure. It is one file because a stream and its exchange end each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from mcpproxy.clock import clock, http_date, monotonic
from mcpproxy.edge import tunnel
from mcpproxy.edge.exchange import (
    CLIENT_LEFT,
    EVENT,
    HEAD_END,
    NO_UPSTREAM,
    Exchange,
    depart,
    lingers_until,
    pass_on,
    response_body,
    response_body_read,
    response_events,
)
from mcpproxy.edge.plan import CHUNKED_LENGTH, ResponsePlan
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.frames import FRAME_LIMIT, pack_head
from mcpproxy.http.framing import CRLF, ChunkedScanner, sizes
from mcpproxy.http.replies import dated
from mcpproxy.http.upgrade import answers_our_key
from mcpproxy.net.link import WOULD_BLOCK
from mcpproxy.upstream.pool import SLICE

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream, Front
    from mcpproxy.edge.multiplex import Multiplex
    from mcpproxy.edge.shelf import Shelf

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR = 0, 1, 2  # RFC 9113 §7
WEBSOCKET_HEAD = re.compile(
    rb"\r\n(?:connection|upgrade|sec-websocket-accept):[^\r]*", re.IGNORECASE
)  # HTTP/1.1's words for it (RFC 8441 §5)
LAST_CHUNK = b"0\r\n\r\n"
BULK, BULK_PIECES = 16 * 1024, 3  # bytes of a slice that are better not copied, unless they are many small chunks
FULL = 128 * 1024  # bytes of payload that one turn of a connection may gather; a stream that comes later waits for the write


class Stream:
    """A stream, and what its exchange asks of a client."""

    __slots__ = (
        "about",
        "answered",
        "answered_at",
        "backlog",
        "blocked",
        "connection",
        "departures",
        "requests",
        "done",
        "draining",
        "ending",
        "exchange",
        "forwarded",
        "id",
        "input",
        "input_ended",
        "keep",
        "log",
        "owed",
        "pending",
        "since",
        "size",
        "started",
        "tail",
        "trailing",
        "used",
        "wake",
        "wheel",
    )
    tls = None  # a cut is RST_STREAM, however the connection is protected

    def __init__(self, connection: Multiplex) -> None:
        self.connection = connection
        self.about, self.forwarded = connection.about, connection.forwarded
        self.log, self.draining, self.wheel = connection.log, connection.draining, connection.wheel
        self.id = 0  # 0: ready for another request
        self.size = 0  # bytes of the body so far
        self.owed = 0  # bytes of the body that are on their way to the server: their window is not open again
        self.started = False
        self.done = False  # the client ended its side
        self.wake = 0
        self.pending: memoryview | None = None
        self.backlog: list[bytes] = []
        self.keep = False
        self.since = clock.now  # when something of the body last moved
        self.used = True  # more passed than a whole call and a whole answer: `tidy` must follow
        self.tidy()
        self.departures: list[Any] = connection.front.departures
        self.requests: list[Any] = connection.front.requests
        self.exchange = StreamExchange(self)

    def tidy(self) -> None:
        """What a whole call with a whole answer never touches."""
        self.used = False
        if self.wake:
            self.wheel.disarm(self)
        self.pending = None
        self.backlog.clear()
        self.input: Any = None  # tunnel.from_client, once the stream is a tunnel
        self.input_ended = False  # of a tunnel: the client ended its direction
        self.tail = LAST_CHUNK  # what ends a chunked body: with the client's trailers, if it sent any
        self.blocked = False  # the server takes no more for now
        self.trailing: list[tuple[bytes, bytes]] = []  # trailers of the response, for its end
        self.answered = False  # a final response head went out
        self.ending = False  # the exchange is over; what is pending is still to be sent
        self.answered_at = 0.0  # when END_STREAM was said to a client that is still sending

    # -- the request -----------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Everything that was read with the head is here."""
        self.started = True
        x = self.exchange
        plan = x.plan
        if plan.length == self.size and self.done and x.rest is not None:  # the common call: whole, and of the length it promised
            x.request_ended = True
            self.since = clock.now
            if plan.guard is not None:
                plan.guard.begin(x)
            elif (link := plan.pool.take(x.began)) is not None:
                x.leased(link)
            else:
                x.wait()
            if x.link is not None and not self.blocked:
                owed, self.owed = self.owed, 0
                self.connection.h2.delivered(self.id, owed)  # what that says leaves when all that was read has been dealt with
            return
        if plan.answer is not None:
            self.answer_here()
            return
        if plan.upgrade is None:
            x.request_ended = self.done
            x.rest = self._framed(x.rest or self._all(), self.done)
        else:  # what comes belongs to the tunnel, and waits for it
            x.request_ended = True
            x.rest = b""
        self.since = clock.now
        self.owed = self.size if plan.upgrade is None else 0  # what waits for a tunnel is given back when it went in
        if plan.length == CHUNKED_LENGTH and self.too_large():
            return
        x.start()
        if self.owed and not self.blocked and (x.link is not None or x.gathered is not None):
            self.credit()

    def answer_here(self) -> None:
        """Health, redirects, no such route: the plan's own answer."""
        x = self.exchange
        plan = x.plan
        assert plan.answer is not None
        reply = dated(plan.answer, http_date())
        row = (plan.about, self.about, x.request_id, x.began, 0.0, monotonic(), plan.status, x.bytes_in, len(reply))
        extra = b',"reason":"%b"' % plan.reason if plan.reason else b""
        self.log.add((*row, NO_UPSTREAM, 0, b"refused" if plan.reason else b"local", extra, plan.place))
        if plan.guard is not None:
            plan.guard.refused(x, plan.status, plan.reason.decode(), len(reply))
        self.exchange_over(True, reply)

    def body(self, data: bytes, ended: bool) -> None:
        """More of the body, judged by http/h2."""
        x = self.exchange
        size = len(data)
        self.used = True
        self.size += size
        x.bytes_in += size
        self.done = ended
        if self.input is not None and not self.blocked:
            self._into_tunnel(data)
        elif self.ending:
            self._forget(size)
        elif not self.started or self.blocked or (x.link is None and x.gathered is None) or x.plan.upgrade is not None:
            if size:
                self.backlog.append(data)  # bounded by the stream's window, which stays as it is
        else:
            self._forward(data, ended)

    def _forget(self, size: int) -> None:
        """The response has ended or is about to: nobody wants what still comes."""
        connection = self.connection
        connection.h2.delivered(self.id, size)
        if self.pending is None:
            self.since = clock.now
            if self.done:
                connection.stream_over(self)

    def trailers(self, fields: list[tuple[bytes, bytes]]) -> None:
        """The body's end, with fields behind it. Only a chunked body has a place for them."""
        barred = self.exchange.plan.untrailed
        if barred and any(name in barred for name, _ in fields):  # as http/h2 takes those that no route lets pass
            self.connection.h2.reset(self.id, PROTOCOL_ERROR)
            self.connection.stir()
            self.gone(b"refused")
            return
        self.tail = b"0\r\n%b\r\n" % b"".join([b"%b: %b\r\n" % field for field in fields])
        self.body(b"", True)

    def _into_tunnel(self, data: bytes) -> None:
        x = self.exchange
        if data:
            self.owed += len(data)
            x.bytes_in -= len(data)  # counted when it came, and again now
            tunnel.from_client(cast("Downstream", self), data)
        if self.done and self.id and self.input is not None:
            tunnel.client_ended(x)
        if self.id and not self.blocked:
            self.credit()

    @property
    def ahead(self) -> bytes:
        """What came for a tunnel before it was open."""
        return b"".join(self.backlog)

    @ahead.setter
    def ahead(self, _: bytes) -> None:
        self.owed += sum(map(len, self.backlog))
        self.backlog.clear()

    @property
    def reading(self) -> bool:
        """Not held up by the server."""
        return not self.blocked

    @property
    def front(self) -> Front:
        """What the connections of this listener share."""
        return self.connection.front

    @property
    def network(self) -> bytes:
        """What limits count the client's address as."""
        return self.connection.network

    @property
    def shelf(self) -> Shelf:
        """The plans of this connection."""
        return self.connection.shelf

    def _all(self) -> bytes:
        backlog = self.backlog
        data = backlog[0] if len(backlog) == 1 else b"".join(backlog)
        backlog.clear()
        return data

    def _framed(self, data: bytes, ended: bool) -> bytes:
        if self.exchange.plan.length != CHUNKED_LENGTH:
            return data
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        return chunk + self.tail if ended else chunk

    def _forward(self, data: bytes, ended: bool) -> None:
        x = self.exchange
        self.since = clock.now
        self.owed += len(data)
        if x.plan.length == CHUNKED_LENGTH and self.too_large():
            return
        x.request_ended = ended
        framed = self._framed(data, ended)
        if framed or x.gathered is not None:
            x.upload(framed)
        if not self.blocked and self.id:
            self.credit()

    def too_large(self) -> bool:
        """A body of unknown length is measured as it comes."""
        x = self.exchange
        if x.plan.route is None or self.size <= x.plan.route.max_body:
            return False
        x.fail(ProxyError("body-too-large", Side.DOWNSTREAM, 413))
        return True

    def credit(self) -> None:
        """The server has it: the client may send as much again."""
        owed, self.owed = self.owed, 0
        if owed:
            connection = self.connection
            connection.h2.delivered(self.id, owed)
            if connection.h2.out:
                connection.stir()

    def pause(self) -> None:
        """What comes waits, and the window stays as it is."""
        self.used = True
        self.blocked = self.input is not None

    def pause_upload(self) -> None:
        """The server is slower than this client."""
        self.used = True
        self.blocked = True

    def resume(self) -> None:
        """A tunnel's server takes bytes again."""
        self.blocked = False
        self.credit()

    def resume_upload(self) -> None:
        """The server takes bytes again."""
        self.blocked = False
        self.since = clock.now
        x = self.exchange
        if self.input is not None:
            if self.backlog or (self.done and not self.input_ended):
                self._into_tunnel(self._all())
            else:
                tunnel.server_drained(x)
            return
        if x.plan.upgrade is not None:
            return  # what waits is the tunnel's: to a server that has not switched it would be another request
        if self.backlog or (self.done and not x.request_ended):
            self._forward(self._all(), self.done)
        elif self.id:
            self.credit()

    # -- the response ----------------------------------------------------------------------------------------------------------------------

    def inform(self, head: bytes) -> bool:
        """An interim response."""
        self.used = True
        self.connection.h2.respond(self.id, head, False)
        self.connection.stir()
        return True

    def respond(self, head: bytes, ended: bool) -> None:
        """The final response head."""
        self.used = True
        self.answered = True
        self.connection.h2.respond(self.id, head, ended)
        self.connection.stir()

    def send(self, data: bytes) -> int:
        """Payload, as far as there is room: how much went out."""
        connection = self.connection
        if connection.alone is not None:
            connection.together()
        if connection.pending is not None or connection.filled >= FULL:
            return 0
        sent: int = connection.h2.send(self.id, data)
        connection.filled += sent
        if not connection.flushing:
            connection.stir()
        return sent

    def write(self, data: bytes) -> bool:
        """Send, and keep what finds no room."""
        sent = self.send(data)
        if sent == len(data):
            return True
        self.hold(memoryview(data)[sent:])
        return False

    def hold(self, data: memoryview) -> None:
        """Keep this until there is room."""
        self.used = True
        self.pending = data
        self.connection.waiting[self.id] = self

    def go_on(self, most: int) -> None:
        """There may be room: send up to `most` bytes of what is kept."""
        connection, pending = self.connection, self.pending
        if pending is None:
            connection.waiting.pop(self.id, None)
            return
        room = min(connection.h2.room(self.id), most, len(pending))
        if connection.pending is not None or connection.filled >= FULL or not room:
            return
        connection.filled += room
        whole = room == len(pending)
        connection.h2.data(self.id, pending[:room], whole and self.ending and not self.trailing)
        connection.stir()
        if not whole:
            self.pending = pending[room:]
            return
        self.pending = None
        connection.waiting.pop(self.id, None)
        if self.ending:
            if self.trailing:
                connection.h2.trailers(self.id, self.trailing)
            self._finish()
        else:
            self.exchange.client_drained()

    # -- ends ------------------------------------------------------------------------------------------------------------------------------

    def exchange_over(self, keep: bool, answer: bytes = b"") -> None:
        """The exchange is settled and logged. `answer` is our own reply, still to be sent."""
        h2 = self.connection.h2
        self.used = self.ending = True
        if not self.done:  # a client that waits for room to send, and reads only then, must get it
            owed, self.owed = self.owed + sum(map(len, self.backlog)), 0
            self.backlog.clear()
            h2.delivered(self.id, owed)
        if answer:
            head, _, body = answer.partition(HEAD_END)
            self.respond(head + HEAD_END, not body)
            if body and not self.write_last(body):
                self.since = clock.now
                return
        elif self.pending is not None:
            self.since = clock.now
            return
        elif self.trailing:
            h2.trailers(self.id, self.trailing)
        else:
            h2.data(self.id, b"", True)
        self._finish()

    def write_last(self, body: bytes) -> bool:
        """The end of the response. False when some of it has to wait."""
        connection = self.connection
        if connection.pending is None and connection.h2.room(self.id) >= len(body):
            connection.h2.data(self.id, body, True)
            connection.stir()
            return True
        self.hold(memoryview(body))
        return False

    def _finish(self) -> None:
        """END_STREAM was said. A client that is still sending may come to its end."""
        connection = self.connection
        connection.stir()
        if self.done:
            connection.stream_over(self)
        else:
            self.since = self.answered_at = now = clock.now
            self.wheel.at_most(self, lingers_until(now, now, self.draining.is_set))

    def _enough(self) -> None:
        """It had its answer long ago and sends on, or says nothing: nobody listens any more (RFC 9113 §8.1)."""
        self.connection.h2.reset(self.id, NO_ERROR)
        self.connection.stir()
        self.connection.stream_over(self)

    def drop(self) -> None:
        """The response was cut, and the client must see that."""
        self.connection.h2.reset(self.id, INTERNAL_ERROR)
        self.connection.stir()
        self.connection.stream_over(self)

    abort = drop

    def close(self) -> None:
        """A tunnel's both directions ended."""
        self.finish_writing()
        self.connection.stream_over(self)

    def finish_writing(self) -> None:
        """A tunnel's server sends no more."""
        self.connection.h2.data(self.id, b"", True)
        self.connection.stir()

    def gone(self, end: bytes) -> None:
        """The client, or its interest, is gone."""
        if not self.ending and self.started:
            self.exchange.client_left(b"done" if self.exchange.server_done else end)
        elif not self.ending:
            self.exchange.never_started(end)
        self.connection.stream_over(self)

    def broken(self) -> None:
        """As of a link: something raised while its server was heard."""
        try:
            if not self.ending:
                self.exchange.broke()
        finally:
            self.drop()

    def lost(self, error: OSError) -> None:
        """`send` never fails here; the connection hears of its own end."""

    def let_go(self) -> None:
        """The connection is gone. Break the circle."""
        if self.wake:
            self.wheel.disarm(self)
        self.exchange.let_go()
        self.connection = cast("Multiplex", None)

    def due(self, now: float) -> float | None:
        """The connection asks (or the wheel): is anything overdue?"""
        x = self.exchange
        if self.answered_at:
            deadline = lingers_until(self.answered_at, self.since, self.draining.is_set)
            if deadline <= now:
                self._enough()
            return deadline if deadline > now else None
        if self.ending or not self.started:
            if self.ending and now - self.since >= self.connection.front.limits.body_stall and self.pending is not None:
                self.drop()
            return None
        takes = (x.link is not None and not self.blocked) or x.gathered is not None  # it is the client's turn
        if takes and not x.request_ended and x.rplan is None and not (x.plan.expects and not x.interims):
            deadline = x.body_deadline(self.since)
            if deadline <= now:
                x.fail(ProxyError("body-timeout", Side.DOWNSTREAM, 408))
            return deadline
        return x.due(now)


class Alone:
    """An event stream that has its connection for itself, as most do: its frames go to the socket at once, past connection and lane.

    With thousands of streams an event costs what it touches, so everything it needs is here: room that was reserved in both windows, and the connection's
    own `send`. The first event asks for them; `Multiplex.together` ends that whenever anything else is read or said on the connection.
    """

    __slots__ = ("client", "id", "room", "wire")

    def __init__(self, client: Stream) -> None:
        self.client = client
        self.id = client.id
        self.room = 0  # bytes of payload
        self.wire: Callable[[bytes], int] = client.connection.send

    def send(self, data: bytes) -> int:
        """As Stream.send."""
        size = len(data)
        room = self.room - size
        if room < 0 or size > FRAME_LIMIT:
            return self._begin(data)
        self.room = room
        frame = pack_head(size << 8, 0, self.id) + data
        wire = self.wire
        try:
            sent = wire(frame)
        except WOULD_BLOCK:
            sent = 0
        except OSError as error:  # at the end of the turn, as if `flush` had met it: the caller is not done with its exchange
            connection = self.client.connection
            connection.loop.at_end_of_turn(partial(connection.lost, error))
            return size
        if sent != len(frame):
            connection = self.client.connection
            connection.together()
            connection.hold(memoryview(frame)[sent:])
        return size

    def _begin(self, data: bytes) -> int:
        """No room is reserved, or not enough: is this a moment to do so?"""
        client = self.client
        connection = client.connection
        if connection.alone is not None:
            connection.together()
        size = len(data)
        if not connection.flushing and connection.pending is None and len(connection.streams) == 1 and size <= FRAME_LIMIT:
            self.room = connection.h2.reserve(self.id)
            connection.alone = self
            if size <= self.room:
                return self.send(data)
        return client.send(data)


class StreamExchange(Exchange):
    """An exchange whose client is a stream: heads become HEADERS frames, chunked bodies lose their framing."""

    __slots__ = ()

    def event(self) -> None:
        """As for HTTP/1.1, without the chunk's framing."""
        recv = self.recv
        try:
            data = recv(EVENT)  # type: ignore[misc]
        except OSError as error:
            self.link.read_failed(error)  # type: ignore[union-attr]
            return
        end = data.find(b"\r", 1, 9)
        size = len(data) - end - 4
        if self.inside or len(data) == EVENT or sizes.get(data[:end]) != size or data[-2:] != CRLF or data[end + 1] != 10:
            self._odd_event(data)
            return
        self.touched = clock.now
        self.bytes_out += size
        late = self.departures
        late.append((self, recv, data[end + 2 : -2]))
        if len(late) == 1:
            self.client.connection.loop.at_end_of_turn(partial(depart, late))

    def upstream_drained(self) -> None:
        """The server took what was pending: whether more comes or not, the client's window opens."""
        self.client.resume_upload()

    def respond(self, plan: ResponsePlan, data: bytes, end: int) -> None:
        if plan.status == 101 and not answers_our_key(plan.head):
            self.fail(ProxyError("unasked-101", Side.UPSTREAM, 502))
        else:
            super().respond(plan, data, end)

    def begin_tunnel(self, head: bytes, data: bytes) -> None:
        fields = b"\r\n" + head.partition(b"\r\n")[2]
        self.client.respond(b"HTTP/1.1 200 OK" + WEBSOCKET_HEAD.sub(b"", fields), False)
        if data:
            tunnel.from_server(self, data)

    def begin_response(self, head: bytes, data: bytes) -> None:
        if self.plan.upgrade is not None and self._status() < 300:  # over HTTP/2 a 2xx would say that the tunnel is open
            self.rplan = None
            self.fail(ProxyError("not-switched", Side.UPSTREAM, 502))
            return
        self.client.respond(head, False)
        self.quicken()
        pass_on(self, data)

    def quicken(self) -> None:
        plan = cast(ResponsePlan, self.rplan)
        if self.receive is response_body_read and plan.dechunk and self.boundary is None and self.ledger is None:
            self.receive = relay
            if self.recv is not None:
                self.send = Alone(self.client).send
        elif self.receive is response_events or self.receive is response_body:  # the connection writes at the end of the turn anyway
            self.receive = splice

    def finished(self) -> None:
        if isinstance(self.scanner, ChunkedScanner):
            self.client.trailing = self.scanner.trailers
        super().finished()

    def never_started(self, end: bytes) -> None:
        """The request was cancelled before anything of it went on."""
        self.upstream, self.reused = NO_UPSTREAM, 0
        self._record(end, CLIENT_LEFT, b"")


def response_head(x: StreamExchange, data: bytes) -> None:
    """Waiting for a response head."""
    if x.held:
        data, x.held = x.held + data, b""
    end = data.find(HEAD_END) + 4
    plan: ResponsePlan | None = x.plan.responses.get(data[:end]) or x.judge_response(data, end)
    if plan is not None:
        x.respond(plan, data, end)


def whole_answer(x: StreamExchange, data: bytes) -> None:
    """The first bytes that come for a whole request at its first attempt. A small answer is all there: HEADERS and DATA, then the stream is over."""
    asked = x.plan
    end = data.find(HEAD_END) + 4
    plan: ResponsePlan | None = asked.responses.get(data[:end])
    size = len(data) - end
    client = x.client
    connection = client.connection
    if (
        plan is None
        or plan.length != size
        or not plan.usual
        or not asked.usual
        or connection.pending is not None
        or not connection.h2.answer(client.id, plan.head, data[end:])
    ):
        x.receive = response_head
        response_head(x, data)
        return
    if not connection.flushing:
        connection.stir()
    now = monotonic()
    if x.ledger is not None:
        x.ledger.answered(plan, data[end:], size, now)
        x.ledger = None
    link: Any = x.link
    client.log.add(
        (
            asked.about,
            client.about,
            x.request_id,
            x.began,
            now,
            now,
            plan.status,
            x.bytes_in,
            size,
            x.upstream,
            x.reused,
            b"done",
            plan.extra if asked.opens else b"",
            asked.place,
        )
    )
    x.link = x.rest = None
    if x.ending is not HEAD_END:
        x.ending = HEAD_END
    if plan.idle_hint is not None:
        link.hint(plan.idle_hint)
    link.pool.keep(link, now)
    connection.stream_over(client)


def fit_slice(x: StreamExchange, data: bytes) -> None:
    """A read that was full says that more is there: the next one may be larger, where nobody waits behind it."""
    if len(data) >= SLICE and x.link is not None:
        x.link.slice = x.client.connection.room_for_bulk()


def splice(x: StreamExchange, data: bytes) -> None:
    """A body without framing of its own."""
    fit_slice(x, data)
    response_body(x, data)


def relay(x: StreamExchange, data: bytes) -> None:
    """As response_body_read, and short for the common slice: one event in one chunk."""
    if len(data) >= BULK:
        relay_bulk(x, data)
        return
    payload = x.scanner.whole_chunk(data)  # type: ignore[union-attr]  # begin_response made sure
    if payload is None:
        response_body_read(x, data)
        return
    x.touched = clock.now
    size = len(payload)
    x.bytes_out += size
    sent = x.send(payload)
    if sent != size:
        x.hold_back(payload, sent)


def relay_bulk(x: StreamExchange, data: bytes) -> None:
    """The same for a large slice, whose payload is not copied before the connection joins its frames for their write."""
    pieces: list[bytes] = []
    try:
        used = x.scanner.feed(data, pieces, memoryview(data))  # type: ignore[call-arg]  # begin_response made sure
    except ProxyError as error:
        x.fail(error)
        return
    if used != len(data):
        x.spoiled = True
    if len(pieces) > BULK_PIECES:
        pieces = [b"".join(pieces)]
    x.touched = clock.now
    fit_slice(x, data)
    send = x.client.send  # large events, too, leave in one write at the end of the turn
    for at, piece in enumerate(pieces):
        sent = send(piece)
        if sent != len(piece):
            x.hold_back(b"".join((piece[sent:], *pieces[at + 1 :])), 0)
            break
    x.bytes_out += sum(map(len, pieces))
    if x.scanner.done:
        x.finished()


StreamExchange.head_state, StreamExchange.answer_state = staticmethod(response_head), staticmethod(whole_answer)
StreamExchange.short_states = (relay,)
