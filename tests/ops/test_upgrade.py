"""What the old program leaves to the new one, and how it hears of it."""

import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mcpproxy.clock import monotonic
from mcpproxy.ops.upgrade import GONE, READY_S, VARIABLE, Estate, Heritage, Inherited, Upgrade, heritage
from tests.support.waiting import until

HEIR = """
import os, socket, sys
from mcpproxy.ops.upgrade import heritage
left = heritage(os.environ)
assert left is not None and not heritage(os.environ)
(one, two), = left.sockets.values()
assert one is two and one.getsockname()[1] == int(sys.argv[1])
assert not os.get_inheritable(one.fileno())
left.serves()
sys.stdin.read()
"""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def fields(pid: int) -> list[str]:
    """From the state on; nothing of a process that is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", "0"]


def parent(pid: int) -> int:
    return int(fields(pid)[1])


def lives(pid: int) -> bool:
    return fields(pid)[0] != "Z"


PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER = 36, 37


@pytest.fixture
def nobodys_children() -> Iterator[None]:
    """What our children leave goes to init: elsewhere in this process somebody may have made us inherit it (tests/support/nursery)."""
    prctl, before = ctypes.CDLL(None).prctl, ctypes.c_int()
    prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, before.value, 0, 0, 0)


def start(monkeypatch: pytest.MonkeyPatch, listening: socket.socket, *command: str) -> tuple[Upgrade, list[str]]:
    said: list[str] = []
    made = Upgrade(lambda _, text: said.append(text))
    monkeypatch.setattr(sys, "orig_argv", ["python", *command])
    made.begin({"a 0": [listening, listening]})
    return made, said


@pytest.mark.usefixtures("nobodys_children")
def test_the_new_one_has_the_sockets_and_says_that_it_serves(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    ours, theirs = os.pipe()
    keep = os.dup(0)
    os.dup2(ours, 0)
    try:
        made, _ = start(monkeypatch, listening, "-c", HEIR, str(listening.getsockname()[1]))
        pid = made.pid
        assert pid and len(made.descriptors()) == 2
        minder = parent(pid)
        assert until(lambda: made.look(monotonic()), "it serves") == pid
        assert not made.descriptors() and not made.pid
    finally:
        os.dup2(keep, 0)
        assert parent(pid) != os.getpid() and not os.path.exists(f"/proc/{minder}"), (
            "systemd hears nothing of a main process that is another's child"
        )
        for each in (keep, ours, theirs):
            os.close(each)


@pytest.mark.parametrize(
    ("code", "said"), [("raise SystemExit(3)", "ended with 3"), ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL")]
)
def test_one_that_ends_is_told_of_with_its_reason(code: str, said: str, monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    made, lines = start(monkeypatch, listening, "-c", code)
    until(lambda: made.look(monotonic()) or not made.pid, "it is over")
    assert said in lines[-1] and lines[-1].endswith("this one goes on")


def test_a_program_that_is_not_there_is_told_of(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    made, lines = start(monkeypatch, listening)
    until(lambda: made.look(monotonic()) or not made.pid, "it is over")
    assert f"ended with {GONE}" in lines[-1]


def test_one_that_never_serves_is_killed(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made, lines = start(monkeypatch, listening, "-c", "import signal; signal.pause()")
    pid = made.pid
    assert not made.look(made.deadline - 1)
    assert not made.look(made.deadline)
    assert f"after {READY_S:.0f} s" in lines[-1]
    until(lambda: not lives(pid), "it is gone")
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_the_old_one_knows_is_left_in_a_file_without_a_name(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    known = Estate({"a 0": (b"whose", b"keys")}, [("u", "h:1", "drain")], b"limits")
    code = f"import os; from mcpproxy.ops.upgrade import Estate, heritage; left = heritage(os.environ); assert left.estate == {known!r}; left.serves()"
    before = len(os.listdir("/proc/self/fd"))
    said: list[str] = []
    made = Upgrade(lambda _, text: said.append(text))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", code])
    made.begin({"a 0": [listening]}, (), known)
    assert len(os.listdir("/proc/self/fd")) == before + 3, "what is not waited for is closed"
    until(lambda: made.look(monotonic()) or not made.pid, "it serves, or not")
    assert not any("this one goes on" in text for text in said), said


def test_an_estate_that_cannot_be_read_is_none() -> None:
    ready, theirs = os.pipe()
    left = os.memfd_create("nonsense")
    os.write(left, b"\xc1")
    found = Heritage(Inherited(os.getpid(), theirs, {}, [], left))
    assert found.estate == Estate()
    found.serves()
    assert os.read(ready, 1) == b"1"
    os.close(ready)


def test_an_older_program_leaves_none() -> None:
    said = msgspec.json.decode(b'{"to":1,"ready":2,"listen":{},"kept":[]}', type=Inherited)
    assert said.estate == -1


def test_what_was_left_to_another_is_not_taken() -> None:
    """A process of ours that executes something passes its environment on."""
    left = msgspec.json.encode(Inherited(os.getpid() + 1, 99, {}, [])).decode()
    environment = {VARIABLE: left, "OTHER": "stays"}
    assert heritage(environment) is None
    assert environment == {"OTHER": "stays"}


def test_a_minder_that_is_killed_leaves_nobody_behind(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    made, lines = start(monkeypatch, listening, "-c", "import signal; signal.pause()")
    pid = made.pid
    os.kill(parent(pid), signal.SIGKILL)
    until(lambda: made.look(monotonic()) or not made.pid, "it is noticed")
    assert lines[-1] == f"the new program (process {pid}) was ended by SIGKILL; this one goes on"
    until(lambda: not lives(pid), "it is gone")


def test_without_a_descriptor_this_one_goes_on(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    def none(_: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", none)
    made, lines = start(monkeypatch, listening)
    assert not made.pid
    assert lines == ["no new program: Too many open files; this one goes on"]
