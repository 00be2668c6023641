"""Where lines go, without ever holding up the loop.

A sink is a descriptor with a thread of its own: the loop hands over whole batches, the thread writes them (a slow disk or a full pipe stops only the
thread). What waits is bounded; beyond the bound lines are dropped, counted, and the count is written as soon as writing goes on.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue

from mcpproxy.errors import StartError

WAITING_BYTES = 16 * 1024 * 1024  # about 40 000 lines: seconds of a stuck disk at full load, and no danger to memory
STANDARD = {"stdout": 1, "stderr": 2}


class Sink:
    """An append-only place for log lines."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._fd = _open(target)
        self._queue: SimpleQueue[bytes | Callable[[], None] | None] = SimpleQueue()
        self._waiting = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._write_on, name=f"log {target}", daemon=True)
        self._thread.start()

    def put(self, batch: bytes) -> None:
        """Hand over whole lines."""
        if self._waiting + len(batch) > WAITING_BYTES:
            self.dropped += batch.count(b"\n")
            return
        if self.dropped:
            batch = b'{"dropped_lines":%d}\n' % self.dropped + batch
            self.dropped = 0
        self._waiting += len(batch)
        self._queue.put(batch)

    def reopen(self) -> None:
        """Go on in a new file of the same name (log rotation). Lines handed over before this call still go to the old one."""
        if self._target not in STANDARD:
            self._queue.put(self._reopen)

    def close(self, patience_s: float) -> bool:
        """Write what waits, then end. False when that took longer than `patience_s` and lines were lost."""
        self._queue.put(None)
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
            rest = memoryview(item)
            while rest:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:  # somebody made our stdout non-blocking
                    _wait_writable(self._fd)
                except OSError:  # disk full, reader gone: these lines are lost and counted
                    self.dropped += bytes(rest).count(b"\n")
                    break
            self._waiting -= len(item)


def _open(target: str) -> int:
    if target in STANDARD:
        return os.dup(STANDARD[target])
    try:
        return os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StartError(f"log file {target}: {error.strerror}", "the daemon must be able to create and append to it") from None


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(1000)
