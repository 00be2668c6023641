"""A connection from a trusted proxy, until its PROXY header is read: then it is whose it says (net/proxyline).

The header is looked at where it lies (MSG_PEEK) and taken exactly, so that TLS finds its first byte where it expects it. What is no header, or is not
there in time, closes the connection: nobody would know whose it is.
"""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, ClassVar

from mcpproxy.clock import monotonic
from mcpproxy.net.link import NO_SOCKET, Link
from mcpproxy.net.proxyline import V2_LONGEST, read

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Front


class Doorstep(Link):
    """It has not said yet for whom it speaks."""

    __slots__ = ("front", "host")
    served: ClassVar[int] = 0

    def __init__(self, front: Front, sock: socket.socket, host: str) -> None:
        super().__init__(front.loop, front.wheel, sock)
        self.front, self.host = front, host
        front.links.add(self)

    def begin(self) -> None:
        """Wait for the header."""
        self.wheel.arm(self, monotonic() + self.front.limits.handshake_timeout)
        self.reading = True
        self.loop.add_reader(self.fd, self.readable, drains=True)

    def readable(self) -> None:
        sock = self.sock
        try:
            data = sock.recv(V2_LONGEST, socket.MSG_PEEK)
            said = read(data)
            if said is None:
                if not data or self.ended():
                    self.close()
                return
            sock.recv(said.size)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()
            return
        front, host = self.front, said.client[0] if said.client is not None else self.host
        self.sock = NO_SOCKET  # the connection goes on without us
        self._release()
        try:
            front.welcome(sock, host)
        except OSError:  # it has left
            sock.close()

    def ended(self) -> bool:
        """Will no more come? Its end shows nowhere else while there are bytes to be read."""
        return bool(self.asked(select.POLLRDHUP))

    def due(self, now: float) -> float | None:
        self.close()
        return None

    def lost(self, error: OSError) -> None:
        self.close()

    def drained(self) -> None:
        """Nothing is ever written here."""

    def refit(self) -> None:
        """The listener has another configuration: it counts once we know whose connection this is."""

    def drain(self) -> None:
        """The process is ending; nothing has begun here."""
        self.close()

    end_now = drain

    def _release(self) -> None:
        self.front.links.discard(self)
        super()._release()
