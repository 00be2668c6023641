"""MCP as a client speaks it, without an SDK: what a client of a benchmark costs must not hide what is measured."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any
from urllib.parse import urlsplit

VERSION = "2025-06-18"
INITIALIZE = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
WARM, CALLS = 50, 300
SAYS = {"message": "hello hello hello hello"}


class Session:
    """One legacy session over Streamable HTTP, on one connection."""

    def __init__(self, url: str, *, tool: str = "echo") -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path, self._tool = parts.hostname or "", parts.port or 80, parts.path, tool
        self.id = ""
        self._number = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._stream: asyncio.StreamWriter | None = None

    @staticmethod
    async def several(url: str, count: int) -> tuple[list[str], str]:
        """Their ids, and what `echo` is called there."""
        sessions = [Session(url) for _ in range(count)]
        names: list[str] = []
        for each in sessions:
            await each.open()
            names = names or [tool["name"] for tool in (await each.ask("tools/list", {}))["tools"]]
            each.close()
        return [each.id for each in sessions], next(name for name in names if name.endswith("echo"))

    async def open(self) -> None:
        """initialize, initialized."""
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=64 << 20)
        await self.ask("initialize", INITIALIZE)
        await self._exchange({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def listen(self) -> None:
        """Open, with the GET stream on another connection, and this one closed."""
        await self.open()
        assert self._writer is not None
        self._writer.close()
        reader, self._stream = await asyncio.open_connection(self._host, self._port)
        self._stream.write(self._head("GET", f"Accept: text/event-stream\r\nMcp-Session-Id: {self.id}\r\n"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head

    async def latency(self) -> float:
        """Median µs of tools/call, one after the other."""
        await self.open()
        times = []
        for number in range(WARM + CALLS):
            began = time.perf_counter()
            said = await self.raw("tools/call", {"name": self._tool, "arguments": SAYS})
            if number >= WARM:
                times.append(time.perf_counter() - began)
            assert b"hello hello" in said, said
        self.close()
        return statistics.median(times) * 1e6

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Its result."""
        said = await self.raw(method, params)
        for line in said.splitlines() if not said.startswith(b"{") else [b"data: " + said]:
            if line.startswith(b"data: {"):
                message = json.loads(line[6:])
                if "result" in message:
                    result: dict[str, Any] = message["result"]
                    return result
        raise RuntimeError(f"{method}: {said[:500]!r}")

    async def raw(self, method: str, params: dict[str, Any]) -> bytes:
        """The body of the answer."""
        self._number += 1
        return await self._exchange({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})

    async def _exchange(self, message: dict[str, Any]) -> bytes:
        assert self._writer is not None
        assert self._reader is not None
        body = json.dumps(message).encode()
        session = f"Mcp-Session-Id: {self.id}\r\nMcp-Protocol-Version: {VERSION}\r\n" if self.id else ""
        fields = (
            f"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n{session}Content-Length: {len(body)}\r\n"
        )
        self._writer.write(self._head("POST", fields) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if lines[0].split()[1][0] != "2":
            raise RuntimeError(f"{message['method']}: {head!r}")
        found = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        if "mcp-session-id" in found:
            self.id = next(line.split(": ", 1)[1] for line in lines if line.lower().startswith("mcp-session-id"))
        if found.get("transfer-encoding") != "chunked":
            return await self._reader.readexactly(int(found.get("content-length", "0")))
        pieces = []
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            pieces.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readuntil(b"\r\n")
        return b"".join(pieces)

    def _head(self, method: str, fields: str) -> bytes:
        return f"{method} {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{fields}\r\n".encode()

    def close(self) -> None:
        """Its connections; the session stays."""
        for writer in (self._writer, self._stream):
            if writer is not None:
                writer.close()
