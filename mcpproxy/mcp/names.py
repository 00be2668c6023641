"""By which names do clients see what many servers have? Names that stay, and fit (MCP server/tools: names; SEP-986).

    own name ──prefix or rename──▶ whole name ──too long? hash──▶ seen name ──Table──▶ whose it is

1. A seen name depends on its own server's name and settings alone, never on what others have: a server that is added changes no name.
2. One that is longer than the limit is cut and ends with a hash of the whole: the same today and tomorrow, here and on another node.
3. Where two want one name nobody guesses: the first in the configured order has it, the other is left out, and that is reported. URIs cannot be left out so
   easily, since servers say them in results, too: the later one is wrapped (`member+uri`), but for http(s), which clients fetch themselves.

Pure functions and tables; nothing here knows where names come from.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

BETWEEN = "_"  # prefix and name: LLM APIs take letters, digits, `_` and `-` only
HASH = 8  # characters of the hash, base32: 40 bits
LIMIT = 64  # characters: what LLM APIs take; MCP itself takes 128
_serials = count(1)
SHORTENED, DUPLICATE = "shortened", "duplicate"


def shortened(name: str, limit: int) -> str:
    """`name`, or as much of it as fits before a hash of all of it."""
    if len(name) <= limit:
        return name
    mark = b32encode(sha256(name.encode("utf-8", "surrogatepass")).digest())[:HASH].decode().lower()
    return name[: limit - HASH - 1] + BETWEEN + mark


@dataclass(frozen=True, slots=True)
class Naming:
    """How the names of one server are seen. `rename`: by its own name the whole new one; `limit`: characters."""

    prefix: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)
    limit: int = LIMIT

    def whole(self, own: str) -> str:
        """The name before it is shortened."""
        given = self.rename.get(own)
        if given is not None:
            return given
        return f"{self.prefix}{BETWEEN}{own}" if self.prefix else own

    def seen(self, own: str) -> str:
        """The name clients see, unless another server has it."""
        return shortened(self.whole(own), self.limit)

    def own(self, seen: str) -> str | None:
        """The own name that would be seen so without a look at any list; None: it cannot be told (renamed, shortened), or is none of this server's."""
        if len(seen) > self.limit:
            return None
        if self.prefix:
            if not seen.startswith(self.prefix + BETWEEN):
                return None
            seen = seen[len(self.prefix) + len(BETWEEN) :]
        return None if not seen or seen in self.rename else seen


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about names that an operator should know: `kind` is SHORTENED or DUPLICATE; `other`: the member that has the name."""

    kind: str
    member: int
    own: str
    seen: str
    other: int = -1


class Table:
    """Whose name is it? Members are numbers, in the configured order."""

    __slots__ = ("_back", "_others", "_there", "findings", "serial")

    def __init__(self) -> None:
        self.serial = next(_serials)  # no other table has it
        self._others: dict[int, dict[str, str]] = {}
        self._there: dict[str, tuple[int, str]] = {}
        self._back: dict[tuple[int, str], str] = {}
        self.findings: list[Finding] = []

    @classmethod
    def of_names(cls, members: Sequence[tuple[Naming, Iterable[str]]]) -> Table:
        """Tools or prompts: of each member how they are named, and its own names."""
        table = cls()
        for number, (naming, names) in enumerate(members):
            # What the operator named goes first, then the order of names, so it never depends on the order of a server's list.
            for own in sorted(set(names), key=lambda name: (name not in naming.rename, name)):
                seen = naming.seen(own)
                if seen != naming.whole(own):
                    table.findings.append(Finding(SHORTENED, number, own, seen))
                if not table._put(number, own, seen):
                    table.findings.append(Finding(DUPLICATE, number, own, seen, table._there[seen][0]))
        return table

    @classmethod
    def of_uris(cls, members: Sequence[tuple[str, Iterable[str]]]) -> Table:
        """Resources or templates: of each member the word before its wrapped URIs, and its URIs."""
        table = cls()
        for number, (word, uris) in enumerate(members):
            for own in sorted(set(uris)):
                if table._put(number, own, own):
                    continue
                other = table._there[own][0]
                if own[:8].lower().startswith(("http://", "https://")) or not table._put(number, own, wrapped(word, own)):
                    table.findings.append(Finding(DUPLICATE, number, own, own, other))
        return table

    def _put(self, number: int, own: str, seen: str) -> bool:
        if seen in self._there:
            return False
        self._there[seen] = number, own
        self._back[number, own] = seen
        if own != seen:
            self._others.setdefault(number, {})[own] = seen
        return True

    def whose(self, seen: str) -> tuple[int, str] | None:
        """The member and its own name."""
        return self._there.get(seen)

    def seen(self, member: int, own: str) -> str | None:
        """The name clients see; None: it is left out, or not known."""
        return self._back.get((member, own))

    def changed(self, member: int) -> Mapping[str, str]:
        """Own names of a member that are seen as others."""
        return self._others.get(member, {})

    def __len__(self) -> int:
        return len(self._there)


def word_of(member: str) -> str:
    """A member's name as what may stand before the `+` of a URI's scheme (RFC 3986 §3.1)."""
    word = "".join(each if each.isascii() and each.isalnum() else "-" for each in member.lower())
    return word if word[:1].isalpha() else f"m{word}"


def wrapped(word: str, uri: str) -> str:
    """A URI that another member has, too. Also of a template."""
    return f"{word}+{uri}"


def unwrapped(words: Mapping[str, int], uri: str) -> tuple[int, str] | None:
    """The member and its URI, if it is wrapped."""
    word, plus, rest = uri.partition("+")
    number = words.get(word) if plus else None
    return None if number is None or ":" not in rest else (number, rest)


def by_prefix(namings: Sequence[Naming], seen: str, allowed: Callable[[int, str], bool]) -> list[tuple[int, str]]:
    """Members whose name this may be, by its prefix alone, for names in no list that was seen."""
    found = [(number, own) for number, naming in enumerate(namings) if (own := naming.own(seen)) is not None]
    return [each for each in found if allowed(*each)]
