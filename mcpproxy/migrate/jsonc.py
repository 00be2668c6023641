"""JSON as editors write it: with comments and trailing commas. Names that come twice in an object are kept apart, for who wants to know."""

from __future__ import annotations

import json
from typing import Any

from mcpproxy.migrate.found import Unusable


class Object(dict[str, Any]):
    """A JSON object; `pairs` has all of its members, also those of one name."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def parse(text: str) -> Any:
    """The value. Raises Unusable, with the line."""
    try:
        return json.loads(plain(text), object_pairs_hook=Object)
    except json.JSONDecodeError as error:
        raise Unusable(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise Unusable("nested too deeply") from None
    except ValueError:  # a number of thousands of digits
        raise Unusable("not JSON: a number is too long") from None


def plain(text: str) -> str:
    """The text with blanks for comments and trailing commas: every line stays where it was."""
    out, at, end = [], 0, len(text)
    comma = -1  # place in `out` of a comma that nothing has followed yet
    while at < end:
        character = text[at]
        if character == '"':
            stop = _string_end(text, at)
            out.append(text[at:stop])
            at, comma = stop, -1
        elif text.startswith("//", at):
            stop = text.find("\n", at)
            at = end if stop < 0 else stop
        elif text.startswith("/*", at):
            stop = text.find("*/", at + 2)
            stop = end if stop < 0 else stop + 2
            out.append("\n" * text.count("\n", at, stop) or " ")
            at = stop
        else:
            if character == ",":
                comma = len(out)
            elif character in "]}" and comma >= 0:
                out[comma], comma = " ", -1
            elif not character.isspace():
                comma = -1
            out.append(character)
            at += 1
    return "".join(out)


def _string_end(text: str, start: int) -> int:
    at = start + 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return min(at + 1, len(text))
