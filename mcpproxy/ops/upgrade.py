"""Another program in the place of this one, while it serves (SIGUSR2): new code, or what a reload cannot change.

    old supervisor ── forks a minder, which executes the same command; the listening sockets stay open ──▶ new supervisor ── its own workers, same sockets
                  ◀── one byte, once all of them serve (or, from the minder, how it ended: then the old one goes on) ──
    old supervisor ── ends the minder, then drains: what is open ends in its own time, at most `drain`; then it is gone

When the minder ends, the new one becomes the child of who takes orphans: systemd. That is what it is for. Of a main process that is another's child systemd
does not hear how it ends, so it would not start it anew, and `systemctl stop` would kill it without waiting for a drain.

The sockets are never closed in between: who connects is accepted by the old or by the new one, and paths of unix sockets stay where they are. The new one is
told by an environment variable which descriptor listens where, by the names of listeners (assemble.listen_names), and which one holds the estate: a file
without a name, as there are secrets in it. What is counted of limits is a copy: what the old one's last calls use up, and have going on, is its own.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress

import msgspec

from mcpproxy.clock import monotonic
from mcpproxy.ops.systemd import NOT_YET, successor_environment

VARIABLE = "MCPPROXY_INHERITED"
READY_S = 120.0  # for the new one to serve
GONE = 127  # exit status of a program that could not be executed
WORD = 32  # bytes; longer than any number that a minder says


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
        self._minder = 0
        self._told = self._heir = -1  # a pipe; a pidfd
        self._line: socket.socket | None = None  # to the minder, which lives while this is open, and says how the new one ended

    def descriptors(self) -> tuple[int, ...]:
        """To be polled; then `look`."""
        return (self._told, self._line.fileno()) if self._line is not None else ()

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
        wanted = {tells, left, *(each for several in listen.values() for each in several)}
        pid = 0
        try:
            with open(left, "wb", closefd=False) as file:
                file.write(msgspec.msgpack.encode(estate or Estate()))
            self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._minder = os.fork()
                if self._minder == 0:
                    _mind(theirs.fileno(), command, successor_environment(os.environ), said, wanted)
            pid = int(self._line.recv(WORD) or 0)  # at once: it only forks
            if not pid:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._heir = os.pidfd_open(pid)  # living or dead: the minder does not take it away before we are done
        except OSError as error:
            os.close(told)
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._forget()
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
        assert self._line is not None
        try:
            found = self._line.recv(WORD, socket.MSG_DONTWAIT)
        except BlockingIOError:
            found = None
        if found is not None:
            code = int(found or -signal.SIGKILL)  # nothing: the minder was killed, and what it minds will be
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self._say("error", f"the new program (process {pid}) {how}; this one goes on")
            self.stop()
        elif now >= self.deadline:
            self._say("error", f"the new program (process {pid}) does not serve after {READY_S:.0f} s: killed; this one goes on")
            self.stop()
        return 0

    def stop(self) -> None:
        """It is not wanted any more."""
        if self.pid:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._heir, signal.SIGKILL)
            self._forget()

    def _forget(self) -> None:
        """The minder ends; what it minds goes to who takes orphans."""
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)  # a worker that was forked meanwhile may have it, too
            self._line.close()
        if self._minder:
            os.waitpid(self._minder, 0)
        for each in (self._told, self._heir):
            if each >= 0:
                os.close(each)
        self.pid, self.deadline, self._minder, self._line = 0, float("inf"), 0, None
        self._told = self._heir = -1


def _mind(line: int, command: list[str], environment: dict[str, str], said: Inherited, descriptors: set[int]) -> None:
    """In the minder: the new one's parent until the old one lets go, or is gone. Signals stay blocked. Never returns."""
    try:
        environment[NOT_YET] = str(os.getpid())
        pid = os.fork()
        if pid == 0:
            _execute(command, environment, said, descriptors)
        os.write(line, b"%d" % pid)
        for each in map(
            int, os.listdir("/proc/self/fd")
        ):  # workers must hear the end of the old one, and addresses that are closed be free
            if each > 2 and each != line:
                with suppress(OSError):
                    os.close(each)
        ended = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(line, select.POLLIN)
        poll.register(ended, select.POLLIN)
        if [each for each, _ in poll.poll()] == [ended]:
            how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert how is not None
            os.write(line, b"%d" % (how.si_status if how.si_code == os.CLD_EXITED else -how.si_status))
            os.read(line, 1)  # the end of it
        os.waitpid(pid, os.WNOHANG)
    finally:
        os._exit(GONE)


def _execute(command: list[str], environment: dict[str, str], said: Inherited, descriptors: set[int]) -> None:
    """In its child. Signals stay blocked until the new one hears them. Never returns."""
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
