"""A mistake in a configuration, as the operator reads it: where, what, and what would be right.

line 12: route[0].idle_timeout: 30: a duration needs a unit: "30s" for seconds (ms, s, m, h, d)
line 15: route[1].upstream: there is no upstream "serch"; did you mean "search"? (choices: files, search)
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mcpproxy.errors import StartError

Path = tuple[str | int, ...]  # ("route", 0, "idle_timeout")
SHOWN_CHOICES = 24  # more choices than this are a list nobody reads
SHOWN_VALUE = 60  # characters of a given value that are repeated


@dataclass(frozen=True, slots=True)
class Mistake:
    """`path` is `route[0].idle_timeout` (empty: the whole file), `line` its line where known, `choices` what would be right."""

    path: str
    line: int | None
    message: str
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [] if self.line is None else [f"line {self.line}"]
        parts += [self.path] if self.path else []
        listed = f" (choices: {', '.join(self.choices)})" if 0 < len(self.choices) <= SHOWN_CHOICES else ""
        return printable(": ".join([*parts, self.message]) + listed)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a reader or a check found; it becomes a Mistake once the lines of the text are known.

    `given` is another place this conclusion rests on: when that (or an item of it, where it is a list) could not be read, the conclusion means nothing.
    """

    place: Path
    message: str
    choices: tuple[str, ...] = ()
    given: Path | None = None

    def located(self, lines: Mapping[Path, int]) -> Mistake:
        """With the line of the place, or of the nearest table around it that stands in the text."""
        line = next((lines[self.place[:n]] for n in range(len(self.place), 0, -1) if self.place[:n] in lines), None)
        return Mistake(show_path(self.place), line, self.message, self.choices)

    def touches(self, places: Collection[Path]) -> bool:
        """Is this about one of `places` (or something inside one or around one), or does it rest on one?"""
        if self.given is not None and any(
            place == self.given or (place[:-1] == self.given and isinstance(place[-1], int)) for place in places
        ):
            return True
        return any(self.place[: len(place)] == place or place[: len(self.place)] == self.place for place in places)


class ConfigErrors(StartError):
    """The configuration cannot be used: every mistake in it, in the order of the file."""

    def __init__(self, mistakes: Collection[Mistake], name: str = "the configuration") -> None:
        self.mistakes = sorted(mistakes, key=lambda mistake: (mistake.line is None, mistake.line or 0))
        number = len(self.mistakes)
        super().__init__(f"{name}: {number} mistake{'s' * (number != 1)}", "\n".join(map(str, self.mistakes)))


class Wrong(ValueError):
    """What a kind or a check says about one value; load adds path and line."""

    def __init__(self, message: str, choices: Collection[str] = ()) -> None:
        super().__init__(message)
        self.message, self.choices = message, tuple(choices)


def printable(text: str) -> str:
    """Without what would steer a terminal or turn the reading direction: a file may repeat anything into our sentences."""
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def show_path(path: Path) -> str:
    """`route[0].idle_timeout`; a key that is no bare TOML key is quoted: `upstream."a b".urls`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part.isascii() and part.replace("-", "").replace("_", "").isalnum()
            text += ("." if text else "") + (part if bare else json.dumps(part))
    return text


def show_value(value: object) -> str:
    """A given value as TOML shows it, shortened."""
    if isinstance(value, Mapping):
        return "a table"
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # 0xfff… of more digits than str() writes; a list in a list in a list…
        return "this value"
    return text if len(text) <= SHOWN_VALUE else text[: SHOWN_VALUE - 1] + "…"


def nearest(given: str, choices: Collection[str]) -> str:
    """` did you mean "…"?` or nothing."""
    close = difflib.get_close_matches(given[:SHOWN_VALUE].lower(), [choice for choice in choices if choice], n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""
