"""How much has each of them used? A bounded table of buckets in memory that all processes of the machine share.

    keys  │ k │ k │ k │ k │ k │ k │ 0 │ 0 │   8 ways make a set; a key can only be in its own set
    full  │ t │ t │ …                        when the bucket will be full again: GCRA's theoretical arrival time, Unix seconds
    used  │ day << 32 | count │ …            how many today (days since 1970, UTC)
    held  │ w0 w1 w2 … │ …                   what is going on just now, told apart by worker

The memory is one anonymous mapping made before the fork; every word of it is 8 bytes (`held`: 4), aligned, written by one store. Rules that keep it honest:

 1. A key is 64 bits of a keyed hash, its set another 64 bits of it. The secret is made with the table and never leaves the family of processes, so
    nobody can choose addresses or names that meet in one set, or that share a bucket.
 2. Whoever reads or writes an entry holds the lock of its set (`locks`), but for the two cases of rule 5. With one worker there is no lock at all.
 3. An entry changes hands in this order: forget the state, then write the key. A process killed in between leaves an empty bucket of the former owner,
    never one with somebody else's state.
 4. Nothing is stored that has to add up: each number is true by itself. A process killed between two stores has counted one limit of its last request and
    not the other; that is all.
 5. `held` of a worker is written by that worker only (`forget_worker` after its death), and an entry with anything held is never given away. So giving back
    and forgetting need no lock.

Who goes when a set is full (`_claim`): first what says nothing any more (full bucket, nothing used today, nothing held). Else, of those that hold nothing,
the one that is whole again soonest; of equal ones (every daily count is whole again at midnight) the one with the smaller count. What is guaranteed by that:

 - An entry only goes when each of the 7 others in its set has something going on, or needs at least as long to recover. Fresh addresses of a flood
   recover within one request's time, so they displace each other, not those who have used up more: to be forgotten a bucket must be outspent, seven
   times, in a set that nobody can find. What is lost by displacement is the least there is to lose in that set.
 - Kinds of keys live in regions of their own: named callers are never displaced by addresses, nor by names of tools that somebody made up.
 - The table is bounded. A flood from more networks than a region has entries is limited as long as a bucket stays, and not after; `per = []` limits
   all together.

A clock that steps: state that lies further ahead than any limit reaches (`horizon`), or a day after tomorrow, says nothing. `limits` clamps the rest.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from mmap import PAGESIZE, mmap
from struct import Struct

from mcpproxy.policy.locks import NO_LOCK, STRIPES, Locks

WAYS = 8
DAY = 86_400.0  # seconds
COUNT_BITS = 32  # config allows counts up to 2**31
COUNT = (1 << COUNT_BITS) - 1
NO_ROOM = -1
SECRET = 32  # bytes
LAYOUT = b"limits 1 "  # of what is left to another program: another number for other words or other names of keys

_DIGEST = Struct("<qQ")


@dataclass(frozen=True, slots=True)
class Region:
    """Sets `first` to `first + sets - 1` belong to one kind of keys."""

    first: int
    sets: int


# Entries of 28 bytes (24 and 4 per worker); memory that was never used is never touched. A set is full by chance, with nobody meaning harm, when a sixth of
# a region is in use: these hold some 10 000 named callers, as many tools of theirs and 20 000 addresses who all have used something up just now (today,
# where there are daily quotas) before the first of them is forgotten.
NAMED_SETS = 8192  # callers with a name, routes, limits for all
TOOL_SETS = 8192  # tools
ADDRESS_SETS = 16_384

NAMED = Region(0, NAMED_SETS)
TOOLS = Region(NAMED_SETS, TOOL_SETS)
ADDRESSES = Region(NAMED_SETS + TOOL_SETS, ADDRESS_SETS)
ALL_SETS = NAMED_SETS + TOOL_SETS + ADDRESS_SETS


class Slot:
    """Where a key is looked for: its set, and the entry where it was found last. HOT: whoever holds the lock compares `keys[slot.index]` with `slot.key`."""

    __slots__ = ("base", "index", "key", "lock", "stripe")

    def __init__(self, base: int, key: int, locks: Locks | None) -> None:
        self.base = self.index = base  # the first entry of the set
        self.key = key
        self.stripe = base // WAYS % STRIPES
        self.lock = NO_LOCK if locks is None else locks.addresses[self.stripe]


class Buckets:
    """Made once, before the fork. `workers` is how many may be alive at once, those that still drain included."""

    __slots__ = ("_memory", "_secret", "full", "held", "horizon", "keys", "locks", "used", "worker", "workers")

    def __init__(self, workers: int = 1, *, sets: int = ALL_SETS, secret: bytes = b"") -> None:
        entries = sets * WAYS
        self._memory = mmap(-1, entries * (24 + 4 * workers))
        words = memoryview(self._memory)
        self.keys = words[: 8 * entries].cast("q")
        self.full = words[8 * entries : 16 * entries].cast("d")
        self.used = words[16 * entries : 24 * entries].cast("q")
        self.held = words[24 * entries :].cast("i")
        self.workers = workers
        self.worker = 0  # the one we are: 0 to workers - 1; set after the fork
        self.locks = Locks() if workers > 1 else None
        self.horizon = DAY  # seconds; no bucket of any limit takes longer to be full again
        self._secret = secret or os.urandom(SECRET)

    def left(self) -> bytes:
        """For a program that takes our place: the secret, and who used how much. What goes on just now (`held`) is ours. An entry that changes hands at this
        very moment may come out with the other one's state: once, and of little (rule 3)."""
        return LAYOUT + self._secret + self._memory[: 24 * len(self.keys)]

    def inherit(self, left: bytes) -> bool:
        """Go on with what another program left, before any slot is asked for. False: it was made otherwise, and is forgotten."""
        start = len(LAYOUT) + SECRET
        if left[: len(LAYOUT)] != LAYOUT or len(left) != start + 24 * len(self.keys):
            return False
        self._secret = left[len(LAYOUT) : start]
        for at in range(0, len(left) - start, PAGESIZE):  # memory that was never used is never touched
            page = left[start + at : start + at + PAGESIZE]
            if any(page):
                self._memory[at : at + len(page)] = page
        return True

    def slot(self, region: Region, name: bytes) -> Slot:
        """Where the bucket of `name` is. Costs a hash: keep it."""
        key, place = _DIGEST.unpack(blake2b(name, digest_size=16, key=self._secret).digest())
        return Slot((region.first + place % region.sets) * WAYS, key or 1, self.locks)  # 0 is an entry that nobody has

    def find(self, slot: Slot, now: float, but: Sequence[int] = ()) -> int:
        """The entry of the slot, another's if need be, though none of `but`; NO_ROOM when every other way has something going on.

        Under the lock of its stripe.
        """
        index = self.look(slot)
        if index == NO_ROOM:
            index = self._claim(slot, now, but)
        if index != NO_ROOM:
            slot.index = index
        return index

    def look(self, slot: Slot) -> int:
        """The entry of the slot if it has one, else NO_ROOM."""
        ways = self.keys[slot.base : slot.base + WAYS].tolist()
        return slot.base + ways.index(slot.key) if slot.key in ways else NO_ROOM

    def holding(self, index: int) -> int:
        """What the entry has going on, over all workers."""
        if self.workers == 1:
            return self.held[index]
        return sum(self.held[index * self.workers : (index + 1) * self.workers])

    def hold(self, index: int, count: int) -> None:
        """Something begins (or, below zero, ends) in this worker."""
        self.held[index * self.workers + self.worker] += count

    def forget_worker(self, worker: int) -> None:
        """It is dead: nothing of it goes on any more. Before another one takes its number."""
        self.held[worker :: self.workers] = memoryview(array("i", bytes(4 * len(self.keys))))

    def _claim(self, slot: Slot, now: float, but: Sequence[int]) -> int:
        """Gives the slot the entry that says least."""
        best, least = NO_ROOM, (0.0, 0, 0.0)
        today, base = int(now // DAY), slot.base
        midnight = (today + 1) * DAY
        fulls, useds = self.full[base : base + WAYS].tolist(), self.used[base : base + WAYS].tolist()
        for index, full, used in zip(range(base, base + WAYS), fulls, useds, strict=True):
            if index in but or self.holding(index):
                continue
            if full - now > self.horizon:
                full = 0
            count = used & COUNT if used and 0 <= (used >> COUNT_BITS) - today <= 1 else 0
            if not count and full <= now:
                best = index
                break
            rank = (midnight if count and full < midnight else full, count, full)
            if best == NO_ROOM or rank < least:
                best, least = index, rank
        if best != NO_ROOM:  # rule 3
            self.full[best] = 0.0
            self.used[best] = 0
            self.keys[best] = slot.key
        return best
