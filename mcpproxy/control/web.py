"""A small strict HTTP/1.1 server for operators, monitors and one web page: h11 on asyncio streams.

    async def answer(request: Request) -> Answer | Events

It serves few and trusts nobody: head, body, time and connections are bounded. Whoever comes when all places are taken gets that of a connection with no whole
request (it is silent, slow, or pays for a wrong token), else of one that does not take its answer; of these the one that came first. When there is none, 503:
nobody keeps others out with less than what is answered. What h11 does not take is answered 400 and closed. An answer is whole, or a stream of events; both give
up on a reader that does not read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qsl

import h11
import msgspec

HEAD = 16 * 1024  # bytes: cookies of other pages on localhost come along
BODY = 64 * 1024
HEAD_S, BODY_S, WRITE_S = 10.0, 10.0, 20.0
EVENT_S = 10.0  # for events to be taken
EVENT_ROOM = 8 * 1024  # bytes of them that the kernel keeps (it takes that twofold): else who does not read is found out after minutes
IDLE_S = 75.0
LINGER_S = 1.0
LAST_S = 0.5  # for answers that are being made when we end
PLACES = 64
LEAVING = 64  # more who find no place are told so, and not waited for; beyond it they are not even told
READ = 16 * 1024
JSON, TEXT, HTML = "application/json", "text/plain; charset=utf-8", "text/html; charset=utf-8"
ALWAYS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One that is whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # lower case; of several with one name: joined by ", "
    body: bytes
    peer: str  # an address, or "uid 1000" on a unix socket


@dataclass(frozen=True, slots=True)
class Answer:
    """Said at once."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """Said as it comes (text/event-stream), until the reader leaves or there is no more."""

    events: AsyncIterator[bytes]


class Refusal(Exception):
    """Answered as JSON."""

    def __init__(self, status: int, error: str, headers: tuple[tuple[str, str], ...] = (), *, close: bool = False) -> None:
        super().__init__(error)
        self.status, self.error, self.headers, self.close = status, error, headers, close

    def answer(self) -> Answer:
        """What the client sees."""
        return Answer(self.status, as_json({"error": self.error, "status": self.status}), JSON, self.headers, self.close)


def as_json(data: object) -> bytes:
    """With a line end, for those who look at it in a terminal."""
    return msgspec.json.encode(data) + b"\n"


@dataclass(slots=True, eq=False)
class Visitor:
    """A connection."""

    task: asyncio.Task[None]
    holds: int = 0  # SILENT, TAKING or SERVED: who has more than others keeps its place
    lasting: bool = False  # reads events


SILENT, TAKING, SERVED = range(3)
_visitor: ContextVar[Visitor | None] = ContextVar("visitor", default=None)


async def pay(seconds: float) -> None:
    """Whoever asks now waits, and makes room meanwhile."""
    visitor = _visitor.get()
    if visitor is not None:
        visitor.holds = SILENT
    await asyncio.sleep(seconds)


@dataclass(slots=True)
class Web:
    """One listening socket, and who came."""

    answer: Callable[[Request], Awaitable[Answer | Events]]
    broken: Callable[[str], None]  # told when `answer` raised what it should not
    visitors: dict[Visitor, None] = field(default_factory=dict)  # the one that came first, first
    ending: bool = False
    _leaving: int = 0
    _server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """From now on they may come."""
        begin = asyncio.start_unix_server if sock.family == socket.AF_UNIX else asyncio.start_server
        self._server = await begin(self._serve, sock=sock, limit=READ)

    async def stop(self) -> None:
        """Nobody is here any more; answers that are nearly there are given."""
        self.ending = True
        if self._server is not None:
            self._server.close()
        answers = [visitor.task for visitor in self.visitors if visitor.holds != SILENT and not visitor.lasting]
        if answers:
            await asyncio.wait(answers, timeout=LAST_S)
        for visitor in tuple(self.visitors):
            visitor.task.cancel()
        await asyncio.gather(*(visitor.task for visitor in tuple(self.visitors)), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.ending:  # it was accepted just before the end
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        visitor = Visitor(task)
        visit = Visit(self, visitor, reader, writer)
        try:
            if len(self.visitors) < PLACES or self._make_room():
                self.visitors[visitor] = None
                _visitor.set(visitor)
                await visit.run()
            else:
                await self._turn_away(visit)
            writer.close()
        except (OSError, TimeoutError, h11.RemoteProtocolError, h11.LocalProtocolError, asyncio.CancelledError):
            writer.transport.abort()  # it left, does not read, is silent; or its place was needed
        finally:
            self.visitors.pop(visitor, None)

    async def _turn_away(self, visit: Visit) -> None:
        if self._leaving >= LEAVING:
            raise OSError
        self._leaving += 1
        try:
            await visit.turn_away(Refusal(503, "too many connections here", (("Retry-After", "1"),), close=True))
        finally:
            self._leaving -= 1

    def _make_room(self) -> bool:
        visitor = min(self.visitors, key=lambda visitor: visitor.holds)
        if visitor.holds == SERVED:
            return False
        del self.visitors[visitor]
        visitor.task.cancel()
        return True


class Visit:
    """One connection, request after request."""

    def __init__(self, web: Web, visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._web, self._visitor, self._reader, self._writer = web, visitor, reader, writer
        self._peer = peer_of(writer)
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD)

    async def run(self) -> None:
        """Until either side has enough."""
        first = True
        while True:
            self._visitor.holds = SILENT
            try:
                asked = await self._request(first)
            except Refusal as refusal:
                await self.turn_away(refusal)
                return
            if asked is None:
                return
            self._visitor.holds, first = SERVED, False
            try:
                answer = await self._web.answer(asked)
            except Refusal as refusal:
                answer = refusal.answer()
            except Exception as error:
                self._web.broken(f"{asked.method} {asked.path}: {type(error).__name__}: {error}")
                answer = Refusal(500, "a bug here; its message is in the log", close=True).answer()
            if isinstance(answer, Events):
                self._visitor.lasting = True
                await self._stream(answer.events)
                return
            self._visitor.holds = TAKING
            await self.say(answer, head_only=asked.method == "HEAD")
            if self._http.our_state is not h11.DONE or answer.close or self._web.ending:
                return
            self._http.start_next_cycle()

    async def _request(self, first: bool) -> Request | None:
        if not self._http.trailing_data[0]:
            async with asyncio.timeout(HEAD_S if first else IDLE_S):
                data = await self._reader.read(READ)
            if not data:
                return None
            self._http.receive_data(data)
        try:
            async with asyncio.timeout(HEAD_S):
                head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            async with asyncio.timeout(BODY_S):
                return await self._whole(head)
        except TimeoutError:
            raise Refusal(408, "that took too long", close=True) from None

    async def _whole(self, head: h11.Request) -> Request:
        target, headers = head.target.decode("latin-1"), _fields(head.headers)
        if not target.startswith("/"):
            raise Refusal(400, "the target is a path here", close=True)
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        pieces, size = [], 0
        while isinstance(event := await self._event(), h11.Data):
            size += len(event.data)
            if size > BODY:
                raise Refusal(413, f"a body has at most {BODY} bytes here", close=True)
            pieces.append(bytes(event.data))
        path, _, query = target.partition("?")
        try:
            asked = dict(parse_qsl(query, max_num_fields=20))
        except ValueError:
            raise Refusal(400, "too many questions") from None
        return Request(head.method.decode("latin-1"), path, asked, headers, b"".join(pieces), self._peer)

    async def _event(self) -> object:
        """What comes next."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint if error.error_status_hint in (400, 413, 431, 501) else 400
                raise Refusal(status, str(error) or "that is no HTTP", close=True) from None
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(READ))

    async def say(self, answer: Answer, *, head_only: bool = False) -> None:
        """All of it."""
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *ALWAYS,
            *answer.headers,
        ]
        if answer.close:
            headers.append(("Connection", "close"))
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await self._send(h11.Response(status_code=answer.status, headers=headers))
        if not head_only:
            await self._send(h11.Data(data=answer.body))
        await self._send(h11.EndOfMessage())

    async def _stream(self, events: AsyncIterator[bytes]) -> None:
        """Until there is no more, or the reader leaves: whatever it says now is its end."""
        headers = [("Date", formatdate(usegmt=True)), ("Content-Type", "text/event-stream"), *ALWAYS, ("Connection", "close")]
        await self._send(h11.Response(status_code=200, headers=headers))
        self._writer.transport.set_write_buffer_limits(0)
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, EVENT_ROOM)
        leaves = asyncio.ensure_future(self._reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(anext(events, b""))
                await asyncio.wait((leaves, following), return_when=asyncio.FIRST_COMPLETED)
                if leaves.done() or not (piece := following.result()):
                    break
                await self._send(h11.Data(data=piece), EVENT_S)
        finally:
            for each in (leaves, following):
                each.cancel()
            await asyncio.gather(leaves, following, return_exceptions=True)

    async def turn_away(self, refusal: Refusal) -> None:
        """Our last word to somebody who may still be sending: a close at once would be a reset, and overtake it."""
        await self.say(refusal.answer())
        self._writer.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await self._reader.read(READ):
                pass

    async def _send(self, event: h11.Event, patience: float | None = None) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            async with asyncio.timeout(WRITE_S if patience is None else patience):
                await self._writer.drain()


def _fields(headers: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers:  # type: ignore[attr-defined]
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def peer_of(writer: asyncio.StreamWriter) -> str:
    """Who it is, as the kernel knows."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        return f"uid {uid}"
    peer = writer.get_extra_info("peername")
    return str(peer[0]) if peer else "?"
