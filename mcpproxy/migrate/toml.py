"""Found → TOML, with a remark above whatever somebody should look at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from mcpproxy.migrate.found import Found, Part, Value

BARE = re.compile(r"[A-Za-z0-9_-]+")
ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
WIDE = 100  # characters of a line: longer lists are broken at their items
TABLES = ("credential", "endpoints", "health", "member", "tools")  # keys of upstreams and routes that have a header of their own


def rendered(found: Found, title: str) -> str:
    """The whole file."""
    blocks = [f"# Written by mcpproxy import from {title}. Read it before you run it: mcpproxy check -c FILE"]
    if found.top:
        blocks.append("\n".join(f"{key} = {value(each)}" for key, each in found.top.items()))
    blocks += [_block("[[listen]]", listener.rendered(), listener.remarks) for listener in found.listeners.values()]
    keys = "Nobody comes in until there is a key: mcpproxy key add NAME -c FILE"
    blocks += [_block(f"[auth.{_key(name)}]", auth, [keys] if auth.get("type") == "api-key" else []) for name, auth in found.auth.items()]
    blocks += [_part(f"upstream.{_key(part.name)}", part) for part in found.upstreams]
    blocks += [_part("route", part, double=True) for part in found.routes]
    return "\n\n".join(blocks) + "\n"


def _part(header: str, part: Part, *, double: bool = False) -> str:
    own = {key: each for key, each in part.keys.items() if key not in TABLES}
    blocks = [_block(f"[[{header}]]" if double else f"[{header}]", own, part.remarks)]
    for key in TABLES:
        table = part.keys.get(key)
        if isinstance(table, Mapping):
            if key in ("endpoints", "member"):
                blocks += [_block(f"[{header}.{key}.{_key(name)}]", each, []) for name, each in table.items() if isinstance(each, Mapping)]
            else:
                blocks.append(_block(f"[{header}.{key}]", table, []))
    return "\n".join(blocks)


def _block(header: str, keys: Mapping[str, Value], remarks: Sequence[str]) -> str:
    return "\n".join([*(f"# {_comment(line)}" for line in remarks), header, *_lines(keys)])


def _comment(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _lines(keys: Mapping[str, Value]) -> Iterator[str]:
    for key, each in keys.items():
        line = f"{_key(key)} = {value(each)}"
        if len(line) > WIDE and isinstance(each, Sequence) and not isinstance(each, str):
            line = f"{_key(key)} = [\n" + "".join(f"    {value(item)},\n" for item in each) + "]"
        yield line


def value(given: Value) -> str:
    """As TOML writes it."""
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int):
        return str(given)
    if isinstance(given, str):
        return '"' + "".join(_escaped(each) for each in given) + '"'
    if isinstance(given, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {value(each)}" for key, each in given.items()) + " }" if given else "{}"
    return "[" + ", ".join(value(each) for each in given) + "]"


def _escaped(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    code = ord(character)
    if 0xD800 <= code < 0xE000:  # half of a pair, which no text has
        return "\N{REPLACEMENT CHARACTER}"
    return f"\\u{code:04x}" if code < 0x20 or 0x7F <= code < 0xA0 or code in (0x2028, 0x2029) else character


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else value(name)


def settled(found: Found, title: str) -> str:
    """The file, with what it must have beside what was found."""
    found.settle()
    return rendered(found, title)
