"""What is listened to at a modern server; the server is a function."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpproxy.gateway import listening
from mcpproxy.gateway.listening import Listening, Note
from mcpproxy.gateway.parts import Answer, Era, Server
from mcpproxy.mcp.message import Params

CHANGES = Server(Era.MODERN, "2026-07-28", {"tools": b'{"listChanged":true}', "resources": b'{"subscribe":true}'})


class Peer:
    def __init__(self, server: Server = CHANGES) -> None:
        self.open: list[tuple[dict[str, Any], Note, asyncio.Future[Answer]]] = []
        self.closed = 0
        self.heard: list[tuple[str, Params]] = []
        self.opened = asyncio.Event()
        self.listening = Listening(server, self.listen, lambda method, params: self.heard.append((method, params)))

    async def listen(self, params: bytes, note: Note) -> Answer:
        end: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.open.append((json.loads(params), note, end))
        self.opened.set()
        try:
            return await end
        except asyncio.CancelledError:
            self.closed += 1
            raise

    async def acknowledge(self) -> dict[str, Any]:
        await self.opened.wait()
        self.opened.clear()
        params, note, _ = self.open[-1]
        note("notifications/subscriptions/acknowledged", {"_meta": b"{}"})
        found = params["notifications"]
        assert isinstance(found, dict)
        return found


async def test_it_asks_for_the_lists_the_server_tells_about() -> None:
    peer = Peer()
    peer.listening.begin()
    assert await peer.acknowledge() == {"toolsListChanged": True}
    peer.open[0][1]("notifications/tools/list_changed", {"_meta": b"{}"})
    assert peer.heard == [("notifications/tools/list_changed", {})]
    peer.listening.end()
    await asyncio.sleep(0)
    assert peer.closed == 1


async def test_nothing_to_listen_to_is_no_listen() -> None:
    peer = Peer(Server(Era.MODERN, "2026-07-28", {"tools": b"{}", "prompts": b"1"}))
    peer.listening.begin()
    await asyncio.sleep(0)
    assert peer.open == []
    peer.listening.end()


async def test_a_subscription_is_in_place_before_the_old_listen_is_closed() -> None:
    peer = Peer()
    peer.listening.begin()
    await peer.acknowledge()
    task = asyncio.create_task(peer.listening.ask("resources/subscribe", {"uri": b'"x:1"'}))
    await peer.opened.wait()
    assert peer.closed == 0
    assert not task.done()
    assert await peer.acknowledge() == {"toolsListChanged": True, "resourceSubscriptions": ["x:1"]}
    assert (await task).result == b"{}"
    assert peer.closed == 1
    assert (await peer.listening.ask("resources/subscribe", {"uri": b'"x:1"'})).result == b"{}"
    assert len(peer.open) == 2
    task = asyncio.create_task(peer.listening.ask("resources/unsubscribe", {"uri": b'"x:1"'}))
    assert await peer.acknowledge() == {"toolsListChanged": True}
    await task
    assert (await peer.listening.ask("resources/subscribe", {})).error is not None
    peer.listening.end()


async def test_a_listen_that_ended_is_opened_again_and_what_was_missed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "AGAIN", (0.001, 0.002))
    peer = Peer()
    peer.listening.begin()
    await peer.acknowledge()
    peer.open[0][2].set_result(Answer(result=b"{}"))
    await peer.acknowledge()
    assert peer.heard == [("notifications/tools/list_changed", {})]
    peer.open[1][2].set_result(Answer.failure(-32601, "no such method"))
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert len(peer.open) == 2
