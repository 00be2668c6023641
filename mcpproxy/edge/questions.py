"""What the world must be asked before a request may go on: asked once for all who wait, and never on the hot path.

A policy that cannot decide names a Question (policy/verdict). The exchange waits here, as it would for a link: it can be cancelled, it has a deadline
(the question's own), and how many questions and waiters there are is bounded; beyond the bound the request is answered 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mcpproxy.errors import ProxyError, Side
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.policy.verdict import Question

QUESTIONS = 64  # asked at the same time; an issuer that hangs is asked little
WAITERS = 1024  # for answers, all together


class Waiter:
    """One who waits for an answer."""

    __slots__ = ("go_on",)

    def __init__(self, go_on: Callable[[], None] | None) -> None:
        self.go_on = go_on

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

    def ask(self, question: Question, go_on: Callable[[], None]) -> Waiter:
        """`go_on` is called from the loop once the question is answered. Raises ProxyError 503 when too much is being asked already."""
        waiters = self._asked.get(question.about)
        if self._waiting >= WAITERS or (waiters is None and len(self._asked) >= QUESTIONS):
            raise ProxyError("too-many-questions", Side.INTERNAL, 503)
        waiter = Waiter(go_on)
        self._waiting += 1
        if waiters is not None:
            waiters.append(waiter)
            return waiter
        self._asked[question.about] = [waiter]
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
            for waiter in waiters:
                self._loop.call_soon(waiter.answered)
