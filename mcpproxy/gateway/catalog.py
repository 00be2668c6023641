"""What do the members have? Their lists: asked for, kept for as long as they say, forgotten when they say so.

    gather(kind, client) ──▶ kept? ──no──▶ conversation ──▶ tools/list, page by page ──▶ Part
                         ──▶ all that came within `deadline`, and a Gap for each member that did not

1. All members are asked at once. One that is late goes on being asked: what it says then is kept for HOLD_S at least, and clients are told to ask again, so
   a member that is always late is in the lists nevertheless.
2. A list that is public (`cacheScope`) is one for all. Of older servers one belongs to a conversation, of newer ones to a conversation and a caller.
3. A list is gathered whole, within bounds; what lies beyond them is left out, and said.
4. `names` and `uris` say whose a name is. They know what was in any list lately, also of callers who see more than others, and of members that are away:
   a name never leads to another server because its own is away (mcp/names).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mcpproxy.clock import monotonic
from mcpproxy.gateway.greeting import code
from mcpproxy.gateway.parts import NO_ONE_TO_ASK, Answer, Call, Client, Conversation, Era, Member, Unavailable
from mcpproxy.gateway.shelf import NOTHING, Content, Gap, Key, Offer, Part, Shelf, Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.merge import KINDS, PROMPTS, TOOLS, Item, Kind, NoList, read_page
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Params
from mcpproxy.mcp.names import LIMIT, SHORTENED, Finding, Table

PAGES, ITEMS, BYTES = 100, 10_000, 16 << 20  # of one member's list
HOLD_S = 30.0  # seconds that a list is kept which came too late for who asked
PATIENCE_S = 60.0  # seconds after which a list that does not come is given up
FOREVER_S = 24 * 3600.0
Say = Callable[[str, str], None]  # level and text: observe/messages


@dataclass(slots=True, eq=False)
class Ours(Call):
    """A request that we make for a client by ourselves."""

    def note(self, method: str, params: Params) -> None:
        """Nobody waits for it."""

    async def question(self, method: str, params: bytes | None) -> Answer:
        """Lists are no reason to ask people."""
        return Answer.failure(NO_ONE_TO_ASK, "nobody can be asked now")


Converse = Callable[[Slot, Client], Awaitable[Conversation]]


@dataclass(slots=True)
class Gathered:
    """Lists of members, in their order, and who is missing."""

    parts: list[tuple[Slot, Part]]
    gaps: list[Gap]


class Catalog:
    """Of one hub. `converse` gives the conversation of a client with a member; `back` is told of lists that came after clients had been given a gap,
    `missed` of gaps."""

    def __init__(
        self,
        members: Sequence[tuple[Member, Offer]],
        converse: Converse,
        back: Callable[[Slot, Kind], None],
        missed: Callable[[Slot], None] = lambda slot: None,
        *,
        limit: int = LIMIT,
        deadline: float = 5.0,
        keep: float | None = None,
        now: Callable[[], float] = monotonic,
        say: Say = lambda level, text: None,
    ) -> None:
        self.slots = [Slot(number, member, offer, limit) for number, (member, offer) in enumerate(members)]
        self._converse, self._back, self._missed = converse, back, missed
        self._deadline, self._keep, self._now, self._say = deadline, keep, now, say
        self._said: set[Finding] = set()
        self._tables: dict[Kind, Table] = {}
        self._tasks: set[asyncio.Task[Part | Gap]] = set()

    async def gather(self, kind: Kind, client: Client) -> Gathered:
        """The lists of all members, as this client may see them."""
        now = self._now()
        found: dict[Slot, Part | Gap] = {}
        asked: dict[Slot, asyncio.Task[Part | Gap]] = {}
        for slot in self.slots:
            part = slot.shelves[kind].kept(None, now)
            if part is not None:
                found[slot] = part
            else:
                asked[slot] = self._ask(slot, kind, client)
        if asked:
            await asyncio.wait(asked.values(), timeout=self._deadline)
            for slot, task in asked.items():
                found[slot] = task.result() if task.done() else Gap(slot.name, f"did not answer within {self._deadline:g} s")
        gathered = Gathered([], [])
        for slot in self.slots:
            each = found[slot]
            if isinstance(each, Gap):
                slot.shelves[kind].missed, slot.last = True, each.reason
                self._missed(slot)
                gathered.gaps.append(each)
                continue
            gathered.parts.append((slot, each))
            if each.content.problem:
                gathered.gaps.append(Gap(slot.name, each.content.problem))
        return gathered

    def _ask(self, slot: Slot, kind: Kind, client: Client) -> asyncio.Task[Part | Gap]:
        task = asyncio.ensure_future(self._part(slot, kind, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _part(self, slot: Slot, kind: Kind, client: Client) -> Part | Gap:
        shelf = slot.shelves[kind]
        try:
            async with asyncio.timeout(PATIENCE_S):
                conversation = await self._converse(slot, client)
                key = id(conversation), client.principal if conversation.server.era is Era.MODERN else ""
                part = shelf.kept(key, self._now())
                if part is not None:
                    return part
                running = shelf.running.get(key)
                if running is None:
                    running = shelf.running[key] = asyncio.ensure_future(self._fetch(slot, kind, client, conversation, key))
                    running.add_done_callback(lambda task: self._fetched(shelf, key, task))
                return await asyncio.shield(running)
        except Unavailable as why:
            return Gap(slot.name, why.text)
        except NoList as why:
            return Gap(slot.name, str(why))
        except TimeoutError:
            return Gap(slot.name, "did not answer")

    @staticmethod
    def _fetched(shelf: Shelf, key: Key, task: asyncio.Task[Part]) -> None:
        shelf.running.pop(key, None)
        if not task.cancelled():
            task.exception()  # who waited has it; perhaps nobody did

    async def _fetch(self, slot: Slot, kind: Kind, client: Client, conversation: Conversation, key: Key) -> Part:
        """Ask for a whole list, and keep it. Raises NoList."""
        shelf, generation = slot.shelves[kind], slot.shelves[kind].generation
        async with asyncio.timeout(PATIENCE_S):
            part = await self._whole(slot, kind, client, conversation)
        if shelf.generation != generation:
            part.until = 0.0  # what it said while it changed
        if shelf.missed:
            part.until = max(part.until, self._now() + HOLD_S)
        if shelf.put(key, part):
            self._tables.clear()
        if shelf.missed:
            shelf.missed = False
            self._back(slot, kind)
        return part

    async def _whole(self, slot: Slot, kind: Kind, client: Client, conversation: Conversation) -> Part:
        server = conversation.server
        if kind.capability not in server.capabilities:
            return self._made(NOTHING, FOREVER_S, True, None)
        pages: list[bytes] = []
        items: list[Item] = []
        size, ttl, public, problem = 0, FOREVER_S, True, ""
        cursors: set[str] = set()
        params: Params = {}
        while True:
            answer = await conversation.ask(Ours(client, kind.method, params))
            if answer.result is None:
                if not pages and code(answer) == METHOD_NOT_FOUND:
                    return self._made(NOTHING, FOREVER_S, True, None)
                raise NoList(_text(answer))
            page = read_page(kind, answer.result)
            size += len(answer.result)
            if size > BYTES or len(items) + len(page.items) > ITEMS:
                problem = f"{kind.member}: more than {ITEMS} of them, or more than {BYTES >> 20} MiB"
                break
            pages.append(answer.result)
            items += page.items
            ttl, public = min(ttl, 0.0 if page.ttl is None else page.ttl / 1000), public and page.public
            if page.next is None:
                break
            if page.next in cursors or len(pages) == PAGES:
                problem = f"{kind.member}: its pages do not end"
                break
            cursors.add(page.next)
            params = {"cursor": message.text(page.next)}
        content = slot.shelves[kind].same(tuple(pages))
        if content is None or content.problem != problem:
            content = Content(tuple(pages), tuple(items), problem, 2 * size)
        return self._made(content, ttl, public, conversation)

    def _made(self, content: Content, ttl: float, public: bool, conversation: Conversation | None) -> Part:
        now = self._now()
        kept = self._keep if ttl == 0 and self._keep is not None else ttl  # SDK servers say 0 where nobody told them anything
        return Part(content, now + kept, now + ttl, public, conversation)

    # -- what changed --

    def changed(self, slot: Slot, kinds: Sequence[Kind] = KINDS) -> None:
        """Its lists are others now."""
        for kind in kinds:
            slot.shelves[kind].expire()

    def over(self, slot: Slot, conversation: Conversation) -> None:
        """Nobody uses this conversation any more."""
        dropped = [shelf.drop(conversation) for shelf in slot.shelves.values()]
        if any(dropped):
            self._tables.clear()

    async def stop(self) -> None:
        """Nothing is asked any more."""
        tasks = [*self._tasks, *(task for slot in self.slots for shelf in slot.shelves.values() for task in shelf.running.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- whose is it --

    def table(self, kind: Kind) -> Table:
        """Whose names are whose, of tools and prompts; and of URIs, of resources and templates."""
        found = self._tables.get(kind)
        if found is None:
            if kind in (TOOLS, PROMPTS):
                found = Table.of_names([(slot.naming, slot.known(kind)) for slot in self.slots])
            else:
                found = Table.of_uris([(slot.word, slot.known(kind)) for slot in self.slots])
            self._tables[kind] = found
            self._report(kind, found)
        return found

    def findings(self) -> list[str]:
        """What an operator should know about names."""
        return [self._words(kind, finding) for kind in KINDS for finding in self.table(kind).findings]

    def _report(self, kind: Kind, table: Table) -> None:
        for finding in table.findings:
            if finding not in self._said and len(self._said) < ITEMS:
                self._said.add(finding)
                self._say("warning", self._words(kind, finding))

    def _words(self, kind: Kind, finding: Finding) -> str:
        mine = self.slots[finding.member].name
        if finding.kind == SHORTENED:
            return f"{mine}: {kind.key} {finding.own[:200]} is too long with its prefix, and is offered as {finding.seen}"
        return f"{mine}: {kind.key} {finding.seen[:200]} is left out: {self.slots[finding.other].name} has it, too; give one of them a prefix or another name"

    async def again(self, slot: Slot, kind: Kind, client: Client) -> bool:
        """Ask one member. Did it answer?"""
        return isinstance(await asyncio.shield(self._ask(slot, kind, client)), Part)


def _text(answer: Answer) -> str:
    """What an error says, for a report: not too long, on one line."""
    try:
        found = message.plain(answer.error or b"{}")
    except CallError:
        return "answered with an error"
    text = found.get("message") if isinstance(found, dict) else None
    return " ".join(text.split())[:200] if isinstance(text, str) else "answered with an error"
