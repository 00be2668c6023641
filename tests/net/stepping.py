"""A real event loop that tests drive by small steps, so that what happens next is the test's decision.

`Steps.until(question)` turns the loop until the question is answered with something true; `Steps.turn()` lets it look at its descriptors once.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from mcpproxy.net.loop import new_loop
from mcpproxy.net.timers import Wheel

DEADLINE = 30.0  # seconds, reached only by a test that fails


class Steps:
    """A loop and a wheel."""

    def __init__(self) -> None:
        self.loop = new_loop()
        self.wheel = Wheel(time.monotonic())
        self.trouble: list[Any] = []  # exceptions that left a callback: every one of them is a bug
        self.loop.set_exception_handler(lambda _, context: self.trouble.append(context))
        self._closing: list[socket.socket] = []

    def turn(self, times: int = 1) -> None:
        """Look at all descriptors once and run what became ready."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, question: Callable[[], Any], what: str = "") -> Any:
        """Turn until the answer is true."""
        end = time.monotonic() + DEADLINE
        while not (answer := question()):
            assert time.monotonic() < end, f"did not come to pass: {what or question}"
            self.loop.call_later(0.001, self.loop.stop)
            self.loop.run_forever()
        return answer

    def for_a_while(self, seconds: float) -> None:
        """Run; for claims that nothing happens."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run_forever()

    def owned(self, *socks: socket.socket) -> None:
        """Close these at the end of the test."""
        self._closing += socks

    def close(self) -> None:
        """The end of the test; nothing may have gone wrong unseen. What is still being asked of the world is cancelled, as `asyncio.run` would do: else the
        collector finds it later, in a test that knows nothing of it."""
        self.turn()
        self.loop.run_until_complete(_cancel_others())
        for sock in self._closing:
            sock.close()
        self.loop.close()
        asyncio.set_event_loop(None)
        assert not self.trouble, self.trouble


async def _cancel_others() -> None:
    """Every task but this one, to its end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def tcp_pair(steps: Steps) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets over loopback: the first non-blocking for a link, the second blocking with a deadline for the test."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname(), timeout=DEADLINE)
        ours, _ = server.accept()
    ours.setblocking(False)
    steps.owned(ours, theirs)
    return ours, theirs


def read_all(sock: socket.socket) -> bytes:
    """Everything until the end."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)
