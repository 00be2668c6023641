"""Log levels and subscriptions of clients that share servers, and of those that do not."""

from __future__ import annotations

import asyncio
from typing import Any

from mcpproxy.gateway.audience import _wishes, passes
from mcpproxy.gateway.parts import Answer, Era
from mcpproxy.gateway.shelf import Offer
from tests.gateway.members import SomeMember, SomeServer, asked, hub_of, turns
from tests.support.gateway import SomeClient, call


def server(**kwargs: Any) -> SomeServer:
    return SomeServer({"resources": [{"uri": "file:///a"}, {"uri": "file:///b"}], "tools": []}, **kwargs)


def heard(client: SomeClient) -> list[str]:
    return [method.rpartition("/")[2] for method, _ in client.heard]


async def joined(hub: Any, *sessions: str, **kwargs: Any) -> list[SomeClient]:
    clients = [SomeClient(session, **kwargs) for session in sessions]
    for client in clients:
        hub.join(client)
        await hub.server(client)
    return clients


def levels(source: SomeServer) -> list[str]:
    return [params["level"] for method, params in source.asked if method == "logging/setLevel"]


def subscriptions(source: SomeServer) -> list[tuple[str, str]]:
    return [(method.rpartition("/")[2], params["uri"]) for method, params in source.asked if method.endswith("subscribe")]


def test_levels_are_in_order_and_unknown_ones_pass() -> None:
    assert passes("warning", "error") and passes("warning", "warning") and passes(None, "debug") and passes("error", "new")
    assert not passes("warning", "info")


async def test_a_shared_server_is_told_the_least_level_and_each_hears_what_it_asked_for() -> None:
    source = server()
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    one, other, silent = await joined(hub, "1", "2", "3")
    assert await asked(hub, "logging/setLevel", {"level": "error"}, one) == {}
    await asked(hub, "logging/setLevel", {"level": "info"}, other)
    await asked(hub, "logging/setLevel", {"level": "warning"}, one)  # nothing new to the server
    assert levels(source) == ["error", "info"]
    for level in ("debug", "info", "critical"):
        hub.heard("a", None, "notifications/message", {"level": f'"{level}"'.encode(), "data": b"1"})
    assert one.heard == [("notifications/message", b'{"level":"critical","data":1}')]
    assert len(other.heard) == 2
    assert silent.heard == []  # of a server of many it hears what it asked for
    hub.leave(other)
    await turns(lambda: len(levels(source)) == 3)
    assert levels(source)[-1] == "warning"
    assert (await asked(hub, "logging/setLevel", {"level": "loud"}, one))["code"] == -32602


async def test_who_comes_later_changes_the_level_too() -> None:
    source = server()
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    client = SomeClient()
    hub.join(client)
    await asked(hub, "logging/setLevel", {"level": "debug"}, client)  # before there is any conversation
    assert source.asked == []
    await hub.server(client)
    await turns(lambda: levels(source) == ["debug"])


async def test_messages_within_a_call_are_those_its_client_asked_for() -> None:
    source = server()

    async def answer(made: Any) -> Answer:
        if made.method == "tools/call":
            made.note("notifications/message", {"level": b'"debug"', "data": b"1"})
            made.note("notifications/message", {"level": b'"error"', "data": b"2"})
            made.note("notifications/progress", {"progress": b"1"})
        source.asked.append((made.method, {}))
        return Answer(b"{}")

    source.ask = answer  # type: ignore[method-assign]
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    one, other = await joined(hub, "1", "2")
    seen = []
    for step in range(4):
        if step == 1:
            await asked(hub, "logging/setLevel", {"level": "debug"}, one)
        if step == 3:
            await asked(hub, "logging/setLevel", {"level": "critical"}, other)
        made = call("tools/call", {"name": "a_x"}, client=one if step == 1 else other)
        await hub.ask(made)
        seen.append(len(made.notes))
    assert seen == [3, 3, 2, 1]  # nobody asked: as the server likes; asked; another one asked for more than usual; asked for less
    modern = call("tools/call", {"name": "a_x"}, client=SomeClient("", era=Era.MODERN))
    await hub.ask(modern)
    assert [method for method, _ in modern.notes] == ["notifications/progress"]  # it must not be told unless it asks


async def test_a_newer_client_brings_its_level_along() -> None:
    source = server()
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    for level in ("warning", "debug", "error"):
        client = SomeClient("", era=Era.MODERN)
        client.level = level
        await asked(hub, "tools/call", {"name": "a_x"}, client)
    assert [method for method, _ in source.asked] == ["logging/setLevel", "tools/call", "logging/setLevel", "tools/call", "tools/call"]
    assert levels(source) == ["warning", "debug"]


async def test_a_newer_server_is_told_with_each_request_and_never_here() -> None:
    source = server(era=Era.MODERN)
    hub = hub_of(SomeMember("a", source), SomeMember("b", server()))
    (client,) = await joined(hub, "1")
    await asked(hub, "logging/setLevel", {"level": "debug"}, client)
    made = call("tools/call", {"name": "a_x"}, client=client)
    await hub.ask(made)
    assert levels(source) == []
    assert source.calls[-1] is made  # no wrapping
    assert client.level == "debug"


async def test_nobody_has_logging() -> None:
    hub = hub_of(SomeMember("a", server(capabilities={})), SomeMember("b", server(capabilities={})))
    (client,) = await joined(hub, "1")
    assert (await asked(hub, "logging/setLevel", {"level": "debug"}, client))["code"] == -32601
    bridge = hub_of((SomeMember("a", server(capabilities={})), Offer()))
    (client,) = await joined(bridge, "1")
    assert await asked(bridge, "logging/setLevel", {"level": "new"}, client) == {}  # the server's to answer


async def test_a_resource_is_subscribed_to_once_and_left_by_the_last() -> None:
    source = server()
    hub = hub_of(SomeMember("a", source), SomeMember("b", SomeServer({"tools": []}, capabilities={"tools": {}})))
    one, other, third = await joined(hub, "1", "2", "3")
    for client in (one, other):
        assert await asked(hub, "resources/subscribe", {"uri": "file:///a"}, client) == {}
    assert one.subscriptions == {"file:///a"}
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///a"'})
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///a/below"'})
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///other"'})
    assert heard(one) == heard(other) == ["updated"] * 2
    assert third.heard == []
    await asked(hub, "resources/unsubscribe", {"uri": "file:///a"}, one)
    assert subscriptions(source) == [("subscribe", "file:///a")]
    hub.leave(other)
    await turns(lambda: len(subscriptions(source)) == 2)
    assert subscriptions(source)[-1] == ("unsubscribe", "file:///a")
    assert one.subscriptions == set()


async def test_a_subscription_that_is_refused_is_none() -> None:
    source = server()
    source.answers["resources/subscribe"] = lambda call, params: Answer.failure(-32601, "no")
    hub = hub_of(SomeMember("a", source), SomeMember("b", SomeServer({}, capabilities={})))
    (client,) = await joined(hub, "1")
    assert (await asked(hub, "resources/subscribe", {"uri": "file:///a"}, client))["code"] == -32601
    assert client.subscriptions == set()
    assert (await asked(hub, "resources/subscribe", {"n": 1}, client))["code"] == -32602


async def test_listens_are_subscribed_when_they_join() -> None:
    source = server()
    hub = hub_of(SomeMember("a", source), SomeMember("b", SomeServer({}, capabilities={})))
    listen = SomeClient("", era=Era.MODERN)
    listen.subscriptions = {"file:///a"}
    hub.join(listen)
    await turns(lambda: subscriptions(source))
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///a"'})
    assert heard(listen) == ["updated"]
    hub.leave(listen)
    await turns(lambda: len(subscriptions(source)) == 2)


async def test_a_server_that_was_started_anew_is_told_again() -> None:
    member = SomeMember("a", server())
    hub = hub_of(member, SomeMember("b", SomeServer({}, capabilities={})))
    one, other = await joined(hub, "1", "2")
    await asked(hub, "logging/setLevel", {"level": "debug"}, one)
    for client in (one, other):
        await asked(hub, "resources/subscribe", {"uri": "file:///a"}, client)
    member.server = fresh = server()
    for client in (one, other):
        await asked(hub, "tools/call", {"name": "a_x"}, client)
    await turns(lambda: subscriptions(fresh) and levels(fresh))
    await asyncio.sleep(0)
    assert subscriptions(fresh) == [("subscribe", "file:///a")]
    assert levels(fresh) == ["debug"]
    hub.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///a"'})
    assert heard(one) == heard(other) == ["updated"]


async def test_what_is_of_one_clients_own_server_is_heard_by_no_other() -> None:
    member = SomeMember("a", server(), own=server)
    hub = hub_of(member, SomeMember("b", SomeServer({}, capabilities={})))
    one, other = await joined(hub, "1", "2")
    for client in (one, other):
        await asked(hub, "resources/subscribe", {"uri": "file:///a"}, client)
    for method, params in (
        ("notifications/resources/updated", {"uri": b'"file:///a"'}),
        ("notifications/tools/list_changed", {}),
        ("notifications/message", {"level": b'"info"'}),
        ("notifications/new", {}),
    ):
        hub.heard("a", one, method, params)
    assert heard(one) == ["updated", "list_changed", "message", "new"]
    assert other.heard == []


async def test_a_callers_own_server_is_heard_by_its_listens() -> None:
    member = SomeMember("a", server())
    hub = hub_of(member, SomeMember("b", SomeServer({}, capabilities={})))
    anns, bobs = SomeClient("", era=Era.MODERN, principal="ann"), SomeClient("", era=Era.MODERN, principal="bob")
    for listen in (anns, bobs):
        listen.subscriptions = {"file:///a"}
        hub.join(listen)
    await turns(lambda: subscriptions(member.server))
    request = SomeClient("", era=Era.MODERN, principal="ann")  # it began the conversation, and is answered
    hub.heard("a", request, "notifications/tools/list_changed", {})
    hub.heard("a", request, "notifications/resources/updated", {"uri": b'"file:///a"'})
    assert heard(anns) == ["list_changed", "updated"]
    assert bobs.heard == []


async def test_a_callers_sessions_hear_of_their_server_when_the_first_has_left() -> None:
    hub = hub_of(SomeMember("a", server()), SomeMember("b", SomeServer({}, capabilities={})))
    first, second = await joined(hub, "1", "2", principal="ann")
    stranger = SomeClient("3", principal="ann")  # in no conversation with the first
    hub.audience.join(stranger)
    await asked(hub, "resources/subscribe", {"uri": "file:///a"}, second)
    hub.leave(first)
    hub.heard("a", first, "notifications/tools/list_changed", {})
    hub.heard("a", first, "notifications/resources/updated", {"uri": b'"file:///a"'})
    assert heard(second) == ["list_changed", "updated"]
    assert first.heard == stranger.heard == []


async def test_two_hubs_with_one_server_do_not_unsubscribe_each_other() -> None:
    source = server()
    member, other = SomeMember("a", source), SomeMember("b", SomeServer({}, capabilities={}))
    hubs = [hub_of(member, other), hub_of(member, other)]
    clients = [(await joined(hub, "1"))[0] for hub in hubs]
    for hub, client, level in zip(hubs, clients, ("error", "debug"), strict=True):
        await asked(hub, "resources/subscribe", {"uri": "file:///a"}, client)
        await asked(hub, "logging/setLevel", {"level": level}, client)
    await asked(hubs[0], "logging/setLevel", {"level": "critical"}, clients[0])
    assert subscriptions(source) == [("subscribe", "file:///a")]
    assert levels(source) == ["error", "debug"]
    await asked(hubs[0], "resources/unsubscribe", {"uri": "file:///a"}, clients[0])
    assert len(subscriptions(source)) == 1
    hubs[1].leave(clients[1])
    await turns(lambda: len(subscriptions(source)) == 2 and levels(source)[-1] == "critical")


async def test_a_hub_that_takes_anothers_place_keeps_what_was_subscribed() -> None:
    source = server()
    member, other = SomeMember("a", source), SomeMember("b", SomeServer({}, capabilities={}))
    old, new = hub_of(member, other), hub_of(member, other)
    (client,) = await joined(old, "1")
    await asked(old, "resources/subscribe", {"uri": "file:///a"}, client)
    new.join(client)
    await turns(lambda: new.audience._uses and all(use.uris for use in new.audience._uses.values() if use.slot.name == "a"))
    await old.stop()
    new.heard("a", None, "notifications/resources/updated", {"uri": b'"file:///a"'})
    assert heard(client) == ["updated"]
    assert subscriptions(source) == [("subscribe", "file:///a")]
    await new.stop()
    assert len(_wishes) == 0 or all(wishes.conversation is not source for wishes in _wishes.values())


async def test_a_callers_server_may_have_begun_with_one_request() -> None:
    hub = hub_of(SomeMember("a", server()), SomeMember("b", SomeServer({}, capabilities={})))
    request = SomeClient("", era=Era.MODERN, principal="ann")
    await asked(hub, "tools/call", {"name": "a_x"}, request)
    (session,) = await joined(hub, "1", principal="ann")
    await turns(lambda: hub.audience._uses)
    hub.heard("a", request, "notifications/tools/list_changed", {})
    assert heard(session) == ["list_changed"]
