"""Many members as one: bridges, calls, capabilities, members that are away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mcpproxy.gateway.listing import GAPS
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE, Answer, Era
from mcpproxy.gateway.shelf import Offer
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.message import METHOD_NOT_FOUND
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, tool
from tests.support.faces import faces
from tests.support.gateway import SomeClient, call


def server(*names: str, **kwargs: Any) -> SomeServer:
    return SomeServer({"tools": [tool(name) for name in names]}, **kwargs)


async def test_a_call_goes_to_its_member_with_nothing_changed_but_the_name() -> None:
    a = server("x")
    raw = b'{"content": [ ], "new": 1.00}'
    a.answers["tools/call"] = lambda call, params: Answer(raw)
    hub = hub_of(SomeMember("a", a), SomeMember("b", server("x")))
    made = call("tools/call")
    made.params = {"name": b'"a_x"', "arguments": b'{"n":1.00}', "_meta": b'{"progressToken":0}', "new": b"[1E5]"}
    answer = await hub.ask(made)
    assert answer.result is raw
    assert a.calls[0].params == {"name": b'"x"', "arguments": b'{"n":1.00}', "_meta": b'{"progressToken":0}', "new": b"[1E5]"}
    assert list(a.calls[0].params) == ["name", "arguments", "_meta", "new"]
    assert made.labels == {"member": "a"}


async def test_prompts_go_by_their_prefix_too() -> None:
    a = SomeServer({"prompts": [{"name": "p"}]})
    hub = hub_of(SomeMember("a", a), SomeMember("b", server()))
    await asked(hub, "prompts/get", {"name": "a_p", "arguments": {"x": "y"}})
    assert a.asked[-1] == ("prompts/get", {"name": "p", "arguments": {"x": "y"}})
    assert (await asked(hub, "prompts/get", {"name": "zzz"}))["message"] == "Unknown prompt: zzz"


async def test_notes_and_questions_of_a_call_come_back_to_it() -> None:
    a = server("x")

    async def answer(made: Any) -> Answer:
        made.note("notifications/progress", {"progress": b"1"})
        return await made.question("sampling/createMessage", b"{}")  # type: ignore[no-any-return]

    a.ask = answer  # type: ignore[method-assign]
    hub = hub_of(SomeMember("a", a), SomeMember("b", server()))
    made = call("tools/call", {"name": "a_x"})
    assert (await hub.ask(made)).result == b'{"mine":true}'
    assert made.notes == [("notifications/progress", {"progress": b"1"})]
    assert made.questions == [("sampling/createMessage", b"{}")]


async def test_to_cancel_is_to_cancel_at_the_member() -> None:
    a, ended = server("x"), asyncio.Event()

    async def answer(made: Any) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    a.ask = answer  # type: ignore[method-assign]
    hub = hub_of(SomeMember("a", a), SomeMember("b", server()))
    task = asyncio.create_task(hub.ask(call("tools/call", {"name": "a_x"})))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert ended.is_set()


async def test_errors_of_a_member_and_of_ours() -> None:
    a, away = server("x"), SomeMember("away", server("x"))
    a.answers["tools/call"] = lambda call, params: Answer(error=b'{"code":-32042, "message":"see","data":{"n":1.00}}')
    away.away = "starts again in 3 s"
    hub = hub_of(SomeMember("a", a), away)
    assert (await hub.ask(call("tools/call", {"name": "a_x"}))).error == b'{"code":-32042, "message":"see","data":{"n":1.00}}'
    assert await asked(hub, "tools/call", {"name": "away_x"}) == {"code": MEMBER_UNAVAILABLE, "message": "away: starts again in 3 s"}
    for params in ({}, {"name": 5}, {"name": None}):
        assert (await asked(hub, "tools/call", params))["code"] == INVALID_PARAMS


async def test_a_method_that_nobody_knows_goes_where_its_params_say() -> None:
    a, b = SomeServer({"tools": [tool("x")], "resources": [{"uri": "file:///x"}]}), server()
    for method in ("tools/x_new", "x/y"):
        a.answers[method] = lambda call, params: {"got": params}
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    await asked(hub, "resources/list")
    assert await asked(hub, "tools/x_new", {"name": "a_x", "n": 1}) == {"got": {"name": "x", "n": 1}}
    assert await asked(hub, "x/y", {"uri": "file:///x"}) == {"got": {"uri": "file:///x"}}
    for params in ({}, {"name": "none"}, {"n": 1}):
        assert (await asked(hub, "x/y", params))["code"] == METHOD_NOT_FOUND


async def test_a_bridge_lets_everything_pass_as_it_is() -> None:
    a = server("x", capabilities={"tools": {}, "experimental": {"y": {}}}, instructions="Be kind.")
    page = b'{"tools":[{"name":"x" }],"nextCursor":"theirs","new":1.0}'
    a.answers["tools/list"] = lambda call, params: Answer(page)
    a.answers["new/method"] = lambda call, params: {"got": params}
    hub = hub_of((SomeMember("a", a), Offer()))
    client = SomeClient()
    assert (await hub.ask(call("tools/list", {"cursor": "q"}))).result is page
    assert a.asked[-1] == ("tools/list", {"cursor": "q"})
    assert await asked(hub, "new/method", {"x": 1}) == {"got": {"x": 1}}
    assert (await asked(hub, "tools/call", {"name": "anything"}))["content"]
    assert await hub.server(client) == a.server
    hub.join(client)
    await hub.server(client)
    await hub.tell(client, "notifications/new", b"{}")
    assert a.told == [("notifications/new", b"{}")]


async def test_rules_filter_a_bridges_lists() -> None:
    hub = hub_of((SomeMember("a", server("x", "y")), Offer()), sight=lambda client: lambda method, name, arguments: name == "y")
    assert [each["name"] for each in (await asked(hub, "tools/list"))["tools"]] == ["y"]


async def test_what_all_say_together() -> None:
    a, b = (
        server(capabilities={"tools": {}, "logging": {}}, instructions="Be kind."),
        server(capabilities={"prompts": {}}, instructions="Be quick."),
    )
    said = await hub_of(SomeMember("a", a), SomeMember("b", b), version="1.2").server(SomeClient(version="2025-06-18"))
    assert {key: json.loads(raw) for key, raw in said.capabilities.items()} == {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "logging": {},
    }
    assert json.loads(said.info) == {"name": "all", "version": "1.2"}
    assert said.instructions == "# a\nBe kind.\n\n# b\nBe quick."
    assert (said.era, said.version, said.meta) == (Era.LEGACY, "2025-06-18", None)
    found = await hub_of(SomeMember("a", a), search=True).server(SomeClient())
    assert found.capabilities["tools"] == b"{}"  # these two do not change


async def test_members_that_are_late_or_away_are_reported_and_offered_for() -> None:
    late, away = SomeMember("late", server()), SomeMember("away", server())
    late.late, away.away = asyncio.Event(), "gone"
    hub = hub_of(SomeMember("a", server(capabilities={"tools": {}})), late, away)
    said = await hub.server(SomeClient())
    assert {"prompts", "resources", "logging"} <= set(said.capabilities)
    assert json.loads(said.meta or b"") == {
        GAPS: [{"member": "late", "reason": "did not answer within 0.05 s"}, {"member": "away", "reason": "gone"}]
    }
    late.late.set()
    await hub.stop()
    alone = SomeMember("a", server())
    alone.away = "gone"
    said = await hub_of((alone, Offer())).server(SomeClient())
    assert "tools" in said.capabilities


async def test_a_session_that_ends_leaves_nothing() -> None:
    member = SomeMember("a", server(), own=lambda: server("x", ttl=60_000))
    hub = hub_of(member, SomeMember("b", server("x")))
    clients = [SomeClient(str(number)) for number in range(20)]
    for client in clients:
        hub.join(client)
        await hub.server(client)
        await asked(hub, "tools/list", client=client)
        await asked(hub, "resources/subscribe", {"uri": "file:///x"}, client)
    for client in clients:
        hub.leave(client)
    await asyncio.sleep(0)
    assert member.left == clients
    assert hub.state()["clients"] == 0
    shelf = next(iter(hub.catalog.slots[0].shelves.values()))
    assert len(shelf.private) == 1  # what was known last
    assert hub.audience._of == hub.audience._uses == {}
    await hub.stop()


async def test_operators_are_told_of_members_and_names() -> None:
    away = SomeMember("away", server())
    away.away = "gone"
    hub = hub_of(away, SomeMember("b", server("x" * 80)))
    await asked(hub, "tools/list")
    state: Any = hub.state()
    assert state["members"]["away"] == {"state": "up", "missed": True, "last": "gone"}
    assert state["members"]["b"]["missed"] is False
    assert "is too long with its prefix" in state["names"][0]


async def test_a_recovered_session_is_told_of() -> None:
    a = server("x")
    a.answers["tools/call"] = lambda call, params: Answer(b'{"content":[{"type":"resource_link","uri":"file:///x"}]}', None, True)
    b = SomeServer({"resources": [{"uri": "file:///x"}]})
    a.lists["resources"] = [{"uri": "file:///x"}]
    hub = hub_of(SomeMember("b", b), SomeMember("a", a))
    await asked(hub, "resources/list")
    answer = await hub.ask(call("tools/call", {"name": "a_x"}))
    assert answer.recovered
    assert b"a+file:///x" in (answer.result or b"")


async def test_clients_of_both_eras_are_told_who_is_missing_from_the_start() -> None:
    away = SomeMember("away", server("x"))
    away.away = "gone"
    async with faces(behind=hub_of(SomeMember("a", server("x")), away)) as rig:
        peer = await rig.peer()
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        old = await peer.ask("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        new = await peer.modern(0, "server/discover")
        for reply in (old, new, await peer.modern(1, "tools/list")):
            assert reply.json["result"]["_meta"][GAPS] == [{"member": "away", "reason": "gone"}]


async def test_a_resource_whose_name_is_too_long_to_be_remembered_is_none() -> None:
    a = SomeServer({"resources": [{"uri": "file:///x"}]})
    hub = hub_of(SomeMember("a", a), SomeMember("b", server("x")))
    assert "code" in await asked(hub, "resources/subscribe", {"uri": "file:///" + "x" * 10_000})
    assert not [method for method, _ in a.asked if method == "resources/subscribe"]
