"""A bounded memory: bytes → what was once worked out for them.

Two generations of dictionaries. New entries go to the fresh one; when it is full it becomes the old one and the old one is forgotten. An entry found in
the old generation moves up, so what is in use stays and what was seen once (a million distinct heads of an attacker) washes through without growth.
`fresh` is always the same dictionary object: the hot path may keep its bound `get`.

A key is remembered from its second sight on (`earned`): a head that never comes again costs its compilation and nothing that stays. Filling memory
with plans nobody asks for again doubles the price of such a head, by page faults and cold caches.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
LARGEST_KEY = 8192  # bytes: a longer head is judged every time; storing it would cost more memory than it saves time
ENTRY_BYTES = 1024  # what an entry costs beside its key and one rendered copy of it: objects, dictionary slots, rendered fields
COPY_BYTES = 160  # what every further copy costs beside its length: an object, other fields
SEEN_ONCE = 8192  # hashes of keys seen once; half a megabyte


class Store(Generic[T]):
    """At most `entries` entries and about `total` bytes over both generations; a value holds up to `copies` texts as long as its key."""

    __slots__ = ("_bytes", "_copies", "_entries", "_old", "_once", "_room", "found", "fresh", "misses")

    def __init__(self, entries: int, total: int, copies: int = 1) -> None:
        self.fresh: dict[bytes, T] = {}
        self._old: dict[bytes, T] = {}
        self.bound(entries, total, copies)
        self._bytes = 0
        self._once: set[int] = set()  # hashes (keyed by the process's secret) of keys seen once
        self.found = 0  # by `find` and `older`; who asks `fresh` itself counts for himself
        self.misses = 0

    def bound(self, entries: int, total: int, copies: int = 1) -> None:
        """From now on these bounds; what is there already stays for its generation."""
        self._entries = max(1, entries // 2)
        self._room = total // 2
        self._copies = copies

    def find(self, key: bytes) -> T | None:
        """The entry, wherever it is."""
        found = self.fresh.get(key)
        if found is None:
            return self.older(key)
        self.found += 1
        return found

    def older(self, key: bytes) -> T | None:
        """The entry of a key that is not fresh (the caller looked); a find is moved up."""
        found = self._old.pop(key, None)
        if found is None:
            self.misses += 1
            return None
        self.found += 1
        self.put(key, found)
        return found

    def earned(self, key: bytes) -> bool:
        """Was this key seen before, so that remembering it may pay?"""
        once, mark = self._once, hash(key)
        if mark in once:
            once.discard(mark)
            return True
        if len(once) >= SEEN_ONCE:
            once.clear()
        once.add(mark)
        return False

    def put(self, key: bytes, value: T) -> None:
        """Remember, unless the key is too large to be worth it."""
        if len(key) > LARGEST_KEY:
            return
        cost = 2 * len(key) + ENTRY_BYTES + (self._copies - 1) * (len(key) + COPY_BYTES)
        if len(self.fresh) >= self._entries or self._bytes + cost > self._room:
            self._old = self.fresh.copy()
            self.fresh.clear()
            self._bytes = 0
        self.fresh[key] = value
        self._bytes += cost

    def clear(self) -> None:
        """Forget everything (reload, drain)."""
        self.fresh.clear()
        self._once.clear()
        self._old = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self._old)
