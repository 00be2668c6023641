"""Who hears what: clients, the conversations they are in, log levels and subscriptions (MCP server/utilities/logging, server/resources: subscriptions).

    join(client) … attached(slot, client, conversation) ──▶ Use: who is in this conversation, what they want to hear

1. A conversation of many clients has one log level, the least that any of them asked for; each hears what it asked for. It is told again when that changes.
2. A resource is subscribed to once for all, by the first who wants it, and left by the last.
3. A conversation that takes another's place (the server was started anew) is told all of this again.
4. What belongs to everybody's conversation is heard by all; what belongs to a client's own, by those who are in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass

from mcpproxy.gateway.catalog import Ours
from mcpproxy.gateway.parts import Answer, Call, Client, Conversation, Era
from mcpproxy.gateway.shelf import Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params

LEVELS = {level: number for number, level in enumerate(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"))}
SUBSCRIPTIONS = 10_000  # of one conversation
USES = 1024  # conversations remembered for a level that somebody asked for who had not joined
DEFAULT = "info"  # for who said nothing, where another one of the same conversation wants more
MESSAGE = "notifications/message"


def passes(wanted: str | None, level: str) -> bool:
    """Is a message of `level` among what was asked for? Levels that nobody knows pass."""
    return wanted is None or LEVELS.get(level, 99) >= LEVELS.get(wanted, 0)


def is_leveled(conversation: Conversation) -> bool:
    """Has it one log level for all that goes through it? (Newer servers are told with each request.)"""
    server = conversation.server
    return server.era is Era.LEGACY and "logging" in server.capabilities


@dataclass(slots=True, eq=False)
class Leveled(Call):
    """A call in a conversation with one log level for all: its client hears what it asked for itself."""

    origin: Call | None = None
    use: Use | None = None

    def note(self, method: str, params: Params) -> None:
        """Messages that it did not ask for are dropped."""
        assert self.origin is not None
        if method == MESSAGE:
            wanted = self.client.level
            if wanted is None and self.client.era is Era.MODERN:
                return
            if wanted is None and self.use is not None and self.use.level is not None:
                wanted = DEFAULT
            if not passes(wanted, level_of(params)):
                return
        self.origin.note(method, params)

    async def question(self, method: str, params: bytes | None) -> Answer:
        """As it is."""
        assert self.origin is not None
        return await self.origin.question(method, params)


def level_of(params: Params) -> str:
    """Of a message."""
    return params.get("level", b"").decode("ascii", "replace").strip('"')


class Use:
    """One conversation, as those use it who have joined."""

    __slots__ = ("asked", "clients", "conversation", "level", "slot", "uris")

    def __init__(self, slot: Slot, conversation: Conversation) -> None:
        self.slot, self.conversation = slot, conversation
        self.clients: dict[Client, None] = {}
        self.uris: dict[str, set[Client]] = {}  # its own URIs
        self.level: str | None = None  # what the server was told
        self.asked: str | None = None  # the least of a client that had not joined

    def least(self) -> str | None:
        """The level it should be told."""
        wanted = [level for level in (*(client.level for client in self.clients), self.asked) if level in LEVELS]
        return min(wanted, key=LEVELS.__getitem__, default=None)


class Audience:
    """Of one hub."""

    __slots__ = ("_of", "_tasks", "_uses", "joined")

    def __init__(self) -> None:
        self.joined: dict[Client, None] = {}
        self._of: dict[tuple[Slot, Client], Use] = {}
        self._uses: dict[tuple[Slot, int], Use] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, client: Client) -> None:
        """It hears from now on."""
        self.joined[client] = None

    def leave(self, client: Client, slots: Iterable[Slot]) -> list[Use]:
        """It is gone. Conversations that nobody is in any more."""
        self.joined.pop(client, None)
        over = []
        for slot in slots:
            use = self._of.pop((slot, client), None)
            if use is None:
                continue
            self._part(use, client)
            if use.clients:
                self._tell_level(use)
            else:
                self._uses.pop((slot, id(use.conversation)), None)
                over.append(use)
        return over

    def _part(self, use: Use, client: Client) -> None:
        use.clients.pop(client, None)
        for uri, clients in tuple(use.uris.items()):
            if client in clients:
                clients.discard(client)
                if not clients:
                    del use.uris[uri]
                    self._later(_ask(use, client, "resources/unsubscribe", uri))

    def attached(self, slot: Slot, client: Client, conversation: Conversation) -> Use | None:
        """It has this conversation. None: it has not joined, and hears nothing but what is of its calls."""
        old = self._of.get((slot, client))
        if old is not None and old.conversation is conversation:
            return old
        use = self._uses.get((slot, id(conversation)))
        if client not in self.joined:
            return use
        if use is None:
            use = self._uses[slot, id(conversation)] = Use(slot, conversation)
        use.clients[client] = None
        self._of[slot, client] = use
        if old is not None:
            self._moved(old, use, client)
        self._tell_level(use)
        return use

    def _moved(self, old: Use, use: Use, client: Client) -> None:
        """Another conversation is in the place of the old one, which is over: nobody has to be told there."""
        old.clients.pop(client, None)
        for uri, clients in tuple(old.uris.items()):
            if client in clients:
                clients.discard(client)
                self._later(self._again(use, client, uri))
        if not old.clients:
            self._uses.pop((use.slot, id(old.conversation)), None)

    async def _again(self, use: Use, client: Client, uri: str) -> None:
        await self.subscribe(use, client, uri)

    def use_of(self, slot: Slot, client: Client) -> Use | None:
        """The conversation it is in."""
        return self._of.get((slot, client))

    # -- log levels --

    async def leveled(self, client: Client, slots: Iterable[Slot], within: float) -> None:
        """It wants another level. Waits until the servers have heard it, or `within` seconds."""
        uses = [use for slot in slots if (use := self._of.get((slot, client))) is not None]
        told = [task for use in uses if (task := self._tell_level(use, client)) is not None]
        if told:
            await asyncio.wait(told, timeout=within)

    async def needs(self, slot: Slot, client: Client, conversation: Conversation) -> None:
        """A client that has not joined says how much it wants to hear of its call."""
        level = client.level
        use = self._uses.get((slot, id(conversation)))
        if level not in LEVELS or (use is not None and use.level in LEVELS and LEVELS[use.level] <= LEVELS[level]):
            return
        if use is None:
            if len(self._uses) > USES:
                self._uses = {key: each for key, each in self._uses.items() if each.clients}
            use = self._uses[slot, id(conversation)] = Use(slot, conversation)
        use.asked = level
        task = self._tell_level(use, client)
        if task is not None:
            await asyncio.shield(task)

    def _tell_level(self, use: Use, client: Client | None = None) -> asyncio.Task[None] | None:
        level, client = use.least(), client or next(iter(use.clients), None)
        if level is None or level == use.level or client is None or not is_leveled(use.conversation):
            return None
        use.level = level
        return self._later(_set_level(use, client, level))

    # -- subscriptions --

    async def subscribe(self, use: Use, client: Client, own: str) -> Answer:
        """From now on it hears of this resource."""
        clients = use.uris.get(own)
        if clients is not None:
            clients.add(client)
            return Answer(b"{}")
        if len(use.uris) >= SUBSCRIPTIONS:
            return Answer.failure(-32603, "too many subscriptions")
        use.uris[own] = {client}
        answer = await _asked(use, client, "resources/subscribe", own)
        if answer.result is None:
            use.uris.pop(own, None)
        return answer

    async def unsubscribe(self, use: Use, client: Client, own: str) -> Answer:
        """No longer."""
        clients = use.uris.get(own, set())
        clients.discard(client)
        if own not in use.uris or clients:
            return Answer(b"{}")
        del use.uris[own]
        return await _asked(use, client, "resources/unsubscribe", own)

    # -- who hears it --

    def hearers(self, slot: Slot, client: Client | None) -> list[Client]:
        """Of something that belongs to no call: `client` is whose conversation it is, None everybody's."""
        if client is None:
            return list(self.joined)
        use = self._of.get((slot, client))
        if use is not None:
            return list(use.clients)
        # A caller's own, which began with a client that has not joined, or is gone: those of the same caller whose conversation we do not know otherwise.
        same = [each for each in self.joined if each.principal == client.principal and (each.era is Era.MODERN or each is client)]
        return [each for each in same if (slot, each) not in self._of]

    def subscribed(self, slot: Slot, client: Client | None, own: str) -> list[Client]:
        """Who wants to hear that a resource has changed, or what lies below it (which servers may say as well)."""
        found: dict[Client, None] = {}
        for use in tuple(self._uses.values()):
            if use.slot is not slot or not (client is None or client in use.clients or client not in self.joined):
                continue
            for uri, clients in use.uris.items():
                if own.startswith(uri):
                    found.update(dict.fromkeys(clients))
        if client is not None and client not in self.joined:
            return [each for each in found if each.principal == client.principal]
        return list(found)

    def _later(self, what: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Nothing more is said."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _ask(use: Use, client: Client, method: str, uri: str) -> None:
    await _asked(use, client, method, uri)


async def _asked(use: Use, client: Client, method: str, uri: str) -> Answer:
    return await use.conversation.ask(Ours(client, method, {"uri": message.text(uri)}))


async def _set_level(use: Use, client: Client, level: str) -> None:
    await use.conversation.ask(Ours(client, "logging/setLevel", {"level": message.text(level)}))
