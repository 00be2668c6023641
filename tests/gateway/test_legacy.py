"""The older era: sessions, streams that are cut, questions, cancellation."""

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.gateway.face import QUIET_S
from mcpproxy.gateway.legacy import CALLS, CANCELLED
from tests.support.faces import Rig, faces, until

LONG = {"duration": 0.01, "steps": 3}
NOTED = {"more": {"_meta": {"progressToken": 0}}}


def answer_of(event: Any) -> Any:
    return event["data"]["result"]["content"][0]["text"]


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("x", "2025-11-25"),
    ],
)
async def test_versions_are_agreed_on(asked: str, got: str) -> None:
    async with faces() as rig:
        params = {"protocolVersion": asked, "capabilities": {"roots": {}}, "clientInfo": {"name": "x", "version": "1"}}
        reply = await (await rig.peer()).ask("POST", {"jsonrpc": "2.0", "id": "i", "method": "initialize", "params": params})
        assert reply.json["id"] == "i" and reply.json["result"]["protocolVersion"] == got
        assert reply.json["result"]["serverInfo"]["name"] == "stand-in" and reply.json["result"]["instructions"] == "Be brief."
        session = rig.face.sessions.table[reply.fields["mcp-session-id"]]
        assert session.version == got and session.capabilities == {"roots": b"{}"} and b'"x"' in session.info


@pytest.mark.parametrize(
    "params", [None, {}, {"protocolVersion": 1}, {"protocolVersion": "2025-06-18"}, {"protocolVersion": "x", "capabilities": 1}]
)
async def test_an_initialize_that_says_too_little_makes_no_session(params: Any) -> None:
    async with faces() as rig:
        reply = await (await rig.peer()).ask("POST", {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
        assert reply.status == 400 and reply.json["error"]["code"] in (-32602, -32600)
        assert "mcp-session-id" not in reply.fields and not rig.face.sessions.table


async def test_a_session_belongs_to_its_caller() -> None:
    async with faces() as rig:
        ada = await rig.old(caller="ada")
        body = {"jsonrpc": "2.0", "id": 5, "method": "tools/list"}
        changed = ada.session[:-1] + ("0" if ada.session[-1] != "0" else "1")
        for caller, session, status in (
            ("ada", ada.session, 200),
            ("bob", ada.session, 404),
            ("", ada.session, 404),
            ("ada", changed, 404),
            ("ada", ada.session.upper(), 404 if ada.session.upper() != ada.session else 200),
            ("ada", "", 400),
        ):
            peer = await rig.peer()
            fields = {"Mcp-Session-Id": session}
            reply = await peer.ask("POST", body, caller=caller, fields=fields)
            assert (reply.status, reply.json["id"]) == (status, 5)
            if status == 404:
                assert (await peer.ask("GET", caller=caller, fields=fields)).status == 404
                assert (await peer.ask("DELETE", caller=caller, fields=fields)).status == 404
        assert len(rig.face.sessions.table) == 1


async def test_delete_ends_the_session_and_what_waits_in_it() -> None:
    async with faces() as rig:
        old = await rig.old()
        stream = await old.get()
        waiting = asyncio.ensure_future(old.call("wait", id=4))
        await rig.service.started.wait()
        assert (await (await rig.peer()).ask("DELETE", fields=old.fields)).status == 204
        assert (await waiting).json["error"]["code"] == CANCELLED
        assert (await stream.events())[:1] != [] and rig.service.cancelled and not rig.service.joined
        assert (await old.call("echo", {"message": "x"})).status == 404
        assert (await (await rig.peer()).ask("DELETE", fields=old.fields)).status == 404


async def test_two_clients_use_the_same_ids_and_tokens() -> None:
    async with faces() as rig:
        one, two = await rig.old(), await rig.old()
        replies = await asyncio.gather(*[old.call("trigger-long-running-operation", LONG, id=0, **NOTED) for old in (one, two)])
        for reply in replies:
            events = [event["data"] for event in await reply.events() if event.get("data")]
            assert [event["params"] for event in events[:-1]] == [{"progressToken": 0, "progress": n, "total": 3} for n in (1, 2, 3)]
            assert events[-1]["id"] == 0


@pytest.mark.parametrize("id", [0, -1, "0", "", "ü", 2**60])
async def test_ids_keep_their_type(id: Any) -> None:
    async with faces() as rig:
        reply = await (await rig.old()).call("echo", {"message": "x"}, id=id)
        assert reply.json["id"] == id and type(reply.json["id"]) is type(id)


async def test_an_id_that_is_in_use() -> None:
    async with faces() as rig:
        old = await rig.old()
        first = asyncio.ensure_future(old.call("wait", id=1))
        await rig.service.started.wait()
        assert (await old.call("echo", {"message": "x"}, id=1)).json["error"]["code"] == -32600
        assert (await old.call("echo", {"message": "x"}, id="1")).json["result"]
        rig.service.go.set()
        assert (await first).json["result"]


async def test_calls_of_one_session_are_bounded() -> None:
    async with faces() as rig:
        old = await rig.old()
        session = rig.face.sessions.table[old.session]

        class Never:
            def cancel(self) -> None:
                pass

        session.calls = {b"x%d" % number: Never() for number in range(CALLS)}
        assert (await old.call("echo", {"message": "x"})).json["error"]["code"] == 4503
        assert (await old.post({"id": 1, "method": "ping"})).json["result"] == {}


async def test_notes_make_the_answer_a_stream_that_begins_with_an_id() -> None:
    async with faces() as rig:
        old = await rig.old()
        reply = await old.call("trigger-long-running-operation", LONG, **NOTED)
        events = await reply.events()
        assert reply.streams and events[0] == {"id": "1-1", "retry": "1000", "data": ""}
        assert [event["id"] for event in events] == ["1-1", "1-2", "1-3", "1-4", "1-5"]
        assert answer_of(events[-1]).startswith("Long running operation completed")


async def test_older_clients_are_not_primed() -> None:
    async with faces() as rig:
        old = await rig.old("2025-06-18")
        events = await (await old.call("trigger-long-running-operation", LONG, **NOTED)).events()
        assert events[0]["data"]["method"] == "notifications/progress"


async def test_without_a_token_there_is_no_progress() -> None:
    async with faces() as rig:
        reply = await (await rig.old()).call("trigger-long-running-operation", LONG)
        assert not reply.streams and reply.json["result"]


async def test_a_client_that_takes_no_streams_gets_json() -> None:
    async with faces() as rig:
        old = await rig.old()
        reply = await old.call("trigger-long-running-operation", LONG, fields={"Accept": "application/json"}, **NOTED)
        assert reply.json["result"]


async def test_leaving_is_not_cancelling_and_the_answer_waits() -> None:
    async with faces() as rig:
        old = await rig.old()
        reply = await old.call("wait", {"notes": 2})
        assert await reply.event()
        first = await reply.event()
        reply.peer.close()
        await until(lambda: rig.face.sessions.table[old.session].streams[1].visit is None)  # type: ignore[index]
        rig.service.go.set()
        await until(lambda: not rig.face.sessions.table[old.session].calls)
        again = await old.get(first["id"])
        events = await again.events()
        assert [event["data"].get("params", {}).get("data") for event in events] == [1, None]
        assert answer_of(events[-1]) == "waited" and not rig.service.cancelled


async def test_a_silent_call_begins_its_stream_after_a_while_so_it_can_be_resumed() -> None:
    async with faces() as rig:
        old = await rig.old()
        pending = asyncio.ensure_future(old.call("wait"))
        await rig.service.started.wait()
        rig.face.sweep(next(iter(rig.face.waiting)).since + QUIET_S + 0.1)
        reply = await pending
        first = await reply.event()
        reply.peer.close()
        rig.service.go.set()
        assert answer_of((await (await old.get(first["id"])).events())[-1]) == "waited"


async def test_an_answer_nobody_could_ask_for_again_is_dropped() -> None:
    async with faces() as rig:
        old, peer = await rig.old(), await rig.peer()
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait"}}
        await peer.send("POST", body, fields=old.fields)
        await rig.service.started.wait()
        peer.close()
        await until(lambda: not rig.face.waiting)
        rig.service.go.set()
        await until(lambda: not rig.face.sessions.table[old.session].calls)
        assert rig.face.store.bytes == 0 and not rig.service.cancelled


@pytest.mark.parametrize("last", ["9-1", "x", "1-", "99999999999999999999999999999999999999999-1"])
async def test_events_nobody_knows(last: str) -> None:
    async with faces() as rig:
        assert (await (await rig.old()).get(last)).status == 400


async def test_events_of_another_session_are_not_seen() -> None:
    async with faces() as rig:
        ada, bob = await rig.old(caller="ada"), await rig.old(caller="bob")
        await (await ada.call("trigger-long-running-operation", LONG, **NOTED)).events()
        assert (await bob.get("1-1")).status == 400


async def test_the_second_get_replaces_the_first() -> None:
    async with faces() as rig:
        old = await rig.old()
        first = await old.get()
        primed = await first.event()
        second = await old.get(primed["id"])
        assert await first.events() == []
        rig.service.change()
        events = [await second.event(), await second.event()]
        assert events[1]["data"]["method"] == "notifications/tools/list_changed"


async def test_what_changes_before_the_first_get_is_heard() -> None:
    async with faces() as rig:
        old = await rig.old()
        rig.service.change()
        assert (await (await old.get()).event())["data"]["method"] == "notifications/tools/list_changed"


async def test_a_question_in_the_midst_of_a_call() -> None:
    async with faces() as rig:
        old = await rig.old(elicitation={})
        reply = await old.call("ask", {"at_once": 2})
        await reply.event()
        asked = [(await reply.event())["data"] for _ in range(2)]
        assert [each["method"] for each in asked] == ["elicitation/create"] * 2
        for each, name in zip(reversed(asked), ("Bob", "Ada"), strict=True):
            answer = {"id": each["id"], "result": {"action": "accept", "content": {"name": name}}}
            assert (await old.post(answer)).status == 202
        assert answer_of((await reply.events())[-1]) == "Hello Ada and Bob"


async def test_what_the_client_did_not_declare_is_refused_at_once() -> None:
    async with faces() as rig:
        reply = await (await rig.old(elicitation={})).call("ask", {"mode": "url"})
        assert "by URL" in (await reply.events())[-1]["data"]["error"]["message"]
        reply = await (await rig.old()).call("ask")
        assert (await reply.events())[-1]["data"]["error"]["code"] == -32601


async def test_another_callers_answer_to_a_question_means_nothing() -> None:
    async with faces() as rig:
        ada, bob = await rig.old(caller="ada", elicitation={}), await rig.old(caller="bob")
        reply = await ada.call("ask")
        await reply.event()
        id = (await reply.event())["data"]["id"]
        assert (await bob.post({"id": id, "result": {"action": "accept", "content": {"name": "Bob"}}})).status == 202
        await ada.post({"id": id, "result": {"action": "accept", "content": {"name": "Ada"}}})
        assert answer_of((await reply.events())[-1]) == "Hello Ada"


async def test_a_question_after_its_client_left_waits_on_the_stream() -> None:
    async with faces() as rig:
        old = await rig.old(elicitation={})
        reply = await old.call("wait", {"notes": 1, "ask": True})
        first = await reply.event()
        reply.peer.close()
        await until(lambda: rig.face.sessions.table[old.session].streams[1].visit is None)  # type: ignore[index]
        rig.service.go.set()
        again = await old.get(first["id"])
        await again.event()
        asked = (await again.event())["data"]
        await old.post({"id": asked["id"], "result": {"action": "decline"}})
        assert answer_of((await again.events())[-1]) == "waited"
        assert rig.service.answers[0].result == b'{"action":"decline"}'


async def test_a_question_to_a_client_that_left_for_good_is_answered() -> None:
    """It left before it knew a stream, and has no other open."""
    async with faces() as rig:
        old, peer = await rig.old(elicitation={}), await rig.peer()
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait", "arguments": {"ask": True}}}
        await peer.send("POST", body, fields=old.fields)
        await rig.service.started.wait()
        peer.close()
        await until(lambda: not rig.face.waiting)
        rig.service.go.set()
        await until(lambda: rig.service.answers)
        assert rig.service.answers[0].error is not None


async def cancel(rig: Rig, old: Any, id: Any) -> int:
    return int((await old.post({"method": "notifications/cancelled", "params": {"requestId": id}})).status)


async def test_cancellation() -> None:
    async with faces() as rig:
        old = await rig.old()
        pending = asyncio.ensure_future(old.call("wait", id="1"))
        await rig.service.started.wait()
        for other in (1, 2, "x", None):
            assert await cancel(rig, old, other) == 202
        assert not rig.service.cancelled
        assert await cancel(rig, await rig.old(), "1") == 202  # another session's
        assert not rig.service.cancelled
        await cancel(rig, old, "1")
        assert (await pending).json["error"]["code"] == CANCELLED
        await until(lambda: rig.service.cancelled)
        assert await cancel(rig, old, "1") == 202  # once more
        rig.service.go.set()
        assert (await old.call("wait", id="1")).json["result"]  # the id is free


async def test_a_call_cancelled_while_its_client_is_asked() -> None:
    """The question is taken back, the stream ends, and an answer that comes late means nothing."""
    async with faces() as rig:
        old = await rig.old(elicitation={})
        reply = await old.call("ask", id=3)
        await reply.event()
        asked = (await reply.event())["data"]
        await cancel(rig, old, 3)
        events = [event["data"] for event in await reply.events()]
        assert CANCELLED in [event.get("error", {}).get("code") for event in events]
        assert (await old.post({"id": asked["id"], "result": {}})).status == 202
        session = rig.face.sessions.table[old.session]
        await until(lambda: not session.calls and not session.questions)


async def test_words_of_the_modern_era_are_not_known_here() -> None:
    async with faces() as rig:
        old = await rig.old()
        for method in ("server/discover", "subscriptions/listen", "of/tomorrow"):
            assert (await old.post({"id": 1, "method": method})).json["error"]["code"] == -32601


async def test_what_a_session_wants_to_hear_is_remembered() -> None:
    async with faces() as rig:
        old = await rig.old()
        session = rig.face.sessions.table[old.session]
        await old.post({"id": 1, "method": "resources/subscribe", "params": {"uri": "file:///a"}})
        await old.post({"id": 2, "method": "resources/subscribe", "params": {"uri": "file:///b"}})
        await old.post({"id": 3, "method": "resources/unsubscribe", "params": {"uri": "file:///b"}})
        await old.post({"id": 4, "method": "logging/setLevel", "params": {"level": "error"}})
        assert session.subscriptions == {"file:///a"} and session.level == "error"
        await old.post({"method": "notifications/roots/list_changed"})
        await until(lambda: rig.service.told)
        assert rig.service.told == [(session, "notifications/roots/list_changed")]


async def test_batches_are_for_the_one_revision_that_has_them() -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
        {"jsonrpc": "2.0", "id": "1", "method": "tools/call", "params": {"name": "echo", "arguments": {"message": "x"}}},
    ]
    async with faces() as rig:
        old = await rig.old("2025-03-26")
        reply = await (await rig.peer()).ask("POST", json.dumps(batch).encode(), fields=old.fields)
        assert {event["data"]["id"] for event in await reply.events()} == {1, "1"}
        assert (await (await rig.peer()).ask("POST", json.dumps(batch[1:2]).encode(), fields=old.fields)).status == 202
        broken = [{"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": 5}, *batch[:1]]
        reply = await (await rig.peer()).ask("POST", json.dumps(broken).encode(), fields=old.fields)
        assert {event["data"]["id"]: "error" in event["data"] for event in await reply.events()} == {3: True, 1: False}
        for bad in ([], [1], batch * 40, [{"jsonrpc": "2.0", "id": 1, "method": "initialize"}]):
            assert (await (await rig.peer()).ask("POST", json.dumps(bad).encode(), fields=old.fields)).status == 400
        later = await rig.old("2025-06-18")
        assert (await (await rig.peer()).ask("POST", json.dumps(batch).encode(), fields=later.fields)).status == 400


async def test_places_are_bounded() -> None:
    async with faces(limit=2) as rig:
        first, _ = await rig.old(), await rig.old()
        params = {"protocolVersion": "2025-11-25", "capabilities": {}}
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        reply = await (await rig.peer()).ask("POST", body)
        assert reply.status == 503 and reply.json["id"] == 0 and reply.fields["retry-after"] == "60"
        assert (await (await rig.peer()).ask("GET")).status == 503
        rig.face.sessions.table[first.session].last -= 3600
        assert (await (await rig.peer()).ask("POST", body)).status == 200
        assert (await first.call("echo", {"message": "x"})).status == 404
