"""Bodies that are not whole yet and wait to be judged (`Exchange.gather`): what they may hold of the memory, and how long they may take to come.

1. All bodies of a listener hold at most GATHERED together, those of one client address SHARE of it; a body that would hold more, and is not all there is,
   is answered 503. So one client cannot keep the others' large calls out, and several need an address for every eighth part.
2. A body that trickles has its end: a while, and the time it takes at a rate that everybody reaches. When half of the room (or of the address's share)
   is taken, it must hurry. So whoever fills the room frees it within half a minute (of bodies of 1 MiB, which is what `tools.peek` lets wait).
3. Bodies that came in one read are no part of this: they are judged at once.
"""

from __future__ import annotations

MIB = 1 << 20
GATHERED = 256 * MIB  # bytes of unfinished bodies, of one listener
SHARE = GATHERED // 8  # of one address; a unix socket has none, as it may be everybody's
PATIENCE_S, PATIENCE_RATE = 60.0, 16 * 1024  # seconds, and bytes a second on top: 1 MiB has two minutes
HURRY_S, HURRY_RATE = 10.0, 64 * 1024  # where room is scarce: 26 seconds


class Hold:
    """What one body holds."""

    __slots__ = ("address", "since", "size")

    def __init__(self, address: bytes, since: float) -> None:
        self.address, self.since, self.size = address, since, 0


class Gathering:
    """All bodies of a listener."""

    __slots__ = ("shares", "size")

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.shares: dict[bytes, int] = {}  # bytes of each address that has some here

    def grow(self, hold: Hold, size: int) -> bool:
        """So much of the body is here now. False: that is more than there is room for."""
        address, more = hold.address, size - hold.size
        hold.size = size
        self.size += more
        share = 0
        if address:
            share = self.shares[address] = self.shares.get(address, 0) + more
        return not (size < self.size > GATHERED or size < share > SHARE)

    def end(self, hold: Hold) -> None:
        """It is whole, or over."""
        self.size -= hold.size
        if hold.address:
            left = self.shares.get(hold.address, 0) - hold.size  # none there: another one of the address was the last that held anything
            if left:
                self.shares[hold.address] = left
            else:
                self.shares.pop(hold.address, None)

    def deadline(self, hold: Hold, length: int) -> float:
        """When a body of at most this length must be whole, as things are now."""
        if self.size > GATHERED // 2 or self.shares.get(hold.address, 0) > SHARE // 2:
            return hold.since + HURRY_S + length / HURRY_RATE
        return hold.since + PATIENCE_S + length / PATIENCE_RATE
