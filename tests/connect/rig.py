"""A server far away whose every answer a test writes, and a desk: the bridge with its client's hands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mcpproxy.connect.bridge import Bridge, SessionMaker
from mcpproxy.connect.older import Older
from mcpproxy.connect.remote import Credential, Nobody, Remote
from mcpproxy.connect.streamable import Streamable
from mcpproxy.connect.wire import Wire

DEADLINE_S = 20.0
MODERN = "2026-07-28"
ENVELOPE = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}


@dataclass
class Seen:
    """A request."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What is written back."""

    writer: asyncio.StreamWriter
    keeps: bool = True
    streaming: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def plain(self, status: int, body: bytes = b"", **fields: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()

    async def json(self, what: Any, status: int = 200, **fields: str) -> None:
        await self.plain(status, json.dumps(what, ensure_ascii=False).encode(), Content_Type="application/json", **fields)

    async def result(self, seen: Seen, result: Any, **fields: str) -> None:
        await self.json({"jsonrpc": "2.0", "id": seen.message["id"], "result": result}, **fields)

    async def stream(self, **fields: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n{lines}\r\n".encode())
        await self.writer.drain()
        self.streaming = True

    async def event(self, what: Any, id: str = "", type: str = "", retry: int | None = None) -> None:
        data = what if isinstance(what, str) else json.dumps(what, ensure_ascii=False)
        said = (f"event: {type}\n" if type else "") + (f"id: {id}\n" if id else "") + (f"retry: {retry}\n" if retry is not None else "")
        event = f"{said}data: {data}\n\n".encode()
        self.writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await self.writer.drain()

    def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        self.streaming = False

    def cut(self) -> None:
        self.writer.transport.abort()


async def later(question: Callable[[], Any], what: Callable[[], str] | str = "") -> Any:
    """The first truthy answer."""
    end = asyncio.get_running_loop().time() + DEADLINE_S
    while not (found := question()):
        assert asyncio.get_running_loop().time() < end, what if isinstance(what, str) else what()
        await asyncio.sleep(0.005)
    return found


Handler = Callable[[Seen, Answer], Awaitable[None]]


class Far:
    """The server. `answer` is the test's; it may be changed on the way."""

    def __init__(self, answer: Handler) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in [*self._writers]:
            writer.transport.abort()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def of(self, method: str) -> list[Seen]:
        """Requests whose message has this method."""
        return [each for each in self.seen if each.body and each.message.get("method") == method]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                seen, answer = Seen(method, target, fields, body), Answer(writer)
                self.seen.append(seen)
                watching = asyncio.ensure_future(self._watch(reader, answer))
                await self.answer(seen, answer)
                if answer.streaming:
                    await answer.gone.wait()
                    return
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    @staticmethod
    async def _watch(reader: asyncio.StreamReader, answer: Answer) -> None:
        while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - a look at it would take what belongs to the next request
            await asyncio.sleep(0.005)
        answer.gone.set()


class Desk:
    """The client's side."""

    def __init__(
        self, url: str, credential: Credential | None = None, *, transport: str = "auto", patience: float = 10.0, **more: Any
    ) -> None:
        self.said: list[str] = []
        self.lines: list[bytes] = []
        self.wire = Wire(environment={})
        remote = Remote(self.wire, url, more.pop("fields", b""), credential or Nobody(), self.said.append, patience=patience, **more)
        first: SessionMaker = Older if transport == "sse" else Streamable
        self.bridge = Bridge(remote, self._put, first=first, older=Older if transport == "auto" else None)

    async def _put(self, line: bytes) -> None:
        assert b"\n" not in line
        self.lines.append(line)

    @property
    def heard(self) -> list[Any]:
        return [json.loads(line) for line in self.lines]

    async def say(self, what: Any) -> None:
        await self.bridge.take(what if isinstance(what, bytes) else json.dumps(what, ensure_ascii=False).encode())

    async def ask(self, id: Any, method: str, params: Any = None) -> None:
        await self.say({"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})})

    async def answer(self, id: Any) -> Any:
        """To the request with this id: the whole message."""
        return await self.until(
            lambda: next((each for each in self.heard if "method" not in each and each["id"] == id), None), f"answer {id}"
        )

    async def until(self, question: Callable[[], Any], what: str = "") -> Any:
        return await later(question, lambda: f"{what}: heard {self.heard[-5:]}, said {self.said}")

    async def begin(self, capabilities: Any = None) -> Any:
        await self.ask(
            "begin", "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        )
        found = await self.answer("begin")
        await self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return found


GREETING = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}},
    "serverInfo": {"name": "far", "version": "1"},
}


class Legacy:
    """The handler of a server with sessions: a session `s1`, then `s2`, ...; other requests are `more`'s."""

    def __init__(self, more: Handler | None = None, *, listens: bool = False) -> None:
        self.more, self.listens = more, listens
        self.number = 0
        self.alive: set[str] = set()
        self.streams: list[Answer] = []

    async def __call__(self, seen: Seen, answer: Answer) -> None:
        session = seen.fields.get("mcp-session-id", "")
        if seen.method == "POST" and seen.message.get("method") == "initialize":
            self.number += 1
            self.alive.add(f"s{self.number}")
            await answer.result(seen, GREETING, Mcp_Session_Id=f"s{self.number}")
        elif session not in self.alive:
            await answer.json({"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Session not found"}}, 404)
        elif seen.method == "DELETE":
            self.alive.discard(session)
            await answer.plain(200)
        elif seen.method == "GET" and "last-event-id" not in seen.fields:
            if not self.listens:
                await answer.plain(405)
                return
            await answer.stream()
            self.streams.append(answer)
        elif seen.method == "POST" and "id" not in seen.message:
            await answer.plain(202)
        elif self.more is not None:
            await self.more(seen, answer)
        else:
            await answer.result(seen, {"echo": seen.message.get("params")})


@asynccontextmanager
async def far(answer: Handler) -> AsyncIterator[Far]:
    server = Far(answer)
    await server.up()
    try:
        yield server
    finally:
        with suppress(Exception):
            await server.down()


@asynccontextmanager
async def desk(url: str, *given: Any, **more: Any) -> AsyncIterator[Desk]:
    made = Desk(url, *given, **more)
    try:
        yield made
    finally:
        await made.bridge.finish(0)
        assert not any("internal error" in line for line in made.said), made.said
