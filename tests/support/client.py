"""A client that sends exactly the bytes it is told to, over TCP, unix sockets or TLS, and knows how an answer ended.

Every read has a deadline. `how` after an end of input: "" still open, "fin" (FIN, or close_notify on TLS), "reset" (RST), "cut" (a TLS
connection that ended without close_notify).
"""

import socket
import ssl
import struct
import time
from typing import Self

from tests.support.message import Message, read_response
from tests.support.waiting import DEADLINE

Address = int | str | tuple[str, int]


class RawClient:
    def __init__(self, address: Address, *, tls: ssl.SSLContext | None = None, name: str = "localhost", receive_buffer: int = 0) -> None:
        """`address`: a loopback port, a (host, port), or the path of a unix socket."""
        where = ("127.0.0.1", address) if isinstance(address, int) else address
        family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        self.raw = socket.socket(family)
        if receive_buffer:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.raw.settimeout(DEADLINE)
        self.raw.connect(where)
        if family != socket.AF_UNIX:
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.link: socket.socket = tls.wrap_socket(self.raw, server_hostname=name, suppress_ragged_eofs=False) if tls else self.raw
        self.buffer = b""  # received, not yet consumed
        self.how = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sending

    def send(self, data: bytes) -> "RawClient":
        self.link.sendall(data)
        return self

    def try_send(self, data: bytes) -> bool:
        """Send, and accept that the other side may have hung up already (it may refuse before it has read everything)."""
        try:
            self.link.sendall(data)
        except OSError:
            return False
        return True

    def half_close(self) -> "RawClient":
        """FIN, keep reading. On TLS this would need close_notify first; tests of TLS use `close` or `reset`."""
        self.link.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """RST: SO_LINGER 0, then close."""
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.link.close()

    def close(self) -> None:
        self.link.close()

    # --- receiving

    def receive(self, deadline_s: float = DEADLINE) -> bool:
        """Read once into the buffer; False at the end of input, TimeoutError past the deadline."""
        if self.how:
            return False
        self.link.settimeout(max(deadline_s, 0.001))
        try:
            data = self.link.recv(65536)
        except TimeoutError:
            raise
        except (ConnectionError, ssl.SSLError) as error:
            cut = isinstance(error, ssl.SSLEOFError) or "UNEXPECTED_EOF" in str(
                getattr(error, "reason", "")
            )  # as Python before 3.11.3 says it
            self.how = "cut" if cut else "reset"
            return False
        if not data:
            self.how = "fin"
            return False
        self.buffer += data
        return True

    def read_until(self, marker: bytes, deadline_s: float = DEADLINE) -> bytes:
        """Everything up to and including `marker`, consumed; AssertionError if input ends first."""
        end = time.monotonic() + deadline_s
        while marker not in self.buffer:
            assert self.receive(end - time.monotonic()), f"input ended ({self.how}) before {marker!r}: {self.buffer!r}"
        at = self.buffer.index(marker) + len(marker)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def read_exact(self, count: int, deadline_s: float = DEADLINE) -> bytes:
        end = time.monotonic() + deadline_s
        while len(self.buffer) < count:
            assert self.receive(end - time.monotonic()), f"input ended ({self.how}) after {len(self.buffer)} of {count} bytes"
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_to_end(self, deadline_s: float = DEADLINE) -> bytes:
        """Everything until the other side closes (see `how`)."""
        end = time.monotonic() + deadline_s
        while self.receive(end - time.monotonic()):
            pass
        data, self.buffer = self.buffer, b""
        return data

    def response(self, method: bytes = b"GET", deadline_s: float = DEADLINE) -> Message:
        """The next final response, whole or cut (`ended`); ConnectionError when input ends before its head."""
        end = time.monotonic() + deadline_s
        size = -1
        while True:
            if len(self.buffer) >= size:  # parse again only when there is more; bodies of megabytes stay linear enough
                message, rest = read_response(self.buffer, method=method, eof=self.how == "fin")
                if message is not None and (message.ended or self.how):
                    self.buffer = rest
                    return message
            if self.how:
                raise ConnectionError(f"no response head: {self.how}, {self.buffer!r}")
            self.receive(end - time.monotonic())

    def exchange(self, request: bytes, *, deadline_s: float = DEADLINE) -> Message:
        """Send a whole request, return its response."""
        self.send(request)
        return self.response(request.split(b" ", 1)[0], deadline_s)

    def is_closed(self, deadline_s: float = DEADLINE) -> bool:
        """Does the other side close, without sending anything more?"""
        return not self.receive(deadline_s) and not self.buffer


def post(body: bytes = b"{}", *, path: str = "/mcp", host: str = "localhost", extra: str = "") -> bytes:
    """A tools/call as agents send it. `extra` holds whole lines, each with its CRLF."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def get(path: str = "/mcp", *, host: str = "localhost", extra: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode()
