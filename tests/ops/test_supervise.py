"""The supervisor: who starts when, what is said once, who hears which signal, and the exit status of them all."""

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from mcpproxy.assemble import Shared
from mcpproxy.config.model import Config
from mcpproxy.ops import supervise, worker
from mcpproxy.policy.buckets import Buckets
from tests.net.stepping import DEADLINE
from tests.support.client import RawClient, get
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream, answer
from tests.support.waiting import until

RUN = """
import sys
from pathlib import Path
from mcpproxy.config import load
from mcpproxy.assemble import Shared
from mcpproxy.config.model import Config
from mcpproxy.ops import supervise, worker
from mcpproxy.policy.buckets import Buckets
from mcpproxy.ops.systemd import READY, tell
{before}
def ready(urls):
    print("ready", *urls, flush=True)
    tell(READY)
sys.exit(supervise.run(load.load(Path(sys.argv[1])), ready=ready))
"""


class Family:
    """supervise.run() in a process of its own; its log goes to a file."""

    def __init__(
        self, folder: Path, upstream: str, *, port: int = 0, workers: int = 2, before: str = "", access: str = "", more: str = ""
    ) -> None:
        self.log, self.port = folder / "access.log", port or free_port()
        file = folder / "mcpproxy.toml"
        file.write_text(
            f'workers = {workers}\n{more}\n[[listen]]\naddress = "127.0.0.1:{self.port}"\n[upstream.u]\nurls = ["{upstream}"]\n'
            f'[[route]]\nupstream = "u"\n[log]\naccess = "{access or self.log}"\n'
        )
        pipe = subprocess.PIPE
        environment = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        command = [sys.executable, "-c", RUN.replace("{before}", before), str(file)]
        self.process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def __enter__(self) -> "Family":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in [] if self.process.poll() is not None else self.workers():
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()

    def ready(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ask(self) -> int:
        with RawClient(self.port) as client:
            return client.exchange(get()).status

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status, and what was said."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, said


def test_one_worker_has_a_supervisor_like_several(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, workers=1) as family:
        assert family.ready() == f"ready http://127.0.0.1:{family.port}"
        (worker,) = family.workers()
        os.kill(worker, signal.SIGKILL)
        until(lambda: family.workers() not in ([], [worker]), "it is replaced")
        assert family.ask() == 200
        code, said = family.end()
        assert code == 0
        assert '"worker"' not in said


def test_ready_is_said_once_when_all_serve(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, ScriptedUpstream(answer()) as upstream:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE)
        with Family(tmp_path, upstream.url, workers=3) as family:
            while systemd.recv(100) != b"READY=1":
                pass
            victim, *others = family.workers()
            assert len(others) == 2
            os.kill(victim, signal.SIGKILL)
            until(lambda: len(set(family.workers()) - {victim}) == 3, "it is replaced")
            assert family.ask() == 200
            code, said = family.end()
            assert code == 0
            assert said.count("another takes its place at once") == 1
            systemd.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    assert systemd.recv(100) != b"READY=1"


def test_a_port_in_use_is_said_once(tmp_path: Path) -> None:
    """Also where it is used by a family of ours: SO_REUSEPORT alone would let both in."""
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url) as family:
        family.ready()
        other = tmp_path / "other"
        other.mkdir()
        with Family(other, upstream.url, port=family.port) as second:
            code, said = second.ended()
        assert code == 1
        assert said.count(f"127.0.0.1:{family.port} is in use by another process") == 1
        assert family.ask() == 200


def test_what_only_a_worker_finds_is_said_once(tmp_path: Path) -> None:
    with Family(tmp_path, "http://127.0.0.1:9", access=str(tmp_path / "none" / "access.log")) as family:
        code, said = family.ended()
    assert code == 1
    assert said.count("log file") == 1
    assert "takes its place" not in said


def test_signals_to_the_whole_group_count_once(tmp_path: Path) -> None:
    """As Ctrl-C and systemd send them: workers hear what their supervisor says, and it says it once."""
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url) as family:
        family.ready()
        for pid in family.workers():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                os.kill(pid, number)
        before = family.workers()
        assert [family.ask() for _ in range(20)] == [200] * 20
        assert family.workers() == before
        code, said = family.end(signal.SIGINT)
        assert code == 0
        assert said.count("mcpproxy: counts") == 2


def test_usr1_reopens_the_log_of_every_worker(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url) as family:
        family.ready()
        old = tmp_path / "access.log.1"
        family.log.rename(old)
        for _ in range(40):
            family.ask()
        until(lambda: len(old.read_text().splitlines()) == 40, "lines of both are in the old file")
        family.process.send_signal(signal.SIGUSR1)
        until(family.log.exists, "there is a new one")
        _, said = family.end()
        counted = [json.loads(line.partition("counts ")[2]) for line in said.splitlines() if "counts {" in line]
        assert sorted(each["worker"] for each in counted) == [0, 0, 1, 1]
        assert sum(each["requests"] for each in counted[2:]) == 40
        assert len({json.loads(line)["id"].partition("-")[0] for line in old.read_text().splitlines()}) == 2


def test_who_does_not_last_comes_back_later_each_time(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, before="supervise.STEADY_S = 1e9") as family:
        family.ready()
        steady, victim = family.workers()
        for _ in range(4):
            os.kill(victim, signal.SIGKILL)
            until(lambda: victim not in family.workers(), "it is gone")  # noqa: B023
            victim = until(lambda: [pid for pid in family.workers() if pid != steady], "another took its place")[0]
        _, said = family.end()
    assert [line.partition("its place ")[2] for line in said.splitlines() if "its place" in line] == [
        "at once",
        "in 0.1 s",
        "in 0.2 s",
        "in 0.4 s",
    ]


def test_a_worker_that_does_not_end_is_killed_and_told_of(tmp_path: Path) -> None:
    changes = {"before": "supervise.PATIENCE_S = 0.3", "more": 'drain = "1s"'}
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, **changes) as family:
        family.ready()
        frozen = family.workers()[1]
        os.kill(frozen, signal.SIGSTOP)
        code, said = family.end()
    assert code == 1
    assert f"(process {frozen}) does not end: killed" in said


def test_a_frozen_worker_is_replaced_and_says_where_it_stood(tmp_path: Path) -> None:
    """One that is stopped by a signal cannot say it, one in an endless loop can."""
    before = """
from mcpproxy.ops import worker
joined = worker.obey
def obey(post, supervisor, life, loop):
    joined(post, supervisor, life, loop)
    reopen = life.reopen
    def endless_loop():
        while True:
            pass
    life.reopen = endless_loop
worker.obey = obey
"""
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, workers=2, before=before, more='watchdog = "2s"') as family:
        family.ready()
        looping = family.workers()
        family.process.send_signal(signal.SIGUSR1)
        until(lambda: len(family.workers()) == 2 and not set(family.workers()) & set(looping), "both are replaced")
        until(
            lambda: family.ask() and len({json.loads(line)["id"].partition("-")[0] for line in family.log.read_text().splitlines()}) >= 2,
            "both serve",
        )
        stopped = family.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: stopped not in family.workers() and len(family.workers()) == 2, "it is replaced")
        assert family.ask() == 200
        code, said = family.end()
    assert code == 0
    assert said.count("gave no sign of life for") >= 3
    assert said.count("in endless_loop") >= 2
    assert f"(process {stopped}) was ended by SIGKILL; another takes its place" in said


def test_who_is_busy_but_alive_is_left_alone(tmp_path: Path) -> None:
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, more='watchdog = "4s"') as family:
        family.ready()
        before = family.workers()
        family.process.send_signal(signal.SIGSTOP)  # the supervisor itself slept: nobody else is to blame
        until(lambda: "T" in Path(f"/proc/{family.process.pid}/stat").read_text().split()[2], "it sleeps")
        select.select([], [], [], 4.5)
        family.process.send_signal(signal.SIGCONT)
        assert [family.ask() for _ in range(20)] == [200] * 20
        assert family.workers() == before
        assert family.end()[0] == 0


def test_whose_word_waits_unread_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor may sleep between hearing and judging."""
    ended: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: ended.append(pid))
    supervisor = supervise.Supervisor(Config(), Shared(1, [], [], [], Buckets(1, sets=8), None), None, None, None, None)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    for number, (ours, _) in enumerate(pairs):
        child = supervise.Child(number, os.getpid() if number else 1, ours)
        child.since = child.heard = 1.0
        supervisor._workers[number] = child
    pairs[0][1].send(worker.ALIVE)
    monkeypatch.setattr(supervise, "ABORT_S", 0.0)
    supervisor._end_frozen(1000.0)
    assert set(ended) == {os.getpid()}
    for pair in pairs:
        for end in pair:
            end.close()


def test_who_was_paused_together_with_the_supervisor_is_left_alone(tmp_path: Path) -> None:
    """A frozen container, a virtual machine that moves: the supervisor may well be the first to run again."""
    with ScriptedUpstream(answer()) as upstream, Family(tmp_path, upstream.url, more='watchdog = "4s"') as family:
        family.ready()
        before = family.workers()
        everybody = [family.process.pid, *before]
        for pid in reversed(everybody):
            os.kill(pid, signal.SIGSTOP)
        select.select([], [], [], 5)
        for pid in everybody:
            os.kill(pid, signal.SIGCONT)
            select.select([], [], [], 0.3)
        assert family.ask() == 200
        assert family.workers() == before
        code, said = family.end()
    assert code == 0
    assert "gave no sign of life" not in said


def test_without_a_descriptor_a_child_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["true"]) as child:
        assert supervise._ends(child.pid, DEADLINE)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
        try:
            assert not supervise._ends(child.pid, DEADLINE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
