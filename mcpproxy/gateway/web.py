"""An HTTP/1.1 server for our own workers, on one unix socket: whole requests in, answers or streams of events out.

    worker ──▶ Visit.data_received ──▶ heard(visit, asked)          called once per request, at once, and must not wait
               visit.answer(…)  |  visit.begin(); visit.event(…)…; visit.end()  |  visit.gone: called when the worker left before that

1. Only processes of our own user are heard (SO_PEERCRED), and only with the secret in `Mcpproxy-Call: SECRET;UPSTREAM;ROUTE;CALLER`, where CALLER is the
   caller's identity in base64url without padding, or nothing.
2. Heads are judged as strictly as on the edge (http/head), bodies are bounded: each, and all that are being read together.
3. One request at a time: a worker never sends the next one before the answer. What comes meanwhile ends the connection.
4. Who does not read is left: what is not yet taken is bounded (UNREAD), and so is the time (STUCK_S). Events of old sessions are kept elsewhere (streams).
5. No Task and no timer per connection; one sweep for all of them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping
from hmac import compare_digest
from http import HTTPStatus
from typing import cast

from mcpproxy.clock import clock
from mcpproxy.errors import ProxyError
from mcpproxy.http.fields import Field
from mcpproxy.http.framing import REQUEST, ChunkedScanner
from mcpproxy.http.head import REQUEST_LINE, Fields, HeadError, HeadLimits, bad_start, parse_request

LIMITS = HeadLimits(head=64 * 1024, target=16 * 1024, fields=160)  # what the edge takes, and what it adds
MAX_BODY = 16 * 1024 * 1024  # bytes of a body; the edge's own max_body is mostly smaller
MAX_BODIES = 256 * 1024 * 1024  # bytes of all bodies that are being read
UNREAD = 1024 * 1024  # bytes that wait for a reader before it is left; one message more may lie there
STUCK_S = 60.0  # a reader that takes nothing for so long is left
READ_S = 60.0  # a request that begun and does not go on
COMMENT_S = 25.0  # silence on a stream after which a comment is sent: SDK servers send one each 15 s, nobody in between waits less than 30
TICK_S = 1.0  # between two sweeps
CALL = b"mcpproxy-call"
JSON = b"application/json"
COMMENT = b"3\r\n:\n\n\r\n"  # a chunk with a comment line and the end of an event
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n"
    b"%bTransfer-Encoding: chunked\r\n\r\n"
)
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Head:
    """What matters of a request head that was accepted."""

    __slots__ = ("chunked", "expects", "fields", "first", "keep", "length", "method", "target")

    def __init__(self, head: bytes) -> None:
        """A worker wrote it, from one that h11 has judged: where nothing about it is unusual, h11 is not asked again. Raises HeadError."""
        start = REQUEST_LINE.match(head)
        if start is None or start[3] != b"1.1" or not start[2].startswith(b"/") or len(head) > LIMITS.head:
            whole = parse_request(head, LIMITS)  # says what is wrong, if anything is
            raise HeadError(505, "unsupported-version") if whole.version != 11 else HeadError(400, "bad-target")
        found = Fields(head, start.end(), 400)
        length, self.chunked = found.framing(11)
        if found.only(b"host", "bad-host") is None:
            raise HeadError(400, "missing-host")
        if len(found.all) > LIMITS.fields:
            raise HeadError(431, "too-many-fields")
        found.remember()
        self.method, self.target, self.length = start[1], start[2], length or 0
        self.fields: tuple[Field, ...] = found.all
        self.first = found.first.get
        self.keep = b"connection" not in found.first or b"close" not in found.options()
        self.expects = b"expect" in found.first and bool(length or self.chunked)


class Asked:
    """A request that is whole, and what the edge says about who asks."""

    __slots__ = ("body", "caller", "head", "route", "upstream")

    def __init__(self, head: Head, body: bytes, upstream: str, route: int, caller: str) -> None:
        self.head, self.body = head, body
        self.upstream = upstream  # name of the configured upstream
        self.route = route  # index of the route; -1: none
        self.caller = caller  # identity; "" for nobody


def member(labels: Mapping[str, str]) -> bytes:
    """The line that tells the edge, for its log, which member answered; and whether its session had been lost. The edge drops it."""
    name = labels.get("member")
    if name is None:
        return b""
    return b"Mcpproxy-Member: %b%b\r\n" % (name.encode(), b";recovered" if "recovered" in labels else b"")


class Web:
    """A listening socket and who came."""

    def __init__(self, heard: Callable[[Visit, Asked], None], secret: bytes, *, max_body: int = MAX_BODY, uid: int | None = None) -> None:
        self.heard, self.secret, self.max_body = heard, secret, max_body
        self.uid = os.geteuid() if uid is None else uid
        self.visits: set[Visit] = set()
        self.reading: dict[Visit, float] = {}  # amid a request → when it last went on
        self.stuck: dict[Visit, float] = {}  # readers who do not read → since when
        self.streams: dict[Visit, float] = {}  # open streams → when something was sent last; the one that is silent longest first
        self.held = 0  # bytes of bodies that are being read
        self.ending = False
        self.sweeps: list[Callable[[float], None]] = []  # others who want to be called each TICK_S, with `clock.now`
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._callers: dict[bytes, tuple[str, int, str]] = {}

    async def start(self, sock: socket.socket) -> None:
        """From now on they may come."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Visit(self), sock=sock)
        self._timer = loop.call_later(TICK_S, self._tick)

    def drain(self) -> None:
        """Nobody new; each connection ends with its answer."""
        self.ending = True
        if self._server is not None:
            self._server.close()
        for visit in tuple(self.visits):
            if not visit.busy:
                visit.leave()

    def stop(self) -> None:
        """Nobody is here any more."""
        self.drain()
        if self._timer is not None:
            self._timer.cancel()
        for visit in tuple(self.visits):
            visit.leave()

    def sweep(self, now: float) -> None:
        """Leave who is too slow; say something where it was silent for long."""
        for since, bound in (self.stuck, STUCK_S), (self.reading, READ_S):
            for visit in [visit for visit, moment in since.items() if now - moment > bound]:
                visit.leave()
        while self.streams:
            visit, moment = next(iter(self.streams.items()))
            if now - moment < COMMENT_S:
                break
            visit.comment(now)

    def caller(self, value: bytes | None) -> tuple[str, int, str] | None:
        """Who asks for what, as the edge says. None: it is not the edge."""
        secret, _, rest = (value or b"").partition(b";")
        if not compare_digest(secret, self.secret):
            return None
        found = self._callers.get(rest)
        if found is None:
            try:
                upstream, route, caller = rest.split(b";")
                found = upstream.decode(), int(route), b64decode(caller + b"=" * (-len(caller) % 4), b"-_", validate=True).decode()
            except ValueError:
                return None
            if len(self._callers) >= 4096:
                self._callers.clear()
            self._callers[rest] = found
        return found

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        now = clock.tick()
        self.sweep(now)
        for sweep in self.sweeps:
            sweep(now)


class Visit(asyncio.Protocol):
    """A connection of a worker, and the request it makes now."""

    __slots__ = ("_body", "_head", "_held", "_left", "_size", "_transport", "busy", "closed", "gone", "keep", "ready", "streaming", "web")

    def __init__(self, web: Web) -> None:
        self.web = web
        self.gone: Callable[[], None] | None = None  # the asker's, until its answer is complete
        self.ready: Callable[[], None] | None = None  # called when it reads again
        self.busy = False  # a request was heard and is not answered completely
        self.streaming = False
        self.keep = True  # the connection, after this answer
        self.closed = False
        self._held = b""  # of a head that is not all there
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._left: int | ChunkedScanner = 0  # of the body
        self._size = 0  # bytes of the body so far

    # -- asyncio ----------------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Is it one of us?"""
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != self.web.uid or self.web.ending:
            self.closed = True
            self._transport.abort()
            return
        self.web.visits.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever prepares an answer is told at once."""
        self.closed = True
        self._forget()
        web = self.web
        web.visits.discard(self)
        web.stuck.pop(self, None)
        web.streams.pop(self, None)
        gone, self.gone, self.ready = self.gone, None, None
        if gone is not None:
            gone()

    def pause_writing(self) -> None:
        """It does not read."""
        self.web.stuck[self] = clock.now

    def resume_writing(self) -> None:
        """It does again."""
        self.web.stuck.pop(self, None)
        if self.ready is not None:
            self.ready()

    @property
    def full(self) -> bool:
        """Would more only wait?"""
        return self in self.web.stuck

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; mostly all of it."""
        if self.closed:
            return
        if self.busy:
            self.leave()
            return
        try:
            if self._head is None:
                self._read_head(self._held + data if self._held else data)
            else:
                self._read_body(data)
        except ProxyError as error:
            self.refuse(error.status, error.kind)

    # -- reading -----------------------------------------------------------------------------------------------------------------------

    def _read_head(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            wrong = bad_start(data, LIMITS)
            if wrong is not None:
                raise wrong
            self._held = data
            self.web.reading[self] = clock.now
            return
        head = Head(data[:end])
        self._held = b""
        self.keep = head.keep and not self.web.ending
        size = len(data) - end
        if head.chunked:
            self._left = ChunkedScanner(REQUEST)
        else:
            if head.length > self.web.max_body:
                raise HeadError(413, "body-too-large")
            if head.length == size:
                self._whole(head, data[end:])
                return
            self._left = head.length
        self._head = head
        if head.expects and not size:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.web.reading[self] = clock.now
        if size:
            self._read_body(data[end:])

    def _read_body(self, data: bytes) -> None:
        web, left = self.web, self._left
        web.reading[self] = clock.now
        if isinstance(left, int):
            if len(data) > left:
                raise HeadError(400, "bad-request-line")
            self._left = left = left - len(data)
            self._body.append(data)
            size, done = len(data), not left
        else:
            before = len(self._body)
            if left.feed(data, self._body) != len(data):
                raise HeadError(400, "bad-request-line")
            size, done = sum(map(len, self._body[before:])), left.done
        self._size += size
        web.held += size
        if self._size > web.max_body:
            raise HeadError(413, "body-too-large")
        if web.held > MAX_BODIES:
            raise HeadError(503, "too-many-at-once")
        if done:
            head, body = self._head, b"".join(self._body)
            assert head is not None
            self._forget()
            self._whole(head, body)

    def _forget(self) -> None:
        """The request that was being read."""
        self.web.reading.pop(self, None)
        self.web.held -= self._size
        self._head, self._body, self._left, self._size, self._held = None, [], 0, 0, b""

    def _whole(self, head: Head, body: bytes) -> None:
        self.web.reading.pop(self, None)
        said = self.web.caller(head.first(CALL))
        if said is None or sum(name == CALL for _, name, _ in head.fields) != 1:
            self.refuse(403, "forbidden")
            return
        self.busy = True
        self.web.heard(self, Asked(head, body, *said))

    # -- writing -----------------------------------------------------------------------------------------------------------------------

    def answer(self, status: int, body: bytes = b"", fields: bytes = b"", kind: bytes = JSON) -> None:
        """The whole answer. `fields`: more of its head, as lines."""
        if self.closed:
            return
        if body:
            fields += b"Content-Type: %b\r\n" % kind
        if not self.keep:
            fields += b"Connection: close\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n\r\n" % (status, REASONS[status], fields, len(body))
        if len(body) < 32768:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        self._done()

    def begin(self, fields: bytes = b"") -> None:
        """The answer is a stream of events."""
        if self.closed:
            return
        self.streaming = True
        if not self.keep:
            fields += b"Connection: close\r\n"
        self.web.streams[self] = clock.now
        self._transport.write(STREAM_HEAD % fields)

    def event(self, event: bytes) -> bool:
        """One event, whole, with the empty line at its end. False: nobody reads, and nobody will."""
        if self.closed:
            return False
        if self.web.stuck and self in self.web.stuck and self._transport.get_write_buffer_size() > UNREAD:
            self.leave()
            return False
        streams = self.web.streams
        streams.pop(self, None)
        streams[self] = clock.now
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        return True

    def comment(self, now: float) -> None:
        """Something that says nothing: whoever is in between sees that we are here."""
        self.web.streams.pop(self, None)
        if not self.closed:
            self.web.streams[self] = now
            if self not in self.web.stuck:
                self._transport.write(COMMENT)

    def end(self) -> None:
        """The stream is complete."""
        if self.closed:
            return
        self.web.streams.pop(self, None)
        self._transport.write(b"0\r\n\r\n")
        self._done()

    def refuse(self, status: int, kind: str) -> None:
        """It is no request for us. What else comes on this connection cannot be told from its rest."""
        self._forget()
        self.keep = False
        self.answer(status, b'{"error":"%b","status":%d}' % (kind.encode(), status))

    def leave(self) -> None:
        """Drop the connection, whatever is on its way. `gone` is called later, as when the other side left."""
        if not self.closed:
            self.closed = True
            self._transport.abort()

    def _done(self) -> None:
        self.gone = self.ready = None
        self.busy = self.streaming = False
        if not self.keep or self.web.ending:
            self.closed = True
            self._transport.close()
