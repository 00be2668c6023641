"""The kinds of value a key can have: how each is read from TOML, how a default is shown, what the reference calls it.

A kind is a small frozen rule. `read(value, base)` returns what the model holds, or raises Wrong; `base` is the directory of the
configuration file, against which relative file names are meant. A kind never looks at other keys (check does) and never at the disk
(check_files does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mcpproxy import units
from mcpproxy.config.mistakes import Wrong, nearest, show_value

LONGEST = 366 * 86_400.0  # seconds: a longer wait is a wrong unit
LARGEST = 1 << 50  # bytes: 1 PiB likewise
MOST = 1 << 31  # of anything counted


@dataclass(frozen=True, slots=True)
class Kind:
    """`label` is its name in the reference."""

    label: str

    def read(self, value: object, base: str) -> Any:
        raise NotImplementedError

    def show(self, value: Any) -> str:
        """A value of the model as it is written in TOML."""
        return "not set" if value is None else show_value(value)


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """Seconds as float, more than zero unless `zero` has a meaning."""

    label: str = "duration"
    zero: bool = False

    def read(self, value: object, base: str) -> float:
        try:
            seconds = units.duration(value)
        except ValueError as error:
            raise Wrong(f"{show_value(value)}: {error}") from None
        if seconds == 0 and not self.zero:
            raise Wrong(f"{show_value(value)}: must be longer than zero")
        if seconds > LONGEST:
            raise Wrong(f"{show_value(value)}: longer than a year; is the unit right?")
        return seconds

    def show(self, value: Any) -> str:
        return "not set" if value is None else f'"{units.show_duration(value)}"'


@dataclass(frozen=True, slots=True)
class Size(Kind):
    """Bytes as int, from `least`."""

    label: str = "size"
    least: int = 1

    def read(self, value: object, base: str) -> int:
        try:
            count = units.size(value)
        except ValueError as error:
            raise Wrong(f"{show_value(value)}: {error}") from None
        if count < self.least:
            raise Wrong(f"{show_value(value)}: must be at least {units.show_size(self.least)}")
        if count > LARGEST:
            raise Wrong(f"{show_value(value)}: more than {units.show_size(LARGEST)}; is the unit right?")
        return count

    def show(self, value: Any) -> str:
        return f'"{units.show_size(value)}"'


@dataclass(frozen=True, slots=True)
class Count(Kind):
    """An integer from `least`."""

    label: str = "number"
    least: int = 1

    def read(self, value: object, base: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            hint = f", without quotes: {value}" if isinstance(value, str) and value.isascii() and value.isdigit() else ""
            raise Wrong(f"{show_value(value)}: must be a whole number{hint}")
        if value < self.least:
            raise Wrong(f"{show_value(value)}: must be at least {self.least}")
        if value > MOST:
            raise Wrong(f"{show_value(value)}: must be at most {MOST}")
        return value


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """true or false."""

    label: str = "true/false"

    def read(self, value: object, base: str) -> bool:
        if not isinstance(value, bool):
            raise Wrong(f"{show_value(value)}: must be true or false, without quotes", ("true", "false"))
        return value


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of a few words."""

    label: str = "word"
    words: tuple[str, ...] = ()

    def read(self, value: object, base: str) -> str:
        if value not in self.words:
            hint = nearest(value, self.words) if isinstance(value, str) else ""
            raise Wrong(f"{show_value(value)}: not a valid choice{hint}", [f'"{word}"' for word in self.words])
        return str(value)


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """A text in the syntax of a function of `names`."""

    syntax: Callable[[str], str]

    def read(self, value: object, base: str) -> str:
        if not isinstance(value, str):
            raise Wrong(f"{show_value(value)}: must be a text in quotes")
        try:
            return self.syntax(value)
        except Wrong as wrong:
            shown = f"{show_value(value)}: " if "@" not in value else ""  # it may hold a password
            raise Wrong(f"{shown}{wrong.message}", wrong.choices) from None


@dataclass(frozen=True, slots=True)
class Words(Kind):
    """A list of `item`s, each once. A single one may stand without brackets where `bare`."""

    item: Kind
    bare: bool = False
    least: int = 0

    def show(self, value: Any) -> str:
        return show_value(list(value)) if value else "not set"


@dataclass(frozen=True, slots=True)
class File(Kind):
    """A file or directory; relative names are meant from the directory of the configuration file. `words` are no files."""

    label: str = "file"
    words: tuple[str, ...] = ()

    def read(self, value: object, base: str) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise Wrong(f"{show_value(value)}: must be the name of a file, in quotes")
        if value in self.words:
            return value
        if value.startswith("~"):
            raise Wrong(f'{show_value(value)}: "~" is nobody\'s home here; give the whole path (or "./~…" for a file of that name)')
        if self.words and "/" not in value:
            words = ", ".join(f'"{word}"' for word in self.words)
            raise Wrong(f'{show_value(value)}: must be {words} or a path with a "/"{nearest(value, self.words)}', self.words)
        return value if value.startswith("/") or not base else f"{base}/{value}"


@dataclass(frozen=True, slots=True)
class Table(Kind):
    """A table of its own class. `word` is a value that may stand instead of the table."""

    of: type
    word: str = ""


@dataclass(frozen=True, slots=True)
class Tables(Kind):
    """A list of tables: `[[listen]]`."""

    of: type


@dataclass(frozen=True, slots=True)
class Named(Kind):
    """Tables by name: `[upstream.search]`."""

    of: type
