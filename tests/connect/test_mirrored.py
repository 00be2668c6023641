"""The fields that repeat a message (compared with what our own edge reads)."""

from typing import Any

import pytest

from mcpproxy.connect import envelope, mirrored
from mcpproxy.connect.mirrored import Schemas, field_value, headers_of, spelled
from mcpproxy.mcp import mirror
from mcpproxy.mcp.message import encode


@pytest.mark.parametrize("name", ["echo", "grüße", " x", "x ", "a b", "=?base64?eA==?=", "", "x\ty", "日本", "\x7f"])
def test_names_come_back_as_they_were(name: str) -> None:
    raw = encode({"id": 1, "method": "tools/call", "params": {"name": name}})
    [message] = envelope.read(raw) or []
    lines = mirrored.fields("2026-07-28", message, envelope.params(message), Schemas())
    fields = [(key, key.lower(), value) for key, _, value in (line.partition(b": ") for line in lines.split(b"\r\n") if line)]
    read = mirror.read(fields)
    assert (read.version, read.method, read.name) == ("2026-07-28", "tools/call", name)


def test_what_names_what() -> None:
    for method, params in (("resources/read", {"uri": "x"}), ("prompts/get", {"name": "x"}), ("tasks/get", {"taskId": "x"})):
        [message] = envelope.read(encode({"id": 1, "method": method, "params": params})) or []
        assert b"Mcp-Name: x\r\n" in mirrored.fields("v", message, envelope.params(message), Schemas())
    [message] = envelope.read(encode({"method": "notifications/x", "params": {"name": "x"}})) or []
    assert mirrored.fields("v", message, envelope.params(message), Schemas()) == b"MCP-Protocol-Version: v\r\n"


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_arguments_are_repeated_wherever_they_lie() -> None:
    schemas = Schemas()
    inner = schema(b={"type": "integer", "x-mcp-header": "B"})
    schemas.learn(encode({"tools": [{"name": "t", "inputSchema": schema(a={"type": "boolean", "x-mcp-header": "A"}, o=inner)}, 7, {}]}))
    assert schemas.lines("t", {"a": False, "o": {"b": 42}}) == [b"Mcp-Param-A: false\r\n", b"Mcp-Param-B: 42\r\n"]
    assert schemas.lines("t", {"a": None, "o": []}) == schemas.lines("other", {}) == schemas.lines("t", 7) == []
    schemas.learn(b"[]")


@pytest.mark.parametrize(
    "bad",
    [
        schema(a={"type": "number", "x-mcp-header": "A"}),
        schema(a={"type": "string", "x-mcp-header": ""}),
        schema(a={"type": "string", "x-mcp-header": "A b"}),
        schema(a={"type": "string", "x-mcp-header": 7}),
        schema(a={"type": "string", "x-mcp-header": "A"}, b={"type": "string", "x-mcp-header": "a"}),
        {"items": schema(a={"type": "string", "x-mcp-header": "A"})},
        None,
    ],
)
def test_a_schema_that_breaks_a_rule_has_no_fields(bad: Any) -> None:
    assert headers_of(bad) == {}


def test_values() -> None:
    assert [spelled(each) for each in (True, 1, 1.0, 1.5, "x", None, [], 2**60)] == ["true", "1", "1", None, "x", None, None, None]
    assert field_value("a\r\nX: y").startswith(b"=?base64?")
