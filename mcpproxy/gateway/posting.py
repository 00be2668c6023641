"""One request to a server over Streamable HTTP: posted, and answered by JSON or by a stream of events (MCP basic/transports: Streamable HTTP).

   post = Post(wire, id, call=call)
   outcome = await post.send(request, resume)        # Outcome: the answer, and what became of the request

1. What comes in the answer's stream before the answer belongs to the call: notifications are its notes, requests of the server its questions. Changes
   of lists and resources belong to nobody's call, wherever they are said.
2. The first answer with our id ends it. Answers with other ids are nobody's, a second one is never read.
3. A stream that ends without the answer goes on by `resume` where the server gave its events ids (2025-11-25: resumability), as it asked by `retry`.
4. To cancel the task that awaits `send` closes the stream, which on 2026-07-28 is the cancellation itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from mcpproxy.errors import ProxyError, Retry, Side
from mcpproxy.gateway.outgoing import Outgoing, Reply, Request
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, NO_ONE_TO_ASK, TIMED_OUT, TOO_LARGE, Answer, Call
from mcpproxy.gateway.pipe import Note, Patience, Say
from mcpproxy.http.replies import MESSAGES
from mcpproxy.http.sse import Event
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Message, Params

RESUMES = 5  # in a row that bring nothing new
RESUME_S = 1.0  # until then, where the server does not say (`retry`)
LONGEST_RETRY_S = 30.0
QUESTIONS = 64  # of one call, at once
REFUSED = 64  # more that are told so at once: each is a request of ours. What comes beyond them is not answered
SOONEST_RETRY_S = 0.05  # whatever the server says
CODES = {"answer-too-large": TOO_LARGE, "response-timeout": TIMED_OUT, "connect-timeout": TIMED_OUT}

_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Fate(Enum):
    """What became of a request, where the server did not answer it."""

    ANSWERED = "answered"
    REFUSED = "refused"  # by its status: it was not carried out, if it is the session that is not known
    AWAY = "away"  # nobody was there: it was not carried out
    UNKNOWN = "unknown"  # it may have been
    LATE = "late"  # we do not wait any longer


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, for whoever asked, and how it came to be."""

    answer: Answer
    fate: Fate = Fate.ANSWERED
    status: int = 0  # of the response; 0: there was none
    said: bool = True  # it is the server's own word, not ours about what came
    reply: Reply | None = None


@dataclass(slots=True)
class Wire:
    """What every request to a server needs."""

    name: str
    outgoing: Outgoing
    hear: Callable[[Message], None]  # what belongs to no call
    respond: Callable[[bytes, Answer], Awaitable[None]]  # to a request of the server, by its id
    say: Say = field(default=lambda level, text: None)


def messages_of(raw: bytes) -> list[Message]:
    """One, or a batch (2025-03-26). Raises CallError."""
    if raw.lstrip()[:1] != b"[":
        return [message.read(raw)]
    try:
        each = _batch(raw)
    except (msgspec.DecodeError, RecursionError):
        raise CallError("bad-json", -32700) from None
    return [message.read(bytes(part)) for part in each]


def failure_of(name: str, error: ProxyError) -> Outcome:
    """What a request that got no answer is told."""
    away = error.retry is Retry.SAFE
    code = CODES.get(error.kind, MEMBER_UNAVAILABLE if away or error.status == 503 else MEMBER_LOST)
    return Outcome(Answer.failure(code, f"{name}: {MESSAGES.get(error.kind, error.kind)}"), Fate.AWAY if away else Fate.UNKNOWN)


class Post:
    """See above. `note` hears all notifications of a request of our own that listens; such a one takes as long as it takes."""

    __slots__ = ("_began", "_found", "_id", "_limit", "_news", "_patience", "_questions", "_wire", "call", "note")

    def __init__(self, wire: Wire, id: bytes, *, call: Call | None = None, note: Note | None = None, patience: Patience) -> None:
        self._wire, self._id, self._patience = wire, id, patience
        self.call, self.note = call, note
        self._found: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._questions: dict[bytes, asyncio.Task[None]] = {}
        self._limit: asyncio.Timeout | None = None
        self._began = asyncio.get_running_loop().time()
        self._news = False

    async def send(self, request: Request, resume: Callable[[bytes], Request] | None = None) -> Outcome:
        """Have it answered; raises nothing but CancelledError."""
        patience = None if self.note is not None else min(self._patience.call, self._patience.ceiling)
        try:
            async with asyncio.timeout(patience) as self._limit:
                return await self._send(request, resume)
        except TimeoutError:
            return Outcome(Answer.failure(TIMED_OUT, f"{self._wire.name} did not answer in time"), Fate.LATE)
        except ProxyError as error:
            return failure_of(self._wire.name, error)
        finally:
            self._limit = None  # questions that end later have no time to give
            for task in tuple(self._questions.values()):
                task.cancel()

    async def _send(self, request: Request, resume: Callable[[bytes], Request] | None) -> Outcome:
        reply: Reply | None = None
        resumed = 0
        try:
            reply = await self._wire.outgoing.ask(request, self._hear, self._over)
            while reply.events:
                answer = await self._found
                if answer is not None:
                    reply.linger()
                    return Outcome(answer, status=reply.status, reply=reply)
                last, wait = reply.last_id, reply.retry
                resumed = 0 if self._news else resumed + 1
                if resume is None or not last or resumed > RESUMES:
                    return Outcome(
                        Answer.failure(MEMBER_LOST, f"{self._wire.name} ended its answer before it was there"), Fate.UNKNOWN, reply.status
                    )
                self._found = asyncio.get_running_loop().create_future()
                self._news = False
                await asyncio.sleep(min(RESUME_S if wait is None else max(wait, SOONEST_RETRY_S), LONGEST_RETRY_S))
                reply = await self._resumed(reply, resume(last))
            return self._judge(reply)
        except BaseException:
            if reply is not None:
                reply.close()
            raise

    async def _resumed(self, before: Reply, request: Request) -> Reply:
        try:
            reply = await self._wire.outgoing.ask(request, self._hear, self._over)
        except ProxyError as error:
            if error.retry is not Retry.SAFE:
                raise
            self._over(None)
            return before  # nobody is there for a moment: once more, by the same id
        if not reply.events:
            raise ProxyError("upstream-cut-answer", Side.UPSTREAM, 502)
        return reply

    def heard_of(self) -> None:
        """It goes on: the time for it begins anew."""
        if self._limit is None or self.note is not None or self._limit.expired():
            return
        loop, patience = asyncio.get_running_loop(), self._patience
        left = patience.ceiling if self._questions else patience.call  # who is asked may think
        self._limit.reschedule(min(loop.time() + left, self._began + patience.ceiling))

    # -- an answer that is no stream -------------------------------------------------------------------------------------------------------------

    def _judge(self, reply: Reply) -> Outcome:
        status = reply.status
        found = self._message(reply)
        fate = Fate.ANSWERED if status < 400 else Fate.REFUSED
        if found is not None:
            return Outcome(found, fate, status, reply=reply)
        name = self._wire.name
        if status in (401, 403):
            answer = Answer.failure(MEMBER_UNAVAILABLE, f"{name} does not let us in ({status})")
        elif status >= 500 or status == 429:
            answer = Answer.failure(MEMBER_UNAVAILABLE, f"{name} answered {status}")
        elif status in (202, 204):
            answer = Answer.failure(MEMBER_LOST, f"{name} took the request and gave no answer")
        elif status >= 300:
            answer = Answer.failure(MEMBER_LOST, f"{name} answered {status}")
        else:
            answer = Answer.failure(MEMBER_LOST, f"{name} answered what is no message for this request")
        return Outcome(answer, fate, status, said=False, reply=reply)

    def _message(self, reply: Reply) -> Answer | None:
        """The answer in the body, if it is one to this request."""
        if not reply.body:
            return None
        try:
            found = messages_of(reply.body)
        except CallError:
            return None
        for each in found:
            if each.method is None and (self._mine(each.id) or (reply.status >= 400 and each.error is not None)):
                return Answer(each.result, each.error)
        return None

    def _mine(self, id: bytes | None) -> bool:
        return id is not None and id.strip(b'"') == self._id  # some give back a number as a string; no string is ours

    # -- a stream --------------------------------------------------------------------------------------------------------------------------------

    def _over(self, error: ProxyError | None) -> None:
        if self._found.done():
            return
        if error is not None and error.kind == "answer-too-large":
            self._found.set_exception(error)
        else:
            self._found.set_result(None)

    def _hear(self, event: Event) -> None:
        self._news = True
        if not event.data or self._found.done() or event.type not in (b"", b"message"):
            return
        try:
            for each in messages_of(event.data):
                self.received(each)
        except CallError:
            self._wire.say("warning", f"{self._wire.name}: an event that is no message")

    def received(self, found: Message) -> None:
        """A message that is about this request. Raises CallError for what cannot be read."""
        if found.method is None:
            if self._mine(found.id) and not self._found.done():
                self._found.set_result(Answer(found.result, found.error))
        elif found.id is not None:
            self.asked(found)
        elif found.method == "notifications/cancelled":
            task = self._questions.get(found.params().get("requestId", b""))
            if task is not None:
                task.cancel()
        elif self.note is not None:
            self.note(found.method, found.params())
        elif self.call is None or found.method.endswith("/list_changed") or found.method == "notifications/resources/updated":
            self._wire.hear(found)
        else:
            params = found.params()
            if found.method == "notifications/progress":
                self.heard_of()
                params.pop("progressToken", None)
                if self.call.token is None:
                    return
            self.call.note(found.method, params)

    def asked(self, found: Message) -> None:
        """A request of the server in the midst of this one."""
        id = found.id or b"null"
        if id in self._questions or len(self._questions) >= QUESTIONS + REFUSED:
            return
        self._questions[id] = task = asyncio.get_running_loop().create_task(self._question(id, found))
        self.heard_of()
        task.add_done_callback(lambda _: self._settled(id))

    def _settled(self, id: bytes) -> None:
        self._questions.pop(id, None)
        self.heard_of()

    async def _question(self, id: bytes, found: Message) -> None:
        method = found.method or ""
        if method == "ping":
            answer = Answer(result=b"{}")
        elif self.call is None or len(self._questions) > QUESTIONS:
            answer = Answer.failure(NO_ONE_TO_ASK, "there is nobody to ask, or too many questions wait")
        else:
            answer = await self.call.question(method, found.given)
        await self._wire.respond(id, answer)


def with_token(params: Params, token: bytes) -> Params:
    """The params of a call whose progress is wanted. Raises CallError where `_meta` is no object."""
    meta = message.parts(params["_meta"]) if "_meta" in params else {}
    return {**params, "_meta": message.put({**meta, "progressToken": token})}
