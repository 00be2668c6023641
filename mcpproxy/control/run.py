"""The control process: ordinary asyncio, beside the workers, never in a client's way.

It is forked by the supervisor and made again when it dies; workers serve on meanwhile. Its parts (one file each) are listed in `parts`; each is an object with

    async start()   what can fail says so in a message and goes on trying: this process does not end for one of its parts
    async stop()    everything it opened is closed

With its supervisor it speaks over a pair of sockets, one JSON object each way:

    control → supervisor   {"order": "reload", "id": 3, "with": …}      alive, each second
    supervisor → control   {"id": 3, "ok": true, "text": "…"}      {"event": "born", "worker": 1, "pid": 4712}      {"event": "died", …}
                           {"event": "reloaded", "generation": 2}, with the new configuration as a file in memory where it is another one

The end of that connection is the end of the process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import uvloop

from mcpproxy.assemble import Shared
from mcpproxy.config.model import Config
from mcpproxy.control import certificates
from mcpproxy.control.checks import Checks
from mcpproxy.control.sharing import Sharing
from mcpproxy.control.switchboard import Switchboard
from mcpproxy.control.traces import Traces
from mcpproxy.net.door import Door
from mcpproxy.observe.messages import Messages

LARGEST = 64 * 1024  # bytes of a message between supervisor and control
ALIVE, BEAT_S = b"alive", 1.0  # what it says to its supervisor when there is nothing to say, and how often
STOP_S = 2.0  # for the parts to end


class Part(Protocol):
    """Something the control process does."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End."""


class Control:
    """What its parts share."""

    def __init__(self, config: Config, shared: Shared, door: Door, post: socket.socket) -> None:
        self.config, self.shared = config, shared
        self.messages = Messages(config.log.level)
        self.switchboard = Switchboard(door, self.messages)
        from mcpproxy.control.metrics import Metrics  # not before the fork: what it needs is nobody else's

        self.metrics = Metrics(self.switchboard)  # as for them, others may add theirs (`sources`)
        self.events: list[Callable[[dict[str, Any]], None]] = [self.metrics.event]  # hear what the supervisor tells
        self.workers: dict[int, int] = {}  # their process ids, as the supervisor knows them
        self.parts: list[Part] = []
        self.admin: Part | None = None
        self._marks: Marks | None = None
        self._changes: set[asyncio.Task[None]] = set()
        self._one_after_the_other = asyncio.Lock()
        self._post = post
        self._orders: dict[int, asyncio.Future[tuple[bool, str]]] = {}
        self._numbers = itertools.count()
        self._end = asyncio.Event()

    async def order(self, what: str, data: Any = None) -> tuple[bool, str]:
        """Have the supervisor do something: did it, and what it says."""
        number = next(self._numbers)
        answer: asyncio.Future[tuple[bool, str]] = asyncio.get_running_loop().create_future()
        self._orders[number] = answer
        try:
            self._post.send(msgspec.json.encode({"order": what, "id": number, "with": data}))
            return await answer
        except OSError as error:
            return False, f"the supervisor does not listen: {error.strerror}"
        finally:
            del self._orders[number]

    async def run(self) -> None:
        """Until the supervisor says so, or is gone."""
        loop = asyncio.get_running_loop()
        self._post.setblocking(False)
        loop.add_reader(self._post.fileno(), self._heard)
        from mcpproxy.control.admin import Admin  # not before the fork: what it needs is nobody else's

        self.admin = Admin(self)
        lasting: list[Part] = [Sharing(self.switchboard), self.admin]
        self._marks = Marks(self)
        self.parts = parts(self)  # before the switchboard opens: they hear of every worker that joins
        await self.switchboard.start()
        self._beat()
        for part in (*lasting, *self.parts):
            await part.start()
        await self._end.wait()
        for change in self._changes:
            change.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(part.stop() for part in (*lasting, *self.parts)), return_exceptions=True), STOP_S)
        loop.set_exception_handler(lambda *_: None)  # who still asks a worker is cut short, and that is nobody's trouble

    async def become(self, config: Config) -> None:
        """From now on do what this configuration asks for. What was counted stays, and who watches or waits for an answer is not cut off; parts that depend on
        the configuration are made anew, and every worker tells them what it knows."""
        async with self._one_after_the_other:
            assert self.admin is not None and self._marks is not None, "it runs"
            former, self.config = self.config, config
            self.messages.least(config.log.level)
            for part in self.parts:
                await part.stop()
            self._marks.go_back(self)
            self.parts = parts(self)
            if config.admin != former.admin:
                await self.admin.stop()
                await self.admin.start()
            for part in self.parts:
                await part.start()
            self.switchboard.begin_again(self.switchboard.joined[self._marks.joined :])

    def _beat(self) -> None:
        with suppress(OSError):  # the supervisor is gone, which `_heard` hears of, or stands still
            self._post.send(ALIVE)
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _heard(self) -> None:
        try:
            data, files, _, _ = socket.recv_fds(self._post, LARGEST, 1)
        except BlockingIOError:
            return
        except OSError:
            data, files = b"", []
        if not data:
            asyncio.get_running_loop().remove_reader(self._post.fileno())
            self._end.set()
            return
        message = msgspec.json.decode(data)
        if "event" not in message:
            answer = self._orders.get(message["id"])
            if answer is not None and not answer.done():
                answer.set_result((message["ok"], message["text"]))
            return
        if message["event"] == "born":
            self.workers[message["worker"]] = message["pid"]
        elif message["event"] == "died":
            self.workers.pop(message["worker"], None)
        for file in files:  # a configuration
            # A pickle may be read because our own supervisor wrote it, over a socket that nobody else has.
            change = asyncio.ensure_future(self.become(pickle.loads(os.pread(file, os.fstat(file).st_size, 0))))
            os.close(file)
            self._changes.add(change)
            change.add_done_callback(self._changed)
        for hears in self.events:
            hears(message)

    def _changed(self, change: asyncio.Task[None]) -> None:
        self._changes.discard(change)
        if (
            not change.cancelled() and (error := change.exception()) is not None
        ):  # a bug of ours: another process begins with the new configuration
            self._end.set()
            raise error


class Marks:
    """Who listens, apart from the parts that a configuration asks for."""

    def __init__(self, control: Control) -> None:
        self.joined = len(control.switchboard.joined)
        self._topics = set(control.switchboard.hears)
        self._lists = [
            (each, len(each)) for each in (control.switchboard.joined, control.switchboard.left, control.events, control.metrics.sources)
        ]

    def go_back(self, control: Control) -> None:
        """The others do not listen any more."""
        for topic in set(control.switchboard.hears) - self._topics:
            del control.switchboard.hears[topic]
        for each, length in self._lists:
            del each[length:]


def parts(control: Control) -> list[Part]:
    """What this configuration asks for."""
    found: list[Part] = [Checks(control.config, control.switchboard, control.messages)]
    if certificates.wanted(control.config):
        made = certificates.Certificates(control.config, control.messages.say)
        control.metrics.sources.append(made.samples)
        found.append(made)
    if control.config.otel is not None:
        found.append(Traces(control.config.otel, control.switchboard.hears, control.metrics.sums, control.messages.say))
    return found


def serve(config: Config, shared: Shared, door: Door, post: socket.socket) -> int:
    """The process's whole life, in the forked child: its exit status."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are the supervisor's; they reach a whole group
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with suppress(OSError):  # a system-call filter such as that of our unit does not allow it
        os.nice(1)  # whoever is served goes before
    uvloop.run(Control(config, shared, door, post).run())
    return 0
