"""The only reader of the clock.

`monotonic()` is exact and costs ~45 ns; it is read twice per exchange (begin, first byte). `clock.now` is the same time read once per tick of the
timer wheel (net/timers) and costs an attribute look-up: good enough for every idle timeout. Wall time appears in log lines and Date fields only.
Functions that decide something take `now` as an argument, so tests own the time.
"""

from functools import lru_cache
from time import gmtime, monotonic, strftime, time

__all__ = ["clock", "http_date", "monotonic", "wall_offset"]


class Clock:
    """The coarse clock: `now` is monotonic seconds as of the last tick."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = monotonic()

    def tick(self) -> float:
        """Read the clock; return the new `now`."""
        self.now = monotonic()
        return self.now


clock = Clock()


def wall_offset() -> float:
    """Seconds to add to a monotonic moment to get Unix time. Read per batch of log lines, so a stepped clock shows in the log at once."""
    return time() - monotonic()


def http_date() -> bytes:
    """Now, as a Date field says it (RFC 9110 §5.6.7)."""
    return _date_of(int(time()))


@lru_cache(maxsize=1)
def _date_of(second: int) -> bytes:
    return strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime(second)).encode()
