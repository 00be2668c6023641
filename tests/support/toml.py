"""A configuration as Python data, written as TOML: tests change one key without pasting text.

Covers what mcpproxy's files hold: strings, numbers, booleans, lists, tables and lists of tables. JSON strings are TOML strings.
"""

import json
from collections.abc import Mapping
from typing import Any


def write_toml(config: Mapping[str, Any]) -> str:
    """The text of a whole file; top-level lists of tables become [[name]], tables become [name.sub] where they hold tables."""
    lines = [f"{key} = {_value(value)}" for key, value in config.items() if not _is_table(value)]
    for key, value in config.items():
        if isinstance(value, list) and _is_table(value):
            for table in value:
                lines += ["", f"[[{key}]]", *_body(table)]
        elif isinstance(value, Mapping):
            nested = {name: inner for name, inner in value.items() if isinstance(inner, Mapping)}
            if nested and len(nested) == len(value):
                for name, inner in nested.items():
                    lines += ["", f"[{key}.{json.dumps(name)}]", *_body(inner)]
            else:
                lines += ["", f"[{key}]", *_body(value)]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value))


def _body(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value)
