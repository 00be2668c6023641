"""A server that is reached over HTTP, as a member: Streamable HTTP of both eras (gateway/streamable), or HTTP+SSE (gateway/member_sse).

    member = HttpMember("search", outgoing, upstream, hearer)
    conversation = await member.conversation(client)

Who has which conversation:

 1. With a modern server all have the same: it keeps nothing about who asks.
 2. With a legacy server each session of a client has its own, as such servers keep log levels, subscriptions and more by session.
 3. A client without a session (modern) shares one with those of the same caller and the same capabilities. One that nobody uses for IDLE_S is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

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
        self._shared = False  # what is there last was modern: all have one
        self._sse = upstream.transport == "sse"
        self._trouble = ""
        self._sweeping: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def start(self) -> None:
        """See Member."""

    async def conversation(self, client: Client) -> Conversation:
        """See Member."""
        shared = self._talks.get(EVERYBODY)
        if shared is not None and shared.server.era is Era.MODERN:
            return shared
        own = key_of(client)
        key = EVERYBODY if self._shared else own
        talk = self._talks.get(key)
        if talk is not None and not talk.lost:
            if key is EVERYBODY:  # it was modern once, and is not any more: nobody may share it
                del self._talks[key]
                self._shared = False
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
        return await asyncio.shield(task)

    async def _make(self, key: Key, client: Client) -> Talk:
        try:
            talk = await self._begun(None if key is EVERYBODY else client)
        except Unavailable as why:
            if self._trouble != why.text:
                self._say("warning", f"{self.name}: {why.text}")
            self._trouble, self._shared = why.text, False
            raise
        self._trouble = ""
        self._shared = talk.server.era is Era.MODERN
        if self._shared and key is not EVERYBODY:  # nobody knew: from now on it is everybody's
            talk.owner = None
            key = EVERYBODY
            first = self._talks.get(key)
            if first is not None and not first.lost:
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

    async def _begun(self, owner: Client | None) -> Talk:
        """In the transport that it speaks."""
        if not self._sse:
            first = HttpConversation(
                self.name,
                self._outgoing,
                self._upstream,
                self._hearer,
                owner=owner,
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
        talk = SseConversation(
            self.name, self._outgoing, self._upstream, self._hearer, owner=owner, tools=self._tools, say=self._say, greeting=self._greeting
        )
        await talk.begin()
        self._sse = True
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
            "era": some.server.era.value if some is not None else "",
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
