"""The small HTTP server: bounded, strict, and never in anybody's debt."""

import asyncio
import socket
from pathlib import Path

import pytest

from mcpproxy.control import web
from mcpproxy.control.web import Answer, Events, Refusal, Request, Web
from tests.control.visiting import becomes


class Listener:
    def __init__(self) -> None:
        self.web = Web(self.answer, self.broke)
        self.seen: list[Request] = []
        self.broken: list[str] = []
        self.gate = asyncio.Event()
        self.stalled = self.sent = 0

    def broke(self, text: str) -> None:
        self.broken.append(text)

    async def answer(self, request: Request) -> Answer | Events:
        self.seen.append(request)
        if request.path == "/broken":
            raise ZeroDivisionError("a bug")
        if request.path == "/refused":
            raise Refusal(418, "no", (("X-A", "b"),))
        if request.path == "/wait":
            await self.gate.wait()
        if request.path == "/pay":
            self.stalled += 1
            await web.pay(60.0)
        if request.path == "/large":
            self.stalled += 1
            return Answer(200, b"a" * 16_000_000, "text/plain")
        if request.path == "/endless":
            return Events(self.endless())
        if request.path == "/events":
            return Events(self.events())
        return Answer(200, request.body or b"hello", "text/plain")

    async def endless(self):  # type: ignore[no-untyped-def]
        while True:
            self.sent += 1
            yield b"data: " + b"x" * 1000 + b"\n\n"

    async def events(self):  # type: ignore[no-untyped-def]
        yield b"data: 1\n\n"
        await self.gate.wait()
        yield b"data: 2\n\n"

    async def __aenter__(self) -> "Listener":
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await self.web.start(sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.web.stop()

    async def say(self, data: bytes, *, shut: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            if shut:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


def get(path: str = "/", more: str = "", close: bool = True) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}{'Connection: close' if close else 'X: y'}\r\n\r\n".encode()


async def test_it_answers_and_says_what_browsers_must_not_do() -> None:
    async with Listener() as listener:
        said = (await listener.say(get())).decode()
    assert said.startswith("HTTP/1.1 200")
    assert said.endswith("\r\n\r\nhello")
    for line in ("Cache-Control: no-store", "X-Content-Type-Options: nosniff", "X-Frame-Options: DENY", "Content-Length: 5"):
        assert line.lower() in said.lower()
    assert "access-control" not in said.lower()


async def test_requests_follow_each_other_on_a_connection() -> None:
    async with Listener() as listener:
        said = await listener.say(get("/a", close=False) + get("/b?x=1&y=%20z"))
        assert said.count(b"HTTP/1.1 200") == 2
        assert [(each.path, each.query) for each in listener.seen] == [("/a", {}), ("/b", {"x": "1", "y": " z"})]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with Listener() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok":
            writer.write(bytes([byte]))
            await writer.drain()
        assert (await reader.read()).endswith(b"ok")
        writer.close()


async def test_head_asks_for_no_body() -> None:
    async with Listener() as listener:
        said = await listener.say(get().replace(b"GET", b"HEAD"))
    assert said.endswith(b"\r\n\r\n")
    assert b"ontent-Length: 5" in said or b"ontent-length: 5" in said


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\nA : b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * (web.HEAD + 1), 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (web.BODY + 1) + b"a" * (web.BODY + 1), 413),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"4000\r\n"
            + b"a" * 0x4000
            + (b"\r\n4000\r\n" + b"a" * 0x4000) * 4,
            413,
        ),
        (get("/?" + "&".join("a=b" for _ in range(30))), 400),
    ],
)
async def test_what_is_malformed_or_too_large_is_refused(data: bytes, status: int) -> None:
    async with Listener() as listener:
        said = await listener.say(data)
        assert said.startswith(b"HTTP/1.1 %d" % status), said[:200]
        assert listener.seen == []


async def test_half_a_request_and_nothing_more_is_no_trouble() -> None:
    async with Listener() as listener:
        assert await listener.say(b"", shut=True) == b""
        await listener.say(b"GET / HT", shut=True)
        await listener.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", shut=True)
        assert (await listener.say(get())).endswith(b"hello")
        assert listener.broken == []


async def test_who_is_slow_is_told_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD_S", 0.05)
    monkeypatch.setattr(web, "BODY_S", 0.05)
    async with Listener() as listener:
        assert await listener.say(b"") == b""  # who says nothing gets no answer
        assert (await listener.say(b"GET / HTTP/1.1\r\nHo")).startswith(b"HTTP/1.1 408")
        assert (await listener.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")).startswith(b"HTTP/1.1 408")


async def test_a_bug_is_told_and_the_next_one_is_served() -> None:
    async with Listener() as listener:
        assert (await listener.say(get("/broken"))).startswith(b"HTTP/1.1 500")
        assert listener.broken == ["GET /broken: ZeroDivisionError: a bug"]
        refused = await listener.say(get("/refused"))
        assert refused.startswith(b"HTTP/1.1 418")
        assert b'{"error":"no","status":418}' in refused


async def test_events_come_as_they_are_said_and_end_with_their_reader() -> None:
    async with Listener() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get("/events"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert b"data: 1\n\n" in await reader.readuntil(b"data: 1\n\n")
        listener.gate.set()
        assert b"data: 2\n\n" in await reader.read()
        writer.close()
        listener.gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get("/events"))
        await reader.readuntil(b"data: 1\n\n")
        assert len(listener.web.visitors) == 1
        writer.close()
        await becomes(lambda: not listener.web.visitors)


async def test_an_idle_connection_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PLACES", 2)
    async with Listener() as listener:
        idle, idler = await asyncio.open_connection("127.0.0.1", listener.port)
        idler.write(get("/", close=False))
        await idle.readuntil(b"hello")
        busy, worker = await asyncio.open_connection("127.0.0.1", listener.port)
        worker.write(get("/wait"))
        await becomes(lambda: [each.path for each in listener.seen] == ["/", "/wait"])
        third, other = await asyncio.open_connection("127.0.0.1", listener.port)
        other.write(get("/wait"))
        assert await _rest(idle) == b""
        await becomes(lambda: len(listener.seen) == 3)
        assert (await listener.say(get())).startswith(b"HTTP/1.1 503")  # nobody is idle
        listener.gate.set()
        assert (await busy.read()).endswith(b"hello")
        assert (await third.read()).endswith(b"hello")
        for each in (idler, worker, other):
            each.close()


@pytest.mark.parametrize(
    "little",
    [b"G", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", get("/pay"), get("/large", close=False) * 50],
    ids=["half a head", "half a body", "a wrong token", "answers that are not read"],
)
async def test_with_less_than_a_request_nobody_keeps_others_out(little: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PLACES", 2)
    async with Listener() as listener:
        pairs = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
        for _, writer in pairs:
            writer.write(little)
        await becomes(lambda: len(listener.web.visitors) == 2)
        if little.startswith(b"GET"):
            await becomes(lambda: listener.stalled == 2)
        assert (await listener.say(get())).endswith(b"hello")
        assert len(listener.web.visitors) == 1
        for _, writer in pairs:
            writer.close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_who_does_not_read_events_is_ended_before_much_is_kept_for_it(
    family: socket.AddressFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "EVENT_S", 0.1)
    listener = Listener()
    with socket.socket(family) as sock, socket.socket(family) as viewer:
        sock.bind(str(tmp_path / "sock") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        sock.listen()
        await listener.web.start(sock)
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # of TCP: what it keeps itself is its own
        viewer.connect(sock.getsockname())
        viewer.sendall(get("/endless", close=False))
        await becomes(lambda: listener.sent)
        await becomes(lambda: not listener.web.visitors)
        assert listener.sent < 64, "thousand bytes each"
        await listener.web.stop()


async def test_not_all_who_find_no_place_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PLACES", 1)
    monkeypatch.setattr(web, "LEAVING", 1)
    monkeypatch.setattr(web, "LINGER_S", 60.0)
    async with Listener() as listener:
        _, busy = await asyncio.open_connection("127.0.0.1", listener.port)
        busy.write(get("/wait"))
        await becomes(lambda: len(listener.seen) == 1)
        told, second = await asyncio.open_connection("127.0.0.1", listener.port)
        assert (await told.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
        third, other = await asyncio.open_connection("127.0.0.1", listener.port)
        assert await _rest(third) == b""
        for each in (busy, second, other):
            each.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_who_waits_for_an_answer_gets_it_before_the_end() -> None:
    async with Listener() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get("/wait", close=False))
        await becomes(lambda: bool(listener.seen))
        asyncio.get_running_loop().call_later(0.02, listener.gate.set)
    assert (await reader.read()).endswith(b"hello")
    writer.close()


async def test_nobody_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LAST_S", 0.02)
    async with Listener() as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get("/wait"))
        await becomes(lambda: bool(listener.seen))
    assert await _rest(reader) == b""
    writer.close()
    assert listener.web.visitors == {}
