"""The only reader of the clock.

`monotonic()` is exact and costs ~45 ns; it is read twice per exchange (begin, first byte). `clock.now` is the same time read once per tick of the
timer wheel (net/timers) and costs an attribute look-up: good enough for every idle timeout. Wall time (`clock.wall`, as coarse) is for what others
date: log lines, Date fields, the ends of tokens and days.
Functions that decide something take `now` as an argument, so tests own the time.
"""

from functools import lru_cache
from time import gmtime, monotonic, strftime, time

__all__ = ["clock", "http_date", "monotonic", "unix", "wall_offset"]


class Clock:
    """The coarse clock: `now` is monotonic seconds as of the last tick."""

    __slots__ = ("now", "wall")

    def __init__(self) -> None:
        self.tick()

    def tick(self) -> float:
        """Read the clock; return the new `now`."""
        self.now = monotonic()
        self.wall = time()
        return self.now


clock = Clock()


def wall_offset() -> float:
    """Seconds to add to a monotonic moment to get Unix time. Read per batch of log lines, so a stepped clock shows in the log at once."""
    return time() - monotonic()


unix = time  # for what others tell by it: the ends of tokens and certificates, days of quotas. No function around it: every limited request asks


def http_date() -> bytes:
    """Now, as a Date field says it (RFC 9110 §5.6.7)."""
    return _date_of(int(time()))


@lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(second)).encode()
