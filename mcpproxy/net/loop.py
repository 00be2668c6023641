"""The event loop of an edge process: uvloop for timers, signals and resolver threads, our own epoll for the sockets.

One epoll descriptor of ours is a reader of uvloop; when it is readable, `_turn` takes a batch of events and calls the callbacks by
descriptor. Nothing else of uvloop or asyncio is on the data path: no Transport, no StreamReader, no Task, no Future, no timer handle per request.

Why not uvloop's own `add_reader` for sockets (docs/decisions tell more):
 1. libuv stops watching a descriptor at its first EPOLLERR. When data and a reset arrive together, the data is read and the reset is never heard
    of: the exchange would hang until its deadline. Here ERR and HUP come again until somebody has dealt with them.
 2. Each of its callbacks touches a Handle, a Context and a libuv structure of its own; with thousands of quiet streams these are cache misses,
    about a microsecond for every event.

Two ways of being told: level-triggered (the default: bytes that were left are reported again), and `drains=True` for a reader that takes everything
with each call or asks for another by `again`. The kernel then reports each arrival once and need not look at the socket a second time; ends and errors
are repeated until the reader is gone, as before.

Rules: a paused descriptor is not in the epoll set at all (the kernel reports ERR and HUP whatever the mask says, and would spin). A descriptor that was
closed and given out again within a batch gets no event that was meant for the old one.
"""

from __future__ import annotations

import asyncio
import gc
import select
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

YOUNG_OBJECTS = (
    50_000  # allocations between two looks at the young generation: the hot path makes no cycles, so looking often finds nothing
)
BATCH = 256  # events taken at once; what is left over is reported again at the next turn
IN, OUT = select.EPOLLIN, select.EPOLLOUT
ONCE = IN | select.EPOLLRDHUP | select.EPOLLET  # RDHUP: an end that came together with data would otherwise not be told again

Callback = Callable[[], None]


class EdgeLoop:
    """HOT. Sockets by our epoll, everything else by the uvloop underneath."""

    __slots__ = (
        "_epoll",
        "_late",
        "_masks",
        "_new",
        "_readers",
        "_uv",
        "_writers",
        "call_later",
        "call_soon",
        "create_task",
        "getaddrinfo",
    )

    def __init__(self) -> None:
        self._uv = uv = uvloop.new_event_loop()
        asyncio.set_event_loop(uv)
        self._epoll = select.epoll()
        self._readers: list[Callback | None] = []  # by descriptor
        self._writers: list[Callback | None] = []
        self._masks: list[int] = []  # what each reader is told by: IN or ONCE
        self._late: list[Callback] | None = None  # while a turn runs: what is called at its end
        self._new: set[int] = set()  # descriptors registered in this turn
        self.call_soon, self.call_later, self.getaddrinfo = uv.call_soon, uv.call_later, uv.getaddrinfo
        self.create_task: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = uv.create_task
        uv.add_reader(self._epoll.fileno(), self._turn)

    # -- sockets -----------------------------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        readers, writers, new = self._readers, self._writers, self._new
        new.clear()
        late: list[Callback] = []
        self._late = late
        for fd, events in self._epoll.poll(0, BATCH):
            if new and fd in new:
                continue  # another socket by now; level-triggered events come again
            callback = None
            try:
                if events != OUT:
                    callback = readers[fd]
                    if callback is not None:
                        callback()
                        if events == IN or (new and fd in new):
                            continue
                        self.again(fd)
                if events != IN:
                    callback = writers[fd]
                    if callback is not None:
                        callback()
            except Exception as error:
                self._broken(fd, callback, error)

        for callback in late:
            try:
                callback()
            except Exception as error:
                self.broken("a callback at the end of a turn raised", callback, error)
        self._late = None

    def at_end_of_turn(self, callback: Callback) -> None:
        """Call when all events of this turn have been dealt with: many small things can leave in one write then."""
        if self._late is not None:
            self._late.append(callback)
        else:
            self._uv.call_soon(callback)

    def _broken(self, fd: int, callback: Callback | None, error: Exception) -> None:
        """A callback raised, which is a bug of ours: say so, and keep it from happening again and again."""
        self.remove_reader(fd)
        self.remove_writer(fd)
        self.broken("a socket callback raised", callback, error)

    def broken(self, message: str, callback: Callable[..., object] | None, error: Exception) -> None:
        """Say it; and nobody must wait for a callback that raised: whose it is ends, with all it holds (its `broken`)."""
        self._uv.call_exception_handler({"message": message, "exception": error})
        end = getattr(getattr(callback, "__self__", None), "broken", None)
        if end is not None:
            try:
                end()
            except Exception as another:
                self._uv.call_exception_handler({"message": "its end raised, too", "exception": another})

    def add_reader(self, fd: int, callback: Callback, *, drains: bool = False) -> None:
        """Call when `fd` has bytes, an end or an error. `drains`: the callback leaves no bytes behind, or says so by `again`."""
        if fd >= len(self._readers):
            self._grow(fd)
        known = self._masks[fd]
        mask = ONCE if drains else IN
        self._readers[fd] = callback
        if known != mask:
            self._masks[fd] = mask
            self._watch(fd, bool(known) or self._writers[fd] is not None)

    def swap_reader(self, fd: int, callback: Callback) -> None:
        """From now on call this for `fd`, which has a reader, as that one was called."""
        self._readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        """Call no more."""
        if fd < len(self._readers) and self._readers[fd] is not None:
            self._readers[fd] = None
            self._masks[fd] = 0
            self._watch(fd, True)

    def again(self, fd: int) -> None:
        """What is left at a reader that drains will be told."""
        if self._masks[fd] == ONCE and self._writers[fd] is None:
            self._epoll.modify(fd, ONCE)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call when `fd` takes bytes, or fails."""
        if fd >= len(self._writers):
            self._grow(fd)
        known = self._writers[fd] is not None
        self._writers[fd] = callback
        if not known:
            self._watch(fd, self._readers[fd] is not None)

    def remove_writer(self, fd: int) -> None:
        """Call no more."""
        if fd < len(self._writers) and self._writers[fd] is not None:
            self._writers[fd] = None
            self._watch(fd, True)

    def _grow(self, fd: int) -> None:
        more = fd + 64 - len(self._readers)
        self._readers += [None] * more
        self._writers += [None] * more
        self._masks += [0] * more

    def _watch(self, fd: int, known: bool) -> None:
        mask = self._masks[fd] if self._writers[fd] is None else (self._masks[fd] and IN) | OUT
        if not mask:
            self._epoll.unregister(fd)
        elif known:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
            self._new.add(fd)

    # -- life --------------------------------------------------------------------------------------------------------------------------------

    def add_signal_handler(self, number: int, callback: Callback) -> None:
        """Signals are uvloop's business. Only from within the running loop: one that comes before it runs is lost."""
        self._uv.add_signal_handler(number, callback)

    def run_forever(self) -> None:
        """Until `stop`."""
        self._uv.run_forever()

    def run_until_complete(self, task: Coroutine[Any, Any, Any]) -> Any:
        """For tests and tools that bring a coroutine."""
        return self._uv.run_until_complete(task)

    def stop(self) -> None:
        """Leave `run_forever` after this turn."""
        self._uv.stop()

    def set_exception_handler(self, handler: Callable[[Any, dict[str, Any]], Any]) -> None:
        """Hear of exceptions that left a callback (asyncio's contract); without one they are printed."""
        self._uv.set_exception_handler(handler)

    def time(self) -> float:
        """uvloop's clock (monotonic seconds)."""
        return self._uv.time()

    def close(self) -> None:
        """Give everything back."""
        self._uv.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._uv.close()


def new_loop() -> EdgeLoop:
    """A fresh loop, its uvloop set as asyncio's current one."""
    return EdgeLoop()


def settle_memory() -> None:
    """Call once, when everything long-lived exists: the collector never walks it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
