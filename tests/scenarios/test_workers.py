"""Several workers as their clients meet them: all serve, none is missed when it dies, limits and session tickets are those of one server."""

import collections
import math
import os
import random
import signal
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.ops.supervise import STEADY_S
from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import RawClient, post
from tests.support.daemon import Daemon
from tests.support.message import Message
from tests.support.upstream import Link, ScriptedUpstream, answer, response
from tests.support.waiting import until


def several(run: Run, *urls: str, workers: int = 2, **changes: Any) -> Daemon:
    """A daemon all of whose workers serve."""
    daemon = run(*urls, workers=workers, **changes)
    until(lambda: any("serving" in message for message in daemon.messages), "all serve")
    return daemon


def worker_of(identifier: str) -> str:
    """Request ids that are made here begin with what only one worker has."""
    return identifier.partition("-")[0]


def naming(link: Link) -> None:
    """An upstream whose answer says which worker asked."""
    while True:
        request = link.read_request()
        link.send(response(body=request.first("x-request-id") or b"?"))


def replaced(daemon: Daemon, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in daemon.workers, "it is gone")
    until(lambda: len(daemon.workers) == 2, "another took its place")


def gone(pid: int) -> bool:
    """A worker without a supervisor is a child of ours (tests/support/nursery)."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


# -- all serve -----------------------------------------------------------------------------------------------------------------------------


def test_connections_spread_evenly(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = several(run, upstream.url)
        assert len(daemon.workers) == 2
        for _ in range(200):
            with daemon.client() as client:
                assert client.exchange(post(b"x")).body == b"x"
        served = collections.Counter(worker_of(record["id"]) for record in daemon.wait_records(200))
    assert len(served) == 2
    assert min(served.values()) >= 60, served


def test_a_unix_socket_is_one_for_all(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    with ScriptedUpstream(answer()) as upstream:
        daemon = several(run, upstream.url, listen={"address": f"unix:{path}"})
        for pid in daemon.workers:
            with daemon.client() as client:
                assert client.exchange(post(b"x")).body == b"x"
            replaced(daemon, pid)
            assert path.exists()
        assert daemon.stop() == 0
        assert not path.exists()


def test_what_is_configured_for_all_is_divided(run: Run) -> None:
    """A server that takes two calls at once is never given three."""
    arrived, go = threading.Semaphore(0), threading.Event()

    def slow(link: Link) -> None:
        while True:
            link.read_request()
            arrived.release()
            link.wait(go)
            link.send(response(body=b"done"))

    with ScriptedUpstream(slow) as upstream:
        daemon = several(run, upstream.url, upstream={"max_connections": 2, "queue": 64})
        clients = [daemon.client().send(post()) for _ in range(24)]  # the chance that one worker gets all is 1 : 8 million
        assert arrived.acquire(timeout=20)
        assert arrived.acquire(timeout=20)
        assert len(upstream.links) == 2
        go.set()
        assert all(client.response(b"POST").body == b"done" for client in clients)
        assert len(upstream.links) == 2
        for client in clients:
            client.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_by_any_worker(
    version: ssl.TLSVersion, run: Run, tls_listen: dict[str, Any], certificate: Certificate
) -> None:
    context = certificate.client()
    context.minimum_version = context.maximum_version = version

    def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool, str]:
        raw = socket.create_connection(("127.0.0.1", daemon.port()), timeout=20)
        with context.wrap_socket(raw, server_hostname="localhost", session=session) as link:
            link.sendall(post())
            said = b""
            while not said.endswith(b"!"):
                said += link.recv(65536)
            return link.session, bool(link.session_reused), said.rpartition(b"\n")[2].decode()

    def naming_to_the_end(link: Link) -> None:
        while True:
            request = link.read_request()
            link.send(response(body=(request.first("x-request-id") or b"?") + b"!"))

    with ScriptedUpstream(naming_to_the_end) as upstream:
        daemon = several(run, upstream.url, listen=tls_listen)
        session, _, first = connect(None)
        reached = set()
        for _ in range(30):
            _, resumed, name = connect(session)
            assert resumed
            reached.add(worker_of(name))
        assert len(reached) == 2
        assert worker_of(first) in reached


# -- one dies ------------------------------------------------------------------------------------------------------------------------------


class Caller(threading.Thread):
    """Calls and calls, some calls on each connection, and remembers how it went."""

    def __init__(self, daemon: Daemon, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.stop = daemon.port(), stop
        self.answered: dict[str, float] = {}  # by worker: when it answered last
        self.statuses: collections.Counter[int] = collections.Counter()
        self.lost: list[tuple[str, float]] = []  # the worker, "" where it never said; when
        self.broken: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            name = ""
            try:
                with RawClient(self.port) as client:
                    for _ in range(10):
                        began = time.monotonic()
                        answer = client.exchange(post())
                        self.statuses[answer.status] += 1
                        if answer.status == 200:
                            name = worker_of(answer.body.decode())
                            self.answered[name] = began
                        self.stop.wait(0.01)
            except (OSError, AssertionError) as error:
                if isinstance(error, TimeoutError | AssertionError):
                    self.broken.append(repr(error))
                self.lost.append((name, time.monotonic()))


def kill_at_random(daemon: Daemon, kills: int, chance: random.Random) -> None:
    """Always one that has served for longer than the supervisor waits for after a start, so that its successor comes at once."""
    seen: dict[int, float] = {}
    while kills:
        now, workers = time.monotonic(), daemon.workers
        seen = {pid: seen.get(pid, now) for pid in workers}
        steady = [pid for pid, since in seen.items() if now - since > STEADY_S + 0.1]
        if steady:  # a dead one stays in the list until its supervisor has seen it
            victim = chance.choice(steady)
            os.kill(victim, signal.SIGKILL)
            seen[victim] = math.inf
            kills -= 1
        time.sleep(chance.uniform(0, 0.12))


def test_workers_killed_under_load_are_replaced_and_nobody_else_notices(run: Run) -> None:
    """Two hundred times. Who was connected to the dead one loses that call and no other; not one call too many is admitted, nor one too few."""
    workers, daily, kills = 16, 12_000, 200
    limits = {"route": {"limits": ["all"]}, "limit": {"all": {"per": [], "daily": daily, "concurrent": 16}}}
    with ScriptedUpstream(naming) as upstream:
        daemon = several(run, upstream.url, workers=workers, **limits)
        stop = threading.Event()
        callers = [Caller(daemon, stop) for _ in range(4)]  # with as many that dead workers still hold: far fewer than 16
        for caller in callers:
            caller.start()
        kill_at_random(daemon, kills, random.Random(5))
        stop.set()
        for caller in callers:
            caller.join(30)
            assert not caller.is_alive()
            assert not caller.broken
        until(lambda: sum("another takes its place" in message for message in daemon.messages) == kills, "every death is told of")
        until(lambda: len(daemon.workers) == workers, "all are there again")
        statuses = sum((caller.statuses for caller in callers), collections.Counter[int]())
        lost = [each for caller in callers for each in caller.lost]
        assert len(lost) <= kills * len(callers)
        for name, when in lost:
            assert all(caller.answered.get(name, 0.0) <= when for caller in callers), "a worker that lives lost a call"
        assert statuses[200] < daily  # until the last kill calls were admitted
        with daemon.client() as client:  # what is left for today
            found = client.exchange(post())
            while found.status == 200:
                statuses[200] += 1
                found = client.exchange(post())
            assert found.status == 429
        assert {record["reason"] for record in daemon.wait_records(1, status=429)} == {"quota-used-up"}  # nothing of the dead is held
        assert set(statuses) <= {200, 429}
        assert daily - len(lost) <= statuses[200] <= daily
        assert len(daemon.not_json) <= kills  # what was being written is torn
        daemon.not_json.clear()


def test_while_one_is_missing_the_others_take_what_is_meant_for_it(run: Run) -> None:
    with ScriptedUpstream(answer()) as upstream:
        daemon = several(run, upstream.url)
        steady, victim = daemon.workers
        while not any("in 0.8 s" in message for message in daemon.messages):
            os.kill(victim, signal.SIGKILL)
            until(lambda dead=victim: dead not in daemon.workers, "it is gone")  # type: ignore[misc]
            for _ in range(20):
                with daemon.client() as client:
                    assert client.exchange(post(b"x")).body == b"x"
            victim = until(lambda: [pid for pid in daemon.workers if pid != steady], "another took its place")[0]


# -- the end -------------------------------------------------------------------------------------------------------------------------------


def refuses(daemon: Daemon) -> bool:
    try:
        with daemon.client():
            return False
    except OSError:
        return True


class Waiting:
    """Clients whose calls are at work, so many that every worker has some."""

    def __init__(self, run: Run) -> None:
        self._go, arrived = threading.Event(), threading.Semaphore(0)

        def slow(link: Link) -> None:
            link.read_request()
            arrived.release()
            link.wait(self._go)
            link.send(response(body=b"late"))

        self.upstream = ScriptedUpstream(slow)
        self.upstream.__enter__()
        self.daemon = several(run, self.upstream.url, drain="60s")
        self.clients = [self.daemon.client().send(post()) for _ in range(24)]
        for _ in self.clients:
            assert arrived.acquire(timeout=20)

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()
        for client in self.clients:
            client.close()
        self.upstream.__exit__(None, None, None)

    def answers(self) -> list[Message]:
        self._go.set()
        return [client.response(b"POST") for client in self.clients]


def test_all_drain_when_told(run: Run) -> None:
    with Waiting(run) as waiting:
        waiting.daemon.signal(signal.SIGTERM)
        until(lambda: refuses(waiting.daemon), "nobody is accepted")
        assert {(answer.status, answer.body) for answer in waiting.answers()} == {(200, b"late")}
        assert waiting.daemon.wait() == 0
        assert len(waiting.daemon.select(end="done")) == 24


def test_all_end_when_told_twice(run: Run) -> None:
    with Waiting(run) as waiting:
        waiting.daemon.signal(signal.SIGTERM)
        until(lambda: refuses(waiting.daemon), "nobody is accepted")
        waiting.daemon.signal(signal.SIGTERM)
        assert waiting.daemon.wait() == 0
        assert len(waiting.daemon.select(end="stopped")) == 24


def test_without_a_supervisor_workers_drain_and_are_gone(run: Run) -> None:
    with Waiting(run) as waiting:
        workers = waiting.daemon.workers
        waiting.daemon.signal(signal.SIGKILL)
        until(lambda: refuses(waiting.daemon), "nobody is accepted")
        assert {answer.status for answer in waiting.answers()} == {200}
        for pid in workers:
            until(lambda pid=pid: gone(pid), "it ended")  # type: ignore[misc]
        waiting.daemon.wait()
        assert len(waiting.daemon.select(end="done")) == 24


def test_without_a_supervisor_a_signal_ends_a_worker(run: Run) -> None:
    with Waiting(run) as waiting:
        workers = waiting.daemon.workers
        waiting.daemon.signal(signal.SIGKILL)
        until(lambda: refuses(waiting.daemon), "nobody is accepted")
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
            until(lambda pid=pid: gone(pid), "it ended")  # type: ignore[misc]
        waiting.daemon.wait()
        assert len(waiting.daemon.select(end="stopped")) == 24
