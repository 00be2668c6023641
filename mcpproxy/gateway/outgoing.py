"""HTTP requests of our own to an upstream, over its pool: TLS, credentials, breakers and health are those of every other request there.

    outgoing = Outgoing(pool, questions, outbound)
    reply = await outgoing.ask(Request(b"POST", b"/mcp", fields, body), hear=…, ended=…)

An answer that is an event stream is there with its head: `hear` gets each event, from within the loop, and `ended` the end, once. Any other answer is
there with its last byte. There is no task and no future but the one that is awaited.

 1. To cancel the await is to close the request: its link is discarded, which the server notices. So does `Reply.close` for a stream.
 2. A link that was idle and is dead when it is leased is replaced once, where nothing of the request left or `repeatable` says that doing it twice is
    no harm (upstream/retry).
 3. Nothing larger than `most` bytes is kept: neither a body nor an event.

It is one file because every state of `Asking` may meet every end of it, and what is asked and answered is told in the same words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcpproxy.clock import monotonic, unix
from mcpproxy.edge.questions import Questions
from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, RESPONSE, ChunkedScanner, LengthScanner, UntilClose
from mcpproxy.http.head import ResponseHead, bad_start, parse_response
from mcpproxy.http.sse import Event, Events
from mcpproxy.net.timers import NOT_ARMED
from mcpproxy.policy import sigv4
from mcpproxy.policy.outbound import Outbound
from mcpproxy.policy.verdict import Ask, Principal
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Cancellable, Pool, UpstreamLink
from mcpproxy.upstream.retry import may_retry

HEAD_END = b"\r\n\r\n"
RESPONSE_HEAD_LIMIT = 64 * 1024  # bytes, as on the edge (edge/exchange)
HEADS, LONGEST_HEAD = 64, 1024  # response heads remembered, and bytes of one: they differ by their Date, which is the same for a second
INTERIM_LIMIT = 16  # 1xx heads before the final one
LINGER_S = 1.0  # a stream that has said what was asked may end by itself for so long, and its link is kept
FLOOD, FLOOD_S = 2000, 1.0  # events of one stream in so many seconds, and what one more read brings
QUESTIONS_ASKED = 4  # in a row, before a request may go: a credential is one

Hear = Callable[[Event], None]
Ended = Callable[[ProxyError | None], None]


@dataclass(slots=True)
class Request:
    """What is asked. `fields`: whole lines, each with its CRLF, without Host, length and credential."""

    method: bytes
    target: bytes
    fields: bytes
    body: bytes = b""
    at: Endpoint | None = None  # there and nowhere else: a session lives at one server
    repeatable: bool = False  # to do it twice is to do it once
    most: int = 16 * 1024 * 1024  # bytes of an answer, or of an event
    principal: str = ""  # for whom (policy/limits.identity): what the server is told of callers


@dataclass(slots=True)
class Reply:
    """What is answered. `events`: it is a stream, and `body` is empty."""

    status: int
    first: Callable[[bytes], bytes | None]  # lower-case name → value of the first field of that name
    body: bytes
    events: bool
    endpoint: Endpoint
    _asking: Asking

    @property
    def media_type(self) -> bytes:
        """In lower case, without parameters; b"" where none was said."""
        return media_type(self.first)

    @property
    def last_id(self) -> bytes:
        """Of the stream's events."""
        return self._asking.events.last_id

    @property
    def retry(self) -> float | None:
        """Seconds after which the server wants a stream to be asked for again."""
        return self._asking.events.retry

    def close(self) -> None:
        """The rest of the stream is not wanted: the server's work is cancelled, in the eras that say so. `ended` is not called."""
        self._asking.close()

    def linger(self) -> None:
        """All that was wanted is here: if the stream ends soon, its link is kept. `hear` and `ended` are not called any more."""
        self._asking.linger()


def media_type(first: Callable[[bytes], bytes | None]) -> bytes:
    """Of a head: in lower case, without parameters."""
    return (first(b"content-type") or b"").partition(b";")[0].strip().lower()


class Outgoing:
    """The way to one upstream."""

    def __init__(self, pool: Pool, questions: Questions, outbound: Outbound | None = None, host: str = "upstream") -> None:
        self.pool = pool
        self.outbound = outbound  # who reloads may put another one here
        self._questions = questions
        self._heads: dict[tuple[bytes, bytes], ResponseHead] = {}
        self._host = b"" if host in ("upstream", "keep") else host.encode()  # there is no client's Host to keep: the message is ours

    async def ask(self, request: Request, hear: Hear | None = None, ended: Ended | None = None) -> Reply:
        """Have it answered. Without `hear` a stream of events is a body like any other. Raises ProxyError."""
        reply = await self._ask(request, hear, ended)
        if reply.status == 401 and self.outbound is not None:
            self.outbound.rejected(principal_of(request.principal), (), unix())
            if self.outbound.each and not self.outbound.needs_body:  # what was refused was not done, and there may be a new token now
                reply = await self._ask(request, hear, ended)
        return reply

    async def _ask(self, request: Request, hear: Hear | None, ended: Ended | None) -> Reply:
        asking = Asking(self, request, await self._credential(request), hear, ended)
        try:
            asking.begin()
            return await asking.reply
        except asyncio.CancelledError:
            asking.close()
            raise

    async def _credential(self, request: Request) -> bytes:
        outbound = self.outbound
        if outbound is None:
            return b""
        if not outbound.each:
            return outbound.static
        principal = principal_of(request.principal)
        signed = sigv4.Outgoing(request.method, request.target, self.host_at(self.pool.endpoints[0]), request.body)
        for _ in range(QUESTIONS_ASKED):
            found = outbound.lines(principal, (), unix(), signed)
            if isinstance(found, bytes):
                return outbound.static + found
            if isinstance(found, ProxyError):
                raise found
            await self._answered(found)
        raise ProxyError("upstream-credential-unavailable", Side.INTERNAL, 503)

    async def _answered(self, asked: Ask) -> None:
        answered = asyncio.Event()
        waiter = self._questions.ask(asked.question, answered.set)
        try:
            await answered.wait()
        finally:
            waiter.cancel()

    def head(self, head: bytes, method: bytes) -> ResponseHead:
        """Parsed; servers say the same again and again. Raises ProxyError."""
        known = self._heads.get((method, head))
        if known is None:
            known = parse_response(head, method)
            if len(self._heads) >= HEADS:
                self._heads.clear()
            if len(head) <= LONGEST_HEAD:
                self._heads[method, head] = known
        return known

    def host_at(self, endpoint: Endpoint) -> bytes:
        """The Host that is sent there."""
        return self._host or endpoint.authority.encode()


def principal_of(identity: str) -> Principal | None:
    """The reverse of policy/limits.identity, as far as it goes."""
    by, _, name = identity.partition("\n")
    return Principal(name, by) if name else None


def nobody(_: Any) -> None:
    """Nobody hears."""


class Asking:
    """One request and its answer: the lessee of a link (upstream/pool.Lessee). `receive` is its present state."""

    __slots__ = (
        "_accepted",
        "_attempts",
        "_body",
        "_ended",
        "_flood",
        "_head",
        "_hear",
        "_held",
        "_interims",
        "_lines",
        "_link",
        "_outgoing",
        "_request",
        "_reused",
        "_scanner",
        "_since",
        "_spoiled",
        "_waiting",
        "events",
        "receive",
        "reply",
        "wake",
    )

    def __init__(self, outgoing: Outgoing, request: Request, lines: bytes, hear: Hear | None, ended: Ended | None) -> None:
        self._outgoing, self._request, self._lines = outgoing, request, lines
        self._hear, self._ended = hear, ended or nobody
        self.events = Events(request.most)
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.receive: Callable[[Any, bytes], None] = Asking._at_head
        self.wake = NOT_ARMED
        self._link: UpstreamLink | None = None
        self._waiting: Cancellable | None = None
        self._head: ResponseHead | None = None
        self._scanner: ChunkedScanner | LengthScanner | UntilClose = UntilClose()
        self._held = b""
        self._body = bytearray()
        self._attempts = self._interims = self._flood = 0
        self._since = 0.0
        self._accepted = self._reused = self._spoiled = False

    # -- a link ------------------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take a warm link, or wait for one. Raises ProxyError."""
        pool, at, now = self._outgoing.pool, self._request.at, monotonic()
        while (link := pool.take(now) if at is None else pool.take_at(at, now)) is not None:
            if link.quiet():  # however short it rested: what is posted cannot be posted again
                self.leased(link)
                return
            pool.discard(link)
        self._wait()

    def _wait(self) -> None:
        pool, at, now = self._outgoing.pool, self._request.at, monotonic()
        self._waiting = pool.acquire(self, now) if at is None else pool.acquire_at(self, at, now)

    def leased(self, link: UpstreamLink) -> None:
        """Send the request."""
        self._waiting = None
        link.lessee = self
        self._link = link
        self._reused = link.uses > 0
        request = self._request
        length = b"Content-Length: %d\r\n" % len(request.body) if request.body or request.method == b"POST" else b""
        host = self._outgoing.host_at(link.endpoint)
        message = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b\r\n%b" % (
            request.method,
            request.target,
            host,
            request.fields,
            self._lines,
            length,
            request.body,
        )
        try:
            link.write(message)
        except OSError as error:
            self._accepted = False
            self.upstream_ended(error)
        else:
            self._accepted = True

    def not_leased(self, error: ProxyError, endpoint: Endpoint | None) -> None:
        """No server could be reached."""
        self._waiting = None
        self._fail(error)

    def upstream_drained(self) -> None:
        """The whole request is with the kernel."""

    def upstream_deaf(self, error: OSError) -> None:
        """The server stopped listening; its answer may lie here unread."""
        self._spoiled = True

    def upstream_ended(self, error: OSError | None) -> None:
        """The server closed or reset the link."""
        head = self._head
        if head is not None:
            if error is None and head.framing not in (LENGTH, CHUNKED) and not self._spoiled:
                self._finished()
            else:
                self._fail(ProxyError("upstream-cut-answer", Side.UPSTREAM, 502))
            return
        started = bool(self._held) or self._interims > 0
        method = b"GET" if self._request.repeatable else self._request.method
        if not started and may_retry(reused=self._reused, attempts=self._attempts + 1, accepted=self._accepted, method=method, whole=True):
            self._attempts += 1
            self._settle(keep=False)
            try:
                self._wait()
            except ProxyError as failed:
                self._fail(failed)
            return
        self._fail(ProxyError("upstream-cut-head" if started else "upstream-closed", Side.UPSTREAM, 502))

    # -- the states of `receive` ---------------------------------------------------------------------------------------------------------------

    def _at_head(self, data: bytes) -> None:
        data = self._held + data
        while True:
            end = data.find(HEAD_END) + len(HEAD_END)
            try:
                if end < len(HEAD_END):
                    bad = bad_start(data, response=True) if len(data) <= RESPONSE_HEAD_LIMIT else None
                    if bad is not None or len(data) > RESPONSE_HEAD_LIMIT:
                        raise bad or ProxyError("response-head-too-large", Side.UPSTREAM, 502)
                    self._held = data
                    return
                head = self._outgoing.head(data[:end], self._request.method)
                if head.status >= 200:
                    break
                self._interims += 1
                if head.status == 101 or self._interims > INTERIM_LIMIT:
                    raise ProxyError("unasked-101" if head.status == 101 else "too-many-interim-responses", Side.UPSTREAM, 502)
            except ProxyError as error:
                self._fail(error)
                return
            data = data[end:]
            if not data:
                self._held = b""
                return
        self._held = b""
        self._begin_body(head, data[end:])

    def _begin_body(self, head: ResponseHead, data: bytes) -> None:
        link = self._link
        assert link is not None
        self._head = head
        if head.status >= 500:
            link.pool.group.answered(link.endpoint, head.status)
        if head.framing == CHUNKED:
            self._scanner = ChunkedScanner(RESPONSE)
        elif head.framing in (LENGTH, NO_BODY):
            self._scanner = LengthScanner(head.length if head.framing == LENGTH else 0)
            if head.length > self._request.most and not (self._hear and self._streams(head)):
                self._fail(ProxyError("answer-too-large", Side.UPSTREAM, 502))
                return
        if (head.first(b"content-encoding") or b"identity").lower() != b"identity":
            self._fail(ProxyError("compressed-answer", Side.UPSTREAM, 502))
            return
        if self._hear is not None and self._streams(head):
            self.receive = Asking._at_events
            self._tell(b"", events=True)
        else:
            self.receive = Asking._at_body
        if self._scanner.done:
            self._finished()
        elif data:
            self.receive(self, data)

    @staticmethod
    def _streams(head: ResponseHead) -> bool:
        return head.status == 200 and media_type(head.first) == b"text/event-stream"

    def _payload(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        if self._scanner.feed(data, pieces) != len(data):
            self._spoiled = True
        return pieces

    def _at_body(self, data: bytes) -> None:
        try:
            for piece in self._payload(data):
                self._body += piece
            if len(self._body) > self._request.most:
                raise ProxyError("answer-too-large", Side.UPSTREAM, 502)
        except ProxyError as error:
            self._fail(error)
            return
        if self._scanner.done:
            self._finished()

    def _at_events(self, data: bytes) -> None:
        try:
            pieces = self._payload(data)
            found = [event for piece in pieces for event in self.events.feed(piece)]
        except ProxyError as error:
            self._fail(error)
            return
        for event in found:
            if self._hear is not None:
                self._hear(event)
        if self._link is None:
            return
        if self._scanner.done:
            self._finished()
        else:
            self._slow_down(self._link, len(found))

    def _slow_down(self, link: UpstreamLink, count: int) -> None:
        """Who sends more events than anybody reads is not read until the time for them is over: what an event costs is taken from everybody."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - self._since >= FLOOD_S:
            self._since, self._flood = now, 0
        self._flood += count
        if self._flood > FLOOD and link.reading:
            link.pause()
            loop.call_later(self._since + FLOOD_S - now, self._read_on, link)

    def _read_on(self, link: UpstreamLink) -> None:
        if self._link is link:
            link.resume()

    # -- ends ------------------------------------------------------------------------------------------------------------------------------------

    def _tell(self, body: bytes, *, events: bool) -> None:
        head, link = self._head, self._link
        assert head is not None
        assert link is not None
        if not self.reply.done():
            self.reply.set_result(Reply(head.status, head.first, body, events, link.endpoint, self))

    def _finished(self) -> None:
        """The answer's last byte is here."""
        head, link = self._head, self._link
        assert head is not None
        assert link is not None
        if link.endpoint.trial:
            link.pool.group.ended(link.endpoint, head.status)
        streamed = self.reply.done()
        if not streamed:
            self._tell(bytes(self._body), events=False)
        if head.keep_alive_timeout is not None:
            link.hint(head.keep_alive_timeout)
        keeps = head.keep_alive and (head.framing in (LENGTH, CHUNKED, NO_BODY))
        self._settle(keep=keeps and not self._spoiled and link.pending is None)
        if streamed:
            self._ended(None)

    def _fail(self, error: ProxyError) -> None:
        link = self._link
        if link is not None and error.side is Side.UPSTREAM and error.kind not in BLAMELESS and not self._long_stream():
            link.pool.group.failed(link.endpoint, error.kind)
        self._settle(keep=False)
        if not self.reply.done():
            self.reply.set_exception(error)
        elif not self.reply.cancelled():
            self._ended(error)

    def _long_stream(self) -> bool:
        """Servers, and what stands before them, end streams as they like (edge/exchange._blame)."""
        return self._request.method == b"GET" and self.reply.done()

    def close(self) -> None:
        """Nobody waits any more."""
        self._hear = None
        self._ended = nobody
        self._settle(keep=False)

    def linger(self) -> None:
        """See Reply."""
        self._hear = None
        self._ended = nobody
        link = self._link
        if link is not None:
            link.pool.wheel.arm(self, monotonic() + LINGER_S)

    def due(self, now: float) -> float | None:
        """It did not end by itself."""
        self._settle(keep=False)
        return None

    def broken(self) -> None:
        """Something of ours raised (net/loop.broken)."""
        self._fail(ProxyError("upstream-cut-answer", Side.INTERNAL, 502))

    def _settle(self, *, keep: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()
        link, self._link = self._link, None
        if self.wake:
            self._outgoing.pool.wheel.disarm(self)
        if link is None:
            return
        if keep:
            link.pool.keep(link, monotonic())
        else:
            link.pool.discard(link)


BLAMELESS = frozenset({"answer-too-large", "compressed-answer"})  # a server that is well, and says what we do not take
