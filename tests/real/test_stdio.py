"""Real stdio servers as members: the same calls to each, whatever its SDK and era, from clients of both eras."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mcpproxy.config.gateway import Command
from mcpproxy.config.secrets import secret
from mcpproxy.gateway.family import Family
from mcpproxy.gateway.member_stdio import StdioMember
from mcpproxy.gateway.parts import MEMBER_LOST, Answer, Era
from tests.support.gateway import SomeClient, SomeHub, call
from tests.support.install_real import node, npm_package, python

SERVERS = Path(__file__).parent / "servers"


def command(kind: str) -> tuple[str, ...]:
    if kind == "everything":
        return (str(node()), str(npm_package("server-everything") / "dist" / "index.js"), "stdio")
    interpreter = str(python("mcp1")) if kind == "sdk1" else sys.executable
    return (interpreter, str(SERVERS / f"{kind}.py"), "stdio")


KINDS = [
    pytest.param("sdk1", marks=pytest.mark.software("mcp1")),
    pytest.param("sdk2"),
    pytest.param("everything", marks=pytest.mark.software("node", "npm")),
]
ERAS = {"sdk1": Era.LEGACY, "sdk2": Era.MODERN, "everything": Era.LEGACY}
START_S = 60.0


class Place:
    """A member, and what the hub heard."""

    def __init__(self, home: Path, kind: str, **keys: Any) -> None:
        self.kind, self.hub, self.family = kind, SomeHub(), Family()
        self.said: list[str] = []
        self.member = StdioMember(
            kind,
            Command(command=command(kind), start_timeout=START_S, **keys),
            self.hub,
            self.family,
            environ=os.environ,
            secret=secret,
            home=str(home),
            say=lambda level, text: self.said.append(text),
        )


@pytest_asyncio.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path, request.param)
    yield made
    await made.member.stop()
    made.family.close()
    assert not made.family.pids, made.said


def value(answer: Answer) -> Any:
    assert answer.result is not None, answer.error
    return json.loads(answer.result)


def text(answer: Answer) -> str:
    found = value(answer)["content"][0]["text"]
    assert isinstance(found, str)
    return found


def modern() -> SomeClient:
    return SomeClient("", era=Era.MODERN, capabilities={"elicitation": b'{"form":{}}'})


async def test_both_eras_are_served_by_every_server(place: Place) -> None:
    for client in (SomeClient(), modern()):
        talk = await place.member.conversation(client)
        assert talk.server.era is (client.era if ERAS[place.kind] is Era.MODERN else Era.LEGACY), (
            "its client's, where the server speaks both"
        )
        listed = value(await talk.ask(call("tools/list", client=client)))
        assert "echo" in [tool["name"] for tool in listed["tools"]]
        made = call("tools/call", {"name": "echo", "arguments": {"message": "hé\n"}}, client=client)
        assert text(await talk.ask(made)) == "Echo: hé\n"
    wanted = 2 if ERAS[place.kind] is Era.MODERN else 1
    for _ in range(3000):  # one that was asked in vain for the other era ends meanwhile
        if place.member.state()["children"] == wanted:
            break
        await asyncio.sleep(0.01)
    assert place.member.state()["children"] == wanted


async def test_progress_comes_to_each_of_two_calls_with_the_same_token(place: Place) -> None:
    talk = await place.member.conversation(SomeClient())
    arguments = {"duration": 0.2, "steps": 4}
    params = {"name": "trigger-long-running-operation", "arguments": arguments, "_meta": {"progressToken": 0}}
    calls = [call("tools/call", params, token=b"0", client=SomeClient(name)) for name in ("a", "b")]
    answers = await asyncio.gather(*map(talk.ask, calls))
    assert all("completed" in text(answer) for answer in answers)
    assert [[json.loads(note[1]["progress"]) for note in each.notes] for each in calls] == [[1, 2, 3, 4]] * 2


async def test_a_cancelled_call_is_no_ones_and_the_next_is_answered(place: Place) -> None:
    talk = await place.member.conversation(SomeClient())
    params = {"name": "trigger-long-running-operation", "arguments": {"duration": 30, "steps": 2}}
    task = asyncio.create_task(talk.ask(call("tools/call", params)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert text(await talk.ask(call("tools/call", {"name": "echo", "arguments": {"message": "x"}}))) == "Echo: x"


async def test_a_killed_server_answers_and_comes_back(place: Place) -> None:
    talk = await place.member.conversation(SomeClient())
    params = {"name": "trigger-long-running-operation", "arguments": {"duration": 30, "steps": 2}}
    task = asyncio.create_task(talk.ask(call("tools/call", params)))
    await asyncio.sleep(0)
    (pid,) = place.family.pids
    os.kill(pid, 9)
    answer = await task
    assert answer.error is not None and json.loads(answer.error)["code"] == MEMBER_LOST
    talk = await place.member.conversation(SomeClient())
    assert text(await talk.ask(call("tools/call", {"name": "echo", "arguments": {"message": "x"}}))) == "Echo: x"


async def test_it_ends_when_its_stdin_does(place: Place) -> None:
    """No signal is needed: these servers follow the rules."""
    await place.member.conversation(SomeClient())
    await place.member.stop()
    assert not place.family.pids


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1]])
async def test_a_legacy_client_is_asked_by_servers_of_both_eras(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path, kind, mode="per-session")
    client = SomeClient(capabilities={"elicitation": b'{"form":{}}'})
    talk = await place.member.conversation(client)
    made = call("tools/call", {"name": "ask", "arguments": {}}, client=client)
    made.reply = Answer(result=b'{"action":"accept","content":{"name":"Ada"}}')
    assert text(await talk.ask(made)) == "Hello Ada"
    assert [method for method, _ in made.questions] == ["elicitation/create"]
    await place.member.stop()
    place.family.close()


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1]])
async def test_changes_are_heard_of_servers_of_both_eras(tmp_path: Path, kind: str) -> None:
    place = Place(tmp_path, kind)
    talk = await place.member.conversation(SomeClient())
    for _ in range(200):  # a listen that is not acknowledged yet hears nothing
        await talk.ask(call("tools/call", {"name": "change", "arguments": {}}))
        if any(method == "notifications/tools/list_changed" for _, _, method, _ in place.hub.heard_of):
            break
    else:
        raise AssertionError(place.hub.heard_of)
    await place.member.stop()
    place.family.close()
