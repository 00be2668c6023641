"""Whose is this name, this URI, this task? Where a call of many servers' client goes.

Tools and prompts: by the lists that were seen, then by the prefix alone. Resources: by the lists, by links in results, by wrapped URIs, by templates, and where
only one server has any resources, by that. Tasks: by the answer that made them, and for the same caller only; ids stay as they are, so two tasks of one id
are nobody's. What cannot be told is not guessed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from mcpproxy.gateway.catalog import Catalog, Converse, Ours
from mcpproxy.gateway.parts import Client, Unavailable
from mcpproxy.gateway.shelf import Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.merge import RESOURCES, TEMPLATES, Kind, links
from mcpproxy.mcp.message import Params
from mcpproxy.mcp.names import Table, by_prefix, unwrapped
from mcpproxy.policy.globs import Matcher, glob

LINKS, TASKS = 10_000, 10_000  # remembered, the oldest go first
pieces = re.compile(r"\{[^{}]*\}").split
Place = tuple[Slot, str]  # a member, and what it calls it itself


class _Task(Struct, gc=False):
    id: str | UnsetType = field(default=UNSET, name="taskId")


class _Result(Struct, gc=False):
    kind: str | None = field(default=None, name="resultType")
    id: str | UnsetType = field(default=UNSET, name="taskId")  # the extension
    task: _Task | UnsetType = UNSET  # 2025-11-25


class _Listed(Struct, gc=False):
    tasks: list[Raw] = field(default_factory=list)
    next: str | None = field(default=None, name="nextCursor")


_result = msgspec.json.Decoder(_Result, strict=True).decode
_tasks = msgspec.json.Decoder(_Listed).decode
_task = msgspec.json.Decoder(_Task).decode


class Places:
    """Of one hub. `capable(slot)`: may it have resources, as far as we know?"""

    __slots__ = ("_capable", "_catalog", "_links", "_tasks", "_templates", "_templates_of", "_words")

    def __init__(self, catalog: Catalog, capable: Callable[[Slot], bool]) -> None:
        self._catalog, self._capable = catalog, capable
        self._words = {slot.word: slot.number for slot in catalog.slots}
        self._links: OrderedDict[str, Slot | None] = OrderedDict()
        self._tasks: OrderedDict[tuple[str, str], Slot | None] = OrderedDict()
        self._templates: list[tuple[int, Matcher, Slot]] = []
        self._templates_of: Table | None = None

    # -- names --

    def name(self, kind: Kind, seen: str) -> Place | None:
        """Of a tool or prompt."""
        slots = self._catalog.slots
        found = self._catalog.table(kind).whose(seen)
        if found is not None:
            return slots[found[0]], found[1]
        possible = by_prefix([slot.naming for slot in slots], seen, lambda number, own: slots[number].offers(kind, own))
        # With a prefix nobody else can have it. Without one it may be anybody's, and is his only who has it in a list.
        named = [(number, own) for number, own in possible if slots[number].naming.prefix]
        return (slots[named[0][0]], named[0][1]) if len(named) == 1 and len(possible) == 1 else None

    # -- URIs --

    def uri(self, seen: str) -> Place | None:
        """Of a resource."""
        slots = self._catalog.slots
        found = self._catalog.table(RESOURCES).whose(seen)
        if found is None and seen not in self._links:
            found = unwrapped(self._words, seen)
        if found is not None:
            slot, own = slots[found[0]], found[1]
        else:
            owner = self._links.get(seen) or self._by_template(seen) or self._only()
            if owner is None:
                return None
            slot, own = owner, seen
        return (slot, own) if slot.offers(RESOURCES, own) or (found is not None and own in slot.known(RESOURCES)) else None

    def template(self, seen: str) -> Place | None:
        """Of a completion for a resource: a template, or a URI."""
        found = self._catalog.table(TEMPLATES).whose(seen)
        return (self._catalog.slots[found[0]], found[1]) if found is not None else self.uri(seen)

    def _by_template(self, uri: str) -> Slot | None:
        table = self._catalog.table(TEMPLATES)
        if table is not self._templates_of:
            self._templates_of = table
            self._templates = [
                (sum(map(len, pieces(own))), glob(pattern_of(own)), slot) for slot in self._catalog.slots for own in slot.known(TEMPLATES)
            ]
            self._templates.sort(key=lambda each: (-each[0], each[2].number))
        fitting = [(size, slot) for size, fits, slot in self._templates if fits(uri)]
        best = {slot.number: slot for size, slot in fitting if size == fitting[0][0]}
        return next(iter(best.values())) if len(best) == 1 else None

    def _only(self) -> Slot | None:
        capable = [slot for slot in self._catalog.slots if self._capable(slot)]
        return capable[0] if len(capable) == 1 else None

    def learn_links(self, slot: Slot, result: bytes) -> None:
        """URIs that a result links to are its server's, unless another one linked to them, too."""
        for uri in links(result):
            if self._catalog.table(RESOURCES).whose(uri) is None:
                self._links[uri] = slot if self._links.get(uri, slot) is slot else None
                self._links.move_to_end(uri)
        while len(self._links) > LINKS:
            self._links.popitem(last=False)

    # -- tasks --

    def task(self, principal: str, id: str) -> Slot | None:
        """Whose task it is, of those this caller has."""
        return self._tasks.get((principal, id))

    def learn_task(self, principal: str, slot: Slot, result: bytes) -> None:
        """A result may be a task instead."""
        if b'"taskId"' not in result:
            return
        try:
            found = _result(result)
        except (msgspec.DecodeError, RecursionError):
            return
        id = found.task.id if isinstance(found.task, _Task) else found.id if found.kind == "task" else UNSET
        if isinstance(id, str):
            key = principal, id
            self._tasks[key] = slot if self._tasks.get(key, slot) is slot else None
            while len(self._tasks) > TASKS:
                self._tasks.popitem(last=False)

    async def tasks_at(self, slot: Slot, client: Client, converse: Converse, pages: int) -> list[bytes]:
        """Of a server's tasks those that this caller has, as many as are on so many pages."""
        found: list[bytes] = []
        params: Params = {}
        try:
            conversation = await converse(slot, client)
            for _ in range(pages):
                answer = await conversation.ask(Ours(client, "tasks/list", params))
                page = _tasks(answer.result or b"{}")
                tasks = [(bytes(raw), _task(raw).id) for raw in page.tasks]
                found += [raw for raw, id in tasks if isinstance(id, str) and self._tasks.get((client.principal, id)) is slot]
                if page.next is None:
                    break
                params = {"cursor": message.text(page.next)}
        except (msgspec.DecodeError, RecursionError, Unavailable):
            pass
        return found

    def owners(self, slot: Slot, id: str) -> Sequence[str]:
        """Callers whose task of this server it is."""
        return [principal for (principal, each), owner in self._tasks.items() if each == id and owner is slot]


def pattern_of(template: str) -> str:
    """A URI template (RFC 6570) as a glob: an expression is any text."""
    return "*".join("".join(f"[{each}]" if each in "*?[" else each for each in piece) for piece in pieces(template))
