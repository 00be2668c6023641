"""The event loop of an edge process: uvloop, driven by raw sockets.

uvloop carries the descriptors (`add_reader`, `add_writer`) and nothing else of it is used on the data path: no Transport, no StreamReader, no
Task, no Future, no timer handle per request. docs/decisions tell why.
"""

import asyncio
import gc

import uvloop

YOUNG_OBJECTS = (
    50_000  # allocations between two looks at the young generation: the hot path makes no cycles, so looking often finds nothing
)


def new_loop() -> asyncio.AbstractEventLoop:
    """A fresh uvloop, set as the current one so that asyncio's own helpers find it."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def settle_memory() -> None:
    """Call once, when everything long-lived exists: the collector never walks it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 100)
