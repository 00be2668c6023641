"""Lists, capabilities and words of many servers as those of one (MCP 2026-07-28, server/*; basic/patterns).

    result of tools/list ──read_page──▶ Page of Items ──shown──▶ the entry as clients see it ──listed──▶ result

1. An entry is read only as far as it is known by: its name or URI, and the UI resources it names (MCP Apps). What is not renamed passes byte for byte.
2. Of capabilities that is said which we can honour ourselves: `experimental` and what we do not know is not among them.
3. Of results that name URIs which had to be wrapped, `rewritten` makes others that name the wrapped ones; numbers keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import Raw

from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params

LONGEST_TTL = 24 * 3600 * 1000  # milliseconds: nobody keeps a list for longer (the Python SDK does not either)
INSTRUCTIONS = 32 * 1024  # characters of the merged ones
UI = "io.modelcontextprotocol/ui"
PASSED = frozenset({UI, "io.modelcontextprotocol/tasks"})  # extensions that are of single tools, so one server that has them is enough

_object = msgspec.json.Decoder(dict[str, Raw]).decode
_entries = msgspec.json.Decoder(list[Raw]).decode
_text = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | float).decode
_plain = msgspec.json.decode


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the lists."""

    method: str  # that asks for it
    member: str  # of the result: where the entries are
    key: str  # of an entry: what it is known by
    call: str  # the method that uses one
    capability: str
    changed: str  # the notification


TOOLS = Kind("tools/list", "tools", "name", "tools/call", "tools", "notifications/tools/list_changed")
PROMPTS = Kind("prompts/list", "prompts", "name", "prompts/get", "prompts", "notifications/prompts/list_changed")
RESOURCES = Kind("resources/list", "resources", "uri", "resources/read", "resources", "notifications/resources/list_changed")
TEMPLATES = Kind(
    "resources/templates/list", "resourceTemplates", "uriTemplate", "resources/read", "resources", "notifications/resources/list_changed"
)
KINDS = (TOOLS, PROMPTS, RESOURCES, TEMPLATES)


class NoList(ValueError):
    """A server's answer is no such list; says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """An entry: what it is known by, the whole of it, and URIs of UI resources it names."""

    own: str
    raw: bytes
    uis: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A result of a list method. `ttl`: milliseconds, None where the server does not say; `public`: may be shown to anybody."""

    items: tuple[Item, ...]
    next: str | None
    ttl: int | None
    public: bool
    dropped: int = 0  # entries without a name


def read_page(kind: Kind, raw: bytes) -> Page:
    """One result. Raises NoList."""
    try:
        found = _object(raw)
        entries = _entries(found[kind.member])
        cursor = found.get("nextCursor")
        following = None if cursor is None or bytes(cursor) == b"null" else _text(cursor)
    except (msgspec.DecodeError, RecursionError, KeyError):
        raise NoList(f"its answer to {kind.method} is none") from None
    items: list[Item] = []
    for entry in entries:
        item = _item(kind, bytes(entry))
        if item is not None:
            items.append(item)
    ttl = _ttl(found.get("ttlMs"))
    return Page(tuple(items), following, ttl, found.get("cacheScope") == Raw(b'"public"') and ttl is not None, len(entries) - len(items))


def _ttl(raw: Raw | None) -> int | None:
    if raw is None:
        return None
    try:
        return max(0, min(LONGEST_TTL, int(_number(raw))))
    except (msgspec.DecodeError, ValueError, OverflowError):
        return 0


def _item(kind: Kind, raw: bytes) -> Item | None:
    try:
        entry = _object(raw)
        own = _text(entry[kind.key])
        uis = tuple(_uis(entry)) if b"ui://" in raw and kind is TOOLS else ()
    except (msgspec.DecodeError, RecursionError, KeyError):
        return None
    return Item(own, raw, uis) if own else None


def _uis(entry: Mapping[str, Raw]) -> Iterable[str]:
    meta = _plain(entry["_meta"]) if "_meta" in entry else None
    if isinstance(meta, dict):
        inner = meta.get("ui")
        for found in (
            inner.get("resourceUri") if isinstance(inner, dict) else None,
            meta.get("ui/resourceUri"),
            meta.get("openai/outputTemplate"),
        ):
            if isinstance(found, str):
                yield found


def shown(kind: Kind, item: Item, seen: str, description: str | None = None, uris: Mapping[str, str] | None = None) -> bytes:
    """The entry as clients see it. `uris`: its UI resources that are wrapped."""
    changed = {own: uris[own] for own in item.uis if own in uris} if uris else None
    if seen == item.own and description is None and not changed:
        return item.raw
    entry: dict[str, Any] = dict(_object(item.raw))
    entry[kind.key] = seen
    if description is not None:
        entry["description"] = description
    if changed:
        entry["_meta"] = _exchanged(_plain(entry["_meta"]), changed)
    return msgspec.json.encode(entry)


def _exchanged(value: object, uris: Mapping[str, str]) -> object:
    """Plain values with these texts instead of those."""
    if isinstance(value, dict):
        return {key: _exchanged(each, uris) for key, each in value.items()}
    return uris.get(value, value) if isinstance(value, str) else value


def rewritten(result: bytes, uris: Mapping[str, str]) -> bytes:
    """A result of tools/call, prompts/get or resources/read with these URIs instead of those, where MCP says that URIs of resources are."""
    if not any(message.text(own)[1:-1] in result for own in uris):
        return result
    try:
        found: dict[str, Any] = dict(_object(result))
        for key in ("content", "contents", "messages"):
            if key in found:
                found[key] = [_content(each, uris) for each in _entries(found[key])]
    except (msgspec.DecodeError, RecursionError):
        return result
    return msgspec.json.encode(found)


def _content(raw: Raw, uris: Mapping[str, str]) -> object:
    """A content block, an embedded resource, or a prompt's message with one of them in it."""
    entry: dict[str, Any] = dict(_object(raw))
    if "uri" in entry:
        own = _text(entry["uri"])
        entry["uri"] = uris.get(own, own)
    for key in ("resource", "content"):
        if key in entry and bytes(entry[key])[:1] == b"{":
            entry[key] = _content(entry[key], uris)
    return entry


def links(result: bytes) -> list[str]:
    """URIs of resources that a result links to: they need not be in any list."""
    if b'"resource_link"' not in result:
        return []
    try:
        content = _plain(result).get("content")
    except (msgspec.DecodeError, RecursionError, AttributeError):
        return []
    blocks = content if isinstance(content, list) else []
    found = [each.get("uri") for each in blocks if isinstance(each, dict) and each.get("type") == "resource_link"]
    return [uri for uri in found if isinstance(uri, str)]


def listed(kind: Kind, entries: Sequence[bytes]) -> bytes:
    """Entries as the member of a result."""
    return b'"%b":[%b]' % (kind.member.encode(), b",".join(entries))


def capabilities(all: Sequence[Params], *, unknown: bool = False) -> Params:
    """What all of them have together. `unknown`: there is one whose capabilities we do not know yet, so we offer what we could honour for it."""
    found: Params = {}
    if unknown or any("tools" in each for each in all):
        found["tools"] = b'{"listChanged":true}'
    if unknown or any("prompts" in each for each in all):
        found["prompts"] = b'{"listChanged":true}'
    if unknown or any("resources" in each for each in all):
        subscribe = unknown or any(_tree(each.get("resources")).get("subscribe") is True for each in all)
        found["resources"] = b'{"subscribe":true,"listChanged":true}' if subscribe else b'{"listChanged":true}'
    for key in ("completions", "logging"):
        if unknown or any(key in each for each in all):
            found[key] = b"{}"
    tasks: dict[str, object] = {}
    for each in all:
        tasks = _union(tasks, _tree(each.get("tasks")))
    if tasks:
        found["tasks"] = message.encode(tasks)
    extensions = _extensions([_tree(each.get("extensions")) for each in all], unknown=unknown)
    if extensions:
        found["extensions"] = message.encode(extensions)
    return found


def _extensions(all: Sequence[dict[str, object]], *, unknown: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for each in all:
        for name, value in each.items():
            if name in PASSED:
                old, tree = found.get(name), value if isinstance(value, dict) else {}
                found[name] = _union(old, tree) if isinstance(old, dict) else tree
            elif (
                not unknown
                and all
                and all[0].get(name) == value
                and sum(name in other and other[name] == value for other in all) == len(all)
            ):
                found[name] = value
    return found


def _tree(raw: bytes | None) -> dict[str, object]:
    try:
        found = _plain(raw) if raw is not None else {}
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _union(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """Everything of both; lists are joined."""
    found = dict(one)
    for key, value in other.items():
        old = found.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            found[key] = _union(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            found[key] = [*old, *(each for each in value if each not in old)]
        else:
            found.setdefault(key, value)
    return found


def instructions(all: Iterable[tuple[str, str]]) -> str:
    """Those of all, each under its member's name; cut where they become too long for any model."""
    parts = [f"# {name}\n{text.strip()}" for name, text in all if text.strip()]
    return "\n\n".join(parts)[:INSTRUCTIONS]
