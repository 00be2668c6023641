"""What the world must be asked before a request may go on: asked once for all who wait, and never on the hot path.

A policy that cannot decide names a Question (policy/verdict). The exchange waits here, as it would for a link: it can be cancelled, it has a deadline
(the question's own), and how many questions and waiters there are is bounded; beyond the bound the request is answered 503. An issuer that hangs keeps
its questions open for seconds, so one client address may have an eighth of the places only: made-up tokens of one do not close the door to all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from mcpproxy.errors import ProxyError, Side
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.policy.verdict import Question

QUESTIONS = 512  # open at the same time; how many of them are on their way is bounded by who asks (policy/introspect, policy/grants)
WAITERS = 8192  # for answers, all together
SHARE = 8  # one address has this part of both; a unix socket has none, as it may be everybody's


class Waiter:
    """One who waits for an answer."""

    __slots__ = ("address", "go_on")

    def __init__(self, go_on: Callable[[], None] | None, address: bytes) -> None:
        self.go_on = go_on
        self.address = address

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        self.go_on = None

    def answered(self) -> None:
        """It is here: who still wants it goes on."""
        if self.go_on is not None:
            self.go_on()


class Questions:
    """The questions of one process."""

    def __init__(self, loop: EdgeLoop) -> None:
        self._loop = loop
        self._asked: dict[str, list[Waiter]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._asking: Counter[bytes] = Counter()  # questions that an address asked first
        self._shares: Counter[bytes] = Counter()  # waiters of an address

    def ask(self, question: Question, go_on: Callable[[], None], address: bytes = b"") -> Waiter:
        """`go_on` is called from the loop once the question is answered. `address`: who waits (policy/limits.network). Raises ProxyError 503 when too much is
        being asked already."""
        waiters = self._asked.get(question.about)
        part = SHARE if address else 1
        if (
            self._waiting >= WAITERS
            or self._shares[address] >= WAITERS // part
            or (waiters is None and (len(self._asked) >= QUESTIONS or self._asking[address] >= QUESTIONS // part))
        ):
            raise ProxyError("too-many-questions", Side.INTERNAL, 503)
        waiter = Waiter(go_on, address)
        self._waiting += 1
        if address:
            self._shares[address] += 1
        if waiters is not None:
            waiters.append(waiter)
            return waiter
        self._asked[question.about] = [waiter]
        if address:
            self._asking[address] += 1
        task = self._loop.create_task(self._answer(question))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return waiter

    async def _answer(self, question: Question) -> None:
        try:
            await question.ask()
        finally:
            waiters = self._asked.pop(question.about)
            self._waiting -= len(waiters)
            _less(self._asking, waiters[0].address)
            for waiter in waiters:
                _less(self._shares, waiter.address)
                self._loop.call_soon(waiter.answered)


def _less(counts: Counter[bytes], address: bytes) -> None:
    """One less; who has none is not in the table."""
    if counts[address] > 1:
        counts[address] -= 1
    else:
        del counts[address]
