"""The modern era: whole requests, connections that are lives, questions by rounds."""

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.gateway import parking
from mcpproxy.gateway.face import QUIET_S
from mcpproxy.gateway.greeting import answered
from mcpproxy.gateway.modern import complete
from mcpproxy.gateway.parts import Answer, Call, Era
from mcpproxy.gateway.shelf import Offer
from tests.gateway.members import SomeMember, SomeServer, hub_of, tool
from tests.support.faces import META, envelope, faces, until

ADA = {"action": "accept", "content": {"name": "Ada"}}
CAN = {"can": {"elicitation": {}}}


def text_of(reply: Any) -> Any:
    return reply.json["result"]["content"][0]["text"]


async def asked(rig: Any, arguments: Any = None, caller: str = "ada", **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A call that is answered with a question: its params, and the result."""
    params = {"name": "ask", "arguments": arguments or {}}
    reply = await rig.modern(1, "tools/call", params, caller=caller, **{**CAN, **options})
    assert reply.json["result"]["resultType"] == "input_required", reply.body
    return params, reply.json["result"]


def retry(params: dict[str, Any], result: dict[str, Any], answer: Any = None) -> dict[str, Any]:
    answers = dict.fromkeys(result["inputRequests"], answer or ADA)
    return {**params, "inputResponses": answers, "requestState": result["requestState"]}


async def test_an_answer_that_is_there_at_once_is_json() -> None:
    async with faces() as rig:
        reply = await rig.modern(0, "tools/call", {"name": "echo", "arguments": {"message": "x"}})
        assert not reply.streams and reply.json["result"]["resultType"] == "complete"
        call = rig.service.calls[0]
        assert call.client.capabilities == {} and call.client.version == "2026-07-28"


async def test_notes_make_it_a_stream() -> None:
    async with faces() as rig:
        operation = {"name": "trigger-long-running-operation", "arguments": {"duration": 0.01, "steps": 2}}
        reply = await rig.modern(0, "tools/call", operation, meta={"progressToken": "t"})
        events = await reply.events()
        assert reply.streams and [set(event) for event in events] == [{"event", "data"}] * 3  # no ids: nothing can be resumed
        assert events[0]["data"]["params"] == {"progressToken": "t", "progress": 1, "total": 2}
        assert events[-1]["data"]["id"] == 0
        assert not (await rig.modern(0, "tools/call", operation)).streams  # nobody wants to know
        json = await rig.modern(0, "tools/call", operation, meta={"progressToken": "t"}, fields={"Accept": "application/json"})
        assert json.json["id"] == 0


async def test_log_messages_only_for_those_who_want_them() -> None:
    async with faces() as rig:
        rig.service.go.set()
        call = {"name": "wait", "arguments": {"notes": 1}}
        assert not (await rig.modern(0, "tools/call", call)).streams
        assert not (await rig.modern(0, "tools/call", call, meta={META + "logLevel": "error"})).streams
        assert len(await (await rig.modern(0, "tools/call", call, meta={META + "logLevel": "info"})).events()) == 2


async def test_a_silent_call_begins_its_stream_after_a_while() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        await peer.modern(0, "tools/call", {"name": "wait"}, wait=False)
        await rig.service.started.wait()
        rig.face.sweep(next(iter(rig.face.waiting)).since + QUIET_S + 0.1)
        reply = await peer.reply()
        assert reply.streams
        rig.service.go.set()
        assert [event["data"]["id"] for event in await reply.events()] == [0]


@pytest.mark.parametrize("notes", [0, 2])
async def test_leaving_is_cancelling(notes: int) -> None:
    async with faces() as rig:
        peer = await rig.peer()
        call = {"name": "wait", "arguments": {"notes": notes}}
        await peer.modern(0, "tools/call", call, meta={META + "logLevel": "info"}, wait=False)
        await rig.service.started.wait()
        peer.close()
        await until(lambda: rig.service.cancelled)
        assert not rig.face.waiting


async def test_leaving_with_the_answer_on_its_way() -> None:
    """Whatever comes first, it is told once and nothing breaks."""
    async with faces() as rig:
        for _ in range(50):
            peer = await rig.peer()
            await peer.modern(0, "tools/call", {"name": "wait"}, wait=False)
            await rig.service.started.wait()
            rig.service.go.set()
            peer.close()
            await asyncio.sleep(0)
            rig.service.go.clear()
            rig.service.started.clear()
        await until(lambda: not rig.web.visits)
        assert not rig.face.waiting and not rig.broken


async def test_notifications() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        fields = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "notifications/x"}
        body = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": envelope()}}
        reply = await peer.ask("POST", body, fields=fields)
        assert (reply.status, reply.body) == (202, b"")
        assert (await peer.ask("POST", body, fields={**fields, "Mcp-Method": "notifications/y"})).status == 400
        await until(lambda: rig.service.told)
        assert [method for _, method in rig.service.told] == ["notifications/x"]


async def test_errors_in_the_words_of_today() -> None:
    async with faces() as rig:
        reply = await rig.modern(0, "resources/read", {"uri": "file:///x"})
        assert (reply.status, reply.json["error"]["code"]) == (200, -32602)
        reply = await rig.modern(0, "tools/call", {"name": "nothing"})
        assert (reply.status, reply.json["error"]["code"]) == (200, -32602)


@pytest.mark.parametrize(
    ("method", "result", "expected"),
    [
        ("tools/call", b"{}", b'{"resultType":"complete"}'),
        ("tools/call", b'{ "a":1}', b'{"resultType":"complete","a":1}'),
        ("tools/call", b'{"a":{"resultType":1}}', b'{"resultType":"complete","a":{"resultType":1}}'),
        ("tools/call", b'{"resultType":"task","taskId":"x"}', b'{"resultType":"task","taskId":"x"}'),
        ("tools/call", b'{"resultType":"complete"}', b'{"resultType":"complete"}'),
        ("tools/list", b'{"tools":[]}', b'{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[]}'),
        ("tools/list", b'{"ttlMs":5,"tools":[]}', b'{"resultType":"complete","cacheScope":"private","ttlMs":5,"tools":[]}'),
        (
            "tools/list",
            b'{"resultType":"complete","ttlMs":5,"cacheScope":"public"}',
            b'{"resultType":"complete","ttlMs":5,"cacheScope":"public"}',
        ),
        ("resources/read", b'{"resultType":"input_required"}', b'{"resultType":"input_required"}'),
    ],
)
def test_results_are_complete(method: str, result: bytes, expected: bytes) -> None:
    assert complete(method, result) == expected


# -- questions


async def test_a_question_is_an_answer_and_the_retry_goes_on() -> None:
    async with faces() as rig:
        params, result = await asked(rig)
        [[key, request]] = result["inputRequests"].items()
        assert key == "q1" and request["method"] == "elicitation/create" and request["params"]["message"] == "Who are you?"
        reply = await rig.modern(2, "tools/call", retry(params, result), caller="ada", **CAN)
        assert reply.json["id"] == 2 and text_of(reply) == "Hello Ada" and len(rig.service.calls) == 1
        assert not rig.face.lot.parked and not rig.face.lot.bytes
        again = await rig.modern(3, "tools/call", retry(params, result), caller="ada", **CAN)
        assert (again.status, again.json["id"], again.json["error"]["code"]) == (400, 3, -32602)


async def test_several_questions_and_several_rounds() -> None:
    async with faces() as rig:
        params, result = await asked(rig, {"at_once": 2, "again": 2})
        assert set(result["inputRequests"]) == {"q1", "q2"}
        states = {result["requestState"]}
        for round in range(2):
            reply = await rig.modern(f"r{round}", "tools/call", retry(params, result), caller="ada", **CAN)
            result = reply.json["result"]
            assert set(result["inputRequests"]) == {f"q{round + 3}"}
            states.add(result["requestState"])
        reply = await rig.modern("last", "tools/call", retry(params, result), caller="ada", **CAN)
        assert text_of(reply) == "Hello Ada and Ada and Ada and Ada" and len(states) == 3


async def test_what_was_not_answered_is_asked_again() -> None:
    async with faces() as rig:
        params, result = await asked(rig, {"at_once": 2})
        half = retry(params, result)
        del half["inputResponses"]["q1"]
        reply = await rig.modern(2, "tools/call", half, caller="ada", **CAN)
        assert set(reply.json["result"]["inputRequests"]) == {"q1"}
        for nothing in ({}, [], "x"):
            more = {**retry(params, reply.json["result"]), "inputResponses": nothing}
            reply = await rig.modern(3, "tools/call", more, caller="ada", **CAN)
            assert set(reply.json["result"]["inputRequests"]) == {"q1"}
        reply = await rig.modern(4, "tools/call", retry(params, reply.json["result"]), caller="ada", **CAN)
        assert text_of(reply) == "Hello Ada and Ada"


async def test_a_state_that_was_changed_or_is_somebody_elses() -> None:
    async with faces() as rig:
        params, result = await asked(rig)
        good = retry(params, result)
        state = good["requestState"]
        swapped = state[:-3] + ("A" if state[-3] != "A" else "B") + state[-2:]
        for bad, caller in (
            ({**good, "requestState": swapped}, "ada"),
            ({**good, "requestState": state + "="}, "ada"),
            ({**good, "requestState": state[:30]}, "ada"),
            ({**good, "arguments": {"other": 1}}, "ada"),
            (good, "bob"),
            (good, ""),
        ):
            reply = await rig.modern(9, "tools/call", bad, caller=caller, **CAN)
            assert (reply.status, reply.json["id"], reply.json["error"]["code"]) == (400, 9, -32602)
        assert text_of(await rig.modern(2, "tools/call", good, caller="ada", **CAN)) == "Hello Ada"


async def test_two_retries_at_once_one_goes_on() -> None:
    async with faces() as rig:
        params, result = await asked(rig)
        replies = await asyncio.gather(*[rig.modern(n, "tools/call", retry(params, result), caller="ada", **CAN) for n in (2, 3)])
        assert sorted(reply.status for reply in replies) == [200, 400]


async def test_a_modern_servers_own_state_goes_through() -> None:
    async with faces() as rig:
        params = {"name": "echo", "arguments": {"message": "x"}, "requestState": "asked", "inputResponses": {"who": ADA}}
        assert text_of(await rig.modern(1, "tools/call", params)) == "Echo: x"
        assert rig.service.calls[0].params["requestState"] == b'"asked"' and "inputResponses" in rig.service.calls[0].params


class Behind(SomeServer):
    """As every conversation asks its server."""

    async def ask(self, call: Call) -> Answer:
        return await answered(self.server, call, lambda params: SomeServer.ask(self, call))


STATE = "mcpproxy-" + "a" * 20 + 'Ω "/\\u0000'  # whoever made it


@pytest.mark.parametrize("more", [{"requestState": STATE}, {"inputResponses": {"q1": ADA}}, {"requestState": "", "inputResponses": {}}])
async def test_a_state_nobody_made_is_refused_before_a_legacy_server_acts_twice(more: dict[str, Any]) -> None:
    server = Behind({"tools": [tool("echo")]})
    async with faces(behind=hub_of((SomeMember("a", server), Offer()))) as rig:
        reply = await rig.modern(1, "tools/call", {"name": "echo", "arguments": {}, **more})
        assert (reply.status, reply.body) == (
            400,
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Invalid or expired requestState"}}',
        )
        assert server.count("tools/call") == 0


async def test_a_damaged_mark_is_refused_in_the_same_words() -> None:
    """Whatever was changed of a state, the call is not carried out twice, and nobody learns why."""
    async with faces() as rig:
        params, result = await asked(rig)
        said = (
            await rig.modern(9, "tools/call", {**retry(params, result), "requestState": result["requestState"][:-1]}, caller="ada", **CAN)
        ).body
    server = Behind({"tools": [tool("ask")]})
    async with faces(behind=hub_of((SomeMember("a", server), Offer()))) as rig:
        for place in range(len(rig.face.lot.mark)):
            state = rig.face.lot.mark[:place] + "_" + rig.face.lot.mark[place + 1 :] + "AAAA"
            reply = await rig.modern(9, "tools/call", {**retry(params, result), "requestState": state}, caller="ada", **CAN)
            assert (reply.status, reply.body) == (400, said)
        assert server.count("tools/call") == 0


@pytest.mark.parametrize("state", [STATE, "", "\\", "mcpproxy-", "ü\n"])
async def test_a_modern_servers_own_state_reaches_it_byte_for_byte_also_changed(state: str) -> None:
    """Whether it is good is the server's to say, and its refusal comes back as it is."""
    refusal = Answer(error=b'{"code": -32602,  "message":"Tampered", "data":{"a":1.0}}')
    server = Behind({"tools": [tool("ask")]}, era=Era.MODERN)
    server.answers["tools/call"] = lambda call, params: refusal
    async with faces(behind=hub_of((SomeMember("a", server), Offer()))) as rig:
        reply = await rig.modern(1, "tools/call", {"name": "ask", "requestState": state, "inputResponses": {"who": ADA}})
        assert reply.body == b'{"jsonrpc":"2.0","id":1,"error":%b}' % (refusal.error or b"")
        assert server.calls[0].params["requestState"] == json.dumps(state).encode()


@pytest.mark.parametrize(
    ("can", "arguments"),
    [
        ({}, {}),
        ({"elicitation": {}}, {"mode": "url"}),
        ({"elicitation": {}}, {"method": "sampling/createMessage"}),
        ({}, {"method": "of/tomorrow"}),
    ],
)
async def test_what_the_client_did_not_declare_is_refused_at_once(can: Any, arguments: Any) -> None:
    async with faces() as rig:
        reply = await rig.modern(1, "tools/call", {"name": "ask", "arguments": arguments}, can=can)
        assert reply.json["error"]["code"] == -32601 and not rig.face.lot.parked


async def test_a_client_that_does_not_come_again() -> None:
    async with faces() as rig:
        await asked(rig)
        [rounds] = rig.face.lot.parked.values()
        rig.face.sweep(rounds.expires + 1)
        await until(lambda: rig.service.answers)
        assert rig.service.answers[0].error is not None
        rig.face.sweep(rounds.expires + 1)
        assert not rig.face.lot.parked and not rig.face.lot.bytes


async def test_an_answer_that_came_meanwhile_waits_for_the_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    async with faces() as rig:
        params, result = await asked(rig)
        [rounds] = rig.face.lot.parked.values()
        rounds.fail(rig.service.answers[0] if rig.service.answers else parking.Answer.failure(1, "the server gave up"))
        await until(lambda: rig.service.answers)
        reply = await rig.modern(2, "tools/call", retry(params, result), caller="ada", **CAN)
        assert reply.json["error"]["message"] == "the server gave up" and not rig.face.lot.bytes


async def test_leaving_a_retry_cancels_the_call() -> None:
    async with faces() as rig:
        params, result = await asked(rig, {"again": 1})
        peer = await rig.peer()
        rounds = next(iter(rig.face.lot.parked.values()))
        monkey = {key: value for key, value in retry(params, result).items() if key != "inputResponses"}
        rounds.open.clear()  # the server is busy with something else
        await peer.modern(2, "tools/call", monkey, caller="ada", wait=False, **CAN)
        await until(lambda: not rig.face.lot.parked)
        peer.close()
        await until(lambda: rig.service.cancelled)


async def test_the_hub_may_put_other_names() -> None:
    """What binds the state is what the client wrote."""
    async with faces() as rig:
        original = rig.service._ask

        async def renamed(call: Any) -> Any:
            call.params["name"] = b'"ask"'
            return await original(call)

        rig.service._ask = renamed  # type: ignore[method-assign]
        params = {"name": "files_ask", "arguments": {}}
        reply = await rig.modern(1, "tools/call", params, **CAN)
        assert text_of(await rig.modern(2, "tools/call", retry(params, reply.json["result"]), **CAN)) == "Hello Ada"


async def test_too_many_parked_calls_of_one_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MOST_OF_ONE", 2)
    async with faces() as rig:
        await asked(rig), await asked(rig)
        reply = await rig.modern(1, "tools/call", {"name": "ask", "arguments": {}}, caller="ada", **CAN)
        assert reply.json["error"]["code"] == 4409
        await asked(rig, caller="bob")


async def test_a_reader_who_does_not_read_is_left_and_its_call_cancelled() -> None:
    async with faces() as rig:
        peer = await rig.peer()
        peer.reader._limit = 1  # type: ignore[attr-defined]  # it reads nothing more
        call = {"name": "pour", "arguments": {"times": 1000, "size": 65536}}
        await peer.modern(1, "tools/call", call, meta={META + "logLevel": "debug"}, wait=False)
        await until(lambda: rig.service.cancelled)
        await until(lambda: not rig.web.visits)
