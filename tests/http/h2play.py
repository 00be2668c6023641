"""A client's frames, what became of them, and what was said: plays for HTTP/2 connections in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpack import Decoder, Encoder

from mcpproxy.http.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from mcpproxy.http.h2 import Connection, H2Limits

NAMES = {
    DATA: "DATA",
    HEADERS: "HEADERS",
    PRIORITY: "PRIORITY",
    RST_STREAM: "RST_STREAM",
    SETTINGS: "SETTINGS",
    PUSH_PROMISE: "PUSH_PROMISE",
    PING: "PING",
    GOAWAY: "GOAWAY",
    WINDOW_UPDATE: "WINDOW_UPDATE",
    CONTINUATION: "CONTINUATION",
}
POST = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/mcp")]
GET = [(b":method", b"GET"), *POST[1:]]
POST_HEAD = b"POST /mcp HTTP/2.0\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n"
GET_HEAD = b"GET /mcp HTTP/2.0\r\nhost: a.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
Fields = list[tuple[bytes, bytes]]


@dataclass
class Said:
    """One frame of ours, decoded."""

    kind: str
    flags: int
    stream: int
    payload: bytes
    fields: Fields = field(default_factory=list)

    @property
    def code(self) -> int:
        """The error code of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[-4:], "big")

    @property
    def number(self) -> int:
        """The step of a WINDOW_UPDATE, the last stream of a GOAWAY."""
        return int.from_bytes(self.payload[:4], "big")

    @property
    def ended(self) -> bool:
        """END_STREAM is set."""
        return self.kind in ("DATA", "HEADERS") and bool(self.flags & END_STREAM)


def split(data: bytes) -> list[Said]:
    """The frames in these bytes."""
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        stream = int.from_bytes(data[5:9], "big")
        found.append(Said(NAMES[data[3]], data[4], stream, data[9 : 9 + size]))
        assert len(data) >= 9 + size, "a frame is cut"
        data = data[9 + size :]
    return found


class Play:
    """A connection, a client that speaks frames, and an edge that writes down what it is told."""

    def __init__(self, kind: type[Connection] = Connection, limits: H2Limits | None = None, *, begin: bool = True) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.connection = kind(self, limits or H2Limits())
        self.encoder, self.decoder = Encoder(), Decoder()
        self.spoken: list[Said] = []
        self.reply: Any = None  # called with (connection, stream) at each head
        if begin:
            self.connection.begin()
            self.say(PREFACE, frame(SETTINGS, 0, 0, b""))
            self.heard()
            self.calls.clear()

    # -- the edge -------------------------------------------------------------------------------------------------------------------------------

    def on_head(self, stream: int, head: bytes, ended: bool) -> None:
        self.calls.append(("head", stream, head, ended))
        if self.reply is not None:
            self.reply(self.connection, stream)

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        self.calls.append(("body", stream, data, ended))

    def on_call(self, stream: int, head: bytes, body: bytes) -> None:
        self.on_head(stream, head, False)
        self.on_body(stream, body, True)

    def on_trailers(self, stream: int, fields: Fields) -> None:
        self.calls.append(("trailers", stream, fields))

    def on_reset(self, stream: int, code: int) -> None:
        self.calls.append(("reset", stream, code))

    def on_window(self, stream: int) -> None:
        self.calls.append(("window", stream))

    # -- the client -----------------------------------------------------------------------------------------------------------------------------

    def say(self, *frames: bytes) -> Play:
        """Bytes of the client arrive."""
        self.connection.receive(b"".join(frames))
        return self

    def heard(self) -> list[Said]:
        """What was said since the last time."""
        said: list[Said] = []
        for one in split(b"".join(self.connection.out)):
            if one.kind == "CONTINUATION":
                said[-1].payload += one.payload
                said[-1].flags |= one.flags
            else:
                said.append(one)
        self.connection.out.clear()
        named = [one.number for one in [*self.spoken, *said] if one.kind == "GOAWAY"]
        assert named == sorted(named, reverse=True), "§6.8: the last stream rose"
        for one in said:
            if one.kind == "HEADERS":
                assert one.flags & END_HEADERS
                one.fields = [(name, value) for name, value in self.decoder.decode(one.payload, raw=True)]
        self.spoken += said
        return said

    def block(self, fields: Fields) -> bytes:
        """Fields as this client's encoder writes them."""
        return self.encoder.encode(fields)

    def head(self, stream: int, fields: Fields, *, ended: bool = False) -> bytes:
        """A HEADERS frame that holds its whole block."""
        return headers(stream, self.block(fields), ended=ended)

    # -- what must have happened ----------------------------------------------------------------------------------------------------------------

    def told(self) -> list[tuple[Any, ...]]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def lost(self, code: int, last: int = 0) -> None:
        """A connection error: GOAWAY is the last word."""
        assert self.connection.ended
        assert self.connection.reason
        assert self.connection.open == 0
        goodbye = self.heard()[-1]
        assert (goodbye.kind, goodbye.code, goodbye.number) == ("GOAWAY", code, last)
        self.say(frame(PING, 0, 0, b"12345678"))
        assert not self.connection.out

    def refused(self, stream: int, code: int) -> None:
        """A stream error: RST_STREAM, and the connection goes on."""
        assert not self.connection.ended
        resets = [(one.stream, one.code) for one in self.heard() if one.kind == "RST_STREAM"]
        assert resets == [(stream, code)]
        self.goes_on()

    def goes_on(self) -> None:
        """The connection still answers."""
        self.say(frame(PING, 0, 0, b"12345678"))
        answer = self.heard()[-1]
        assert (answer.kind, answer.flags, answer.payload) == ("PING", 1, b"12345678")


def headers(stream: int, block: bytes, *, ended: bool = False, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame."""
    return frame(HEADERS, flags | (END_STREAM if ended else 0), stream, block)


def data(stream: int, payload: bytes, *, ended: bool = False) -> bytes:
    """A DATA frame."""
    return frame(DATA, END_STREAM if ended else 0, stream, payload)


def update(stream: int, step: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, step.to_bytes(4, "big"))


def reset(stream: int, code: int) -> bytes:
    """An RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings(*values: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in values))
