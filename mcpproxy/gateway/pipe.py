"""Calls of many clients over one duplex of messages: whose is what comes back?

    ask ──▶ id and progress token of ours ──▶ send ──▶ server
    Answer, call.note, call.question ◀── received ◀──

1. Ids and progress tokens are ours alone (1, 2, 3, …, never used again), so two clients may both call theirs 0. A call is a Future that `received` fulfils;
   there is no task but the caller's own. A token is asked for only where the client asked for one.
2. Whoever stops waiting (cancelled, or too late) is taken out and the server is told (notifications/cancelled); what it answers after that is dropped.
3. A request of the server names no call. It goes to one only where nobody else can be meant: all calls that wait are of one client, and so are those given up
   which the server may still be at. Otherwise it gets an error: never to a wrong client. Notifications about calls (message) follow the same rule,
   and are everybody's where it says nothing. A server must not answer what was cancelled, so a ping is sent behind it: once that is answered, in whatever
   way, the server has read that it is to stop, and asks nothing more for it (SDKs see to that). As not all servers do, callers other than the one who
   cancelled are asked nothing for as long as a call may be silent. Servers that ask belong into a mode of their own: per-session, per-principal.
4. `lost` answers every call at once.
5. Nothing is kept here but what waits: what comes is handed on, or dropped. Notifications of no call are dropped beyond NOTES a second.

Works for a child's pipes and for HTTP+SSE (a stream of events and a POST for each message): `send` must not wait; who cannot send raises Unavailable,
or says `fail(id, …)` later.

It is one file because each message may end what any of the others began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, NO_ONE_TO_ASK, TIMED_OUT, Answer, Call, Client, Hearer, Unavailable
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_REQUEST, CallError
from mcpproxy.mcp.message import Message, Params

NOTES = 1000  # notifications a second that belong to no call
QUESTIONS = 64  # requests of the server that wait for somebody's answer
GIVEN_UP = 4096  # calls that were given up and are remembered; beyond that, nobody knows whom the server means
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"  # MCP 2026-07-28, basic/patterns/subscriptions

Note = Callable[[str, Params], None]
Say = Callable[[str, str], None]  # level and text: observe/messages


PLAIN = frozenset(("logging/setLevel", "resources/subscribe", "resources/unsubscribe"))


def is_plain(method: str) -> bool:
    """Nobody is asked on behalf of such a call while there is another at work; it may be the hub that wants it."""
    return method in PLAIN or method.endswith("/list")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take."""

    call: float = 600.0  # seconds without an answer or progress
    ceiling: float = 3600.0  # seconds, whatever the server says


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that was sent."""

    answer: asyncio.Future[Answer]
    call: Call | None  # None: a request of our own
    note: Note | None  # who listens for as long as it takes (subscriptions/listen)
    began: float
    moved: float  # when it was heard of last
    patience: Patience
    timer: asyncio.TimerHandle | None = None
    questions: set[_Question] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Question:
    """A request of the server that waits for somebody's answer."""

    id: bytes
    task: asyncio.Task[Answer]
    withdrawn: bool = False  # the server does not want to know any more


class _Id(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"")


_id_of = msgspec.json.Decoder(_Id).decode
_batch = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Pipe:
    """One connection to one server."""

    def __init__(
        self,
        name: str,
        send: Callable[[bytes, bytes | None], None],  # a message, and its id where it is a request
        hearer: Hearer,
        *,
        owner: Client | None = None,  # the only client there is; None: many
        whose: Client | None = None,  # one of these many, where all are of one caller
        patience: Patience = Patience(),
        say: Say = lambda level, text: None,
    ) -> None:
        self.name, self.owner, self.dropped = name, owner, 0
        self._whose = owner if owner is not None else whose
        self._send, self._hearer, self._patience, self._say = send, hearer, patience, say
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, _Waiting] = {}
        self._given_up: dict[bytes, tuple[Client, float]] = {}  # id -> whose, and until when it matters
        self._stopped: dict[str, float] = {}  # principals whose calls were given up, and the server has read it -> until when it matters
        self._blurred = 0.0  # until then there are more than we remember
        self._probe: tuple[bytes, list[bytes]] | None = None  # id of a ping, and which calls were given up before it
        self._listening = 0
        self._questions: dict[bytes, _Question] = {}
        self._next = 0
        self._gone: Answer | None = None
        self._second, self._notes = 0.0, 0

    # -- calls --

    @property
    def calls(self) -> int:
        """How many wait for an answer, those aside that listen."""
        return len(self._waiting) - self._listening

    async def ask(self, call: Call, params: Params | None = None) -> Answer:
        """Have a client's call answered; `params` if others than its own."""
        given = call.params if params is None else params
        if call.token is None:
            return await self._ask(call.method, message.put(given) if given else None, call)
        # Our id is our token: nobody else has it.
        try:
            meta = message.parts(given["_meta"]) if "_meta" in given else {}
        except CallError:
            return Answer.failure(INVALID_REQUEST, "_meta is no object")
        return await self._ask(
            call.method, message.put({**given, "_meta": message.put({**meta, "progressToken": b"%d" % (self._next + 1)})}), call
        )

    async def request(self, method: str, params: bytes | None, *, within: float | None = None, note: Note | None = None) -> Answer:
        """A request of our own. `note` hears what comes with its id as subscription; such a request takes as long as it takes."""
        patience = self._patience if within is None else Patience(within, within)
        return await self._ask(method, params, None, patience, note)

    def tell(self, method: str, params: bytes | None) -> None:
        """A notification to the server; dropped where it cannot be sent."""
        self._put(message.notification(method, params))

    async def _ask(
        self, method: str, params: bytes | None, call: Call | None, patience: Patience | None = None, note: Note | None = None
    ) -> Answer:
        if self._gone is not None:
            return self._gone
        self._next += 1
        id = b"%d" % self._next
        now = self._loop.time()
        waiting = _Waiting(self._loop.create_future(), call, note, now, now, patience or self._patience)
        self._waiting[id] = waiting
        if note is None:
            waiting.timer = self._loop.call_later(min(waiting.patience.call, waiting.patience.ceiling), self._late, id)
        else:
            self._listening += 1
        try:
            self._send(message.request(id, method, params), id)
            return await waiting.answer
        except Unavailable as why:
            self._take(id)
            return Answer.failure(MEMBER_UNAVAILABLE, why.text)
        except asyncio.CancelledError:
            if self._take(id) is not None and method != "initialize":  # which must not be cancelled (basic/utilities/cancellation)
                self._give_up(id, waiting, "the client does not wait any more")
            raise

    def _take(self, id: bytes) -> _Waiting | None:
        found = self._waiting.pop(id, None)
        if found is None:
            return None
        if found.timer is not None:
            found.timer.cancel()
        if found.note is not None:
            self._listening -= 1
        for question in tuple(found.questions):
            question.task.cancel()
        return found

    def _settle(self, id: bytes, answer: Answer) -> bool:
        found = self._take(id)
        if found is None:
            return False
        if not found.answer.done():
            found.answer.set_result(answer)
        return True

    def _give_up(self, id: bytes, waiting: _Waiting, why: str) -> None:
        self._put(message.notification("notifications/cancelled", b'{"requestId":%b,"reason":%b}' % (id, message.text(why))))
        if waiting.call is None or self.owner is not None:
            return
        until = self._loop.time() + waiting.patience.ceiling
        if len(self._remembered()) >= GIVEN_UP:
            self._blurred = until
        else:
            self._given_up[id] = (waiting.call.client, until)
        if self._probe is None:
            self._look_behind()

    def _look_behind(self) -> None:
        """Has it read that it is to stop?"""
        self._next += 1
        id = b"%d" % self._next
        self._probe = id, list(self._given_up)
        try:
            self._send(message.request(id, "ping", None), id)
        except Unavailable:
            self._probe = None

    def _has_read(self) -> None:
        """What was cancelled before the ping is over."""
        assert self._probe is not None
        _, ids = self._probe
        self._probe = None
        until = self._loop.time() + self._patience.call
        for id in ids:
            if (left := self._given_up.pop(id, None)) is not None:
                self._stopped[left[0].principal] = until
        if len(self._stopped) > GIVEN_UP:
            self._stopped = {who: until for who, until in self._stopped.items() if until > self._loop.time()}
        if self._given_up:
            self._look_behind()

    def _remembered(self) -> dict[bytes, tuple[Client, float]]:
        """Calls that were given up and that the server may still be at."""
        now = self._loop.time()
        while self._given_up and next(iter(self._given_up.values()))[1] < now:
            del self._given_up[next(iter(self._given_up))]
        return self._given_up

    def _late(self, id: bytes) -> None:
        waiting = self._waiting[id]
        now, patience = self._loop.time(), waiting.patience
        moved = now if waiting.questions else waiting.moved  # who is asked may think
        left = min(moved + patience.call, waiting.began + patience.ceiling) - now
        if left > 0.001:
            waiting.timer = self._loop.call_later(left, self._late, id)
            return
        self._settle(id, Answer.failure(TIMED_OUT, f"{self.name} did not answer within {now - waiting.moved:.3g} s"))
        self._give_up(id, waiting, "it took too long")

    def fail(self, id: bytes, answer: Answer) -> None:
        """The request with this id of ours could not be sent after all, or cannot be answered."""
        if self._probe is not None and id == self._probe[0]:
            self._probe = None
        self._settle(id, answer)

    def lost(self, text: str) -> None:
        """There is no server any more: every call is answered now, and every later one."""
        self._gone = Answer.failure(MEMBER_LOST, text)
        for question in tuple(self._questions.values()):
            question.withdrawn = True
        for id in tuple(self._waiting):
            self._settle(id, self._gone)
        for question in tuple(self._questions.values()):
            question.task.cancel()
        self._given_up.clear()
        self._stopped.clear()

    # -- what the server says --

    def received(self, raw: bytes) -> None:
        """One message of the server. What is none is said in the log, and hurts nobody but the call it answers, if that can be told."""
        if self._gone is not None:
            return
        try:
            found = message.read(raw)
            if found.method is None:
                self._answered(found)
            elif found.id is not None:
                self._asked(found)
            else:
                self._noted(found)
        except CallError:
            self._unreadable(raw)

    def _unreadable(self, raw: bytes) -> None:
        if raw.lstrip()[:1] == b"[":  # 2025-03-26 allowed batches
            try:
                each = _batch(raw)
            except (msgspec.DecodeError, RecursionError):
                each = []
            if each and not any(part[:1] == b"[" for part in map(bytes, each)):
                for part in each:
                    self.received(bytes(part))
                return
        self._say("warning", f"what it wrote is no message: {raw[:200]!r}")
        try:
            self._settle(bytes(_id_of(raw).id), Answer.failure(MEMBER_LOST, f"{self.name} gave an answer that cannot be read"))
        except (msgspec.DecodeError, RecursionError):
            pass

    def _answered(self, found: Message) -> None:
        id = found.id
        if (
            id is None
        ):  # an error about what it could not read: somebody's only where nobody else waits (2026-07-28 allows it to have no id)
            if len(self._waiting) != 1 or self._given_up:
                return
            id = next(iter(self._waiting))
        elif id[:1] == b'"':  # some give back a number as a string; no string is ours, so nothing can be mixed up
            id = id[1:-1]
        if self._probe is not None and id == self._probe[0]:
            self._has_read()
        elif not self._settle(id, Answer(found.result, found.error)):
            self._given_up.pop(id, None)

    def _noted(self, found: Message) -> None:
        method = found.method or ""
        params = found.params()
        if method == "notifications/progress":
            waiting = self._waiting.get(params.pop("progressToken", b"").strip(b'"'))
            if waiting is not None:
                waiting.moved = self._loop.time()
                if waiting.call is not None and waiting.call.token is not None:
                    waiting.call.note(method, params)
            return
        if method == "notifications/cancelled":
            self._withdrawn(params.get("requestId", b""))
            return
        if self._listening and "_meta" in params:
            subscription = message.parts(params["_meta"]).get(SUBSCRIPTION, b"")
            listening = self._waiting.get(subscription.strip(b'"'))
            if listening is not None and listening.note is not None:
                if self._allowed():
                    listening.note(method, params)
                return
        waiting = self._meant() if method == "notifications/message" else None
        if waiting is not None and waiting.call is not None:
            waiting.call.note(method, params)
        elif self._allowed():
            self._hearer.heard(self.name, self._whose, method, params)

    def _allowed(self) -> bool:
        now = self._loop.time()
        if now - self._second >= 1.0:
            self._second, self._notes = now, 0
        self._notes += 1
        if self._notes <= NOTES:
            return True
        if self._notes == NOTES + 1:
            self._say("warning", f"more than {NOTES} notifications a second; the rest is dropped")
        self.dropped += 1
        return False

    def _meant(self) -> _Waiting | None:
        """The call that must be meant, by a message that names none: the latest of the only client there is."""
        waiting = [each for each in self._waiting.values() if each.call is not None]
        waiting = [each for each in waiting if each.call is not None and not is_plain(each.call.method)] or waiting
        if not waiting or (last := waiting[-1]).call is None:
            return None
        if any(each.call is not None and each.call.client is not last.call.client for each in waiting):
            return None
        if self.owner is not None:
            return last
        client, now = last.call.client, self._loop.time()
        if self._blurred > now or any(not client.session or gone.session != client.session for gone, _ in self._remembered().values()):
            return None
        if any(who != client.principal and until > now for who, until in self._stopped.items()):
            return None
        return last

    # -- what the server asks --

    def _asked(self, found: Message) -> None:
        id, method = found.id or b"null", found.method or ""
        if method == "ping":
            self._put(message.response(id, result=b"{}"))
            return
        if len(self._questions) >= QUESTIONS or id in self._questions:
            self._refuse(id, "too many requests wait for an answer")
            return
        waiting = self._meant()
        if waiting is not None and waiting.call is not None:
            asks: Coroutine[Any, Any, Answer] = waiting.call.question(method, found.given)
        elif self.owner is None and (self.calls or self._remembered() or self._blurred > self._loop.time()):
            self._refuse(id, "it cannot be told whose call this belongs to, or its client is gone")
            return
        else:
            asks = self._hearer.asked(self.name, self.owner, method, found.given)
        question = _Question(id, self._loop.create_task(asks))
        self._questions[id] = question
        if waiting is not None:
            waiting.questions.add(question)
        question.task.add_done_callback(lambda _: self._replied(question, waiting))

    def _replied(self, question: _Question, waiting: _Waiting | None) -> None:
        self._questions.pop(question.id, None)
        if waiting is not None:
            waiting.questions.discard(question)
            waiting.moved = self._loop.time()
        if question.task.cancelled():
            answer = Answer.failure(NO_ONE_TO_ASK, "the client is gone, or its call has ended")
        elif (why := question.task.exception()) is not None:  # a mistake of ours is no reason to leave a server waiting
            self._say("error", f"its request failed here: {why!r}")
            answer = Answer.failure(message.INTERNAL_ERROR, "internal error")
        else:
            answer = question.task.result()
        if not question.withdrawn:
            self._put(message.response(question.id, result=answer.result, error=answer.error))

    def _withdrawn(self, id: bytes) -> None:
        question = self._questions.get(id)
        if question is not None:
            question.withdrawn = True
            question.task.cancel()
        elif (listening := self._waiting.get(id)) is not None and listening.note is not None:  # the end of a listen
            self._settle(id, Answer(result=b"{}"))

    def _refuse(self, id: bytes, why: str) -> None:
        self._put(message.response(id, error=message.error(NO_ONE_TO_ASK, why)))

    def _put(self, raw: bytes) -> None:
        if self._gone is None:
            try:
                self._send(raw, None)
            except Unavailable:
                pass
