"""Eras found out, and calls in the words of the era; the server is a function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from mcpproxy.gateway import greeting
from mcpproxy.gateway.greeting import answered, greet, suited
from mcpproxy.gateway.parts import MEMBER_LOST, Answer, Client, Era, Server, Unavailable
from mcpproxy.mcp.message import Params
from tests.support.gateway import SomeCall, SomeClient, call

INITIALIZED = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "old", "version": "1"},
    "instructions": "be kind",
}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2025-11-25", "2026-07-28"],
    "capabilities": {"tools": {"listChanged": True}},
    "ttlMs": 0,
    "cacheScope": "private",
    "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "new", "version": "2"}},
}
Reply = dict[str, Any] | int | None  # a result, an error's code, or silence


class Peer:
    """A server that answers as it is told."""

    def __init__(self, **replies: Reply | Callable[[dict[str, Any]], Answer]) -> None:
        self.replies = replies
        self.asked: list[str] = []
        self.told: list[str] = []
        self.params: list[dict[str, Any]] = []

    async def ask(self, method: str, params: bytes | None, within: float) -> Answer:
        self.asked.append(method)
        self.params.append(json.loads(params or b"{}"))
        reply = self.replies[method.rpartition("/")[2]]
        if callable(reply):
            return reply(self.params[-1])
        if reply is None:
            await asyncio.Event().wait()
        if isinstance(reply, int):
            return Answer.failure(reply, "no")
        return Answer(result=json.dumps(reply).encode())

    async def tell(self, method: str, params: bytes | None) -> None:
        self.told.append(method)

    async def greet(self, era: Era | None = None, client: Client | None = None, first: Era = Era.MODERN) -> Server:
        return await greet(self.ask, self.tell, era=era, first=first, client=client, within=5.0)


@pytest.mark.parametrize("code", [-32601, -32602, -32600, -32000, -32001, 0, 5])
async def test_any_error_to_the_probe_is_the_legacy_era(code: int) -> None:
    peer = Peer(discover=code, initialize=INITIALIZED)
    server = await peer.greet()
    assert (server.era, server.version, server.instructions) == (Era.LEGACY, "2025-06-18", "be kind")
    assert json.loads(server.info) == {"name": "old", "version": "1"}
    assert peer.told == ["notifications/initialized"]
    assert peer.params[1]["protocolVersion"] == "2025-11-25"
    assert peer.params[1]["clientInfo"]["name"] == "mcpproxy"


async def test_a_result_is_the_modern_era() -> None:
    peer = Peer(discover=DISCOVERED)
    server = await peer.greet()
    assert (server.era, server.version) == (Era.MODERN, "2026-07-28")
    assert json.loads(server.info)["name"] == "new"
    assert json.loads(server.capabilities["tools"]) == {"listChanged": True}
    assert peer.told == []
    assert set(peer.params[0]["_meta"]) == {
        f"io.modelcontextprotocol/{word}" for word in ("protocolVersion", "clientInfo", "clientCapabilities")
    }


async def test_a_server_that_discovers_only_old_versions_is_legacy() -> None:
    peer = Peer(discover={**DISCOVERED, "supportedVersions": ["2025-11-25"]}, initialize=INITIALIZED)
    assert (await peer.greet()).era is Era.LEGACY


async def test_silence_is_followed_by_initialize(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "PROBE", 0.01)
    peer = Peer(discover=None, initialize=INITIALIZED)
    assert (await peer.greet()).era is Era.LEGACY
    assert peer.asked == ["server/discover", "initialize"]


async def test_a_server_that_wakes_up_late_is_still_modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the probe first, and is modern from then on."""
    monkeypatch.setattr(greeting, "PROBE", 0.01)
    awake = asyncio.Event()

    class Late(Peer):
        async def ask(self, method: str, params: bytes | None, within: float) -> Answer:
            if method == "initialize":
                awake.set()
                return Answer.failure(-32600, "another era")
            await awake.wait()
            await asyncio.sleep(0.01)
            return await super().ask(method, params, within)

    assert (await Late(discover=DISCOVERED).greet()).era is Era.MODERN


@pytest.mark.parametrize("where", ["discover", "initialize"])
async def test_an_error_that_names_a_modern_version_is_the_modern_era(where: str) -> None:
    count = 0

    def discover(params: dict[str, Any]) -> Answer:
        nonlocal count
        count += 1
        if count == 1:
            return (
                Answer.failure(-32022, "which?", {"supported": ["2026-07-28"], "requested": "x"})
                if where == "discover"
                else Answer.failure(-32603, "not ready")
            )
        return Answer(result=json.dumps(DISCOVERED).encode())

    peer = Peer(discover=discover, initialize=lambda _: Answer.failure(-32022, "which?", {"supported": ["2026-07-28"]}))
    assert (await peer.greet()).era is Era.MODERN


async def test_a_server_that_died_of_the_probe_is_not_asked_again() -> None:
    peer = Peer(discover=MEMBER_LOST, initialize=INITIALIZED)
    with pytest.raises(Unavailable):
        await peer.greet()
    assert peer.asked == ["server/discover"]


async def test_a_server_of_both_eras_is_greeted_in_that_of_its_client() -> None:
    for first in Era:
        peer = Peer(discover=DISCOVERED, initialize=INITIALIZED)
        assert (await peer.greet(first=first)).era is first
        assert len(peer.asked) == 1


@pytest.mark.parametrize("code", [-32601, -32602, -32600, 0])
async def test_initialize_first_and_refused_is_followed_by_discover(code: int) -> None:
    assert (await Peer(discover=DISCOVERED, initialize=code).greet(first=Era.LEGACY)).era is Era.MODERN
    with pytest.raises(Unavailable, match="refused initialize: no"):
        await Peer(discover=-32601, initialize=code).greet(first=Era.LEGACY)


async def test_a_server_that_died_of_initialize_is_not_asked_again() -> None:
    peer = Peer(discover=DISCOVERED, initialize=MEMBER_LOST)
    with pytest.raises(Unavailable):
        await peer.greet(first=Era.LEGACY)
    assert peer.asked == ["initialize"]


async def test_what_is_configured_is_not_found_out() -> None:
    peer = Peer(discover=DISCOVERED, initialize=INITIALIZED)
    assert (await peer.greet(Era.LEGACY)).era is Era.LEGACY
    assert peer.asked == ["initialize"]
    with pytest.raises(Unavailable, match="does not speak 2026-07-28"):
        await Peer(discover=-32601).greet(Era.MODERN)


@pytest.mark.parametrize("reply", [-32603, {}, {"protocolVersion": "2025-11-25", "capabilities": []}])
async def test_a_bad_answer_to_initialize_is_unavailable(reply: Reply) -> None:
    with pytest.raises(Unavailable):
        await Peer(discover=-32601, initialize=reply).greet()


async def test_a_server_that_never_answers_is_unavailable() -> None:
    peer = Peer(discover=None, initialize=None)
    with pytest.raises(Unavailable, match=r"within 0\.02 s"):
        await greet(peer.ask, peer.tell, era=None, client=None, within=0.02)


async def test_an_own_conversation_declares_what_its_client_does_and_a_shared_one_no_roots() -> None:
    peer = Peer(initialize=INITIALIZED)
    await peer.greet(Era.LEGACY, SomeClient(capabilities={"roots": b'{"listChanged":true}'}))
    await peer.greet(Era.LEGACY)
    assert peer.params[0]["capabilities"] == {"roots": {"listChanged": True}}
    assert peer.params[0]["clientInfo"] == {"name": "some", "version": "1"}
    assert peer.params[1]["capabilities"] == {"sampling": {}, "elicitation": {}}


OLD = Server(Era.LEGACY, "2025-11-25", {})
NEW = Server(Era.MODERN, "2026-07-28", {})


def test_a_legacy_call_gets_the_envelope_for_a_modern_server() -> None:
    client = SomeClient(capabilities={"elicitation": b"{}"})
    client.level = "info"
    params = suited(NEW, call("tools/call", {"name": "x", "_meta": {"a.b/c": 1, "progressToken": 3}}, client=client))
    assert json.loads(params["_meta"]) == {
        "a.b/c": 1,
        "progressToken": 3,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "some", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        "io.modelcontextprotocol/logLevel": "info",
    }
    assert params["name"] == b'"x"'


def test_a_modern_call_goes_through_to_a_modern_server_and_without_envelope_to_a_legacy_one() -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {"x": 1}}
    modern = SomeClient("", era=Era.MODERN)
    made = call("tools/call", {"name": "x", "_meta": meta}, client=modern)
    assert suited(NEW, made) is made.params
    assert suited(OLD, made) == {"name": b'"x"'}
    made = call("tools/call", {"_meta": {**meta, "traceparent": "00"}}, client=modern)
    assert suited(OLD, made) == {"_meta": b'{"traceparent":"00"}'}
    made = call("tools/call", {"_meta": {"progressToken": 1}})
    assert suited(OLD, made) is made.params


class Asking:
    """A modern server that asks `rounds` times."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.seen: list[Params] = []

    async def __call__(self, params: Params) -> Answer:
        self.seen.append(params)
        if len(self.seen) > self.rounds:
            return Answer(result=b'{"resultType":"complete","content":[]}')
        asked = {"k": {"method": "elicitation/create", "params": {"message": "?"}}, "l": {"method": "roots/list"}}
        return Answer(
            result=json.dumps(
                {"resultType": "input_required", "inputRequests": asked, "requestState": f"AAA=={len(self.seen)}"}, indent=1
            ).encode()
        )


async def test_a_legacy_client_is_asked_and_the_call_made_anew() -> None:
    made, server = call("tools/call", {"name": "x"}), Asking(2)
    answer = await answered(NEW, made, server)
    assert answer.result == b'{"resultType":"complete","content":[]}'
    assert made.questions == [("elicitation/create", b'{"message":"?"}'), ("roots/list", None)] * 2
    assert json.loads(server.seen[2]["inputResponses"]) == {"k": {"mine": True}, "l": {"mine": True}}
    assert [params.get("requestState") for params in server.seen] == [None, b'"AAA==1"', b'"AAA==2"']
    assert all(params["name"] == b'"x"' for params in server.seen)


async def test_a_modern_client_gets_the_questions_as_they_are() -> None:
    server = Asking(1)
    answer = await answered(NEW, call("tools/call", {}, client=SomeClient("", era=Era.MODERN)), server)
    assert b"input_required" in (answer.result or b"")
    assert len(server.seen) == 1


async def test_a_client_that_refuses_ends_the_call() -> None:
    made = call("tools/call")
    made.reply = Answer.failure(-1, "the user said no")
    assert await answered(NEW, made, Asking(1)) == made.reply


async def test_a_server_that_asks_without_end_is_stopped() -> None:
    answer = await answered(NEW, call("tools/call"), Asking(100))
    assert b"without end" in (answer.error or b"")


async def test_a_text_that_speaks_of_input_required_is_no_question() -> None:
    result = b'{"resultType":"complete","content":[{"type":"text","text":"input_required"}]}'

    async def send(params: Params) -> Answer:
        return Answer(result=result)

    assert (await answered(NEW, call("tools/call"), send)).result == result


async def test_a_cancelled_call_takes_its_questions_with_it() -> None:
    made: SomeCall = call("tools/call")
    made.think = asyncio.Event()
    task = asyncio.create_task(answered(NEW, made, Asking(1)))
    while not made.questions:  # noqa: ASYNC110  one turn of the loop at a time
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert made.stopped
