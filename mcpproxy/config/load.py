"""TOML → Config, or every mistake at once.

The reader walks the data beside the model: where the model has a table it looks for a table, and every key it does not know, cannot read
or misses becomes a finding while the walk goes on with the default (or a blank) in its place. So there is always a whole Config for
`check` to look at, and one run names everything; what check says about a place that was already found wrong is dropped. A Config with
findings never leaves this file.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import select
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from msgspec import structs

from mcpproxy.clock import monotonic
from mcpproxy.config import check, files, programs
from mcpproxy.config.kinds import ENVIRONMENT_NAME, Auto, Key, Kind, Named, Pairs, Secret, Table, Tables, Words
from mcpproxy.config.mistakes import ConfigErrors, Finding, Mistake, Wrong, nearest, show_value
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import LATER, TABLES, Config
from mcpproxy.config.names import upstream_name
from mcpproxy.config.places import places

__all__ = ["ConfigErrors", "Loaded", "Mistake", "load", "read", "read_tables", "serve_config"]

LARGEST_FILE = 4 << 20  # bytes; thousands of routes fit, and a mistaken path to a log or an image is refused before it is read
PIPE_S = 5.0  # seconds that a pipe has to say all of it: a reload waits here, with every signal behind it
POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what `mcpproxy check` has to say beside it."""

    config: Config
    warnings: tuple[Mistake, ...]
    lines: Mapping[Place, int]

    def check_files(self) -> list[Mistake]:
        """check.check_files with the lines of this file."""
        return [finding.located(self.lines) for finding in files.broken(self.config)]

    def file_warnings(self, now: float) -> list[Mistake]:
        """Keys others can read, certificates that expire. `now` is Unix time."""
        return [finding.located(self.lines) for finding in files.unwise(self.config, now)]


def load(source: str | Path) -> Config:
    """The configuration in a file, or in a text (a str with a line break or "="). Raises ConfigErrors; OSError for an unreadable file."""
    return read(source).config


def read(source: str | Path) -> Loaded:
    """As load(), with warnings and the means to check the files it names."""
    if isinstance(source, Path) or not ("\n" in source or "=" in source or not source):
        file = Path(source)
        return _load_text(_text_of(file), os.path.abspath(file.parent), str(file))
    return _load_text(source, "", "the configuration")


def sketch(file: Path) -> Config:
    """What a file with mistakes says as far as it can be understood: never to serve by. Raises ConfigErrors where it is not TOML; OSError."""
    return _read_data(_parse(_text_of(file), str(file)), os.path.abspath(file.parent))[0]


def read_tables(of: type, file: Path) -> tuple[Any, Mapping[Place, int]]:
    """Another file of tables, described as the configuration is; and its lines. Raises ConfigErrors; OSError for an unreadable file."""
    text = _text_of(file)
    data = _parse(text, str(file))
    lines = places(text)
    reader = Reader(os.path.abspath(file.parent))
    found = reader.table(of, data, ())
    if reader.findings:
        raise ConfigErrors([finding.located(lines) for finding in reader.findings], str(file))
    return found, lines


def serve_config(
    *words: str, listen: str | None = None, no_tls: bool = False, state_dir: str | None = None, bridge: bool = False
) -> Config:
    """Quick mode: one listener (127.0.0.1:8443 with a development certificate, or 127.0.0.1:8080 without TLS) before one server: a URL, or the words of a
    command. Such a server works here and has the environment of who starts it, as if it had been started by hand."""
    if listen is None:
        listen = "127.0.0.1:8080" if no_tls else "127.0.0.1:8443"
    listener: dict[str, object] = {"address": listen}
    if not no_tls:
        listener["tls"] = "dev"
    data: dict[str, object] = {"listen": [listener], "upstream": {"server": _server(words, bridge)}, "route": [{"upstream": "server"}]}
    data["admin"] = {"address": "off"}
    if state_dir is not None:
        data["state_dir"] = state_dir
    config, findings = _read_data(data, os.getcwd())
    if findings:
        given = {("listen", 0, "address"): "--listen", ("upstream", "server", "urls", 0): "URL", ("state_dir",): "--state-dir"}
        raise ConfigErrors([Mistake(given.get(f.place, ""), None, f.message, f.choices) for f in findings], "serve")
    if is_command(words) and (missing := [Mistake("COMMAND", None, f.message) for f in programs.unwise(config)]):
        raise ConfigErrors(missing, "serve")
    return config


def is_command(words: Sequence[str]) -> bool:
    """A URL is one word with a colon in it; everything else is a program and its arguments."""
    return len(words) != 1 or ":" not in words[0]


def _server(words: Sequence[str], bridge: bool) -> dict[str, object]:
    if is_command(words):
        inherited = [name for name in os.environ if ENVIRONMENT_NAME.fullmatch(name)]
        return {"command": list(words), "start": "warm", "idle_stop": "off", "cwd": os.getcwd(), "inherit": inherited}
    if not bridge:
        return {"urls": list(words)}
    scheme, separator, rest = words[0].partition("://")
    place, slash, path = rest.partition("/")
    found: dict[str, object] = {"urls": [f"{scheme}{separator}{place}"], "bridge": True}
    return found | {"mcp_path": f"/{path}"} if slash and path else found


def _load_text(text: str, base: str, name: str) -> Loaded:
    data = _parse(text, name)
    lines = places(text)
    config, findings = _read_data(data, base)
    if findings:
        raise ConfigErrors([finding.located(lines) for finding in findings], name)
    return Loaded(config, tuple(finding.located(lines) for finding in check.unwise(config)), lines)


def _bytes_of(file: Path) -> bytes:
    """As many as we take, and one. A pipe (`-c <(…)`) may be slow, but nobody is waited for for ever."""
    deadline = monotonic() + PIPE_S
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as stream:
        raw = b""
        while len(raw) <= LARGEST_FILE:
            data = stream.read(LARGEST_FILE + 1 - len(raw))
            if data is None:
                if not select.select([descriptor], [], [], max(0.0, deadline - monotonic()))[0]:
                    raise TimeoutError(errno.ETIMEDOUT, "is a pipe that nobody writes to")
                continue
            if not data:
                break
            raw += data
    return raw


def _text_of(file: Path) -> str:
    raw = _bytes_of(file)
    if len(raw) > LARGEST_FILE:
        raise ConfigErrors([Mistake("", None, f"larger than {LARGEST_FILE >> 20} MiB: this is no configuration")], str(file))
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigErrors([Mistake("", line, f"not UTF-8 (byte 0x{raw[error.start]:02x})")], str(file)) from None


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigErrors([Mistake("", None, "nested too deeply")], name) from None
    except ValueError as error:  # tomllib's own error, or a number of more digits than int() reads
        message, where = str(error), POSITION.search(str(error))
        line = int(where[1]) if where and where[1] else text.count("\n") + 1 if where else None
        column = f"column {where[2]}: " if where and where[2] else ""
        sentence = POSITION.sub("", message)
        if sentence == "Invalid value":
            sentence += '; texts stand in quotes: "/etc/x", "30s"'
        raise ConfigErrors([Mistake("", line, f"{column}not TOML: {sentence}")], name) from None


def _read_data(data: Mapping[str, Any], base: str) -> tuple[Config, list[Finding]]:
    reader = Reader(base)
    config = reader.table(Config, data, ())
    if isinstance(config.workers, Auto):
        config = structs.replace(config, workers=Auto(check.sensible_workers(config, files.cores())))
    wrong = {finding.place for finding in reader.findings}
    later = [finding for finding in check.problems(config) if not finding.touches(wrong)]
    return config, reader.findings + later


@functools.cache
def keys_of(table: type) -> dict[str, Key]:
    """The keys of a table of the model, with what is known about each."""
    hints = get_type_hints(table, include_extras=True)
    return {name: next(note for note in hints[name].__metadata__ if isinstance(note, Key)) for name in table.__struct_fields__}  # type: ignore[attr-defined]


@functools.cache
def fields_of(table: type) -> tuple[structs.FieldInfo, ...]:
    """What msgspec finds out anew, in a millisecond, whenever it is asked: there may be thousands of routes."""
    return structs.fields(table)


class Reader:
    """Reads one file's data; `findings` collects what is wrong with it."""

    def __init__(self, base: str) -> None:
        self.findings: list[Finding] = []
        self._base = base

    def table(self, of: type, data: object, place: Place) -> Any:
        """A structure of the model from a TOML table."""
        keys = keys_of(of)
        if not isinstance(data, Mapping):
            shown = (
                "" if any(isinstance(key.kind, Secret) for key in keys.values()) else f"{show_value(data)}: "
            )  # it may be one, out of place
            self._wrong(place, Wrong(f"{shown}must be a table with the keys {', '.join(keys)}"))
            return of(**{field.name: _blank(keys[field.name].kind) for field in fields_of(of) if field.required})
        values = {}
        for name, value in data.items():
            if name in keys:
                try:
                    values[name] = self._value(keys[name].kind, value, (*place, name))
                except Wrong as wrong:
                    self._wrong((*place, name), wrong)
            else:
                self._wrong((*place, name), _unknown(of, name, keys))
        for field in fields_of(of):
            if field.required and field.name not in values:
                values[field.name] = _blank(keys[field.name].kind)
                if field.name not in data:
                    self._wrong((*place, field.name), Wrong(f"is missing: {keys[field.name].about}"))
        return of(**values)

    def _value(self, kind: Kind, value: object, place: Place) -> Any:
        if isinstance(kind, Table):
            if kind.word and not isinstance(value, Mapping):
                if value != kind.word:
                    near = nearest(value, [kind.word]) if isinstance(value, str) else ""
                    raise Wrong(f'{show_value(value)}: must be "{kind.word}" or a table with the keys {", ".join(keys_of(kind.of))}{near}')
                return value
            return self.table(kind.of, value, place)
        if isinstance(kind, Tables):
            header = f"[[{'.'.join(part for part in place if isinstance(part, str))}]]"
            if isinstance(value, Mapping):
                raise Wrong(f"there can be several of these: write {header}, in double brackets")
            if not isinstance(value, list):
                raise Wrong(f"{show_value(value)}: must be a list of tables: write {header} and its keys below it")
            return tuple(self.table(kind.of, item, (*place, number)) for number, item in enumerate(value))
        if isinstance(kind, Named):
            if not isinstance(value, Mapping):
                raise Wrong(f"each of these has a name: write [{place[-1]}.NAME], in single brackets")
            return {name: self._named(kind, name, item, (*place, name)) for name, item in value.items()}
        if isinstance(kind, Words):
            return self._words(kind, value, place)
        if isinstance(kind, Pairs):
            return self._pairs(kind, value, place)
        return kind.read(value, self._base)

    def _named(self, kind: Named, name: str, value: object, place: Place) -> Any:
        try:
            (kind.syntax or upstream_name)(name)
        except Wrong as wrong:
            self._wrong(place, wrong)
        return self.table(kind.of, value, place)

    def _words(self, kind: Words, value: object, place: Place) -> tuple[Any, ...]:
        if kind.bare and isinstance(value, str):
            return (kind.item.read(value, self._base),)
        if not isinstance(value, list):
            raise Wrong(
                f"{show_value(value)}: must be {'a text or ' if kind.bare else ''}a list in brackets"
                + (f": [{show_value(value)}]" if isinstance(value, str) else "")
            )
        if len(value) < kind.least:
            raise Wrong("the list is empty")
        found: list[Any] = []
        for number, item in enumerate(value):
            try:
                read = kind.item.read(item, self._base)
                if kind.distinct and any(read == other and type(read) is type(other) for other in found):  # true is not 1
                    raise Wrong(f"{show_value(item)}: is there twice")
                found.append(read)
            except Wrong as wrong:
                self._wrong((*place, number), wrong)
        return tuple(found)

    def _pairs(self, kind: Pairs, value: object, place: Place) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Wrong(f"must be a table: write [{'.'.join(map(str, place))}], or {{ NAME = … }}")
        found = {}
        for name, item in value.items():
            try:
                found[kind.syntax(name) if kind.syntax is not None else name] = kind.item.read(item, self._base)
            except Wrong as wrong:
                self._wrong((*place, name), wrong)
        return found

    def _wrong(self, place: Place, wrong: Wrong) -> None:
        self.findings.append(Finding(place, wrong.message, wrong.choices))


def _unknown(of: type, name: str, keys: Mapping[str, Key]) -> Wrong:
    if name in LATER.get(of, ()):
        return Wrong(f"is not in this version: {LATER[of][name]}")
    owners = [title for table, title in TABLES.items() if table is not of and name in keys_of(table)]
    hint = f"; it belongs into {' or '.join(owners)}" if owners else nearest(name, keys)
    return Wrong(f"there is no such key here{hint}", sorted(keys))


def _blank(kind: Kind) -> Any:
    """What stands for a needed value that is missing or wrong; check passes over it."""
    return () if isinstance(kind, Words | Tables) else {} if isinstance(kind, Named | Pairs) else ""
