"""Cases: calls and the verdicts an operator expects of them, in a file beside the configuration (`mcpproxy policy test`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Struct

from mcpproxy.config import names
from mcpproxy.config.kinds import Choice, Flag, Key, Kind, Tables, Text, Words
from mcpproxy.config.mistakes import Wrong, show_value

WORD = Text("text", names.words)


@dataclass(frozen=True, slots=True)
class Json(Kind):
    """A table that is JSON too: kept as its text."""

    label: str = "table"

    def read(self, value: object, base: str) -> str:
        if not isinstance(value, Mapping):
            raise Wrong(f'{show_value(value)}: must be a table: {{ path = "/srv" }}')
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise Wrong("has something in it that JSON has not: a date, a time, nan, inf, or too many levels") from None


@dataclass(frozen=True, slots=True)
class Where(Kind):
    """A route by its number in the file, or by a URL that leads to it."""

    label: str = "number or URL"

    def read(self, value: object, base: str) -> str:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise Wrong(f'{show_value(value)}: must be the number of a route, beginning with 0, or a URL or path: "/mcp"')
        return str(value)


class Case(Struct, frozen=True, kw_only=True):
    """One call, and what is expected of it."""

    expect: Annotated[Literal["allow", "deny"], Key(Choice('"allow" or "deny"', ("allow", "deny")), "What shall become of the call.")]
    rule: Annotated[str | None, Key(WORD, 'The rule that shall decide: `"route[0].tools.deny[1]"`.')] = None
    name: Annotated[str | None, Key(WORD, "What this case is about, in your words.")] = None
    route: Annotated[str | None, Key(Where(), "The route, where more than one has rules.")] = None
    who: Annotated[str | None, Key(WORD, "The caller's name; without it nobody is named.")] = None
    roles: Annotated[tuple[str, ...], Key(Words("text or list", WORD, bare=True), "The caller's roles.")] = ()
    scopes: Annotated[tuple[str, ...], Key(Words("text or list", WORD, bare=True), "The caller's scopes.")] = ()
    method: Annotated[str, Key(WORD, "The JSON-RPC method.")] = "tools/call"
    tool: Annotated[str | None, Key(Text("text", str), "The tool (or prompt, URI of a resource, id of a task).")] = None
    args: Annotated[str | None, Key(Json(), "The arguments.")] = None
    read_only: Annotated[bool, Key(Flag(), "The tool says of itself that it changes nothing.")] = False


class Cases(Struct, frozen=True, kw_only=True):
    """The whole file."""

    case: Annotated[tuple[Case, ...], Key(Tables("list of tables", Case), "The cases.")]
