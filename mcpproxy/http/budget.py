"""How much nuisance may one HTTP/2 connection make?

Every frame that costs us work and carries nothing has a price; a connection has so many points and gets some back every second. What ordinary
clients do is free or stays far below what flows back. At 75 % the connection is ended softly (GOAWAY, its streams go on), at 100 % at once.
The resets that we are made to send cost the client as much as those it sends (CVE-2025-8671), and whoever cancels requests pays most
(CVE-2023-44487).
"""

from __future__ import annotations

POINTS = 10_000  # about 0.1 s of work, spent at the prices below
REFILL = 500  # points per second: no flood worth the name, and more than any client that means it needs
SOFT = 0.75  # of the points

CANCEL = (
    50  # a request taken back before it was answered: 200 at once, then ten a second; a browser that leaves a page takes back a few dozen
)
FAULT = 50  # a stream that we had to reset or refuse: as CANCEL, since it is the same flood by other means
ERROR = 500  # the error that ends the connection: nothing is left to take it from, but the edge counts it against the address (edge/debts)
REFUSAL = 200  # a request whose head was read to be refused: up to 0.5 ms of work; beside FAULT, and of the address alone
MANY = 64  # fields of a head seen for the first time; each more is two points, of the address alone
LARGE = 8192  # bytes of it; each 64 more are a point
GREETING = 200  # what the first SETTINGS, the acknowledgement of ours and a window cost everybody: the address is not charged for it
LEAVE = 5  # a request taken back after its answer began: every reader of a stream of events does this once
SETTINGS = 50  # one at the start, a few more in a life; each wants an answer. And a point for each value: a frame has room for 2730
PING = 10  # 50 a second for ever; keep-alive needs one in ten seconds; each wants an answer
CONTINUED = 10  # a CONTINUATION frame: a large head has two or three
EMPTY = 10  # a frame without payload that ends nothing
IGNORED = 5  # PRIORITY, unknown kinds, frames on streams that are gone
TINY = 1  # a DATA frame below TINY_SIZE, and a WINDOW_UPDATE that no data of ours has paid for
TINY_SIZE = 64  # bytes
PAYS_UPDATE = (
    64  # bytes sent that pay for a WINDOW_UPDATE: clients with windows of 255 bytes send two for 128; each byte by itself is a flood
)


class Budget:
    """The points of one connection."""

    __slots__ = ("_since", "_spent")

    def __init__(self, now: float) -> None:
        self._spent = 0.0
        self._since = now

    def spend(self, price: int, now: float) -> float:
        """Take the price; which part of the points is gone now?"""
        spent = self._spent - (now - self._since) * REFILL
        self._since = now
        self._spent = spent = price + (spent if spent > 0 else 0)
        return spent / POINTS
