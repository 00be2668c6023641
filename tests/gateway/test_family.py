"""Nobody is left behind. Dying of ours is in test_member_stdio."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from mcpproxy.gateway import family
from mcpproxy.gateway.family import MARK, Family


def start(of: Family, *words: str, mark: str = "") -> tuple[int, int, int]:
    """The child, the pipe it writes to, and the end of ours of its guard."""
    theirs, ours = os.pipe()
    out, its = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        pid = of.spawn(words, {"PATH": "/usr/bin:/bin", MARK: mark}, "/", stdin=null, stdout=its, stderr=null, guard=theirs)
    finally:
        for each in (theirs, its, null):
            os.close(each)
    return pid, out, ours


async def exited(pid: int) -> None:
    watch = os.pidfd_open(pid)
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(watch, over.set)
    async with asyncio.timeout(10):
        await over.wait()
    asyncio.get_running_loop().remove_reader(watch)
    os.close(watch)


async def test_a_child_begins_when_it_is_told_in_a_group_and_session_of_its_own() -> None:
    ours = Family()
    pid, out, guard = start(ours, "sh", "-c", "echo $$")
    assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)
    os.write(guard, b"\n")
    await exited(pid)
    assert os.read(out, 100).split()[0] == str(pid).encode()  # it is the program, not a shell around it
    assert ours.bury(pid) == 0
    os.close(out)
    os.close(guard)
    ours.close()


async def test_the_end_of_the_pipe_is_the_end_of_the_group() -> None:
    ours = Family()
    pid, out, guard = start(ours, "sh", "-c", "trap '' HUP INT TERM; sleep 600 & echo; wait")
    os.write(guard, b"\n")
    assert os.read(out, 1) == b"\n"
    os.close(guard)
    await exited(pid)
    assert ours.bury(pid) == -signal.SIGKILL
    assert os.read(out, 1) == b""  # nobody holds it
    os.close(out)
    ours.close()


async def test_one_that_was_never_told_to_begin_ends_too() -> None:
    ours = Family()
    pid, out, guard = start(ours, "sleep", "600")
    os.close(guard)
    await exited(pid)
    assert ours.bury(pid) == 1
    os.close(out)
    ours.close()


async def test_who_left_the_group_is_found_by_the_mark() -> None:
    ours = Family()
    mark = ours.mark()
    assert mark != ours.mark()
    pid, out, guard = start(ours, "sh", "-c", "setsid sh -c 'echo $$; exec sleep 600 >/dev/null' & wait", mark=mark)
    os.write(guard, b"\n")
    stray = int(os.read(out, 20))
    os.kill(pid, signal.SIGKILL)
    await exited(pid)
    ours.bury(pid)
    assert await ours.sweep("somebody else") == 0
    os.kill(stray, 0)
    assert await ours.sweep(mark) >= 1
    async with asyncio.timeout(10):
        while str(stray) in os.listdir("/proc"):  # adopted and reaped
            ours.reap()
            await asyncio.sleep(0.005)
    os.close(out)
    os.close(guard)
    ours.close()


async def test_no_child_inherits_what_we_inherited() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    ours = Family()
    assert not os.get_inheritable(write)
    os.close(read)
    os.close(write)
    ours.close()


async def test_who_is_just_becoming_a_program_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of execve(2) /proc/PID/environ is empty: seen on a busy machine, with a server that died right after it had started something."""
    made = Family()
    mark = made.mark()
    pid, out, guard = start(made, "sh", "-c", "setsid sh -c 'echo $$; exec sleep 600 >/dev/null' & wait", mark=mark)
    os.write(guard, b"\n")
    stray = int(os.read(out, 20))
    os.kill(pid, signal.SIGKILL)
    await exited(pid)
    made.bury(pid)
    read, looks = family._read, 0

    def empty_at_first(each: str, what: str) -> bytes:
        nonlocal looks
        looks += each == str(stray) and what == "environ"
        return b"" if each == str(stray) and what == "environ" and looks < 3 else read(each, what)

    monkeypatch.setattr(family, "_read", empty_at_first)
    assert await made.sweep(mark) >= 1
    async with asyncio.timeout(10):
        while str(stray) in os.listdir("/proc"):
            made.reap()
            await asyncio.sleep(0.005)
    os.close(out)
    os.close(guard)
    made.close()
