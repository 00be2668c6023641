"""All workers have a configuration or none has; the supervisor's half, with workers that the test plays."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpproxy.assemble import Shared, share
from mcpproxy.config import load
from mcpproxy.config.model import Config
from mcpproxy.errors import StartError
from mcpproxy.ops import reload as module
from mcpproxy.ops.reload import ABORT, ANSWER_S, COMMIT, COMMITTED, LONGEST, PREPARE, PREPARED, REFUSED, Reload, Worker, receive
from tests.support.ports import free_port


class Played:
    """A worker."""

    def __init__(self, number: int) -> None:
        self.number, self.name = number, f"worker {number}"
        self.post, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.settimeout(5)

    def tell(self, *words: bytes) -> None:
        for word in words:
            self.post.send(word)

    def hear(self) -> tuple[bytes, list[int]]:
        word, descriptors, _, _ = socket.recv_fds(self.theirs, 16, 250)
        return word, descriptors

    def heard_nothing(self) -> bool:
        self.theirs.setblocking(False)
        try:
            self.theirs.recv(1)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self.post.close()
        self.theirs.close()


class Stage:
    def __init__(self, count: int) -> None:
        self.port = free_port()
        self.config = self.text()
        self.shared: Shared = share(self.config)
        self.workers: dict[int, Worker] = {}
        self.played = [Played(number) for number in range(count)]
        self.workers.update({each.number: each for each in self.played})
        self.next: Config | StartError = self.config
        self.decided: list[Config] = []
        self.said: list[tuple[str, str]] = []
        self.replies: list[tuple[bool, str]] = []
        self.it = Reload(
            self.config, self.shared, self.workers, self.read, self.decided.append, lambda level, text: self.said.append((level, text))
        )

    def text(self, *more: str, top: str = "") -> Config:
        listen = "".join(f'[[listen]]\naddress = "{address}"\nredirect = "https"\n' for address in (f"127.0.0.1:{self.port}", *more))
        return load.load(f"workers = 2\n{top}\n{listen}")

    def read(self) -> Config:
        if isinstance(self.next, StartError):
            raise self.next
        return self.next

    def begin(self) -> None:
        self.it.begin(lambda ok, text: self.replies.append((ok, text)))

    def answer(self, number: int, word: bytes, offer: int = 1, why: str = "") -> None:
        self.it.heard(number, self.workers[number], word + bytes([offer]) + why.encode())


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(2)
    yield made
    made.shared.close()
    for each in made.played:
        each.close()


def test_all_are_asked_then_told_and_then_it_is_said(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "edge.sock"
    stage.next = stage.text(f"127.0.0.1:{free_port()}", f"unix:{path}")
    stage.begin()
    for each in stage.played:
        word, descriptors = each.hear()
        assert word == PREPARE + b"\1"
        config, sockets = receive(descriptors)
        assert config == stage.next
        assert [len(several) for several in sockets.values()] == [2, 2]
        one, two = sockets[f"unix:{path} 0"]
        assert one is two, "a unix socket is one for all"
        for sock in {sock for several in sockets.values() for sock in several}:
            sock.close()
    stage.answer(0, PREPARED)
    assert stage.it.pending and not stage.decided
    stage.answer(1, PREPARED)
    assert stage.decided == [stage.next]
    assert [each.hear()[0] for each in stage.played] == [COMMIT + b"\1"] * 2
    assert not stage.said
    stage.answer(0, COMMITTED)
    stage.answer(1, COMMITTED)
    assert stage.said == [("info", "configuration reloaded (generation 2)")]
    assert stage.replies == [(True, "configuration reloaded (generation 2)")]
    assert len(stage.shared.sockets) == len(stage.shared.urls) == 3
    assert not stage.it.pending
    stage.next = stage.config
    stage.begin()
    for number in range(2):
        stage.answer(number, PREPARED, 2)
    assert not path.exists()
    assert len(stage.shared.sockets) == 1


def test_one_that_refuses_speaks_for_all(stage: Stage) -> None:
    port = free_port()
    stage.next = stage.text(f"127.0.0.1:{port}")
    stage.begin()
    stage.answer(1, PREPARED)
    stage.answer(0, REFUSED, why="no" + "!" * LONGEST)
    for each in stage.played:
        word, descriptors = each.hear()
        for descriptor in descriptors:
            os.close(descriptor)
        assert (word, each.hear()[0]) == (PREPARE + b"\1", ABORT + b"\1")
    ((ok, text),) = stage.replies
    assert not ok and text.startswith("worker 0: no!")
    assert stage.said[0][1].startswith("configuration not reloaded, the one before goes on: worker 0: no!")
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
    stage.answer(0, PREPARED)
    assert not stage.decided, "an answer to what was given up"


def test_mistakes_are_said_and_nobody_is_asked(stage: Stage) -> None:
    stage.next = StartError("a.toml: 2 mistakes", "line 1: this\nline 2: that")
    stage.begin()
    assert stage.replies == [(False, "a.toml: 2 mistakes\nline 1: this\nline 2: that")]
    assert [level for level, _ in stage.said] == ["error"] * 3
    assert all(each.heard_nothing() for each in stage.played)


def test_what_needs_a_restart_is_refused_here(stage: Stage) -> None:
    stage.next = stage.text(top='state_dir = "/another"')
    stage.begin()
    assert "state_dir" in stage.replies[0][1]


def test_who_does_not_answer_is_named(stage: Stage) -> None:
    stage.begin()
    stage.answer(0, PREPARED)
    stage.it.look(stage.it.deadline - 0.1)
    assert stage.it.pending
    stage.it.look(stage.it.deadline)
    assert stage.replies == [(False, f"worker 1: no answer within {ANSWER_S:g} s")]


def test_nobody_waits_for_the_dead(stage: Stage) -> None:
    stage.begin()
    stage.answer(0, PREPARED)
    del stage.workers[1]
    stage.it.gone(1)
    assert stage.decided
    del stage.workers[0]
    stage.it.gone(0)
    assert stage.replies == [(True, "configuration reloaded (generation 2)")]


def test_one_that_is_dead_already_is_not_asked(stage: Stage) -> None:
    stage.played[0].theirs.close()
    stage.begin()
    stage.answer(1, PREPARED)
    assert stage.decided


def test_who_asks_meanwhile_gets_another_one(stage: Stage) -> None:
    stage.begin()
    stage.begin()
    stage.begin()
    for offer in (1, 2):
        for word in (PREPARED, COMMITTED):
            for number in range(2):
                stage.answer(number, word, offer)
    assert [text for _, text in stage.replies] == [f"configuration reloaded (generation {number})" for number in (2, 3, 3)]


def test_the_end_ends_it(stage: Stage) -> None:
    stage.begin()
    stage.it.stop()
    assert stage.replies == [(False, "it is ending")]
    assert stage.it.deadline == float("inf")


def test_it_counts_although_one_does_not_say_so(stage: Stage) -> None:
    stage.begin()
    for number in range(2):
        stage.answer(number, PREPARED)
    stage.it.look(stage.it.deadline)
    assert stage.replies == [(True, "configuration reloaded (generation 2)")]


def test_systemd_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(module, "tell", told.append)
    stage.next = StartError("no")
    stage.begin()
    assert [each.partition(b"=")[0] for each in told] == [b"RELOADING", b"READY"]


def test_no_descriptor_stays(stage: Stage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for offer in range(1, 4):
        stage.next = stage.text(f"127.0.0.1:{free_port()}")
        stage.begin()
        stage.answer(0, REFUSED, offer)
        for each in stage.played:
            for descriptor in each.hear()[1]:
                os.close(descriptor)
            each.hear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_a_descriptor_nothing_is_offered_and_nobody_is_taken_for_dead(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", none)
    stage.begin()
    assert stage.replies == [(False, "worker 0 cannot be told: Too many open files")]
    assert not stage.it.pending and not stage.decided
    assert stage.it.generation == 1
