"""A session by HTTP+SSE, 2024-11-05: one stream for everything the server says, and a URL that its first event names for what it is told.

The session is the stream: when it ends, calls without an answer are lost, and a new stream is a new session. The URL must be of the same origin.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from mcpproxy.connect.envelope import Envelope
from mcpproxy.connect.places import WireError, place_of
from mcpproxy.connect.remote import pauses
from mcpproxy.connect.session import JSON, Call, NotHere, Session
from mcpproxy.connect.wire import Reply
from mcpproxy.gateway.parts import MEMBER_LOST

if TYPE_CHECKING:
    from mcpproxy.connect.bridge import Bridge

ENDPOINT_S = 30.0  # until the stream has named the URL


class Older(Session):
    """See above."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(bridge)
        self._post = ""
        self._reply: Reply | None = None
        self._pump: asyncio.Task[None] | None = None
        self._asking: dict[Call, int] = {}

    async def begin(self, call: Call) -> None:
        self._initialize = bytes(call.envelope.params)
        call.peek = self.greeted
        await self._connect()
        await self.ask(call)

    async def _connect(self) -> None:
        """A stream, and where to post."""
        reply = await self.remote.send(b"GET", b"Accept: text/event-stream\r\n")
        if not reply.streams:
            body = await reply.body()
            raise NotHere(reply.status, body)
        named: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._reply = reply
        self._pump = self.bridge.spawn(self._events(reply, named, self.generation))
        try:
            async with asyncio.timeout(ENDPOINT_S):
                self._post = await named
        except TimeoutError:
            self._pump.cancel()
            raise NotHere(reply.status, b"") from None

    async def _open(self) -> None:
        call, answer = self.bridge.own("initialize", self._initialize)
        try:
            await self._connect()
            async with asyncio.timeout(ENDPOINT_S):
                await self.ask(call)
                self.greeted(await answer)
        except (NotHere, TimeoutError):
            raise WireError("the server did not begin a new session", sent=True) from None
        finally:
            for key in call.waiting:
                self.bridge.calls.pop(key, None)

    async def _started(self) -> None:
        """The stream is there already."""

    async def ask(self, call: Call) -> None:
        for again in (False, True):
            if not call.own:
                await self.settled()
            generation = self.generation
            if not call.own and self._pump is not None and self._pump.done():
                await self.renew(generation)
                generation = self.generation
            self._asking[call] = generation
            try:
                reply = await self.remote.send(b"POST", JSON, call.raw, url=self._post)
                if reply.status < 400:
                    async for _ in reply.pieces():
                        pass
                    self.remember(call)
                    await call.answered.wait()
                    return
                body = await reply.body()
            finally:
                self._asking.pop(call, None)
            if again or call.own or reply.status != 404:
                await self.bridge.failed(call, reply.status, body)
                return
            await self.renew(generation)

    async def tell(self, raw: bytes, first: Envelope) -> None:
        if first.method == "notifications/initialized":
            self._initialized = raw
        reply = await self.remote.send(b"POST", JSON, raw, url=self._post)
        async for _ in reply.pieces():
            pass
        if reply.status >= 400:
            self.bridge.say(f"the server answered {reply.status} to {first.method or 'an answer'}")

    async def end(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        if self._reply is not None:
            self._reply.close()

    async def _events(self, reply: Reply, named: asyncio.Future[str], generation: int) -> None:
        try:
            async for event in reply.events():
                if event.type == b"endpoint" and not named.done():
                    where = urljoin(self.remote.url, event.data.decode("utf-8", "replace"))
                    if place_of(where).origin != place_of(self.remote.url).origin:
                        raise WireError("the server names an endpoint on another server")
                    named.set_result(where)
                elif event.type in (b"", b"message") and event.data:
                    await self.bridge.deliver(event.data, generation)
        except WireError as error:
            if not named.done():
                self.bridge.say(error.text)
        finally:
            reply.close()
        if not named.done():
            named.set_exception(NotHere(reply.status, b""))
            return
        for call, of in [*self._asking.items()]:
            if of == generation:
                await self.bridge.fail(call, MEMBER_LOST, "the connection was lost; it is not known whether the server did it")
        if self.generation == generation and self.begun:
            self.bridge.spawn(self._again(generation))

    async def _again(self, generation: int) -> None:
        pause = pauses()
        while self.generation == generation:
            await asyncio.sleep(pause())
            try:
                await self.renew(generation)
            except WireError:
                continue
