"""A member whose lists and calls are looked after: between the hubs and one server, with a warden's judgement.

    hub ──Call──▶ Guarded ──▶ conversation of the member       lists: each entry is judged, on its way back
    hub ◀─Answer──        ◀──                                 calls: refused, where what is called is not approved

1. Who may be called depends on the list this caller would be given now: a server that shows two callers two things cannot be approved by one of them. Where
   that list is not known, it is asked for first; where it cannot be had, nothing is called.
2. What is as it was approved passes byte for byte. Without a lock, and with `suspicious = "off"`, nothing is read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from mcpproxy.clock import monotonic
from mcpproxy.config import lockfile
from mcpproxy.gateway.catalog import ITEMS, PAGES, Ours
from mcpproxy.gateway.greeting import code
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE, Answer, Call, Client, Conversation, Era, Member, Server, Unavailable
from mcpproxy.gateway.places import pattern_of
from mcpproxy.gateway.suspicion import neighbours
from mcpproxy.gateway.trimming import trimmed
from mcpproxy.gateway.warden import LOCKED, Judgement, Warden
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, CallError
from mcpproxy.mcp.merge import PROMPTS, TEMPLATES, TOOLS, Item, Kind, NoList, read_page
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Params
from mcpproxy.policy.globs import globs

LISTS = {kind.method: kind for kind in LOCKED}
NAMED = {"tools": TOOLS, "prompts": PROMPTS}  # what a method's name begins with
SEEN = 1024  # lists of one conversation that are known: by kind and caller
FRESH_S = 60.0  # seconds after which a list is asked for again before something is called: not every server says that it changed
_text = msgspec.json.Decoder(str).decode


class Operator(Client):
    """Who asks for what a server has, without being anybody's session."""

    __slots__ = ("principal", "route", "session", "era", "version", "capabilities", "info", "level", "subscriptions")

    def __init__(self) -> None:
        self.principal, self.route, self.session, self.era, self.version = "", -1, "", Era.MODERN, "2026-07-28"
        self.capabilities: Params = {}
        self.info, self.level = b'{"name":"mcpproxy lock","version":"1"}', None
        self.subscriptions: set[str] = set()

    def hears(self, method: str, params: bytes | None) -> None:
        """Nobody listens."""

    async def question(self, method: str, params: bytes | None) -> Answer:
        """Nobody is there."""
        return Answer(b"{}") if method == "ping" else Answer.failure(INVALID_PARAMS, "nobody can be asked")


@dataclass(slots=True)
class Seen:
    """A list as a caller was given it: what is wrong, by name."""

    bad: dict[str, Judgement] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    turn: int = 0  # of the warden, when it began
    since: float = field(default_factory=monotonic)
    clean: bytes = b""  # digest of the result in which all of it was, where nothing was wrong with it


class GuardedMember(Member):
    """A member whose conversations are looked after."""

    def __init__(self, member: Member, warden: Warden) -> None:
        self.name, self.member, self.warden = member.name, member, warden

    async def start(self) -> None:
        """See Member."""
        await self.member.start()

    async def conversation(self, client: Client) -> Conversation:
        """See Member."""
        inner = await self.member.conversation(client)
        if inner.front is None:
            inner.front = Guarded(inner, self.warden)
        return inner.front

    def leave(self, client: Client) -> None:
        """See Member."""
        self.member.leave(client)

    async def stop(self) -> None:
        """See Member."""
        await self.member.stop()

    def state(self) -> Mapping[str, object]:
        """See Member."""
        return {**self.member.state(), **self.warden.state()}

    async def catalogue(self) -> dict[str, dict[str, Any]]:
        """All that the server has, as it says it: kind → name → entry. Raises Unavailable."""
        client = Operator()
        try:
            inner = await self.member.conversation(client)
            return {kind.member: {item.own: lockfile.entry(item.raw) for item in await whole(inner, kind, client)} for kind in LOCKED}
        except NoList as why:
            raise Unavailable(str(why)) from None
        finally:
            self.member.leave(client)


class Guarded(Conversation):
    """A conversation that is looked after."""

    def __init__(self, inner: Conversation, warden: Warden) -> None:
        self.inner, self._warden = inner, warden
        self._seen: OrderedDict[tuple[str, str], Seen] = OrderedDict()
        self._looking: dict[tuple[str, str], asyncio.Task[Seen]] = {}

    @property
    def server(self) -> Server:  # type: ignore[override]  # it may get to know another one when a session is lost
        """See Conversation."""
        return self.inner.server

    async def ask(self, call: Call) -> Answer:
        """See Conversation."""
        warden = self._warden
        if warden.looks:
            kind = LISTS.get(call.method)
            if kind is not None:
                turn = warden.turn  # what it says while it changes is looked at again
                return self._shown(kind, call, await self.inner.ask(call), turn)
            refusal = await self._refusal(call) if warden.refuses else None
            if refusal is not None:
                return refusal
        answer = await self.inner.ask(call)
        return answer if warden.most is None else trimmed(call.method, answer, warden.most)

    async def tell(self, method: str, params: bytes | None) -> None:
        """See Conversation."""
        await self.inner.tell(method, params)

    async def close(self) -> None:
        """See Conversation."""
        for task in self._looking.values():
            task.cancel()
        await self.inner.close()

    # -- lists --

    def _key(self, kind: Kind, client: Client) -> tuple[str, str]:
        return kind.member, client.principal if self.server.era is Era.MODERN else ""

    def _shown(self, kind: Kind, call: Call, answer: Answer, turn: int) -> Answer:
        """A page of a list without what is not to be seen."""
        if answer.result is None:
            return answer
        key, first = self._key(kind, call.client), "cursor" not in call.params
        seen, which = self._seen.get(key), sha256(answer.result).digest()
        if first and seen is not None and seen.clean == which and seen.turn == turn:
            seen.since = monotonic()
            return answer
        try:
            page = read_page(kind, answer.result)
        except NoList:
            if not self._warden.refuses:
                return answer
            return Answer.failure(message.INTERNAL_ERROR, "the server's list could not be read")
        judged = self._judged(kind, page.items)
        if seen is None or seen.turn != turn or first:
            seen = Seen(turn=turn)
        self._take(seen, judged)
        if page.next is None and (first or key in self._seen):
            self._warden.gone(kind, seen.names)
        if first:
            if page.next is None:
                seen.clean = b"" if seen.bad or page.dropped else which
                self._keep(key, seen)
            else:
                self._seen.pop(key, None)  # half a list is no reason to call anything
        if (not page.dropped or not self._warden.refuses) and all(judgement.shown == item.raw for item, judgement in judged):
            return answer
        try:
            found = message.parts(answer.result)
        except CallError:
            return Answer.failure(message.INTERNAL_ERROR, "the server's list could not be read")
        found[kind.member] = b"[%b]" % b",".join(judgement.shown for _, judgement in judged if judgement.shown is not None)
        return Answer(message.put(found), None, answer.recovered)

    def _judged(self, kind: Kind, items: Sequence[Item]) -> list[tuple[Item, Judgement]]:
        near = neighbours(item.own for item in items)
        return [(item, self._warden.judge(kind, item, near)) for item in items]

    @staticmethod
    def _take(seen: Seen, judged: list[tuple[Item, Judgement]]) -> None:
        for item, judgement in judged:
            if judgement.why:
                seen.bad[item.own] = judgement
            elif item.own not in seen.names:  # a name that comes twice is what its worse half is
                seen.bad.pop(item.own, None)
            seen.names.add(item.own)

    def _keep(self, key: tuple[str, str], seen: Seen) -> None:
        self._seen[key] = seen
        self._seen.move_to_end(key)
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    async def _list(self, kind: Kind, client: Client) -> Seen:
        """The list this caller would be given now. Raises NoList."""
        key = self._key(kind, client)
        seen = self._seen.get(key)
        if seen is not None and seen.turn == self._warden.turn and monotonic() - seen.since < FRESH_S:
            self._seen.move_to_end(key)
            return seen
        looking = self._looking.get(key)
        if looking is None:
            looking = self._looking[key] = asyncio.ensure_future(self._look(kind, client, key))
            looking.add_done_callback(lambda task: self._looked(key, task))
        return await asyncio.shield(looking)

    def _looked(self, key: tuple[str, str], task: asyncio.Task[Seen]) -> None:
        self._looking.pop(key, None)
        if not task.cancelled():
            task.exception()  # who waited has it; perhaps nobody did

    async def _look(self, kind: Kind, client: Client, key: tuple[str, str]) -> Seen:
        seen = Seen(turn=self._warden.turn)
        self._take(seen, self._judged(kind, await whole(self.inner, kind, client)))
        self._warden.gone(kind, seen.names)
        self._keep(key, seen)
        return seen

    # -- calls --

    async def _refusal(self, call: Call) -> Answer | None:
        """Why this must not be called; None: it may."""
        place = self._place(call)
        if place is None:
            return None
        kind, own = place
        try:
            if kind is TEMPLATES:
                return await self._of_template(call.client, own)
            if not self._warden.locked(kind, own):
                unknown = self._warden.refusal(kind, own, Judgement(self._warden.unlocked()))
                if unknown is not None:
                    return unknown
            bad = (await self._list(kind, call.client)).bad.get(own)
        except NoList as why:
            return Answer.failure(MEMBER_UNAVAILABLE, f"{self._warden.name}: {why}")
        return None if bad is None else self._warden.refusal(kind, own, bad)

    def _place(self, call: Call) -> tuple[Kind, str] | None:
        """What it is about, of what is locked. A URI stands for the templates it fits."""
        params, kind = call.params, NAMED.get(call.method.partition("/")[0])
        try:
            if "ref" in params:
                ref = message.parts(params["ref"])
                return (PROMPTS, _text(ref["name"])) if "name" in ref else (TEMPLATES, _text(ref["uri"])) if "uri" in ref else None
            if kind is not None and "name" in params:
                return kind, _text(params["name"])
            return (TEMPLATES, _text(params["uri"])) if "uri" in params else None
        except (CallError, msgspec.DecodeError):
            return None  # the server refuses what is no name

    async def _of_template(self, client: Client, uri: str) -> Answer | None:
        seen = await self._list(TEMPLATES, client)
        if not seen.bad:
            return None
        fitting = [own for own in seen.names if own == uri or globs((pattern_of(own),))(uri)]
        bad = [own for own in fitting if own in seen.bad]
        return self._warden.refusal(TEMPLATES, bad[0], seen.bad[bad[0]]) if bad and len(bad) == len(fitting) else None


async def whole(conversation: Conversation, kind: Kind, client: Client) -> list[Item]:
    """All pages of a list. Raises NoList."""
    if kind.capability not in conversation.server.capabilities:
        return []
    items: list[Item] = []
    params: Params = {}
    for _ in range(PAGES):
        answer = await conversation.ask(Ours(client, kind.method, params))
        if answer.result is None:
            if not items and code(answer) == METHOD_NOT_FOUND:
                return []
            raise NoList(f"{kind.method} was answered with an error")
        page = read_page(kind, answer.result)
        items += page.items
        if page.next is None or len(items) > ITEMS:
            break
        params = {"cursor": message.text(page.next)}
    if len(items) > ITEMS:
        raise NoList(f"it has more than {ITEMS} {kind.member}")
    return items
