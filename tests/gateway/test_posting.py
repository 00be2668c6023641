"""One request and what comes back of it; whole conversations are in test_streamable."""

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.errors import ProxyError, Retry, Side
from mcpproxy.gateway.outgoing import Reply, Request
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, TIMED_OUT, TOO_LARGE, Answer
from mcpproxy.gateway.pipe import Patience
from mcpproxy.gateway.posting import QUESTIONS, REFUSED, Fate, Post, Wire, failure_of, messages_of, with_token
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Message
from tests.support.gateway import SomeCall, call

NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1}}'


def test_a_batch_of_older_servers_is_read_as_its_messages() -> None:
    assert [each.method for each in messages_of(b" [%b,%b]" % (NOTE, NOTE))] == ["notifications/message"] * 2
    assert len(messages_of(NOTE)) == 1
    for bad in (b"[", b"[1]", b"", b"{}"):
        with pytest.raises(CallError):
            messages_of(bad)


@pytest.mark.parametrize(
    ("error", "code", "fate"),
    [
        (ProxyError("connect-refused", Side.UPSTREAM, 502, Retry.SAFE), MEMBER_UNAVAILABLE, Fate.AWAY),
        (ProxyError("connect-timeout", Side.UPSTREAM, 504, Retry.SAFE), TIMED_OUT, Fate.AWAY),
        (ProxyError("upstream-closed", Side.UPSTREAM, 502), MEMBER_LOST, Fate.UNKNOWN),
        (ProxyError("answer-too-large", Side.UPSTREAM, 502), TOO_LARGE, Fate.UNKNOWN),
        (ProxyError("upstream-credential-unavailable", Side.INTERNAL, 503), MEMBER_UNAVAILABLE, Fate.UNKNOWN),
    ],
)
def test_failures_say_whether_anything_was_carried_out(error: ProxyError, code: int, fate: Fate) -> None:
    outcome = failure_of("files", error)
    assert outcome.fate is fate
    assert json.loads(outcome.answer.error or b"")["code"] == code
    assert json.loads(outcome.answer.error or b"")["message"].startswith("files: ")


def test_a_progress_token_is_ours_beside_what_else_is_there() -> None:
    params = {"name": b'"x"', "_meta": b'{"progressToken":"theirs","a":1}'}
    assert message.parts(with_token(params, b"7")["_meta"]) == {"progressToken": b"7", "a": b"1"}
    assert with_token({}, b"7") == {"_meta": b'{"progressToken":7}'}
    with pytest.raises(CallError):
        with_token({"_meta": b"1"}, b"7")


class Peer:
    """What a post hears, and what is told of it."""

    def __init__(self, **more: Any) -> None:
        self.aside: list[Message] = []
        self.replies: list[tuple[bytes, Answer]] = []
        self.call: SomeCall = call("tools/call", {"name": "x"}, **more)
        wire = Wire("files", None, self.aside.append, self.respond)  # type: ignore[arg-type]
        self.post = Post(wire, b"1", call=self.call, patience=Patience())

    async def respond(self, id: bytes, answer: Answer) -> None:
        self.replies.append((id, answer))

    def says(self, **told: Any) -> None:
        self.post.received(message.read(json.dumps({"jsonrpc": "2.0", **told}).encode()))


async def test_what_is_of_the_call_and_what_is_nobodys() -> None:
    peer = Peer(token=b"9")
    peer.says(method="notifications/progress", params={"progressToken": 1, "progress": 2})
    peer.says(method="notifications/custom", params={"a": 1})
    peer.says(method="notifications/resources/updated", params={"uri": "a:1"})
    peer.says(method="notifications/prompts/list_changed")
    assert peer.call.notes == [("notifications/progress", {"progress": b"2"}), ("notifications/custom", {"a": b"1"})]
    assert [each.method for each in peer.aside] == ["notifications/resources/updated", "notifications/prompts/list_changed"]


async def test_progress_nobody_asked_for_is_dropped() -> None:
    peer = Peer()
    peer.says(method="notifications/progress", params={"progressToken": 1, "progress": 2})
    assert peer.call.notes == []


async def test_a_server_that_asks_without_end_costs_no_request_for_each() -> None:
    peer, before = Peer(), len(asyncio.all_tasks())
    peer.call.think = asyncio.Event()
    for id in range(1000):
        peer.says(id=id, method="elicitation/create", params={})
    asking = asyncio.all_tasks()
    assert len(asking) - before == QUESTIONS + REFUSED
    for task in asking - {asyncio.current_task()}:
        task.cancel()


class Quick:
    """A server that asks, and does not wait for the answer."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    async def ask(self, *_: object) -> Any:
        self.peer.says(id=5, method="elicitation/create", params={})
        await asyncio.sleep(0)
        body = b'{"jsonrpc":"2.0","id":1,"result":{}}'
        return Reply(200, lambda name: None, body, events=False, endpoint=None, _asking=None)  # type: ignore[arg-type]


async def test_a_question_that_is_still_open_when_the_answer_is_there_ends_with_it() -> None:
    peer, broken = Peer(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
    peer.call.think = asyncio.Event()
    peer.post._wire.outgoing = Quick(peer)  # type: ignore[assignment]
    outcome = await peer.post.send(Request(b"POST", b"/mcp", b""))
    assert outcome.answer.result == b"{}"
    for _ in range(5):
        await asyncio.sleep(0)
    assert peer.call.stopped and not peer.post._questions
    assert not broken
