"""The child process: known before it lives, gone when its parent is."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from mcpproxy.demo import child
from mcpproxy.demo.child import DemoServer
from mcpproxy.errors import StartError


def gone(pid: int) -> bool:
    """Is there no such process any more? (Ours are reaped; others by init, a moment later.)"""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid: int) -> None:
    """By the kernel's word: a pidfd becomes readable when the process ends."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


def test_it_answers_as_soon_as_the_context_is_entered() -> None:
    with DemoServer(lambda _: None) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        socket.create_connection((host, int(port))).close()
        pid = server.pid
    assert gone(pid)


def test_leaving_the_context_is_not_a_death() -> None:
    deaths: list[int] = []
    with DemoServer(deaths.append):
        pass
    assert deaths == []


def test_a_death_is_told() -> None:
    told = threading.Event()
    statuses: list[int] = []

    def died(status: int) -> None:
        statuses.append(status)
        told.set()

    with DemoServer(died) as server:
        os.kill(server.pid, signal.SIGKILL)
        assert told.wait(10)
    assert statuses == [-signal.SIGKILL]


def test_a_child_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StartError, match="did not start"), DemoServer(lambda _: None):
        pytest.fail("it was entered")


def test_a_child_that_will_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> None:
    stubborn = os.path.join(tmp_path, "stubborn")
    with open(stubborn, "w") as file:
        file.write(
            f"#!{sys.executable}\nimport signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('serving', flush=True)\ntime.sleep(60)\n"
        )
    os.chmod(stubborn, 0o755)
    monkeypatch.setattr(sys, "executable", stubborn)
    monkeypatch.setattr(child, "END_S", 0.1)
    with DemoServer(lambda _: None) as server:
        pid = server.pid
    assert gone(pid)


def test_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    with DemoServer(lambda _: None) as server:
        assert os.getpgid(server.pid) != os.getpgrp()


def test_nothing_is_left_when_the_parent_is_killed() -> None:
    script = "from mcpproxy.demo.child import DemoServer; s = DemoServer(print); s.__enter__(); print(s.pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until_gone(pid)
