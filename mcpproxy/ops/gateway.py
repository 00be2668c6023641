"""The gateway process: servers that are started, joined and bridged, behind all workers (docs/decisions/0022).

    BECOME  be what this configuration (a file in memory) says: only members and hubs that differ are made anew
    DRAIN   streams that belong to no call end politely, so that clients come again elsewhere; calls go on. The workers still need us
    END     everything ends, children first of all; so does the end of the connection to the supervisor, however it came

It says every BEAT_S that it lives, and is replaced when it does not. The calls of workers wait meanwhile, in the backlog of a socket that the supervisor
keeps. It is who the workers are: with `user` it is that user, and so are its children; only where the daemon stays root can one have a user of its own.

When the last upstream that needs it is gone, it ends by itself once what was open is over, at the latest after `drain`.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import socket
import traceback
from contextlib import suppress
from typing import Any

import msgspec

from mcpproxy.assemble import Shared
from mcpproxy.clock import clock, monotonic
from mcpproxy.config.kinds import Auto  # noqa: F401  - a configuration may hold one
from mcpproxy.config.model import Config
from mcpproxy.control.switchboard import GATEWAY, LONGEST
from mcpproxy.errors import StartError
from mcpproxy.gateway.parts import Unavailable
from mcpproxy.net.door import Door
from mcpproxy.net.loop import EdgeLoop, new_loop, settle_memory
from mcpproxy.observe.messages import LEVELS, Messages
from mcpproxy.ops.household import Household, wanted
from mcpproxy.ops.line import Line
from mcpproxy.ops.worker import ALIVE, BEAT_S, DRAIN, END, HEARD, REOPEN, SERVING

__all__ = ["BECOME", "serve", "wanted"]

BECOME = b"g"
STOP_S = 10.0  # for children to end: their own patience is shorter
CATALOGUE_S = 50.0  # for a server to start, and to say all that it has
EMPTY_S = 0.2  # between two looks whether all is over


def serve(config: Config, shared: Shared, post: socket.socket, supervisor: int, door: Door | None) -> int:
    """The process's whole life, in the forked child: its exit status."""
    loop = new_loop()
    process = Process(config, shared, post, supervisor, loop)
    loop.call_soon(process.begin, door)
    settle_memory()
    try:
        loop.run_forever()
    finally:
        loop.close()
    return 0


class Process:
    """Made once."""

    def __init__(self, config: Config, shared: Shared, post: socket.socket, supervisor: int, loop: EdgeLoop) -> None:
        self._config, self._shared, self._post, self._supervisor, self._loop = config, shared, post, supervisor, loop
        self._messages = Messages(config.log.level)
        self._house = Household(loop, self._messages, shared.gateway)
        self._line: Line | None = None
        self._turns: asyncio.Queue[Config | None] = asyncio.Queue()
        self._life: asyncio.Task[None] | None = None

    def begin(self, door: Door | None) -> None:
        """From within the loop."""
        self._post.setblocking(False)
        self._loop.add_reader(self._post.fileno(), self._heard)
        for number in HEARD:
            signal.signal(number, signal.SIG_IGN)  # they reach the whole group, and are the supervisor's
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if door is not None:
            self._line = line = Line(self._loop, door, GATEWAY)
            line.answers["overview"] = lambda _: self._house.state()
            line.answers["level"] = self._level
            line.answers["catalogue"] = self._catalogue
            line.hears["health"] = self._house.checked
            line.connect()
        self._turns.put_nowait(self._config)
        self._life = asyncio.ensure_future(self._live())

    async def _live(self) -> None:
        """One configuration after the other; None: the end."""
        try:
            first = True
            while (config := await self._turns.get()) is not None:
                await self._become(config)
                if first:
                    first = False
                    await self._house.open()
                    self._beat(SERVING)
        except Exception:
            traceback.print_exc()
        finally:
            with suppress(TimeoutError, Exception):
                await asyncio.wait_for(self._house.stop(), STOP_S)
            if self._line is not None:
                self._line.close()
            self._loop.stop()

    async def _become(self, config: Config) -> None:
        self._config = config
        self._messages.least(config.log.level)
        try:
            await self._house.become(config)
        except StartError as error:  # files that were there a moment ago
            self._messages.say("error", " ".join((f"gateway: {error.message}", *error.hint.splitlines())))
        if not wanted(config):
            self._house.drain()
            self._leave_when_empty(monotonic() + config.drain)

    def _leave_when_empty(self, deadline: float) -> None:
        if wanted(self._config):
            return
        if self._house.calls == 0 or monotonic() >= deadline:
            self._turns.put_nowait(None)
        else:
            self._loop.call_later(EMPTY_S, self._leave_when_empty, deadline)

    def _heard(self) -> None:
        try:
            word, files, _, _ = socket.recv_fds(self._post, 16, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            word, files = b"", []
        for file in files:
            # A pickle may be read because our own supervisor wrote it, over a socket that nobody else has.
            self._turns.put_nowait(pickle.loads(os.pread(file, os.fstat(file).st_size, 0)))
            os.close(file)
        if word == DRAIN:
            self._house.drain()
        elif word == END or not word:
            self._loop.remove_reader(self._post.fileno())
            self._turns.put_nowait(None)
            if not word:
                self._messages.say("warning", "the gateway process has no supervisor any more: it ends")
        elif word not in (REOPEN, BECOME):
            self._messages.say("error", f"the gateway process does not know what {word!r} means")

    def _beat(self, word: bytes = ALIVE) -> None:
        clock.tick()
        with suppress(OSError):  # the supervisor is gone, which `_heard` hears of, or is slow
            self._post.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self._loop.call_later(BEAT_S, self._beat)

    async def _catalogue(self, said: dict[str, Any]) -> dict[str, Any]:
        """What a server has, as it says it (`mcpproxy lock`)."""
        name = said["upstream"]
        try:
            found = await asyncio.wait_for(self._house.catalogue(name), CATALOGUE_S)
        except KeyError:
            raise LookupError(f"{name} is not behind a route, so nobody asks it anything") from None
        except Unavailable as why:
            raise ValueError(f"{name}: {why.text}") from None
        except TimeoutError:
            raise ValueError(f"{name} did not answer within {CATALOGUE_S:g} s") from None
        if len(msgspec.json.encode(found)) > LONGEST // 2:
            raise ValueError(f"{name} says more about itself than can be locked: over {LONGEST >> 21} MiB")
        return found

    def _level(self, said: dict[str, Any]) -> bool:
        if said["level"] not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}")
        self._messages.least(said["level"])
        return True
