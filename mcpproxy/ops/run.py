"""Start, serve, drain, stop: the life of one edge process.

    SIGTERM, SIGINT   drain: accept no more, close idle connections, let exchanges and streams run to their end, at most `drain` seconds
    the second one    end now
    SIGUSR1           reopen the log files (log rotation), say what was counted so far

Exit status: 0 after a clean stop (drained, or told twice), 1 when the start failed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain

from mcpproxy.assemble import Runtime, Shared, assemble
from mcpproxy.config.model import Config
from mcpproxy.edge.downstream import DRAIN_GRACE_S
from mcpproxy.errors import StartError
from mcpproxy.net.loop import EdgeLoop, new_loop, settle_memory
from mcpproxy.observe.messages import priority
from mcpproxy.ops.counts import counts
from mcpproxy.units import show_duration

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # by Life
LOG_PATIENCE = 5.0  # seconds for the last log lines to reach a slow disk or pipe


def run(config: Config, *, drain: float | None = None, ready: Callable[[list[str]], None] | None = None, say_counts: bool = True) -> int:
    """Serve `config` until told to stop. `drain` overrides the configured drain time; `ready` hears the URLs once they accept; at the end the
    counts are said unless `say_counts` is false."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)  # who sees the addresses accept may send one before anybody hears it: it waits
    try:
        return serve(config, drain=drain, ready=ready, say_counts=say_counts)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)


def serve(
    config: Config,
    *,
    drain: float | None = None,
    ready: Callable[[list[str]], None] | None = None,
    say_counts: bool = True,
    shared: Shared | None = None,
    obey: Callable[[Life, EdgeLoop], None] | None = None,
) -> int:
    """One process that serves, with HEARD blocked until its loop runs. One of several (`supervise`) has `shared` with them, and `obey`s its
    supervisor instead of signals."""
    loop = new_loop()
    try:
        runtime = assemble(config, loop, shared)
    except StartError as error:
        explain(error)
        loop.close()
        return error.code
    life = Life(runtime, config.drain if drain is None else drain)
    loop.call_soon(
        life.watch_signals if obey is None else partial(obey, life, loop)
    )  # from within the loop: a signal that came before it runs would be lost
    runtime.ticker.start()
    for listener in runtime.listeners:
        listener.start()
    settle_memory()
    if ready is not None:
        loop.call_soon(ready, runtime.urls)
    try:
        loop.run_forever()
    finally:
        if say_counts:
            life.say_counts()
        life.stop()
        loop.close()
    return 0


def explain(error: StartError) -> None:
    """Why it does not start."""
    before = priority("error")
    print(f"{before}mcpproxy: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"{before}  {error.hint}", file=sys.stderr)


class Life:
    """From the first signal to the last line."""

    def __init__(self, runtime: Runtime, drain_s: float) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._drain_s = drain_s
        self._watch: asyncio.TimerHandle | None = None

    def watch_signals(self) -> None:
        """Signals become callbacks of the loop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.told_to_stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self.reopen)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)

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
        self._stop_listening()
        for front in runtime.fronts:
            front.judge.draining = True
            front.shelves.clear()
        self._loop.call_later(DRAIN_GRACE_S, self._close_idle)
        self._loop.call_later(self._drain_s, self._loop.stop)

    def _stop_listening(self) -> None:
        for listener in chain(self._runtime.listeners, *self._runtime.spares.values()):
            listener.stop()

    def stand_in(self, worker: int, missing: bool) -> None:
        """Another worker is missing, or there again: accept what the kernel gives it, or leave that."""
        if self.draining:
            return
        for listener in self._runtime.spares.get(worker, ()):
            if missing:
                listener.start()
            else:
                listener.pause()

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
        shared = self._runtime.shared
        said = counts(self._runtime) if shared is None else {"worker": shared.worker, **counts(self._runtime)}
        self._say(f"counts {json.dumps(said, separators=(',', ':'))}")

    def warn(self, line: str) -> None:
        """An operator should know."""
        self._runtime.messages.say("warning", line)

    def _say(self, line: str) -> None:
        self._runtime.messages.say("info", line)
