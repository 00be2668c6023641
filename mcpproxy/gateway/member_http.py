"""A server that is reached over HTTP, as a member: Streamable HTTP of both eras (gateway/streamable), or HTTP+SSE (gateway/member_sse).

    member = HttpMember("search", outgoing, upstream, hearer)
    conversation = await member.conversation(client)

Who has which conversation:

 1. Where the server speaks both eras, a client has that of its own: its tools may know how to ask clients of one era only.
 2. In the modern era all have the same: the server keeps nothing about who asks.
 3. In the legacy era each session of a client has its own, as such servers keep log levels, subscriptions and more by session.
 4. A client without a session (modern) with a legacy server shares one with those of the same caller and the same capabilities. One that nobody uses for
    IDLE_S is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from msgspec import structs

from mcpproxy.config.model import Upstream
from mcpproxy.gateway.member_sse import SseConversation
from mcpproxy.gateway.mirrored import Tools
from mcpproxy.gateway.outgoing import Outgoing
from mcpproxy.gateway.parts import Client, Conversation, Era, Hearer, Member, Unavailable
from mcpproxy.gateway.pipe import Say
from mcpproxy.gateway.streamable import Absence, HttpConversation
from mcpproxy.mcp import message

IDLE_S = 600.0  # an own conversation of a client without a session
SWEEP_S = 60.0
USUAL, USUAL_SSE = "/mcp", "/sse"  # where servers have their endpoint, and those of HTTP+SSE their stream
MOST = 10_000  # conversations; SDK servers keep as many sessions

Key = tuple[str, ...]
Talk = HttpConversation | SseConversation
EVERYBODY: Key = ()


class HttpMember(Member):
    """One upstream with `urls`."""

    def __init__(
        self, name: str, outgoing: Outgoing, upstream: Upstream, hearer: Hearer, say: Say = lambda level, text: None, greeting: float = 30.0
    ) -> None:
        self.name = name
        self._outgoing, self._upstream, self._hearer, self._say, self._greeting = outgoing, upstream, hearer, say, greeting
        self._talks: dict[Key, Talk] = {}
        self._making: dict[Key, asyncio.Task[Talk]] = {}
        self._tools, self._absence = Tools(), Absence()
        self._shared: set[Era] = set()  # clients of these eras were given a modern one last: that is one for all of them
        self._sse = upstream.transport == "sse"
        self._paths: tuple[str, ...] = (
            (USUAL, USUAL_SSE) if upstream.mcp_path == USUAL else (upstream.mcp_path,)
        )  # of event streams; which was there last, first
        self._trouble = ""
        self._sweeping: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """See Member."""

    async def conversation(self, client: Client) -> Conversation:
        """See Member."""
        key = EVERYBODY if client.era in self._shared else key_of(client)
        talk = self._talks.get(key)
        if talk is not None and not talk.lost:
            if key is EVERYBODY and talk.server.era is Era.LEGACY:  # it was modern once, and is not any more: nobody may share it
                del self._talks[key]
                self._shared.clear()
                self._end(talk)
                return await self.conversation(client)
            talk.used = asyncio.get_running_loop().time()
            return talk
        task = self._making.get(key)
        if task is None:
            if self._stopped or len(self._talks) >= MOST:
                raise Unavailable(f"{self.name} has too many conversations" if not self._stopped else f"{self.name} is stopped", 1.0)
            task = self._making[key] = asyncio.get_running_loop().create_task(self._make(key, client))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        talk = await asyncio.shield(task)
        return talk if key is not EVERYBODY or talk.server.era is Era.MODERN else await self.conversation(client)

    async def _make(self, key: Key, client: Client) -> Talk:
        try:
            talk = await (self._begun(None, Era.MODERN) if key is EVERYBODY else self._begun(client, client.era))
        except Unavailable as why:
            trouble = why.text.removeprefix(f"{self.name}: ").removeprefix(f"{self.name} ")
            if self._trouble != trouble:
                self._say("warning", f"{self.name}: {trouble}")
            self._trouble = trouble
            self._shared.discard(client.era)
            raise
        self._trouble = ""
        if not isinstance(talk, HttpConversation) or talk.server.era is Era.LEGACY:
            self._shared.discard(client.era)
        else:
            self._shared.add(client.era)
            if key is not EVERYBODY:  # nobody knew: from now on it is everybody's
                talk.owner, talk.first = None, Era.MODERN
                key = EVERYBODY
                first = self._talks.get(key)
                if first is not None and not first.lost and first.server.era is Era.MODERN:
                    self._end(talk)
                    return first
        if self._stopped:
            self._end(talk)
            raise Unavailable(f"{self.name} is stopped")
        old = self._talks.get(key)
        self._talks[key] = talk
        if old is not None:
            self._end(old)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return talk

    async def _begun(self, owner: Client | None, era: Era) -> Talk:
        """In the transport that it speaks."""
        if not self._sse:
            first = HttpConversation(
                self.name,
                self._outgoing,
                self._upstream,
                self._hearer,
                owner=owner,
                first=era,
                tools=self._tools,
                absence=self._absence,
                say=self._say,
                greeting=self._greeting,
            )
            try:
                await first.begin()
                return first
            except Unavailable:
                if not first.no_streamable or self._upstream.transport == "streamable":
                    raise
        return await self._streamed(owner, self._paths)

    async def _streamed(self, owner: Client | None, paths: tuple[str, ...]) -> Talk:
        """Over HTTP+SSE, whose stream is at one of these."""
        upstream = structs.replace(self._upstream, mcp_path=paths[0])
        talk = SseConversation(
            self.name, self._outgoing, upstream, self._hearer, owner=owner, tools=self._tools, say=self._say, greeting=self._greeting
        )
        try:
            await talk.begin()
        except Unavailable:
            if not talk.absent or not paths[1:]:
                raise
            return await self._streamed(owner, paths[1:])
        self._sse = True
        self._paths = tuple(sorted(self._paths, key=lambda each: each != paths[0]))
        return talk

    def leave(self, client: Client) -> None:
        """See Member."""
        if client.session:
            talk = self._talks.pop(key_of(client), None)
            if talk is not None:
                self._end(talk)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(SWEEP_S, self._sweep)
        for key, talk in tuple(self._talks.items()):
            if key and not key[0] and not talk.busy and loop.time() - talk.used > IDLE_S:
                del self._talks[key]
                self._end(talk)

    def _end(self, talk: Talk) -> None:
        task = asyncio.get_running_loop().create_task(talk.close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """See Member."""
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for task in tuple(self._making.values()):
            task.cancel()
        for talk in self._talks.values():
            self._end(talk)
        self._talks.clear()
        await asyncio.gather(*self._tasks, *self._making.values(), return_exceptions=True)

    def state(self) -> Mapping[str, object]:
        """See Member."""
        some = next(iter(self._talks.values()), None)
        return {
            "state": "there" if some is not None and not some.lost else "away" if self._trouble else "idle",
            "transport": "sse" if self._sse else "streamable",
            "era": ", ".join(sorted({talk.server.era.value for talk in self._talks.values()})),
            "version": some.server.version if some is not None else "",
            "conversations": len(self._talks),
            "calls": sum(talk.busy for talk in self._talks.values()),
            "recovered": sum(talk.renewals for talk in self._talks.values()),
            "last_error": self._trouble,
        }


def key_of(client: Client) -> Key:
    """Who may share a conversation with a legacy server."""
    if client.session:
        return (client.session,)
    return ("", client.principal, message.put(dict(sorted(client.capabilities.items()))).decode())
