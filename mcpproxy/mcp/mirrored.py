"""Which arguments of a tool are to be mirrored in the head (`x-mcp-header`, MCP 2026-07-28, server/tools; SEP-2243)?

A client must drop a tool that asks for it in a wrong way: the name is an HTTP token and there once (in any case); it stands only at a string, an integer
or a boolean, and only where `properties` alone lead from the root. Whoever terminates requests and makes new ones is such a client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

WORD = "x-mcp-header"
SIMPLE = frozenset({"string", "integer", "boolean"})
DEPTH = 64  # of a schema that is looked into
DATA = frozenset({"enum", "const", "default", "examples", "example"})  # what stands there is no schema
MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})  # their keys are names
is_token = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+").fullmatch
_decode = msgspec.json.decode

Path = tuple[str, ...]


def asked(schema: bytes) -> Mapping[Path, str] | None:
    """Of an `inputSchema`: the path of each such argument and the name it is mirrored by. None: a client must drop this tool."""
    if WORD.encode() not in schema:
        return {}
    try:
        found = dict(_walk(_decode(schema), (), True, 0))
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    names = [name.lower() for name in found.values()]
    return found if len(set(names)) == len(names) else None


def _walk(schema: object, path: Path, plain: bool, depth: int) -> Iterator[tuple[Path, str]]:
    """`plain`: only `properties` led here. Raises ValueError for what is wrong."""
    if depth > DEPTH:
        raise ValueError("too deep")
    if isinstance(schema, list):
        for each in schema:
            yield from _walk(each, path, False, depth + 1)
        return
    if not isinstance(schema, dict):
        return
    if WORD in schema:
        name, kind = schema[WORD], schema.get("type")
        if not isinstance(name, str) or not is_token(name) or not plain or not path or kind not in SIMPLE:
            raise ValueError("not to be mirrored")
        yield path, name
    for key, value in schema.items():
        if key in DATA:
            continue
        if key in MAPS and isinstance(value, dict):
            for name, each in value.items():
                yield from _walk(each, (*path, name), plain and key == "properties", depth + 1)
        else:
            yield from _walk(value, path, False, depth + 1)
