"""A conversation over Streamable HTTP, in both eras: everything a client must do towards one server (MCP basic/transports: Streamable HTTP).

    conversation = HttpConversation("search", outgoing, upstream, hearer, owner=client)
    await conversation.begin()                    # greets; raises Unavailable
    answer = await conversation.ask(call)

Legacy: a session, its GET stream (kept open; none where that is answered 405), DELETE at the end. Modern: requests alone, and one listen (gateway/listening).

A server that lost its session gets a new one, and the client hears nothing of it but `recovered`:

 1. 404 says so (2025-11-25, session management); 400 may, and then a ping is asked. What was refused so was not carried out, and is asked again.
 2. A server that cannot be reached is waited for, RESTART_S: it may be starting anew. Nothing was carried out there either.
 3. Who hangs up in the midst of a call may have carried it out: asked again is only what may be done twice (gateway/mirrored).
 4. In the new session the log level and all subscriptions are told again, and the hub hears that lists may be others.

It is one file because each of these may happen in the midst of any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mcpproxy.config.model import Upstream
from mcpproxy.errors import ProxyError
from mcpproxy.gateway.greeting import VERSION, answered, discover, greet
from mcpproxy.gateway.listening import Listening
from mcpproxy.gateway.mirrored import Tools
from mcpproxy.gateway.outgoing import Outgoing, Reply, Request
from mcpproxy.gateway.parts import (
    LEGACY_VERSIONS,
    MEMBER_UNAVAILABLE,
    NO_ONE_TO_ASK,
    Answer,
    Call,
    Client,
    Conversation,
    Era,
    Hearer,
    Server,
    Unavailable,
)
from mcpproxy.gateway.pipe import Note, Patience, Say
from mcpproxy.gateway.posting import REFUSED, SOONEST_RETRY_S, Fate, Outcome, Post, Wire, messages_of, with_token
from mcpproxy.http.sse import Event
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH, CallError
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Message, Params
from mcpproxy.upstream.endpoint import Endpoint

RESTART_S = 5.0  # a server that is being restarted may take so long until it takes connections again
RESTART_STEPS = (0.1, 1.0)  # seconds between two tries: at first, and at most
MOST_TRIES = 16  # of one request, all told
RENEWALS = 2  # new sessions for one request
GREETING_S = 10.0  # for what a new session is told, for pings and notifications
QUESTIONS = 64  # requests of the server that wait for somebody's answer
SESSION_CODES = frozenset({-32600, -32000, -32001})  # by which legacy servers say that a session is missing
REMEMBERED = frozenset({"logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
EAR_S = (1.0, 30.0)  # seconds until the GET stream is asked for again: at first, and at most
EARS = 0.75  # of an upstream's `max_connections`: beyond it no more GET streams are opened, so that calls have room
GOODBYE_S = 2.0  # for a DELETE
NOTES = 1000  # notifications a second that belong to no call
NO_STREAM = frozenset({400, 401, 403, 404, 405, 406, 501})  # answers to GET that mean there is none here
NO_PROTOCOL = frozenset({400, 404, 405, 406, 415})  # answers that may mean that nobody here knows this era, or transport

BASE = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\nAccept-Encoding: identity\r\n"
NOT_SEEN = (None, None, LEGACY_VERSIONS[-1])
STREAM = b"Accept: text/event-stream\r\nAccept-Encoding: identity\r\nCache-Control: no-store\r\n"


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One greeting's worth. `id` is None where the server keeps none, as in the modern era."""

    server: Server
    id: bytes | None = None
    at: Endpoint | None = None  # where it lives

    @property
    def fields(self) -> bytes:
        """What every request in it says."""
        lines = b"MCP-Protocol-Version: %b\r\n" % self.server.version.encode()
        return lines if self.id is None else b"%bMcp-Session-Id: %b\r\n" % (lines, self.id)


@dataclass(slots=True)
class Absence:
    """Of a server, as all its conversations know it."""

    since: float = 0.0  # on the loop's clock; 0: it is there
    told: bool = False


class HttpConversation(Conversation):
    """With one server. `owner`: whose it is; None: everybody's."""

    def __init__(
        self,
        name: str,
        outgoing: Outgoing,
        upstream: Upstream,
        hearer: Hearer,
        *,
        owner: Client | None = None,
        first: Era = Era.MODERN,  # the era that is wanted where the server speaks both
        tools: Tools | None = None,
        absence: Absence | None = None,
        say: Say = lambda level, text: None,
        greeting: float = 30.0,
    ) -> None:
        self.name, self.owner, self.tools, self.busy, self.renewals = name, owner, tools or Tools(), 0, 0
        self.first = first
        self.lost = False  # it renews itself
        self.no_streamable = False  # the greeting was answered as if nobody here knew this transport
        self.used = 0.0  # on the loop's clock, when something was asked last
        self._hearer, self._say, self._greeting, self._absence = hearer, say, greeting, absence or Absence()
        self._target, self._most = upstream.mcp_path.encode(), upstream.max_message
        self._era = None if upstream.era == "auto" else Era(upstream.era)
        self._patience = Patience(upstream.call_timeout, upstream.call_ceiling)
        self._outgoing = outgoing
        self._wire = Wire(name, outgoing, self._heard, self._respond, say)
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._seen: tuple[bytes | None, Endpoint | None, str] = NOT_SEEN  # of the latest greeting: session, where, version
        self._posts: dict[bytes, Post] = {}
        self._next = 0
        self._level: bytes | None = None
        self._subscribed: dict[bytes, None] = {}
        self._renewing = asyncio.Lock()
        self._ear: asyncio.Task[None] | None = None
        self._listening: Listening | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._second, self._notes = 0.0, 0
        self._closed = False

    # -- the greeting --------------------------------------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Raises Unavailable."""
        await self._greet()
        self._hear_on()

    async def _greet(self) -> None:
        self._seen = NOT_SEEN
        self.server = await greet(self._greets, self._greeted, era=self._era, first=self.first, client=self.owner, within=self._greeting)
        self._session = self._begun(self.server)

    def _begun(self, server: Server | None) -> Session:
        id, at, version = self._seen
        known = server or Server(Era.LEGACY, version, {})
        return Session(known, id, at) if known.era is Era.LEGACY else Session(known)

    async def _greets(self, method: str, params: bytes | None, within: float) -> Answer:
        """A request of the greeting: there is no session yet."""
        fields = BASE
        if method == "server/discover":
            version = message.parts(message.parts(params or b"{}")["_meta"])[VERSION]
            fields += b"MCP-Protocol-Version: %b\r\nMcp-Method: server/discover\r\n" % version.strip(b'"')
        outcome = await self._post(None, method, params, fields, Patience(within, within), repeatable=True)
        if outcome.status in NO_PROTOCOL and not outcome.said:
            self.no_streamable = self.no_streamable or method == "initialize"
            return Answer.failure(METHOD_NOT_FOUND, f"{self.name} answered {outcome.status}")
        broke = outcome.fate is Fate.UNKNOWN or (outcome.status in (500, 501) and not outcome.said)
        if broke and (method == "server/discover" or self.first is Era.LEGACY):  # some break at what they have never heard of
            return Answer.failure(METHOD_NOT_FOUND, f"{self.name} breaks at {method}")
        if method == "initialize" and outcome.answer.result is not None and outcome.reply is not None:
            try:
                version = message.parts(outcome.answer.result).get("protocolVersion", b"").strip(b'"')
            except CallError:
                version = b""
            plain = version.decode() if version.replace(b"-", b"").isdigit() else LEGACY_VERSIONS[-1]
            self._seen = (outcome.reply.first(b"mcp-session-id"), outcome.reply.endpoint, plain)
        return outcome.answer

    async def _greeted(self, method: str, params: bytes | None) -> None:
        await self._notify(self._begun(None), method, params)

    # -- requests ------------------------------------------------------------------------------------------------------------------------------

    async def ask(self, call: Call) -> Answer:
        """See Conversation."""
        self.used = self._loop.time()
        method = call.method
        self.busy += 1
        try:
            if self.server.era is Era.MODERN:
                if method in ("ping", "logging/setLevel"):
                    return Answer(result=b"{}")  # a level goes with each request
                if method in ("resources/subscribe", "resources/unsubscribe") and self._listening is not None:
                    return await self._listening.ask(method, call.params)
            answer = await answered(self.server, call, partial(self._sent, call))
        finally:
            self.busy -= 1
            self.used = self._loop.time()
        if answer.result is not None:
            if method == "tools/list":
                answer = replace(answer, result=self.tools.learn(answer.result))
            elif method in REMEMBERED and self.server.era is Era.LEGACY:
                self._remember(method, call.params)
        if answer.recovered:
            call.labels["recovered"] = "true"
        return answer

    def _remember(self, method: str, params: Params) -> None:
        """What a new session must be told again."""
        if method == "logging/setLevel":
            self._level = message.put(params)
        elif method == "resources/subscribe":
            self._subscribed[params.get("uri", b"")] = None
        else:
            self._subscribed.pop(params.get("uri", b""), None)

    async def _sent(self, call: Call, params: Params) -> Answer:
        """A request in as many sessions as it takes."""
        again = self.tools.repeatable(call.method, params)
        wait = RESTART_STEPS[0]
        recovered = refreshed = False
        renewals = 0
        for _ in range(MOST_TRIES):
            session = self._session
            if session is None or self._closed:
                return Answer.failure(MEMBER_UNAVAILABLE, f"{self.name} is not there")
            outcome = await self._call(session, call, params, repeatable=again)
            answer = outcome.answer
            if outcome.status:
                self._is_back()
            if outcome.fate is Fate.ANSWERED:
                return replace(answer, recovered=recovered)
            if outcome.fate is Fate.REFUSED:
                if session.server.era is Era.MODERN and not refreshed and code_of(outcome) == HEADER_MISMATCH:
                    refreshed = True  # a tool has other headers than we know of
                    await self._learn(session)
                    continue
                if not await self._is_lost(session, outcome):
                    return replace(answer, recovered=recovered)
            else:
                if outcome.fate is Fate.LATE or (outcome.fate is Fate.UNKNOWN and not again) or not self._may_come_back(wait):
                    return answer
                if not self._moves(session):
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, RESTART_STEPS[1])
                    recovered = True
                    continue
            if renewals == RENEWALS:
                return answer
            renewals += 1
            try:
                await self._renew(session)
            except Unavailable as why:
                return Answer.failure(MEMBER_UNAVAILABLE, why.text)
            recovered = True
        return answer

    def _may_come_back(self, wait: float) -> bool:
        """It is away. Is that so young that it may be starting anew, and be there after this long?"""
        absence, now = self._absence, self._loop.time()
        absence.since = absence.since or now
        if now + wait <= absence.since + RESTART_S:
            return True
        if not absence.told:
            absence.told = True
            self._hearer.changed(self.name, available=False)
        return False

    def _is_back(self) -> None:
        told, self._absence.since, self._absence.told = self._absence.told, 0.0, False
        if told:
            self._hearer.changed(self.name, available=True)

    def _moves(self, session: Session) -> bool:
        """Its server is away, and there are others?"""
        return session.at is not None and len(self._outgoing.pool.group.living) > (session.at in self._outgoing.pool.group.living)

    async def _is_lost(self, session: Session, outcome: Outcome) -> bool:
        """Does this refusal mean that the server does not know the session, or the era, any more?"""
        status = outcome.status
        if session.server.era is Era.MODERN:
            if status not in NO_PROTOCOL or (outcome.said and code_of(outcome) not in SESSION_CODES):
                return False
            fields = BASE + session.fields + self.tools.fields("server/discover", {})
            patience = Patience(GREETING_S, GREETING_S)
            asked = await self._post(session, "server/discover", discover(session.server.version), fields, patience, repeatable=True)
            return asked.answer.result is None
        if session.id is None or status not in (400, 404):
            return False
        if status == 404:
            return True
        asked = await self._post(session, "ping", None, BASE + session.fields, Patience(GREETING_S, GREETING_S), repeatable=True)
        return asked.status in (400, 404)

    async def _call(self, session: Session, call: Call, params: Params, *, repeatable: bool) -> Outcome:
        fields = BASE + session.fields
        if session.server.era is Era.MODERN:
            fields += self.tools.fields(call.method, params)
        if call.token is not None:
            params = with_token(params, b"%d" % (self._next + 1))
        given = message.put(params) if params else None
        return await self._post(session, call.method, given, fields, self._patience, call=call, repeatable=repeatable)

    async def _post(
        self,
        session: Session | None,
        method: str,
        params: bytes | None,
        fields: bytes,
        patience: Patience,
        *,
        call: Call | None = None,
        note: Note | None = None,
        repeatable: bool = False,
    ) -> Outcome:
        self._next += 1
        id = b"%d" % self._next
        at = session.at if session is not None else None
        who = call.client if call is not None else self.owner
        principal = who.principal if who is not None else ""
        post = Post(self._wire, id, call=call, note=note, patience=patience)
        body = message.request(id, method, params)
        request = Request(b"POST", self._target, fields, body, at, repeatable, self._most, principal)
        self._posts[id] = post
        legacy = session is not None and session.server.era is Era.LEGACY
        resume = partial(self._stream, session, principal) if legacy and session is not None and session.id is not None else None
        try:
            outcome = await post.send(request, resume)
        except asyncio.CancelledError:
            if legacy and call is not None:
                self._cancelled(session, id, "the client does not wait any more")
            raise
        finally:
            del self._posts[id]
        if legacy and outcome.fate is Fate.LATE:
            self._cancelled(session, id, "it took too long")
        return outcome

    def _cancelled(self, session: Session | None, id: bytes, why: str) -> None:
        if session is not None and not self._closed:
            self._later(self._notify(session, "notifications/cancelled", b'{"requestId":%b,"reason":%b}' % (id, message.text(why))))

    async def _learn(self, session: Session) -> None:
        params: Params = message.parts(discover(session.server.version))
        while True:
            fields = BASE + session.fields + self.tools.fields("tools/list", params)
            outcome = await self._post(session, "tools/list", message.put(params), fields, self._patience, repeatable=True)
            if outcome.answer.result is None:
                return
            self.tools.learn(outcome.answer.result)
            cursor = message.parts(outcome.answer.result).get("nextCursor")
            if cursor is None or cursor == params.get("cursor"):
                return
            params["cursor"] = cursor

    async def tell(self, method: str, params: bytes | None) -> None:
        """See Conversation."""
        session = self._session
        if session is not None and session.server.era is Era.LEGACY:
            await self._notify(session, method, params)

    async def _notify(self, session: Session, method: str, params: bytes | None) -> None:
        await self._deliver(session, message.notification(method, params))

    async def _respond(self, id: bytes, answer: Answer) -> None:
        """To a request of the server."""
        if (session := self._session) is not None:
            await self._deliver(session, message.response(id, result=answer.result, error=answer.error))

    async def _deliver(self, session: Session, raw: bytes) -> None:
        request = Request(b"POST", self._target, BASE + session.fields, raw, session.at, most=self._most)
        try:
            async with asyncio.timeout(GREETING_S):
                await self._outgoing.ask(request)
        except (TimeoutError, ProxyError):
            pass  # the next request finds out what is the matter

    # -- a lost session ------------------------------------------------------------------------------------------------------------------------

    async def _renew(self, lost: Session) -> None:
        """Whoever comes first begins a new one; all others wait for it. Raises Unavailable."""
        async with self._renewing:
            if self._session is not lost or self._closed:
                return
            await self._greet()
            self.renewals += 1
            await self._replay()
            self._hear_on()
        self._say("info", f"{self.name}: it had lost its session, and has a new one")
        self._hearer.changed(self.name, available=True, client=self.owner)

    async def _replay(self) -> None:
        session = self._session
        if session is None or session.server.era is not Era.LEGACY:
            return
        told = [("logging/setLevel", self._level)] if self._level is not None else []
        told += [("resources/subscribe", b'{"uri":%b}' % uri) for uri in self._subscribed]
        for method, params in told:
            await self._post(session, method, params, BASE + session.fields, Patience(GREETING_S, GREETING_S), repeatable=True)

    # -- what belongs to no call ---------------------------------------------------------------------------------------------------------------

    def _hear_on(self) -> None:
        """The GET stream, or the listen, of the present session."""
        session = self._session
        if session is None:
            return
        if self._listening is not None:
            self._listening.end()
            self._listening = None
        if self._ear is not None and self._ear is not asyncio.current_task():
            self._ear.cancel()
            self._ear = None
        if session.server.era is Era.MODERN:
            self._listening = Listening(session.server, self._listen, self._changed)
            self._listening.begin()
        elif self._ear is None:
            self._ear = self._loop.create_task(self._hearing())

    async def _listen(self, params: bytes, note: Note) -> Answer:
        session = self._session
        if session is None:
            return Answer.failure(MEMBER_UNAVAILABLE, f"{self.name} is not there")
        fields = BASE + session.fields + self.tools.fields("subscriptions/listen", {})
        outcome = await self._post(session, "subscriptions/listen", params, fields, self._patience, note=note)
        if outcome.fate is Fate.REFUSED and await self._is_lost(session, outcome):
            try:
                await self._renew(session)
            except Unavailable:
                pass
        return outcome.answer

    def _changed(self, method: str, params: Params) -> None:
        if self._allowed():
            self._hearer.heard(self.name, self.owner, method, params)

    def _stream(self, session: Session, principal: str, last: bytes) -> Request:
        lines = b"Last-Event-ID: %b\r\n" % last if last else b""
        return Request(b"GET", self._target, STREAM + session.fields + lines, b"", session.at, True, self._most, principal)

    async def _hearing(self) -> None:
        """The GET stream, again and again, as long as there is one."""
        last, wait = b"", EAR_S[0]
        principal = self.owner.principal if self.owner is not None else ""
        pool = self._outgoing.pool
        while (session := self._session) is not None:
            if pool.in_use > EARS * pool.max_in_use:
                await asyncio.sleep(EAR_S[1])
                continue
            over: asyncio.Future[None] = self._loop.create_future()

            def ended(_: ProxyError | None, over: asyncio.Future[None] = over) -> None:
                if not over.done():
                    over.set_result(None)

            reply: Reply | None = None
            try:
                reply = await self._outgoing.ask(self._stream(session, principal, last), self._event, ended)
                if reply.events:
                    await over
                    last = reply.last_id or last
                    wait = EAR_S[0] if reply.retry is None else reply.retry
                elif reply.status == 404 and session.id is not None and (last or await self._is_gone(session)):
                    last = b""
                    await self._renew(session)
                    continue
                elif reply.status in NO_STREAM or reply.status < 300:
                    self._ear = None
                    return
            except (ProxyError, Unavailable):
                pass  # it is away: again, later
            finally:
                if reply is not None:
                    reply.close()
            await asyncio.sleep(min(max(wait, SOONEST_RETRY_S), EAR_S[1]))
            wait = min(max(2 * wait, EAR_S[0]), EAR_S[1])

    async def _is_gone(self, session: Session) -> bool:
        """Some know no GET and say 404, some say it of the session."""
        asked = await self._post(session, "ping", None, BASE + session.fields, Patience(GREETING_S, GREETING_S), repeatable=True)
        return asked.status in (400, 404)

    def _event(self, event: Event) -> None:
        if not event.data or event.type not in (b"", b"message"):
            return
        try:
            for each in messages_of(event.data):
                self._heard(each)
        except CallError:
            self._say("warning", f"{self.name}: an event that is no message")

    def _heard(self, found: Message) -> None:
        """What came by no call's stream: some servers say here what belongs to a call."""
        method, id = found.method, found.id
        if method is None:
            if id is not None and (post := self._posts.get(id.strip(b'"'))) is not None:
                post.received(found)
        elif id is not None:
            self._asked(found, id)
        elif method == "notifications/progress":
            if (post := self._posts.get(found.params().get("progressToken", b"").strip(b'"'))) is not None:
                post.received(found)
        elif self._allowed():
            meant = self._meant() if method == "notifications/message" else None
            if meant is not None and meant.call is not None:
                meant.call.note(method, found.params())
            else:
                self._hearer.heard(self.name, self.owner, method, found.params())

    def _meant(self) -> Post | None:
        """The call that must be meant by what names none: the latest, where all are of one client."""
        calls = [post for post in self._posts.values() if post.call is not None]
        one = calls and all(
            post.call is not None and calls[0].call is not None and post.call.client is calls[0].call.client for post in calls
        )
        return calls[-1] if one else None

    def _asked(self, found: Message, id: bytes) -> None:
        if len(self._tasks) >= QUESTIONS + REFUSED:
            return
        if found.method == "ping":
            self._later(self._respond(id, Answer(result=b"{}")))
        elif (post := self._meant()) is not None:
            post.asked(found)
        elif len(self._tasks) >= QUESTIONS:
            self._later(self._respond(id, Answer.failure(NO_ONE_TO_ASK, "too many requests wait for an answer")))
        else:
            self._later(self._question(found, id))

    async def _question(self, found: Message, id: bytes) -> None:
        await self._respond(id, await self._hearer.asked(self.name, self.owner, found.method or "", found.given))

    def _allowed(self) -> bool:
        now = self._loop.time()
        if now - self._second >= 1.0:
            self._second, self._notes = now, 0
        self._notes += 1
        return self._notes <= NOTES

    def _later(self, what: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- the end -------------------------------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """See Conversation."""
        if self._closed:
            return
        self._closed = True
        session, self._session = self._session, None
        if self._listening is not None:
            self._listening.end()
        for task in (*self._tasks, *((self._ear,) if self._ear is not None else ())):
            task.cancel()
        if session is not None and session.id is not None:
            request = Request(b"DELETE", self._target, STREAM + session.fields, b"", session.at, True)
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._outgoing.ask(request)
            except (TimeoutError, ProxyError):
                pass  # it forgets the session by itself some day


def code_of(outcome: Outcome) -> int:
    """Of its error; 0 where there is none."""
    try:
        code = message.plain(message.parts(outcome.answer.error or b"{}").get("code", b"0"))
    except CallError:
        return 0
    return code if isinstance(code, int) else 0
