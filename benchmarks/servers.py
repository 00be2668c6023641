"""MCP servers with next to nothing behind them, so that what is measured is what stands in front.

    python -m benchmarks.servers stdio              one child, lines in and out
    python -m benchmarks.servers http PORT TOOLS    Streamable HTTP without sessions (JSON answers), with so many tools beside `echo`

Both eras: `server/discover` is unknown to them, as it is to most servers there are, so they are asked by `initialize`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

VERSION = "2025-06-18"
SCHEMA = {"type": "object", "properties": {"message": {"type": "string"}}, "required": ["message"]}
length_of = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE).search


def answer(message: dict[str, Any], tools: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What is said to it; None: nothing."""
    if "id" not in message or "method" not in message:
        return None
    method, result = message["method"], None
    if method == "tools/call":
        result = {"content": [{"type": "text", "text": str(message["params"].get("arguments", {}).get("message", ""))}], "isError": False}
    elif method == "initialize":
        info = {"name": "bench", "version": "1"}
        result = {"protocolVersion": VERSION, "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": tools}
    elif method == "ping":
        result = {}
    said = {"jsonrpc": "2.0", "id": message["id"]}
    return said | ({"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result})


def tools(count: int) -> list[dict[str, Any]]:
    """`echo`, and others of an ordinary size."""
    told = "Does what its name says, slowly and with care; the text is as long as descriptions are. " * 2
    others = [{"name": f"tool_{number:03}", "description": told, "inputSchema": SCHEMA} for number in range(count)]
    return [{"name": "echo", "description": "Says it again.", "inputSchema": SCHEMA}, *others]


def stdio() -> None:
    """Until stdin ends."""
    known, out = tools(0), sys.stdout.buffer
    for line in sys.stdin.buffer:
        said = answer(json.loads(line), known)
        if said is not None:
            out.write(json.dumps(said).encode() + b"\n")
            out.flush()


class Visit(asyncio.Protocol):
    """A connection. It believes its peers: they are the contenders, on loopback."""

    def __init__(self, known: list[dict[str, Any]]) -> None:
        self._known, self._data = known, b""

    def connection_made(self, transport: asyncio.WriteTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            found = length_of(head)
            size = int(found[1]) if found else 0
            if len(self._data) < end + 4 + size:
                return
            body, self._data = self._data[end + 4 : end + 4 + size], self._data[end + 4 + size :]
            self._transport.write(self._say(head, body))

    def _say(self, head: bytes, body: bytes) -> bytes:
        if not head.startswith(b"POST"):
            return b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"
        said = answer(json.loads(body), self._known)
        if said is None:
            return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        text = json.dumps(said).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


async def http(port: int, count: int) -> None:
    """Until it is ended."""
    known = tools(count)
    server = await asyncio.get_running_loop().create_server(lambda: Visit(known), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        stdio()
    else:
        import uvloop

        uvloop.run(http(int(sys.argv[2]), int(sys.argv[3])))
