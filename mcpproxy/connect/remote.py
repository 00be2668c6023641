"""The server as everything here asks it: with the user's fields and credential, and with patience while it cannot be reached.

What was never sent is asked again, with growing pauses, until `patience` is over: laptops wake up before their networks do. What may have been heard
is never asked twice from here (wire, rule 1).
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable

from mcpproxy.clock import monotonic
from mcpproxy.connect.places import Place, WireError, place_of
from mcpproxy.connect.wire import Reply, Wire

PATIENCE_S = 30.0  # for a server that cannot be connected to
FIRST_S, MOST_S = 0.25, 30.0  # pauses between attempts
CREDENTIALS = 3  # shown one after the other, before a refusal is believed

Say = Callable[[str], None]


def pauses(most: float = MOST_S) -> Callable[[], float]:
    """Seconds to wait before each next attempt: twice as long each time, and never all clients at once."""
    state = [FIRST_S]

    def following() -> float:
        pause, state[0] = state[0], min(most, state[0] * 2)
        return pause * random.uniform(0.75, 1.25)

    return following


class Credential(ABC):
    """What shows the server who asks."""

    @abstractmethod
    async def lines(self, method: bytes, place: Place, body: bytes) -> bytes:
        """The fields for a request. May ask for a token first. Raises WireError."""

    @abstractmethod
    async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
        """The server answered 401 or 403 to a request with `shown`. Is there something else to be shown now? Raises WireError."""


class Nobody(Credential):
    """What the user's own fields say is all."""

    async def lines(self, method: bytes, place: Place, body: bytes) -> bytes:
        return b""

    async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
        return False


class Remote:
    """One URL."""

    def __init__(
        self, wire: Wire, url: str, fields: bytes, credential: Credential, say: Say, *, most: int = 16 << 20, patience: float = PATIENCE_S
    ) -> None:
        self.wire, self.url, self.say, self.most = wire, url, say, most
        self.place = place_of(url)
        self._fields, self._credential, self._patience = fields, credential, patience
        self._away = False

    async def send(
        self, method: bytes, fields: bytes, body: bytes = b"", *, url: str | None = None, patience: float | None = None
    ) -> Reply:
        """Ask. `url`: where else on this server. Raises WireError."""
        until = monotonic() + (self._patience if patience is None else patience)
        pause = pauses()
        while True:
            try:
                reply = await self._ask(method, fields, body, url or self.url)
            except WireError as error:
                seconds = pause()
                if error.sent or error.hopeless or monotonic() + seconds > until:
                    raise
                if not self._away:
                    self._away = True
                    self.say(f"{error.text}; trying again")
                await asyncio.sleep(seconds)
            else:
                if self._away:
                    self._away = False
                    self.say(f"{self.place.authority} can be reached again")
                return reply

    async def _ask(self, method: bytes, fields: bytes, body: bytes, url: str) -> Reply:
        shown = b""

        def written(there: Place) -> bytes:
            return fields + self._fields + shown if there.origin == place.origin else fields

        place = place_of(url)
        for _ in range(CREDENTIALS):
            shown = await self._credential.lines(method, place, body)
            reply = await self.wire.send(method, url, written, body, most=self.most)
            if reply.status not in (401, 403):
                break
            challenge = b", ".join(reply.all(b"www-authenticate")).decode("latin-1")
            if not await self._credential.refused(reply.status, challenge, shown):
                break
            reply.close()
        return reply
