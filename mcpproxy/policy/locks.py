"""Locks between processes that a killed holder cannot keep.

A lock is one byte of a file without a name (memfd), locked by fcntl: it belongs to the process, and the kernel gives it back when the process ends, by
whatever way. No pid is written down, nobody guesses whether a holder still lives, and nothing has to be repaired.

 1. These are POSIX locks (F_SETLKW), not those of an open file description (F_OFD_SETLKW): a forked process does not inherit them. Descriptions are
    shared with children, who would neither exclude each other nor let go of what a killed parent held.
 2. Closing any descriptor of the file gives back all locks of the process: nobody but this object may have one.
 3. Who needs several takes them in rising order and gives them back together: no circle can wait for itself.
 4. They exclude processes, not threads of one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fcntl import LOCK_EX, LOCK_UN, lockf

STRIPES = 64  # a dozen workers that hold one for microseconds rarely meet in one of so many


class Locks:
    """Made before the fork, used after it."""

    __slots__ = ("_file",)

    def __init__(self) -> None:
        self._file = os.memfd_create("mcpproxy-limits", os.MFD_CLOEXEC)

    def take(self, stripes: Sequence[int]) -> None:
        """Waits until this process has all of them. `stripes` rise."""
        for stripe in stripes:
            lockf(self._file, LOCK_EX, 1, stripe)

    def give(self) -> None:
        """Gives back all that this process has."""
        lockf(self._file, LOCK_UN, 0, 0)

    def close(self) -> None:
        """Not needed before the process ends."""
        os.close(self._file)
