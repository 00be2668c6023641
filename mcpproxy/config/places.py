"""On which line of a TOML text does a value stand?

tomllib tells no positions, so this walks the text a second time: a tokenizer and a small recursive reader that know only as much of TOML
as is needed to follow keys, tables and lists. It is shown only texts tomllib has accepted; on anything it does not understand it stops
and knows less, it never raises.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from mcpproxy.config.mistakes import Path

TOKEN = re.compile(
    r'''(?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')'''
    r"|(?P<skip>[ \t\r]+|#[^\n]*)|(?P<newline>\n)|(?P<mark>[][{}=,.])|(?P<word>[^][{}=,.\s#\"']+)",
    re.DOTALL,
)


DEEPEST = 8  # levels of keys that get a line; the model has six


class Stop(Exception):
    """The walk cannot go on."""


def places(text: str) -> dict[Path, int]:
    """Path of every key, table and list item → its line, counted from 1."""
    walk = Walk(text)
    try:
        walk.document()
    except (Stop, RecursionError, tomllib.TOMLDecodeError):
        pass  # the rest of the text has no lines then
    return walk.found


class Walk:
    """One pass over a text."""

    def __init__(self, text: str) -> None:
        self.found: dict[Path, int] = {}
        self._tokens = self._scan(text)
        self._lists: dict[Path, int] = {}  # [[name]] → how many so far
        self._step()

    def document(self) -> None:
        """Headers and pairs, line by line."""
        table: Path = ()
        while self._kind != "end":
            if self._kind == "newline":
                self._step()
            elif self._value == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        line = self._line
        self._take("[")
        is_list = self._value == "["
        if is_list:
            self._take("[")
        path = self._inside_lists(self._key())
        self._take("]")
        if is_list:
            self._take("]")
            number = self._lists.get(path, 0)
            self._lists[path] = number + 1
            self.found.setdefault(path, line)
            path = (*path, number)
        self._note(path, line)
        return path

    def _inside_lists(self, key: Path) -> Path:
        """[route.tools] belongs to the last [[route]]."""
        path: Path = ()
        for part in key[:-1]:
            path = (*path, part)
            if path in self._lists:
                path = (*path, self._lists[path] - 1)
        return (*path, key[-1])

    def _pair(self, table: Path) -> None:
        line = self._line
        path = table + self._key()
        self._note(path, line)
        self._take("=")
        self._read(path)

    def _read(self, path: Path) -> None:
        if self._value == "[":
            self._list(path)
        elif self._value == "{":
            self._inline_table(path)
        else:
            while self._kind in ("word", "text") or self._value == ".":  # 1.5 and dates are several tokens
                self._step()

    def _list(self, path: Path) -> None:
        self._take("[")
        number = 0
        while True:
            self._blank()
            if self._value == "]":
                return self._step()
            self._note((*path, number), self._line)
            self._read((*path, number))
            number += 1
            self._blank()
            if self._value == ",":
                self._step()
            elif self._value != "]":
                raise Stop

    def _inline_table(self, path: Path) -> None:
        self._take("{")
        while True:
            self._blank()
            if self._value == "}":
                return self._step()
            self._pair(path)
            self._blank()
            if self._value == ",":
                self._step()
            elif self._value != "}":
                raise Stop

    def _key(self) -> Path:
        parts: list[str] = []
        while True:
            if self._kind == "text":
                parts.append(tomllib.loads(f"k = {self._value}")["k"])
            elif self._kind == "word":
                parts.append(self._value)
            else:
                raise Stop
            self._step()
            if self._value != ".":
                return tuple(parts)
            self._step()

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, min(len(path), DEEPEST) + 1):  # a.b.c = 1 is also the first place of a and a.b
            self.found.setdefault(path[:length], line)

    def _blank(self) -> None:
        while self._kind == "newline":
            self._step()

    def _take(self, mark: str) -> None:
        if self._value != mark:  # a text token keeps its quotes, so it is never equal to a mark
            raise Stop
        self._step()

    def _step(self) -> None:
        self._kind, self._value, self._line = next(self._tokens)

    @staticmethod
    def _scan(text: str) -> Iterator[tuple[str, str, int]]:
        line, position = 1, 0
        while position < len(text):
            found = TOKEN.match(text, position)
            if found is None:
                break
            kind, value = str(found.lastgroup), found[0]
            if kind != "skip":
                yield kind, value, line
            line += value.count("\n")
            position = found.end()
        while True:
            yield "end", "", line
