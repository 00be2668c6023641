"""The modern era towards clients (MCP 2026-07-28): every POST is whole in itself, and its connection is its life.

    request       ──▶ JSON, or a stream when something is to be said before the answer; the client that leaves has cancelled
                      a question of the server ──▶ `input_required`; the call waits for the retry (parking)
    notification  ──▶ 202
    subscriptions/listen ──▶ a stream: what is honoured, then changes, each with the listen's own id; a result when we end it

`judged` is what must be true of head and body before anybody is asked (basic/transports/streamable-http, server validation).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mcpproxy.clock import clock
from mcpproxy.gateway.fitting import loud_enough, unfit
from mcpproxy.gateway.listens import Listen
from mcpproxy.gateway.parking import REFUSED, Rounds
from mcpproxy.gateway.parts import LEGACY_VERSIONS, MEMBER_UNAVAILABLE, MODERN_VERSIONS, NO_ONE_TO_ASK, Answer, Call, Client, Era, Server
from mcpproxy.gateway.web import Visit, member
from mcpproxy.mcp import message, mirror
from mcpproxy.mcp.call import NAMED_BY
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, CallError
from mcpproxy.mcp.message import INTERNAL_ERROR, METHOD_NOT_FOUND, Message, Params

if TYPE_CHECKING:
    from mcpproxy.gateway.face import Face, Said

MISSING_CAPABILITY, UNSUPPORTED_VERSION = -32021, -32022
RESOURCE_NOT_FOUND = -32002  # as older servers say it
PREFIX = "io.modelcontextprotocol/"
VERSION, INFO, CAPABILITIES, LEVEL = (PREFIX + word for word in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel"))
STATUS = {METHOD_NOT_FOUND: 404, HEADER_MISMATCH: 400, MISSING_CAPABILITY: 400, UNSUPPORTED_VERSION: 400}  # of errors; others come with 200
ROUNDS = frozenset({"tools/call", "prompts/get", "resources/read"})  # methods that may be answered with a question
GONE = frozenset({"initialize", "ping", "resources/subscribe", "resources/unsubscribe", "logging/setLevel"})  # of the older era alone
CACHED = frozenset({"tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"})
NAMED = {method: by for method, by in NAMED_BY.items() if method in ROUNDS or method in ("tasks/get", "tasks/update", "tasks/cancel")}


class Once(Client):
    """The client of one request."""

    __slots__ = ("principal", "route", "session", "era", "version", "capabilities", "info", "level", "subscriptions")

    def __init__(self, principal: str, route: int, meta: Params) -> None:
        self.principal, self.route, self.session, self.era = principal, route, "", Era.MODERN
        self.version = MODERN_VERSIONS[-1]
        declared = meta[CAPABILITIES]
        self.capabilities = {} if declared == b"{}" else message.parts(declared)
        self.info = meta.get(INFO, b"{}")
        level = message.plain(meta[LEVEL]) if LEVEL in meta else None
        self.level: str | None = level if isinstance(level, str) else None
        self.subscriptions: set[str] = set()

    def hears(self, method: str, params: bytes | None) -> None:
        """There is no way to it but its call's."""

    async def question(self, method: str, params: bytes | None) -> Answer:
        """Nor for questions."""
        return Answer(b"{}") if method == "ping" else Answer.failure(NO_ONE_TO_ASK, "The client cannot be asked outside of a call")


# -- what must be true ------------------------------------------------------------------------------------------------------------------------


def judged(said: Said, told: Message) -> tuple[Params, Params]:
    """Params and `_meta` of a request whose head and body agree. Raises CallError; `refused` puts it in words."""
    id = told.id or b""
    if told.is_response:
        raise CallError("bad-call", INVALID_REQUEST, id)
    params = told.params()
    meta = message.parts(params["_meta"], id=id) if "_meta" in params else {}
    mirrored = mirror.read(said.fields)
    version = _text(meta.get(VERSION), id)
    if said.version is None or (version is not None and mirrored.version != version):
        raise CallError("header-mismatch", HEADER_MISMATCH, id)
    if said.version.decode("latin-1") not in MODERN_VERSIONS:
        raise CallError("unsupported-version", UNSUPPORTED_VERSION, id)
    if told.id is None:
        if mirrored.method not in (None, told.method):
            raise CallError("header-mismatch", HEADER_MISMATCH, id)
        return params, meta
    if version is None or CAPABILITIES not in meta:
        raise CallError("bad-call", INVALID_PARAMS, id)
    if mirrored.method != told.method:
        raise CallError("header-mismatch", HEADER_MISMATCH, id)
    by = NAMED.get(told.method or "")
    if by is not None and by in params and mirrored.name != _text(params[by], id):
        raise CallError("header-mismatch", HEADER_MISMATCH, id)
    return params, meta


def _text(raw: bytes | None, id: bytes) -> str | None:
    if raw is None:
        return None
    found = message.plain(raw)
    if not isinstance(found, str):
        raise CallError("bad-call", INVALID_PARAMS, id)
    return found


def unsupported(requested: str) -> bytes:
    """The error that tells clients which versions there are."""
    supported = [*reversed(MODERN_VERSIONS), *reversed(LEGACY_VERSIONS)]
    return message.error(UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": supported, "requested": requested})


# -- POST -------------------------------------------------------------------------------------------------------------------------------------


def post(face: Face, visit: Visit, said: Said, told: Message) -> None:
    """A message of a modern client."""
    params, meta = judged(said, told)
    id, method = told.id, told.method
    assert method is not None
    if id is None:
        visit.answer(202)
        if method != "notifications/cancelled" and CAPABILITIES in meta:  # over HTTP, leaving is cancelling
            face.tell(Once(said.caller, said.route, meta), method, told.given)
        return
    if method in GONE:
        visit.answer(404, message.response(id, error=message.error(METHOD_NOT_FOUND, "Method not found")))
        return
    if method == "tools/call":
        face.claims.check(_text(params.get("name"), id) or "", params.get("arguments"), said.fields, id)
    state = params.get("requestState")
    if face.lot.made(state):
        resume(face, visit, said, told, params)
        return
    client = Once(said.caller, said.route, meta)
    if method == "subscriptions/listen":
        Listen(face, visit, client, id, params)
        return
    if not face.weight.room(client.principal, len(said.body)):
        visit.answer(200, message.response(id, error=message.error(MEMBER_UNAVAILABLE, "Too many calls at once")))
        return
    call = ModernCall(face, client, id, method, params, said, meta.get("progressToken"))
    face.weight.carry(client.principal, len(said.body), call.task)
    call.take(visit)


def resume(face: Face, visit: Visit, said: Said, told: Message, params: Params) -> None:
    """The retry of a call that is parked."""
    assert told.id is not None and told.method is not None
    rounds = face.lot.take(_text(params["requestState"], told.id) or "", said.caller, told.method, params)
    if rounds is None:
        visit.answer(400, message.response(told.id, error=REFUSED.error))
        return
    call = rounds.call
    assert isinstance(call, ModernCall)
    meta = message.parts(params["_meta"])
    call.id, call.token, call.request_id, call.streams = told.id, meta.get("progressToken"), said.request_id, said.streams
    try:
        answers = message.parts(params.get("inputResponses", b"{}"), id=told.id)
    except CallError:
        call.take(visit)  # it is this client's call still: asked again
    else:
        for key, raw in answers.items():
            rounds.answer(key, Answer(raw))
        call.take(visit)
    call.go_on()


class ModernCall(Call):
    """A request whose connection is its life, but for the time in which its client is asked."""

    __slots__ = ("_soon", "face", "held", "id", "over", "principal", "rounds", "since", "streams", "task", "visit", "written")

    def __init__(self, face: Face, client: Client, id: bytes, method: str, params: Params, said: Said, token: bytes | None) -> None:
        Call.__init__(self, client, method, params, said.request_id, token)
        self.face, self.id, self.principal = face, id, client.principal
        self.streams = said.streams  # does the client take streams?
        self.visit: Visit | None = None  # None: parked, or over
        self.written = dict(params) if method in ROUNDS else params  # as the client did: the hub may put other names
        self.rounds: Rounds | None = None
        self.held: Answer | None = None  # came while it was parked
        self.over = False
        self._soon = False  # the question goes out with the others of this turn
        self.since = clock.now
        self.task = asyncio.get_running_loop().create_task(self._run())

    def take(self, visit: Visit) -> None:
        """The answer goes here."""
        self.visit = visit
        visit.gone = self.cancel
        self.since = clock.now
        if self.streams:
            self.face.waiting[self] = None

    async def _run(self) -> None:
        try:
            answer = await (self.face.discover(self.client) if self.method == "server/discover" else self.face.asked(self))
        except asyncio.CancelledError:
            answer = Answer.failure(INTERNAL_ERROR, "Cancelled")
        self.over = True
        self.face.waiting.pop(self, None)
        if self.visit is not None:
            self._answer(answer)
        elif self.rounds is not None:
            self.held = answer
            self.face.lot.grow(self.rounds, len(answer.result or b"") + len(answer.error or b""))

    def _answer(self, answer: Answer) -> None:
        result, error = answer.result, answer.error
        status = 200
        if error is not None:
            error, status = _today(error)
        elif result is not None:
            result = complete(self.method, result)
        self._say(message.response(self.id, result=result, error=error), status)

    def _say(self, body: bytes, status: int = 200) -> None:
        visit, self.visit = self.visit, None
        self.face.waiting.pop(self, None)
        if visit is None:
            return
        if visit.streaming:
            visit.event(b"event: message\ndata: %b\n\n" % message.one_line(body))
            visit.end()
        else:
            visit.answer(status, body, member(self.labels))

    def cancel(self) -> None:
        """The client left, or does not come again."""
        self.visit = None
        self.face.waiting.pop(self, None)
        if self.rounds is not None:
            self.face.lot.forget(self.rounds)
        self.task.cancel()

    def begin(self) -> None:
        """The answer comes on a stream."""
        self.face.waiting.pop(self, None)
        if self.visit is not None and self.streams and not self.visit.streaming:
            self.visit.begin(member(self.labels))

    def note(self, method: str, params: Params) -> None:
        """About this call. While its client is away, it is said to nobody."""
        visit = self.visit
        if visit is None or not self.streams or self.over:
            return
        if method == "notifications/message" and (self.client.level is None or not loud_enough(self.client.level, params)):
            return
        if method == "notifications/progress":
            if self.token is None:
                return
            params = {"progressToken": self.token, **params}
        if not visit.streaming:
            self.begin()
        visit.event(b"event: message\ndata: %b\n\n" % message.one_line(message.notification(method, message.put(params))))

    async def question(self, method: str, params: bytes | None) -> Answer:
        """By an answer that asks for a retry."""
        if method == "ping":
            return Answer(b"{}")
        why = unfit(self.client.capabilities, method, params) or ("" if method in ASKABLE else f"{method} cannot be asked in this era")
        if why:
            return Answer.failure(METHOD_NOT_FOUND, why)
        lot = self.face.lot
        if self.method not in ROUNDS or self.over:
            return Answer.failure(NO_ONE_TO_ASK, f"The client cannot be asked during {self.method}")
        if self.rounds is None:
            self.rounds = Rounds(self, self.method, self.written)
        raw = message.put({"method": message.text(method), **({} if params is None else {"params": params})})
        parked = self.rounds.id in lot.parked
        asked = self.rounds.ask(raw) if lot.room(self.principal, len(raw) + (0 if parked else self.rounds.size)) or parked else None
        if asked is None:
            return Answer.failure(NO_ONE_TO_ASK, "Too many calls wait for their clients")
        key, future = asked
        lot.grow(self.rounds, len(raw))
        self.go_on()
        try:
            return await future
        finally:
            self.rounds.open.pop(key, None)

    def go_on(self) -> None:
        """After the client came, or a question did: what is to be said now is said at the end of this turn, in one."""
        if not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        self._soon = False
        if self.visit is None:
            return
        if self.held is not None:
            self._answer(self.held)
            return
        rounds = self.rounds
        if rounds is None or self.over:
            return
        if rounds.open:
            state = self.face.lot.park(rounds, clock.now)
            asked = message.put({key: raw for key, (_, raw) in rounds.open.items()})
            self._say(
                message.response(
                    self.id,
                    result=b'{"resultType":"input_required","inputRequests":%b,"requestState":%b}' % (asked, message.text(state)),
                )
            )


ASKABLE = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})


# -- results ------------------------------------------------------------------------------------------------------------------------------------


def complete(method: str, result: bytes) -> bytes:
    """A result with what every client may rely on: its type, and how long a list may be kept."""
    missing = b""
    found: Params | None = None
    if b'"resultType"' in result:
        found = message.parts(result)
        if found.get("resultType", b'"complete"') != b'"complete"':
            return result
    if found is None or "resultType" not in found:
        missing = b'"resultType":"complete",'
    if method in CACHED:
        if found is None and (b'"ttlMs"' in result or b'"cacheScope"' in result):
            found = message.parts(result)
        if found is None or "ttlMs" not in found:
            missing += b'"ttlMs":0,'
        if found is None or "cacheScope" not in found:
            missing += b'"cacheScope":"private",'
    if not missing:
        return result
    rest = result[result.index(b"{") + 1 :].lstrip()
    return b"{%b%b" % (missing[:-1] if rest[:1] == b"}" else missing, rest)


def _today(error: bytes) -> tuple[bytes, int]:
    """An error in the words of today, and its status."""
    if error == REFUSED.error:
        return error, 400
    try:
        code: Any = message.plain(message.parts(error).get("code", b"0"))
        if code == RESOURCE_NOT_FOUND:
            return message.put({**message.parts(error), "code": b"%d" % INVALID_PARAMS}), 200
        return error, STATUS.get(code, 200)
    except (CallError, TypeError):
        return error, 200


def discovered(server: Server) -> bytes:
    """The result of server/discover."""
    found = {
        "resultType": b'"complete"',
        "supportedVersions": message.encode([*reversed(MODERN_VERSIONS), *reversed(LEGACY_VERSIONS)]),
        "capabilities": message.put(server.capabilities),
        "ttlMs": b"0",
        "cacheScope": b'"private"',
        "_meta": message.put({**({} if server.meta is None else message.parts(server.meta)), PREFIX + "serverInfo": server.info}),
    }
    if server.instructions:
        found["instructions"] = message.text(server.instructions)
    return message.put(found)
