"""Large pages for the heap: thousands of quiet connections are tens of megabytes, and each event of theirs touches a few dozen places of it.

With pages of 4 KiB nearly every one of these places also misses the processor's table of pages. The kernel gives pages of 2 MiB to memory that asks
for them (`madvise`, the common setting of /sys/kernel/mm/transparent_hugepage/enabled), so the heap of the C library, where OpenSSL and large Python
objects live, grows in steps that can be asked for before they are touched. What is asked for and not used costs nothing until it is touched, and
then at most one large page. Without glibc or without such a kernel all stays as it was.
"""

from __future__ import annotations

import ctypes
from typing import Any

LARGE = 2 * 1024 * 1024  # bytes of a large page (x86-64, and AArch64 with pages of 4 KiB)
STEP = 32 * 1024 * 1024  # bytes the heap grows by: what some 2 000 TLS streams take
MADV_HUGEPAGE = 14  # <linux/mman.h>
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # <malloc.h>
OWN_MAPPING = 8 * 1024 * 1024  # bytes of a block that gets a mapping of its own; to set one of these ends glibc's own adapting
PROBE = 64 * 1024


class Heap:
    """The C library's heap, as far as it was asked for in large pages."""

    __slots__ = ("_end", "_libc")

    def __init__(self) -> None:
        self._end = 0
        self._libc: Any = None
        try:
            libc: Any = ctypes.CDLL(None)
            libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
            libc.free.argtypes, libc.free.restype = (ctypes.c_void_p,), None
            libc.sbrk.argtypes, libc.sbrk.restype = (ctypes.c_ssize_t,), ctypes.c_size_t
            libc.madvise.argtypes, libc.madvise.restype = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
            if libc.mallopt(M_TOP_PAD, STEP) and libc.mallopt(M_TRIM_THRESHOLD, 2 * STEP) and libc.mallopt(M_MMAP_THRESHOLD, OWN_MAPPING):
                self._libc = libc
        except (AttributeError, OSError):
            return

    def _first_step(self) -> None:
        """Make it grow now, and not under the first thousand connections."""
        libc = self._libc
        self._end = before = libc.sbrk(0)
        taken: list[int] = []
        while libc.sbrk(0) == before and len(taken) < STEP // PROBE:
            taken.append(libc.malloc(PROBE))
        for block in taken:
            libc.free(block)

    def tick(self, now: float) -> None:
        """Has it grown? Then ask for what is new."""
        libc = self._libc
        if libc is None:
            return
        if not self._end:
            self._first_step()
        end = libc.sbrk(0)
        if end > self._end:
            start = self._end & -LARGE
            libc.madvise(start, end - start, MADV_HUGEPAGE)
        self._end = end
