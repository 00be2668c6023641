"""New connections as fast as 16 slots go: connect, TLS 1.3 handshake, one call, close.

    python -m benchmarks.handshake PORT SECONDS full|resumed    -> {"done": ..., "resumed": ..., "failed": ..., "seconds": ...}

`resumed` takes one ticket from a first connection and offers it on every later one.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time

from benchmarks.lab import ANSWER
from benchmarks.load import BODY, HEADERS
from benchmarks.verify import client_context

SLOTS = 16
CALL = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    + f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
).encode()


class Handshakes:
    def __init__(self, port: int, resume: bool) -> None:
        self.address = ("127.0.0.1", port)
        self.context = client_context()
        self.epoll = select.epoll()
        self.session: ssl.SSLSession | None = None
        self.shaking: dict[int, ssl.SSLSocket] = {}
        self.calling: dict[int, ssl.SSLSocket] = {}
        self.done = self.resumed = self.failed = 0
        if resume:
            self.session = self.first_ticket()

    def first_ticket(self) -> ssl.SSLSession:
        with self.context.wrap_socket(socket.create_connection(self.address)) as link:
            link.sendall(CALL)
            link.recv(65536)
            if link.session is None or not link.session.has_ticket:
                raise SystemExit("no session ticket was given")
            return link.session

    def run(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            while len(self.shaking) + len(self.calling) < SLOTS:
                self.connect()
            for fd, _ in self.epoll.poll(1):
                try:
                    self.shake(fd) if fd in self.shaking else self.answered(fd)
                except ssl.SSLWantReadError:
                    continue
                except OSError:
                    self.failed += 1
                    (self.shaking.pop(fd, None) or self.calling.pop(fd)).close()

    def connect(self) -> None:
        raw = socket.create_connection(self.address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setblocking(False)
        link = self.context.wrap_socket(raw, do_handshake_on_connect=False, session=self.session)
        self.shaking[link.fileno()] = link
        self.epoll.register(link, select.EPOLLIN)
        try:
            self.shake(link.fileno())
        except ssl.SSLWantReadError:
            pass

    def shake(self, fd: int) -> None:
        link = self.shaking[fd]
        link.do_handshake()
        self.resumed += bool(link.session_reused)
        link.send(CALL)
        self.calling[fd] = self.shaking.pop(fd)

    def answered(self, fd: int) -> None:
        data = self.calling[fd].recv(65536)
        good = data.startswith(b"HTTP/1.1 200 ") and data.endswith(ANSWER.encode())
        self.done += good
        self.failed += not good
        self.calling.pop(fd).close()


if __name__ == "__main__":
    began = time.monotonic()
    client = Handshakes(int(sys.argv[1]), sys.argv[3] == "resumed")
    client.run(float(sys.argv[2]))
    print(json.dumps({"done": client.done, "resumed": client.resumed, "failed": client.failed, "seconds": time.monotonic() - began}))
