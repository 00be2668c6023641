"""How do tests wait? By asking again until a deadline, never by sleeping and hoping.

`until(question)` polls a cheap question and returns its first truthy answer; the failure tells what was asked. DEADLINE is generous
because it is only ever reached by a test that fails.
"""

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE = 30.0  # seconds; two busy cores may stall a process for seconds
STEP = 0.005

Answer = TypeVar("Answer")


def until(question: Callable[[], Answer], what: str | Callable[[], str] = "", *, deadline_s: float = DEADLINE) -> Answer:
    """The first truthy answer to `question`, or AssertionError naming `what` was waited for."""
    end = time.monotonic() + deadline_s
    while not (answer := question()):
        if time.monotonic() > end:
            told = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {deadline_s:g} s: {told or question}; last answer {answer!r}")
        time.sleep(STEP)
    return answer


def stays(question: Callable[[], object], seconds: float, what: str) -> None:
    """Assert that `question` stays true for a while: only for 'nothing happens' claims, which cannot be awaited."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert question(), f"did not stay so for {seconds:g} s: {what}"
        time.sleep(STEP)
