"""Faces with a service of our own behind them, and somebody who stands in for the edge.

    async with faces() as rig:
        peer = await rig.peer()                 # raw HTTP/1.1 over the unix socket, with the edge's field
        reply = await peer.post({...}, caller="ada")

`StandIn` has the tools of tests/real/servers (echo, trigger-long-running-operation, ask, change), so real clients can take their tour; `Edge` forwards
TCP to the unix socket and adds the edge's field, as a worker would.
"""

import asyncio
import json
import os
import socket
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mcpproxy.gateway.face import Face, Faces
from mcpproxy.gateway.parts import Answer, Call, Client, Era, Server, Service
from mcpproxy.gateway.streams import KEPT, Store
from mcpproxy.gateway.web import Web
from mcpproxy.mcp import message

SECRET = b"0123456789abcdef"
WITHIN_S = 20.0  # only reached by a test that fails
META = "io.modelcontextprotocol/"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "trigger-long-running-operation", "ask", "change")]


def envelope(**capabilities: Any) -> dict[str, Any]:
    """`_meta` of a modern request."""
    return {META + "protocolVersion": "2026-07-28", META + "clientCapabilities": capabilities}


class StandIn(Service):
    """Answers as a server would. What it was asked is in `calls`."""

    name = "files"

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.told: list[tuple[Client, str]] = []
        self.joined: list[Client] = []
        self.left: list[Client] = []
        self.cancelled: list[Call] = []
        self.answers: list[Answer] = []  # clients' to our questions
        self.go = asyncio.Event()  # for the tool `wait`
        self.started = asyncio.Event()
        self.capabilities = message.parts(
            b'{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true,"listChanged":true},"logging":{}}'
        )

    async def server(self, client: Client) -> Server:
        return Server(Era.LEGACY, "2025-11-25", self.capabilities, b'{"name":"stand-in","version":"1"}', "Be brief.")

    def join(self, client: Client) -> None:
        self.joined.append(client)

    def leave(self, client: Client) -> None:
        self.left.append(client)
        self.joined.remove(client)

    async def tell(self, client: Client, method: str, params: bytes | None) -> None:
        self.told.append((client, method))

    def change(self, method: str = "notifications/tools/list_changed", params: bytes | None = None) -> None:
        for client in tuple(self.joined):
            client.hears(method, params)

    async def ask(self, call: Call) -> Answer:
        self.calls.append(call)
        call.labels["member"] = "fs"
        try:
            return await self._ask(call)
        except asyncio.CancelledError:
            self.cancelled.append(call)
            raise

    async def _ask(self, call: Call) -> Answer:
        if call.method == "tools/list":
            return Answer(message.encode({"tools": TOOLS}))
        if call.method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
            return Answer(b"{}")
        if call.method == "resources/read":
            return Answer(error=message.error(-32002, "Resource not found"))
        if call.method != "tools/call":
            return Answer(error=message.error(message.METHOD_NOT_FOUND, "Method not found"))
        name, arguments = message.plain(call.params["name"]), message.plain(call.params.get("arguments", b"{}"))
        tool: Callable[[Call, Any], Any] | None = getattr(self, "tool_" + name.replace("-", "_"), None)
        if tool is None:
            return Answer(error=message.error(-32602, "Unknown tool"))
        said = await tool(call, arguments)
        return said if isinstance(said, Answer) else Answer(message.encode({"content": [{"type": "text", "text": said}]}))

    async def tool_echo(self, call: Call, arguments: Any) -> str:
        return f"Echo: {arguments['message']}"

    async def tool_trigger_long_running_operation(self, call: Call, arguments: Any) -> str:
        for step in range(1, arguments["steps"] + 1):
            await asyncio.sleep(arguments["duration"] / arguments["steps"])
            call.note("notifications/progress", {"progress": b"%d" % step, "total": b"%d" % arguments["steps"]})
        return f"Long running operation completed. Duration: {arguments['duration']} seconds, Steps: {arguments['steps']}."

    async def tool_ask(self, call: Call, arguments: Any) -> str | Answer:
        question = message.encode({"message": "Who are you?", "mode": arguments.get("mode", "form"), "requestedSchema": SCHEMA})
        answers = await asyncio.gather(
            *[call.question(arguments.get("method", "elicitation/create"), question) for _ in range(arguments.get("at_once", 1))]
        )
        for _ in range(arguments.get("again", 0)):
            answers.append(await call.question("elicitation/create", question))
        self.answers += answers
        if answers[-1].result is None:
            return Answer(error=answers[-1].error)
        return "Hello " + " and ".join(message.plain(answer.result or b"")["content"]["name"] for answer in answers)

    async def tool_change(self, call: Call, arguments: Any) -> str:
        self.change()
        return "changed"

    async def tool_wait(self, call: Call, arguments: Any) -> str:
        """Says something if it is told to, then waits for `go`."""
        for number in range(arguments.get("notes", 0)):
            call.note("notifications/message", {"level": b'"info"', "data": b"%d" % number})
        self.started.set()
        await self.go.wait()
        if arguments.get("ask"):
            self.answers.append(await call.question("elicitation/create", b'{"message":"still there?"}'))
        return "waited"

    async def tool_pour(self, call: Call, arguments: Any) -> str:
        """Much, as fast as it goes."""
        for _ in range(arguments["times"]):
            call.note("notifications/message", {"level": b'"info"', "data": b'"%b"' % (b"x" * arguments["size"])})
            await asyncio.sleep(0)
        self.started.set()
        return "poured"

    async def tool_break(self, call: Call, arguments: Any) -> str:
        raise RuntimeError("a bug")


class Reply:
    """A response: whole, or a stream that is read event by event."""

    def __init__(self, peer: "Peer", status: int, fields: dict[str, str]) -> None:
        self.peer, self.status, self.fields = peer, status, fields
        self.body = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def streams(self) -> bool:
        return self.fields.get("content-type") == "text/event-stream"

    async def chunk(self) -> bytes:
        """One chunk; b"" is the end of the stream."""
        return await asyncio.wait_for(self._chunk(), WITHIN_S)

    async def _chunk(self) -> bytes:
        size = int((await self.peer.reader.readuntil(b"\r\n")), 16)
        data = await self.peer.reader.readexactly(size + 2)
        return data[:-2]

    async def event(self) -> dict[str, Any] | None:
        """The next event: its fields, data as JSON when it is. None: the stream ended."""
        while True:
            chunk = await self.chunk()
            if not chunk:
                return None
            found: dict[str, Any] = {}
            for line in chunk.decode().splitlines():
                name, _, value = line.partition(":")
                if name:
                    found[name] = value.strip()
            if found:
                if found.get("data", "").startswith("{"):
                    found["data"] = json.loads(found["data"])
                return found

    async def events(self) -> list[dict[str, Any]]:
        """All that is left."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found


class Peer:
    """A connection of a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(
        self,
        method: str,
        body: Any = None,
        *,
        caller: str = "",
        upstream: str = "files",
        path: str = "/mcp",
        secret: bytes = SECRET,
        fields: Mapping[str, str] | None = None,
        raw: bytes = b"",
    ) -> None:
        said = urlsafe_b64encode(caller.encode()).rstrip(b"=").decode()
        head = {"Host": "gw", "Mcpproxy-Call": f"{secret.decode()};{upstream};0;{said}", "Accept": "application/json, text/event-stream"}
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            head |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        head |= fields or {}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items() if value)
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}".encode() + raw + b"\r\n" + data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WITHIN_S)
        first, *lines = head.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        reply = Reply(self, int(first.split()[1]), fields)
        if "content-length" in fields:
            reply.body = await asyncio.wait_for(self.reader.readexactly(int(fields["content-length"])), WITHIN_S)
        return reply

    async def ask(self, method: str, body: Any = None, **options: Any) -> Reply:
        await self.send(method, body, **options)
        return await self.reply()

    async def modern(self, id: Any, method: str, params: dict[str, Any] | None = None, *, wait: bool = True, **options: Any) -> Any:
        """A request of a modern client. `can`: its capabilities; `meta`: more of `_meta`."""
        params = {**(params or {}), "_meta": {**envelope(**options.pop("can", {})), **options.pop("meta", {})}}
        fields = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, **options.pop("fields", {})}
        named = params.get("name") or params.get("uri")
        if named is not None:
            fields.setdefault("Mcp-Name", named)
        await self.send("POST", {"jsonrpc": "2.0", "id": id, "method": method, "params": params}, fields=fields, **options)
        return await self.reply() if wait else None

    async def gone(self) -> bool:
        """Was the connection ended?"""
        try:
            return await asyncio.wait_for(self.reader.read(1), WITHIN_S) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


class Old:
    """A legacy client: a session, each message on a connection of its own."""

    def __init__(self, rig: "Rig", version: str = "2025-11-25", caller: str = "") -> None:
        self.rig, self.version, self.caller = rig, version, caller
        self.session = ""

    @property
    def fields(self) -> dict[str, str]:
        return {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": self.version}

    async def begin(self, **capabilities: Any) -> "Old":
        params = {"protocolVersion": self.version, "capabilities": capabilities, "clientInfo": {"name": "old", "version": "1"}}
        reply = await (await self.rig.peer()).ask(
            "POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, caller=self.caller
        )
        assert reply.status == 200, reply.body
        self.session = reply.fields["mcp-session-id"]
        assert (await self.post({"method": "notifications/initialized"})).status == 202
        return self

    async def post(self, body: dict[str, Any], **options: Any) -> Reply:
        peer = await self.rig.peer()
        fields = {**self.fields, **options.pop("fields", {})}
        return await peer.ask("POST", {"jsonrpc": "2.0", **body}, caller=self.caller, fields=fields, **options)

    async def call(self, name: str, arguments: dict[str, Any] | None = None, id: Any = 1, **options: Any) -> Reply:
        params = {"name": name, "arguments": arguments or {}, **options.pop("more", {})}
        return await self.post({"id": id, "method": "tools/call", "params": params}, **options)

    async def get(self, last: str = "") -> Reply:
        peer = await self.rig.peer()
        fields = {**self.fields, **({"Last-Event-ID": last} if last else {})}
        return await peer.ask("GET", caller=self.caller, fields=fields)


class Rig:
    """Everything, in one loop."""

    def __init__(self, service: StandIn, face: Face, web: Web, address: str) -> None:
        self.service, self.face, self.web, self.address = service, face, web, address
        self.peers: list[Peer] = []
        self.broken: list[BaseException] = []

    async def peer(self) -> Peer:
        reader, writer = await asyncio.open_unix_connection(sock=connected(self.address), limit=1 << 26)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        return peer

    async def old(self, version: str = "2025-11-25", caller: str = "", **capabilities: Any) -> Old:
        return await Old(self, version, caller).begin(**capabilities)

    async def modern(self, id: Any, method: str, params: dict[str, Any] | None = None, **options: Any) -> Any:
        return await (await self.peer()).modern(id, method, params, **options)


def listening() -> socket.socket:
    """A unix socket without a path, as the supervisor makes it."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(b"\0mcpproxy-test-%d-%b" % (os.getpid(), os.urandom(8).hex().encode()))
    sock.listen(1024)
    return sock


def connected(address: str | bytes) -> socket.socket:
    """uvloop knows no addresses that begin with a zero byte."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    return sock


@asynccontextmanager
async def faces(*, kept: int = KEPT, uid: int | None = None, behind: Service | None = None, **options: Any) -> AsyncIterator[Rig]:
    """A gateway with one upstream, `files`: a StandIn, or what is to be `behind` it."""
    service = StandIn()
    broken: list[BaseException] = []
    face = Face(behind or service, Store(kept), broken=broken.append, **options)
    every = Faces({"files": face})
    web = Web(every.heard, SECRET, uid=uid)
    web.sweeps.append(every.sweep)
    sock = listening()
    await web.start(sock)
    rig = Rig(service, face, web, sock.getsockname())
    rig.broken = broken
    try:
        yield rig
    finally:
        for peer in rig.peers:
            peer.close()
        face.stop()
        web.stop()


async def until(true: Callable[[], object], what: str = "it") -> None:
    """Wait for something that happens in this loop."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.001)


class Edge:
    """A worker, for real clients: TCP in, the unix socket out, one field more in each head."""

    def __init__(self, address: str | bytes, port: int) -> None:
        self.address, self.port = address, port

    async def start(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_unix_connection(sock=connected(self.address))
        back = asyncio.ensure_future(self._pour(inner, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lower = head.lower()
                outer.write(head[:-2] + b"Mcpproxy-Call: " + SECRET + b";files;0;\r\n\r\n")
                if b"\r\ncontent-length:" in lower:
                    left = int(lower.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
                    outer.write(await reader.readexactly(left))
                elif b"\r\ntransfer-encoding:" in lower:
                    while (line := await reader.readuntil(b"\r\n")) != b"0\r\n":
                        outer.write(line + await reader.readexactly(int(line, 16) + 2))
                    outer.write(line + await reader.readuntil(b"\r\n"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            back.cancel()
            outer.close()
            writer.close()

    @staticmethod
    async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()
