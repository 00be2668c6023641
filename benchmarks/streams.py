"""Hold many TLS event streams open and count what arrives: the client side of sse_idle, sse_events and idle_neighbours.

    python -m benchmarks.streams PORT COUNT PATH [h2]

Says one JSON line when all streams have their first event, then one after each line on its standard input: events seen so far,
streams lost. Each stream has a connection of its own, over HTTP/2 too. One epoll loop, TLS driven non-blocking; an event counts when
its empty line has arrived.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import frames, machine
from benchmarks.lab import HERE, OPEN_LIMIT_S, raise_open_files
from benchmarks.load import BadRun
from benchmarks.verify import client_context

AT_ONCE = 32  # handshakes under way at a time: a burst is not what is measured
FIELDS = {"Accept": "text/event-stream", "User-Agent": "python-httpx/0.28.1"}


class Stream:
    """HTTP/1.1: what arrives is counted as it is."""

    __slots__ = ("events", "link", "tail")
    alpn = "http/1.1"

    def __init__(self, link: ssl.SSLSocket) -> None:
        self.link, self.events, self.tail = link, 0, b""

    def request(self, path: str, fields: dict[str, str]) -> bytes:
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def payload(self, data: bytes) -> bytes:
        return data


class Multiplexed(Stream):
    """HTTP/2, with one stream: what its DATA frames hold is counted."""

    __slots__ = ("frames",)
    alpn = "h2"

    def __init__(self, link: ssl.SSLSocket) -> None:
        super().__init__(link)
        self.frames = frames.Frames()

    def request(self, path: str, fields: dict[str, str]) -> bytes:
        return frames.OPENING + frames.head(1, "GET", path, fields, ended=True)

    def payload(self, data: bytes) -> bytes:
        found = self.frames.feed(data)
        if self.frames.owed:
            self.link.send(self.frames.owed)
            self.frames.owed = b""
        if any(flags & frames.END_STREAM for kind, flags, _, _ in found if kind in (frames.DATA, frames.HEADERS)):
            raise frames.Gone("the stream ended")
        return b"".join([payload for kind, _, _, payload in found if kind == frames.DATA])


class Streams:
    def __init__(self, port: int, path: str, kind: type[Stream]) -> None:
        self.port, self.path, self.kind = port, path, kind
        self.context = client_context(kind.alpn)
        self.epoll = select.epoll()
        self.epoll.register(0, select.EPOLLIN)
        self.streams: dict[int, Stream] = {}
        self.shaking: dict[int, ssl.SSLSocket] = {}
        self.ready = self.events = self.lost = 0

    def open(self) -> None:
        raw = socket.create_connection(("127.0.0.1", self.port))
        raw.setblocking(False)
        link = self.context.wrap_socket(raw, do_handshake_on_connect=False)
        self.shaking[link.fileno()] = link
        self.epoll.register(link, select.EPOLLIN)
        self.shake(link.fileno())

    def shake(self, fd: int) -> None:
        link = self.shaking[fd]
        try:
            link.do_handshake()
        except ssl.SSLWantReadError:
            return
        del self.shaking[fd]
        if self.kind is Multiplexed and link.selected_alpn_protocol() != "h2":
            sys.exit(f"port {self.port} does not speak HTTP/2")
        stream = self.streams[fd] = self.kind(link)
        link.send(stream.request(self.path, {**FIELDS, "Mcp-Session-Id": f"{fd:032x}"}))

    def readable(self, fd: int) -> None:
        stream = self.streams[fd]
        try:
            data = stream.link.recv(16384)
            body = stream.payload(data)
        except ssl.SSLWantReadError:
            return
        except OSError:
            data = b""
        if not data:
            self.lost += 1
            self.epoll.unregister(fd)
            del self.streams[fd]
            return
        whole = stream.tail + body
        seen = whole.count(b"\n\n")  # never in chunk framing, whose lines end in CRLF
        stream.tail = whole[-1:] if not whole.endswith(b"\n\n") else b""
        if seen:
            self.ready += stream.events == 0
            stream.events += seen
            self.events += seen

    def run(self, count: int) -> None:
        opened, told = 0, False
        while True:
            while opened < count and opened - self.ready < AT_ONCE:
                self.open()
                opened += 1
            if not told and self.ready == count:
                told = True
                self.say()
            for fd, _ in self.epoll.poll():
                if fd == 0:
                    if not os.read(0, 64):
                        return
                    self.say()
                elif fd in self.shaking:
                    self.shake(fd)
                elif fd in self.streams:
                    self.readable(fd)

    def say(self) -> None:
        print(json.dumps({"events": self.events, "lost": self.lost}), flush=True)


@dataclass(frozen=True, slots=True)
class Client:
    """The other process, seen from here."""

    process: subprocess.Popen[bytes]

    def events(self) -> int:
        """Events so far. A stream that has ended is a failure."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BadRun("the stream client ended; see its message above")
        said = json.loads(line)
        if said["lost"]:
            raise BadRun(f"{said['lost']} streams were closed")
        return int(said["events"])


@contextmanager
def held(port: int, count: int, path: str, *, h2: bool = False) -> Iterator[Client]:
    """COUNT streams, open and past their first event."""
    command = [sys.executable, "-m", "benchmarks.streams", str(port), str(count), path, *(["h2"] if h2 else [])]
    core = machine.cores()[1]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HERE.parent,
        env=machine.environment(),
        preexec_fn=machine.take_place(core),
    )
    client = Client(process)
    try:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], OPEN_LIMIT_S)[0]:
            raise BadRun(f"{count} streams did not open within {OPEN_LIMIT_S:.0f} s")
        client.heard()
        yield client
    finally:
        process.kill()
        process.wait()
        time.sleep(0.2)  # the kernel is closing its sockets; the next figure should not pay for that


if __name__ == "__main__":
    raise_open_files()
    Streams(int(sys.argv[1]), sys.argv[3], Multiplexed if sys.argv[4:] == ["h2"] else Stream).run(int(sys.argv[2]))
