"""The control process: it obeys its supervisor, ends with it, and is replaced."""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from mcpproxy.assemble import Shared
from mcpproxy.config.model import Config
from mcpproxy.config.serving import Admin as AdminConfig
from mcpproxy.control import run as module
from mcpproxy.control.run import Control
from mcpproxy.net.door import make_door
from mcpproxy.policy.buckets import Buckets
from tests.scenarios.conftest import Run
from tests.support.client import get
from tests.support.upstream import ScriptedUpstream, answer
from tests.support.waiting import until


async def word(loop: asyncio.AbstractEventLoop, ours: socket.socket) -> bytes:
    """The next one that says more than that it lives."""
    said = module.ALIVE
    while said == module.ALIVE:
        said = await asyncio.wait_for(loop.sock_recv(ours, 1000), 10)
    return said


@pytest.mark.asyncio
async def test_orders_are_answered_events_heard_and_parts_started_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    told: list[object] = []

    class Part:
        async def start(self) -> None:
            told.append("started")

        async def stop(self) -> None:
            told.append("stopped")

    monkeypatch.setattr(module, "parts", lambda control: [Part()])
    door = make_door()
    control = Control(Config(admin=AdminConfig(address="off")), Shared(1, [], [], [], Buckets(1, sets=8), None), door, theirs)
    control.events.append(told.append)
    task = asyncio.create_task(control.run())
    loop = asyncio.get_running_loop()
    ours.send(json.dumps({"event": "born", "worker": 0, "pid": 7}).encode())
    order = asyncio.create_task(control.order("reload", {"why": "asked"}))
    asked = json.loads(await word(loop, ours))
    assert (asked["order"], asked["with"]) == ("reload", {"why": "asked"})
    ours.send(json.dumps({"id": asked["id"], "ok": False, "text": "a mistake"}).encode())
    assert await order == (False, "a mistake")
    assert control.workers == {0: 7}
    ours.close()
    await asyncio.wait_for(task, 10)
    assert told[-1] == "stopped"
    assert "started" in told
    assert {"event": "born", "worker": 0, "pid": 7} in told
    assert (await control.order("reload"))[0] is False
    door.sock.close()


def test_what_is_cut_short_at_the_end_is_no_trouble(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As when a worker leaves while it is asked, and the end comes in the same moment."""

    async def asks() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise LookupError("worker 1 left") from None

    class Part:
        async def start(self) -> None:
            self.task = asyncio.create_task(asks())

        async def stop(self) -> None:
            """It goes on asking."""

    monkeypatch.setattr(module, "parts", lambda control: [Part()])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    door = make_door()
    control = Control(Config(admin=AdminConfig(address="off")), Shared(1, [], [], [], Buckets(1, sets=8), None), door, theirs)
    asyncio.run(control.run())
    assert not caplog.records
    door.sock.close()


def test_it_is_replaced_and_ends_with_the_daemon(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url)
        control = until(lambda: daemon.processes().get("mcpproxy:ctl"), "it is made")
        os.kill(control, signal.SIGTERM)  # as to a whole group: not its business
        os.kill(control, signal.SIGKILL)
        successor = until(lambda: pid if (pid := daemon.processes().get("mcpproxy:ctl")) != control else None, "it is made again")
        until(lambda: any("the control process" in message and "takes its place" in message for message in daemon.messages), "it is said")
        with daemon.client() as client:
            assert client.exchange(get()).status == 200
        assert daemon.stop() == 0
        assert not Path(f"/proc/{successor}").exists()


def test_without_a_supervisor_it_ends(run: Run) -> None:
    daemon = run("http://127.0.0.1:9")
    control = until(lambda: daemon.processes().get("mcpproxy:ctl"), "it is made")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    until(lambda: not _alive(control), "it is gone")


def _alive(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != pid
    except ChildProcessError:
        return Path(f"/proc/{pid}").exists()


def test_a_frozen_one_is_replaced(run: Run) -> None:
    daemon = run("http://127.0.0.1:9", watchdog="2s")
    control = until(lambda: daemon.processes().get("mcpproxy:ctl"), "it is made")
    os.kill(control, signal.SIGSTOP)
    until(lambda: daemon.processes().get("mcpproxy:ctl") not in (None, control), "another takes its place")
    until(lambda: any("the control process" in message and "no sign of life" in message for message in daemon.messages), "it is said")
    assert daemon.stop() == 0
