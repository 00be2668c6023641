"""The loop is uvloop, found by asyncio's helpers, and the collector leaves what is there for good alone."""

import asyncio
import gc
import subprocess
import sys

import uvloop

from mcpproxy.net.loop import YOUNG_OBJECTS, new_loop, settle_memory


def test_the_loop_is_uvloop_and_the_current_one():
    loop = new_loop()
    try:
        assert isinstance(loop, uvloop.Loop)
        assert asyncio.get_event_loop_policy().get_event_loop() is loop
    finally:
        loop.close()
        asyncio.set_event_loop(None)


def test_settled_memory_is_never_walked_again():
    thresholds = gc.get_threshold()
    try:
        settle_memory()
        assert gc.get_freeze_count() > 10_000
        assert YOUNG_OBJECTS == gc.get_threshold()[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_garbage_made_later_is_still_found():
    code = """
import gc
from mcpproxy.net.loop import settle_memory
settle_memory()
for _ in range(200_000):
    cycle = []
    cycle.append(cycle)
assert gc.get_stats()[0]["collections"] > 0
assert len(gc.get_objects()) < 100_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)
