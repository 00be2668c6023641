"""A session by Streamable HTTP, 2025-03-26 to 2025-11-25 (basic/transports).

1. Every request after `initialize` tells the session and the revision.
2. What the server says outside of any call comes over a GET stream, which is opened when the client has said `initialized` and again whenever it ends.
   405: there is none.
3. An answer's stream that ends before the answer goes on by GET with Last-Event-ID, if its events had ids.
4. 404 (some servers: 400 with a word about sessions): the session is lost, and what was asked was not done. There is a new one, and it is asked once more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mcpproxy.connect import envelope as envelopes
from mcpproxy.connect.envelope import Envelope
from mcpproxy.connect.places import WireError
from mcpproxy.connect.remote import pauses
from mcpproxy.connect.session import ACCEPT, Call, NotHere, Session
from mcpproxy.connect.wire import Reply

if TYPE_CHECKING:
    from mcpproxy.connect.bridge import Bridge

LINGER_S = 1.0  # a stream that has brought the answer may end by itself, and its connection is kept
RESUMES = 5  # attempts in a row that bring nothing
RETRY_S = 1.0  # before a stream is asked for again, unless the server says how long
LONGEST_RETRY_S = 300.0
UNSUPPORTED_VERSION = -32022
LISTEN = b"Accept: text/event-stream\r\n"


class Streamable(Session):
    """See above."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(bridge)
        self._id = b""
        self._listener: asyncio.Task[None] | None = None

    def fields(self, accept: bytes = ACCEPT) -> bytes:
        """Rule 1."""
        session = b"Mcp-Session-Id: %b\r\n" % self._id if self._id else b""
        return accept + session + (b"MCP-Protocol-Version: %b\r\n" % self.version.encode() if self.version else b"")

    async def begin(self, call: Call) -> None:
        self._initialize = bytes(call.envelope.params)
        call.peek = self.greeted
        await self._greet(call)

    async def _greet(self, call: Call) -> None:
        reply = await self.remote.send(b"POST", ACCEPT, call.raw)
        if reply.status >= 400:
            body = await reply.body()
            if reply.status in (400, 404, 405) and not call.own:
                if not _is_modern_refusal(body):
                    raise NotHere(reply.status, body)
                self.bridge.say(f"{self.remote.url} speaks only newer revisions of MCP than this client; a gateway can stand between them")
            await self.bridge.failed(call, reply.status, body)
            return
        self._id = reply.first(b"mcp-session-id") or b""
        await self._answer(call, reply, self.generation)

    async def _open(self) -> None:
        self._id, self.version = b"", ""
        call, answer = self.bridge.own("initialize", self._initialize)
        try:
            await self._greet(call)
            if not answer.done() or not bytes(answer.result().result):
                raise WireError("the server did not begin a new session", sent=True)
            self.greeted(answer.result())
        finally:
            for key in call.waiting:
                self.bridge.calls.pop(key, None)

    async def _started(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        self._listener = self.bridge.spawn(self._listen(self.generation))

    async def ask(self, call: Call) -> None:
        for again in (False, True):
            if not call.own:
                await self.settled()
            generation = self.generation
            reply = await self.remote.send(b"POST", self.fields(), call.raw)
            if reply.status < 400:
                self.remember(call)
                await self._answer(call, reply, generation)
                return
            body = await reply.body()
            if again or call.own or not self._is_lost(reply.status, body):
                await self.bridge.failed(call, reply.status, body)
                return
            await self.renew(generation)

    async def tell(self, raw: bytes, first: Envelope) -> None:
        generation = self.generation
        if first.method == "notifications/initialized":
            self._initialized = raw
        reply = await self.remote.send(b"POST", self.fields(), raw)
        if reply.status >= 400:
            body = await reply.body()
            if first.method != "again" and not first.is_response and self._is_lost(reply.status, body):
                await self.renew(generation)
                return
            self.bridge.say(f"the server answered {reply.status} to {first.method or 'an answer'}")
            return
        async for _ in reply.pieces():
            break
        if first.method == "notifications/initialized":
            await self._started()

    async def end(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        if self._id:
            reply = await self.remote.send(b"DELETE", self.fields(b""), patience=0)
            reply.close()
            self._id = b""

    def _is_lost(self, status: int, body: bytes) -> bool:
        """Rule 4."""
        return bool(self._id) and (status == 404 or (status == 400 and b"session" in body.lower()))

    # -- answers -----------------------------------------------------------------------------------------------------------------------------

    async def _answer(self, call: Call, reply: Reply, generation: int) -> None:
        if not reply.streams:
            body = await reply.body()
            if body.strip():
                await self.bridge.deliver(body.strip(), generation, call)
            return
        try:
            await self._events(reply, generation, call)
        except WireError:
            if not reply.events_read.last_id:
                raise
        if call.waiting:
            await self._resume(call, reply, generation)

    async def _events(self, reply: Reply, generation: int, call: Call | None) -> None:
        try:
            async with asyncio.timeout(None) as limit:
                async for event in reply.events():
                    if event.data:
                        await self.bridge.deliver(event.data, generation, call)
                        if call is not None and not call.waiting:
                            limit.reschedule(asyncio.get_running_loop().time() + LINGER_S)
        except TimeoutError:
            pass
        finally:
            reply.close()

    async def _resume(self, call: Call, reply: Reply, generation: int) -> None:
        """Rule 3."""
        last, retry, failures, pause = reply.events_read.last_id, reply.events_read.retry, 0, pauses()
        while last and call.waiting and failures < RESUMES:
            await asyncio.sleep(min(RETRY_S if retry is None else retry, LONGEST_RETRY_S) if failures == 0 else pause())
            if self.generation != generation:
                raise WireError("the session was lost before the answer came", sent=True)
            failures += 1
            try:
                reply = await self.remote.send(b"GET", self.fields(LISTEN) + b"Last-Event-ID: %b\r\n" % last)
                if not reply.streams:
                    lost = self._is_lost(reply.status, await reply.body())
                    if lost or reply.status == 405:
                        raise WireError("the session was lost before the answer came", sent=True)
                    continue
                try:
                    await self._events(reply, generation, call)
                finally:
                    if reply.events_read.last_id:
                        failures, last = 0, reply.events_read.last_id
                        retry = retry if reply.events_read.retry is None else reply.events_read.retry
            except WireError as error:
                if error.text.startswith("the session"):
                    raise

    # -- outside of calls --------------------------------------------------------------------------------------------------------------------

    async def _listen(self, generation: int) -> None:
        """Rule 2."""
        last, retry, pause = b"", RETRY_S, pauses()
        while self.generation == generation:
            seconds = 0.0
            try:
                reply = await self.remote.send(b"GET", self.fields(LISTEN) + (b"Last-Event-ID: %b\r\n" % last if last else b""), patience=0)
                if reply.streams:
                    try:
                        await self._events(reply, generation, None)
                    finally:
                        last = reply.events_read.last_id or last
                        retry = retry if reply.events_read.retry is None else reply.events_read.retry
                    pause = pauses()
                    seconds = min(retry, LONGEST_RETRY_S)
                else:
                    body = await reply.body()
                    if reply.status in (405, 501) or (reply.status in (400, 404) and not self._id):
                        return
                    if self._is_lost(reply.status, body):
                        self.bridge.spawn(self._renewed(generation))
                        return
                    if last and reply.status == 400:
                        last = b""
            except WireError as error:
                if error.hopeless:
                    return
            await asyncio.sleep(seconds or pause())

    async def _renewed(self, generation: int) -> None:
        pause = pauses()
        while self.generation == generation:
            try:
                await self.renew(generation)
            except WireError:
                await asyncio.sleep(pause())


def _is_modern_refusal(body: bytes) -> bool:
    """A server of 2026-07-28 that says which revisions it serves."""
    found = envelopes.read(body)
    error = envelopes.plain(found[0].error) if found and len(found) == 1 else None
    return isinstance(error, dict) and error.get("code") == UNSUPPORTED_VERSION
