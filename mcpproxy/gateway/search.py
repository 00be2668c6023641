"""`expose = "search"`: two tools instead of hundreds. One finds tools by what they do, the other calls what was found.

Ranked by BM25 (Robertson and Zaragoza, 2009) over names, titles, descriptions and names of arguments, of the tools this caller may call. No service is
asked, and nothing is learned. An index is made once for a list, and lives as long as the list does.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from math import log

import msgspec

from mcpproxy.gateway.listing import Entry, Merged
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError

SEARCH, CALL = "search_tools", "call_tool"
K1, B = 1.2, 0.75  # the usual ones
IN_NAME, IN_TITLE, ELSEWHERE = 4, 2, 1  # how often a word counts, by where it stands
FOUND, MOST = 10, 50  # tools in an answer
ANSWER = 256 << 10  # bytes of an answer
QUERY = 1000  # characters of a query that are looked at
TEXT = 20_000  # characters of a tool that are looked at
INDEXES = 64
words = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+").findall
wide = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]").search  # scripts without spaces between words
ENDINGS = ("ies", "ing", "ed", "es", "s")


def tokens(text: str) -> list[str]:
    """The words of a text, in lower case, without the commonest endings of English; scripts without spaces in pairs of characters."""
    found: list[str] = []
    for word in words(text):
        if wide(word) and len(word) > 1:
            found += [word[place : place + 2] for place in range(len(word) - 1)]
            continue
        word = word.lower()
        for ending in ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) > 2 and not word.endswith("ss"):
                word = word[: -len(ending)] + ("y" if ending == "ies" else "")
                break
        found.append(word.removesuffix("e") if len(word) > 3 else word)
    return found


class Index:
    """Of one list."""

    __slots__ = ("_entries", "_lengths", "_mean", "_postings")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self._postings: dict[str, list[tuple[int, int]]] = {}
        self._lengths: list[int] = []
        for number, entry in enumerate(entries):
            found = _weighed(entry)
            self._lengths.append(sum(found.values()))
            for word, often in found.items():
                self._postings.setdefault(word, []).append((number, often))
        self._mean = (sum(self._lengths) / len(self._lengths) if self._lengths else 0.0) or 1.0

    def find(self, query: str, most: int) -> list[Entry]:
        """The best, the best first. Without a word that says anything: the first ones."""
        asked = set(tokens(query[:QUERY]))
        if not asked:
            return list(self._entries[:most])
        scores: dict[int, float] = {}
        for word in asked:
            there = self._postings.get(word, ())
            rarity = log(1 + (len(self._entries) - len(there) + 0.5) / (len(there) + 0.5))
            for number, often in there:
                weight = often * (K1 + 1) / (often + K1 * (1 - B + B * self._lengths[number] / self._mean))
                scores[number] = scores.get(number, 0.0) + rarity * weight
        return [self._entries[number] for number in nlargest(most, scores, key=lambda each: (scores[each], -each))]


def _weighed(entry: Entry) -> Counter[str]:
    try:
        tool = msgspec.json.decode(entry.raw)
    except (msgspec.DecodeError, RecursionError):
        tool = {}
    found: Counter[str] = Counter()
    for text, weight in ((entry.seen, IN_NAME), (_text(tool, "title"), IN_TITLE), (_text(tool, "description"), ELSEWHERE)):
        for word in tokens(text[:TEXT]):
            found[word] += weight
    schema = tool.get("inputSchema")
    arguments = schema.get("properties") if isinstance(schema, dict) else None
    for name, about in arguments.items() if isinstance(arguments, dict) else ():
        found.update(tokens(name))
        found.update(tokens(_text(about, "description")[:TEXT]) if isinstance(about, dict) else ())
    return found


def _text(of: dict[str, object], key: str) -> str:
    found = of.get(key)
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a client asks of one of the two tools."""

    name: str = ""
    arguments: bytes = b"{}"
    query: str = ""
    most: int = FOUND


class Finder:
    """The two tools of one hub."""

    __slots__ = ("_indexes", "tools")

    def __init__(self, members: Iterable[str]) -> None:
        self._indexes: OrderedDict[bytes, Index] = OrderedDict()
        self.tools = tuple(message.encode(tool) for tool in _tools(", ".join(members)))

    def found(self, merged: Merged, wanted: Wanted) -> bytes:
        """The result of a search: whole tools, as a list would have them."""
        index = self._indexes.get(merged.digest)
        if index is None:
            index = self._indexes[merged.digest] = Index(merged.entries)
            while len(self._indexes) > INDEXES:
                self._indexes.popitem(last=False)
        self._indexes.move_to_end(merged.digest)
        size = 0
        raws: list[bytes] = []
        for entry in index.find(wanted.query, wanted.most):
            size += len(entry.raw)
            if raws and size > ANSWER:
                break
            raws.append(entry.raw)
        told = b'{"tools":[%b],"searched":%d}' % (b",".join(raws), len(merged.entries))
        return b'{"content":[{"type":"text","text":%b}],"structuredContent":%b' % (message.text(told.decode()), told)


def wanted(raw: bytes | None, tool: str = SEARCH) -> Wanted | str:
    """The arguments of that tool; or what is wrong with them."""
    try:
        given = message.parts(raw if raw is not None else b"{}")
        name, query = message.plain(given.get("name", b'""')), message.plain(given.get("query", b'""'))
        most = message.plain(given.get("limit", b"%d" % FOUND))
    except CallError:
        return "arguments must be an object"
    if not isinstance(name, str) or not isinstance(query, str):
        return "name and query must be texts"
    if tool == CALL and not name:
        return f"{CALL} needs the name of a tool that {SEARCH} has found"
    if type(most) is not int or not 1 <= most <= MOST:
        return f"limit must be a number from 1 to {MOST}"
    arguments = given.get("arguments", b"{}")
    return Wanted(name, arguments, query, most) if arguments[:1] == b"{" else "arguments must be an object"


def _tools(members: str) -> list[dict[str, object]]:
    return [
        {
            "name": SEARCH,
            "title": "Find tools",
            "description": f"Finds tools by what they do. Say in a few words what is to be done; the answer has the tools that fit best, with the schemas "
            f"of their arguments. Call them with {CALL}. There are tools of: {members}.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "What is to be done, in a few words"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": FOUND, "description": "How many tools at most"},
                },
                "required": ["query"],
            },
            "outputSchema": {
                "type": "object",
                "properties": {"tools": {"type": "array", "items": {"type": "object"}}, "searched": {"type": "integer"}},
                "required": ["tools"],
            },
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        },
        {
            "name": CALL,
            "title": "Call a tool",
            "description": f"Calls a tool that {SEARCH} has found, by its name, with arguments as its inputSchema wants them.",
            "inputSchema": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The tool's name"},
                    "arguments": {"type": "object", "description": "Its arguments", "additionalProperties": True},
                },
                "required": ["name"],
            },
        },
    ]
