"""Another program in the place of this one, while it serves (SIGUSR2): new code, or what a reload cannot change.

    old supervisor ── forks, executes the same command; the listening sockets stay open ──▶ new supervisor ── its own workers, on the same sockets
                  ◀── one byte, once all of them serve (or the end of it: then the old one goes on) ──
    old supervisor ── drains: what is open ends in its own time, at most `drain`; then it is gone

The sockets are never closed in between: who connects is accepted by the old or by the new one, and paths of unix sockets stay where they are. The new one is
told by an environment variable which descriptor listens where, by the names of listeners (assemble.listen_names), and which one holds the estate: a file
without a name, as there are secrets in it. What is counted of limits is a copy: what the old one's last calls use up, and have going on, is its own.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress

import msgspec

from mcpproxy.clock import monotonic
from mcpproxy.ops.systemd import successor_environment

VARIABLE = "MCPPROXY_INHERITED"
READY_S = 120.0  # for the new one to serve
GONE = 127  # exit status of a program that could not be executed


class Inherited(msgspec.Struct):
    """What the variable says."""

    to: int  # the process that is meant; an exec keeps the number, so it may be known even where the old one is gone already
    ready: int  # descriptor that it hears us by
    listen: dict[str, list[int]]  # descriptors by name of the listener
    kept: list[str]  # paths of those that systemd made
    estate: int = -1  # descriptor of an Estate


class Estate(msgspec.Struct):
    """What the old one knows and the new one goes on with. Either may be the older program: members come with defaults, and none changes its meaning."""

    tickets: dict[str, tuple[bytes, bytes]] = {}  # net/tickets, by name of the listener
    states: list[tuple[str, str, str]] = []  # upstream, endpoint, what an operator made of it
    limits: bytes = b""  # policy/buckets


class Heritage:
    """What the new one has of the old one."""

    def __init__(self, said: Inherited) -> None:
        self._ready, self.kept = said.ready, said.kept
        self.estate = _estate(said.estate)
        several = {each for descriptors in said.listen.values() for each in descriptors}  # one may stand there for several workers
        made = {each: socket.socket(fileno=each) for each in several}
        for descriptor in (said.ready, *made):
            os.set_inheritable(descriptor, False)
        self.sockets = {name: [made[each] for each in descriptors] for name, descriptors in said.listen.items()}

    def serves(self) -> None:
        """Tell the old one."""
        with suppress(OSError):  # it is gone
            os.write(self._ready, b"1")
        os.close(self._ready)


def _estate(descriptor: int) -> Estate:
    """What lies there; one that cannot be read is as good as none."""
    if descriptor < 0:
        return Estate()
    try:
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            return msgspec.msgpack.decode(file.read(), type=Estate)
    except (OSError, msgspec.MsgspecError):
        return Estate()


def heritage(environment: MutableMapping[str, str]) -> Heritage | None:
    """What was left to this very process, once."""
    text = environment.pop(VARIABLE, "")
    if not text:
        return None
    said = msgspec.json.decode(text, type=Inherited)
    return Heritage(said) if said.to == os.getpid() else None


class Upgrade:
    """The old one's half; at most one at a time."""

    def __init__(self, say: Callable[[str, str], None]) -> None:
        self._say = say
        self.pid = 0  # of the new one, until it serves or is given up
        self.deadline = float("inf")
        self._told = self._ended = -1

    def descriptors(self) -> tuple[int, ...]:
        """To be polled; then `look`."""
        return (self._told, self._ended) if self.pid else ()

    def begin(self, sockets: Mapping[str, list[socket.socket]], kept: Iterable[str] = (), estate: Estate | None = None) -> None:
        """Start the new one."""
        try:
            told, tells = os.pipe2(os.O_CLOEXEC)
            try:
                left = os.memfd_create("mcpproxy-estate", os.MFD_CLOEXEC)
            except OSError:
                os.close(told)
                os.close(tells)
                raise
        except OSError as error:
            self._say("error", f"no new program: {error.strerror}; this one goes on")
            return
        listen = {name: [sock.fileno() for sock in several] for name, several in sockets.items()}
        said = Inherited(0, tells, listen, list(kept), left)
        command = [sys.executable, *sys.orig_argv[1:]]
        environment = successor_environment(os.environ)
        try:
            with open(left, "wb", closefd=False) as file:
                file.write(msgspec.msgpack.encode(estate or Estate()))
            pid = os.fork()
            if pid == 0:
                _execute(command, environment, said, {tells, left, *(each for several in listen.values() for each in several)})
            self._ended = os.pidfd_open(pid)
        except OSError as error:
            os.close(told)
            self._say("error", f"no new program: {error.strerror}; this one goes on")
            return
        finally:
            os.close(tells)
            os.close(left)
        self._told, self.pid, self.deadline = told, pid, monotonic() + READY_S
        self._say("info", f"process {pid} is to take over: {' '.join(command)}")

    def look(self, now: float) -> int:
        """The process that serves in our place from now on, or 0."""
        if not self.pid:
            return 0
        os.set_blocking(self._told, False)
        try:
            serves = os.read(self._told, 1) == b"1"
        except BlockingIOError:
            serves = False
        pid = self.pid
        if serves:
            self._forget()
            return pid
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._say("error", f"the new program (process {pid}) {how}; this one goes on")
            self._forget()
        elif now >= self.deadline:
            self._say("error", f"the new program (process {pid}) does not serve after {READY_S:.0f} s: killed; this one goes on")
            self.stop()
        return 0

    def stop(self) -> None:
        """It is not wanted any more."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._forget()

    def _forget(self) -> None:
        os.close(self._told)
        os.close(self._ended)
        self.pid, self.deadline, self._told, self._ended = 0, float("inf"), -1, -1


def _execute(command: list[str], environment: dict[str, str], said: Inherited, descriptors: set[int]) -> None:
    """In the child. Signals stay blocked until the new one hears them. Never returns."""
    try:
        for each in descriptors:
            os.set_inheritable(each, True)
        said.to = os.getpid()
        environment[VARIABLE] = msgspec.json.encode(said).decode()
        os.execve(command[0], command, environment)
    except BaseException as error:
        with suppress(OSError):
            os.write(2, f"mcpproxy: {command[0]}: {error}\n".encode())
    finally:
        os._exit(GONE)
