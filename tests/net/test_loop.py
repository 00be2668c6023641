"""The loop, and memory that the collector leaves alone."""

import gc
from collections.abc import Iterator

import pytest
import uvloop

from mcpproxy.net.loop import YOUNG_OBJECTS, new_loop, settle_memory


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_it_is_uvloop_and_it_runs_callbacks() -> None:
    loop = new_loop()
    try:
        assert isinstance(loop, uvloop.Loop)
        said: list[str] = []
        loop.call_soon(said.append, "hello")
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert said == ["hello"]
    finally:
        loop.close()


@pytest.mark.usefixtures("collector")
def test_what_lives_long_is_not_walked_again() -> None:
    before = gc.get_freeze_count()
    settle_memory()
    assert gc.get_freeze_count() > before + 1000
    assert gc.get_threshold()[0] == YOUNG_OBJECTS


@pytest.mark.usefixtures("collector")
def test_garbage_made_later_is_still_found() -> None:
    settle_memory()
    ring: list[object] = []
    ring.append(ring)
    del ring
    assert gc.collect() >= 1
