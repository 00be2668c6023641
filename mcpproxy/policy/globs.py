"""Globs as shells have them: `*` any text, `?` any character, `[a-z]` and `[!a-z]` one of a set. Case counts. Compiled once, and never slow.

The pieces between the stars have a fixed length, so each is looked for once, as far left as it fits: whatever fits further right fits there too.
No pattern and no text, however unkind, takes longer than the product of their lengths (a regular expression with many `.*` may take a power of it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

Matcher = Callable[[str], bool]


def glob(pattern: str) -> Matcher:
    """Does a text fit `pattern` from end to end? The same as fnmatch.fnmatchcase."""
    pieces = list(_pieces(pattern))
    if len(pieces) == 1 and _is_literal(pattern):
        return pattern.__eq__
    if pieces == [([], ""), ([], "")]:
        return lambda text: True
    if len(pieces) == 2 and pattern.endswith("*") and _is_literal(pattern[:-1]):
        start = pattern[:-1]
        return lambda text: text.startswith(start)
    first, *middle = [(re.compile(expression, re.DOTALL), len(characters)) for characters, expression in pieces]
    if not middle:
        return lambda text: first[0].fullmatch(text) is not None
    last, last_size = middle.pop()

    def fits(text: str) -> bool:
        end = len(text) - last_size
        place = first[1]
        if place > end or first[0].match(text) is None or last.match(text, end) is None:
            return False
        for piece, size in middle:
            found = piece.search(text, place, end)
            if found is None:
                return False
            place = found.start() + size
        return True

    return fits


def globs(patterns: Iterable[str]) -> Matcher:
    """Does a text fit one of `patterns`?"""
    given = tuple(patterns)
    plain = frozenset(pattern for pattern in given if _is_literal(pattern))
    others = [glob(pattern) for pattern in given if pattern not in plain]
    if not others:
        return plain.__contains__
    if len(others) == 1 and not plain:
        return others[0]
    return lambda text: text in plain or any(fits(text) for fits in others)


def _is_literal(pattern: str) -> bool:
    return not any(sign in pattern for sign in "*?[")


def _pieces(pattern: str) -> Iterable[tuple[list[str], str]]:
    """What stands between the stars: its characters (a set is one), and its regular expression. Stars in a row are one star."""
    characters: list[str] = []
    place = 0
    while place < len(pattern):
        end = place + 1
        if pattern[place] == "*":
            yield characters, "".join(characters)
            characters = []
            while pattern[end : end + 1] == "*":
                end += 1
        else:
            if pattern[place] == "[":
                end = _set_end(pattern, place)
            characters.append(translate(pattern[place:end])[4:-3])  # without the (?s: and )\\Z around it
        place = end
    yield characters, "".join(characters)


def _set_end(pattern: str, place: int) -> int:
    """Where the set that begins at `place` ends. Without an end it is a bracket."""
    inner = place + 1
    inner += pattern[inner : inner + 1] == "!"
    inner += pattern[inner : inner + 1] == "]"
    end = pattern.find("]", inner)
    return end + 1 if end >= 0 else place + 1
