"""What a server's process says, in our messages: with its name, and not more than anybody would read.

chatter = Chatter("files", say)
chatter("info", "Secure MCP Filesystem Server running on stdio")     # files: Secure MCP …
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST, WINDOW = 50, 10.0  # messages in so many seconds; what is more is counted


class Chatter:
    """Of one member, all its processes together."""

    def __init__(self, name: str, say: Callable[[str, str], None]) -> None:
        self._name, self._say = name, say
        self._loop = asyncio.get_running_loop()
        self._since, self._said, self._left_out = 0.0, 0, 0

    def __call__(self, level: str, text: str) -> None:
        """Say it, or count it."""
        now = self._loop.time()
        if now - self._since >= WINDOW:
            if self._left_out:
                self._say("info", f"{self._name}: {self._left_out} more messages were left out")
            self._since, self._said, self._left_out = now, 0, 0
        self._said += 1
        if self._said <= MOST:
            self._say(level, f"{self._name}: {text}")
        else:
            self._left_out += 1
