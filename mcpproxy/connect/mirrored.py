"""The fields that repeat what a modern message says (MCP 2026-07-28, basic/transports/streamable-http; MCP.md §9.1 to 9.3).

`Mcp-Param-X` repeats an argument whose schema says `x-mcp-header: X`, so who calls must have seen the schema: tools/list answers are looked at as
they pass (`Schemas.learn`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any

from mcpproxy.connect.envelope import Envelope, Params, plain
from mcpproxy.mcp.mirror import END, MARK

NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "task_id",
    "tasks/update": "task_id",
    "tasks/cancel": "task_id",
}
TOOLS = 10_000  # tools whose fields are remembered
DEPTH = 32  # of properties within properties
SAFE = 2**53 - 1
is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}").fullmatch
is_plain = re.compile(r"[!-~](?:[ -~]*[!-~])?").fullmatch

Path = tuple[str, ...]


def field_value(text: str) -> bytes:
    """As it is where that is visible ASCII; wrapped otherwise, and where it looks like something wrapped."""
    raw = text.encode(errors="surrogatepass")
    if is_plain(text) and not (raw.startswith(MARK) and raw.endswith(END)):
        return raw
    return MARK + b64encode(raw) + END


def fields(version: str, envelope: Envelope, params: Params, schemas: Schemas) -> bytes:
    """The lines for a message."""
    method = envelope.method or ""
    lines = [b"MCP-Protocol-Version: %b\r\n" % field_value(version)]
    if not envelope.is_request:
        return lines[0]
    lines.append(b"Mcp-Method: %b\r\n" % field_value(method))
    by = NAMED_BY.get(method)
    name = plain(getattr(params, by)) if by is not None else None
    if isinstance(name, str):
        lines.append(b"Mcp-Name: %b\r\n" % field_value(name))
        if method == "tools/call":
            lines += schemas.lines(name, plain(params.arguments))
    return b"".join(lines)


class Schemas:
    """Which arguments of which tools are repeated."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Path]] = {}

    def learn(self, result: bytes) -> None:
        """An answer to tools/list."""
        found = plain(result)
        tools = found.get("tools") if isinstance(found, dict) else None
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and isinstance(tool.get("name"), str) and (tool["name"] in self._of or len(self._of) < TOOLS):
                self._of[tool["name"]] = headers_of(tool.get("inputSchema"))

    def lines(self, tool: str, arguments: Any) -> list[bytes]:
        """For a call of this tool."""
        lines = []
        for header, path in self._of.get(tool, {}).items():
            value = arguments
            for step in path:
                value = value.get(step) if isinstance(value, dict) else None
            text = spelled(value)
            if text is not None:
                lines.append(b"Mcp-Param-%b: %b\r\n" % (header.encode(), field_value(text)))
        return lines


def spelled(value: Any) -> str | None:
    """A value as a field has it; None where there is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) <= SAFE else None
    if isinstance(value, float) and value.is_integer() and abs(value) <= SAFE:
        return str(int(value))
    return value if isinstance(value, str) else None


def headers_of(schema: Any) -> dict[str, Path]:
    """Header → where its argument lies. Empty where the schema breaks a rule: such a tool has none."""
    found: dict[str, Path] = {}
    seen: set[str] = set()

    def walk(of: Any, path: Path) -> bool:
        properties = of.get("properties") if isinstance(of, dict) else None
        for name, each in properties.items() if isinstance(properties, dict) and len(path) < DEPTH else ():
            if not isinstance(each, dict):
                continue
            if "x-mcp-header" in each:
                header = each["x-mcp-header"]
                fits = isinstance(header, str) and is_token(header) and each.get("type") in ("string", "integer", "boolean")
                if not fits or header.lower() in seen:
                    return False
                seen.add(header.lower())
                found[header] = (*path, name)
            if not walk(each, (*path, name)):
                return False
        return True

    return found if walk(schema, ()) else {}
