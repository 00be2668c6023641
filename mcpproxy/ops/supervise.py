"""Several workers and the process that makes, watches and replaces them.

    supervisor ── listening sockets, TLS contexts, memory of the limits; signals; no loop, no thread, no connection
      ├─ worker 0 ── one edge process as `ops/run` knows it: its own loop, pools, plans, log sink, counts
      └─ worker 1 …

Supervisor and worker talk over a pair of sockets; nobody else has either end, so each hears of the other's death at once, however it came.

 1. A worker obeys its supervisor only. Signals to the whole group (Ctrl-C, systemd) reach workers, too, and would count twice; they are let pass. Without
    a supervisor they drain, and a signal ends them.
 2. Worker 0 is made first, the others once it serves: what is wrong with a configuration is said once. `ready` is said once, when all serve.
 3. A worker that died is replaced at once; one that did not last STEADY_S, later each time. Until its successor serves, the others accept what the kernel
    gives to its sockets, which nobody closes: no connection waits for nobody.
 4. What it held of the limits is forgotten before another one takes its number. There are never two with one number.

Exit status as `ops/run`: 0 after a clean stop; 1 when the start failed, or when a worker did not end cleanly.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mcpproxy.assemble import Shared, share
from mcpproxy.clock import monotonic
from mcpproxy.config.model import Config
from mcpproxy.errors import StartError
from mcpproxy.net.loop import EdgeLoop, settle_memory
from mcpproxy.observe.messages import Messages
from mcpproxy.ops import run as alone
from mcpproxy.ops.run import HEARD, Life

STEADY_S = 1.0  # who served for this long did not die of its start
FIRST_S, LONGEST_S = 0.1, 5.0  # until one that did is replaced: twice as long each time
LOOK_S = 3600.0  # the kernel waits for 24 days at most
PATIENCE_S = 15.0  # for a worker to end that must have ended by itself: its last log lines have `alone.LOG_PATIENCE`

# What they say to each other: one letter, for MISSING and BACK with the number of a worker.
SERVING = b"s"
MISSING, BACK, REOPEN, DRAIN, END = b"m", b"b", b"r", b"d", b"e"

Ready = Callable[[list[str]], None]


def run(config: Config, *, drain: float | None = None, ready: Ready | None = None) -> int:
    """Serve `config` until told to stop, with as many processes as it asks for."""
    if config.workers == 1:
        return alone.run(config, drain=drain, ready=ready)
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        shared = share(config)
    except StartError as error:
        alone.explain(error)
        return error.code
    return Supervisor(config, shared, config.drain if drain is None else drain, ready).run()


class Worker:
    """What the supervisor knows of one."""

    __slots__ = ("number", "pid", "post", "since")

    def __init__(self, number: int, pid: int, post: socket.socket) -> None:
        self.number, self.pid, self.post = number, pid, post
        self.since = 0.0  # when it began to serve; 0: not yet

    def tell(self, *words: bytes) -> None:
        """Send each; one that is dead or stands still does not hear it."""
        for word in words:
            with suppress(OSError):
                self.post.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Supervisor:
    """From the first fork to the last exit status."""

    def __init__(self, config: Config, shared: Shared, drain_s: float, ready: Ready | None) -> None:
        self._config, self._shared, self._drain_s, self._ready = config, shared, drain_s, ready
        self._messages = Messages(config.log.level)
        self._workers: dict[int, Worker] = {}  # by number
        self._due: dict[int, float] = {0: 0.0}  # numbers without a worker, and when they get one
        self._quick = [0] * shared.workers  # of each number: deaths in a row that came too soon
        self._ready_said = False
        self._stopping = False
        self._deadline = float("inf")  # when who is left is killed
        self._code = 0
        self._pid = os.getpid()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> int:
        """Until the last worker ended."""
        settle_memory()  # what is here now is never touched again, and stays one copy for all
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        for number in HEARD:
            signal.signal(number, _woken)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        try:
            while self._workers or not self._stopping:
                self._start_due()
                self._wait()
        finally:
            self._shared.close()
        return self._code

    # -- workers come ------------------------------------------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        now = monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            try:
                self._start(number)
            except OSError as error:
                self._messages.say("error", f"worker {number} cannot be made: {error.strerror}; trying again")
                self._due[number] = now + LONGEST_S

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._work(number, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
        self._workers[number] = Worker(number, pid, ours)

    def _work(self, number: int, post: socket.socket) -> None:
        """The worker's whole life. Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            os.close(self._wake)
            os.close(self._woken)
            for worker in self._workers.values():
                worker.post.close()
            self._shared.worker = number
            code = alone.serve(
                self._config,
                drain=self._drain_s,
                ready=lambda _: _say_serving(post),
                shared=self._shared,
                obey=partial(obey, post, self._pid),
            )
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _serves(self, worker: Worker) -> None:
        worker.since = monotonic()
        if self._stopping:
            return
        for other in self._workers.values():
            other.tell(BACK + bytes([worker.number]))
        missing = [number for number in range(self._shared.workers) if number not in self._workers or not self._workers[number].since]
        worker.tell(*(MISSING + bytes([number]) for number in missing))
        if not self._ready_said:
            for number in missing:
                if number not in self._workers:
                    self._due.setdefault(number, 0.0)
            if not missing:
                self._ready_said = True
                if self._ready is not None:
                    self._ready(self._shared.urls)

    # -- what happens ------------------------------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        posts = {worker.post.fileno(): worker for worker in self._workers.values()}
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for descriptor in posts:
            poll.register(descriptor, select.POLLIN)
        wait = min([self._deadline, *self._due.values()]) - monotonic()
        for descriptor, _ in poll.poll(min(max(0.0, wait), LOOK_S) * 1000 + 1):
            if descriptor == self._wake:
                for number in os.read(self._wake, 64):
                    self._told(number)
            else:
                self._heard(posts[descriptor])
        if monotonic() >= self._deadline:
            self._deadline = float("inf")
            for worker in self._workers.values():
                self._messages.say("error", f"worker {worker.number} (process {worker.pid}) does not end: killed")
                os.kill(worker.pid, signal.SIGKILL)

    def _heard(self, worker: Worker) -> None:
        try:
            word = worker.post.recv(16)
        except OSError:
            word = b""
        if word == SERVING:
            self._serves(worker)
        elif not word:
            self._ended(worker)

    def _told(self, number: int) -> None:
        if number == signal.SIGUSR1:
            self._tell_all(REOPEN)
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._stop(END if self._stopping else DRAIN)

    def _tell_all(self, word: bytes) -> None:
        for worker in self._workers.values():
            worker.tell(word)

    def _stop(self, word: bytes) -> None:
        self._stopping = True
        self._due.clear()
        self._shared.close()
        self._tell_all(word)
        self._deadline = monotonic() + PATIENCE_S + (self._drain_s if word == DRAIN else 0.0)

    # -- workers go --------------------------------------------------------------------------------------------------------------------------

    def _ended(self, worker: Worker) -> None:
        worker.post.close()
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        number = worker.number
        del self._workers[number]
        self._shared.buckets.forget_worker(number)
        how = f"worker {number} (process {worker.pid}) " + (
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        )
        if self._stopping:
            if code:
                self._messages.say("error", how)
                self._code = self._code or 1
            return
        if code > 0 and not worker.since and not self._ready_said:  # the start fails, and it said why
            self._code = code
            self._stop(END)
            return
        now = monotonic()
        if worker.since and now - worker.since >= STEADY_S:
            self._quick[number] = 0
        wait = min(LONGEST_S, FIRST_S * 2.0 ** (self._quick[number] - 1)) if self._quick[number] else 0.0
        self._quick[number] = min(self._quick[number] + 1, 10)
        self._messages.say("error", f"{how}; another takes its place " + (f"in {wait:.1f} s" if wait else "at once"))
        for other in self._workers.values():
            if other.since:
                other.tell(MISSING + bytes([number]))
        self._due[number] = now + wait


def obey(post: socket.socket, supervisor: int, life: Life, loop: EdgeLoop) -> None:
    """In a worker, from within its loop: the supervisor's words become calls of `life`."""

    def heard() -> None:
        try:
            word = post.recv(16)
        except OSError:
            word = b""
        letter = word[:1]
        if letter in (MISSING, BACK) and letter:
            life.stand_in(word[1], letter == MISSING)
        elif letter == REOPEN:
            life.reopen()
        elif letter:
            stop(now=letter == END)
        else:
            loop.remove_reader(post.fileno())
            life.warn("the supervisor is gone: draining")
            stop(now=False)

    def stop(*, now: bool) -> None:
        if not life.draining:
            life.told_to_stop()
        if now:
            life.told_to_stop()

    def signalled() -> None:
        if os.getppid() != supervisor:  # nobody else will tell us
            stop(now=True)

    post.setblocking(False)
    loop.add_reader(post.fileno(), heard)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def _say_serving(post: socket.socket) -> None:
    with suppress(OSError):  # the supervisor is gone: `obey` hears of it
        post.send(SERVING)


def _woken(*_: object) -> None:
    """The number of the signal is in the pipe."""
