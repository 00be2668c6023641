"""What calls weigh that are not answered yet."""

from __future__ import annotations

import asyncio

import pytest

from mcpproxy.gateway import weight
from mcpproxy.gateway.weight import OVERHEAD, Weight
from tests.gateway.members import turns
from tests.support.faces import faces


async def test_it_weighs_until_its_task_is_done_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "MOST", 3 * OVERHEAD + 300)
    monkeypatch.setattr(weight, "MOST_OF_ONE", 2 * OVERHEAD + 200)
    all, never = Weight(), asyncio.Event()

    async def wait() -> None:
        await never.wait()

    tasks = [asyncio.create_task(wait()) for _ in range(3)]
    for task, caller in zip(tasks, ("ada", "ada", "bob"), strict=True):
        assert all.room(caller, 100)
        all.carry(caller, 100, task)
    assert not all.room("ada", 0) and not all.room("eve", 1)
    tasks[0].cancel()  # before it began
    await turns(lambda: all.total == 2 * (OVERHEAD + 100))
    assert all.room("ada", 100) and not all.room("ada", 101)
    never.set()
    await turns(lambda: not all.total)
    assert not all.of


async def test_calls_whose_clients_left_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on without their clients: what they hold must not grow with what was ever sent."""
    async with faces() as rig:
        monkeypatch.setattr(weight, "MOST_OF_ONE", 60_000)
        old = await rig.old()
        long = {"message": "x" * 50_000}
        peer = await rig.peer()
        waiting = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "wait", "arguments": long}}
        await peer.send("POST", waiting, fields=old.fields)
        await rig.service.started.wait()
        peer.close()
        assert (await old.call("echo", long, id=2)).json["error"]["code"] == 4503
        assert (await rig.modern(1, "tools/call", {"name": "echo", "arguments": long})).json["error"]["code"] == 4503
        assert "result" in (await rig.modern(1, "tools/call", {"name": "echo", "arguments": long}, caller="bob")).json
        assert "result" in (await old.call("echo", {"message": "x"}, id=3)).json
        rig.service.go.set()
        await turns(lambda: not rig.face.weight.total)
        assert "result" in (await old.call("echo", long, id=4)).json
