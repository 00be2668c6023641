"""Whose is what comes back: ids, tokens, questions, cancellation, over a server that is a list."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.gateway import pipe
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, NO_ONE_TO_ASK, TIMED_OUT, Answer, Client, Era, Unavailable
from mcpproxy.gateway.pipe import NOTES, QUESTIONS, Patience, Pipe
from tests.support.gateway import SomeClient, SomeHub, call


class Wire:
    """What was sent to the server, and its side of the talk."""

    def __init__(self, *, owner: Client | None = None, patience: Patience | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.hub = SomeHub()
        self.broken = False
        self.pipe = Pipe(
            "files", self.send, self.hub, owner=owner, patience=patience or Patience(), say=lambda _, text: self.said.append(text)
        )

    def send(self, raw: bytes, id: bytes | None) -> None:
        if self.broken:
            raise Unavailable("no room")
        found = json.loads(raw)
        assert id is None or found["id"] == int(id)
        self.sent.append(found)

    def says(self, **message: Any) -> None:
        self.pipe.received(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def until(self, count: int) -> None:
        for _ in range(20):  # turns of the loop
            if len(self.sent) >= count:
                return
            await asyncio.sleep(0)
        raise AssertionError(self.sent)


def ask(wire: Wire, *args: Any, **kwargs: Any) -> tuple[Any, asyncio.Task[Answer]]:
    made = call(*args, **kwargs)
    return made, asyncio.create_task(wire.pipe.ask(made))


def code(answer: Answer) -> int:
    assert answer.error is not None
    found = json.loads(answer.error)["code"]
    assert isinstance(found, int)
    return found


async def test_answers_find_their_calls_in_any_order() -> None:
    wire = Wire()
    _, one = ask(wire, "tools/call", {"name": "a", "arguments": {"n": 1.0}})
    _, two = ask(wire, "tools/list")
    await wire.until(2)
    assert [(sent["method"], sent["id"]) for sent in wire.sent] == [("tools/call", 1), ("tools/list", 2)]
    wire.pipe.received(b'{"id":2,"jsonrpc":"2.0","result":{"tools":[], "n": 1.00}}')
    wire.says(id="1", error={"code": 7, "message": "no"})  # some servers make strings of numbers
    assert await two == Answer(result=b'{"tools":[], "n": 1.00}')
    assert code(await one) == 7
    assert wire.pipe.calls == 0


async def test_equal_progress_tokens_of_two_clients_are_kept_apart() -> None:
    wire = Wire()
    one, first = ask(wire, "tools/call", {"name": "a", "_meta": {"progressToken": 0, "x.y/z": [1]}}, token=b"0", client=SomeClient("a"))
    two, second = ask(wire, "tools/call", {"name": "a", "_meta": {"progressToken": 0}}, token=b"0", client=SomeClient("b"))
    await wire.until(2)
    assert wire.sent[0]["params"] == {"name": "a", "_meta": {"progressToken": 1, "x.y/z": [1]}}
    wire.says(method="notifications/progress", params={"progressToken": 2, "progress": 1})
    wire.says(method="notifications/progress", params={"progressToken": 9, "progress": 1})
    assert one.notes == []
    assert two.notes == [("notifications/progress", {"progress": b"1"})]
    for id in (1, 2):
        wire.says(id=id, result={})
    await asyncio.gather(first, second)
    wire.says(method="notifications/progress", params={"progressToken": 2, "progress": 2})
    assert len(two.notes) == 1
    assert wire.hub.heard_of == []


async def test_a_call_that_is_cancelled_is_cancelled_at_the_server_and_its_late_answer_dropped() -> None:
    wire = Wire()
    _, task = ask(wire, "tools/call")
    await wire.until(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert wire.sent[1]["method"] == "notifications/cancelled"
    assert wire.sent[1]["params"]["requestId"] == 1
    wire.says(id=1, result={})
    assert wire.pipe.calls == 0
    assert wire.said == []


async def test_an_answer_that_came_before_the_cancel_is_not_cancelled() -> None:
    wire = Wire()
    _, task = ask(wire, "tools/call")
    await wire.until(1)
    wire.says(id=1, result={})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(wire.sent) == 1


async def test_a_request_goes_to_the_only_client_that_waits() -> None:
    wire = Wire()
    made, task = ask(wire, "tools/call")
    listening = asyncio.create_task(wire.pipe.request("subscriptions/listen", b"{}", note=lambda method, params: None))
    await wire.until(2)
    wire.says(id="q", method="sampling/createMessage", params={"n": 1})
    await wire.until(3)
    assert made.questions == [("sampling/createMessage", b'{"n":1}')]
    assert wire.sent[2] == {"jsonrpc": "2.0", "id": "q", "result": {"mine": True}}
    task.cancel()
    listening.cancel()


async def test_a_request_that_may_be_anothers_is_refused() -> None:
    wire = Wire()
    one, first = ask(wire, "tools/call", client=SomeClient("a"))
    two, second = ask(wire, "tools/call", client=SomeClient("b"))
    await wire.until(2)
    wire.says(id=0, method="elicitation/create", params={})
    assert wire.sent[2]["id"] == 0
    assert wire.sent[2]["error"]["code"] == NO_ONE_TO_ASK
    # The first gives up; the server may still be at its call, so nobody knows whom it means.
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    wire.says(id=1, method="elicitation/create", params={})
    assert wire.sent[5]["error"]["code"] == NO_ONE_TO_ASK
    # Now it has answered: only the second can be meant.
    wire.says(id=1, result={})
    wire.says(id=2, method="elicitation/create", params={})
    await wire.until(7)
    assert wire.sent[6]["result"] == {"mine": True}
    assert one.questions == []
    assert len(two.questions) == 1
    second.cancel()


async def test_two_modern_requests_without_a_session_are_two_clients() -> None:
    wire = Wire()
    _, first = ask(wire, "tools/call", client=SomeClient("", era=Era.MODERN))
    await wire.until(1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    later, second = ask(wire, "tools/call", client=SomeClient("", era=Era.MODERN))
    await wire.until(4)
    wire.says(id=5, method="roots/list")
    assert wire.sent[4]["error"]["code"] == NO_ONE_TO_ASK
    assert later.questions == []
    second.cancel()


async def test_a_request_after_its_client_left_is_an_error() -> None:
    wire = Wire()
    _, task = ask(wire, "tools/call")
    await wire.until(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    wire.says(id=3, method="roots/list")
    assert wire.sent[-1]["error"]["code"] == NO_ONE_TO_ASK
    assert wire.hub.asked_of == []


async def test_a_client_that_leaves_while_it_is_asked_is_an_error_for_the_server() -> None:
    wire = Wire()
    made = call("tools/call")
    made.think = asyncio.Event()
    task = asyncio.create_task(wire.pipe.ask(made))
    await wire.until(1)
    wire.says(id=3, method="roots/list")
    task.cancel()  # before the question has even begun
    await asyncio.gather(task, return_exceptions=True)
    await wire.until(4)
    assert [(sent.get("method"), sent.get("id"), sent.get("error", {}).get("code")) for sent in wire.sent[1:]] == [
        ("notifications/cancelled", None, None),
        ("ping", 2, None),
        (None, 3, NO_ONE_TO_ASK),
    ]


@pytest.mark.parametrize("answer", [{"result": {}}, {"error": {"code": -32601, "message": "not in this era"}}])
async def test_what_was_cancelled_is_forgotten_when_the_server_has_read_it(answer: dict[str, Any]) -> None:
    """A server must not answer what was cancelled; what it answers behind that tells. Else one cancelled call would silence it for everybody."""
    wire = Wire()
    gone = []
    for session in "ab":
        _, task = ask(wire, "tools/call", client=SomeClient(session))
        await asyncio.sleep(0)
        gone.append(task)
    for task in gone:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [(sent["method"], sent.get("id")) for sent in wire.sent[2:]] == [
        ("notifications/cancelled", None),
        ("ping", 3),  # behind the first
        ("notifications/cancelled", None),
    ]
    later, task = ask(wire, "tools/call", client=SomeClient("c"))
    await wire.until(6)
    wire.says(id=3, **answer)
    assert wire.sent[6]["method"] == "ping"  # behind the second, which it may not have read before
    wire.says(id="early", method="roots/list")
    assert wire.sent[7]["error"]["code"] == NO_ONE_TO_ASK
    wire.says(id=5, **answer)
    wire.says(id="x", method="roots/list")
    await wire.until(9)
    assert wire.sent[8]["result"] == {"mine": True}
    assert len(later.questions) == 1
    assert len(wire.sent) == 9
    task.cancel()


async def test_what_another_caller_cancelled_may_still_ask_and_is_never_answered_by_anybody_else() -> None:
    """Not every server stops when it is told to."""
    wire = Wire()
    _, task = ask(wire, "tools/call", client=SomeClient("a", principal="ada"))
    await wire.until(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    wire.says(id=2, result={})  # the ping behind it
    later, other = ask(wire, "tools/call", client=SomeClient("b", principal="bob"))
    await wire.until(4)
    wire.says(id="x", method="elicitation/create", params={})
    await wire.until(5)
    assert wire.sent[4]["error"]["code"] == NO_ONE_TO_ASK
    assert later.questions == []
    other.cancel()


async def test_a_ping_that_cannot_be_sent_is_sent_behind_the_next_one() -> None:
    wire = Wire()
    for n in (1, 3):
        _, task = ask(wire, "tools/call")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        wire.pipe.fail(b"%d" % (n + 1), Answer.failure(MEMBER_UNAVAILABLE, "404"))
    assert [sent["method"] for sent in wire.sent] == ["tools/call", "notifications/cancelled", "ping"] * 2


async def test_a_request_the_server_withdraws_is_taken_back_and_not_answered() -> None:
    wire = Wire()
    made = call("tools/call")
    made.think = asyncio.Event()
    task = asyncio.create_task(wire.pipe.ask(made))
    await wire.until(1)
    wire.says(id="a", method="elicitation/create", params={})
    await asyncio.sleep(0)
    wire.says(method="notifications/cancelled", params={"requestId": "a"})
    wire.says(id=1, result={})
    await task
    await asyncio.sleep(0)
    assert made.stopped
    assert len(wire.sent) == 1


async def test_what_belongs_to_no_call_is_the_hubs() -> None:
    owner = SomeClient()
    wire = Wire(owner=owner)
    wire.says(id=1, method="roots/list")
    await wire.until(1)
    assert wire.sent[0]["result"] == {"hub": True}
    assert wire.hub.asked_of == [("files", owner, "roots/list", None)]
    wire.says(method="notifications/tools/list_changed")
    assert wire.hub.heard_of == [("files", owner, "notifications/tools/list_changed", {})]
    wire.says(id=2, method="ping")
    assert wire.sent[1] == {"jsonrpc": "2.0", "id": 2, "result": {}}


async def test_log_messages_go_to_the_call_when_only_one_client_waits() -> None:
    wire = Wire()
    one, first = ask(wire, "tools/call", client=SomeClient("a"))
    await wire.until(1)
    wire.says(method="notifications/message", params={"level": "info", "data": 1})
    two, second = ask(wire, "tools/call", client=SomeClient("b"))
    await wire.until(2)
    wire.says(method="notifications/message", params={"level": "info", "data": 2})
    assert one.notes == [("notifications/message", {"level": b'"info"', "data": b"1"})]
    assert two.notes == []
    assert wire.hub.heard_of == [("files", None, "notifications/message", {"level": b'"info"', "data": b"2"})]
    first.cancel()
    second.cancel()


async def test_a_listen_hears_what_bears_its_id() -> None:
    wire = Wire()
    notes: list[str] = []
    task = asyncio.create_task(wire.pipe.request("subscriptions/listen", b"{}", note=lambda method, params: notes.append(method)))
    await wire.until(1)
    meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": 1}}
    wire.says(method="notifications/subscriptions/acknowledged", params=meta)
    wire.says(method="notifications/tools/list_changed", params=meta)
    assert notes == ["notifications/subscriptions/acknowledged", "notifications/tools/list_changed"]
    assert wire.pipe.calls == 0
    wire.says(method="notifications/cancelled", params={"requestId": 1})
    assert (await task).result == b"{}"


async def test_a_call_nobody_answers_ends_and_progress_gives_it_more_time() -> None:
    wire = Wire(patience=Patience(call=0.2, ceiling=0.6))
    _, silent = ask(wire, "tools/call", client=SomeClient("a"))
    _, busy = ask(wire, "tools/call", client=SomeClient("b"), token=b'"t"')
    await wire.until(2)

    async def work() -> None:
        while True:
            wire.says(method="notifications/progress", params={"progressToken": 2, "progress": 1})
            await asyncio.sleep(0.005)

    working = asyncio.create_task(work())
    assert code(await silent) == TIMED_OUT
    assert not busy.done()
    assert wire.sent[2]["params"]["requestId"] == 1
    assert code(await busy) == TIMED_OUT  # the ceiling
    working.cancel()


async def test_who_is_asked_may_think_until_the_ceiling() -> None:
    wire = Wire(patience=Patience(call=0.02, ceiling=5))
    made = call("tools/call")
    made.think = asyncio.Event()
    task = asyncio.create_task(wire.pipe.ask(made))
    await wire.until(1)
    wire.says(id=0, method="elicitation/create", params={})
    await asyncio.sleep(0.06)
    assert not task.done()
    made.think.set()
    await wire.until(2)
    wire.says(id=1, result={})
    assert (await task).result == b"{}"


async def test_a_lost_server_answers_everybody_at_once() -> None:
    wire = Wire()
    made = call("tools/call")
    made.think = asyncio.Event()
    asked = asyncio.create_task(wire.pipe.ask(made))
    _, other = ask(wire, "tools/list", client=made.client)
    await wire.until(2)
    wire.says(id=0, method="elicitation/create", params={})
    wire.pipe.lost("files has ended")
    assert {code(await asked), code(await other)} == {MEMBER_LOST}
    assert code(await wire.pipe.ask(call("tools/list"))) == MEMBER_LOST
    wire.says(id=1, result={})
    await asyncio.sleep(0)
    assert len(wire.sent) == 2


async def test_what_cannot_be_sent_is_an_answer() -> None:
    wire = Wire()
    wire.broken = True
    assert code(await wire.pipe.ask(call("tools/list"))) == MEMBER_UNAVAILABLE
    assert wire.pipe.calls == 0
    wire.pipe.tell("notifications/roots/list_changed", None)
    wire.broken = False
    _, task = ask(wire, "tools/list")
    await wire.until(1)
    wire.pipe.fail(b"2", Answer.failure(MEMBER_UNAVAILABLE, "404"))
    assert code(await task) == MEMBER_UNAVAILABLE


async def test_what_is_no_message_is_said_and_hurts_nobody_else() -> None:
    wire = Wire()
    _, one = ask(wire, "tools/call")
    _, two = ask(wire, "tools/call")
    await wire.until(2)
    for raw in (b"Server started", b"", b"{}", b"[[[[1]]]]", b"[1,[2]]", b'"', b"\xff", b'{"id":{}}'):
        wire.pipe.received(raw)
    assert len(wire.said) >= 7
    wire.pipe.received(b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}')  # every parser reads it in another way
    assert code(await one) == MEMBER_LOST
    wire.pipe.received(b'[{"jsonrpc":"2.0","id":2,"result":{}},{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}]')
    assert (await two).result == b"{}"
    assert len(wire.hub.heard_of) == 1


async def test_an_error_without_id_is_that_of_the_only_call() -> None:
    wire = Wire()
    _, one = ask(wire, "server/discover")
    await wire.until(1)
    wire.pipe.received(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"?"}}')
    assert code(await one) == -32600


async def test_floods_are_bounded() -> None:
    wire = Wire()
    for n in range(NOTES + 50):
        wire.says(method="notifications/resources/updated", params={"uri": f"x:{n}"})
    assert len(wire.hub.heard_of) == NOTES
    assert wire.pipe.dropped == 50
    assert len(wire.said) == 1
    made = call("tools/call")
    made.think = asyncio.Event()
    task = asyncio.create_task(wire.pipe.ask(made))
    await wire.until(1)
    for n in range(QUESTIONS + 5):
        wire.says(id=n, method="elicitation/create", params={})
    assert [sent["id"] for sent in wire.sent[1:]] == list(range(QUESTIONS, QUESTIONS + 5))
    task.cancel()


async def test_calls_that_are_given_up_leave_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "GIVEN_UP", 400)
    wire = Wire()
    for n in range(1000):
        _, task = ask(wire, "tools/call")
        await wire.until(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if n % 2:
            wire.says(id=n + 2, result={})
        wire.sent.clear()
    assert wire.pipe.calls == 0
    assert len(wire.pipe._given_up) <= 400
    assert len(asyncio.all_tasks()) == 1


async def test_of_a_callers_own_server_its_hearer_is_told_whose() -> None:
    hub, whose = SomeHub(), SomeClient("1")
    pipe = Pipe("files", lambda raw, id: None, hub, whose=whose)
    pipe.received(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
    assert hub.heard_of == [("files", whose, "notifications/tools/list_changed", {})]


@pytest.mark.parametrize("method", ["tools/list", "resources/templates/list", "logging/setLevel", "resources/subscribe"])
async def test_a_question_is_of_the_call_at_work_and_not_of_what_the_hub_wanted_meanwhile(method: str) -> None:
    client = SomeClient("1")
    wire = Wire(owner=client)
    at_work, first = ask(wire, "tools/call", client=client)
    listed, second = ask(wire, method, client=client)
    await wire.until(2)
    wire.says(id="q", method="sampling/createMessage", params={})
    await wire.until(3)
    assert (len(at_work.questions), len(listed.questions)) == (1, 0)
    first.cancel()
    second.cancel()


async def test_what_the_hub_wants_for_another_client_is_no_reason_to_refuse_a_question() -> None:
    wire = Wire()
    listed, first = ask(wire, "tools/list", client=SomeClient("a"))
    _, second = ask(wire, "prompts/list", client=SomeClient("b"))
    at_work, third = ask(wire, "tools/call", client=SomeClient("c"))
    _, fourth = ask(wire, "prompts/list", client=SomeClient("d"))
    await wire.until(4)
    wire.says(id="q", method="sampling/createMessage", params={})
    await wire.until(5)
    assert (len(at_work.questions), len(listed.questions)) == (1, 0)
    for task in (first, second, third, fourth):
        task.cancel()
