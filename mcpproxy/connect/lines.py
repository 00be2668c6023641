"""stdin and stdout: one message a line, both ways bounded.

Two threads with blocking reads and writes, because these descriptors are not ours alone: setting them non-blocking would do so for whoever shares
them (a terminal, the parent), and epoll takes no files. A reader that hands over one line at a time, and a writer whose queue has a bound in bytes,
are the back-pressure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError
from contextlib import suppress

READ = 64 * 1024
QUEUE = 4 << 20  # bytes that wait for stdout before we stop reading from the server


class TooLong:
    """A line beyond the bound. It was skipped."""


Take = Callable[[bytes | TooLong], Awaitable[None]]


class Splitter:
    """Bytes to lines of at most `most` bytes; empty ones are none. A CR before the end is the terminal's, not the message's."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """The next bytes. What lines end in them?"""
        found: list[bytes | TooLong] = []
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._keep(part)
            line = bytes(self._held).strip()
            if self._skipping:
                found.append(TooLong())
            elif line:
                found.append(line)
            self._held.clear()
            self._skipping = False
        self._keep(rest)
        return found

    def last(self) -> list[bytes | TooLong]:
        """The end: what stands after the last line end is a line, too."""
        return self.feed(b"\n")

    def _keep(self, part: bytes) -> None:
        if not self._skipping:
            self._held += part
            if len(self._held) > self._most:
                self._skipping = True
                self._held.clear()


async def read_lines(descriptor: int, most: int, take: Take) -> None:
    """Hand each line to `take`, the next one when it is done with that. Returns when the input ends."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    stop = threading.Event()
    broke: list[Exception] = []

    def work() -> None:
        splitter = Splitter(most)
        try:
            while not stop.is_set():
                try:
                    data = os.read(descriptor, READ)
                except OSError:  # the terminal is gone
                    data = b""
                for line in splitter.feed(data) if data else splitter.last():
                    if stop.is_set():
                        return
                    asyncio.run_coroutine_threadsafe(_taken(take, line), loop).result()
                if not data:
                    break
        except (CancelledError, RuntimeError):  # the loop is closing
            stop.set()
        except Exception as error:
            broke.append(error)
        finally:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_done, over)

    threading.Thread(target=work, name="stdin", daemon=True).start()
    try:
        await over
    finally:
        stop.set()
    if broke:
        raise broke[0]


async def _taken(take: Take, line: bytes | TooLong) -> None:
    await take(line)


def _done(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


class Out:
    """Where messages go. `put` waits while the other side does not read."""

    def __init__(self, descriptor: int) -> None:
        self.gone = asyncio.Event()  # nobody reads any more
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._some = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._work, name="stdout", daemon=True)
        self._thread.start()

    async def put(self, line: bytes) -> None:
        """One message, which has no line end in it."""
        await self._room.wait()
        if self.gone.is_set():
            return
        self._size += len(line)
        self._empty.clear()
        if self._size > QUEUE:
            self._room.clear()
        self._lines.append(line)
        self._some.release()

    async def flush(self, seconds: float) -> None:
        """Until all of it is written, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._empty.wait()

    def _work(self) -> None:
        while True:
            self._some.acquire()
            line = self._lines.popleft()
            view = memoryview(line + b"\n")
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # somebody who shares it set it non-blocking
                if not self._slowly(view):
                    return
            except OSError:
                self._call(self._lost)
                return
            if not self._call(self._written, len(line)):
                return

    def _slowly(self, view: memoryview) -> bool:
        import select

        while view:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll(1000)
            with suppress(BlockingIOError):
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BrokenPipeError:
                    self._call(self._lost)
                    return False
        return True

    def _lost(self) -> None:
        for event in (self.gone, self._room, self._empty):
            event.set()

    def _written(self, size: int) -> None:
        self._size -= size
        if self._size <= QUEUE:
            self._room.set()
        if self._size == 0:
            self._empty.set()

    def _call(self, what: Callable[..., object], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed
            return False
        return True
