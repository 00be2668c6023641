"""Between stdin and the server: whose message is it, who waits for which answer, what comes before what.

    stdin ──take──▶ Bridge ──▶ modern.ask, Session.ask / tell ──▶ server
    stdout ◀─────── Bridge ◀──deliver────────────────────────────

The era is the message's (mcp versioning): a request with the modern envelope goes alone, everything else belongs to the session that `initialize` began.
So a client that tries `server/discover` first hears the server's own answer to it, and begins a session after a refusal.

 1. A request is answered exactly once: by the server, or by us with an error when no answer can come any more.
 2. Notifications and answers of the client reach the server in their order, and a request after those that came before it.
 3. A question of the server that was asked in a session that is gone is called off; an answer to it goes nowhere.
 4. stdout has messages only. What people should know is said on stderr.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from mcpproxy.connect import envelope as envelopes
from mcpproxy.connect import modern
from mcpproxy.connect.envelope import Envelope
from mcpproxy.connect.lines import Out, TooLong, read_lines
from mcpproxy.connect.mirrored import Schemas
from mcpproxy.connect.places import WireError
from mcpproxy.connect.remote import Remote
from mcpproxy.connect.session import Call, NotHere, Session
from mcpproxy.connect.streamable import Streamable
from mcpproxy.errors import StartError
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, TOO_LARGE
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_REQUEST, PARSE_ERROR
from mcpproxy.mcp.message import INTERNAL_ERROR

CALLS = 1024  # that wait at once
IN_ORDER_S = 10.0  # a notification that the server does not take for so long holds nobody up any longer
CANCELLED_S = 5.0  # a call of a session that was called off may still be answered for so long
END_S = 30.0  # answers still coming are waited for when stdin has ended
GOODBYE_S = 2.0

SessionMaker = Callable[["Bridge"], Session]


class Bridge:
    """One local client, one server. `older` makes the session for servers of 2024-11-05; None: they are not tried. `first`: how a session begins."""

    def __init__(
        self,
        remote: Remote,
        put: Callable[[bytes], Coroutine[Any, Any, None]],
        *,
        first: SessionMaker = Streamable,
        older: SessionMaker | None = None,
    ) -> None:
        self.remote, self.say = remote, remote.say
        self.schemas = Schemas()
        self.calls: dict[str, Call] = {}
        self._put, self._first, self._older = put, first, older
        self._session = first(self)
        self._asked: dict[str, tuple[msgspec.Raw, int]] = {}  # questions of the server: their id, and in which session
        self._tail: asyncio.Task[None] | None = None  # what comes next comes after this
        self._tasks: set[asyncio.Task[None]] = set()
        self._own = 0

    # -- from the client ---------------------------------------------------------------------------------------------------------------------

    async def take(self, line: bytes | TooLong) -> None:
        """A line of stdin."""
        if isinstance(line, TooLong):
            await self._refuse(INVALID_REQUEST, "the message is too large")
            self.say("a message from the client was larger than --max-message, and dropped")
            return
        found = envelopes.read(line)
        if not found:
            await self._refuse(PARSE_ERROR, "not a JSON-RPC message")
            return
        asked = {each.key: bytes(each.id) for each in found if each.is_request}
        if not asked:
            self._notification(line, found)
        elif len(self.calls) >= CALLS or not asked.keys().isdisjoint(self.calls):
            why = "too many requests wait for their answers" if len(self.calls) >= CALLS else "a request with this id waits for its answer"
            for id in asked.values():
                await self._put(message.response(id, error=message.error(INVALID_REQUEST, why)))
        else:
            self._request(Call(line, asked, found[0]))

    async def _refuse(self, code: int, text: str) -> None:
        await self._put(message.response(None, error=message.error(code, text)))

    def _request(self, call: Call) -> None:
        params = envelopes.params(call.envelope)
        version = envelopes.version(params)
        for key in call.waiting:
            self.calls[key] = call
        if version is not None and not call.is_batch and call.envelope.method != "initialize":
            call.modern = True
            call.task = self._spawn(self._answered(call, partial(modern.ask, self, call, version, params)))
        elif call.envelope.method == "initialize":
            call.task = self._tail = self._spawn(self._answered(call, partial(self._initialize, call, self._tail)))
        else:
            call.task = self._spawn(self._answered(call, partial(self._in_session, call, self._tail)))

    def _notification(self, line: bytes, found: list[Envelope]) -> None:
        first, params = found[0], envelopes.params(found[0])
        if len(found) == 1 and first.method == "notifications/cancelled":
            call = self.calls.get(Envelope(id=params.request_id).key)
            if call is not None and call.task is not None:
                if call.modern:  # the closed stream says it
                    self._forget(call)
                    call.task.cancel()
                    return
                asyncio.get_running_loop().call_later(CANCELLED_S, call.task.cancel)
        version = envelopes.version(params)
        if version is not None:
            self._spawn(modern.tell(self, line, first, version, params))
            return
        if first.is_response:
            asked = self._asked.pop(first.key, None)
            if asked is None or asked[1] != self._session.generation:
                return
        self._tail = self._spawn(self._told(line, first, self._tail))

    async def _initialize(self, call: Call, before: asyncio.Task[None] | None) -> None:
        await _after(before)
        if self._session.begun:  # a client that begins anew
            await self._session.end()
            self._session = self._first(self)
        try:
            await self._session.begin(call)
        except NotHere as refused:
            older = self._older and self._older(self)
            if older is not None:
                try:
                    await older.begin(call)
                except NotHere:
                    await older.end()
                else:
                    self.say(f"{self.remote.url} speaks HTTP+SSE (2024-11-05)")
                    self._session = older
                    return
            await self.failed(call, refused.status, refused.body)

    async def _in_session(self, call: Call, before: asyncio.Task[None] | None) -> None:
        await _after(before)
        await self._session.ask(call)

    async def _told(self, line: bytes, first: Envelope, before: asyncio.Task[None] | None) -> None:
        await _after(before)
        try:
            async with asyncio.timeout(IN_ORDER_S):
                await self._session.tell(line, first)
        except TimeoutError:
            self.say(f"the server did not take {first.method or 'an answer'} within {IN_ORDER_S:g} s")
        except WireError as error:
            self.say(f"{first.method or 'an answer'} is lost: {error.text}")

    async def _answered(self, call: Call, asking: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Rule 1."""
        try:
            await asking()
            if call.waiting and not call.own:
                await self.fail(call, MEMBER_LOST, "the server ended its answer without a result")
        except WireError as error:
            lost = "the connection was lost; it is not known whether the server did it: "
            code = TOO_LARGE if "larger than" in error.text else MEMBER_LOST if error.sent else MEMBER_UNAVAILABLE
            await self.fail(call, code, (lost if error.sent and code == MEMBER_LOST else "") + error.text)
            self.say(f"{call.envelope.method}: {error.text}")
        except Exception as error:  # tokens that cannot be kept, or a mistake of ours: the client does not wait for ever
            await self.fail(call, INTERNAL_ERROR, error.message if isinstance(error, StartError) else "internal error")
            raise
        finally:
            self._forget(call)

    def _forget(self, call: Call) -> None:
        for key in [*call.waiting]:
            if self.calls.get(key) is call:
                del self.calls[key]
        call.waiting.clear()

    # -- from the server ---------------------------------------------------------------------------------------------------------------------

    async def deliver(self, raw: bytes, generation: int, call: Call | None = None) -> None:
        """A message of the server. `call`: whose answer it came with. `generation`: in which session."""
        found = envelopes.read(raw)
        if found is None:
            self.say("the server sent what is no JSON-RPC message; dropped")
            return
        if raw[:1] == b"[":
            for each in found:
                if each.is_response:
                    self._take_off(each.key)
            await self._put(message.one_line(raw))
            return
        envelope = found[0]
        if not envelope.is_response:
            if envelope.is_request:
                self._asked[envelope.key] = envelope.id, generation
            elif call is not None and call.drops is not None and call.drops(envelope):
                return
            await self._put(message.one_line(raw))
            return
        waiting = self._take_off(envelope.key)
        if waiting is None:
            if call is None or envelope.key or not call.waiting or not is_error(bytes(envelope.error)):
                return  # late, or said twice
            await self.fail_with(call, bytes(envelope.error))
            return
        if waiting.peek is not None:
            waiting.peek(envelope)
        if not waiting.own:
            await self._put(message.one_line(raw))

    def _take_off(self, key: str) -> Call | None:
        call = self.calls.pop(key, None)
        if call is not None:
            call.waiting.pop(key, None)
            if not call.waiting:
                call.answered.set()
        return call

    async def failed(self, call: Call, status: int, body: bytes) -> None:
        """An answer by HTTP status. A JSON-RPC error in it is the client's, with the id that it waits for."""
        found = envelopes.read(body)
        if found and len(found) == 1 and body[:1] != b"[" and is_error(bytes(found[0].error)):
            await self.fail_with(call, bytes(found[0].error))
            return
        await self.fail(call, MEMBER_UNAVAILABLE, f"{self.remote.place.authority} answered {status}{hint(status, body)}")

    async def fail(self, call: Call, code: int, text: str) -> None:
        """An error of ours."""
        await self.fail_with(call, message.error(code, text))

    async def fail_with(self, call: Call, error: bytes) -> None:
        """This error, to every request of the call that still waits."""
        for key, id in [*call.waiting.items()]:
            self._take_off(key)
            if call.peek is not None:
                call.peek(Envelope(id=msgspec.Raw(id), error=msgspec.Raw(error)))
            if not call.own:
                await self._put(message.response(id, error=error))

    # -- for sessions ------------------------------------------------------------------------------------------------------------------------

    def own(self, method: str, params: bytes | None) -> tuple[Call, asyncio.Future[Envelope]]:
        """A request of our own."""
        self._own += 1
        id = message.text(f"mcpproxy-connect-{self._own}")
        raw = message.request(id, method, params)
        found = envelopes.read(raw)
        assert found is not None
        call = Call(raw, {found[0].key: id}, found[0])
        call.own = True
        answer: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        call.peek = lambda envelope: None if answer.done() else answer.set_result(envelope)
        self.calls[found[0].key] = call
        return call, answer

    async def tell_client(self, method: str, params: bytes | None = None) -> None:
        """A notification of our own."""
        await self._put(message.notification(method, params))

    async def call_off(self) -> None:
        """Rule 3."""
        asked, self._asked = self._asked, {}
        for id, _ in asked.values():
            why = b'{"requestId":%b,"reason":"the session with the server was lost"}' % bytes(id)
            await self.tell_client("notifications/cancelled", why)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Something that goes on until the end."""
        return self._spawn(work)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, StartError):
            self.say(f"{error.message}; {error.hint}")
        elif error is not None and not isinstance(error, WireError):
            self.say(f"internal error: {type(error).__name__}: {error}")

    # -- the end -----------------------------------------------------------------------------------------------------------------------------

    async def finish(self, seconds: float) -> None:
        """Answers that are still coming have so long; then the server is told that we are gone."""
        calls = {call.task for call in self.calls.values() if call.task is not None and call.envelope.method != "subscriptions/listen"}
        if self._tail is not None:
            calls.add(self._tail)
        if calls and seconds > 0:
            await asyncio.wait(calls, timeout=seconds)
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError, WireError):
            async with asyncio.timeout(GOODBYE_S):
                await self._session.end()
        self.remote.wire.close()


def is_error(raw: bytes) -> bool:
    """A JSON-RPC error, which every client can read. Gateways have `error` members of other kinds."""
    found = envelopes.plain(raw) if raw else None
    return isinstance(found, dict) and type(found.get("code")) is int and isinstance(found.get("message"), str)


def hint(status: int, body: bytes) -> str:
    """What a status means here, for people."""
    if status == 401:
        return ": it wants to know who asks (--oauth, or -H 'Authorization: …')"
    if status == 403:
        return ": not allowed"
    text = body[:200].decode("utf-8", "replace").strip()
    if text[:1] == "{":
        text = _said(body)[:200]
    return f": {text}" if text.isprintable() and text[:1] not in ("", "<", "{") else ""


def _said(body: bytes) -> str:
    """The message of an error that is none of JSON-RPC's: `{"error": {"message": …}}`, or without the outer one."""
    found = envelopes.plain(body)
    inner = found.get("error", found) if isinstance(found, dict) else None
    text = inner.get("message") if isinstance(inner, dict) else inner
    return text if isinstance(text, str) else ""


async def _after(task: asyncio.Task[None] | None) -> None:
    """Rule 2. What became of it is its own matter."""
    if task is not None and not task.done():
        await asyncio.wait([task])


async def run(bridge: Bridge, out: Out, stop: asyncio.Event, *, stdin: int, most: int, grace: float = END_S) -> None:
    """Until stdin ends, nobody reads stdout any more, or `stop`."""
    reading = asyncio.ensure_future(read_lines(stdin, most, bridge.take))
    ends = [reading, asyncio.ensure_future(stop.wait()), asyncio.ensure_future(out.gone.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finishing = asyncio.ensure_future(bridge.finish(0 if stop.is_set() or out.gone.is_set() else grace))
        await asyncio.wait([finishing, *ends[1:]], return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():  # told to stop while we waited
            finishing.cancel()
            await asyncio.gather(finishing, return_exceptions=True)
            await bridge.finish(0)
        await out.flush(GOODBYE_S)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
