"""Many members as one server: which call is whose, and who hears what comes back. Start here for the gateway, after `parts`.

    face ──Call──▶ ask ──▶ lists: catalog, listing ──▶ merged
                       ──▶ named: places ──▶ conversation of that member, its own name in the place of ours
                       ──▶ bridge: the only member, as it came
    member ──▶ heard, asked, changed (hearing) ──▶ audience ──▶ clients

1. One member whose names stay as they are is a bridge: everything passes, also what nobody here knows. Of several members a method that is not known goes
   where its params say (name, uri, taskId), and otherwise is not found.
2. Of a call's params only the name is changed, of its answer nothing, unless URIs had to be wrapped (mcp/names).
3. What is hidden cannot be called. What rules say about calls has been asked on the edge, by the names clients see; here they filter lists, and judge
   what is called through `call_tool`, which the edge cannot see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from mcpproxy.gateway.audience import LEVELS, Audience, Leveled, is_leveled
from mcpproxy.gateway.catalog import Catalog, Gathered, Say
from mcpproxy.gateway.cursors import Cursors
from mcpproxy.gateway.hearing import Hearing
from mcpproxy.gateway.listing import Lists, SightOf, filtered, meta_of
from mcpproxy.gateway.parts import (
    MEMBER_UNAVAILABLE,
    Answer,
    Call,
    Client,
    Conversation,
    Era,
    Member,
    Server,
    Service,
    Unavailable,
)
from mcpproxy.gateway.places import Place, Places
from mcpproxy.gateway.search import CALL, SEARCH, Finder, wanted
from mcpproxy.gateway.shelf import Gap, Offer, Slot
from mcpproxy.mcp import merge, message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, CallError
from mcpproxy.mcp.merge import KINDS, PROMPTS, RESOURCES, TEMPLATES, TOOLS, Kind
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Params

NOT_FOUND = -32002  # of resources, until 2025-11-25; then -32602
REFRESH_S = 5.0  # seconds between two looks into all lists for a name that nobody has
LONGEST_URI = 8192  # characters of one that is subscribed to, and remembered for as long
TASK_PAGES = 10  # of one member's tasks/list
LISTS = {kind.method: kind for kind in KINDS}
NAMED = {TOOLS.call: TOOLS, PROMPTS.call: PROMPTS}
_text = msgspec.json.Decoder(str).decode


class Hub(Hearing, Service):
    """One per upstream of the gateway. `offers` are in the order of the configuration; `sight`: what rules let a client see."""

    def __init__(
        self,
        name: str,
        offers: Sequence[tuple[Member, Offer]],
        *,
        version: str = "",
        sight: SightOf = lambda client: None,
        search: bool = False,
        limit: int = 64,
        deadline: float = 5.0,
        keep: float | None = None,
        key: bytes | None = None,
        say: Say = lambda level, text: None,
    ) -> None:
        alone = len(offers) == 1 and offers[0][1].everything and not search
        super().__init__(quiet=search, open=alone)
        self.name, self._version, self._sight, self._deadline = name, version, sight, deadline
        self.catalog = Catalog(offers, self._converse, self._back, self._missed, limit=limit, deadline=deadline, keep=keep, say=say)
        self.audience = Audience()
        self._slots.update({slot.name: slot for slot in self.catalog.slots})
        self._lists = Lists(self.catalog, Cursors(name, key), sight)
        self._places = Places(self.catalog, self._may_have_resources)
        self._finder = Finder(self._slots) if search else None
        self._servers: dict[tuple[Slot, Era], Server] = {}  # what each said last to clients of an era
        self._bridge = self.catalog.slots[0] if alone else None
        self._looked: dict[Kind, float] = {}
        self._looking: dict[Kind, asyncio.Task[Gathered]] = {}

    # -- clients --

    async def server(self, client: Client) -> Server:
        """What all of them say together; members that are late or away are offered as what they may be."""
        slots = self.catalog.slots
        asked = {slot: self._later(self._said(slot, client)) for slot in slots}
        await asyncio.wait(asked.values(), timeout=self._deadline)
        gaps: list[Gap] = []
        for slot, task in asked.items():
            why = task.result() if task.done() else f"did not answer within {self._deadline:g} s"
            if why:
                gaps.append(Gap(slot.name, why))
                slot.last = why
                for shelf in slot.shelves.values():
                    shelf.missed = True  # clients shall ask again when it is there
                self._missed(slot)
        known = [(slot, said) for slot in slots if (said := self._known(slot, client.era)) is not None]
        meta = meta_of(gaps) if gaps else None
        if self._bridge is not None and known:
            said = known[0][1]
            return Server(said.era, said.version, said.capabilities, said.info, said.instructions, meta or said.meta)
        capabilities = merge.capabilities([said.capabilities for _, said in known], unknown=len(known) < len(slots))
        if self._finder is not None:
            capabilities["tools"] = b"{}"
        info = message.encode({"name": self.name, "version": self._version})
        words = merge.instructions([(slot.name, said.instructions) for slot, said in known])
        return Server(client.era, client.version, capabilities, info, words, meta)

    def _known(self, slot: Slot, era: Era) -> Server | None:
        """What it said to clients of this era, or at least to others."""
        return self._servers.get((slot, era)) or next((said for (each, _), said in self._servers.items() if each is slot), None)

    def _may_have_resources(self, slot: Slot) -> bool:
        said = [each for (of, _), each in self._servers.items() if of is slot]
        return not said or any("resources" in each.capabilities for each in said)

    async def _said(self, slot: Slot, client: Client) -> str:
        """Why it cannot be asked; nothing if it was."""
        try:
            await self._converse(slot, client)
        except Unavailable as why:
            return why.text
        return ""

    async def _converse(self, slot: Slot, client: Client) -> Conversation:
        conversation = await slot.member.conversation(client)
        self._servers[slot, client.era] = conversation.server
        if client not in self.audience.joined:
            self.audience.attached(slot, client, conversation)
            return conversation
        old = self.audience.use_of(slot, client)
        use = self.audience.attached(slot, client, conversation)
        if old is not None and use is not old and not old.clients:
            self.catalog.over(slot, old.conversation)
        return conversation

    def join(self, client: Client) -> None:
        """It hears from now on: it is brought together with the servers, and with what it wants to hear of (a listen says so at once)."""
        self.audience.join(client)
        self._later(self._welcome(client))

    async def _welcome(self, client: Client) -> None:
        for slot in self.catalog.slots:
            if slot.missing:
                self._missed(slot)
        await asyncio.gather(*[self._said(slot, client) for slot in self.catalog.slots])
        for uri in tuple(client.subscriptions):
            place = await self._resource(client, uri)
            use = None if place is None else self.audience.use_of(place[0], client)
            if place is not None and use is not None and client in self.audience.joined:
                await self.audience.subscribe(use, client, place[1])

    def leave(self, client: Client) -> None:
        """It is gone, and what was its alone ends."""
        for use in self.audience.leave(client, self.catalog.slots):
            self.catalog.over(use.slot, use.conversation)
        for slot in self.catalog.slots:
            slot.member.leave(client)

    async def tell(self, client: Client, method: str, params: bytes | None) -> None:
        """To the servers it talks with; what only one server can mean, and nobody knows which, to a bridge alone."""
        if self._bridge is None and method != "notifications/roots/list_changed":
            return
        uses = [use for slot in self.catalog.slots if (use := self.audience.use_of(slot, client)) is not None]
        await asyncio.gather(*[use.conversation.tell(method, params) for use in uses])

    # -- calls --

    async def ask(self, call: Call) -> Answer:
        """The answer to a client's request."""
        method, params = call.method, call.params
        try:
            if method == "resources/subscribe" or method == "resources/unsubscribe":
                return await self._subscription(call, _text(params["uri"]))
            if method == "logging/setLevel":
                return await self._level(call, _text(params["level"]))
            if self._bridge is not None:
                return await self._bridged(self._bridge, call)
            if method in NAMED:
                return await self._named(call, NAMED[method], _text(params["name"]))
            if method in LISTS:
                return await self._list(call, LISTS[method])
            if method == RESOURCES.call:
                return await self._read(call, _text(params["uri"]))
            if method == "completion/complete":
                return await self._complete(call, message.parts(params["ref"]))
            if method == "tasks/list":
                return await self._tasks_list(call)
            return await self._other(call)
        except (KeyError, msgspec.DecodeError, CallError):
            return Answer.failure(INVALID_PARAMS, f"Invalid params of {method[:100]}")

    async def _bridged(self, slot: Slot, call: Call) -> Answer:
        answer = await self._send(slot, call, call.params)
        kind, sight = LISTS.get(call.method), self._sight(call.client)
        if kind is not None and sight is not None and answer.result is not None:
            return filtered(kind, answer.result, sight)
        return answer

    async def _send(self, slot: Slot, call: Call, params: Params) -> Answer:
        """Have a member answer it."""
        client = call.client
        try:
            conversation = await self._converse(slot, client)
        except Unavailable as why:
            return Answer.failure(MEMBER_UNAVAILABLE, f"{slot.name}: {why.text}")
        call.labels["member"] = slot.name
        call.params = params
        if not is_leveled(conversation):
            return await conversation.ask(call)
        if client.era is Era.MODERN and client.level is not None:
            await self.audience.needs(slot, client, conversation)
        use = self.audience.use_of(slot, client)
        return await conversation.ask(Leveled(client, call.method, params, call.request_id, call.token, call.labels, call, use))

    async def _result(self, slot: Slot, call: Call, params: Params, uri: tuple[str, str] | None = None) -> Answer:
        """Have it answered, and look what the answer says about resources and tasks. `uri`: one that clients see as another."""
        answer = await self._send(slot, call, params)
        result = answer.result
        if result is None:
            return answer
        if b'"taskId"' in result:
            self._places.learn_task(call.client.principal, slot, result)
        if b'"resource_link"' in result:
            self._places.learn_links(slot, result)
        others = self.catalog.table(RESOURCES).changed(slot.number)
        if uri is not None and uri[0] != uri[1]:
            others = {**others, uri[0]: uri[1]}
        return Answer(merge.rewritten(result, others), None, answer.recovered) if others else answer

    async def _list(self, call: Call, kind: Kind) -> Answer:
        client, cursor = call.client, call.params.get("cursor")
        if self._finder is None or kind is not TOOLS:
            return await self._lists.page(kind, client, None if cursor is None else _text(cursor))
        modern = b'"resultType":"complete",' if client.era is Era.MODERN else b""
        return Answer(b'{%b%b,"ttlMs":3600000,"cacheScope":"public"}' % (modern, merge.listed(TOOLS, self._finder.tools)))

    async def _named(self, call: Call, kind: Kind, seen: str) -> Answer:
        if self._finder is not None and kind is TOOLS:
            return await self._found(call, self._finder, seen)
        return await self._by_name(call, kind, seen, call.params)

    async def _by_name(self, call: Call, kind: Kind, seen: str, params: Params) -> Answer:
        place = self._places.name(kind, seen)
        if place is None and await self._look((kind,), call.client):
            place = self._places.name(kind, seen)
        if place is None:
            return Answer.failure(INVALID_PARAMS, f"Unknown {kind.capability[:-1]}: {seen[:200]}")
        slot, own = place
        return await self._result(slot, call, params if own == seen else {**params, "name": message.text(own)})

    async def _found(self, call: Call, finder: Finder, tool: str) -> Answer:
        """`search_tools` and `call_tool`."""
        asked = wanted(call.params.get("arguments"), tool)
        if tool not in (SEARCH, CALL) or isinstance(asked, str):
            return Answer.failure(INVALID_PARAMS, asked if isinstance(asked, str) else f"Unknown tool: {tool[:200]}")
        if tool == SEARCH:
            gathered = await self.catalog.gather(TOOLS, call.client)
            merged, _ = self._lists.merged(TOOLS, call.client, gathered)
            modern = b',"resultType":"complete"' if call.client.era is Era.MODERN else b""
            meta = b',"_meta":%b' % meta_of(gathered.gaps) if gathered.gaps else b""
            return Answer(b"%b%b%b}" % (finder.found(merged, asked), modern, meta))
        sight = self._sight(call.client)
        if sight is not None and not sight(TOOLS.call, asked.name, asked.arguments):
            return Answer.failure(INVALID_PARAMS, f"Unknown tool: {asked.name[:200]}")
        call.labels["tool"] = asked.name
        return await self._by_name(call, TOOLS, asked.name, {**call.params, "name": message.text(asked.name), "arguments": asked.arguments})

    async def _look(self, kinds: Sequence[Kind], client: Client) -> bool:
        """Look into all lists of these kinds, but not all the time; who comes while somebody looks waits for that. Was it done?"""
        now, done = asyncio.get_running_loop().time(), False
        for kind in kinds:
            looking = self._looking.get(kind)
            if looking is None and now - self._looked.get(kind, -REFRESH_S) >= REFRESH_S:
                self._looked[kind] = now
                looking = self._looking[kind] = self._later(self.catalog.gather(kind, client))
                looking.add_done_callback(partial(self._has_looked, kind))
            if looking is not None:
                done = True
                await asyncio.shield(looking)
        return done

    def _has_looked(self, kind: Kind, looking: asyncio.Task[Gathered]) -> None:
        self._looking.pop(kind, None)

    # -- resources --

    async def _resource(self, client: Client, uri: str) -> Place | None:
        if self._bridge is not None:
            return self._bridge, uri
        place = self._places.uri(uri)
        if place is None and await self._look((RESOURCES, TEMPLATES, TOOLS), client):
            place = self._places.uri(uri)
        return place

    def _no_resource(self, client: Client, uri: str) -> Answer:
        code = INVALID_PARAMS if client.era is Era.MODERN else NOT_FOUND
        return Answer.failure(code, "Resource not found", {"uri": uri[:2000]})

    async def _read(self, call: Call, uri: str) -> Answer:
        place = await self._resource(call.client, uri)
        if place is None:
            return self._no_resource(call.client, uri)
        slot, own = place
        return await self._result(slot, call, call.params if own == uri else {**call.params, "uri": message.text(own)}, (own, uri))

    async def _subscription(self, call: Call, uri: str) -> Answer:
        client = call.client
        place = await self._resource(client, uri) if len(uri) <= LONGEST_URI else None
        if place is None:
            return self._no_resource(client, uri)
        slot, own = place
        try:
            await self._converse(slot, client)
        except Unavailable as why:
            return Answer.failure(MEMBER_UNAVAILABLE, f"{slot.name}: {why.text}")
        use = self.audience.use_of(slot, client)
        if use is None:
            return await self._send(slot, call, {**call.params, "uri": message.text(own)})
        call.labels["member"] = slot.name
        if call.method == "resources/unsubscribe":
            client.subscriptions.discard(uri)
            return await self.audience.unsubscribe(use, client, own)
        answer = await self.audience.subscribe(use, client, own)
        if answer.result is not None:
            client.subscriptions.add(uri)
        return answer

    async def _complete(self, call: Call, ref: Params) -> Answer:
        client = call.client
        if "uri" in ref:
            key, seen = "uri", _text(ref["uri"])
            place = self._places.template(seen)
            if place is None and await self._look((TEMPLATES, RESOURCES), client):
                place = self._places.template(seen)
        else:
            key, seen = "name", _text(ref["name"])
            place = self._places.name(PROMPTS, seen)
            if place is None and await self._look((PROMPTS,), client):
                place = self._places.name(PROMPTS, seen)
        if place is None:
            return Answer.failure(INVALID_PARAMS, f"Unknown reference: {seen[:200]}")
        return await self._send(place[0], call, {**call.params, "ref": message.put({**ref, key: message.text(place[1])})})

    # -- tasks, and what nobody knows --

    async def _other(self, call: Call) -> Answer:
        params = call.params
        if "taskId" in params:
            slot = self._places.task(call.client.principal, _text(params["taskId"]))
            if slot is None:
                return Answer.failure(INVALID_PARAMS, "Unknown task")
            return await self._result(slot, call, params)
        if "uri" in params:
            return await self._read(call, _text(params["uri"]))
        if "name" in params and (self._finder is None):
            seen = _text(params["name"])
            for kind in (TOOLS, PROMPTS):
                place = self._places.name(kind, seen)
                if place is not None:
                    return await self._result(place[0], call, {**params, "name": message.text(place[1])})
        return Answer.failure(METHOD_NOT_FOUND, "Method not found")

    async def _tasks_list(self, call: Call) -> Answer:
        era = call.client.era
        slots = [slot for slot in self.catalog.slots if (said := self._known(slot, era)) is not None and "tasks" in said.capabilities]
        if not slots:
            return Answer.failure(METHOD_NOT_FOUND, "Method not found")
        asked = [asyncio.ensure_future(self._places.tasks_at(slot, call.client, self._converse, TASK_PAGES)) for slot in slots]
        done, late = await asyncio.wait(asked, timeout=self._deadline)
        for task in late:
            task.cancel()
        return Answer(b'{"tasks":[%b]}' % b",".join(raw for task in asked if task in done for raw in task.result()))

    async def _level(self, call: Call, level: str) -> Answer:
        if self._servers and not any("logging" in said.capabilities for said in self._servers.values()):
            return await self._bridged(self._bridge, call) if self._bridge else Answer.failure(METHOD_NOT_FOUND, "Method not found")
        if level not in LEVELS:
            return Answer.failure(INVALID_PARAMS, f"Unknown level: {level[:100]}")
        call.client.level = level  # type: ignore[misc]  # whoever makes clients gives them room for it
        await self.audience.leveled(call.client, self.catalog.slots, self._deadline)
        return Answer(b"{}")

    # -- operators --

    def state(self) -> Mapping[str, object]:
        """Members, what is missing, and what is to be known about names."""
        return {
            "members": {slot.name: {**slot.member.state(), "missed": slot.missing, "last": slot.last} for slot in self.catalog.slots},
            "clients": len(self.audience.joined),
            "names": self.catalog.findings(),
        }
