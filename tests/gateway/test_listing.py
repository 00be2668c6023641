"""Merged lists: order, pages, cursors, what callers may see, how long it lasts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpproxy.gateway.listing import GAPS, PAGE, Entry, filtered, paged
from mcpproxy.gateway.parts import Era
from mcpproxy.gateway.shelf import Offer, Slot
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.merge import TOOLS, Item
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, names, tool
from tests.support.gateway import SomeClient, call

MODERN = Era.MODERN


def server(*found: str, **kwargs: Any) -> SomeServer:
    return SomeServer({"tools": [tool(name) for name in found], "prompts": [{"name": name} for name in found]}, **kwargs)


async def test_lists_are_in_the_order_of_the_configuration() -> None:
    hub = hub_of(SomeMember("b", server("z", "a")), SomeMember("a", server("a")))
    assert names(await asked(hub, "tools/list")) == ["b_z", "b_a", "a_a"]
    assert names(await asked(hub, "prompts/list"), "prompts") == ["b_z", "b_a", "a_a"]


async def test_names_and_words_are_the_operators() -> None:
    offer = Offer("fs", tools=("read*", "list"), hide=("read_raw",), rename={"read": "get"}, describe={"list": "Lists."})
    hub = hub_of((SomeMember("files", server("read", "read_raw", "list", "write")), offer))
    result = await asked(hub, "tools/list")
    assert names(result) == ["get", "fs_list"]
    assert result["tools"][1]["description"] == "Lists."
    assert names(await asked(hub, "prompts/list"), "prompts") == ["get", "fs_list", "fs_write"]


async def test_how_long_it_lasts_is_the_least_and_old_clients_are_not_told_of_results() -> None:
    hub = hub_of(
        SomeMember("a", server("x", era=MODERN, ttl=60_000, scope="public")),
        SomeMember("b", server("y", era=MODERN, ttl=5_000, scope="public")),
    )
    result = await asked(hub, "tools/list", client=SomeClient(era=MODERN))
    assert 4_000 < result["ttlMs"] <= 5_000
    assert (result["cacheScope"], result["resultType"]) == ("public", "complete")
    assert "resultType" not in await asked(hub, "tools/list")


async def test_private_parts_or_rules_make_it_private() -> None:
    public, private = server("x", era=MODERN, ttl=60_000, scope="public"), server("y", era=MODERN, ttl=60_000)
    assert (await asked(hub_of(SomeMember("a", public), SomeMember("b", private)), "tools/list"))["cacheScope"] == "private"
    hub = hub_of(SomeMember("a", public), sight=lambda client: lambda method, name, arguments: True)
    assert (await asked(hub, "tools/list"))["cacheScope"] == "private"


async def test_each_caller_sees_what_its_rules_say() -> None:
    seen: list[tuple[str, str, bytes | None]] = []

    def rules(whom: str) -> Any:
        def may(method: str, name: str, arguments: bytes | None) -> bool:
            seen.append((method, name, arguments))
            return name.endswith(whom)

        return may

    sights = {whom: rules(whom) for whom in ("ann", "bob")}
    hub = hub_of(
        SomeMember("a", server("for_ann", "for_bob", era=MODERN, ttl=60_000, scope="public")),
        sight=lambda client: sights.get(client.principal),
    )
    for _ in range(2):
        assert names(await asked(hub, "tools/list", client=SomeClient(principal="ann"))) == ["a_for_ann"]
        assert names(await asked(hub, "tools/list", client=SomeClient(principal="bob"))) == ["a_for_bob"]
        assert len(names(await asked(hub, "tools/list"))) == 2
    assert seen == [("tools/call", f"a_for_{name}", None) for name in ("ann", "bob")] * 2  # asked once for each


async def test_gaps_are_reported_and_shorten_its_life() -> None:
    away = SomeMember("away", server("x"))
    away.away = "is being started"
    hub = hub_of(away, SomeMember("b", server("y", era=MODERN, ttl=60_000, scope="public")))
    result = await asked(hub, "tools/list")
    assert names(result) == ["b_y"]
    assert result["_meta"] == {GAPS: [{"member": "away", "reason": "is being started"}]}
    assert result["ttlMs"] == 1000
    second = GAPS.partition("/")[0].split(".")[1]
    assert second not in ("mcp", "modelcontextprotocol")  # reserved prefixes


async def all_pages(hub: Any, client: Any) -> list[list[str]]:
    pages, params = [], {}
    while True:
        result = await asked(hub, "tools/list", params, client)
        pages.append(names(result))
        if "nextCursor" not in result:
            return pages
        params = {"cursor": result["nextCursor"]}


async def test_a_long_list_comes_in_pages() -> None:
    member = SomeMember("a", server(*(f"t{n}" for n in range(2 * PAGE + 1))))
    pages = await all_pages(hub_of(member), SomeClient())
    assert [len(page) for page in pages] == [PAGE, PAGE, 1]
    assert [name for page in pages for name in page] == [f"a_t{n}" for n in range(2 * PAGE + 1)]


async def test_cursors_are_of_one_caller_and_nobody_makes_them_up() -> None:
    hub = hub_of(SomeMember("a", server(*(f"t{n}" for n in range(PAGE + 1)))))
    cursor = (await asked(hub, "tools/list", client=SomeClient(principal="ann")))["nextCursor"]
    changed = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    for client, text in ((SomeClient(principal="bob"), cursor), (SomeClient(principal="ann"), changed), (SomeClient(), "1")):
        assert (await asked(hub, "tools/list", {"cursor": text}, client))["code"] == INVALID_PARAMS
    assert (await asked(hub, "prompts/list", {"cursor": cursor}, SomeClient(principal="ann")))["code"] == INVALID_PARAMS
    assert (await asked(hub, "tools/list", {"cursor": 5}))["code"] == INVALID_PARAMS


async def test_a_list_that_changes_is_gone_on_with_as_it_was() -> None:
    source = server(*(f"t{n}" for n in range(PAGE + 1)))
    hub = hub_of(SomeMember("a", source))
    client = SomeClient()
    first = await asked(hub, "tools/list", client=client)
    source.lists["tools"].insert(0, tool("new"))
    hub.heard("a", None, "notifications/tools/list_changed", {})
    assert names(await asked(hub, "tools/list"))[0] == "a_new"
    rest = await asked(hub, "tools/list", {"cursor": first["nextCursor"]}, client)
    assert names(first) + names(rest) == [f"a_t{n}" for n in range(PAGE + 1)]


async def test_or_the_client_is_told_to_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpproxy.gateway.listing.KEPT", 1)
    source = server(*(f"t{n}" for n in range(PAGE + 1)))
    hub = hub_of(SomeMember("a", source))
    client = SomeClient()
    first = await asked(hub, "tools/list", client=client)
    await asked(hub, "prompts/list", client=client)  # takes the place of the list that was kept
    rest = await asked(hub, "tools/list", {"cursor": first["nextCursor"]}, client)
    assert names(rest) == [f"a_t{PAGE}"]  # nothing changed: the same list was made again
    source.lists["tools"].insert(0, tool("new"))
    await asked(hub, "prompts/list", client=client)
    answer = await asked(hub, "tools/list", {"cursor": first["nextCursor"]}, client)
    assert answer == {"code": INVALID_PARAMS, "message": "Invalid cursor: the list has changed, please begin anew"}


async def test_two_servers_with_one_name_and_no_prefix() -> None:
    hub = hub_of((SomeMember("a", server("x")), Offer()), (SomeMember("b", server("x", "y")), Offer()))
    assert names(await asked(hub, "tools/list")) == ["x", "y"]
    assert hub.state()["names"] == ["b: name x is left out: a has it, too; give one of them a prefix or another name"]


def test_pages_are_not_too_large_either() -> None:
    slot = Slot(0, SomeMember("a", server()), Offer(), 64)
    entries = tuple(Entry(str(n), slot, Item(str(n), b""), b'"%b"' % (b"x" * 300_000)) for n in range(5))
    merged = paged(TOOLS, entries)
    assert [len(json.loads(b"{%b}" % page)["tools"]) for page in merged.pages] == [2, 2, 1]
    assert paged(TOOLS, ()).pages == (b'"tools":[]',)


async def test_of_a_bridge_a_page_is_filtered_and_the_rest_as_it_came() -> None:
    raw = b'{"tools":[{"name":"a","n":1.0},{"name":"b"}],"nextCursor":"q","new":1.00,"cacheScope":"public"}'
    answer = filtered(TOOLS, raw, lambda method, name, arguments: name == "a")
    assert answer.result == b'{"tools":[{"name":"a","n":1.0}],"nextCursor":"q","new":1.00,"cacheScope":"private"}'
    assert filtered(TOOLS, b"[]", lambda method, name, arguments: True).error is not None


async def test_a_list_is_the_same_bytes_until_something_changes() -> None:
    hub = hub_of(SomeMember("a", server("x")), SomeMember("b", server("y")))
    one, other = await hub.ask(call("tools/list")), await hub.ask(call("tools/list", client=SomeClient("2")))
    assert one.result == other.result
