"""One way to ask, whatever is spoken: HTTP/1.1 plain or in TLS, HTTP/2 by prior knowledge or in TLS.

    with Speaker(daemon, "h2", certificate) as speaker:
        answer = speaker.ask(body, {"mcp-name": "add"})
        assert (answer.status, answer.reason) == (403, "call-denied")

Every `ask` of a Speaker goes over the same connection as long as the daemon keeps it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.h2 import H2Client, speak
from tests.support.ports import free_port

SPOKEN = ("plain", "tls", "h2c", "h2")
MODERN = "2026-07-28"  # the first revision whose fields say what the body says
Pairs = Mapping[str, str] | list[tuple[str, str]]


@dataclass
class Answer:
    """What came back."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    informational: int = 0

    def first(self, name: str) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name.encode()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def reason(self) -> str:
        """The slug of an answer of the daemon's own."""
        told = self.json
        reason: str = (told[0] if isinstance(told, list) else told)["error"]["data"]["reason"]
        return reason


class Speaker:
    """A client of one daemon."""

    def __init__(self, daemon: Daemon, spoken: str, certificate: Certificate) -> None:
        self.daemon, self.spoken, self.certificate = daemon, spoken, certificate
        self.h2: H2Client | None = None
        self.h1: RawClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for client in (self.h1, self.h2):
            if client is not None:
                client.close()
        self.h1 = self.h2 = None

    @property
    def is_h2(self) -> bool:
        return self.spoken.startswith("h2")

    def connection_h1(self) -> RawClient:
        if self.h1 is None:
            self.h1 = self.daemon.client(tls=self.certificate.client() if self.spoken == "tls" else None)
        return self.h1

    def connection_h2(self) -> H2Client:
        if self.h2 is None:
            self.h2 = speak(self.daemon, self.certificate if self.spoken == "h2" else None)
        return self.h2

    def ask(
        self, body: bytes | None, fields: Pairs | None = None, *, method: str = "POST", path: str = "/mcp", sized: bool = True
    ) -> Answer:
        """A whole request and its answer. `sized=False`: in chunks, or without content-length."""
        pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields or ())
        if self.is_h2:
            return self._ask_h2(body, pairs, method, path, sized)
        return self._ask_h1(body, pairs, method, path, sized)

    def _ask_h2(self, body: bytes | None, pairs: list[tuple[str, str]], method: str, path: str, sized: bool) -> Answer:
        client = self.connection_h2()
        whole = sized or body is None
        call = client.call(method, path, body, fields=pairs, ended=whole)
        if not whole:
            call.end()
        call.wait()
        assert call.ended, call
        return Answer(call.status, call.fields, call.body, len(call.informational))

    def _ask_h1(self, body: bytes | None, pairs: list[tuple[str, str]], method: str, path: str, sized: bool) -> Answer:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        if method == "POST":
            lines += ["Content-Type: application/json", "Accept: application/json, text/event-stream"]
        lines += [f"{name}: {value}" for name, value in pairs]
        wire = b""
        if body is not None:
            lines.append(f"Content-Length: {len(body)}" if sized else "Transfer-Encoding: chunked")
            wire = body if sized else chunked(body)
        client = self.connection_h1()
        client.try_send("\r\n".join([*lines, "", ""]).encode() + wire)
        message = client.response(method.encode())
        assert message.ended, message
        if (message.first("connection") or b"").lower() == b"close":
            client.close()
            self.h1 = None
        return Answer(message.status, message.fields, message.body, len(message.informational))


def chunked(body: bytes, size: int = 100_000) -> bytes:
    """In chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def call(tool: Any = "add", id: Any = 1, arguments: Any = None, **members: Any) -> bytes:
    """A tools/call as clients write it."""
    params = {"name": tool, "arguments": {} if arguments is None else arguments}
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params, **members}, separators=(",", ":")).encode()


def listener(spoken: str, certificate: Certificate) -> dict[str, Any]:
    """A table for what is spoken."""
    tls = {"tls": {"cert": str(certificate.cert), "key": str(certificate.key)}} if spoken in ("tls", "h2") else {}
    return {"address": f"127.0.0.1:{free_port()}", **tls}
