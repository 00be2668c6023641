"""What do the pure steps cost, one by one? `python -m benchmarks.micro [--profile STEP]`

Each step is a call of the real function on the head or body of the real load, best of several repeats, in µs; no socket is opened. The compile
steps are what a plan miss pays; the h2 steps what a call over HTTP/2 pays beyond the rest, once its heads are known; the scanner steps are paid
by every read. `--profile` shows where a step spends it.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import timeit
from collections.abc import Callable

import h11
from hpack import Encoder

from benchmarks import frames
from benchmarks.load import BODY, HEADERS
from mcpproxy.http.forward import render_request, render_response
from mcpproxy.http.framing import REQUEST, RESPONSE, ChunkedScanner, LengthScanner
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.http.head import HeadLimits, parse_request, parse_response
from mcpproxy.http.lane import Lane
from mcpproxy.observe.accesslog import Place, RowTuple
from mcpproxy.observe.accesslog import render as render_lines
from mcpproxy.observe.tally import Tally

REQUEST_HEAD = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8443\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    + f"X-Call: mcpproxy-1-123456\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode()
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 112\r\nConnection: keep-alive\r\n\r\n"
)
ANSWER = b"x" * 112
LIMITS = HeadLimits()
PIECE = b"x" * 65536
EVENT = b"85\r\n" + b"e" * 0x85 + b"\r\n"
REPEATS, LEAST_S = 7, 0.05


def h11_alone() -> None:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(REQUEST_HEAD)
    reader.next_event()


class Upstream:
    """Answers each call at its end: the edge that an HTTP/2 connection speaks to, without sockets."""

    def __init__(self, kind: type[Connection]) -> None:
        self.connection, self.stream, self.answered = kind(self, H2Limits()), -1, 0
        self.connection.begin()
        self.connection.receive(frames.OPENING + frames.frame(frames.SETTINGS, frames.ACK, 0))
        coder = Encoder()
        pseudo = {":method": "POST", ":scheme": "https", ":authority": "127.0.0.1:8443", ":path": "/mcp"}
        fields = {**pseudo, **{name.lower(): value for name, value in HEADERS.items()}, "content-length": str(len(BODY))}
        for _ in range(3):  # from then on the block is all indices, and changes no table
            self.block = coder.encode(fields.items())
            self.call()
        assert self.answered == 3, self.connection.reason

    def call(self) -> None:
        self.stream += 2
        head = frames.frame(frames.HEADERS, frames.END_HEADERS, self.stream, self.block)
        self.connection.receive(head + frames.frame(frames.DATA, frames.END_STREAM, self.stream, BODY.encode()))
        b"".join(self.connection.out)
        self.connection.out.clear()

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        self.connection.delivered(stream, len(data))
        self.answered += self.connection.answer(stream, RESPONSE_HEAD, ANSWER)

    def on_call(self, stream: int, head: bytes, body: bytes) -> None:
        self.on_body(stream, body, True)

    def on_head(self, stream: int, head: bytes, ended: bool) -> None: ...

    def on_trailers(self, stream: int, fields: list[tuple[bytes, bytes]]) -> None: ...

    def on_reset(self, stream: int, code: int) -> None: ...

    def on_window(self, stream: int) -> None: ...


def steps() -> dict[str, Callable[[], object]]:
    request, response = parse_request(REQUEST_HEAD, LIMITS), parse_response(RESPONSE_HEAD, b"POST")
    length, chunked, sending = LengthScanner(1 << 62), ChunkedScanner(RESPONSE), ChunkedScanner(REQUEST)
    counts, place = Tally().count, Place("search", "search")
    rows: list[RowTuple] = [
        (b"about", b"client", b"id", 100.0, 100.0 + at / 1e5, 100.0 + at / 1e5, 200, 500, 300, b'"127.0.0.1:80"', 1, b"done", b"", place)
        for at in range(128)
    ]
    block = b"10000\r\n" + PIECE + b"\r\n"
    return {
        "h11 alone": h11_alone,
        "parse_request": lambda: parse_request(REQUEST_HEAD, LIMITS),
        "render_request": lambda: render_request(request, target=b"/mcp", host=b"127.0.0.1:8000", proto=b"https", upgrade=False),
        "parse_response": lambda: parse_response(RESPONSE_HEAD, b"POST"),
        "render_response": lambda: render_response(response, close=False, client_version=11, dechunk=False),
        "h2 lane, one call": Upstream(Lane).call,
        "h2 library, one call": Upstream(Connection).call,
        "render 128 log lines": lambda: render_lines(rows, 1e9),
        "count 128 rows": lambda: counts(rows),
        "scan length, 64 KiB": lambda: length.feed(PIECE),
        "scan one event": lambda: chunked.feed(EVENT),
        "scan a 64 KiB chunk": lambda: sending.feed(block),
    }


def cost_us(step: Callable[[], object]) -> float:
    timer = timeit.Timer(step)
    number = 1
    while timer.timeit(number) < LEAST_S:
        number *= 4
    return min(timer.repeat(REPEATS, number)) / number * 1e6


def main() -> int:
    known = steps()
    if sys.argv[1:2] == ["--profile"]:
        step = known[sys.argv[2]]
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(20_000):
            step()
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
        return 0
    for name, step in known.items():
        print(f"{name:22}{cost_us(step):8.2f} µs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
