"""Real servers as members over HTTP: what every SDK and both transports must give, and sessions that servers lose."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.gateway.member_http import HttpMember
from mcpproxy.gateway.outgoing import Request
from mcpproxy.gateway.parts import Answer, Client, Era
from tests.gateway.room import Room
from tests.real.test_tours import MODERN_SERVERS
from tests.support.gateway import SomeCall, SomeClient, SomeHub, call
from tests.support.install_real import node, npm_package, python
from tests.support.ports import free_port
from tests.support.software import REAL, Server

DEADLINE_S = 30.0


class Guest:
    """A member of a hub that writes down what it hears."""

    def __init__(self, room: Room, origin: str, **more: Any) -> None:
        self.room, self.hub = room, SomeHub()
        self.said: list[str] = []
        upstream = Upstream(urls=(origin,), bridge=True, **more)
        self.member = HttpMember("guest", room.outgoing(origin), upstream, self.hub, lambda _, text: self.said.append(text))

    def run(self, asked: Coroutine[Any, Any, Any]) -> Any:
        return self.room.run(asyncio.wait_for(asked, DEADLINE_S))

    async def asks(self, made: SomeCall) -> Answer:
        conversation = await self.member.conversation(made.client)
        return await conversation.ask(made)

    def ask(self, method: str, params: object = None, *, client: Client, **more: Any) -> tuple[Any, SomeCall]:
        """Its result, and the call."""
        made = call(method, params, client=client, **more)
        answer = self.run(self.asks(made))
        assert answer.result is not None, answer.error
        return json.loads(answer.result), made


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


@pytest.fixture
def guest(room: Room) -> Iterator[Callable[..., Guest]]:
    guests: list[Guest] = []

    def make(origin: str, **more: Any) -> Guest:
        guests.append(Guest(room, origin, **more))
        return guests[-1]

    yield make
    for each in guests:
        room.run(each.member.stop())


ELICITS = {"elicitation": b"{}", "sampling": b"{}"}
KINDS = [
    pytest.param("sdk1", "legacy", {}, marks=pytest.mark.software("mcp1")),
    pytest.param("sdk1", "legacy", {"mcp_path": "/sse"}, marks=pytest.mark.software("mcp1")),
    ("sdk2", "modern", {}),
    ("sdk2", "legacy", {"era": "legacy"}),
    ("sdk2", "legacy", {"mcp_path": "/sse", "transport": "sse"}),
    pytest.param("fast", "modern", {}, marks=pytest.mark.software("fastmcp")),
    pytest.param("fast", "legacy", {"era": "legacy"}, marks=pytest.mark.software("fastmcp")),
    pytest.param("everything", "legacy", {}, marks=pytest.mark.software("node", "npm")),
    pytest.param("everything_sse", "legacy", {"mcp_path": "/sse"}, marks=pytest.mark.software("node", "npm")),
]


@pytest.mark.parametrize(("kind", "era", "config"), KINDS)
@pytest.mark.parametrize("asking", list(Era))
def test_tools_are_listed_called_and_tell_their_progress(
    kind: str, era: str, config: dict[str, Any], asking: Era, guest: Callable[..., Guest], request: pytest.FixtureRequest
) -> None:
    made = guest(request.getfixturevalue(kind).origin, **config)
    session = "one" if asking is Era.LEGACY else ""
    client = SomeClient(session, era=asking, capabilities=dict(ELICITS))
    tools, _ = made.ask("tools/list", client=client)
    assert {"echo", "trigger-long-running-operation"} <= {tool["name"] for tool in tools["tools"]}
    said, _ = made.ask("tools/call", {"name": "echo", "arguments": {"message": "hé"}}, client=client)
    assert said["content"][0]["text"] == "Echo: hé"
    _, long = made.ask(
        "tools/call",
        {"name": "trigger-long-running-operation", "arguments": {"duration": 0.3, "steps": 3}},
        client=client,
        token=b'"mine"',
    )
    assert [(method, json.loads(params["progress"])) for method, params in long.notes] == [("notifications/progress", n) for n in (1, 2, 3)]
    assert all("progressToken" not in params for _, params in long.notes)
    state = made.member.state()
    spoken = (
        era if "era" in config or kind not in MODERN_SERVERS or "transport" in config else asking.value
    )  # who speaks both speaks as asked
    assert (state["era"], state["state"], state["recovered"]) == (spoken, "there", 0)


@pytest.mark.parametrize(("kind", "era", "config"), [each for each in KINDS if "fast" not in str(each) and "everything" not in str(each)])
def test_a_question_in_the_midst_of_a_call_is_put_to_its_client(
    kind: str, era: str, config: dict[str, Any], guest: Callable[..., Guest], request: pytest.FixtureRequest
) -> None:
    made = guest(request.getfixturevalue(kind).origin, **config)
    client = SomeClient("one", capabilities=dict(ELICITS))

    async def ask() -> Any:
        asked = call("tools/call", {"name": "ask", "arguments": {}}, client=client)
        asked.reply = Answer(result=b'{"action":"accept","content":{"name":"Ada"}}')
        answer = await made.asks(asked)
        assert answer.result is not None, answer.error
        return json.loads(answer.result), asked.questions

    result, questions = made.run(ask())
    assert result["content"][0]["text"] == "Hello Ada"
    assert [method for method, _ in questions] == ["elicitation/create"]


@pytest.mark.parametrize(("kind", "era", "config"), [each for each in KINDS if "fast" not in str(each) and "everything" not in str(each)])
def test_changes_are_heard_that_belong_to_no_call(
    kind: str, era: str, config: dict[str, Any], guest: Callable[..., Guest], request: pytest.FixtureRequest, room: Room
) -> None:
    made = guest(request.getfixturevalue(kind).origin, **config)
    client = SomeClient("one")
    made.ask("tools/list", client=client)

    def heard() -> bool:
        return any(method == "notifications/tools/list_changed" for _, _, method, _ in made.hub.heard_of)

    for _ in range(100):  # the GET stream, or the listen, is opened beside the calls
        made.ask("tools/call", {"name": "change", "arguments": {}}, client=client)
        room.for_a_while(0.05)
        if heard():
            break
    assert heard()


STARTS: dict[str, Callable[[int], Server]] = {
    "sdk1": lambda port: Server(python("mcp1"), REAL / "servers" / "sdk1.py", "{port}", port=port),
    "sdk2": lambda port: Server(sys.executable, REAL / "servers" / "sdk2.py", "{port}", port=port),
    "fast": lambda port: Server(python("fastmcp"), REAL / "servers" / "fast.py", "{port}", port=port),
    "everything": lambda port: Server(node(), npm_package("server-everything") / "dist" / "index.js", "streamableHttp", port=port),
    "everything_sse": lambda port: Server(node(), npm_package("server-everything") / "dist" / "index.js", "sse", port=port),
}


@pytest.mark.parametrize(("kind", "era", "config"), KINDS)
def test_a_server_that_is_started_anew_gets_a_new_session_and_the_client_hears_nothing_of_it(
    kind: str, era: str, config: dict[str, Any], guest: Callable[..., Guest], room: Room
) -> None:
    port = free_port()
    client = SomeClient("one")
    echo = {"name": "echo", "arguments": {"message": "again"}}
    with STARTS[kind](port) as server:
        made = guest(server.origin, **config)
        made.ask("tools/list", client=client)
        made.ask("tools/call", echo, client=client)
    with STARTS[kind](port):
        said, asked = made.ask("tools/call", echo, client=client)
        assert said["content"][0]["text"] == "Echo: again"
        if era == "legacy":
            assert made.member.state()["recovered"] == 1
            if "/sse" not in config.values():
                assert asked.labels == {"recovered": "true"}
        said, asked = made.ask("tools/call", echo, client=client)
        assert asked.labels == {}


@pytest.mark.parametrize(("kind", "era", "config"), [KINDS[0], KINDS[3], KINDS[6], KINDS[7]])
def test_a_session_that_a_server_forgot_is_replaced_while_calls_are_on_their_way(
    kind: str, era: str, config: dict[str, Any], guest: Callable[..., Guest], room: Room, request: pytest.FixtureRequest
) -> None:
    made = guest(request.getfixturevalue(kind).origin, **config)
    client = SomeClient("one")

    async def forgotten() -> list[SomeCall]:
        conversation = await made.member.conversation(client)
        session = conversation._session  # type: ignore[attr-defined]
        assert session.id
        request = Request(b"DELETE", b"/mcp", session.fields, at=session.at)
        await conversation._outgoing.ask(request)  # type: ignore[attr-defined]
        calls = [call("tools/call", {"name": "echo", "arguments": {"message": str(n)}}, client=client) for n in range(5)]
        answers = await asyncio.gather(*(conversation.ask(each) for each in calls))
        for n, answer in enumerate(answers):
            assert answer.result is not None, answer.error
            assert b"Echo: %d" % n in answer.result
        return calls

    calls = made.run(forgotten())
    assert made.member.state()["recovered"] == 1
    assert any(each.labels == {"recovered": "true"} for each in calls)
    assert ("guest", True) in made.hub.changes


def test_a_call_whose_stream_the_server_closed_in_between_is_answered_when_it_is_asked_for_again(
    guest: Callable[..., Guest], conformance: Server
) -> None:
    made = guest(conformance.origin, era="legacy")
    for _ in range(30):  # this SDK may close the stream before it has given it an id: then nobody can ask for it again
        answer = made.run(made.asks(call("tools/call", {"name": "test_reconnection", "arguments": {}}, client=SomeClient("one"))))
        if answer.result is not None:
            break
    assert json.loads(answer.result)["content"][0]["text"] == "Reconnection test completed"
    assert not answer.recovered


def test_headers_of_parameters_are_told_though_nobody_listed_the_tools(guest: Callable[..., Guest], conformance: Server) -> None:
    made = guest(conformance.origin)
    arguments = {"region": "eu-west", "query": "q"}
    said, _ = made.ask("tools/call", {"name": "test_custom_headers", "arguments": arguments}, client=SomeClient("one"))
    assert said["content"][0]["text"] == "q in eu-west"


def test_a_session_with_a_level_and_subscriptions_begins_anew(guest: Callable[..., Guest], room: Room) -> None:
    port = free_port()
    client = SomeClient("one")

    def start() -> Server:
        return Server(sys.executable, REAL / "servers" / "conformance.py", "{port}", port=port)

    with start() as server:
        made = guest(server.origin, era="legacy")
        made.ask("logging/setLevel", {"level": "info"}, client=client)
        made.ask("resources/subscribe", {"uri": "test://watched-resource"}, client=client)
    with start():
        _, asked = made.ask("tools/call", {"name": "test_simple_text", "arguments": {}}, client=client)
        assert asked.labels == {"recovered": "true"}
