"""The older era towards clients (MCP 2024-11-05 to 2025-11-25): sessions, calls that outlive their connection, questions on the stream.

    POST initialize        ──▶ a session, named in the answer's head
    POST request           ──▶ JSON, when the answer is there before anything else is to be said; else a stream: notes, questions, the answer
    POST response          ──▶ answers a question
    GET                    ──▶ what belongs to no call; or, with Last-Event-ID, the rest of a stream that was cut

A client that leaves has not cancelled: the call goes on, and its answer waits on the stream, if the client knows of one.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from mcpproxy.clock import clock
from mcpproxy.gateway.fitting import loud_enough
from mcpproxy.gateway.parts import LEGACY_VERSIONS, MEMBER_UNAVAILABLE, Answer, Call
from mcpproxy.gateway.sessions import Session
from mcpproxy.gateway.streams import Stream, place
from mcpproxy.gateway.web import Visit, member
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, CallError, not_json
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Message, Params

if TYPE_CHECKING:
    from mcpproxy.gateway.face import Face, Said

CANCELLED = 4499  # our code for a call its client cancelled: the answer is for whoever waits for the end of the POST
NO_SESSION = -32001  # what SDK servers say; clients look at the status alone
PRIMES = "2025-11-25"  # since then, a stream begins with an event that has an id and nothing else
BATCHES = "2025-03-26"  # the one revision that has them
CALLS = 1000  # of a session at once
BATCH = 100  # messages
MODERN_ONLY = frozenset({"server/discover", "subscriptions/listen"})
_raws = msgspec.json.Decoder(list[msgspec.Raw], strict=True).decode
STRIPPED = ("resultType", "ttlMs", "cacheScope")  # words of the modern era in results


class LegacyCall(Call):
    """A request in a session."""

    __slots__ = ("face", "id", "over", "own", "session", "since", "stream", "streams", "task", "visit")

    def __init__(self, face: Face, session: Session, id: bytes, method: str, params: Params, request_id: str) -> None:
        Call.__init__(self, session, method, params, request_id, _token(params))
        self.face, self.session, self.id = face, session, id
        self.visit: Visit | None = None  # waits for JSON or for a stream to begin
        self.stream: Stream | None = None
        self.streams = True  # does the client take one?
        self.own = True  # the stream is this call's (or its batch's), and ends with its answer
        self.over = False
        self.since = clock.now
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            if self.method == "initialize":
                answer = await self.face.initialize(self.session, self.params)
            else:
                answer = await self.face.asked(self)
        except asyncio.CancelledError:
            answer = Answer.failure(CANCELLED, "Cancelled")
        self._finish(answer)

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self.task.cancel()
        self._finish(Answer.failure(CANCELLED, "Cancelled"))  # a task that never began ends without a word

    def _finish(self, answer: Answer) -> None:
        if self.over:
            return
        self.over = True
        session = self.session
        if session.calls is not None:
            session.calls.pop(self.id, None)
        self.face.waiting.pop(self, None)
        session.last = clock.now
        body = message.response(self.id, result=_older(answer.result), error=answer.error)
        if self.stream is None:
            visit, self.visit = self.visit, None
            if visit is not None:
                visit.answer(200, body, member(self.labels))
        elif self.own:
            self.stream.answered(body)
        else:
            self.stream.send(body)

    def left(self) -> None:
        """The client is gone before anything was said. The call goes on; its answer has no place to wait in."""
        self.visit = None
        self.face.waiting.pop(self, None)

    def begin(self) -> None:
        """The answer comes on a stream."""
        self.face.waiting.pop(self, None)
        if not self.streams:
            return
        visit, self.visit = self.visit, None
        if visit is not None:
            self.stream = open_stream(self.session, visit, 1, member(self.labels))

    def note(self, method: str, params: Params) -> None:
        """About this call."""
        if self.over or (method == "notifications/message" and not loud_enough(self.session.level, params)):
            return
        if method == "notifications/progress":
            if self.token is None:
                return
            params = {"progressToken": self.token, **params}
        if self.stream is None:
            self.begin()
        if self.stream is not None:
            self.stream.send(message.notification(method, message.put(params)))

    async def question(self, method: str, params: bytes | None) -> Answer:
        """On the stream of this call; if its client left without knowing one, on the session's."""
        if self.stream is None and not self.over:
            self.begin()
        if self.stream is None:
            return await self.session.question(method, params)
        return await self.session.ask(self.stream, method, params)


def open_stream(session: Session, visit: Visit, waiting: int, fields: bytes = b"") -> Stream:
    """Answer this POST with a stream that is complete after `waiting` answers."""
    session.streamed += 1
    if session.streams is None:
        session.streams = {}
    stream = session.streams[session.streamed] = Stream(session.streamed, session.store, session.streams, waiting)
    visit.begin(fields)
    stream.attach(visit, prime=session.version >= PRIMES)
    return stream


# -- POST ---------------------------------------------------------------------------------------------------------------------------------------


def post(face: Face, visit: Visit, said: Said) -> None:
    """A message of a client of the older era."""
    body = said.body
    if body.lstrip()[:1] == b"[":
        batch(face, visit, said)
        return
    told = message.read(body)
    if told.method == "initialize" and told.is_request:
        initialize(face, visit, said, told)
        return
    session = find(face, visit, said, told.id)
    if session is None:
        return
    if not told.is_request:
        hear(face, session, told)
        visit.answer(202)
        return
    call = begin_call(face, session, told, said)
    if isinstance(call, bytes):
        visit.answer(200, call)
        return
    call.visit, call.streams = visit, said.streams
    visit.gone = call.left
    if said.streams:
        face.waiting[call] = None


def batch(face: Face, visit: Visit, said: Said) -> None:
    """Several messages at once, as there were in one revision. The answers come on one stream, as they are ready."""
    session = find(face, visit, said, None)
    if session is None:
        return
    if session.version != BATCHES:
        raise CallError("bad-call", INVALID_REQUEST)
    told = several(said.body)
    if any(each.method == "initialize" for each in told):
        raise CallError("bad-call", INVALID_REQUEST)
    waiting = sum(each.is_request for each in told)
    stream = None
    if waiting:
        if not said.streams:
            visit.answer(406, message.response(None, error=message.error(INVALID_REQUEST, "Batches are answered as text/event-stream")))
            return
        stream = open_stream(session, visit, waiting)
    else:
        visit.answer(202)
    for each in told:
        try:
            if stream is None or not each.is_request:
                hear(face, session, each)
                continue
            call = begin_call(face, session, each, said)
        except CallError as error:
            call = message.response(each.id, error=message.error(error.code, "Invalid params"))
        if stream is None:
            continue
        if isinstance(call, bytes):
            stream.answered(call)
        else:
            call.stream = stream


def several(body: bytes) -> list[Message]:
    """The messages of a batch. Raises CallError."""
    try:
        raws = _raws(body)
    except (msgspec.DecodeError, RecursionError):
        raise not_json() from None
    if not 0 < len(raws) <= BATCH:
        raise CallError("bad-call", INVALID_REQUEST)
    return [message.read(bytes(raw)) for raw in raws]


def find(face: Face, visit: Visit, said: Said, id: bytes | None) -> Session | None:
    """The session this belongs to. None: it was answered that there is none."""
    if said.session is None:
        visit.answer(400, message.response(id, error=message.error(INVALID_REQUEST, "Mcp-Session-Id is missing: begin with initialize")))
        return None
    session = face.sessions.find(said.session, said.caller)
    if session is None or session.store is None:
        visit.answer(404, message.response(id, error=message.error(NO_SESSION, "Session not found")))
        return None
    session.route = said.route
    return session


def begin_call(face: Face, session: Session, told: Message, said: Said) -> LegacyCall | bytes:
    """A request: a call that runs, or the answer."""
    id, method = told.id, told.method
    assert id is not None and method is not None
    if method == "ping":
        return message.response(id, result=b"{}")
    if method in MODERN_ONLY:
        return message.response(id, error=message.error(METHOD_NOT_FOUND, "Method not found"))
    calls = session.calls
    if calls is None:
        calls = session.calls = {}
    if id in calls:
        return message.response(id, error=message.error(INVALID_REQUEST, "This id is in use"))
    size = len(told.raw)
    if len(calls) >= CALLS or not face.weight.room(session.principal, size):
        return message.response(id, error=message.error(MEMBER_UNAVAILABLE, "Too many calls at once"))
    if method != "initialize":
        session.join()
    call = calls[id] = LegacyCall(face, session, id, method, told.params(), said.request_id)
    face.weight.carry(session.principal, size, call.task)
    return call


def hear(face: Face, session: Session, told: Message) -> None:
    """A notification or a response of the client."""
    method = told.method
    if method is None:
        session.answered(told)
    elif method == "notifications/initialized":
        session.join()
    elif method == "notifications/cancelled":
        call = (session.calls or {}).get(told.params().get("requestId", b""))
        if call is not None:
            call.cancel()
    elif method != "notifications/progress":  # about our questions: nobody waits for it
        session.join()
        face.tell(session, method, told.given)


# -- sessions ---------------------------------------------------------------------------------------------------------------------------------------


def initialize(face: Face, visit: Visit, said: Said, told: Message) -> None:
    """A new session, if there is a place for it."""
    assert told.id is not None
    params = told.params()
    if not face.sessions.room(clock.now):
        visit.answer(503, message.response(told.id, error=message.error(MEMBER_UNAVAILABLE, "Too many sessions")), b"Retry-After: 60\r\n")
        return
    session = Session(face.service, said.caller, said.route, face.store)
    face.sessions.add(session)
    _Greeting(face, session, visit, told.id, params)


class _Greeting:
    """An `initialize` that is being answered."""

    __slots__ = ("face", "id", "session", "task", "visit")

    def __init__(self, face: Face, session: Session, visit: Visit, id: bytes, params: Params) -> None:
        self.face, self.session, self.visit, self.id = face, session, visit, id
        self.task = asyncio.get_running_loop().create_task(self._run(params))
        visit.gone = self._left

    async def _run(self, params: Params) -> None:
        try:
            answer = await self.face.initialize(self.session, params)
        except asyncio.CancelledError:
            self.face.sessions.end(self.session)
            raise
        body = message.response(self.id, result=answer.result, error=answer.error)
        if answer.error is not None:
            self.face.sessions.end(self.session)
            self.visit.answer(400, body)
        else:
            self.visit.answer(200, body, b"Mcp-Session-Id: %b\r\n" % self.session.session.encode())

    def _left(self) -> None:
        """Nobody learns the id: there is no session."""
        self.task.cancel()
        self.face.sessions.end(self.session)


def greet(session: Session, params: Params) -> None:
    """What the client says about itself. Raises CallError."""
    try:
        version = message.plain(params["protocolVersion"])
        session.capabilities = message.parts(params["capabilities"])
        session.info = params.get("clientInfo", b"{}")
    except (KeyError, CallError):
        raise CallError("bad-call", INVALID_PARAMS) from None
    session.version = version if version in LEGACY_VERSIONS else LEGACY_VERSIONS[-1]


# -- GET and DELETE -----------------------------------------------------------------------------------------------------------------------------------


def get(face: Face, visit: Visit, said: Said) -> None:
    """A stream to read."""
    session = find(face, visit, said, None)
    if session is None:
        return
    stream, after = session.stream, None
    if said.last_event_id is not None:
        found = place(said.last_event_id)
        other = (session.streams or {}).get(found[0]) if found and found[0] else None
        if found is None or (found[0] and other is None):
            visit.answer(400, message.response(None, error=message.error(INVALID_REQUEST, "Nothing is known of this event any more")))
            return
        stream, after = other or stream, found[1]
    session.join()
    visit.begin()
    stream.attach(visit, after=after, prime=session.version >= PRIMES)


def delete(face: Face, visit: Visit, said: Said) -> None:
    """The client needs its session no more."""
    session = find(face, visit, said, None)
    if session is not None:
        face.sessions.end(session)
        visit.answer(204)


# -- results --------------------------------------------------------------------------------------------------------------------------------------------


def _older(result: bytes | None) -> bytes | None:
    """A result without words of the modern era."""
    if result is None or b'"resultType"' not in result:
        return result
    try:
        found = message.parts(result)
    except CallError:
        return result
    if found.get("resultType") == b'"complete"':
        for word in STRIPPED:
            found.pop(word, None)
        return message.put(found)
    return result


def _token(params: Params) -> bytes | None:
    """The client's progress token, raw."""
    meta = params.get("_meta")
    if meta is None or b'"progressToken"' not in meta:
        return None
    return message.parts(meta).get("progressToken")
