"""Clients that listen."""

from typing import Any

import pytest

from tests.support.faces import META, Rig, faces, until

ID = META + "subscriptionId"


async def listen(rig: Rig, id: Any = "l", **wanted: Any) -> tuple[Any, Any]:
    reply = await rig.modern(id, "subscriptions/listen", {"notifications": wanted})
    assert reply.streams
    first = await reply.event()
    assert first["data"]["method"] == "notifications/subscriptions/acknowledged"
    return reply, first["data"]["params"]


@pytest.mark.parametrize("id", [0, "l", "0", 7])
async def test_every_message_has_the_id_of_the_listen(id: Any) -> None:
    async with faces() as rig:
        reply, first = await listen(rig, id, toolsListChanged=True)
        assert first == {"_meta": {ID: id}, "notifications": {"toolsListChanged": True}}
        rig.service.change(params=b'{"_meta":{"x":1},"y":2}')
        data = (await reply.event())["data"]
        assert data == {
            "jsonrpc": "2.0",
            "method": "notifications/tools/list_changed",
            "params": {"y": 2, "_meta": {"x": 1, ID: id}},
        }
        rig.face.drain()
        assert (await reply.event())["data"]["result"] == {"resultType": "complete", "_meta": {ID: id}}
        assert await reply.event() is None


async def test_only_what_is_offered_is_honoured_and_only_that_is_heard() -> None:
    """The stand-in does not tell when its prompts change."""
    async with faces() as rig:
        reply, first = await listen(
            rig, promptsListChanged=True, resourcesListChanged=True, toolsListChanged=False, resourceSubscriptions=["file:///a"]
        )
        assert first["notifications"] == {"resourcesListChanged": True, "resourceSubscriptions": ["file:///a"]}
        assert rig.service.joined[0].subscriptions == {"file:///a"}
        rig.service.change("notifications/prompts/list_changed")
        rig.service.change("notifications/tools/list_changed")
        rig.service.change("notifications/message", b'{"level":"error"}')
        rig.service.change("notifications/resources/updated", b'{"uri":"file:///b"}')
        rig.service.change("notifications/resources/updated", b'{"uri":"file:///a/below"}')
        rig.service.change("notifications/resources/list_changed")
        told = [(await reply.event())["data"]["method"] for _ in range(2)]
        assert told == ["notifications/resources/updated", "notifications/resources/list_changed"]


async def test_who_leaves_is_left() -> None:
    async with faces() as rig:
        reply, _ = await listen(rig, toolsListChanged=True)
        assert len(rig.service.joined) == 1
        reply.peer.close()
        await until(lambda: not rig.service.joined and not rig.face.listens)
        rig.service.change()


async def test_several_listens_of_one_client() -> None:
    async with faces() as rig:
        one, _ = await listen(rig, 1, toolsListChanged=True)
        two, _ = await listen(rig, 2, toolsListChanged=True)
        rig.service.change()
        assert (await one.event())["data"]["params"]["_meta"] == {ID: 1}
        assert (await two.event())["data"]["params"]["_meta"] == {ID: 2}


@pytest.mark.parametrize(
    "wanted", ["x", 1, {"resourceSubscriptions": "x"}, {"resourceSubscriptions": [1]}, {"resourceSubscriptions": ["x"] * 1001}]
)
async def test_filters_that_are_none(wanted: Any) -> None:
    async with faces() as rig:
        reply = await rig.modern(1, "subscriptions/listen", {"notifications": wanted})
        assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (400, 1, -32602)
        assert not rig.face.listens


async def test_names_of_resources_are_bounded_together() -> None:
    async with faces() as rig:
        wanted = {"resourceSubscriptions": ["file:///" + "x" * 1000 + str(number) for number in range(200)]}
        reply = await rig.modern(1, "subscriptions/listen", {"notifications": wanted})
        assert reply.json["error"]["code"] == -32602
        assert not rig.face.listens


async def test_places_are_bounded() -> None:
    async with faces(limit=1) as rig:
        await listen(rig)
        reply = await rig.modern(2, "subscriptions/listen", {"notifications": {}})
        assert (reply.status, reply.json["id"]) == (503, 2)


async def test_a_listener_cannot_be_asked() -> None:
    async with faces() as rig:
        await listen(rig)
        client = rig.service.joined[0]
        assert (await client.question("ping", None)).result == b"{}"
        assert (await client.question("roots/list", None)).error is not None
