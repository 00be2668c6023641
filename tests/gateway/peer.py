"""A scripted MCP server over HTTP for bad days: what it says to each method is the test's to decide, and what it was told is kept.

    peer = Peer(call=lambda link, told: link.send(sse(result(told))))
    with peer.upstream() as upstream: ...

A handler gets the link and the request (`Told`), and sends whole responses; methods without one are answered as a well server would.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.message import Message
from tests.support.upstream import Link, ScriptedUpstream, response

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


@dataclass
class Told:
    """A request that came."""

    head: Message
    body: dict[str, Any]

    @property
    def method(self) -> str:
        return str(self.body.get("method", self.head.method.decode()))

    def field(self, name: str) -> str | None:
        found = self.head.first(name)
        return None if found is None else found.decode()


Handler = Callable[[Link, Told], None]


def result(told: Told, value: Any = None, **more: Any) -> dict[str, Any]:
    """The answer to it."""
    return {"jsonrpc": "2.0", "id": told.body.get("id"), "result": {} if value is None else value, **more}


def plain(message: Any, *, status: str = "200 OK", extra: str = "") -> bytes:
    """A response in JSON."""
    return response(json.dumps(message).encode(), status=status, extra=extra)


def event(message: Any, *, id: str = "", retry: int = -1) -> bytes:
    """A chunk with one event."""
    lines = (f"id: {id}\n" if id else "") + (f"retry: {retry}\n" if retry >= 0 else "")
    text = f"{lines}data: {json.dumps(message) if message is not None else ''}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(text), text)


def sse(*messages: Any) -> bytes:
    """A response that is a stream, whole."""
    return EVENTS + b"".join(event(message) for message in messages) + LAST


@dataclass
class Peer:
    """By method (`tools/call`, `GET`, …): who answers. Legacy unless `discover` answers."""

    on: dict[str, Handler] = field(default_factory=dict)
    capabilities: dict[str, Any] = field(
        default_factory=lambda: {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}}
    )
    sessions: list[str] = field(default_factory=list)
    keeps_sessions: bool = True
    told: list[Told] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def upstream(self, **more: Any) -> ScriptedUpstream:
        return ScriptedUpstream(self.play, **more)

    def play(self, link: Link) -> None:
        while True:
            head = link.read_request()
            told = Told(head, json.loads(head.body) if head.body else {})
            with self.lock:
                self.told.append(told)
            handler = self.on.get(told.method) or self.on.get("*")
            if handler is not None:
                handler(link, told)
            else:
                self.well(link, told)

    def well(self, link: Link, told: Told) -> None:
        """As a server that is well."""
        if told.method == "initialize":
            extra = ""
            if self.keeps_sessions:
                self.sessions.append(f"session-{len(self.of('initialize')) - 1}")
                extra = f"Mcp-Session-Id: {self.sessions[-1]}\r\n"
            server = {"protocolVersion": "2025-11-25", "capabilities": self.capabilities, "serverInfo": {"name": "peer", "version": "1"}}
            link.send(plain(result(told, server), extra=extra))
        elif told.method == "server/discover":
            link.send(plain({"jsonrpc": "2.0", "id": told.body["id"], "error": {"code": -32601, "message": "no"}}, status="404 Not Found"))
        elif self.keeps_sessions and told.field("mcp-session-id") not in self.sessions:
            link.send(
                plain({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Session not found"}}, status="404 Not Found")
            )
        elif told.method == "GET":
            link.send(response(b"", status="405 Method Not Allowed"))
        elif "id" not in told.body or "method" not in told.body:
            link.send(response(b"", status="202 Accepted"))
        else:
            link.send(plain(result(told, {"said": told.method})))

    def forget(self) -> None:
        """It loses its sessions."""
        self.sessions.clear()

    def of(self, method: str) -> list[Told]:
        """All requests with this method so far."""
        with self.lock:
            return [told for told in self.told if told.method == method]


MODERN = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


def modern(peer: Peer) -> Peer:
    """The same of the modern era."""
    peer.on.setdefault("server/discover", lambda link, told: link.send(plain(result(told, MODERN))))
    peer.keeps_sessions = False
    return peer
