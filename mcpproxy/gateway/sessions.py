"""Sessions of clients of the older era: who they are, what they wait for, how they end.

A session belongs to the caller it was made for; to everybody else it does not exist. It ends by DELETE, after `ttl` seconds in which nobody used it,
or when another one needs its place and it is the one unused for longest. An open GET stream and a call that is being answered are uses.

There may be ten thousand: no Task, no timer, no dictionary for what most of them never have.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from secrets import token_hex
from typing import Protocol

from mcpproxy.clock import clock
from mcpproxy.gateway.fitting import concerns, loud_enough, unfit
from mcpproxy.gateway.parts import NO_ONE_TO_ASK, TIMED_OUT, Answer, Client, Era, Service
from mcpproxy.gateway.streams import Store, Stream
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Message, Params

TTL_S = 24 * 3600.0
MOST = 10_000
YOUNG_S = 60.0  # a session used since then keeps its place, whoever wants it
QUESTION_S = 600.0  # for a person to answer


class Running(Protocol):
    """A call that is being answered."""

    def cancel(self) -> None:
        """Nobody wants it any more."""


class Session(Client):
    """A client of the older era."""

    __slots__ = (
        *("principal", "route", "session", "era", "version", "capabilities", "info", "level", "subscriptions"),
        *("asked", "calls", "joined", "last", "over", "questions", "service", "store", "stream", "streamed", "streams"),
    )

    def __init__(self, service: Service, principal: str, route: int, store: Store | None) -> None:
        self.service = service
        self.principal, self.route = principal, route
        self.session = token_hex(16)
        self.era, self.version = Era.LEGACY, "2024-11-05"
        self.capabilities: Params = {}
        self.info = b"{}"
        self.level: str | None = None
        self.subscriptions: set[str] = set()
        self.store = store  # None: HTTP+SSE
        self.stream = Stream(0, store)  # what belongs to no call
        self.streams: dict[int, Stream] | None = None  # answers to POSTs, by name
        self.streamed = 0  # how many of them there were
        self.calls: dict[bytes, Running] | None = None  # by id, raw
        self.questions: dict[bytes, asyncio.Future[Answer]] | None = None  # of the server, by our id
        self.asked = 0
        self.last = clock.now
        self.joined = self.over = False

    @property
    def used(self) -> bool:
        """Is somebody there now?"""
        return self.stream.visit is not None or bool(self.calls)

    def join(self) -> None:
        """It is initialized: from now on it hears."""
        if not self.joined and not self.over:
            self.joined = True
            self.service.join(self)

    def hears(self, method: str, params: bytes | None) -> None:
        """Onto the GET stream; it waits there until it is read."""
        if self.over or not self._wants(method, params):
            return
        self.stream.send(message.notification(method, params))

    def _wants(self, method: str, params: bytes | None) -> bool:
        if params is not None and method in ("notifications/message", "notifications/resources/updated"):
            try:
                found = message.parts(params)
                if method == "notifications/message":
                    return loud_enough(self.level, found)
                return concerns(self.subscriptions, found)
            except CallError:
                return False
        return True

    async def question(self, method: str, params: bytes | None) -> Answer:
        """On the GET stream, if this client ever opened one."""
        if method != "ping" and not self.stream.read:
            return Answer.failure(NO_ONE_TO_ASK, "The client has no stream open")
        return await self.ask(self.stream, method, params)

    async def ask(self, stream: Stream, method: str, params: bytes | None) -> Answer:
        """On this stream. Waits until the client answers, leaves for good, or QUESTION_S are over."""
        if method == "ping":
            return Answer(b"{}")
        why = unfit(self.capabilities, method, params)
        if why or self.over:
            return Answer.failure(METHOD_NOT_FOUND if why else NO_ONE_TO_ASK, why or "The session is over")
        self.asked += 1
        id = b"%d" % self.asked
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.questions is None:
            self.questions = {}
        self.questions[id] = future
        stream.send(message.request(id, method, params))
        try:
            async with asyncio.timeout(QUESTION_S):
                return await future
        except TimeoutError:
            self._take_back(stream, id, "timed out")
            return Answer.failure(TIMED_OUT, "The client did not answer")
        except asyncio.CancelledError:
            self._take_back(stream, id, "not needed any more")
            raise
        finally:
            self.questions.pop(id, None)

    def _take_back(self, stream: Stream, id: bytes, why: str) -> None:
        if not self.over:
            stream.send(message.notification("notifications/cancelled", b'{"requestId":%b,"reason":%b}' % (id, message.text(why))))

    def answered(self, said: Message) -> None:
        """The client's answer to a question. One nobody asked, or that comes twice, means nothing."""
        future = self.questions.get(said.id or b"") if self.questions else None
        if future is not None and not future.done():
            future.set_result(Answer(said.result, said.error))

    def end(self) -> None:
        """It is over: nobody waits for anything any more."""
        if self.over:
            return
        self.over = True
        for call in tuple((self.calls or {}).values()):
            call.cancel()
        for future in tuple((self.questions or {}).values()):
            if not future.done():
                future.set_result(Answer.failure(NO_ONE_TO_ASK, "The session is over"))
        for stream in (self.stream, *(self.streams or {}).values()):
            stream.close()
        if self.joined:
            self.service.leave(self)


class Sessions:
    """All of one upstream, the one that is unused for longest first."""

    __slots__ = ("ended", "limit", "table", "ttl")

    def __init__(self, ttl: float = TTL_S, limit: int = MOST, ended: Callable[[Session], None] | None = None) -> None:
        self.ttl, self.limit = ttl, limit  # seconds; how many
        self.ended = ended  # told of each one that is over
        self.table: OrderedDict[str, Session] = OrderedDict()

    def room(self, now: float) -> bool:
        """Is there a place for one more, if need be by ending one that nobody uses?"""
        if len(self.table) < self.limit:
            return True
        return self._end_one(now, YOUNG_S)

    def add(self, session: Session) -> None:
        """It is found by its id from now on."""
        self.table[session.session] = session

    def find(self, id: str, principal: str) -> Session | None:
        """The session with this id, if it is this caller's; and it is used now."""
        session = self.table.get(id)
        if session is None or session.principal != principal:
            return None
        session.last = clock.now
        self.table.move_to_end(id)
        return session

    def end(self, session: Session) -> None:
        """It is over."""
        if self.table.pop(session.session, None) is not None:
            session.end()
            if self.ended is not None:
                self.ended(session)

    def sweep(self, now: float) -> None:
        """End those that nobody used for `ttl` seconds."""
        while self._end_one(now, self.ttl):
            pass

    def _end_one(self, now: float, after: float) -> bool:
        """End the one that is unused for longest, if nobody used it for `after` seconds."""
        while self.table:
            session = next(iter(self.table.values()))
            if now - session.last < after:
                return False
            if not session.used:
                self.end(session)
                return True
            session.last = now
            self.table.move_to_end(session.session)
        return False

    def end_all(self) -> None:
        """Nobody stays."""
        for session in tuple(self.table.values()):
            self.end(session)
