"""The face of an upstream towards clients: HTTP in, calls out; both eras, and HTTP+SSE, at one URL.

    which era?   MCP-Protocol-Version of 2026-07-28 or later, or a body with that envelope     modern (gateway/modern)
                 anything else                                                                  legacy (gateway/legacy, gateway/oldest)

1. The era is the request's: one client may speak both, on one connection.
2. Whatever is wrong with a message is answered as JSON-RPC with its id, where that can be read: clients find out the era by how they are refused
   (MCP.md §9.5), so `server/discover` is answered here whatever the servers behind do.
3. Everything a client can keep open is counted, and ends: sessions, listens, parked calls.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from mcpproxy.gateway import legacy, modern, oldest
from mcpproxy.gateway.claims import Claims
from mcpproxy.gateway.listens import Listen
from mcpproxy.gateway.parking import Lot
from mcpproxy.gateway.parts import LEGACY_VERSIONS, MODERN_VERSIONS, Answer, Call, Client, Server, Service, Unavailable
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE as UNAVAILABLE
from mcpproxy.gateway.sessions import MOST, TTL_S, Session, Sessions
from mcpproxy.gateway.streams import Store
from mcpproxy.gateway.web import Asked, Visit
from mcpproxy.gateway.weight import Weight
from mcpproxy.http.fields import Field
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR, CallError
from mcpproxy.mcp.message import INTERNAL_ERROR, Params

QUIET_S = 5.0  # without an answer, after which a stream begins: nobody in between takes us for dead, and an old client can resume
ONCE = frozenset(
    {b"mcp-session-id", b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"last-event-id", b"content-type", b"content-length"}
)  # fields that mean nothing when they are there twice
VERSION = b"mcp-protocol-version"
MODERN = MODERN_VERSIONS[0].encode()
is_revision = re.compile(rb"\d{4}-\d{2}-\d{2}").fullmatch
session_of = re.compile(rb"(?:^|&)session_?[iI]d=([0-9a-f]{1,64})(?:&|$)").search  # in the query of HTTP+SSE
CHANGED = "The configuration was changed just now: please ask again"
WORDS = {
    PARSE_ERROR: "Parse error",
    INVALID_REQUEST: "Invalid request",
    INVALID_PARAMS: "Invalid params",
    HEADER_MISMATCH: "Header mismatch",
}


class Said:
    """A request as faces read it."""

    __slots__ = (
        "accept",
        "body",
        "caller",
        "fields",
        "last_event_id",
        "path",
        "query",
        "request_id",
        "route",
        "session",
        "streams",
        "version",
    )

    def __init__(self, asked: Asked) -> None:
        """Raises CallError for fields that are there twice."""
        head = asked.head
        self.body, self.caller, self.route = asked.body, asked.caller, asked.route
        self.fields: tuple[Field, ...] = head.fields
        self.path: bytes
        self.query: bytes
        self.path, _, self.query = head.target.partition(b"?")
        first = head.first
        seen = [field[1] for field in head.fields if field[1] in ONCE]
        if len(seen) != len(set(seen)):
            raise CallError("header-mismatch", HEADER_MISMATCH)
        session = first(b"mcp-session-id")
        self.session = None if session is None else session.decode("latin-1")
        self.version = first(VERSION)
        self.accept = first(b"accept")
        self.last_event_id = first(b"last-event-id")
        self.request_id = (first(b"x-request-id") or b"").decode("latin-1")
        accept = self.accept
        self.streams = accept is None or b"text/event-stream" in accept or b"*/*" in accept or b"text/*" in accept

    @property
    def modern(self) -> bool:
        """Does the head say it is of the modern era?"""
        version = self.version
        return version is not None and is_revision(version) is not None and version >= MODERN


class Waiting(Protocol):
    """A call that has said nothing so far."""

    since: float

    def begin(self) -> None:
        """Begin a stream."""


class Face:
    """One upstream's."""

    __slots__ = ("broken", "claims", "done", "listens", "lot", "service", "sessions", "store", "tasks", "waiting", "weight")

    def __init__(
        self,
        service: Service,
        store: Store,
        *,
        ttl: float = TTL_S,
        limit: int = MOST,
        weight: Weight | None = None,
        done: Callable[[Call, Answer], None] | None = None,
        broken: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.service = service
        self.store = store  # of events; shared by all faces
        self.weight = weight or Weight()  # of calls; shared by all faces
        self.sessions = Sessions(ttl, limit)
        self.listens: set[Listen] = set()
        self.lot = Lot(service.name)
        self.claims = Claims()
        self.waiting: dict[Waiting, None] = {}  # calls that have said nothing; the one that waits longest first
        self.tasks: set[asyncio.Task[None]] = set()
        self.done = done  # told of every call and its answer
        self.broken = broken  # told of what no service should raise

    def heard(self, visit: Visit, asked: Asked) -> None:
        """A request. Answered now or later, in any case once."""
        id = None
        said: Said | None = None
        try:
            said = Said(asked)
            method = asked.head.method
            if b"/.well-known/" in said.path:
                visit.answer(404)
            elif method == b"POST":
                self._post(visit, said)
            elif method not in (b"GET", b"DELETE") or said.modern:
                allow = b"POST" if said.modern else b"GET, POST, DELETE"
                visit.answer(405, b"", b"Allow: %b\r\n" % allow)
            elif self._unknown_version(visit, said, None):
                return
            elif method == b"DELETE":
                legacy.delete(self, visit, said)
            elif not said.streams or said.accept is None:
                why = message.error(INVALID_REQUEST, "GET answers with text/event-stream")
                visit.answer(406, message.response(None, error=why))
            elif said.session is None and said.version is None:
                oldest.get(self, visit, said)
            else:
                legacy.get(self, visit, said)
        except CallError as error:
            id = error.id or _id_of(asked.body)
            self._refuse(visit, said, error, id)
        except Exception as error:
            self._tell_broken(error)
            if visit.busy and not visit.streaming:
                visit.answer(500, message.response(_id_of(asked.body), error=message.error(INTERNAL_ERROR, "Internal error")))

    def _post(self, visit: Visit, said: Said) -> None:
        if said.query and (found := session_of(said.query)) is not None:
            oldest.post(self, visit, said, found[1].decode())
            return
        kind = next((value for _, name, value in said.fields if name == b"content-type"), b"")
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            visit.answer(415, message.response(None, error=message.error(INVALID_REQUEST, "Content-Type must be application/json")))
            return
        if said.modern:
            modern.post(self, visit, said, message.read(said.body))
        elif said.version is not None and self._unknown_version(visit, said, _id_of(said.body)):
            return
        elif said.session is None and b"io.modelcontextprotocol/protocolVersion" in said.body and _enveloped(said.body):
            raise CallError("header-mismatch", HEADER_MISMATCH)
        else:
            legacy.post(self, visit, said)

    def _unknown_version(self, visit: Visit, said: Said, id: bytes | None) -> bool:
        version = (said.version or b"").decode("latin-1")
        if not version or version in LEGACY_VERSIONS:
            return False
        visit.answer(400, message.response(id, error=modern.unsupported(version[:64])))
        return True

    def _refuse(self, visit: Visit, said: Said | None, error: CallError, id: bytes | None) -> None:
        if error.code == modern.UNSUPPORTED_VERSION and said is not None:
            why = modern.unsupported((said.version or b"").decode("latin-1")[:64])
        else:
            why = message.error(error.code, WORDS.get(error.code, "Invalid request"))
        if not visit.streaming:
            visit.answer(error.status if error.status in (400, 415) else 400, message.response(id, error=why))

    # -- what is asked of the service ------------------------------------------------------------------------------------------------------

    async def asked(self, call: Call) -> Answer:
        """The answer to a call, whatever goes wrong."""
        try:
            answer = await self.service.ask(call)
        except Unavailable as why:
            answer = Answer.failure(UNAVAILABLE, why.text)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            answer = Answer.failure(UNAVAILABLE, CHANGED)
        except Exception as error:
            self._tell_broken(error)
            answer = Answer.failure(INTERNAL_ERROR, "Internal error")
        if answer.recovered:
            call.labels["recovered"] = "true"
        if answer.result is not None and isinstance(call.client, Session):
            self._remember(call.client, call)
        if call.method == "tools/list" and answer.result is not None:
            self.claims.learn(answer.result)
        if self.done is not None:
            self.done(call, answer)
        return answer

    def _remember(self, session: Session, call: Call) -> None:
        """What a session wants to hear."""
        method = call.method
        if method not in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
            return
        try:
            told = message.plain(call.params["level" if method == "logging/setLevel" else "uri"])
        except (KeyError, CallError):
            return
        if not isinstance(told, str):
            return
        if method == "logging/setLevel":
            session.level = told
        elif method == "resources/subscribe":
            session.subscriptions.add(told)
        else:
            session.subscriptions.discard(told)

    async def server(self, client: Client) -> Server | Answer:
        """What the service says about itself; or why it cannot."""
        try:
            try:
                return await self.service.server(client)
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                return await self.service.server(client)  # another is in its place
        except Unavailable as why:
            return Answer.failure(UNAVAILABLE, why.text)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return Answer.failure(UNAVAILABLE, CHANGED)
        except Exception as error:
            self._tell_broken(error)
            return Answer.failure(INTERNAL_ERROR, "Internal error")

    async def discover(self, client: Client) -> Answer:
        """server/discover."""
        server = await self.server(client)
        return server if isinstance(server, Answer) else Answer(modern.discovered(server))

    async def initialize(self, session: Session, params: Params) -> Answer:
        """initialize, for a session that is new."""
        try:
            legacy.greet(session, params)
        except CallError:
            return Answer.failure(INVALID_PARAMS, "Invalid params")
        server = await self.server(session)
        if isinstance(server, Answer):
            return server
        found = {
            "protocolVersion": message.text(session.version),
            "capabilities": message.put(server.capabilities),
            "serverInfo": server.info,
        }
        if server.instructions:
            found["instructions"] = message.text(server.instructions)
        if server.meta is not None:
            found["_meta"] = server.meta
        return Answer(message.put(found))

    def tell(self, client: Client, method: str, params: bytes | None) -> None:
        """A notification of a client."""
        task = asyncio.get_running_loop().create_task(self._tell(client, method, params))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _tell(self, client: Client, method: str, params: bytes | None) -> None:
        try:
            await self.service.tell(client, method, params)
        except Exception as error:
            self._tell_broken(error)

    def _tell_broken(self, error: BaseException) -> None:
        if self.broken is not None:
            self.broken(error)

    # -- the end ------------------------------------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Whose time is over. Called once a second."""
        while self.waiting:
            call = next(iter(self.waiting))
            if now - call.since < QUIET_S:
                break
            del self.waiting[call]
            call.begin()
        self.sessions.sweep(now)
        self.lot.sweep(now)

    def drain(self) -> None:
        """Listens end politely, and streams that belong to no call: their clients come again. Calls go on."""
        for listen in tuple(self.listens):
            listen.end()
        for session in tuple(self.sessions.table.values()):
            visit, session.stream.visit = session.stream.visit, None
            if visit is not None:
                visit.gone = visit.ready = None
                visit.end()

    def stop(self) -> None:
        """Nobody is served any more."""
        self.drain()
        self.sessions.end_all()
        self.lot.end_all()
        for task in tuple(self.tasks):
            task.cancel()


class Faces:
    """All upstreams', by name. `heard` is for web.Web, `sweep` for its sweeps."""

    __slots__ = ("of",)

    def __init__(self, of: Mapping[str, Face]) -> None:
        self.of = dict(of)

    def heard(self, visit: Visit, asked: Asked) -> None:
        """A request for one of them."""
        face = self.of.get(asked.upstream)
        if face is None:  # the edge runs with another configuration, for a moment
            error = message.error(UNAVAILABLE, "There is no such upstream now")
            visit.answer(503, message.response(_id_of(asked.body), error=error), b"Retry-After: 1\r\n")
        else:
            face.heard(visit, asked)

    def sweep(self, now: float) -> None:
        """Once a second."""
        for face in self.of.values():
            face.sweep(now)
        store = next((face.store for face in self.of.values()), None)
        if store is not None:
            store.expire(now)


def _is_cancelled() -> bool:
    """Is it we whom nobody wants any more? Otherwise what we waited for has ended: a hub that was replaced stops its tasks."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _enveloped(body: bytes) -> bool:
    """Does `_meta` of this message name a modern version?"""
    told = message.read(body)
    meta = message.parts(told.params().get("_meta", b"{}"))
    return modern.VERSION in meta


def _id_of(body: bytes) -> bytes | None:
    """The id of what cannot be answered otherwise, if it has one that can be read."""
    try:
        return message.read(body).id
    except CallError as error:
        return error.id or None
