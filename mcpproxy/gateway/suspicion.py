"""Does what a server says about its tools try to say something to the model behind people's backs?

    findings(name, entry, twin) → [Finding("description", "hidden text: …"), …]

Looked at: names, titles and descriptions, those of arguments in schemas, too, and whatever other text there is. Looked for: characters that nobody sees or
that turn text around, texts in tag characters and variation selectors, HTML comments, words meant for models only, long runs of base64, and names that look
like another tool's. It is a look, not a proof: whoever writes plainly what he wants is not found. What is approved in a lock file is not looked at.

The time grows with the text: strings are looked for in strings, and the one pattern repeats one class of characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mcpproxy.config.lockfile import TWICE, is_variation

DEPTH, TEXTS, LONGEST = 24, 2000, 64 * 1024  # of one entry: levels, texts and characters that are looked at; what is beyond is a finding
BLOB = 256  # characters of base64 in a row
SELECTORS = 3  # variation selectors in a row: an emoji has one
DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
ZERO_WIDTH = frozenset("\u200b\u2060\u2061\u2062\u2063\u2064\ufeff\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u3164\uffa0")
JOINERS = frozenset("\u200c\u200d")  # scripts and emoji need them: not between letters of ours
CONTROLS = frozenset(map(chr, (*range(32), *range(0x7F, 0xA0)))) - frozenset("\t\n\r")
PHRASES = (
    "ignore previous instructions",
    "ignore all previous",
    "ignore the previous instructions",
    "ignore your instructions",
    "disregard previous",
    "disregard all previous",
    "forget your instructions",
    "forget previous instructions",
    "override your instructions",
    "do not tell the user",
    "don't tell the user",
    "do not inform the user",
    "do not mention this to the user",
    "don't mention this to the user",
    "without telling the user",
    "without informing the user",
    "hide this from the user",
    "keep this secret from the user",
    "before using any other tool",
    "before using this tool, read",
    "before calling any other tool",
    "<important>",
    "</important>",
    "<system>",
    "</system>",
    "[system]",
    "<|im_start|>",
    "<|system|>",
    "[inst]",
    "system prompt:",
    "you must always call this tool first",
    "this tool must be called before",
    "~/.ssh/id_rsa",
    "~/.cursor/mcp.json",
    "~/.aws/credentials",
)
_flag = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{2,6}\U000e007f").sub
_blob = re.compile(rf"[A-Za-z0-9+/=_-]{{{BLOB},}}").search
# Letters of other scripts that look like ours (of Unicode's confusables those that names are made of), in lower case, and digits and signs that do.
_ALIKE = {
    "a": "аα",
    "b": "вƅ",
    "c": "сϲ",
    "d": "ԁ",
    "e": "еεҽ",
    "g": "ɡ",
    "h": "һн",
    "i": "іιɩı",
    "j": "јϳ",
    "k": "кκ",
    "l": "1ӏ|",
    "m": "м",
}
_ALIKE |= {
    "n": "пη",
    "o": "0оοσ",
    "p": "рρ",
    "q": "ԛ",
    "s": "ѕ",
    "t": "тτ",
    "u": "υս",
    "v": "νѵ",
    "w": "ԝω",
    "x": "хχ",
    "y": "уγ",
    "_": "-./",
}
_LOOKS = {each: plain for plain, all in _ALIKE.items() for each in all}


@dataclass(frozen=True, slots=True)
class Finding:
    """`place`: a path in the entry; `what`: for people, without a character that they cannot see."""

    place: str
    what: str


def findings(own: str, entry: object, twin: str) -> list[Finding]:
    """All that is suspicious about an entry, a line for each kind of thing and place. `twin`: the name that others see in its (`neighbours`), or its own."""
    found: list[Finding] = []
    if twin != own:
        found.append(Finding("name", f"looks like {ascii(twin)[1:-1][:100]}"))
    if not own.isascii():
        found.append(Finding("name", f"has letters that other names do not have: {ascii(own)[1:-1][:100]}"))
    for count, (place, text) in enumerate(_texts(entry, "", 0)):
        if count == TEXTS:
            found.append(Finding(place, f"has more than {TEXTS} texts"))
            break
        found += [Finding(place or "entry", what) for what in _looked_at(text)]
    return found


def _texts(value: object, place: str, depth: int) -> Iterator[tuple[str, str]]:
    """Every text with its place; the names of members, too: they are read like anything else."""
    if depth > DEPTH:
        yield place, "\0"  # too deep for anybody to look at
    elif isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, each in value.items():
            if key == TWICE:
                yield place, "\0"
            yield f"{place}.{ascii(key)[1:-1][:40]}".lstrip("."), key
            yield from _texts(each, f"{place}.{ascii(key)[1:-1][:40]}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, f"{place}[{number}]", depth + 1)


def _looked_at(text: str) -> Iterator[str]:
    if len(text) > LONGEST:
        yield f"is longer than {LONGEST} characters"
        text = text[:LONGEST]
    if not text.isascii():
        yield from _unseen(text)
    if not CONTROLS.isdisjoint(text):
        yield "has control characters"
    # Invisible characters between the letters of a phrase shall not hide it.
    words = " ".join(
        "".join(each for each in unicodedata.normalize("NFKC", text) if not _is_nothing(each)).lower().replace("\u2019", "'").split()
    )
    phrase = next((each for each in PHRASES if each in words), None)
    if phrase is not None:
        yield f"speaks to the model: {phrase}"
    if "<!--" in text:
        yield "has an HTML comment, which people do not see"
    blob = _blob(text)
    if blob is not None:
        yield f"has {len(blob[0])} characters of base64"


def _unseen(text: str) -> Iterator[str]:
    bare = _flag("", text)  # flags of regions are written with tag characters
    if any("\U000e0000" <= each <= "\U000e007f" for each in bare):
        hidden = "".join(chr(ord(each) - 0xE0000) for each in bare if "\U000e0020" <= each <= "\U000e007e")
        yield f"hidden text in tag characters: {ascii(hidden)[1:-1][:100]}"
    if not DIRECTIONS.isdisjoint(text):
        yield "turns text around (bidirectional controls)"
    if not ZERO_WIDTH.isdisjoint(text.removeprefix("\ufeff")) or _between_ours(text):
        yield "has characters of no width"
    run = 0
    for each in text:
        run = run + 1 if is_variation(each) else 0
        if run == SELECTORS:
            yield "has variation selectors in a row, which can hide a text"
            break


def _between_ours(text: str) -> bool:
    return any(
        each in JOINERS and 0 < place < len(text) - 1 and text[place - 1].isascii() and text[place + 1].isascii()
        for place, each in enumerate(text)
    )


def _is_nothing(character: str) -> bool:
    return (
        character in ZERO_WIDTH
        or character in JOINERS
        or character in DIRECTIONS
        or is_variation(character)
        or "\U000e0000" <= character <= "\U000e007f"
    )


def skeleton(name: str) -> str:
    """Names that look alike have the same one."""
    plain = unicodedata.normalize("NFKC", name).lower()
    return "".join(_LOOKS.get(each, each) for each in plain if not _is_nothing(each))


def neighbours(names: Iterable[str]) -> dict[str, str]:
    """skeleton → the name that has it: of several the one in ASCII, else the first in order."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda each: (not each.isascii(), each)):
        found.setdefault(skeleton(name), name)
    return found
