"""The heap asks for large pages as it grows, and nothing happens where that cannot be."""

import subprocess
import sys

from mcpproxy.net import pages

GROW = """
import os, sys
from mcpproxy.net.pages import STEP, Heap
heap = Heap()
heap.tick(0.0)
libc = heap._libc
if libc is None or not os.path.exists("/sys/kernel/mm/transparent_hugepage"):
    sys.exit(print(2))
before = libc.sbrk(0)
blocks = [libc.malloc(60_000) for _ in range(STEP // 60_000 + 100)]
assert libc.sbrk(0) > before
heap.tick(0.5)
import re
areas = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())
asked = [int(re.search(r"Size: +(\\d+) kB", area)[1]) for area in areas if "[heap]" in area and " hg" in area.split("VmFlags:")[1]]
print(sum(asked) * 1024 // STEP)
"""


def test_the_heap_grows_in_steps_that_were_asked_for():
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) >= 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(pages.ctypes, "CDLL", lambda _: object())
    pages.Heap().tick(0.0)
