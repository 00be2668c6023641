"""The same question over HTTP/1.1, over TLS and over HTTP/2: what a policy says must not depend on the way it is asked.

    with Talk(daemon, way, certificate) as talk:
        answer = talk.ask([("X-API-Key", key)])
        assert (answer.status, answer.first("www-authenticate")) == (401, b"…")

`way` is one of WAYS; `listen(way, certificate)` is the listener table that fits it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.h2 import DATA, END_STREAM, H2Client, frame, request_fields
from tests.support.ports import free_port

WAYS = ("plain", "tls", "h2")
Pairs = Sequence[tuple[str, str]]


@dataclass
class Answer:
    status: int
    fields: list[tuple[bytes, bytes]]  # names in lower case
    body: bytes

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key == name.encode()]

    def first(self, name: str) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None


def listen(way: str, certificate: Certificate) -> dict[str, Any]:
    table: dict[str, Any] = {"address": f"127.0.0.1:{free_port()}"}
    if way != "plain":
        table["tls"] = {"cert": str(certificate.cert), "key": str(certificate.key)}
    return table


class Talk:
    """One connection; it goes on where the daemon lets it."""

    def __init__(self, daemon: Daemon, way: str, certificate: Certificate, *, number: int = 0) -> None:
        self.daemon, self.way, self.certificate, self.number = daemon, way, certificate, number
        self._dial()

    def _dial(self) -> None:
        alpn = ("h2",) if self.way == "h2" else ("http/1.1",)
        tls = None if self.way == "plain" else self.certificate.client(alpn=alpn)
        self.raw: RawClient = self.daemon.client(self.number, tls=tls)
        self.h2 = H2Client(self.raw) if self.way == "h2" else None

    def ask(
        self,
        fields: Pairs = (),
        *,
        method: str = "POST",
        path: str = "/mcp",
        body: bytes | None = b"{}",
        host: str = "localhost",
        deadline_s: float = 10.0,
    ) -> Answer:
        """One request (in one write, its body included) and its answer. A connection that the last answer closed is made anew."""
        body = body if method == "POST" else None
        if self.h2 is not None:
            if self.h2.how or self.h2.goaways:
                self._dial()
            lowered = [(name.lower(), value) for name, value in fields]
            made = request_fields(method, path, host=host, fields=lowered, length=None if body is None else len(body))
            call = self.h2.open(made, ended=body is None, more=frame(DATA, END_STREAM, self.h2.next, body) if body is not None else b"")
            call.said_all = True
            call.wait(deadline_s)
            return Answer(call.status, call.fields, call.body)
        if self.raw.how:
            self._dial()
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        length = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{lines}\r\n".encode("latin-1")
        answer = self.raw.exchange(head + (body or b""), deadline_s=deadline_s)
        if answer.first("connection") == b"close":
            self.raw.close()
            self.raw.how = "fin"
        return Answer(answer.status, [(name.lower(), value) for name, value in answer.fields], answer.body)

    def reconnect(self) -> None:
        """On a new connection from here on."""
        self.close()
        self._dial()

    def close(self) -> None:
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
