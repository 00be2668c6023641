"""The switchboard against the real line of workers, in one loop."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from mcpproxy.control.switchboard import GATEWAY, Refused, Switchboard
from mcpproxy.net.door import Door, make_door
from mcpproxy.observe.messages import Messages

pytestmark = pytest.mark.asyncio


class Worker:
    """The other end, by hand."""

    def __init__(self, door: Door, number: int, secret: str | None = None) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(door.address)
        self.sock.setblocking(False)
        self.number, self.secret = number, door.secret if secret is None else secret

    async def join(self) -> "Worker":
        self.reader, self.writer = await asyncio.open_unix_connection(sock=self.sock)
        self.say({"secret": self.secret, "worker": self.number, "pid": 100 + self.number})
        return self

    def say(self, message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def read(self) -> Any:
        return json.loads(await asyncio.wait_for(self.reader.readuntil(b"\n"), 10))

    async def ended(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 10) == b""


@pytest.fixture
async def board() -> AsyncIterator[Switchboard]:
    door = make_door()
    made = Switchboard(door, Messages("error"))
    await made.start()
    yield made
    door.sock.close()


def door_of(board: Switchboard) -> Door:
    return board._door


async def until(question: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not question():  # noqa: ASYNC110 - whatever it asks for, not an event
            await asyncio.sleep(0.001)


async def test_workers_join_say_and_leave(board: Switchboard) -> None:
    told: list[Any] = []
    board.joined.append(lambda number: told.append(("joined", number)))
    board.left.append(lambda number: told.append(("left", number)))
    board.hears["tally"] = lambda number, data: told.append((number, data))
    worker = await Worker(door_of(board), 1).join()
    worker.say({"t": "tally", "d": {"requests": 2}})
    worker.say({"t": "unknown", "d": 0})
    await until(lambda: len(told) == 2)
    assert board.workers[1].pid == 101
    worker.writer.close()
    await until(lambda: len(told) == 3)
    assert told == [("joined", 1), (1, {"requests": 2}), ("left", 1)]
    assert not board.workers


async def test_another_users_process_is_not_even_heard(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    stranger = await Worker(door_of(board), 0).join()  # it knows the secret
    with suppress(ConnectionResetError):
        assert await stranger.ended()
    assert not board.workers
    monkeypatch.undo()
    await Worker(door_of(board), 0).join()
    await until(lambda: 0 in board.workers)


@pytest.mark.parametrize("hello", [{"secret": "guess", "worker": 0, "pid": 1}, {}, [], "x", {"secret": 1}])
async def test_who_does_not_know_the_secret_is_sent_away(board: Switchboard, hello: Any) -> None:
    stranger = Worker(door_of(board), 0)
    stranger.reader, stranger.writer = await asyncio.open_unix_connection(sock=stranger.sock)
    stranger.say(hello)
    assert await stranger.ended()
    assert not board.workers


async def test_all_are_told_and_one_is_told(board: Switchboard) -> None:
    workers = [await Worker(door_of(board), number).join() for number in (0, 1)]
    await until(lambda: len(board.workers) == 2)
    board.tell_all("health", {"up": True})
    board.tell(1, "only", "you")
    board.tell(9, "only", "nobody")
    assert [await worker.read() for worker in workers] == [{"t": "health", "d": {"up": True}}] * 2
    assert await workers[1].read() == {"t": "only", "d": "you"}


async def test_questions_are_answered_refused_or_missed(board: Switchboard) -> None:
    worker = await Worker(door_of(board), 0).join()
    silent = await Worker(door_of(board), 1).join()
    await until(lambda: len(board.workers) == 2)

    async def answer() -> None:
        for reply in ({"d": [1]}, {"e": "no such"}, {"d": "all"}):
            asked = await worker.read()
            worker.say({"a": asked["q"], **reply})

    task = asyncio.create_task(answer())
    assert await board.ask(0, "streams", {"from": 0}) == [1]
    with pytest.raises(Refused, match="no such"):
        await board.ask(0, "close", 7)
    assert await board.ask_all("all", wait_s=0.2) == {0: "all"}
    await task
    with pytest.raises(LookupError):
        await board.ask(5, "streams")
    with pytest.raises(TimeoutError):
        await board.ask(1, "streams", wait_s=0.01)
    waiting = asyncio.create_task(board.ask(1, "streams", wait_s=10))
    await asyncio.sleep(0)
    silent.writer.close()
    with pytest.raises(LookupError):
        await waiting


async def test_a_successor_takes_the_place_of_who_has_not_been_missed_yet(board: Switchboard) -> None:
    told: list[str] = []
    board.joined.append(lambda number: told.append("joined"))
    board.left.append(lambda number: told.append("left"))
    former = await Worker(door_of(board), 0).join()
    await until(lambda: told == ["joined"])
    successor = await Worker(door_of(board), 0).join()
    await until(lambda: len(told) == 3)
    assert told == ["joined", "left", "joined"]
    assert await former.ended()
    board.tell(0, "hello", 1)
    assert (await successor.read())["t"] == "hello"


async def test_what_is_no_message_ends_the_connection(board: Switchboard) -> None:
    worker = await Worker(door_of(board), 0).join()
    await until(lambda: board.workers)
    worker.writer.write(b"no json\n")
    assert await worker.ended()
    assert not board.workers


async def test_the_gateway_process_is_no_worker_and_hears_what_all_are_told(board: Switchboard) -> None:
    told: list[Any] = []
    board.joined.append(told.append)
    board.left.append(told.append)
    board.hears["said"] = lambda number, data: told.append((number, data))
    gateway = await Worker(door_of(board), GATEWAY).join()
    await until(lambda: board.gateway is not None)
    assert not board.workers
    board.tell_all("level", 1)
    board.tell(GATEWAY, "only", "you")
    assert [await gateway.read(), await gateway.read()] == [{"t": "level", "d": 1}, {"t": "only", "d": "you"}]
    gateway.say({"t": "said", "d": 2})
    await until(lambda: told)
    asked = asyncio.ensure_future(board.ask(GATEWAY, "overview"))
    gateway.say({"a": (await gateway.read())["q"], "d": "fine"})
    assert await asked == "fine"
    again = await Worker(door_of(board), GATEWAY).join()
    assert await gateway.ended()
    again.writer.close()
    await until(lambda: board.gateway is None)
    assert told == [(GATEWAY, 2)]
    with pytest.raises(LookupError):
        await board.ask(GATEWAY, "overview")
