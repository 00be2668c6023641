"""What a request to a modern server says twice, in its body and in its head; and what is known of a server's tools for that.

    tools = Tools()
    result = tools.learn(result)                 # of each tools/list that passes: the same, without tools whose headers make no sense
    fields = tools.fields("tools/call", params)  # Mcp-Method, Mcp-Name, Mcp-Param-…
    tools.repeatable("read_file")                # its annotations say that doing it twice is doing it once

MCP 2026-07-28, basic/transports/streamable-http (headers) and server/tools (x-mcp-header). Annotations are what the server says of itself: good enough to
decide what is sent to that very server again, and for nothing else.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import msgspec

from mcpproxy.http.fields import is_token
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Params

NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
SAFE_METHODS = frozenset(
    {
        *("ping", "initialize", "server/discover", "completion/complete", "logging/setLevel", "prompts/get", "tasks/get"),
        *("resources/read", "resources/subscribe", "resources/unsubscribe"),
        *("tools/list", "prompts/list", "resources/list", "resources/templates/list", "tasks/list"),
    }
)
MARK = b"x-mcp-header"
TYPES = ("string", "integer", "boolean")
TOOLS = 10_000  # remembered of one server
DEEPEST = 32  # properties within properties
SAFE_INTEGER = 2**53 - 1
plain_value = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch  # visible ASCII, blanks inside
WRAPPED = re.compile(r"=\?base64\?.*\?=", re.IGNORECASE).fullmatch

Header = tuple[bytes, tuple[str, ...]]  # name of the field, and where in the arguments its value is


class _Annotations(msgspec.Struct):
    read_only: Any = msgspec.field(name="readOnlyHint", default=False)
    idempotent: Any = msgspec.field(name="idempotentHint", default=False)


class _Tool(msgspec.Struct):
    name: str
    annotations: _Annotations | None = None
    schema: msgspec.Raw = msgspec.field(name="inputSchema", default=msgspec.Raw(b"{}"))


_tool = msgspec.json.Decoder(_Tool).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Tools:
    """Of one server."""

    __slots__ = ("_headers", "_repeatable")

    def __init__(self) -> None:
        self._repeatable: dict[str, bool] = {}
        self._headers: dict[str, tuple[Header, ...]] = {}

    def learn(self, result: bytes) -> bytes:
        """A result of tools/list. What cannot be read is passed on, and is nothing we know."""
        try:
            found = message.parts(result)
            each = _list(found["tools"])
        except (CallError, KeyError, msgspec.DecodeError):
            return result
        kept = [raw for raw in each if self._learn(raw)]
        if len(kept) == len(each):
            return result
        return message.put({**found, "tools": b"[%b]" % b",".join(map(bytes, kept))})

    def _learn(self, raw: msgspec.Raw) -> bool:
        """May clients see it?"""
        try:
            tool = _tool(raw)
        except (msgspec.DecodeError, RecursionError):
            return True
        try:
            headers = headers_in(tool.schema)
        except ValueError:
            return False
        if len(self._repeatable) < TOOLS or tool.name in self._repeatable:
            hints = tool.annotations
            self._repeatable[tool.name] = hints is not None and (hints.read_only is True or hints.idempotent is True)
            self._headers.pop(tool.name, None)
            if headers:
                self._headers[tool.name] = headers
        return True

    def repeatable(self, method: str, params: Params) -> bool:
        """May this request be made a second time when nobody knows whether it was carried out?"""
        return method in SAFE_METHODS or (method == "tools/call" and self._repeatable.get(text_of(params.get("name")), False))

    def fields(self, method: str, params: Params) -> bytes:
        """The lines that mirror it, whole."""
        lines = b"Mcp-Method: %b\r\n" % encoded(method)
        key = NAMED.get(method)
        if key is not None and key in params:
            name = text_of(params[key])
            lines += b"Mcp-Name: %b\r\n" % encoded(name)
            if method == "tools/call" and name in self._headers and "arguments" in params:
                lines += self._parameters(name, params["arguments"])
        return lines

    def _parameters(self, name: str, raw: bytes) -> bytes:
        try:
            arguments = message.plain(raw)
        except CallError:
            return b""
        lines = b""
        for header, value in values_of(self._headers[name], arguments):
            said = spelled(value)
            if said is not None:
                lines += b"Mcp-Param-%b: %b\r\n" % (header, encoded(said))
        return lines


def values_of(headers: tuple[Header, ...], arguments: Any) -> Iterator[tuple[bytes, Any]]:
    """Each field's name, and the argument it mirrors; None where there is none."""
    for header, path in headers:
        value = arguments
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        yield header, value


def headers_in(schema: msgspec.Raw) -> tuple[Header, ...]:
    """`headers_of` a raw input schema. Raises ValueError."""
    if MARK not in bytes(schema):
        return ()
    try:
        return headers_of(msgspec.json.decode(schema))
    except (RecursionError, msgspec.DecodeError):
        raise ValueError("a schema that cannot be read") from None


def headers_of(schema: Any) -> tuple[Header, ...]:
    """The annotated properties of an input schema. Raises ValueError where one breaks a rule: then the whole tool must not be offered."""
    found: list[Header] = []

    def look(at: Any, path: tuple[str, ...], *, reachable: bool) -> None:
        if len(path) > DEEPEST:
            raise ValueError("too deep")
        if isinstance(at, list):
            for each in at:
                look(each, path, reachable=False)
            return
        if not isinstance(at, dict):
            return
        name = at.get("x-mcp-header")
        if name is not None:
            if not reachable or not path or not isinstance(name, str) or not is_token(name.encode()) or at.get("type") not in TYPES:
                raise ValueError("an annotation that cannot be followed")
            found.append((name.encode(), path))
        for key, value in at.items():
            if key == "properties" and isinstance(value, dict):
                for property, inner in value.items():
                    look(inner, (*path, property), reachable=reachable)
            elif isinstance(value, (dict, list)) and key not in ("default", "const", "enum", "examples"):
                look(value, path, reachable=False)

    look(schema, (), reachable=True)
    if len({name.lower() for name, _ in found}) != len(found):
        raise ValueError("one header for two properties")
    return tuple(found)


def spelled(value: Any) -> str | None:
    """An argument as a field value; None: it has none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and abs(value) <= SAFE_INTEGER else None


def encoded(value: str) -> bytes:
    """As it stands in a field: plain where every reader would take it for the same, else in base64."""
    if plain_value(value) and not WRAPPED(value):
        return value.encode()
    return b"=?base64?%b?=" % b64encode(value.encode())


def text_of(raw: bytes | None) -> str:
    """A raw JSON string; "" for anything else."""
    try:
        value = message.plain(raw) if raw is not None else ""
    except CallError:
        return ""
    return value if isinstance(value, str) else ""
