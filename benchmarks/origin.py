"""Our own upstream for what a fixed answer cannot show: silent and ticking SSE streams, bulk bodies, and an echo of the head it saw.

    python -m benchmarks.origin PORT

GET /sse            chunked event stream: one event at once, then silence        GET /down/BYTES   chunked body of a known pattern
GET /sse?rate=5     the same, then that many events a second, evenly spread      POST /up          count and checksum of the body
GET /count          how many events were sent so far                             any  /echo        the head as it arrived

One epoll loop carries the streams; bulk bodies get a thread each (there is one at a time).
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import sys
import threading
import time
import zlib

from benchmarks.dechunk import Dechunker

BLOCK = random.Random(1).randbytes(64 * 1024)
EVENT = (
    b"event: message\n"
    b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":%08d,"total":100000000}}\n\n'
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
BULK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
TICK_S = 0.002  # how finely the events of one second are spread


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)


def pattern_crc(size: int) -> int:
    crc = 0
    for start in range(0, size, len(BLOCK)):
        crc = zlib.crc32(BLOCK[: size - start], crc)
    return crc


def json_answer(value: object, close: bool = False) -> bytes:
    body = json.dumps(value).encode()
    ending = b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), ending, body)


class Origin:
    def __init__(self, port: int) -> None:
        self.epoll = select.epoll()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self.listener.setblocking(False)
        self.epoll.register(self.listener, select.EPOLLIN)
        self.links: dict[int, socket.socket] = {}
        self.unread: dict[int, bytes] = {}
        self.ticking: list[socket.socket] = []
        self.rate = 0.0
        self.sent = 0

    def run(self) -> None:
        credit, turn, last = 0.0, 0, time.monotonic()
        while True:
            for fd, _ in self.epoll.poll(TICK_S if self.ticking else -1):
                if fd == self.listener.fileno():
                    self.accept()
                else:
                    self.readable(fd)
            now = time.monotonic()
            credit += (now - last) * self.rate * len(self.ticking)
            last = now
            while credit >= 1 and self.ticking:
                credit -= 1
                turn = (turn + 1) % len(self.ticking)
                try:
                    self.ticking[turn].send(chunk(EVENT % self.sent))
                    self.sent += 1
                except BlockingIOError:
                    pass  # a reader this slow shows up as a missing event
                except OSError:
                    self.forget(self.ticking[turn].fileno())

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except BlockingIOError:
                return
            link.setblocking(False)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links[link.fileno()] = link
            self.unread[link.fileno()] = b""
            self.epoll.register(link, select.EPOLLIN)

    def forget(self, fd: int) -> socket.socket:
        link = self.links.pop(fd)
        del self.unread[fd]
        self.epoll.unregister(fd)
        if link in self.ticking:
            self.ticking.remove(link)
        link.close()
        return link

    def readable(self, fd: int) -> None:
        try:
            data = self.links[fd].recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.forget(fd)
            return
        data = self.unread[fd] + data
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self.unread[fd] = data
            return
        self.unread[fd] = b""
        self.answer(fd, data[:end], data[end:])

    def answer(self, fd: int, head: bytes, rest: bytes) -> None:
        link, path = self.links[fd], head.split(b" ", 2)[1].decode()
        if path.startswith("/sse"):
            link.send(STREAM_HEAD + chunk(b"event: open\ndata: {}\n\n"))
            if rate := re.search(r"rate=([\d.]+)", path):
                self.rate = float(rate[1])
                self.ticking.append(link)
        elif path.startswith(("/down/", "/up")):
            del self.links[fd], self.unread[fd]
            self.epoll.unregister(fd)
            link.setblocking(True)
            threading.Thread(target=send_bulk if path.startswith("/down/") else take_bulk, args=(link, path, rest), daemon=True).start()
        elif path == "/count":
            link.send(json_answer(self.sent))
        else:
            link.send(json_answer(head.decode("latin-1").split("\r\n")[:-2]))


def send_bulk(link: socket.socket, path: str, rest: bytes) -> None:
    left, whole = int(path.rpartition("/")[2]), chunk(BLOCK)
    with link:
        link.sendall(BULK_HEAD)
        while left:
            size = min(left, len(BLOCK))
            link.sendall(whole if size == len(BLOCK) else chunk(BLOCK[:size]))
            left -= size
        link.sendall(b"0\r\n\r\n")


def take_bulk(link: socket.socket, path: str, rest: bytes) -> None:
    body = Dechunker()
    buffer = bytearray(256 * 1024)
    view = memoryview(buffer)
    with link:
        body.feed(memoryview(rest))
        while not body.done:
            size = link.recv_into(buffer)
            if not size:
                return
            body.feed(view[:size])
        link.sendall(json_answer({"bytes": body.count, "crc": body.crc}, close=True))


if __name__ == "__main__":
    Origin(int(sys.argv[1])).run()
