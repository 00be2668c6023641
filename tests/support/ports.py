"""Addresses nobody else uses, and addresses where nobody answers.

A free port is found by binding to it and letting go; the daemon binds it moments later. Ports are not handed out twice in one run. Runs in several
processes (pytest-xdist) draw from ranges of their own, below those the kernel draws from, so nobody takes a port between the two binds.
"""

import contextlib
import os
import socket
from collections.abc import Iterator

FIRST, RANGE, WORKERS = 10_000, 2_000, 11  # up to 32 000; the kernel's own begins at 32 768
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_next = os.getpid() * 7919 % RANGE  # two runs at the same time begin at different places


def free_port(host: str = "127.0.0.1") -> int:
    global _next
    for _ in range(RANGE):
        port = FIRST + _worker * RANGE + _next
        _next = (_next + 1) % RANGE
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe, contextlib.suppress(OSError):
            probe.bind((host, port))
            return port
    raise AssertionError(f"no free port in the range of worker {_worker}")


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is taken but not listening: connecting is refused at once, and nobody else can get it meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose accept queue is full: the kernel drops further SYNs, so connecting neither succeeds nor fails."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(8):  # a backlog of 0 holds one or two; the rest of these hang in SYN_SENT, which proves the queue is full
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
