"""Sessions by Streamable HTTP: fields, streams, resumption, and what is done when a session is gone."""

import asyncio

import pytest

from tests.connect.rig import Answer, Legacy, Seen, desk, far


async def test_every_request_after_the_first_tells_session_and_revision() -> None:
    async with far(Legacy()) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(0, "tools/list", {"cursor": "ü"})
        assert (await at.answer(0))["result"] == {"echo": {"cursor": "ü"}}
        first, *others = server.seen
        assert "mcp-session-id" not in first.fields and "mcp-protocol-version" not in first.fields
        assert {(each.fields["mcp-session-id"], each.fields["mcp-protocol-version"]) for each in others} == {("s1", "2025-11-25")}
        assert [each.message["method"] for each in server.seen if each.body] == ["initialize", "notifications/initialized", "tools/list"]
    assert [each.method for each in server.seen].count("DELETE") == 1


async def test_a_request_waits_until_the_server_took_initialized() -> None:
    """Servers refuse requests before it (mcp 1.x: "Received request before initialization was complete")."""
    taken = asyncio.Event()
    legacy = Legacy()

    async def answer(seen: Seen, to: Answer) -> None:
        if seen.body and seen.message["method"] == "notifications/initialized":
            await taken.wait()
        await legacy(seen, to)

    async with far(answer) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/list")
        await at.until(lambda: server.of("notifications/initialized"))
        assert not server.of("tools/list")
        taken.set()
        await at.answer(1)


async def test_messages_go_through_as_they_are() -> None:
    raw = b'{ "method":"x/unknown", "id":9007199254740993, "jsonrpc":"2.0","params":{"a":1.10,"b":"\\u00e9","c":12345678901234567890} }'

    async def more(seen: Seen, to: Answer) -> None:
        await to.plain(
            200,
            b'{"later":[1.10],\n "id":9007199254740993,"result":{"n":1e2,"u":"\\u00e9"},"jsonrpc":"2.0"}',
            Content_Type="application/json",
        )

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.say(raw)
        await at.answer(9007199254740993)
        assert server.of("x/unknown")[0].body == raw
        assert at.lines[-1] == b'{"later":[1.10],"id":9007199254740993,"result":{"n":1e2,"u":"\\u00e9"},"jsonrpc":"2.0"}'


async def test_questions_of_the_server_are_answered_in_the_midst_of_a_call() -> None:
    answered = asyncio.Event()

    async def more(seen: Seen, to: Answer) -> None:
        await to.stream()
        await to.event({"jsonrpc": "2.0", "id": 0, "method": "elicitation/create", "params": {}})
        await answered.wait()
        await to.event({"jsonrpc": "2.0", "id": seen.message["id"], "result": {"done": True}})
        to.end()

    legacy = Legacy(more)

    async def answer(seen: Seen, to: Answer) -> None:
        if seen.body and "result" in seen.message:
            assert seen.message == {"jsonrpc": "2.0", "id": 0, "result": {"action": "accept"}}
            answered.set()
            await to.plain(202)
            return
        await legacy(seen, to)

    async with far(answer) as server, desk(server.url) as at:
        await at.begin()
        await at.ask("call", "tools/call", {"name": "ask"})
        await at.until(lambda: any(each.get("method") == "elicitation/create" for each in at.heard))
        await at.say({"jsonrpc": "2.0", "id": 0, "result": {"action": "accept"}})
        assert (await at.answer("call"))["result"] == {"done": True}


async def test_an_answer_whose_stream_ended_early_is_fetched_where_it_left_off() -> None:
    """2025-11-25: a server may close the connection after a priming event and be asked again."""

    async def more(seen: Seen, to: Answer) -> None:
        if seen.method == "POST":
            await to.stream()
            await to.event("", id="e1", retry=10)
            to.end()
            return
        assert (seen.fields["last-event-id"], seen.fields["mcp-session-id"]) in [("e1", "s1"), ("e2", "s1")]
        await to.stream()
        if seen.fields["last-event-id"] == "e1":
            await to.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}, id="e2")
            to.cut()
            return
        await to.event({"jsonrpc": "2.0", "id": 5, "result": {}}, id="e3")
        to.end()

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(5, "tools/call", {"name": "slow"})
        assert (await at.answer(5))["result"] == {}
        assert [each["method"] for each in at.heard if "method" in each] == ["notifications/progress"]


async def test_a_lost_session_is_begun_anew_without_the_client() -> None:
    legacy = Legacy(listens=True)
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "logging/setLevel", {"level": "error"})
        await at.ask(2, "resources/subscribe", {"uri": "a:/1"})
        await at.ask(3, "resources/subscribe", {"uri": "a:/2"})
        for id in (1, 2, 3):
            await at.answer(id)
        await at.ask(4, "resources/unsubscribe", {"uri": "a:/1"})
        await at.answer(4)
        await at.until(lambda: legacy.streams)
        legacy.alive.clear()
        await at.ask(5, "tools/list", {"x": 1})
        assert (await at.answer(5))["result"] == {"echo": {"x": 1}}, "what was refused was not done, so it is asked again"
        again = [each.message for each in server.seen if each.fields.get("mcp-session-id") == "s2" and each.body]
        assert [each["method"] for each in again] == ["notifications/initialized", "logging/setLevel", "resources/subscribe", "tools/list"]
        assert (again[1]["params"], again[2]["params"]) == ({"level": "error"}, {"uri": "a:/2"})
        assert server.of("initialize")[1].message["params"] == server.of("initialize")[0].message["params"]
        answers = [each["id"] for each in at.heard if "method" not in each]
        assert sorted(map(str, answers)) == ["1", "2", "3", "4", "5", "begin"], "each once, and none of ours"
        assert {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"} in at.heard
        await at.until(lambda: len(legacy.streams) == 2, "a stream of the new session")


async def test_servers_that_answer_400_to_an_unknown_session() -> None:
    """server-everything does."""
    legacy = Legacy()

    async def answer(seen: Seen, to: Answer) -> None:
        if seen.fields.get("mcp-session-id", "s1") not in legacy.alive and not (seen.body and seen.message.get("method") == "initialize"):
            await to.json(
                {"jsonrpc": "2.0", "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"}, "id": None}, 400
            )
            return
        await legacy(seen, to)

    async with far(answer) as server, desk(server.url) as at:
        await at.begin()
        legacy.alive.clear()
        await at.ask(1, "tools/list")
        assert "result" in await at.answer(1)


async def test_ten_calls_that_meet_a_lost_session_begin_one() -> None:
    legacy = Legacy()
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        legacy.alive.clear()
        for id in range(10):
            await at.ask(id, "tools/call", {"name": "x"})
        for id in range(10):
            assert "result" in await at.answer(id)
        assert legacy.number == 2


async def test_a_call_that_was_running_in_a_lost_session_ends_with_an_error() -> None:
    begun: list[Answer] = []

    async def more(seen: Seen, to: Answer) -> None:
        await to.stream()
        await to.event("", id="e1", retry=1)
        begun.append(to)

    legacy = Legacy(more)
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/call", {"name": "slow"})
        await at.until(lambda: begun)
        legacy.alive.clear()
        begun[0].cut()
        assert (await at.answer(1))["error"]["code"] == 4502
        assert len(server.of("tools/call")) == 1, "it may have been done, so it is not asked again"


async def test_questions_of_a_lost_session_are_called_off_and_their_answers_go_nowhere() -> None:
    legacy = Legacy(listens=True)
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        stream = (await at.until(lambda: legacy.streams))[0]
        await stream.event({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})
        await at.until(lambda: any(each.get("id") == "q" for each in at.heard))
        legacy.alive.clear()
        await at.ask(1, "tools/list")
        await at.answer(1)
        [off] = [each for each in at.heard if each.get("method") == "notifications/cancelled"]
        assert off["params"]["requestId"] == "q"
        await at.say({"jsonrpc": "2.0", "id": "q", "result": {"roots": []}})
        await at.ask(2, "tools/list")
        await at.answer(2)
        assert not [each for each in server.seen if each.body and "result" in each.message]


async def test_the_stream_outside_of_calls_comes_back() -> None:
    legacy = Legacy(listens=True)
    async with far(legacy) as server, desk(server.url) as at:
        await at.begin()
        first = (await at.until(lambda: legacy.streams))[0]
        await first.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 1}}, retry=5)
        await at.until(lambda: len(at.heard) == 2)
        first.cut()
        second = (await at.until(lambda: legacy.streams[1:]))[0]
        await second.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": 2}})
        await at.until(lambda: len(at.heard) == 3)


async def test_a_server_without_such_a_stream_is_not_asked_again() -> None:
    async with far(Legacy()) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "ping")
        await at.answer(1)
        await at.until(lambda: [each for each in server.seen if each.method == "GET"])
        await at.ask(2, "ping")
        await at.answer(2)
        assert len([each for each in server.seen if each.method == "GET"]) == 1


async def test_a_client_that_calls_off_a_call_is_heard() -> None:
    called: list[Answer] = []

    async def more(seen: Seen, to: Answer) -> None:
        await to.stream()
        called.append(to)

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(1, "tools/call", {"name": "slow"})
        await at.until(lambda: called)
        await at.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        await at.until(lambda: server.of("notifications/cancelled"))
        assert not called[0].gone.is_set(), "in this era a closed stream says nothing"


@pytest.mark.parametrize("status", [400, 503])
async def test_an_error_in_the_body_gets_the_id_that_the_client_waits_for(status: int) -> None:
    async def more(seen: Seen, to: Answer) -> None:
        await to.json({"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32602, "message": "no"}}, status)

    async with far(Legacy(more)) as server, desk(server.url) as at:
        await at.begin()
        await at.ask(0, "tools/list")
        assert (await at.answer(0))["error"] == {"code": -32602, "message": "no"}


async def test_batches_of_2025_03_26() -> None:
    async def more(seen: Seen, to: Answer) -> None:
        pytest.fail("no single message was sent")

    legacy = Legacy(more)

    async def answer(seen: Seen, to: Answer) -> None:
        if seen.body[:1] == b"[":
            await to.json([{"jsonrpc": "2.0", "id": each["id"], "result": {}} for each in seen.message if "id" in each])
            return
        await legacy(seen, to)

    async with far(answer) as server, desk(server.url) as at:
        await at.begin()
        await at.say(
            b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":2,"method":"ping"}]'
        )
        await at.until(lambda: len(at.lines) == 2)
        assert at.heard[1] == [{"jsonrpc": "2.0", "id": 1, "result": {}}, {"jsonrpc": "2.0", "id": 2, "result": {}}]
        assert not at.bridge.calls
