"""A TLS socket for two threads, one that sends and one that receives.

OpenSSL's connections are not made for two threads at once (before Python 3.13 nothing in the ssl module keeps them apart): records get damaged now
and then. Here each call has the connection for itself, and waits for the network without it.
"""

import select
import ssl
import threading
import time


class Duplex:
    """What a RawClient and a sender need of a socket."""

    def __init__(self, link: ssl.SSLSocket) -> None:
        self._link, self._lock, self._patience = link, threading.Lock(), 30.0
        link.setblocking(False)

    def settimeout(self, seconds: float) -> None:
        """For both directions."""
        self._patience = seconds

    def recv(self, size: int) -> bytes:
        end = time.monotonic() + self._patience
        while True:
            with self._lock:
                try:
                    return self._link.recv(size)
                except ssl.SSLWantReadError:
                    pass
            self._wait(end, read=True)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            end = time.monotonic() + self._patience
            with self._lock:
                try:
                    rest = rest[self._link.send(rest) :]
                    continue
                except ssl.SSLWantWriteError:
                    pass
            self._wait(end, read=False)

    def _wait(self, end: float, *, read: bool) -> None:
        ready = select.select([self._link] if read else [], [] if read else [self._link], [], max(0.0, end - time.monotonic()))
        if not any(ready):
            raise TimeoutError

    def close(self) -> None:
        self._link.close()
