"""Two clocks: an exact one that is asked, and a coarse one that is looked at."""

import time

import pytest

from mcpproxy import clock as module
from mcpproxy.clock import Clock, http_date, monotonic, unix, wall_offset


def test_the_coarse_clock_stands_still_between_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([10.0, 11.5, 12.25])
    monkeypatch.setattr(module, "monotonic", lambda: next(moments))
    clock = Clock()
    assert [clock.now, clock.now] == [10.0, 10.0]
    assert clock.tick() == clock.now == 11.5
    assert clock.tick() == clock.now == 12.25


def test_the_offset_turns_monotonic_moments_into_unix_time() -> None:
    before = time.time()
    told = monotonic() + wall_offset()
    assert before - 1 <= told <= time.time() + 1


def test_unix_time() -> None:
    before = time.time()
    assert before <= unix() <= time.time()


def test_a_stepped_wall_clock_shows_in_the_offset_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: 100.0)
    monkeypatch.setattr(module, "time", lambda: 1_000.0)
    assert wall_offset() == 900.0
    monkeypatch.setattr(module, "time", lambda: 4_600.0)
    assert wall_offset() == 4_500.0


def test_a_date_is_made_once_a_second_and_is_gmt(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 784111777.9
    monkeypatch.setattr(module, "time", lambda: moment)
    assert http_date() == b"Sun, 06 Nov 1994 08:49:37 GMT"
    same = http_date()
    assert same is http_date()
    moment += 0.2
    assert http_date() == b"Sun, 06 Nov 1994 08:49:38 GMT"
