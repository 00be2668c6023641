"""Who hears what: clients, the conversations they are in, log levels and subscriptions (MCP server/utilities/logging, server/resources: subscriptions).

    join(client) … attached(slot, client, conversation) ──▶ Use: who is in this conversation, what they want to hear

1. A conversation of many clients has one log level, the least that any of them asked for; each hears what it asked for. It is told again when that changes.
2. A resource is subscribed to once for all, by the first who wants it, and left by the last.
3. A conversation that takes another's place (the server was started anew) is told all of this again.
4. What belongs to everybody's conversation is heard by all; what belongs to a client's own, by those who are in it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass

from mcpproxy.gateway.catalog import Ours
from mcpproxy.gateway.fitting import above
from mcpproxy.gateway.parts import Answer, Call, Client, Conversation, Era
from mcpproxy.gateway.shelf import Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params

LEVELS = {level: number for number, level in enumerate(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"))}
SUBSCRIPTIONS = 10_000  # of one conversation
USES = 1024  # conversations remembered for those who had not joined
LEFT = 15  # clients that are remembered when they have left a conversation
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
            if wanted is None and self.use is not None and self.use.wishes.level is not None:
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


class Wishes:
    """What is wanted of one conversation by all hubs that have it: a member may be in several, and its server knows nothing of that."""

    __slots__ = ("conversation", "level", "uses")

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.level: str | None = None  # what the server was told
        self.uses: list[Use] = []

    def least(self) -> str | None:
        """The level the server should be told."""
        wanted = [level for use in self.uses for level in (*(client.level for client in use.clients), use.asked) if level in LEVELS]
        return min(wanted, key=LEVELS.__getitem__, default=None)

    def subscribed(self, uri: str) -> bool:
        """Does anybody want to hear of it?"""
        return any(uri in use.uris for use in self.uses)


_wishes: dict[int, Wishes] = {}  # by the conversation they hold


class Use:
    """One conversation, as those use it who have joined one hub."""

    __slots__ = ("asked", "clients", "conversation", "left", "slot", "uris", "wishes")

    def __init__(self, slot: Slot, conversation: Conversation) -> None:
        self.slot, self.conversation = slot, conversation
        self.clients: dict[Client, None] = {}
        self.left: list[Client] = []  # who was in it, and perhaps began it
        self.uris: dict[str, set[Client]] = {}  # its own URIs
        self.asked: str | None = None  # the least level of clients that had not joined
        self.wishes = _wishes.setdefault(id(conversation), Wishes(conversation))
        self.wishes.uses.append(self)

    def end(self) -> None:
        """Nobody is in it any more."""
        self.wishes.uses.remove(self)
        if not self.wishes.uses:
            _wishes.pop(id(self.conversation), None)

    def concerns(self, client: Client | None) -> bool:
        """Is it the conversation of this client (None: everybody's)? A caller's own may have begun with a client that is gone."""
        return client is None or client in self.clients or client in self.left


class Audience:
    """Of one hub."""

    __slots__ = ("_began", "_of", "_tasks", "_uses", "joined")

    def __init__(self) -> None:
        self.joined: dict[Client, None] = {}
        self._began: OrderedDict[tuple[Slot, int], tuple[Conversation, Client]] = (
            OrderedDict()
        )  # who was first in a conversation, and had not joined
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
                use.left = [*use.left[:1], *use.left[1:][-LEFT:], client]
            else:
                self._drop(use)
                over.append(use)
            self._tell_level(use)
        return over

    def _part(self, use: Use, client: Client) -> None:
        use.clients.pop(client, None)
        for uri, clients in tuple(use.uris.items()):
            if client in clients:
                clients.discard(client)
                if not clients:
                    del use.uris[uri]
                    if not use.wishes.subscribed(uri):
                        self._later(_ask(use, client, "resources/unsubscribe", uri))

    def _drop(self, use: Use) -> None:
        if self._uses.pop((use.slot, id(use.conversation)), None) is not None:
            use.end()

    def attached(self, slot: Slot, client: Client, conversation: Conversation) -> Use | None:
        """It has this conversation. None: it has not joined, and hears nothing but what is of its calls."""
        old = self._of.get((slot, client))
        if old is not None and old.conversation is conversation:
            return old
        key = slot, id(conversation)
        use = self._uses.get(key)
        if client not in self.joined:
            if use is None and key not in self._began:
                self._began[key] = conversation, client
                if len(self._began) > USES:
                    self._began.popitem(last=False)
            return use
        if use is None:
            use = self._uses[key] = Use(slot, conversation)
            if key in self._began:
                use.left.append(self._began.pop(key)[1])
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
            self._drop(old)

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
        told = None if use is None else use.wishes.level
        if level not in LEVELS or (told in LEVELS and LEVELS[told] <= LEVELS[level]):
            return
        if use is None:
            if len(self._uses) > USES:
                for each in [each for each in self._uses.values() if not each.clients]:
                    self._drop(each)
            use = self._uses[slot, id(conversation)] = Use(slot, conversation)
        use.asked = level
        task = self._tell_level(use, client)
        if task is not None:
            await asyncio.shield(task)

    def _tell_level(self, use: Use, client: Client | None = None) -> asyncio.Task[None] | None:
        wishes = use.wishes
        level, client = wishes.least(), client or next((each for use in wishes.uses for each in use.clients), None)
        if level is None or level == wishes.level or client is None or not is_leveled(use.conversation):
            return None
        wishes.level = level
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
        known = use.wishes.subscribed(own)
        use.uris[own] = {client}
        if known:
            return Answer(b"{}")
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
        return Answer(b"{}") if use.wishes.subscribed(own) else await _asked(use, client, "resources/unsubscribe", own)

    # -- who hears it --

    def hearers(self, slot: Slot, client: Client | None) -> list[Client]:
        """Of something that belongs to no call: `client` is whose conversation it is, None everybody's."""
        if client is None:
            return list(self.joined)
        use = self._of.get((slot, client))
        if use is not None:
            return list(use.clients)
        return [client] if client in self.joined else [*self._heirs(slot, client)]

    def subscribed(self, slot: Slot, client: Client | None, own: str) -> list[Client]:
        """Who wants to hear that a resource has changed, or what lies below it (which servers may say as well)."""
        heirs = None if client is None or client in self.joined else self._heirs(slot, client)
        found: dict[Client, None] = {}
        for use in tuple(self._uses.values()):
            if use.slot is slot and (heirs is not None or use.concerns(client)):
                for uri in above(own):
                    if (clients := use.uris.get(uri)) is not None:
                        found.update(dict.fromkeys(clients if heirs is None else clients & heirs.keys()))
        return list(found)

    def _heirs(self, slot: Slot, client: Client) -> dict[Client, None]:
        """Who is in a conversation that began with a client that is gone, or that was one request: those it was with, or newer clients of its caller."""
        found: dict[Client, None] = {}
        for use in tuple(self._uses.values()):
            if use.slot is slot and client in use.left:
                found.update(use.clients)
        if client.era is Era.MODERN:
            found.update(dict.fromkeys(each for each in self.joined if each.era is Era.MODERN and each.principal == client.principal))
        return found

    def _later(self, what: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Nothing more is said."""
        for use in tuple(self._uses.values()):
            self._drop(use)
        self._of.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _ask(use: Use, client: Client, method: str, uri: str) -> None:
    await _asked(use, client, method, uri)


async def _asked(use: Use, client: Client, method: str, uri: str) -> Answer:
    return await use.conversation.ask(Ours(client, method, {"uri": message.text(uri)}))


async def _set_level(use: Use, client: Client, level: str) -> None:
    await use.conversation.ask(Ours(client, "logging/setLevel", {"level": message.text(level)}))
