"""HOT. Locks between processes that a killed holder cannot keep.

A lock is a robust mutex of the C library (pthread_mutexattr_setrobust(3)) in memory that all processes share. Nobody asks the kernel as long as nobody
waits: 0.2 µs to have one and give it back, where a lock of a file costs two system calls. The kernel knows which mutexes a thread holds, and gives back those
of one that ends, by whatever way: who takes it next is told so (EOWNERDEAD), says that all is well, and goes on. That is true because of what is kept here
(rules 3 and 4 of `buckets`): every word of it is right by itself, whichever of them the dead one had written.

 1. Made before the fork; a forked process holds nothing of what its parent holds.
 2. Who needs several takes them in rising order and gives them back together: no circle can wait for itself.
 3. Their memory is never given back: the C library keeps a list of what a thread holds, and may look there at any time.
 4. Only the loop's thread takes them: it waits with the interpreter in its hands (`PyDLL`: half the time of a call), so nobody in the same process may
    have what it waits for. Other processes give it back within microseconds, or are killed by the watchdog.

Who needs one alone asks the library itself, in the fewest steps (`lock`, `unlock` and, should `lock` return anything but 0, `mend`); `take` and `give` are
for several.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from mmap import mmap

STRIPES = 64  # a dozen workers that hold one for microseconds rarely meet in one of so many
ROOM = 64  # bytes for each: a pthread_mutex_t is 40 or 48, and two of them in one line of the cache would be in each other's way
ATTRIBUTES = 64  # bytes; more than a pthread_mutexattr_t has anywhere
SHARED = ROBUST = 1  # PTHREAD_PROCESS_SHARED, PTHREAD_MUTEX_ROBUST

NO_LOCK = ctypes.c_void_p()  # where one process has all to itself; never taken

_memories: list[mmap] = []  # rule 3


class Locks:
    """Made before the fork, used after it."""

    __slots__ = ("_consistent", "_held", "addresses", "lock", "unlock")

    def __init__(self) -> None:
        library = ctypes.PyDLL(None)
        self.lock, self.unlock, self._consistent = (
            library.pthread_mutex_lock,
            library.pthread_mutex_unlock,
            library.pthread_mutex_consistent,
        )
        memory = mmap(-1, STRIPES * ROOM)
        _memories.append(memory)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.addresses = [ctypes.c_void_p(first + number * ROOM) for number in range(STRIPES)]
        self._held: list[ctypes.c_void_p] = []
        attributes = ctypes.create_string_buffer(ATTRIBUTES)
        _ensure(library.pthread_mutexattr_init(attributes))
        _ensure(library.pthread_mutexattr_setpshared(attributes, SHARED))
        _ensure(library.pthread_mutexattr_setrobust(attributes, ROBUST))
        for address in self.addresses:
            _ensure(library.pthread_mutex_init(address, attributes))

    def take(self, stripes: Sequence[int]) -> None:
        """Waits until this process has all of them. `stripes` rise."""
        for stripe in stripes:
            address = self.addresses[stripe]
            if code := self.lock(address):
                self.mend(address, code)
            self._held.append(address)

    def give(self) -> None:
        """Gives back all that this process has."""
        held = self._held
        while held:
            self.unlock(held.pop())

    def mend(self, address: ctypes.c_void_p, code: int) -> None:
        """`lock` returned `code`: its last holder died, and all is well. Raises OSError for any other reason."""
        if code != errno.EOWNERDEAD:
            _ensure(code)
        _ensure(self._consistent(address))


def _ensure(code: int) -> None:
    """What these functions return is 0, or the number of an error."""
    if code:
        raise OSError(code, os.strerror(code))
