"""Move one big body through a TLS proxy and compare its length and checksum at both ends: chunked, or in the DATA frames of HTTP/2.

python -m benchmarks.transfer PORT down|up|h2down BYTES     -> {"bytes": ..., "crc": ..., "seconds": ...}
"""

from __future__ import annotations

import json
import socket
import sys
import time
import zlib

from benchmarks import frames
from benchmarks.dechunk import Dechunker
from benchmarks.origin import BLOCK, chunk
from benchmarks.verify import client_context

HEAD = "%s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: python-httpx/0.28.1\r\n%s\r\n"


def connect(port: int) -> socket.socket:
    raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client_context().wrap_socket(raw)


def response_head(link: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = link.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {data!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(head.decode(errors="replace"))
    return head, rest


def download(port: int, size: int) -> dict[str, int]:
    body, buffer = Dechunker(), bytearray(256 * 1024)
    view = memoryview(buffer)
    with connect(port) as link:
        link.sendall((HEAD % (f"GET /down/{size}", "")).encode())
        head, rest = response_head(link)
        if b"chunked" not in head.lower():
            raise ConnectionError("the body did not come chunked")
        body.feed(memoryview(rest))
        while not body.done:
            got = link.recv_into(buffer)
            if not got:
                raise ConnectionError(f"the body ended after {body.count} bytes")
            body.feed(view[:got])
    return {"bytes": body.count, "crc": body.crc}


def download_h2(port: int, size: int) -> dict[str, int]:
    count = crc = 0
    found: dict[str, str] = {}
    with frames.Client(port, client_context("h2")) as client:
        if not client.speaks:
            raise ConnectionError("no HTTP/2")
        client.ask("GET", f"/down/{size}", {"User-Agent": "python-httpx/0.28.1"})
        for payload in client.body(found):
            count += len(payload)
            crc = zlib.crc32(payload, crc)
    if found[":status"] != "200":
        raise ConnectionError(found[":status"])
    return {"bytes": count, "crc": crc}


def upload(port: int, size: int) -> dict[str, int]:
    whole = chunk(BLOCK)
    with connect(port) as link:
        link.sendall((HEAD % ("POST /up", "Transfer-Encoding: chunked\r\n")).encode())
        for start in range(0, size, len(BLOCK)):
            left = size - start
            link.sendall(whole if left >= len(BLOCK) else chunk(BLOCK[:left]))
        link.sendall(b"0\r\n\r\n")
        _, rest = response_head(link)
        while not rest.endswith(b"}"):
            rest += link.recv(65536)
    said: dict[str, int] = json.loads(rest)
    return said


if __name__ == "__main__":
    began = time.monotonic()
    result = {"down": download, "up": upload, "h2down": download_h2}[sys.argv[2]](int(sys.argv[1]), int(sys.argv[3]))
    print(json.dumps({**result, "seconds": time.monotonic() - began}))
