"""Pages read, entries renamed, capabilities joined."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.mcp import message
from mcpproxy.mcp.merge import (
    PROMPTS,
    RESOURCES,
    TOOLS,
    Item,
    NoList,
    capabilities,
    instructions,
    links,
    listed,
    read_page,
    rewritten,
    shown,
)

plain = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def page(**found: Any) -> bytes:
    return json.dumps(found).encode()


def test_a_page_is_read_as_far_as_it_must_be() -> None:
    raw = b'{"tools": [{"name":"a", "inputSchema": {"n": 1.00}}, {"name": "b"}], "nextCursor": "", "ttlMs": 5.0, "cacheScope": "public"}'
    found = read_page(TOOLS, raw)
    assert [(item.own, item.raw) for item in found.items] == [("a", b'{"name":"a", "inputSchema": {"n": 1.00}}'), ("b", b'{"name": "b"}')]
    assert (found.next, found.ttl, found.public) == ("", 5, True)


def test_old_servers_say_nothing_about_how_long() -> None:
    found = read_page(RESOURCES, page(resources=[{"uri": "file:///x"}], nextCursor=None))
    assert (found.next, found.ttl, found.public) == (None, None, False)


@pytest.mark.parametrize(("said", "ttl"), [(-1, 0), (10**12, 86_400_000), ("x", 0), (1e400, 0)])
def test_an_odd_ttl_is_a_short_one(said: object, ttl: int) -> None:
    assert read_page(TOOLS, page(tools=[], ttlMs=said).replace(b"Infinity", b"1e400")).ttl == ttl


@pytest.mark.parametrize("wrong", [b"", b"[]", b"{}", b'{"tools":{}}', b'{"tools":[],"nextCursor":1}', b"<html>"])
def test_what_is_no_list_is_said_to_be_none(wrong: bytes) -> None:
    with pytest.raises(NoList):
        read_page(TOOLS, wrong)


def test_entries_without_a_name_are_dropped() -> None:
    found = read_page(TOOLS, page(tools=[{"name": "a"}, {"title": "none"}, {"name": ""}, 7]))
    assert [item.own for item in found.items] == ["a"]
    assert found.dropped == 3


@given(some.dictionaries(some.text(min_size=1, max_size=8), plain, max_size=5))
def test_only_the_name_changes(more: dict[str, Any]) -> None:
    entry = {**more, "name": "read"}
    raw = json.dumps(entry).encode()
    item = Item("read", raw)
    assert shown(TOOLS, item, "read") is raw
    found = json.loads(shown(TOOLS, item, "fs_read"))
    assert found == {**entry, "name": "fs_read"}
    assert list(found) == list(entry)


def test_numbers_and_order_of_a_schema_survive_a_new_name() -> None:
    raw = b'{"inputSchema":{"z":1.00,"a":1E5},"name":"x"}'
    assert shown(PROMPTS, Item("x", raw), "y") == b'{"inputSchema":{"z":1.00,"a":1E5},"name":"y"}'
    assert json.loads(shown(TOOLS, Item("x", raw), "x", "better"))["description"] == "better"


def test_ui_resources_of_tools_are_known_and_follow_a_wrapped_uri() -> None:
    entry = {"name": "a", "_meta": {"ui": {"resourceUri": "ui://w/1"}, "openai/outputTemplate": "ui://w/2", "x": "ui://w/1"}}
    (item,) = read_page(TOOLS, page(tools=[entry])).items
    assert item.uis == ("ui://w/1", "ui://w/2")
    found = json.loads(shown(TOOLS, item, "a", None, {"ui://w/1": "m+ui://w/1"}))
    assert found["_meta"]["ui"] == {"resourceUri": "m+ui://w/1"}
    assert found["_meta"]["openai/outputTemplate"] == "ui://w/2"


def test_wrapped_uris_are_wrapped_wherever_results_have_them() -> None:
    result = page(
        content=[
            {"type": "resource_link", "uri": "file:///a"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "file:///a"}},
        ],
        contents=[{"uri": "file:///b"}],
        messages=[{"role": "user", "content": {"type": "resource", "resource": {"uri": "file:///a"}}}, {"role": "user", "content": "x"}],
        n=1,
    )
    found = json.loads(rewritten(result, {"file:///a": "m+file:///a"}))
    assert found["content"][0]["uri"] == found["content"][1]["resource"]["uri"] == "m+file:///a"
    assert found["content"][1]["resource"]["text"] == "file:///a"
    assert found["contents"] == [{"uri": "file:///b"}]
    assert found["messages"][0]["content"]["resource"]["uri"] == "m+file:///a"
    assert rewritten(b'{"content":[]}', {"file:///a": "x"}) == b'{"content":[]}'
    assert rewritten(b'{"content":["file:///a"', {"file:///a": "x"}) == b'{"content":["file:///a"'


def test_links_in_results_are_found() -> None:
    assert links(page(content=[{"type": "resource_link", "uri": "file:///a"}, {"type": "text", "text": "x"}, 5])) == ["file:///a"]
    assert links(b'{"content":[]}') == links(b'"resource_link"') == links(b'{"content":{},"x":"resource_link"}') == []


def parts(**found: Any) -> message.Params:
    return {key: message.encode(each) for key, each in found.items()}


def test_capabilities_are_those_we_can_honour() -> None:
    found = capabilities(
        [
            parts(tools={}, experimental={"x": {}}, logging={}, resources={"subscribe": True}, tasks={"requests": {"tools": {"call": {}}}}),
            parts(prompts={"listChanged": False}, tasks={"list": {}, "requests": {"sampling": {}}}, new={}),
        ]
    )
    assert {key: json.loads(raw) for key, raw in found.items()} == {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": True},
        "logging": {},
        "tasks": {"list": {}, "requests": {"tools": {"call": {}}, "sampling": {}}},
    }
    assert capabilities([]) == {}


def test_an_extension_is_everybodys_or_of_single_tools() -> None:
    ui, mime = "io.modelcontextprotocol/ui", {"mimeTypes": ["text/html"]}
    found = capabilities(
        [parts(extensions={ui: mime, "a/b": {}, "c/d": {"v": 1}}), parts(extensions={"a/b": {}, ui: {"mimeTypes": ["x"]}})]
    )
    assert json.loads(found["extensions"]) == {ui: {"mimeTypes": ["text/html", "x"]}, "a/b": {}}


def test_a_server_that_is_not_there_yet_may_have_anything() -> None:
    found = capabilities([parts(tools={})], unknown=True)
    assert set(found) == {"tools", "prompts", "resources", "completions", "logging"}


def test_instructions_say_whose_they_are() -> None:
    assert instructions([("a", "Be kind.\n"), ("b", " "), ("c", "Be quick.")]) == "# a\nBe kind.\n\n# c\nBe quick."
    assert len(instructions([("a", "x" * 100_000)])) < 40_000


def test_a_list_is_put_together() -> None:
    assert listed(TOOLS, [b"{}", b"[]"]) == b'"tools":[{},[]]'
