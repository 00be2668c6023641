"""The kinds of value a key can have: how each is read from TOML, how a default is shown, what the reference calls it.

A kind is a small frozen rule. `read(value, base)` returns what the model holds, or raises Wrong; `base` is the directory of the
configuration file, against which relative file names are meant. A kind never looks at other keys (check does) and never at the disk
(check_files does).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeGuard

from mcpproxy import units
from mcpproxy.config.mistakes import Wrong, nearest, show_value

LONGEST = 366 * 86_400.0  # seconds: a longer wait is a wrong unit
LARGEST = 1 << 50  # bytes: 1 PiB likewise
MOST = 1 << 31  # of anything counted
PROCESSES = 64  # each has the memory of one, and its place in every bucket of a limit
INTEGERS = 1 << 63  # TOML promises those below it; larger ones other parsers take for something else
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about a key beside its type and default: kind, documentation, and the default in words where no value shows it."""

    kind: Kind
    about: str
    default: str = ""


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
    """Seconds as float, more than zero unless `zero` has a meaning. `never` is a word for none: None."""

    label: str = "duration"
    zero: bool = False
    never: str = ""

    def read(self, value: object, base: str) -> float | None:
        if self.never and value == self.never:
            return None
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
        if value is None:
            return f'"{self.never}"' if self.never else "not set"
        return f'"{units.show_duration(value)}"'


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
    """An integer from `least` to `most`."""

    label: str = "number"
    least: int = 1
    most: int = MOST

    def read(self, value: object, base: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            hint = f", without quotes: {value}" if isinstance(value, str) and value.isascii() and value.isdigit() else ""
            raise Wrong(f"{show_value(value)}: must be a whole number{hint}")
        if value < self.least:
            raise Wrong(f"{show_value(value)}: must be at least {self.least}")
        if value > self.most:
            raise Wrong(f"{show_value(value)}: must be at most {self.most}")
        return value


class Auto(int):
    """A number of processes that nobody asked for: it yields to what is asked for."""


AUTO = Auto(1)  # until the cores are counted and the rest is read (load)


@dataclass(frozen=True, slots=True)
class Processes(Count):
    """How many processes."""

    label: str = 'number or "auto"'

    def read(self, value: object, base: str) -> int:
        if value == "auto":
            return AUTO
        if isinstance(value, str) and not value.isdigit():
            raise Wrong(f'{show_value(value)}: must be a whole number, or "auto"')
        count = Count.read(self, value, base)
        if count > PROCESSES:
            raise Wrong(f"{show_value(value)}: must be at most {PROCESSES}")
        return count


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
class Secret(Kind):
    """Where a secret is to be found, never the secret itself: `env:NAME`, or `file:path` (one line; relative to the configuration file)."""

    label: str = "secret reference"

    def read(self, value: object, base: str) -> str:
        where, _, what = value.partition(":") if isinstance(value, str) else ("", "", "")
        if where == "env" and ENVIRONMENT_NAME.fullmatch(what):
            return f"env:{what}"
        if where == "file" and what and not what.startswith("~") and "\0" not in what:
            return f"file:{what}" if what.startswith("/") or not base else f"file:{base}/{what}"
        raise Wrong('a secret is not written here (the value is not shown): give "env:NAME" or "file:path"', ('"env:NAME"', '"file:path"'))


@dataclass(frozen=True, slots=True)
class Given(Secret):
    """A text that may be a secret: plain, or `env:NAME`, `file:path`. It is never repeated in a message."""

    label: str = "text or secret reference"

    def read(self, value: object, base: str) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise Wrong("must be a text in quotes (the value is not shown)")
        return Secret.read(self, value, base) if value.startswith(("env:", "file:")) else value


@dataclass(frozen=True, slots=True)
class Frequency(Kind):
    """So many per time, and how many may come at once: `"30/m"`, `"5/s burst 20"`."""

    label: str = "rate"

    def read(self, value: object, base: str) -> units.Rate:
        try:
            return units.rate(value)
        except ValueError as error:
            raise Wrong(f"{show_value(value)}: {error}") from None

    def show(self, value: Any) -> str:
        return "not set" if value is None else f'"{units.show_rate(value)}"'


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A finite number, with or without a fraction."""

    label: str = "number"

    def read(self, value: object, base: str) -> float:
        if not is_number(value):
            raise Wrong(f"{show_value(value)}: must be a number")
        return value


@dataclass(frozen=True, slots=True)
class Scalar(Kind):
    """A text, number or truth value, to be compared with one in JSON."""

    label: str = "text, number or true/false"

    def read(self, value: object, base: str) -> str | float | bool:
        if isinstance(value, str | bool) or is_number(value):
            return value
        raise Wrong(f"{show_value(value)}: must be a text, a number, true or false")


def is_number(value: object) -> TypeGuard[int | float]:
    """Is this a number that means the same to everybody?"""
    if isinstance(value, float):
        return isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool) and -INTEGERS <= value < INTEGERS


@dataclass(frozen=True, slots=True)
class Words(Kind):
    """A list of `item`s, each once unless they need not be `distinct`. A single one may stand without brackets where `bare`."""

    item: Kind
    bare: bool = False
    least: int = 0
    distinct: bool = True

    def show(self, value: Any) -> str:
        return show_value(list(value)) if value else "not set"


@dataclass(frozen=True, slots=True)
class File(Kind):
    """A file or directory; relative names are meant from the directory of the configuration file. `words` are no files; where there are some, a name
    with neither a slash nor a dot is taken for one of them, written wrongly."""

    label: str = "file"
    words: tuple[str, ...] = ()

    def read(self, value: object, base: str) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise Wrong(f"{show_value(value)}: must be the name of a file, in quotes")
        if value in self.words:
            return value
        if value.startswith("~"):
            raise Wrong(f'{show_value(value)}: "~" is nobody\'s home here; give the whole path (or "./~…" for a file of that name)')
        if self.words and "/" not in value and ("." not in value or nearest(value, self.words)):
            words = ", ".join(f'"{word}"' for word in self.words)
            raise Wrong(f'{show_value(value)}: must be {words} or the name of a file, like "./{value}"{nearest(value, self.words)}')
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
    """Tables by name: `[upstream.search]`. `syntax` is that of the names; without one they are names of ours, as logs and routes use them."""

    of: type
    syntax: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Pairs(Kind):
    """`item`s by names that are not ours: `{ read_file = "read" }`. `syntax` is that of the names."""

    item: Kind
    syntax: Callable[[str], str] | None = None

    def show(self, value: Any) -> str:
        return "none"
