"""The daemon's own words: a line on stderr, for people, never waiting for somebody to read it.

What happens to requests is in the access log; here is what an operator should look at. In the journal each line has its priority (sd-daemon(3)), so
`journalctl -p warning` finds it; there and elsewhere who takes the lines knows the time.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

LEVELS = ("debug", "info", "warning", "error")
STDERR = 2
PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}


class Messages:
    """Says what is at least as important as `level` (configuration: log.level)."""

    __slots__ = ("_least",)

    def __init__(self, level: str) -> None:
        self._least = LEVELS.index(level)

    @property
    def level(self) -> str:
        """Of the least important ones that are said."""
        return LEVELS[self._least]

    def least(self, level: str) -> None:
        """From now on."""
        self._least = LEVELS.index(level)

    def say(self, level: str, text: str) -> None:
        """Say it, or nothing when stderr is full or gone."""
        if LEVELS.index(level) < self._least:
            return
        mark = "" if level == "info" else f"{level}: "
        plain = "".join(character if character.isprintable() else "?" for character in text)
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(STDERR, select.POLLOUT)
            if any(events & select.POLLOUT for _, events in poll.poll(0)):
                os.write(STDERR, f"{priority(level)}mcpproxy: {mark}{plain}\n".encode(errors="replace"))


def priority(level: str) -> str:
    """What stands before a line of this level on stderr: nothing, unless that is the journal itself ($JOURNAL_STREAM, systemd.exec(5))."""
    stream = os.environ.get("JOURNAL_STREAM")
    if not stream:
        return ""
    try:
        found = os.fstat(STDERR)
    except OSError:
        return ""
    return PRIORITIES[level] if stream == f"{found.st_dev}:{found.st_ino}" else ""
