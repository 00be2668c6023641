"""Addresses nobody else uses, and addresses where nobody answers.

A free port is found by binding to 0 and letting go; the daemon binds it moments later. Ports are not handed out twice in one run.
"""

import contextlib
import socket
from collections.abc import Iterator

_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    while True:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


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
