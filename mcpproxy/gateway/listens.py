"""A modern client that listens (MCP 2026-07-28, basic/patterns/subscriptions): a stream of changes for as long as it stays.

First comes what of its filter is honoured, which is what the service offers; every message carries the listen's own id. We end it with a result; a client
that finds the stream cut comes again by itself. No Task while nothing changes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mcpproxy.gateway.fitting import concerns
from mcpproxy.gateway.parts import MEMBER_UNAVAILABLE, NO_ONE_TO_ASK, Answer, Client, Era, Server
from mcpproxy.gateway.web import Visit
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, CallError
from mcpproxy.mcp.message import Params

if TYPE_CHECKING:
    from mcpproxy.gateway.face import Face

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
CHANGES = {  # of a listen's filter: the notification, and who must offer it
    "toolsListChanged": ("notifications/tools/list_changed", "tools", "listChanged"),
    "promptsListChanged": ("notifications/prompts/list_changed", "prompts", "listChanged"),
    "resourcesListChanged": ("notifications/resources/list_changed", "resources", "listChanged"),
}
UPDATED = "notifications/resources/updated"
URIS, URI_BYTES = 1000, 128 * 1024  # of one listen


class Listen(Client):
    """A client that wants to hear of changes, for as long as it stays."""

    __slots__ = (
        *("principal", "route", "session", "era", "version", "capabilities", "info", "level", "subscriptions"),
        *("changes", "face", "id", "joined", "task", "visit"),
    )

    def __init__(self, face: Face, visit: Visit, client: Client, id: bytes, params: Params) -> None:
        self.principal, self.route, self.session, self.era = client.principal, client.route, "", Era.MODERN
        self.version, self.capabilities, self.info, self.level = client.version, client.capabilities, client.info, None
        self.subscriptions: set[str] = set()
        self.changes: set[str] = set()  # methods it wants
        self.face, self.visit, self.id = face, visit, id
        self.joined = False
        try:
            wanted = message.plain(params.get("notifications", b"{}"))
            uris = wanted.get("resourceSubscriptions") or []
            if (
                not isinstance(uris, list)
                or len(uris) > URIS
                or not all(isinstance(uri, str) for uri in uris)
                or sum(map(len, uris)) > URI_BYTES
            ):
                raise ValueError
        except (AttributeError, TypeError, ValueError):
            raise CallError("bad-call", INVALID_PARAMS, id) from None
        if len(face.listens) >= face.sessions.limit:
            visit.answer(503, message.response(id, error=message.error(MEMBER_UNAVAILABLE, "Too many listeners")), b"Retry-After: 60\r\n")
            return
        face.listens.add(self)
        visit.gone = self.left
        self.task = asyncio.get_running_loop().create_task(self._begin(wanted, uris))

    async def _begin(self, wanted: dict[str, Any], uris: list[str]) -> None:
        server = await self.face.server(self)
        if isinstance(server, Answer):
            self.face.listens.discard(self)
            self.visit.answer(503, message.response(self.id, error=server.error))
            return
        honoured: dict[str, Any] = {}
        for key, (method, area, ability) in CHANGES.items():
            if wanted.get(key) is True and _offers(server, area, ability):
                honoured[key] = True
                self.changes.add(method)
        if uris and _offers(server, "resources", "subscribe"):
            honoured["resourceSubscriptions"] = uris
            self.subscriptions.update(uris)
        self.visit.begin()
        self._send("notifications/subscriptions/acknowledged", {"notifications": message.encode(honoured)})
        self.joined = True
        self.face.service.join(self)

    def hears(self, method: str, params: bytes | None) -> None:
        """If it is what this client wanted."""
        if not self.joined:
            return
        try:
            found = {} if params is None else message.parts(params)
            if method in self.changes or (method == UPDATED and concerns(self.subscriptions, found)):
                self._send(method, found)
        except CallError:
            return

    async def question(self, method: str, params: bytes | None) -> Answer:
        """Nobody can ask on a listen."""
        return Answer(b"{}") if method == "ping" else Answer.failure(NO_ONE_TO_ASK, "The client cannot be asked outside of a call")

    def left(self) -> None:
        """The client is gone."""
        self.face.listens.discard(self)
        self.task.cancel()
        if self.joined:
            self.joined = False
            self.face.service.leave(self)

    def end(self) -> None:
        """We end it, and say so."""
        visit = self.visit
        visit.gone = None
        self.left()
        body = message.response(self.id, result=b'{"resultType":"complete","_meta":%b}' % self._meta(None))
        if visit.streaming:
            visit.event(b"event: message\ndata: %b\n\n" % body)
            visit.end()
        else:
            visit.answer(200, body)

    def _meta(self, meta: bytes | None) -> bytes:
        return message.put({**({} if meta is None else message.parts(meta)), SUBSCRIPTION: self.id})

    def _send(self, method: str, params: Params) -> None:
        params = {**params, "_meta": self._meta(params.get("_meta"))}
        self.visit.event(b"event: message\ndata: %b\n\n" % message.one_line(message.notification(method, message.put(params))))


def _offers(server: Server, area: str, ability: str) -> bool:
    raw = server.capabilities.get(area)
    return raw is not None and message.parts(raw).get(ability) == b"true"
