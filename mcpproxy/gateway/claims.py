"""Do the `Mcp-Param-*` fields of a call say what its arguments say? (MCP 2026-07-28, server/tools, x-mcp-header; server validation.)

Who reads a body must not let its head say something else: somebody on the way may have acted on it. Which arguments are mirrored is in the schemas of the
tools, so these are read as lists pass. A tool nobody has listed yet is not judged; fields that no schema names mean nothing. The rules are those by which
we say it to servers ourselves (gateway/mirrored): what that would leave out may be missing.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from mcpproxy.gateway.mirrored import MARK, TOOLS, Header, headers_in, spelled, values_of
from mcpproxy.http.fields import Field
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH, CallError
from mcpproxy.mcp.mirror import decoded

FIELD = b"mcp-param-"


class _Tool(msgspec.Struct):
    name: str
    schema: msgspec.Raw = msgspec.field(name="inputSchema", default=msgspec.Raw(b"{}"))


class _List(msgspec.Struct):
    tools: list[_Tool]


_list = msgspec.json.Decoder(_List).decode


class Claims:
    """What is known of the tools of one upstream, by the names clients see."""

    __slots__ = ("_headers",)

    def __init__(self) -> None:
        self._headers: dict[str, tuple[Header, ...]] = {}

    def learn(self, result: bytes) -> None:
        """A result of tools/list."""
        if MARK not in result and not self._headers:
            return
        try:
            tools = _list(result).tools
        except (msgspec.DecodeError, RecursionError):
            return
        for tool in tools:
            self._headers.pop(tool.name, None)
            try:
                headers = headers_in(tool.schema)
            except ValueError:
                continue  # clients must not offer it
            if headers and len(self._headers) < TOOLS:
                self._headers[tool.name] = headers

    def check(self, name: str, arguments: bytes | None, fields: tuple[Field, ...], id: bytes) -> None:
        """Raises CallError where a field is missing, there twice, unreadable or says something else."""
        headers = self._headers.get(name)
        if headers is None:
            return
        said: dict[bytes, bytes] = {}
        for _, lower, value in fields:
            if lower.startswith(FIELD):
                if lower in said:
                    raise CallError("header-mismatch", HEADER_MISMATCH, id)
                said[lower] = value
        written: Any = None if arguments is None else message.plain(arguments)
        for header, found in values_of(headers, written):
            claimed = said.get(FIELD + header.lower())
            try:
                fits = spelled(found) is None if claimed is None else found is not None and same(decoded(claimed), found)
            except CallError:
                fits = False
            if not fits:
                raise CallError("header-mismatch", HEADER_MISMATCH, id)


def same(claimed: str | None, value: Any) -> bool:
    """Numbers are compared as numbers, everything else as it is written."""
    if isinstance(value, bool):
        return claimed == ("true" if value else "false")
    if isinstance(value, (int, float)) and claimed is not None:
        try:
            return len(claimed) <= 400 and Decimal(claimed) == Decimal(str(value))
        except InvalidOperation:
            return False
    return bool(claimed == value)
