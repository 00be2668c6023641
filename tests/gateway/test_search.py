"""Two tools instead of hundreds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.gateway.listing import Entry
from mcpproxy.gateway.parts import Era
from mcpproxy.gateway.search import ANSWER, CALL, MOST, SEARCH, Index, tokens, wanted
from mcpproxy.gateway.shelf import Offer, Slot
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.merge import Item
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, names, tool
from tests.support.gateway import SomeClient, call

SLOT = Slot(0, SomeMember("a", SomeServer({})), Offer(), 64)
TOOLS = [
    tool("read_file", description="Reads the contents of a file"),
    tool(
        "createIssue", description="Opens a new ticket", inputSchema={"properties": {"assignee": {"description": "Who takes care of it"}}}
    ),
    tool("send_mail", description="Sends an email to somebody", title="Mail"),
    tool("list_files", description="Lists directories"),
]


def index(*tools: dict[str, Any]) -> Index:
    return Index([Entry(each["name"], SLOT, Item(each["name"], b""), message.encode(each)) for each in tools])


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("read a file", "read_file"),
        ("email", "send_mail"),
        ("issues", "createIssue"),
        ("create", "createIssue"),
        ("assignee", "createIssue"),
        ("directory listing", "list_files"),
        ("MAILS", "send_mail"),
    ],
)
def test_the_tool_that_is_meant_comes_first(query: str, first: str) -> None:
    assert index(*TOOLS).find(query, 5)[0].seen == first


def test_what_has_no_word_of_it_is_not_found() -> None:
    assert index(*TOOLS).find("weather", 5) == []
    assert len(index(*TOOLS).find("", 2)) == 2
    assert index().find("x", 5) == []


def test_words_are_found_in_names_of_any_style() -> None:
    assert tokens("getHTTPResponse2_for-cities") == ["get", "http", "respons", "2", "for", "city"]
    assert tokens("文件读取") == ["文件", "件读", "读取"]
    assert tokens("Größe") == tokens("größe")


@given(some.text(max_size=200))
def test_any_query_has_an_answer(query: str) -> None:
    assert len(index(*TOOLS).find(query, 3)) <= 3


async def test_clients_see_two_tools_and_find_the_others() -> None:
    server = SomeServer({"tools": TOOLS})
    hub = hub_of(SomeMember("a", server), SomeMember("b", SomeServer({"tools": [tool("weather")]})), search=True)
    result = await asked(hub, "tools/list")
    assert names(result) == [SEARCH, CALL]
    assert server.asked == []
    found = await asked(hub, "tools/call", {"name": SEARCH, "arguments": {"query": "file", "limit": 1}})
    assert found["structuredContent"] == {"tools": [{**TOOLS[0], "name": "a_read_file"}], "searched": 5}
    assert json.loads(found["content"][0]["text"]) == found["structuredContent"]
    modern = await asked(hub, "tools/call", {"name": SEARCH, "arguments": {"query": "file"}}, SomeClient(era=Era.MODERN))
    assert modern["resultType"] == "complete"


async def test_what_was_found_is_called_with_all_that_came_with_the_call() -> None:
    server = SomeServer({"tools": TOOLS})
    hub = hub_of(SomeMember("a", server), search=True)
    made = call(
        "tools/call", {"name": CALL, "arguments": {"name": "a_read_file", "arguments": {"n": 1}}, "_meta": {"x": 1}, "requestState": "s"}
    )
    await hub.ask(made)
    assert server.asked == [("tools/call", {"name": "read_file", "arguments": {"n": 1}, "_meta": {"x": 1}, "requestState": "s"})]
    assert made.labels == {"member": "a", "tool": "a_read_file"}
    assert (await asked(hub, "tools/call", {"name": "a_read_file"}))["message"] == "Unknown tool: a_read_file"  # by its name alone: no
    assert "needs the name of a tool" in (await asked(hub, "tools/call", {"name": CALL, "arguments": {"tool": "a_read_file"}}))["message"]


async def test_rules_hold_for_what_is_found_and_called() -> None:
    server = SomeServer({"tools": TOOLS})

    def may(method: str, name: str, arguments: bytes | None) -> bool:
        return name == "a_read_file" and arguments in (None, b'{"path":"/pub"}')

    hub = hub_of(SomeMember("a", server), search=True, sight=lambda client: may)
    found = await asked(hub, "tools/call", {"name": SEARCH, "arguments": {"query": "file mail issue"}})
    assert names(found["structuredContent"]) == ["a_read_file"]
    for name, arguments in (("a_send_mail", {}), ("a_read_file", {"path": "/etc"})):
        answer = await asked(hub, "tools/call", {"name": CALL, "arguments": {"name": name, "arguments": arguments}})
        assert answer["code"] == INVALID_PARAMS
    assert "content" in await asked(hub, "tools/call", {"name": CALL, "arguments": {"name": "a_read_file", "arguments": {"path": "/pub"}}})


@pytest.mark.parametrize(
    "wrong", [b"[]", b'{"name":1}', b'{"query":[]}', b'{"limit":0}', b'{"limit":true}', b'{"limit":1.5}', b'{"arguments":[]}', b"{"]
)
def test_wrong_arguments_are_said_to_be_wrong(wrong: bytes) -> None:
    assert isinstance(wanted(wrong), str)


async def test_an_answer_is_not_larger_than_any_model_can_read() -> None:
    tools = [tool(f"t{n}", description="big " * 20_000) for n in range(MOST)]
    hub = hub_of(SomeMember("a", SomeServer({"tools": tools})), search=True)
    answer = await hub.ask(call("tools/call", {"name": SEARCH, "arguments": {"query": "big", "limit": MOST}}))
    assert answer.result is not None and len(answer.result) < 3 * ANSWER
