"""Names to addresses, off the hot path.

Literal addresses and unix paths are known at once. A name is looked up in the loop's resolver threads and believed for a while; while a newer
answer is on its way, or when the resolver fails, the older answer still serves. A name is asked for once at a time, however many wait for it, and no more
often than every ASKED_S when nothing comes of it: threads and resolver are spared when DNS is gone.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from mcpproxy.clock import monotonic
from mcpproxy.net.loop import EdgeLoop

ASKED_S = 2.0  # seconds between two questions when the older answer serves all the same
BELIEVED_S = 30.0  # getaddrinfo hides the record's TTL; half a minute follows a moved service quickly and asks rarely


@dataclass(frozen=True, slots=True)
class Target:
    """Something `connect` takes: family and socket address."""

    family: int
    address: Any

    @property
    def loopback(self) -> bool:
        """Is it reached without leaving this machine, by an address that says so?"""
        return self.family != socket.AF_UNIX and (self.address[0] == "::1" or self.address[0].startswith("127."))


def literal(host: str, port: int) -> Target | None:
    """The target of an IP literal, or None for a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    return Target(socket.AF_INET if ip.version == 4 else socket.AF_INET6, (host, port))


class Name:
    """A host name and port with the addresses last heard."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.targets: tuple[Target, ...] = ()
        self.heard = self.asked = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._flight: asyncio.Task[tuple[Target, ...]] | None = None
        self._turn = -1

    def fresh(self, now: float) -> bool:
        """Is the last answer young enough to be believed without asking again?"""
        return bool(self.targets) and now - self.heard < BELIEVED_S

    def refresh(self, loop: EdgeLoop) -> None:
        """Ask again beside everything else, once at a time; until the answer is there the older one serves."""
        now = monotonic()
        if self._asking is None and now - self.asked >= ASKED_S:
            self.asked = now
            self._asking = loop.create_task(self._ask_again(loop))

    def in_turn(self) -> list[Target]:
        """All addresses, each time beginning with another one: connections are spread over them. (The order of families is the resolver's: it knows
        which of them works here.)"""
        targets = self.targets
        first = [target for target in targets if target.family == targets[0].family]
        self._turn = turn = (self._turn + 1) % len(first)
        return first[turn:] + first[:turn] + [target for target in targets if target.family != targets[0].family]

    async def _ask_again(self, loop: EdgeLoop) -> None:
        try:
            await self.ask(loop)
        finally:
            self._asking = None

    async def ask(self, loop: EdgeLoop) -> tuple[Target, ...]:
        """Ask the resolver, or wait with those who have. Raises OSError (socket.gaierror) when it does not know the name and never did."""
        flight = self._flight
        if flight is None:
            self._flight = flight = asyncio.ensure_future(self._resolve(loop))
            flight.add_done_callback(self._landed)
        return await asyncio.shield(flight)  # who leaves does not take the answer from the others

    def _landed(self, flight: asyncio.Task[tuple[Target, ...]]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # everybody who waited may have left

    async def _resolve(self, loop: EdgeLoop) -> tuple[Target, ...]:
        try:
            rows = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError:
            if self.targets:
                return self.targets
            raise
        self.targets = tuple(dict.fromkeys(Target(row[0], row[4]) for row in rows))
        self.heard = monotonic()
        return self.targets
