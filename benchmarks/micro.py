"""What do the pure steps cost, one by one? `python -m benchmarks.micro [--profile STEP]`

Each step is a call of the real function on the head or body of the real load, best of several repeats, in µs; no socket is opened. The compile
steps are what a plan miss pays; the scanner steps are paid by every read. `--profile` shows where a step spends it.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import timeit
from collections.abc import Callable

import h11

from benchmarks.load import BODY, HEADERS
from mcpproxy.http.forward import render_request, render_response
from mcpproxy.http.framing import REQUEST, RESPONSE, ChunkedScanner, LengthScanner
from mcpproxy.http.head import HeadLimits, parse_request, parse_response

REQUEST_HEAD = (
    "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8443\r\n"
    + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    + f"X-Call: mcpproxy-1-123456\r\nContent-Length: {len(BODY)}\r\n\r\n"
).encode()
RESPONSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 10:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: 112\r\nConnection: keep-alive\r\n\r\n"
)
LIMITS = HeadLimits()
PIECE = b"x" * 65536
EVENT = b"85\r\n" + b"e" * 0x85 + b"\r\n"
REPEATS, LEAST_S = 7, 0.05


def h11_alone() -> None:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(REQUEST_HEAD)
    reader.next_event()


def steps() -> dict[str, Callable[[], object]]:
    request, response = parse_request(REQUEST_HEAD, LIMITS), parse_response(RESPONSE_HEAD, b"POST")
    length, chunked, sending = LengthScanner(1 << 62), ChunkedScanner(RESPONSE), ChunkedScanner(REQUEST)
    block = b"10000\r\n" + PIECE + b"\r\n"
    return {
        "h11 alone": h11_alone,
        "parse_request": lambda: parse_request(REQUEST_HEAD, LIMITS),
        "render_request": lambda: render_request(request, target=b"/mcp", host=b"127.0.0.1:8000", proto=b"https", upgrade=False),
        "parse_response": lambda: parse_response(RESPONSE_HEAD, b"POST"),
        "render_response": lambda: render_response(response, close=False, client_version=11, dechunk=False),
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
