"""The lists of all members as one: named, filtered, in pages (MCP server/utilities/pagination, caching).

    gather ──Parts──▶ Merged (entries as clients see them, encoded once) ──page──▶ result, with `ttlMs`, `cacheScope`, `nextCursor`, gaps

1. The order is that of the configuration, then each server's own, so a list is the same bytes until something changes.
2. Merged lists are kept by what they are made of: the contents of the parts, and the rules they were filtered by. A caller costs nothing but the filter.
3. A cursor goes on with the list it began with. When that is not there any more and another one is in its place, the client is told to begin anew.
4. What is filtered is `private`; what somebody is missing in has a short life.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from mcpproxy.clock import monotonic
from mcpproxy.gateway.catalog import Catalog, Gathered
from mcpproxy.gateway.cursors import DIGEST, Cursors
from mcpproxy.gateway.parts import Answer, Client, Era
from mcpproxy.gateway.shelf import Gap, Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, CallError
from mcpproxy.mcp.merge import RESOURCES, TOOLS, Item, Kind, NoList, listed, read_page, shown

PAGE, PAGE_BYTES = 1000, 768 << 10  # entries and bytes of a page: the Python SDK drops events of more than 1 MiB
KEPT, KEPT_BYTES = 256, 64 << 20  # merged lists that are kept
GAP_TTL = 1000  # milliseconds: how long a list with gaps may be kept by clients, at most
GAPS = "io.mcpproxy/gaps"  # key in `_meta`: [{"member", "reason"}]


class Sight(Protocol):
    """What the rules of a route let a caller do. `arguments` (raw): of a call; None: in a list, where it is enough that some arguments are allowed.

    Callers for whom the rules are the same have the same object: lists are kept by it.
    """

    def __call__(self, method: str, name: str, arguments: bytes | None) -> bool: ...


SightOf = Callable[[Client], Sight | None]


@dataclass(frozen=True, slots=True)
class Entry:
    """What clients see, and whose it is."""

    seen: str
    slot: Slot
    item: Item
    raw: bytes


@dataclass(slots=True, eq=False)
class Merged:
    """A list, ready to be sent. Two of the same digest are the same."""

    entries: tuple[Entry, ...]
    pages: tuple[bytes, ...]
    digest: bytes
    size: int


class Lists:
    """Of one hub."""

    __slots__ = ("_by_digest", "_catalog", "_cursors", "_kept", "_now", "_sight", "_size")

    def __init__(self, catalog: Catalog, cursors: Cursors, sight: SightOf, now: Callable[[], float] = monotonic) -> None:
        self._catalog, self._cursors, self._sight, self._now = catalog, cursors, sight, now
        self._kept: OrderedDict[tuple[str, tuple[object, ...]], Merged] = OrderedDict()
        self._by_digest: dict[tuple[str, bytes], Merged] = {}
        self._size = 0

    async def page(self, kind: Kind, client: Client, cursor: str | None) -> Answer:
        """The answer to a list request."""
        number, digest = 0, b""
        if cursor is not None:
            opened = self._cursors.open(client.principal, kind.method, cursor)
            if opened is None:
                return Answer.failure(INVALID_PARAMS, "Invalid cursor")
            digest, number = opened
            merged = self._by_digest.get((kind.method, digest))
            if merged is not None:
                return self._answer(kind, client, merged, number, b"0", b"private", ())
        gathered = await self._catalog.gather(kind, client)
        merged, filtered = self.merged(kind, client, gathered)
        if cursor is not None and (merged.digest != digest or number >= len(merged.pages)):
            return Answer.failure(INVALID_PARAMS, "Invalid cursor: the list has changed, please begin anew")
        now = self._now()
        ttl = max(0, int(min((part.fresh - now for _, part in gathered.parts), default=0.0) * 1000))
        if gathered.gaps:
            ttl = min(ttl, GAP_TTL)
        private = filtered or any(not part.public for _, part in gathered.parts)
        return self._answer(kind, client, merged, number, b"%d" % ttl, b"private" if private else b"public", gathered.gaps)

    def merged(self, kind: Kind, client: Client, gathered: Gathered) -> tuple[Merged, bool]:
        """The whole list for this client, and whether rules were asked about it."""
        sight, table = self._sight(client), self._catalog.table(kind)
        uris = self._catalog.table(RESOURCES) if kind is TOOLS else None
        key = (
            kind.method,
            (sight, table.serial, uris.serial if uris is not None else 0, *[part.content.serial for _, part in gathered.parts]),
        )
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found, sight is not None
        entries: list[Entry] = []
        for slot, part in gathered.parts:
            others = uris.changed(slot.number) if uris is not None else None
            once: set[str] = set()
            for item in part.content.items:
                seen = table.seen(slot.number, item.own)
                if seen is None or seen in once or not (sight is None or sight(kind.call, seen, None)):
                    continue
                once.add(seen)
                entries.append(Entry(seen, slot, item, shown(kind, item, seen, slot.offer.describe.get(item.own), others)))
        merged = paged(kind, tuple(entries))
        self._keep(key, merged)
        return merged, sight is not None

    def _keep(self, key: tuple[str, tuple[object, ...]], merged: Merged) -> None:
        self._kept[key] = merged
        self._by_digest[key[0], merged.digest] = merged
        self._size += merged.size
        while len(self._kept) > 1 and (len(self._kept) > KEPT or self._size > KEPT_BYTES):
            (method, _), gone = self._kept.popitem(last=False)
            self._size -= gone.size
            if self._by_digest.get((method, gone.digest)) is gone:
                del self._by_digest[method, gone.digest]

    def _answer(
        self, kind: Kind, client: Client, merged: Merged, number: int, ttl: bytes, scope: bytes, gaps: tuple[Gap, ...] | list[Gap]
    ) -> Answer:
        parts = [b'{"resultType":"complete",' if client.era is Era.MODERN else b"{", merged.pages[number]]
        parts.append(b',"ttlMs":%b,"cacheScope":"%b"' % (ttl, scope))
        if number + 1 < len(merged.pages):
            parts.append(b',"nextCursor":"%b"' % self._cursors.seal(client.principal, kind.method, merged.digest, number + 1).encode())
        if gaps:
            parts.append(b',"_meta":%b' % meta_of(gaps))
        parts.append(b"}")
        return Answer(b"".join(parts))


def paged(kind: Kind, entries: tuple[Entry, ...]) -> Merged:
    """A list in pages, encoded."""
    pages: list[bytes] = []
    page: list[bytes] = []
    size = total = 0
    for entry in entries:
        if page and (len(page) == PAGE or size + len(entry.raw) > PAGE_BYTES):
            pages.append(listed(kind, page))
            page, size = [], 0
        page.append(entry.raw)
        size += len(entry.raw) + 1
        total += len(entry.raw)
    pages.append(listed(kind, page))
    digest = sha256(b"\n".join(pages)).digest()[:DIGEST]
    return Merged(entries, tuple(pages), digest, 2 * total + 200 * len(entries))


def meta_of(gaps: tuple[Gap, ...] | list[Gap]) -> bytes:
    """`_meta` that says who is missing."""
    said: list[Mapping[str, str]] = [{"member": gap.member, "reason": gap.reason} for gap in gaps]
    return message.encode({GAPS: said})


def filtered(kind: Kind, result: bytes, sight: Sight) -> Answer:
    """A page of a server as it came, without what the rules do not let this caller see."""
    try:
        page = read_page(kind, result)
        found = message.parts(result)
    except (NoList, CallError):
        return Answer.failure(message.INTERNAL_ERROR, "the server's list could not be read")
    found[kind.member] = b"[%b]" % b",".join(item.raw for item in page.items if sight(kind.call, item.own, None))
    if "cacheScope" in found:
        found["cacheScope"] = b'"private"'
    return Answer(message.put(found))
