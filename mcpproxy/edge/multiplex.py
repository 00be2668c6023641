"""HOT. One HTTP/2 client connection: many exchanges at once (docs/request.md, steps 1-3 for HTTP/2).

   bytes ──▶ http/h2 (judge or lane) ──▶ on_head, on_body, on_trailers, on_reset, on_window ──▶ Stream (edge/stream) ──▶ its exchange
   bytes ◀── flush, once per turn    ◀── `out`                                              ◀── Stream

1. A request leaves when everything that was read with it has been looked at: a small one goes upstream whole, in one write, and one that was
   cancelled in the same breath goes nowhere.
2. All frames of a turn of the loop leave in one write (but for those of a stream that is `alone`). While the client has not taken the last one,
   streams are given no room: each keeps at most one read (64 KiB; 128 KiB of a lone download) and stops its own upstream; nothing else grows but
   answers to control frames, which http/h2 budgets.
3. When there is room again, waiting streams take turns of one frame's size, so that an event never waits for another stream's download.
4. A silent connection with open streams is asked for a sign of life (PING); an idle one is told to go (GOAWAY).

It is one file because what is read, what is written and how it all ends are one connection's state.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from mcpproxy.clock import clock, monotonic
from mcpproxy.edge import local
from mcpproxy.edge.debts import ABANDONED, UNASKED
from mcpproxy.edge.exchange import CLIENT_LEFT, NO_UPSTREAM
from mcpproxy.edge.facts import renamed
from mcpproxy.edge.stream import Alone, Stream
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.net.link import READ, Link
from mcpproxy.observe.accesslog import OURS
from mcpproxy.policy.limits import network
from mcpproxy.upstream.pool import BULK_SLICE, SLICE

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream, Front
    from mcpproxy.edge.plan import Plan

PING_AFTER_S = 60.0  # seconds of silence after which a client with open streams is asked whether it is still there
PONG_WITHIN_S = 20.0  # seconds it has to say so
LINGER_S = 1.0  # seconds between the last word (GOAWAY) and the end
UNSENT = 128 * 1024  # bytes in the kernel that were not sent yet: more would only stand between an event and its client
UNSENT_ALONE = 2**31 - 1  # the same while a download has the connection for itself: the kernel decides
ANSWERS = 512  # frames that may wait behind a blocked write (answers to PING and SETTINGS) before the client is not read any more
TURN = 16384  # bytes a waiting stream may send before the next one's turn: a frame


class Multiplex(Link):
    """A client connection that speaks HTTP/2."""

    __slots__ = (
        "about",
        "alone",
        "debt",
        "deep",
        "draining",
        "filled",
        "flushing",
        "forwarded",
        "front",
        "get_plan",
        "goodbye",
        "h2",
        "heard",
        "id_prefix",
        "log",
        "network",
        "peer",
        "pinged",
        "resting",
        "served",
        "since",
        "spare",
        "starting",
        "streams",
        "shelf",
        "waiting",
    )

    def __init__(self, front: Front, sock: socket.socket, like: Downstream) -> None:
        super().__init__(front.loop, front.wheel, sock)
        self.front = front
        self.log = front.log
        self.draining = front.draining
        self.about, self.forwarded, self.id_prefix = like.about, like.forwarded, like.id_prefix
        self.peer, self.network, self.shelf, self.debt = like.peer, like.network, like.shelf, like.debt
        self.alone: Alone | None = None  # the event stream that writes its frames itself
        self.deep = False  # a download has the connection for itself
        self.resting = False  # not read for a while: its address is in debt
        self.get_plan = self.shelf.plans_h2.fresh.get
        limits = front.limits
        assert front.h2 is not None
        self.h2: Connection = front.h2(self, H2Limits(streams=limits.streams, head=limits.head), clock.now)
        self.streams: dict[int, Stream] = {}
        self.starting: list[Stream] = []  # requests of this read, not yet started
        self.waiting: dict[int, Stream] = {}  # streams that have something to send and no room, in the order of their turns
        self.spare: list[Stream] = []  # for the next requests, until it is idle
        self.served = 0
        self.filled = 0  # bytes of payload in `out`
        self.flushing = False  # `flush` will be called in this turn
        self.since = self.heard = clock.now  # when it became idle; when something was last read, which is when its requests began
        self.pinged = 0.0  # when a sign of life was asked for; 0.0 when none is due
        self.goodbye = 0.0  # when GOAWAY was said; 0.0 before
        front.links.add(self)

    # -- reading ---------------------------------------------------------------------------------------------------------------------------

    def begin(self, data: bytes = b"") -> None:
        """The handshake is over, or the client's preface came in plain."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self.wheel.arm(self, self.since + min(self.front.limits.head_timeout, self.front.patience))
        self.h2.begin()
        self.stir()
        self.resume()
        if data:
            self.arrived(data)

    def readable(self) -> None:
        recv = self.recv
        try:
            data = recv(READ)
        except OSError as error:
            if not self.read_failed(error):
                return
            data = b""
        if not data:
            self.left(None)
            return
        if len(data) == READ:
            self.loop.again(self.fd)
        self.arrived(data)

    def arrived(self, data: bytes) -> None:
        """Bytes of the client."""
        self.heard = monotonic()
        h2, starting = self.h2, self.starting
        if h2.ended:
            return  # after the last word everything is read and forgotten
        if self.alone is not None:
            self.together()
        h2.receive(data, self.read_behind)
        if h2.spent > 0:
            self.pay(h2)
        if self.fd < 0:  # a write to it failed meanwhile: nobody is there to ask anything
            starting.clear()
            return
        if starting:
            for stream in starting:
                if not stream.started and stream.id and not h2.ended:
                    stream.start()
            starting.clear()
        if not self.flushing and h2.out:
            self.stir()
        if self.h2.ended and not self.goodbye:
            self.give_up()
        elif self.pending is not None and len(self.h2.out) > ANSWERS:
            self.pause()  # it does not take our answers: no more questions (`drained` goes on)

    def read_behind(self) -> bytes:
        """A read ended between a request's head and its body, as most clients send them. More is usually here: then both go on in one piece."""
        try:
            data = self.recv(READ)
        except OSError:
            return b""  # nothing is, or an end that the next read meets again
        if len(data) == READ:
            self.loop.again(self.fd)
        return data

    def pay(self, h2: Connection) -> None:
        """What was read made trouble: no more of it until that is paid for (edge/debts)."""
        wait = self.debt.charge(h2.spent, monotonic())
        h2.spent = 0
        if wait and self.fd >= 0 and not self.resting and not h2.ended:
            self.resting = True
            self.pause()
            self.loop.call_later(wait, self.rested)

    def rested(self) -> None:
        """It may be read again."""
        self.resting = False
        if self.pending is None:
            self.resume()

    # -- what http/h2 tells us ---------------------------------------------------------------------------------------------------------------

    def on_head(self, stream: int, head: bytes, ended: bool) -> None:
        """A request."""
        get_plan = self.get_plan
        plan = get_plan(head)
        if plan is None:
            plan = self.judge(stream, head, ended)
            if plan is None:
                return
        spare = self.spare
        made = spare.pop() if spare else Stream(self)
        made.id = stream
        x = made.exchange
        x.plan = plan
        x.began = self.heard
        self.served = served = self.served + 1
        x.request_id = plan.request_id or b"%b%x" % (self.id_prefix, served)
        x.bytes_in = len(head)
        x.rest = None  # of a call that was answered here it would still be there, and go upstream behind this head
        made.size = made.owed = 0
        made.done = ended
        self.streams[stream] = made
        self.starting.append(made)

    def on_call(self, stream: int, head: bytes, body: bytes) -> bool:
        """A request that came whole: as on_head and on_body, in one. Where nothing is to be asked and a link is warm, it starts at once: it leaves
        at the end of this turn, if it is not cancelled before."""
        get_plan = self.get_plan
        plan = get_plan(head)
        size = len(body)
        if plan is None or plan.length != size or plan.upgrade is not None:
            self.on_head(stream, head, False)
            self.on_body(stream, body, True)
            return False
        spare = self.spare
        made = spare.pop() if spare else Stream(self)
        made.id = stream
        made.done = True
        made.size = size
        x = made.exchange
        x.plan = plan
        x.began = heard = self.heard
        self.served = served = self.served + 1
        x.request_id = plan.request_id or b"%b%x" % (self.id_prefix, served)
        x.bytes_in = len(head) + size
        x.rest = body
        self.streams[stream] = made
        if plan.guard is None:
            link = plan.pool.take(heard)
            if link is not None:
                made.started = x.request_ended = True
                x.leased(link)
                return True
        made.owed = size
        self.starting.append(made)
        return False

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        """More of a request's body."""
        found = self.streams.get(stream)
        if found is None:
            self.h2.delivered(stream, len(data))  # of a stream that is over here
        else:
            found.body(data, ended)

    def on_trailers(self, stream: int, fields: list[tuple[bytes, bytes]]) -> None:
        """The end of a request's body."""
        found = self.streams.get(stream)
        if found is not None:
            found.trailers(fields)

    def on_reset(self, stream: int, code: int) -> None:
        """The stream is gone."""
        found = self.streams.get(stream)
        if found is not None:
            found.gone(b"client-gone")

    def on_window(self, stream: int) -> None:
        """There is room again."""
        if stream == 0:
            if self.waiting:
                self.stir()  # one round for all that was read: whoever opens the window byte by byte pays for no more
        else:
            found = self.waiting.get(stream)
            if found is not None:
                found.go_on(TURN)

    def judge(self, stream: int, head: bytes, ended: bool) -> Plan | None:
        """The slow way to a plan. None when the head was refused (and answered)."""
        front = self.front
        try:
            return self.shelf.plan_for(head, h2=True, address=self.network)
        except ProxyError as error:
            answer = local.refusal(error, head, mcp=front.mcp, close=False)
            self.served += 1
            end = b"refused" if error.side is Side.DOWNSTREAM else b"failed"
            row = (
                local.describe_refused(head, "HTTP/2", error.kind),
                self.about,
                b"%b%x" % (self.id_prefix, self.served),
                monotonic(),
                0.0,
                monotonic(),
            )
            self.log.add((*row, error.status, len(head), len(answer), NO_UPSTREAM, 0, end, b',"reason":"%b"' % error.kind.encode(), OURS))
            if error.side is Side.DOWNSTREAM:
                self.h2.refused()
            made = self.spare.pop() if self.spare else Stream(self)
            made.id = stream
            made.started = True  # as far as it goes
            made.size = made.owed = 0
            made.done = ended
            self.streams[stream] = made
            made.exchange_over(False, answer)
            return None

    # -- writing ---------------------------------------------------------------------------------------------------------------------------

    def stir(self) -> None:
        """Something was put into `out`: it leaves at the end of this turn."""
        if self.alone is not None:
            self.together()
        if not self.flushing:
            self.flushing = True
            self.loop.at_end_of_turn(self.flush)

    def together(self) -> None:
        """Something else is read or said than the frames of the stream that had the connection for itself."""
        alone, self.alone = self.alone, None
        if alone is not None:
            self.h2.release(alone.id, alone.room)
            alone.room = 0

    def flush(self) -> None:
        """One write for all streams; then those that found no room have their turns."""
        self.flushing = False
        if self.deep and len(self.streams) > 1:
            self.deep = False
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        self._write_out()
        if self.waiting and self.pending is None:
            self.take_turns()

    def _write_out(self) -> None:
        out = self.h2.out
        if not out or self.pending is not None or self.fd < 0:
            return
        self.filled = 0
        data = b"".join(out) if len(out) > 1 else out[0]
        out.clear()
        try:
            self.write(data)
        except OSError as error:
            self.lost(error)

    def drained(self) -> None:
        self.flush()
        if self.pending is None and self.fd >= 0 and not self.resting:
            self.resume()

    def room_for_bulk(self) -> int:
        """A download fills its reads: how large may they be? One that has the connection for itself takes what room the kernel has, as over HTTP/1.1."""
        if len(self.streams) > 1:
            return SLICE
        if not self.deep and self.sock.family != socket.AF_UNIX:
            self.deep = True
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_ALONE)
        return BULK_SLICE

    def take_turns(self) -> None:
        """Room for everybody: one frame each, again and again, while it lasts."""
        waiting = self.waiting
        while waiting and self.pending is None:
            before = len(self.h2.out)
            for stream in tuple(waiting.values()):
                stream.go_on(TURN)
            if len(self.h2.out) == before:
                break
            if self.filled >= READ:
                self._write_out()
        self._write_out()

    # -- ends ------------------------------------------------------------------------------------------------------------------------------

    def stream_over(self, stream: Stream) -> None:
        """Nothing more will be said on this stream."""
        streams = self.streams
        if streams.pop(stream.id, None) is None:
            return
        if stream.used or stream.owed:
            self.waiting.pop(stream.id, None)
            self.h2.delivered(stream.id, stream.owed + sum(map(len, stream.backlog)))
            stream.owed = 0
            stream.tidy()
        stream.id = 0
        stream.started = False
        self.spare.append(stream)
        if not streams:
            self.since = clock.now
            if self.goodbye or self.draining.is_set:
                self.drain()
            elif self.h2.ended and self.fd >= 0:  # the last stream of a connection that either side had told to go
                self.give_up()

    def left(self, error: OSError | None) -> None:
        """Nobody is there any more: the servers' work is stopped at once."""
        self.pause()
        if self.streams:
            self.debt.charge(ABANDONED * sum(not stream.answered for stream in self.streams.values()), monotonic())
        for stream in tuple(self.streams.values()):
            stream.gone(b"client-gone")
        if error is None:
            self.close()
        else:
            self.abort()

    def lost(self, error: OSError) -> None:
        self.left(error)

    def give_up(self) -> None:
        """The client broke the protocol: http/h2 has said its last word (GOAWAY)."""
        self.goodbye = clock.now
        for stream in tuple(self.streams.values()):
            stream.gone(b"refused")
        if self.h2.reason:
            row = (NOTHING_KNOWN, self.about, self.id_prefix + b"0", monotonic(), 0.0, monotonic())
            self.log.add((*row, CLIENT_LEFT, 0, 0, NO_UPSTREAM, 0, b"refused", b',"reason":"%b"' % self.h2.reason.encode(), OURS))
        self.linger()

    def linger(self) -> None:
        """Our last word leaves, then our FIN; what the client still says is read and forgotten, so that no reset overtakes the last word."""
        self._write_out()
        if self.fd >= 0:
            if self.pending is None:
                self.finish_writing()
                self.read_raw()
            self.wheel.arm(self, clock.now + LINGER_S)

    def refit(self) -> None:
        """The listener has another configuration: the next stream is judged by it; those that are open end as they began."""
        front, host = self.front, self.peer.decode()
        caller = replace(front.caller(host), certificate=self.shelf.caller.certificate)
        self.shelf = front.shelves.of(caller)
        self.get_plan = self.shelf.plans_h2.fresh.get
        self.network = network(host) if front.counts else b""
        self.about = renamed(self.about, caller)
        for stream in self.spare:
            stream.let_go()
        self.spare.clear()  # they hold what they were judged by, and how the client was called

    def disown(self) -> None:
        """The certificate it showed counts no more: nothing goes on but what has begun."""
        self.shelf = self.front.shelves.of(replace(self.shelf.caller, certificate=None))
        self.get_plan = self.shelf.plans_h2.fresh.get
        self.drain()

    def drain(self) -> None:
        """The process is ending: no new streams; the open ones run to their end."""
        if not self.goodbye and self.fd >= 0:
            self.goodbye = clock.now
            self.h2.goaway(last=True)
            self.stir()
        if not self.streams and self.fd >= 0:
            self.linger()

    def end_now(self) -> None:
        """The process ends: what runs is cut, and says so in the log."""
        for stream in tuple(self.streams.values()):
            stream.gone(b"stopped")
        if self.fd >= 0:
            self.h2.goaway(last=True)
            self._write_out()
            self.close()

    def broken(self) -> None:
        try:
            for stream in tuple(self.streams.values()):
                if stream.started and not stream.ending:
                    stream.exchange.broke()
        finally:
            self.abort()

    def _release(self) -> None:
        front = self.front
        if self in front.links:
            front.links.discard(self)
            front.served += self.served
            if not self.served:
                self.debt.charge(UNASKED, monotonic())
        for stream in (*self.streams.values(), *self.spare):
            stream.let_go()
        self.streams.clear()
        self.spare.clear()
        self.starting.clear()
        self.waiting.clear()
        self.alone = None
        super()._release()
        self.h2 = NO_CONNECTION

    def due(self, now: float) -> float | None:
        limits = self.front.limits
        if self.h2.ended:
            self.abort()
            return None
        self.h2.now = now
        deadline = now + self.front.patience
        if self.h2.partial and now - self.heard >= limits.head_timeout:
            self.end_now()
        elif not self.streams:
            for stream in self.spare:
                stream.let_go()
            self.spare.clear()
            idle = self.since + (limits.keepalive if self.served else limits.head_timeout)
            if idle <= now:
                self.drain()
            deadline = min(deadline, idle)
        elif self.pinged:
            if self.h2.pongs or self.heard > self.pinged:
                self.pinged = 0.0
            elif now - self.pinged >= PONG_WITHIN_S:
                self.lost(TimeoutError())
            else:
                deadline = min(deadline, self.pinged + PONG_WITHIN_S)
        elif now - self.heard >= PING_AFTER_S and self.pending is None:
            self.pinged = now
            self.h2.pongs = 0
            self.h2.ping()
            self.stir()
            deadline = min(deadline, now + PONG_WITHIN_S)
        for stream in tuple(self.streams.values()):
            deadline = min(deadline, stream.due(now) or deadline)
        return max(deadline, now) if self.fd >= 0 else None


NOTHING_KNOWN = b'"method":null,"host":null,"path":null,"protocol":"HTTP/2"'


class _NoConnection:
    """Stands where the protocol state of a closed connection was."""

    __slots__ = ()
    out: ClassVar[list[bytes]] = []
    ended = True
    reason = ""
    open = 0

    def __getattr__(self, name: str) -> Any:
        return _nothing


def _nothing(*_: Any, **__: Any) -> int:
    return 0


NO_CONNECTION: Any = _NoConnection()
