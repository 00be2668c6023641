"""Where lines go, without ever holding up the loop.

A sink is a descriptor with a thread of its own: the loop hands over whole batches, the thread writes them (a slow disk or a full pipe stops only the
thread). What waits is bounded; beyond the bound lines are dropped, counted, and the count is written as soon as writing goes on.

Several processes that write to one place take turns (`turns`), so no line stands within another: pipes and sockets would cut batches anywhere. The lock is
flock(2) on an open file description of each process's own, which the kernel gives back when its process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue

from mcpproxy.errors import StartError

WAITING_BYTES = 16 * 1024 * 1024  # about 40 000 lines: seconds of a stuck disk at full load, and no danger to memory
STANDARD = {"stdout": 1, "stderr": 2}
NEWLINE = 10


class Sink:
    """An append-only place for log lines. `turns`: a descriptor that `new_turns` gave before the fork, where other processes write there, too."""

    def __init__(self, target: str, turns: int | None = None) -> None:
        self._target = target
        self._turns = None if turns is None else os.open(f"/proc/self/fd/{turns}", os.O_RDWR | os.O_CLOEXEC)
        self._fd = _open(target)
        self._queue: SimpleQueue[tuple[list[bytes], int] | Callable[[], None] | None] = SimpleQueue()
        self._taken = 0  # bytes handed over; only the loop's thread changes it
        self._refused = 0  # lines dropped for want of room, not yet told of; the loop's, too
        self._written = 0  # bytes dealt with; only the sink's thread changes it
        self._lost = 0  # lines that could not be written, not yet told of; the sink's thread's, too
        self._refused_ever = 0  # the same two, from the start on
        self._lost_ever = 0
        self._torn = False  # the last line in the file has no end
        self._thread = threading.Thread(target=self._write_on, name=f"log {target}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that nobody will read, as far as no line tells of them yet."""
        return self._refused + self._lost

    @property
    def missing(self) -> int:
        """Lines that nobody will read, from the start on."""
        return self._refused_ever + self._lost_ever

    def put(self, batch: list[bytes]) -> None:
        """Hand over pieces of whole lines; the list is the sink's from now on."""
        size = sum(map(len, batch))
        if self._taken - self._written + size > WAITING_BYTES:
            lines = sum(piece.count(b"\n") for piece in batch)
            self._refused += lines
            self._refused_ever += lines
            return
        self._taken += size
        refused, self._refused = self._refused, 0
        self._queue.put((batch, refused))

    def reopen(self) -> None:
        """Go on in a new file of the same name (log rotation). Lines handed over before this call still go to the old one."""
        if self._target not in STANDARD:
            self._queue.put(self._reopen)

    def retire(self) -> None:
        """Write what waits, then end, in its own time."""
        self._queue.put(([], self._refused))
        self._queue.put(None)

    def close(self, patience_s: float) -> bool:
        """The same, and wait for it. False when that took longer than `patience_s` and lines were lost."""
        self.retire()
        self._thread.join(patience_s)
        return not self._thread.is_alive()

    def _reopen(self) -> None:
        try:
            fresh = _open(self._target)
        except StartError:
            return  # the old file still takes lines; the operator sees them arrive there
        os.close(self._fd)
        self._fd = fresh

    def _write_on(self) -> None:
        while (item := self._queue.get()) is not None:
            if callable(item):
                item()
                continue
            batch, refused = item
            if self._turns is not None:
                fcntl.flock(self._turns, fcntl.LOCK_EX)
            self._tell(refused)
            for piece in batch:
                lost = self._write(memoryview(piece))
                self._lost += lost
                self._lost_ever += lost
            if self._turns is not None:
                fcntl.flock(self._turns, fcntl.LOCK_UN)
            self._written += sum(map(len, batch))
        os.close(self._fd)
        if self._turns is not None:
            os.close(self._turns)

    def _tell(self, refused: int) -> None:
        """How many lines are missing here; kept until it could be said."""
        missing = self._lost + refused
        if missing:
            self._lost = missing if self._write(memoryview(b'{"dropped_lines":%d}\n' % missing)) else 0

    def _write(self, rest: memoryview) -> int:
        """Returns how many lines could not be written whole."""
        if self._torn:
            rest = memoryview(b"\n" + rest)
        while rest:
            try:
                done = os.write(self._fd, rest)
            except BlockingIOError:  # somebody made our stdout non-blocking
                _wait_writable(self._fd)
            except OSError:  # disk full, reader gone: these lines are lost and counted
                return bytes(rest).count(b"\n") - (rest[0] == NEWLINE and self._torn)
            else:
                self._torn = rest[done - 1] != NEWLINE
                rest = rest[done:]
        return 0


def new_turns() -> int:
    """What processes take turns by; made before the fork."""
    return os.memfd_create("mcpproxy-log", os.MFD_CLOEXEC)


def _open(target: str) -> int:
    if target in STANDARD:
        return os.dup(STANDARD[target])
    try:
        # O_NONBLOCK: to open a pipe that nobody reads would wait for a reader, and the daemon would start never
        return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise StartError(f"log file {target}: it is a pipe or socket that nobody reads", "start its reader first") from None
        raise StartError(f"log file {target}: {error.strerror}", "the daemon must be able to create and append to it") from None


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1000)
