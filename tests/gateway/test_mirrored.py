"""Headers that say what the body says, and what is known of tools."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import decode_header_value

from mcpproxy.gateway.mirrored import Tools, encoded, headers_of


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def listed(*tools: dict[str, Any], **more: Any) -> bytes:
    return raw({"tools": tools, **more})


REGION = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer", "x-mcp-header": "N"}},
}


def call(name: str, **arguments: Any) -> dict[str, bytes]:
    return {"name": raw(name), "arguments": raw(arguments)}


def test_methods_names_and_parameters_are_mirrored() -> None:
    tools = Tools()
    tools.learn(listed({"name": "ask", "inputSchema": REGION}))
    assert tools.fields("tools/list", {}) == b"Mcp-Method: tools/list\r\n"
    assert tools.fields("resources/read", {"uri": b'"file:///\\u00e9"'}).endswith(b"Mcp-Name: =?base64?ZmlsZTovLy/DqQ==?=\r\n")
    assert tools.fields("prompts/get", {"name": b'"p"'}) == b"Mcp-Method: prompts/get\r\nMcp-Name: p\r\n"
    told = tools.fields("tools/call", call("ask", region="eu west", n=42.0, other=1))
    assert told == b"Mcp-Method: tools/call\r\nMcp-Name: ask\r\nMcp-Param-Region: eu west\r\nMcp-Param-N: 42\r\n"
    assert b"Param" not in tools.fields("tools/call", call("ask", region=None))
    assert b"Param" not in tools.fields("tools/call", {"name": b'"ask"', "arguments": b"[]"})
    assert b"Param" not in tools.fields("tools/call", {"name": b'"ask"'})


@given(st.text(max_size=30))
def test_every_text_can_stand_in_a_field_and_is_read_by_the_sdk_as_it_was(value: str) -> None:
    try:
        said = encoded(value)
    except UnicodeEncodeError:  # lone surrogates are no JSON here
        return
    assert b"\r" not in said and b"\n" not in said
    assert decode_header_value(said.decode()) == value


@pytest.mark.parametrize("value", ["", " a", "a ", "=?base64?YQ==?=", "=?BASE64?YQ==?=", "a\tb", "é", "a\r\nX: 1"])
def test_what_could_be_taken_for_another_value_is_wrapped(value: str) -> None:
    assert encoded(value).startswith(b"=?base64?")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 1}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "X"}, "b": {"type": "string", "x-mcp-header": "x"}}},
        {"properties": {"a": {"items": {"type": "string", "x-mcp-header": "X"}}}},
        {"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "X"}}}]},
        {"type": "string", "x-mcp-header": "X"},
    ],
)
def test_tools_whose_headers_make_no_sense_are_not_offered(schema: dict[str, Any]) -> None:
    tools = Tools()
    good = {"name": "good", "inputSchema": REGION}
    kept = json.loads(tools.learn(listed(good, {"name": "bad", "inputSchema": schema}, nextCursor="c")))
    assert kept == {"tools": [good], "nextCursor": "c"}


def test_nested_properties_are_reached_and_values_are_no_annotations() -> None:
    schema = {"properties": {"a": {"properties": {"b": {"type": "boolean", "x-mcp-header": "B", "default": {"x-mcp-header": 1}}}}}}
    assert headers_of(schema) == ((b"B", ("a", "b")),)
    tools = Tools()
    tools.learn(listed({"name": "t", "inputSchema": schema}))
    assert tools.fields("tools/call", call("t", a={"b": False})).endswith(b"Mcp-Param-B: false\r\n")
    assert b"Param" not in tools.fields("tools/call", call("t", a=1))


def test_a_list_that_needs_no_change_is_the_same_bytes() -> None:
    for result in (listed({"name": "a"}), b'{ "tools" : [ {"name":"a"}, 7 ] }', b'{"tools":1}', b"[]", b"{}"):
        assert Tools().learn(result) is result


def test_only_what_says_so_is_done_twice() -> None:
    tools = Tools()
    tools.learn(
        listed(
            {"name": "read", "annotations": {"readOnlyHint": True}},
            {"name": "put", "annotations": {"idempotentHint": True}},
            {"name": "pay", "annotations": {"destructiveHint": False, "idempotentHint": "yes"}},
            {"name": "send"},
        )
    )
    again = {name for name in ("read", "put", "pay", "send", "unknown") if tools.repeatable("tools/call", call(name))}
    assert again == {"read", "put"}
    assert tools.repeatable("tools/list", {})
    assert not tools.repeatable("tasks/cancel", {})
    tools.learn(listed({"name": "put"}))
    assert not tools.repeatable("tools/call", call("put"))
