"""Start, serve, drain, stop: the life of one edge process, as its supervisor (`supervise`) orders it.

    PREPARE  make everything of another configuration that can fail (refit); then COMMIT: it counts from now on, or ABORT: it does not
    DRAIN    accept no more, close idle connections, let exchanges and streams run to their end, at most `drain` seconds
    END      end now
    REOPEN   reopen the log files (log rotation), say what was counted so far

It says every BEAT_S that it lives. Signals reach the whole group and are the supervisor's to hear; without a supervisor a worker drains, and a signal ends
it. Exit status: 0 after a clean stop (drained, or told to end), 1 when the start failed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from itertools import chain

from mcpproxy.assemble import Runtime, Shared, assemble
from mcpproxy.config.model import Config
from mcpproxy.config.serving import OFF
from mcpproxy.edge.downstream import DRAIN_GRACE_S
from mcpproxy.errors import StartError
from mcpproxy.net.door import Door
from mcpproxy.net.loop import EdgeLoop, new_loop, settle_memory
from mcpproxy.observe.messages import priority
from mcpproxy.ops import reload
from mcpproxy.ops.answers import Answers
from mcpproxy.ops.counts import counts
from mcpproxy.ops.health import Health
from mcpproxy.ops.line import Line
from mcpproxy.ops.report import Report
from mcpproxy.ops.sharing import Sharing
from mcpproxy.refit import Change, prepare
from mcpproxy.units import show_duration

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)  # by the supervisor
LOG_PATIENCE = 5.0  # seconds for the last log lines to reach a slow disk or pipe
BEAT_S = 1.0  # between two signs of life

# What supervisor and worker say to each other: one letter, for MISSING and BACK with the number of a worker.
SERVING, ALIVE = b"s", b"a"
MISSING, BACK, REOPEN, DRAIN, END = b"m", b"b", b"r", b"d", b"e"


def serve(
    config: Config, shared: Shared, post: socket.socket, supervisor: int, drain: float | None, door: Door | None, *, say_counts: bool
) -> int:
    """The worker's life, with HEARD blocked until its loop runs. `post` is its end of the pair, `door` leads to the control process."""
    shared.gateway.sock.close()  # calls wait in its backlog only as long as there is somebody to make another gateway process
    loop = new_loop()
    try:
        runtime = assemble(config, loop, shared)
    except StartError as error:
        explain(error)
        loop.close()
        return error.code
    for (upstream, endpoint), state in shared.states.items():
        if upstream in runtime.pools:
            with suppress(ValueError):  # another configuration has other endpoints
                runtime.pools[upstream].group.set_state(endpoint, state)
    life = Life(runtime, drain, say_counts=say_counts)
    line = None if door is None else Line(loop, door, shared.worker)
    report = None if line is None else join(line, runtime)
    if line is not None:
        loop.call_soon(line.connect)
    loop.call_soon(obey, post, supervisor, life, loop)  # from within the loop: a signal that came before it runs would be lost
    runtime.ticker.start()
    for listener in runtime.listeners:
        listener.start()
    settle_memory()
    loop.call_soon(_beat, loop, post, SERVING)
    try:
        loop.run_forever()
    finally:
        life.say_counts()
        life.stop()
        if report is not None:
            report.last_words()
        if line is not None:
            line.close()
        loop.close()
    return 0


def join(line: Line, runtime: Runtime) -> Report | None:
    """What is said, heard and answered over the line. Nothing is counted where nobody could ask for it."""
    Health(runtime, line)
    Sharing(line, runtime)
    if runtime.config.admin.address == OFF and runtime.config.otel is None:
        return None
    report = Report(runtime, line.say)
    runtime.ticker.add(report.tick)
    line.hears["tallied"] = report.tallied
    line.answers["flush"] = report.flush
    line.joined.append(report.joined)
    Answers(runtime).attach(line)
    return report


def _beat(loop: EdgeLoop, post: socket.socket, word: bytes = ALIVE) -> None:
    with suppress(OSError):  # the supervisor is gone, which `obey` hears of, or is slow
        post.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    loop.call_later(BEAT_S, _beat, loop, post)


def obey(post: socket.socket, supervisor: int, life: Life, loop: EdgeLoop) -> None:
    """From within the loop: the supervisor's words become calls of `life`."""

    def heard() -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(post, 16, reload.DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            word, descriptors = b"", []
        letter = word[:1]
        if letter in (MISSING, BACK) and letter:
            life.stand_in(word[1], letter == MISSING)
        elif letter == reload.PREPARE:
            refused = life.prepare(descriptors)
            with suppress(OSError):  # the supervisor is gone, or gave it up long ago
                post.send((reload.REFUSED if refused else reload.PREPARED) + word[1:2] + refused.encode()[: reload.LONGEST])
        elif letter in (reload.COMMIT, reload.ABORT):
            life.decided(counts=letter == reload.COMMIT)
            if letter == reload.COMMIT:
                with suppress(OSError):
                    post.send(reload.COMMITTED + word[1:2])
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


def explain(error: StartError) -> None:
    """Why it does not start."""
    before = priority("error")
    print(f"{before}mcpproxy: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"{before}  {error.hint}", file=sys.stderr)


class Life:
    """From the first signal to the last line."""

    def __init__(self, runtime: Runtime, drain: float | None, *, say_counts: bool) -> None:
        """`drain` overrides the configured drain time, in seconds."""
        self._runtime = runtime
        self._loop = runtime.loop
        self._drain_s, self._drain_follows = runtime.config.drain if drain is None else drain, drain is None
        self._counts = say_counts
        self._change: Change | None = None
        self._missing: set[int] = set()
        self._watch: asyncio.TimerHandle | None = None

    def reopen(self) -> None:
        """Log rotation: what happened until now goes to the old file. A good moment for the counts, too."""
        self._runtime.log.tick()
        if self._runtime.sink is not None:
            self._runtime.sink.reopen()
        if self._runtime.offices.audit is not None:
            self._runtime.offices.audit.reopen()
        self.say_counts()

    @property
    def draining(self) -> bool:
        """Was it told to stop?"""
        return self._runtime.draining.is_set

    def told_to_stop(self) -> None:
        """First: drain. Second: end."""
        if self._runtime.draining.is_set:
            self._loop.stop()
            return
        runtime = self._runtime
        runtime.draining.is_set = True
        for listener in chain(runtime.listeners, *runtime.spares.values()):
            listener.last_call()
        self._stop_listening()
        for front in runtime.fronts:
            front.leave()
        self._loop.call_later(DRAIN_GRACE_S, self._close_idle)
        self._loop.call_later(self._drain_s, self._loop.stop)

    def _stop_listening(self) -> None:
        for listener in chain(self._runtime.listeners, *self._runtime.spares.values()):
            listener.stop()

    def stand_in(self, worker: int, missing: bool) -> None:
        """Another worker is missing, or there again: accept what the kernel gives it, or leave that."""
        if self.draining:
            return
        (self._missing.add if missing else self._missing.discard)(worker)
        for listener in self._runtime.spares.get(worker, ()):
            if missing:
                listener.start()
            else:
                listener.pause()

    def prepare(self, descriptors: list[int]) -> str:
        """Another configuration is offered: why it cannot be had, or nothing."""
        self.decided(counts=False)
        sockets: dict[str, list[socket.socket]] = {}
        try:
            config, sockets = reload.receive(descriptors)
            self._change = prepare(self._runtime, config, sockets)
        except StartError as error:
            said = " ".join((error.message, *error.hint.splitlines()))
        except Exception as error:  # a bug of ours is no reason to end
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}"
        else:
            return ""
        for each in sockets.values():
            for sock in each:
                sock.close()
        return said

    def decided(self, *, counts: bool) -> None:
        """What was prepared counts from now on, or is not wanted."""
        change, self._change = self._change, None
        if change is None:
            return
        if not counts or self.draining:
            change.abort()
            return
        change.commit()
        if self._drain_follows:
            self._drain_s = change.config.drain
        for worker in self._missing:
            self.stand_in(worker, missing=True)

    def _close_idle(self) -> None:
        for link in tuple(self._runtime.links):
            link.drain()
        if number := len(self._runtime.links):
            self._say(
                f"draining: {number} connection{'s' * (number != 1)} still busy, ended in {show_duration(self._drain_s)} at the latest; "
                "a second signal ends them now"
            )
        self._see_whether_empty()

    def _see_whether_empty(self) -> None:
        if not self._runtime.links:
            self._loop.stop()
        else:
            self._watch = self._loop.call_later(DRAIN_GRACE_S, self._see_whether_empty)

    def stop(self) -> None:
        """End everything that is still there, each with its log line, and write the log to its end."""
        runtime = self._runtime
        self._stop_listening()
        for link in tuple(runtime.links):
            link.end_now()
        for pool in runtime.pools.values():
            pool.close_idle()
        runtime.ticker.stop()
        runtime.log.tick()
        if runtime.sink is not None and not runtime.sink.close(LOG_PATIENCE):
            print("mcpproxy: the last log lines could not be written in time", file=sys.stderr)
        audit = runtime.offices.audit
        if audit is not None and not audit.close(LOG_PATIENCE):
            print("mcpproxy: the last audit lines could not be written in time", file=sys.stderr)

    def say_counts(self) -> None:
        """What was counted so far."""
        if not self._counts:
            return
        shared = self._runtime.shared
        said = counts(self._runtime) if shared is None or shared.workers == 1 else {"worker": shared.worker, **counts(self._runtime)}
        self._say(f"counts {json.dumps(said, separators=(',', ':'))}")

    def warn(self, line: str) -> None:
        """An operator should know."""
        self._runtime.messages.say("warning", line)

    def _say(self, line: str) -> None:
        self._runtime.messages.say("info", line)
