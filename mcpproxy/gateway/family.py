"""Our children as a family: nobody is left behind, whatever they and we do.

1. A child leads a session and process group of its own. Whatever ends it, everybody in the group is ended with it.
2. We adopt what our children leave (PR_SET_CHILD_SUBREAPER, prctl(2)), so a grandchild that left the group is not lost: it bears our mark in its environment,
   is found by it in /proc and killed. Adopted processes that end are reaped.
3. If we are killed, nobody is there to do that. So each group has a guard: a shell that waits for the end of a pipe which we alone hold open, and then
   kills the group it is in. A dead man's pipe cannot be forgotten: the kernel closes it (docs/decisions/0023-children.md).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
from contextlib import suppress

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
MARK = "MCPPROXY_CHILD"
REAP = 5.0  # seconds between two looks for adopted processes that have ended
GONE = 1.0  # seconds until somebody who was killed is gone, unless the kernel holds it
ROUNDS = 5  # of killing marked ones; who forks faster than we kill is found in the next
LOOKS, LOOK = 50, 0.01  # more looks, and seconds between them, while an adopted one shows no environment

# $1: where to work; then the program and its words. It begins when we say so, when its limits are set; the guard keeps nothing open but the pipe.
SCRIPT = """\
read -r go <&3 || exit 1
( ( trap "" HUP INT TERM; read -r go <&3; kill -9 $$ -$$ ) </dev/null >/dev/null 2>&1 & )
exec 3<&-
cd -- "$1" || exit 126
shift
unset OLDPWD
exec "$@"
"""
_SIGNALS = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]


class Family:
    """Starts and ends processes; one for each process that has children."""

    def __init__(self) -> None:
        self.pids: set[int] = set()  # children that are not reaped yet
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._keep_ours()

    @staticmethod
    def _keep_ours() -> None:
        """No child inherits a descriptor that was handed to us across an exec."""
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with suppress(OSError):
                    os.set_inheritable(int(name), False)

    def mark(self) -> str:
        """What the next child bears in its environment."""
        self._count += 1
        return f"{os.getpid()}.{id(self):x}.{self._count}"

    def spawn(self, words: tuple[str, ...], env: dict[str, str], cwd: str, *, stdin: int, stdout: int, stderr: int, guard: int) -> int:
        """Start a program that waits for a line on `guard`. Raises OSError."""
        actions = [(os.POSIX_SPAWN_DUP2, each, number) for number, each in enumerate((stdin, stdout, stderr, guard))]
        pid = os.posix_spawn(
            "/bin/sh",
            ("sh", "-c", SCRIPT, words[0], cwd, *words),
            env,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=_SIGNALS,
        )
        self.pids.add(pid)
        if self._timer is None:
            self._timer = self._loop.call_later(REAP, self._look)
        return pid

    def bury(self, pid: int) -> int:
        """Its group is killed, and it is reaped. Returns its exit code (negative: a signal's number). Call it when it has ended."""
        kill_group(pid, signal.SIGKILL)  # before it is reaped: until then nobody else has its number
        self.pids.discard(pid)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except ChildProcessError:
            return 0

    async def sweep(self, mark: str) -> int:
        """Kill whoever bears this mark still, in whatever group. Returns how many there were."""
        found = await asyncio.to_thread(_sweep, mark)
        self.reap()
        return found

    def reap(self) -> None:
        """Reap the adopted that have ended."""
        with suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None and found.si_pid not in self.pids:
                os.waitpid(found.si_pid, os.WNOHANG)

    def close(self) -> None:
        """No more looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.reap()

    def _look(self) -> None:
        self.reap()
        self._timer = self._loop.call_later(REAP, self._look)


def kill_group(pid: int, number: int) -> None:
    """A signal to everybody in the group this child leads."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _sweep(mark: str) -> int:
    killed = rounds = looks = 0
    while rounds < ROUNDS and looks < LOOKS:
        found, unclear = _marked(mark)
        for pid in found:
            killed += _killed(pid, mark)
        rounds += bool(found)
        if not found:
            if not unclear:
                break
            looks += 1
            select.select([], [], [], LOOK)
    return killed


def _marked(mark: str) -> tuple[list[int], bool]:
    """Who bears the mark; and may there be more? In the midst of execve(2) a process has no environment yet, for a moment."""
    found: list[int] = []
    unclear = False
    for name in os.listdir("/proc"):
        if name.isdigit():
            environment = _read(name, "environ")
            if environment == b"":
                state, parent = _read(name, "stat").rpartition(b")")[2].split()[:2] or (b"X", b"")
                unclear = unclear or (state not in (b"Z", b"X") and int(parent) == os.getpid())
            elif f"{MARK}={mark}".encode() in environment.split(b"\0"):
                found.append(int(name))
    return found, unclear


def _killed(pid: int, mark: str) -> bool:
    with suppress(OSError):
        descriptor = os.pidfd_open(pid)
        try:
            if f"{MARK}={mark}".encode() in _read(str(pid), "environ").split(b"\0"):  # still the one that was found
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                gone = select.poll()
                gone.register(descriptor, select.POLLIN)
                gone.poll(GONE * 1000)
                return True
        finally:
            os.close(descriptor)
    return False


def _read(pid: str, what: str) -> bytes:
    """Nothing where it is gone; where it is another's, something that is no environment."""
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except PermissionError:
        return b"?"
    except OSError:
        return b""
