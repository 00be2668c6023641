"""The only reader of the clock.

`monotonic()` is exact and costs ~45 ns; it is read twice per exchange (begin, first byte). `clock.now` is the same time read once per tick of the
timer wheel (net/timers) and costs an attribute look-up: good enough for every idle timeout. Wall time appears in log lines only.
Functions that decide something take `now` as an argument, so tests own the time.
"""

from time import monotonic, time

__all__ = ["clock", "monotonic", "wall_offset"]


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
