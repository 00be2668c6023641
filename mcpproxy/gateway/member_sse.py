"""A conversation over HTTP+SSE (2024-11-05): a stream of events that says where to post, and posts that are answered in that stream.

    GET /sse ──▶ event: endpoint, data: /messages?session_id=…        POST there ──▶ 202        answers, notifications, requests ◀── event: message

1. The session is the stream. When it is lost, every call that waits is answered at once; the next one opens another, greets again and tells again what
   the session knew: log level and subscriptions. A call that may be done twice is made again in it (gateway/mirrored).
2. The place to post to must be at the same origin as the stream, and is asked at the very server that the stream comes from.
3. Whose is what comes back is for gateway/pipe to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

from mcpproxy.config.model import Upstream
from mcpproxy.errors import ProxyError
from mcpproxy.gateway.greeting import answered, greet
from mcpproxy.gateway.mirrored import Tools
from mcpproxy.gateway.outgoing import Outgoing, Reply, Request
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, Answer, Call, Client, Conversation, Era, Hearer, Server, Unavailable
from mcpproxy.gateway.pipe import Patience, Pipe, Say
from mcpproxy.gateway.posting import failure_of
from mcpproxy.http.replies import MESSAGES
from mcpproxy.http.sse import Event
from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params
from mcpproxy.net.fetch import is_plain

POST_S = 30.0  # for a 202
STREAM = b"Accept: text/event-stream\r\nAccept-Encoding: identity\r\nCache-Control: no-store\r\n"
POST = b"Content-Type: application/json\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"


class Stream:
    """One session."""

    __slots__ = ("over", "pipe", "reply", "target", "where")

    def __init__(self, where: asyncio.Future[str]) -> None:
        self.pipe: Pipe
        self.where = where  # the endpoint event
        self.reply: Reply | None = None
        self.target = b""
        self.over = False


class SseConversation(Conversation):
    """With one server. `owner`: whose it is; None: everybody's."""

    def __init__(
        self,
        name: str,
        outgoing: Outgoing,
        upstream: Upstream,
        hearer: Hearer,
        *,
        owner: Client | None = None,
        tools: Tools | None = None,
        say: Say = lambda level, text: None,
        greeting: float = 30.0,
    ) -> None:
        self.name, self.owner, self.tools, self.renewals, self.used = name, owner, tools or Tools(), 0, 0.0
        self.lost = False  # for good
        self.absent = False  # there was an answer, and it was no event stream
        self.server: Server
        self._outgoing, self._upstream, self._hearer, self._say, self._greeting = outgoing, upstream, hearer, say, greeting
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._stream: Stream | None = None
        self._level: Params | None = None
        self._subscribed: dict[bytes, None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> int:
        """Calls that wait."""
        return self._stream.pipe.calls if self._stream is not None else 0

    @property
    def _principal(self) -> str:
        return self.owner.principal if self.owner is not None else ""

    # -- the stream ----------------------------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Raises Unavailable."""
        async with self._opening:
            await self._open()

    async def _open(self) -> Stream:
        patience = Patience(self._upstream.call_timeout, self._upstream.call_ceiling)
        stream = Stream(self._loop.create_future())
        stream.pipe = pipe = Pipe(
            self.name,
            lambda raw, id: self._later(self._post(stream, raw, id)),
            self._hearer,
            owner=self.owner,
            patience=patience,
            say=self._say,
        )
        try:
            await self._connect(stream)
            self.server = await greet(
                lambda method, params, within: pipe.request(method, params, within=within),
                partial(self._notify, stream),
                era=Era.LEGACY,
                client=self.owner,
                within=self._greeting,
            )
            if stream.over:
                raise Unavailable(f"{self.name} ended its event stream")
        except BaseException:
            self._over(stream, None)
            raise
        self._stream = stream
        return stream

    async def _connect(self, stream: Stream) -> None:
        path = self._upstream.mcp_path
        request = Request(b"GET", path.encode(), STREAM, repeatable=True, most=self._upstream.max_message, principal=self._principal)
        try:
            async with asyncio.timeout(self._greeting):
                stream.reply = reply = await self._outgoing.ask(request, partial(self._event, stream), partial(self._over, stream))
                self.absent = not reply.events
                if self.absent:
                    raise Unavailable(f"{self.name} has no event stream there ({reply.status}): is its mcp_path right?")
                said = await stream.where
        except ProxyError as error:
            raise Unavailable(f"{self.name}: {MESSAGES.get(error.kind, error.kind)}") from None
        except TimeoutError:
            raise Unavailable(f"{self.name} did not open its event stream within {self._greeting:g} s") from None
        stream.target = target_of(said, path, reply.endpoint.authority, secure=reply.endpoint.tls is not None)

    def _event(self, stream: Stream, event: Event) -> None:
        if event.type == b"endpoint":
            if not stream.where.done():
                stream.where.set_result(event.data.decode("ascii", "replace"))
        elif event.type in (b"", b"message") and event.data:
            stream.pipe.received(event.data)

    def _over(self, stream: Stream, error: ProxyError | None) -> None:
        """It is of no more use, whoever ended it."""
        if stream.over:
            return
        stream.over = True
        text = f"{self.name} ended its event stream"
        if not stream.where.done():
            stream.where.set_exception(Unavailable(text))
            stream.where.exception()  # heard, even where nobody waits any more
        stream.pipe.lost(text)
        if stream.reply is not None:
            stream.reply.close()
        if self._stream is stream:
            self._stream = None
            if not self.lost:
                self._hearer.changed(self.name, available=False, client=self.owner)

    # -- posts -----------------------------------------------------------------------------------------------------------------------------------

    async def _post(self, stream: Stream, raw: bytes, id: bytes | None) -> None:
        if stream.reply is None or stream.over:
            return
        request = Request(b"POST", stream.target, POST, raw, stream.reply.endpoint, principal=self._principal)
        try:
            async with asyncio.timeout(POST_S):
                taken = await self._outgoing.ask(request)
        except TimeoutError:
            return  # what it has to say may come by the stream nevertheless
        except ProxyError as error:
            failed = failure_of(self.name, error).answer
        else:
            if taken.status < 300:
                return
            failed = Answer.failure(MEMBER_LOST, f"{self.name} answered {taken.status}")
            if taken.status in (404, 410):  # it does not know the session: nothing will ever come by this stream
                self._over(stream, None)
        if id is not None:
            stream.pipe.fail(id, failed)

    async def _notify(self, stream: Stream, method: str, params: bytes | None) -> None:
        await self._post(stream, message.notification(method, params), None)

    def _later(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- words -----------------------------------------------------------------------------------------------------------------------------------

    async def ask(self, call: Call) -> Answer:
        """See Conversation."""
        self.used = self._loop.time()
        answer = await answered(self.server, call, partial(self._sent, call))
        self.used = self._loop.time()
        if answer.result is not None:
            if call.method == "tools/list":
                answer = replace(answer, result=self.tools.learn(answer.result))
            elif call.method == "logging/setLevel":
                self._level = call.params
            elif call.method == "resources/subscribe":
                self._subscribed[call.params.get("uri", b"")] = None
            elif call.method == "resources/unsubscribe":
                self._subscribed.pop(call.params.get("uri", b""), None)
        if answer.recovered:
            call.labels["recovered"] = "true"
        return answer

    async def _sent(self, call: Call, params: Params) -> Answer:
        recovered = False
        while True:
            stream = self._stream
            if stream is None:
                try:
                    stream = await self._renewed()
                except Unavailable as why:
                    return Answer.failure(MEMBER_UNAVAILABLE, why.text)
                recovered = True
            answer = await stream.pipe.ask(call, params)
            if recovered or not stream.over or answer.error is None or not self.tools.repeatable(call.method, params):
                return replace(answer, recovered=recovered)

    async def _renewed(self) -> Stream:
        """Another stream, told what the one before knew. Raises Unavailable."""
        async with self._opening:
            if self._stream is not None:
                return self._stream
            if self.lost:
                raise Unavailable(f"{self.name} is not there")
            stream = await self._open()
            self.renewals += 1
            if self._level is not None:
                await stream.pipe.request("logging/setLevel", message.put(self._level), within=POST_S)
            for uri in self._subscribed:
                await stream.pipe.request("resources/subscribe", b'{"uri":%b}' % uri, within=POST_S)
        self._say("info", f"{self.name}: it had lost its session, and has a new one")
        self._hearer.changed(self.name, available=True, client=self.owner)
        return stream

    async def tell(self, method: str, params: bytes | None) -> None:
        """See Conversation."""
        if self._stream is not None:
            await self._notify(self._stream, method, params)

    async def close(self) -> None:
        """See Conversation."""
        self.lost = True
        if self._stream is not None:
            self._over(self._stream, None)
        for task in tuple(self._tasks):
            task.cancel()


def target_of(said: str, path: str, authority: str, *, secure: bool) -> bytes:
    """Where to post. Raises Unavailable for what is elsewhere."""
    origin = f"{'https' if secure else 'http'}://{authority}"
    try:
        place = urlsplit(urljoin(origin + path, said))
    except ValueError:
        place = urlsplit("")
    target = (place.path or "/") + (f"?{place.query}" if place.query else "")
    if f"{place.scheme}://{place.netloc}" != origin or not is_plain(target):
        raise Unavailable("the server wants its messages somewhere else")
    return target.encode()
