"""What members say that belongs to no call, and who hears it: the half of the hub that looks towards servers.

Changes of lists are told to those whose lists they are, changes of resources to who asked for them, log messages to who wants that much, tasks to their owner,
and what nobody here knows to all whose conversation it is. A server that was started anew, or began a new session, may have other lists: that is told, too.
A question goes to the client whose conversation it is; of everybody's, nobody can be asked.

Nobody pays for a member that talks without end: a change is told at once, and what follows soon is told as one; all else has a bound, whoever hears it.

A member that is away is missed: it is asked again, later and later, while there is somebody who would like to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from mcpproxy.gateway.audience import MESSAGE, Audience, level_of, passes
from mcpproxy.gateway.catalog import Catalog
from mcpproxy.gateway.fitting import above
from mcpproxy.gateway.parts import NO_ONE_TO_ASK, Answer, Client, Era, Hearer
from mcpproxy.gateway.places import Places
from mcpproxy.gateway.shelf import Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.merge import KINDS, RESOURCES, TOOLS, Kind
from mcpproxy.mcp.message import Params

CHANGES_S = 1.0  # seconds until the same change is told again, at least
DELIVERED = 5000  # a second, of what one member says: messages times clients; the one that goes beyond it still reaches all
AGAIN_S = (1.0, 60.0)  # seconds until a member that is missed is asked again: at first, and at most
SOON_S = 0.05  # after which a change that may have several reasons is told
CHANGED = {kind.changed: tuple(other for other in KINDS if other.changed == kind.changed) for kind in KINDS}
Change = tuple[Slot, str, Client | None]  # whose lists, which, and of whose conversation
Anything = TypeVar("Anything")
_text = msgspec.json.Decoder(str).decode


class Hearing(Hearer):
    """Of one hub. `quiet`: its list of tools never changes; `open`: what names a task may be of anybody (a bridge)."""

    catalog: Catalog
    audience: Audience
    _places: Places

    def __init__(self, *, quiet: bool, open: bool) -> None:
        self._quiet, self._open = quiet, open
        self._slots: dict[str, Slot] = {}
        self._watches: dict[Slot, asyncio.Task[None]] = {}
        self._telling: dict[Change, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._told: dict[Change, asyncio.TimerHandle] = {}  # lately
        self._again: set[Change] = set()  # and it has changed since
        self._delivered: dict[Slot, tuple[float, int]] = {}  # since when, and how much

    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        """To those whom it concerns."""
        slot = self._slots.get(member)
        if slot is None:
            return
        if method in CHANGED:
            self.catalog.changed(slot, CHANGED[method])
            self._tell_changed(slot, method, client)
            return
        raw = message.put(params) if params else None
        if method == "notifications/resources/updated":
            own = _maybe(params, "uri")
            seen = self._seen(slot, own)
            raw = raw if seen == own else message.put({**params, "uri": message.text(seen)})
            hearers = self.audience.subscribed(slot, client, own)
        elif "taskId" in params and not self._open:
            owners = self._places.owners(slot, _maybe(params, "taskId"))
            hearers = [each for each in self.audience.hearers(slot, client) if each.principal in owners]
        else:
            hearers = self.audience.hearers(slot, client)
        if method == MESSAGE:
            level = level_of(params)
            hearers = [each for each in hearers if each.era is Era.LEGACY and (client or each.level) and passes(each.level, level)]
        if not self._may(slot, len(hearers)):
            return
        for each in hearers:
            each.hears(method, raw)

    def _may(self, slot: Slot, hearers: int) -> bool:
        """Has it not said too much to too many in this second?"""
        now = asyncio.get_running_loop().time()
        since, count = self._delivered.get(slot, (0.0, 0))
        if now - since >= 1.0:
            since, count = now, 0
        self._delivered[slot] = since, count + hearers
        return count < DELIVERED

    def _seen(self, slot: Slot, own: str) -> str:
        """What clients call this resource, which may lie below one that they know by another name."""
        table = self.catalog.table(RESOURCES)
        return next((seen + own[len(each) :] for each in above(own) if (seen := table.seen(slot.number, each)) is not None), own)

    def _tell_soon(self, slot: Slot, method: str, client: Client | None) -> None:
        """Once, however many reasons there are for it now: templates and resources are two lists, and one change."""
        change = slot, method, client
        if change not in self._telling:
            self._telling[change] = asyncio.get_running_loop().call_later(SOON_S, self._tell_now, change)

    def _tell_now(self, change: Change) -> None:
        self._telling.pop(change, None)
        self._tell_changed(*change)

    def _tell_changed(self, slot: Slot, method: str, client: Client | None) -> None:
        if self._quiet and method == TOOLS.changed:
            return
        change = slot, method, client
        if change in self._told:
            self._again.add(change)
            return
        hearers = self.audience.hearers(slot, client)
        pause = max(CHANGES_S, len(hearers) / DELIVERED)
        self._told[change] = asyncio.get_running_loop().call_later(pause, self._tell_again, change)
        for each in hearers:
            each.hears(method, None)

    def _tell_again(self, change: Change) -> None:
        del self._told[change]
        if change in self._again:
            self._again.discard(change)
            self._tell_changed(*change)

    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        """To the client whose conversation it is. Of everybody's nobody can be asked."""
        if method == "ping":
            return Answer(b"{}")
        if client is None or client not in self.audience.joined:
            return Answer.failure(
                NO_ONE_TO_ASK, f"{method[:100]}: this connection is of many clients, and it was not asked within a call: nobody to ask"
            )
        return await client.question(method, params)

    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        """Its lists have to be asked for again; those who missed it, or have had one, are told."""
        slot = self._slots.get(member)
        if slot is None:
            return
        self.catalog.changed(slot)
        for kind in KINDS if available else ():
            if slot.shelves[kind].given and not slot.shelves[kind].missed:
                self._tell_soon(slot, kind.changed, client)
        if available and slot.missing:
            watch = self._watches.pop(slot, None)
            if watch is not None:
                watch.cancel()
            self._missed(slot, at_once=True)

    def _back(self, slot: Slot, kind: Kind) -> None:
        self._tell_soon(slot, kind.changed, None)

    def _missed(self, slot: Slot, *, at_once: bool = False) -> None:
        if slot not in self._watches and self.audience.joined:
            task = self._watches[slot] = asyncio.ensure_future(self._watch(slot, at_once))
            task.add_done_callback(lambda task: self._watches.pop(slot, None) if self._watches.get(slot) is task else None)

    async def _watch(self, slot: Slot, at_once: bool) -> None:
        """Until it has been asked for all that clients missed."""
        pause = 0.0 if at_once else AGAIN_S[0]
        while self.audience.joined:
            await asyncio.sleep(pause)
            pause = min(max(AGAIN_S[0], 2 * pause), AGAIN_S[1])
            for kind, shelf in slot.shelves.items():
                client = next(iter(self.audience.joined), None)
                if client is None or (shelf.missed and not await self.catalog.again(slot, kind, client)):
                    break
            else:
                return

    def _later(self, what: Coroutine[object, object, Anything]) -> asyncio.Task[Anything]:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Nothing of it goes on. Members are stopped by whoever has them."""
        tasks = [*self._tasks, *self._watches.values()]
        for task in tasks:
            task.cancel()
        for timer in (*self._told.values(), *self._telling.values()):
            timer.cancel()
        self._telling.clear()
        await asyncio.gather(*tasks, self.catalog.stop(), self.audience.stop(), return_exceptions=True)


def _maybe(params: Params, key: str) -> str:
    try:
        return _text(params[key])
    except (KeyError, msgspec.DecodeError):
        return ""
