"""What servers say by themselves, and members that come back."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.gateway import hearing
from mcpproxy.gateway.parts import NO_ONE_TO_ASK, Era
from mcpproxy.gateway.shelf import Offer
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, names, tool, turns
from tests.support.gateway import SomeClient

CHANGED = "notifications/tools/list_changed"
ALL_CHANGED = ["notifications/prompts/list_changed", "notifications/resources/list_changed", CHANGED]


def server(*found: str, **kwargs: Any) -> SomeServer:
    return SomeServer({"tools": [tool(name) for name in found], "resources": [{"uri": "file:///x"}]}, **kwargs)


def joined(hub: Any, *sessions: str, **kwargs: Any) -> list[SomeClient]:
    clients = [SomeClient(session, **kwargs) for session in sessions]
    for client in clients:
        hub.join(client)
    return clients


async def test_changed_lists_are_forgotten_and_told() -> None:
    source = server("x", era=Era.MODERN, ttl=60_000, scope="public")
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    one, other = joined(hub, "1", "2")
    assert names(await asked(hub, "tools/list")) == ["a_x"]
    source.lists["tools"].append(tool("y"))
    assert names(await asked(hub, "tools/list")) == ["a_x"]
    hub.heard("a", None, CHANGED, {})
    assert names(await asked(hub, "tools/list")) == ["a_x", "a_y"]
    assert one.heard == other.heard == [(CHANGED, None)]
    hub.heard("unknown", None, CHANGED, {})


async def test_a_member_that_changes_all_the_time_is_told_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "CHANGES_S", 0.01)
    hub = hub_of(SomeMember("a", server("x")), SomeMember("b", server()))
    (client,) = joined(hub, "1")
    for _ in range(100):
        hub.heard("a", None, CHANGED, {})
    assert client.heard == [(CHANGED, None)]
    (late,) = joined(hub, "2")
    hub.heard("b", None, CHANGED, {})
    hub.heard("a", None, "notifications/prompts/list_changed", {})
    assert [method for method, _ in late.heard] == [CHANGED, "notifications/prompts/list_changed"]  # others do not wait for it
    late.heard.clear()
    for _ in range(10_000):
        if late.heard:
            break
        await asyncio.sleep(0.001)
    assert late.heard == [(CHANGED, None)]  # the last change is told in any case
    hub.heard("a", None, CHANGED, {})
    await hub.stop()


async def test_what_a_member_says_is_bounded_by_how_many_hear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "DELIVERED", 4)
    hub = hub_of(SomeMember("a", server("x")), SomeMember("b", server()))
    clients = joined(hub, "1", "2", "3")
    for _ in range(100):
        hub.heard("a", None, "notifications/new", {})
    assert [len(client.heard) for client in clients] == [2, 2, 2]
    hub.heard("b", None, "notifications/new", {})
    assert [len(client.heard) for client in clients] == [3, 3, 3]


async def test_two_tools_that_never_change_are_not_said_to() -> None:
    hub = hub_of(SomeMember("a", server("x")), search=True)
    (client,) = joined(hub, "1")
    hub.heard("a", None, CHANGED, {})
    hub.heard("a", None, "notifications/prompts/list_changed", {})
    assert client.heard == [("notifications/prompts/list_changed", None)]


async def test_questions_go_to_the_client_whose_conversation_it_is() -> None:
    hub = hub_of(SomeMember("a", server("x")), SomeMember("b", server()))
    (client,) = joined(hub, "1")
    assert (await hub.asked("a", client, "roots/list", None)).result == b'{"from":"1"}'
    assert (await hub.asked("a", None, "ping", None)).result == b"{}"
    for whose in (None, SomeClient("gone")):
        answer = await hub.asked("a", whose, "sampling/createMessage", b"{}")
        assert json.loads(answer.error or b"")["code"] == NO_ONE_TO_ASK
    assert client.asked == [("roots/list", None)]


async def test_changed_roots_are_told_to_the_servers_of_a_client() -> None:
    a, b = server("x"), server()
    hub = hub_of(SomeMember("a", a), SomeMember("b", b))
    (client,) = joined(hub, "1")
    await hub.server(client)
    await hub.tell(client, "notifications/roots/list_changed", None)
    await hub.tell(client, "notifications/whatever", None)
    assert a.told == b.told == [("notifications/roots/list_changed", None)]


async def test_tasks_are_told_to_their_owner() -> None:
    source = server("x")
    source.answers["tools/call"] = lambda call, params: {"task": {"taskId": "7"}}
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    (ann,), (bob,) = joined(hub, "1", principal="ann"), joined(hub, "2", principal="bob")
    await asked(hub, "tools/call", {"name": "a_x"}, ann)
    hub.heard("a", None, "notifications/tasks/status", {"taskId": b'"7"', "status": b'"completed"'})
    hub.heard("a", None, "notifications/tasks/status", {"taskId": b'"8"'})
    hub.heard("a", None, "notifications/tasks/status", {"taskId": b"8"})
    assert ann.heard == [("notifications/tasks/status", b'{"taskId":"7","status":"completed"}')]
    assert bob.heard == []


async def test_what_nobody_knows_passes() -> None:
    hub = hub_of((SomeMember("a", server("x")), Offer()))
    (client,) = joined(hub, "1")
    hub.heard("a", None, "notifications/new", {"n": b"1.00", "taskId": b"1"})
    assert client.heard == [("notifications/new", b'{"n":1.00,"taskId":1}')]


async def test_wrapped_resources_are_said_to_have_changed_by_the_names_clients_know() -> None:
    hub = hub_of(SomeMember("a", server()), SomeMember("b", server()))
    (client,) = joined(hub, "1")
    await asked(hub, "resources/list", client=client)
    await asked(hub, "resources/subscribe", {"uri": "b+file:///x"}, client)
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///x"'})
    hub.heard("b", None, "notifications/resources/updated", {"uri": b'"file:///x"'})
    assert client.heard == [("notifications/resources/updated", b'{"uri":"b+file:///x"}')]


async def test_a_member_that_comes_back_is_asked_and_its_lists_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "AGAIN_S", (0.0, 0.0))
    away = SomeMember("away", server("x"))
    away.away = "gone"
    hub = hub_of(away, SomeMember("b", server("y")))
    (client,) = joined(hub, "1")
    assert names(await asked(hub, "tools/list", client=client)) == ["b_y"]
    away.away = ""
    await turns(lambda: client.heard)
    assert client.heard == [(CHANGED, None)]
    assert names(await asked(hub, "tools/list", client=client)) == ["away_x", "b_y"]
    await turns(lambda: not hub._watches)
    assert client.heard == [(CHANGED, None)]


async def test_or_at_once_when_it_says_that_it_is_there() -> None:
    away = SomeMember("away", server("x"))
    away.away = "gone"
    hub = hub_of(away, SomeMember("b", server("y")))
    (client,) = joined(hub, "1")
    await hub.server(client)  # the client knows that something is missing
    hub.changed("away", available=False)
    away.away = ""
    hub.changed("away", available=True)
    hub.changed("unknown", available=True)
    await turns(lambda: len(client.heard) == 3)
    assert sorted(method for method, _ in client.heard) == ALL_CHANGED  # each once, though templates are a list of their own
    await hub.stop()
    assert len(client.heard) == 3


async def test_one_that_was_started_anew_may_have_other_lists() -> None:
    """Whether or not it says so: those who had a list of it are told, once."""
    source = server("x", era=Era.MODERN, ttl=60_000, scope="public")
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    one, other = joined(hub, "1", "2")
    hub.changed("a", available=True)  # nobody had a list of it yet
    for method in ("tools/list", "resources/list", "resources/templates/list"):
        await asked(hub, method, client=one)
    source.lists["tools"].append(tool("y"))
    hub.changed("a", available=False)
    hub.changed("a", available=True)
    assert names(await asked(hub, "tools/list", client=one)) == ["a_x", "a_y"]
    await turns(lambda: one.heard and not hub._telling)
    assert sorted(one.heard) == sorted(other.heard) == [("notifications/resources/list_changed", None), (CHANGED, None)]


async def test_a_new_session_of_one_client_is_nobody_elses_matter() -> None:
    hub = hub_of(SomeMember("a", server(), own=lambda: server("x")), SomeMember("b", server()))
    one, other = joined(hub, "1", "2")
    for client in (one, other):
        await asked(hub, "tools/list", client=client)
    hub.changed("a", available=True, client=other)
    await turns(lambda: not hub._telling)
    assert (one.heard, other.heard) == ([], [(CHANGED, None)])


async def test_what_lies_below_a_wrapped_resource_is_said_by_the_name_clients_know() -> None:
    hub = hub_of(SomeMember("a", server()), SomeMember("b", server()))
    (client,) = joined(hub, "1")
    await asked(hub, "resources/list", client=client)
    await asked(hub, "resources/subscribe", {"uri": "b+file:///x"}, client)
    hub.heard("b", None, "notifications/resources/updated", {"uri": b'"file:///x/y"'})
    assert client.heard == [("notifications/resources/updated", b'{"uri":"b+file:///x/y"}')]


async def test_nobody_asks_for_a_member_that_nobody_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing, "AGAIN_S", (0.0, 0.0))
    away = SomeMember("away", server("x"))
    away.away = "gone"
    hub = hub_of(away, SomeMember("b", server("y")))
    await asked(hub, "tools/list")
    assert hub._watches == {}  # who asked did not stay
    (client,) = joined(hub, "1")
    await asked(hub, "tools/list", client=client)
    assert len(hub._watches) == 1
    hub.leave(client)
    await turns(lambda: not hub._watches)
