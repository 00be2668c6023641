"""Tools that ask for headers, rightly and wrongly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpproxy.mcp.mirrored import asked


def schema(**properties: Any) -> bytes:
    return json.dumps({"type": "object", "properties": properties}).encode()


def test_arguments_to_be_mirrored_are_found_by_their_path() -> None:
    region = {"type": "string", "x-mcp-header": "Region"}
    assert asked(schema(region=region, at={"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}}, other={})) == {
        ("region",): "Region",
        ("at", "n"): "N",
    }
    assert asked(b'{"type":"object"}') == {}


@pytest.mark.parametrize(
    "wrong",
    [
        schema(a={"type": "string", "x-mcp-header": ""}),
        schema(a={"type": "string", "x-mcp-header": "two words"}),
        schema(a={"type": "string", "x-mcp-header": 1}),
        schema(a={"type": "number", "x-mcp-header": "A"}),
        schema(a={"type": "object", "x-mcp-header": "A"}),
        schema(a={"x-mcp-header": "A"}),
        schema(a={"type": "string", "x-mcp-header": "A"}, b={"type": "string", "x-mcp-header": "a"}),
        schema(a={"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
        schema(a={"anyOf": [{"type": "string", "x-mcp-header": "A"}]}),
        b'{"$defs":{"a":{"type":"string","x-mcp-header":"A"}}}',
        b'{"type":"string","x-mcp-header":"A"}',
        b'{"x-mcp-header":',
        b'{"a":' * 80 + b'{"type":"string","x-mcp-header":"A"}' + b"}" * 80,
    ],
)
def test_a_tool_that_asks_wrongly_is_to_be_dropped(wrong: bytes) -> None:
    assert asked(wrong) is None


def test_the_word_may_stand_where_it_is_no_schema() -> None:
    assert asked(schema(**{"x-mcp-header": {"type": "string"}})) == {}
    assert asked(schema(a={"type": "string", "enum": ["x-mcp-header"], "default": {"x-mcp-header": 1}})) == {}
