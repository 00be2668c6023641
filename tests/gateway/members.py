"""Members of a hub that are a few lists in this process: old or new servers, slow, absent, with pages, with questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcpproxy.gateway.hub import Hub
from mcpproxy.gateway.parts import Answer, Call, Client, Conversation, Era, Member, Server, Unavailable
from mcpproxy.gateway.shelf import Offer
from mcpproxy.mcp import message
from mcpproxy.mcp.message import METHOD_NOT_FOUND
from tests.support.gateway import call
from tests.support.waiting import DEADLINE

PLACES = {"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources", "resources/templates/list": "resourceTemplates"}
EVERYTHING: dict[str, Any] = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "completions": {}, "logging": {}}


def tool(name: str, **more: Any) -> dict[str, Any]:
    """An entry of tools/list."""
    return {"name": name, "description": f"does {name}", "inputSchema": {"type": "object"}, **more}


class SomeServer(Conversation):
    """What it is asked is in `asked`: method and plain params."""

    def __init__(
        self,
        lists: Mapping[str, Sequence[dict[str, Any]]],
        *,
        era: Era = Era.LEGACY,
        capabilities: Mapping[str, Any] | None = None,
        ttl: int | None = None,
        scope: str = "private",
        page: int = 1000,
        instructions: str = "",
    ) -> None:
        self.lists = {key: list(value) for key, value in lists.items()}
        given = EVERYTHING if capabilities is None else capabilities
        version = "2025-11-25" if era is Era.LEGACY else "2026-07-28"
        self.server = Server(era, version, {key: message.encode(each) for key, each in given.items()}, b'{"name":"x"}', instructions)
        self.ttl, self.scope, self.page = ttl, scope, page
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.told: list[tuple[str, bytes | None]] = []
        self.slow: asyncio.Event | None = None
        self.answers: dict[str, Callable[[Call, dict[str, Any]], Any]] = {}
        self.calls: list[Call] = []

    async def ask(self, call: Call) -> Answer:
        params = {key: json.loads(raw) for key, raw in call.params.items()}
        self.asked.append((call.method, params))
        self.calls.append(call)
        if self.slow is not None:
            await self.slow.wait()
        if call.method in self.answers:
            found = self.answers[call.method](call, params)
            return found if isinstance(found, Answer) else Answer(message.encode(found))
        if call.method in PLACES:
            return self._page(call.method, params)
        if call.method in ("resources/subscribe", "resources/unsubscribe", "logging/setLevel"):
            return Answer(b"{}")
        if call.method in ("tools/call", "prompts/get", "resources/read", "completion/complete"):
            return Answer(message.encode({"content": [{"type": "text", "text": json.dumps(params)}]}))
        return Answer.failure(METHOD_NOT_FOUND, "Method not found")

    def _page(self, method: str, params: dict[str, Any]) -> Answer:
        key = PLACES[method]
        if key not in self.lists:
            return Answer.failure(METHOD_NOT_FOUND, "Method not found")
        start = int(params.get("cursor", 0))
        found: dict[str, Any] = {key: self.lists[key][start : start + self.page]}
        if start + self.page < len(self.lists[key]):
            found["nextCursor"] = str(start + self.page)
        if self.ttl is not None:
            found |= {"ttlMs": self.ttl, "cacheScope": self.scope}
        return Answer(message.encode(found))

    async def tell(self, method: str, params: bytes | None) -> None:
        self.told.append((method, params))

    async def close(self) -> None: ...

    def count(self, method: str) -> int:
        """How often it was asked this."""
        return sum(asked == method for asked, _ in self.asked)


class SomeMember(Member):
    """`own`: makes one server for each session; otherwise `server` is everybody's."""

    def __init__(self, name: str, server: SomeServer, *, own: Callable[[], SomeServer] | None = None) -> None:
        self.name, self.server, self._own = name, server, own
        self.away = ""
        self.late: asyncio.Event | None = None
        self.owned: dict[Client, SomeServer] = {}
        self.left: list[Client] = []

    async def start(self) -> None: ...

    async def conversation(self, client: Client) -> Conversation:
        if self.late is not None:
            await self.late.wait()
        if self.away:
            raise Unavailable(self.away)
        if self._own is None:
            return self.server
        if client not in self.owned:
            self.owned[client] = self._own()
        return self.owned[client]

    def leave(self, client: Client) -> None:
        self.left.append(client)
        self.owned.pop(client, None)

    async def stop(self) -> None: ...

    def state(self) -> Mapping[str, object]:
        return {"state": "up"}


def hub_of(*members: SomeMember | tuple[SomeMember, Offer], **kwargs: Any) -> Hub:
    """A hub with the members' names as prefixes, unless an Offer says otherwise."""
    offers = [each if isinstance(each, tuple) else (each, Offer(prefix=each.name)) for each in members]
    return Hub("all", offers, **{"deadline": 0.05, **kwargs})


async def asked(hub: Hub, method: str, params: object = None, client: Client | None = None) -> Any:
    """The plain result; of an error its object."""
    answer = await hub.ask(call(method, params, client=client))
    return json.loads(answer.result if answer.result is not None else answer.error or b"")


async def turns(enough: Callable[[], object]) -> None:
    """Let the loop turn until it is so."""
    async with asyncio.timeout(DEADLINE):
        while not enough():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0)


def names(result: Any, key: str = "tools") -> list[str]:
    """Of a list."""
    by = {"resources": "uri", "resourceTemplates": "uriTemplate"}.get(key, "name")
    return [each[by] for each in result[key]]
