"""What a hub keeps of one member: its lists, who they are for, and which names were in them.

    Slot ── a Shelf for each kind of list ── Parts (public, or by conversation and caller) ── Content, shared by those of the same bytes

1. A list that is too old is not shown again, but its names stay known: until others come in its place, or too many lists are there.
2. A thousand sessions that are given the same list hold it once.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from mcpproxy.config.gateway import Facet
from mcpproxy.gateway.parts import Conversation, Member
from mcpproxy.mcp.merge import KINDS, PROMPTS, RESOURCES, TEMPLATES, TOOLS, Item, Kind
from mcpproxy.mcp.names import Naming, word_of
from mcpproxy.policy.globs import globs

PARTS, HELD = 1024, 64 << 20  # lists of one kind of one member that are kept, and bytes in them
_serials = count(1)


@dataclass(frozen=True, slots=True)
class Offer:
    """What of a member is offered, and by which names: `[upstream.NAME.member.MEMBER]`, its prefix settled."""

    prefix: str = ""
    tools: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    hide: tuple[str, ...] = ()
    describe: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, member: str, facet: Facet | None, prefix: Literal["member", "none"]) -> Offer:
        """As the configuration has it: `prefix` is the hub's."""
        said = facet or Facet()
        before = said.prefix if said.prefix is not None else member if prefix == "member" else ""
        return cls(before, said.tools, said.prompts, said.resources, said.rename, said.hide, said.describe)

    @property
    def everything(self) -> bool:
        """Nothing is changed or left out."""
        return self == Offer()


@dataclass(slots=True, eq=False)
class Content:
    """A whole list. Two of the same bytes are one object."""

    pages: tuple[bytes, ...]
    items: tuple[Item, ...] = ()
    problem: str = ""  # why something is missing in it
    size: int = 0
    serial: int = field(default_factory=lambda: next(_serials))


NOTHING = Content(())


@dataclass(slots=True, eq=False)
class Part:
    """A member's list for some client. Moments are of the monotonic clock, in seconds."""

    content: Content
    until: float  # it is kept
    fresh: float  # clients may keep it
    public: bool
    conversation: Conversation | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A member that is missing in a list, or of which something is missing."""

    member: str
    reason: str


Key = tuple[int, str]  # a conversation, and the caller where that matters
LAST: Key = (0, "")  # of a conversation that is over


class Shelf:
    """Lists of one kind of one member."""

    __slots__ = ("_held", "_last", "generation", "known", "missed", "private", "public", "running", "size")

    def __init__(self) -> None:
        self.public: Part | None = None
        self.private: OrderedDict[Key, Part] = OrderedDict()
        self.running: dict[Key, asyncio.Task[Part]] = {}
        self.known: Counter[Item] = Counter()
        self.missed = False  # somebody was given a list without it
        self.generation = 0  # how often it was said that it changed
        self.size = 0
        self._held: Counter[Content] = Counter()
        self._last = NOTHING

    @property
    def given(self) -> bool:
        """Does anybody have a list of it?"""
        return any(part.content is not NOTHING for part in (self.public, *self.private.values()) if part is not None)

    def kept(self, key: Key | None, now: float) -> Part | None:
        """A list that may be shown."""
        part = self.private.get(key) if key is not None else self.public
        return part if part is not None and part.until > now else None

    def same(self, pages: tuple[bytes, ...]) -> Content | None:
        """A content of these bytes that is here already."""
        return self._last if self._last.pages == pages and pages else None

    def put(self, key: Key, part: Part) -> bool:
        """Keep it. Are other names known than before?"""
        before = len(self.known)
        gone = self.public if part.public else self.private.pop(key, None)
        new = self._hold(part.content)
        if part.public:
            self.public = part
        else:
            self.private[key] = part
            if LAST in self.private:
                new = self._release(self.private.pop(LAST).content) or new
            if self.public is not None and self.public.until == 0.0:  # it became private
                new, self.public = self._release(self.public.content) or new, None
        if gone is not None:
            new = self._release(gone.content) or new
        while len(self.private) > PARTS or (self.size > HELD and len(self.private) > 1):
            new = self._release(self.private.popitem(last=False)[1].content) or new
        self._last = part.content
        return new or len(self.known) != before

    def drop(self, conversation: Conversation) -> bool:
        """It is over. Are fewer names known?"""
        gone = [key for key, part in self.private.items() if part.conversation is conversation]
        if self.public is None and gone and len(gone) == len(self.private):  # what was known last stays known
            self.private[LAST] = Part(self.private.pop(gone.pop()).content, 0.0, 0.0, False)
        released = [self._release(self.private.pop(key).content) for key in gone]
        return any(released)

    def expire(self) -> None:
        """Nothing is to be shown again; names stay known."""
        self.generation += 1
        for part in (self.public, *self.private.values()):
            if part is not None:
                part.until = 0.0

    def _hold(self, content: Content) -> bool:
        self._held[content] += 1
        if self._held[content] > 1:
            return False
        self.size += content.size
        before = len(self.known)
        self.known.update(content.items)
        return len(self.known) != before

    def _release(self, content: Content) -> bool:
        self._held[content] -= 1
        if self._held[content]:
            return False
        del self._held[content]
        self.size -= content.size
        before = len(self.known)
        self.known.subtract(content.items)
        self.known = +self.known
        return len(self.known) != before


class Slot:
    """A member as one hub has it."""

    __slots__ = ("_fits", "_hidden", "last", "member", "name", "naming", "number", "offer", "shelves", "word")

    def __init__(self, number: int, member: Member, offer: Offer, limit: int) -> None:
        self.number, self.member, self.name, self.offer = number, member, member.name, offer
        self.naming = Naming(offer.prefix, offer.rename, limit)
        self.word = word_of(member.name)
        self.shelves = {kind: Shelf() for kind in KINDS}
        self.last = ""  # what went wrong last
        resources = None if offer.resources is None else globs(offer.resources)
        self._fits = {
            TOOLS: None if offer.tools is None else globs(offer.tools),
            PROMPTS: None if offer.prompts is None else globs(offer.prompts),
            RESOURCES: resources,
            TEMPLATES: resources,
        }
        self._hidden = globs(offer.hide)

    @property
    def missing(self) -> bool:
        """Was anybody given a list without it?"""
        return any(shelf.missed for shelf in self.shelves.values())

    def offers(self, kind: Kind, own: str) -> bool:
        """May clients know of it?"""
        fits = self._fits[kind]
        return (fits is None or fits(own)) and not self._hidden(own)

    def known(self, kind: Kind) -> set[str]:
        """Own names that were in any of its lists."""
        found = {item.own for item in self.shelves[kind].known if self.offers(kind, item.own)}
        if kind is RESOURCES:
            found.update(uri for item in self.shelves[TOOLS].known for uri in item.uis if not self._hidden(uri))
        return found
