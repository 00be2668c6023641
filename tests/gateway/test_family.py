"""Nobody is left behind. Dying of ours is in test_member_stdio."""

from __future__ import annotations

import asyncio
import os
import signal

from mcpproxy.gateway.family import MARK, Family


def start(family: Family, *words: str, mark: str = "") -> tuple[int, int, int]:
    """The child, the pipe it writes to, and the end of ours of its guard."""
    theirs, ours = os.pipe()
    out, its = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    try:
        pid = family.spawn(words, {"PATH": "/usr/bin:/bin", MARK: mark}, "/", stdin=null, stdout=its, stderr=null, guard=theirs)
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
    family = Family()
    pid, out, guard = start(family, "sh", "-c", "echo $$")
    assert (os.getpgid(pid), os.getsid(pid)) == (pid, pid)
    os.write(guard, b"\n")
    await exited(pid)
    assert os.read(out, 100).split()[0] == str(pid).encode()  # it is the program, not a shell around it
    assert family.bury(pid) == 0
    os.close(out)
    os.close(guard)
    family.close()


async def test_the_end_of_the_pipe_is_the_end_of_the_group() -> None:
    family = Family()
    pid, out, guard = start(family, "sh", "-c", "trap '' HUP INT TERM; sleep 600 & echo; wait")
    os.write(guard, b"\n")
    assert os.read(out, 1) == b"\n"
    os.close(guard)
    await exited(pid)
    assert family.bury(pid) == -signal.SIGKILL
    assert os.read(out, 1) == b""  # nobody holds it
    os.close(out)
    family.close()


async def test_one_that_was_never_told_to_begin_ends_too() -> None:
    family = Family()
    pid, out, guard = start(family, "sleep", "600")
    os.close(guard)
    await exited(pid)
    assert family.bury(pid) == 1
    os.close(out)
    family.close()


async def test_who_left_the_group_is_found_by_the_mark() -> None:
    family = Family()
    mark = family.mark()
    assert mark != family.mark()
    pid, out, guard = start(family, "sh", "-c", "setsid sh -c 'echo $$; exec sleep 600 >/dev/null' & wait", mark=mark)
    os.write(guard, b"\n")
    stray = int(os.read(out, 20))
    os.kill(pid, signal.SIGKILL)
    await exited(pid)
    family.bury(pid)
    assert await family.sweep("somebody else") == 0
    os.kill(stray, 0)
    assert await family.sweep(mark) >= 1
    async with asyncio.timeout(10):
        while str(stray) in os.listdir("/proc"):  # adopted and reaped
            family.reap()
            await asyncio.sleep(0.005)
    os.close(out)
    os.close(guard)
    family.close()


async def test_no_child_inherits_what_we_inherited() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    family = Family()
    assert not os.get_inheritable(write)
    os.close(read)
    os.close(write)
    family.close()
