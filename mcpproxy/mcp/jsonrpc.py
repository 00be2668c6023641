"""JSON that every parser reads the same way, or not at all.

A rule that reads a message in one way protects nothing if the server reads it in another. So what is judged here is strict JSON (RFC 8259) in UTF-8,
and in the objects that matter

 1. no key is there twice (some parsers take the first, some the last);
 2. no key is a word that matters in another spelling: `Method`, `paramſ` (parsers of Go and .NET do not care about case);
 3. keys are written plainly, or all of them in ASCII with `\\u` escapes, as common encoders do.

msgspec refuses the rest by itself: comments, NaN, trailing commas and bytes, a byte order mark, single quotes, lone surrogates, control characters.
Everything else stays as it came (`msgspec.Raw`): nothing is decoded that nobody asks for, and a value of 10 MiB costs one pass in C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from unicodedata import normalize

import msgspec
from msgspec import Raw

from mcpproxy.errors import ProxyError, Side

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602  # JSON-RPC 2.0 §5.1
HEADER_MISMATCH = -32020  # MCP 2026-07-28, basic/transports/streamable-http

KEY = 256  # characters of a key that is compared; Unicode's normal forms take the square of a text's length
MEMBERS = 1000  # of an object in which keys matter: nobody writes more, and each is looked at

_members = msgspec.json.Decoder(dict[str, Raw], strict=True).decode
_value = msgspec.json.Decoder(str | bool | int | float | None | list[Raw] | dict[str, Raw], strict=True).decode


class CallError(ProxyError):
    """A message that cannot be judged. `code` is the JSON-RPC error code, `id` the raw id it is answered with, where it is known."""

    def __init__(self, kind: str, code: int, id: bytes = b"", status: int = 400) -> None:
        super().__init__(kind, Side.DOWNSTREAM, status)
        self.code = code
        self.id = id


def not_json(id: bytes = b"") -> CallError:
    """What was read is not the JSON it should be."""
    return CallError("bad-json", PARSE_ERROR, id)


def fold(word: str) -> str:
    """`word` as the most careless reader may take it: another case, another Unicode form, spaces around it."""
    return normalize("NFKC", normalize("NFKC", word).casefold()).replace("ı", "i").replace("\u0307", "").strip()


def check_utf8(text: bytes) -> None:
    """msgspec does not look into what it skips, where an overlong quote could hide."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            raise not_json() from None


def value(raw: bytes | Raw) -> object:
    """A value, decoded one level deep: a list or table holds what it holds as it came. A number that is too large for a float raises as well."""
    try:
        found = _value(raw)
    except (msgspec.DecodeError, RecursionError):
        raise not_json() from None
    if found.__class__ is int and found.bit_length() > 1023:
        raise not_json()
    return found


class Words:
    """The keys that matter in an object."""

    __slots__ = ("_folded", "plain")

    def __init__(self, *words: str) -> None:
        self.plain = frozenset(words)
        self._folded = frozenset(map(fold, words))

    def resembles(self, key: str) -> bool:
        """Would a careless reader take `key`, which is not one of them, for one? Also said of what is too long to be looked at."""
        if len(key) > KEY:
            return True
        return (key.lower().strip() if key.isascii() else fold(key)) in self._folded


def members(raw: bytes | Raw, words: Words, id: bytes = b"") -> Mapping[str, Raw]:
    """The members of an object in which `words` matter (rules 1 to 3)."""
    try:
        found = _members(raw)
        if len(found) > MEMBERS:
            raise CallError("bad-call", INVALID_REQUEST, id)
        if len(raw) != _least(found):
            raw = msgspec.json.format(raw, indent=-1)
            found = _members(raw)
            if len(raw) != _least(found) and raw != _written(found, ascii=False) and raw != _written(found, ascii=True):
                raise CallError("ambiguous-call", INVALID_REQUEST, id)
    except msgspec.ValidationError:
        raise CallError("bad-call", INVALID_REQUEST, id) from None
    except (msgspec.DecodeError, RecursionError):
        raise not_json(id) from None
    plain = words.plain
    for key in found:
        if key not in plain and words.resembles(key):
            raise CallError("ambiguous-call", INVALID_REQUEST, id)
    return found


def _least(found: Mapping[str, Raw]) -> int:
    """The length of the object with these members, with nothing beside them. Whatever else stands in it makes it longer (mcp/call)."""
    size = 1 if found else 2
    for key, raw in found.items():
        size += len(key) + len(raw) + 4
    return size


def _written(found: Mapping[str, Raw], *, ascii: bool) -> bytes:
    """The object with these members as an encoder writes it. A key that was there twice is here once."""
    return b"{%b}" % b",".join([json.dumps(key, ensure_ascii=ascii).encode() + b":" + raw for key, raw in found.items()])
