"""A worker's line, against a socket of the test: it never waits, never loses order, and comes back."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcpproxy.net.door import Door, make_door
from mcpproxy.net.loop import EdgeLoop, new_loop
from mcpproxy.ops import line as module
from mcpproxy.ops.line import Line


@pytest.fixture
def loop() -> Iterator[EdgeLoop]:
    made = new_loop()
    yield made
    made.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = make_door()
    with made.sock:
        yield made


class Control:
    """The other end."""

    def __init__(self, door: Door) -> None:
        door.sock.setblocking(True)
        door.sock.settimeout(10)
        self.sock, _ = door.sock.accept()
        self.sock.settimeout(10)
        self._file = self.sock.makefile("rb")

    def read(self) -> Any:
        return json.loads(self._file.readline())

    def write(self, message: Any) -> None:
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def turn(loop: EdgeLoop, until: Callable[[], Any]) -> None:
    async def wait() -> None:
        async with asyncio.timeout(10):
            while not until():  # noqa: ASYNC110 - whatever it asks for, not an event
                await asyncio.sleep(0.001)

    loop.run_until_complete(wait())


def test_it_says_who_it_is_then_what_it_has_to_say(loop: EdgeLoop, door: Door) -> None:
    line = Line(loop, door, 3)
    line.joined.append(lambda: line.say("first", 1) and None)
    assert not line.say("too early", None)
    line.connect()
    control = Control(door)
    hello = control.read()
    assert (hello["secret"], hello["worker"]) == (door.secret, 3)
    assert control.read() == {"t": "first", "d": 1}
    assert line.say("tally", {"a": [1, "ü"]})
    assert control.read() == {"t": "tally", "d": {"a": [1, "ü"]}}
    line.close()
    control.close()


def test_it_hears_and_answers_also_byte_by_byte(loop: EdgeLoop, door: Door) -> None:
    line = Line(loop, door, 0)
    heard: list[Any] = []
    line.hears["health"] = heard.append
    line.answers["double"] = lambda data: data * 2

    def refuse(data: Any) -> None:
        raise LookupError("no such stream")

    line.answers["close"] = refuse
    line.connect()
    control = Control(door)
    control.read()
    said = (
        b'{"t":"health","d":1}\n{"t":"unknown","d":1}\n{"q":7,"t":"double","d":21}\n{"q":8,"t":"close","d":0}\n{"q":9,"t":"what","d":0}\n'
    )
    for at in range(len(said)):
        control.sock.sendall(said[at : at + 1])
        if at % 9 == 0:
            loop.run_until_complete(asyncio.sleep(0))
    turn(loop, lambda: heard)
    for expected in ({"a": 7, "d": 42}, {"a": 8, "e": "no such stream"}, {"a": 9, "e": "nobody answers 'what'"}):
        turn(loop, lambda: True)
        loop.run_until_complete(asyncio.sleep(0.01))
        assert control.read() == expected
    assert heard == [1]
    line.close()
    control.close()


def test_who_does_not_read_is_not_waited_for(loop: EdgeLoop, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", 100_000)
    line = Line(loop, door, 0)
    line.connect()
    control = Control(door)
    taken = 0
    while line.say("x", "y" * 10_000):
        taken += 1
        assert taken < 1000
    control.read()

    async def read() -> None:
        for _ in range(taken):
            await asyncio.to_thread(control.read)

    loop.run_until_complete(read())
    assert line.say("x", "again")
    line.close()
    control.close()


def test_it_comes_back_when_control_does(loop: EdgeLoop, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    line = Line(loop, door, 0)
    joined: list[int] = []
    line.joined.append(lambda: joined.append(1))
    line.connect()
    Control(door).close()
    turn(loop, lambda: len(joined) == 2)
    again = Control(door)
    assert again.read()["worker"] == 0
    assert line.say("still", True)
    assert again.read() == {"t": "still", "d": True}
    line.close()
    again.close()


def test_without_anybody_it_goes_on_trying(loop: EdgeLoop, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    line = Line(loop, door, 0)
    door.sock.close()
    line.connect()
    loop.run_until_complete(asyncio.sleep(0.05))
    assert not line.say("x", 1)
    line.close()


def test_an_answer_may_take_its_time(loop: EdgeLoop, door: Door) -> None:
    line, ready = Line(loop, door, 0), asyncio.Event()

    async def late(data: Any) -> Any:
        await ready.wait()
        if data == "wrong":
            raise ValueError("not that")
        if data == "bug":
            raise RuntimeError("ours")
        return data

    line.answers = {"late": late, "quick": lambda data: data}
    line.connect()
    control = Control(door)
    control.read()
    for number, data in enumerate(("right", "wrong", "bug")):
        control.write({"q": number, "t": "late", "d": data})
    control.write({"q": 9, "t": "quick", "d": 1})
    turn(loop, lambda: len(line._answering) == 3)
    assert control.read() == {"a": 9, "d": 1}
    ready.set()
    turn(loop, lambda: not line._answering)
    assert [control.read() for _ in range(3)] == [{"a": 0, "d": "right"}, {"a": 1, "e": "not that"}, {"a": 2, "e": "RuntimeError: ours"}]
    line.close()
    control.close()
