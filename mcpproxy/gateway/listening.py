"""A modern server's changes, heard as a legacy session hears them: `subscriptions/listen` is kept open as long as the conversation is.

    listening = Listening(server, open, heard)      # `open` sends the listen, and returns with its end
    listening.begin()
    await listening.ask("resources/subscribe", {"uri": b'"file:///x"'})

It asks for the changes of every list the server says it tells about, and for the resources somebody subscribed to. When these change, a new listen is
opened before the old one is closed, so nothing falls between. One that the server or the way to it ended is opened again, after a while; what may
have changed meanwhile is told as changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mcpproxy.gateway.greeting import code, own
from mcpproxy.gateway.parts import Answer, Server
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, CallError
from mcpproxy.mcp.message import METHOD_NOT_FOUND, Params

LISTS = {"tools": "toolsListChanged", "prompts": "promptsListChanged", "resources": "resourcesListChanged"}
AGAIN = (1.0, 60.0)  # seconds until it is opened again: at first, and at most
ACKNOWLEDGED = 5.0  # seconds a subscriber waits for the server's word
SUBSCRIPTIONS = 1024  # what SDK servers take in one listen

Note = Callable[[str, Params], None]
Open = Callable[[bytes, Note], Awaitable[Answer]]


class Listening:
    """What is listened to at one modern server."""

    def __init__(self, server: Server, open: Open, heard: Note) -> None:
        self._open, self._heard, self._version = open, heard, server.version
        self._lists: list[str] = []
        for key, kind in LISTS.items():
            try:
                told = "listChanged" in message.parts(server.capabilities.get(key, b"{}"))
            except CallError:
                told = False
            if told:
                self._lists.append(kind)
        self._uris: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Listen, if there is something to listen to."""
        if self._lists or self._uris:
            self._renew()

    def end(self) -> None:
        """No more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def ask(self, method: str, params: Params) -> Answer:
        """`resources/subscribe` and `resources/unsubscribe`."""
        try:
            uri = message.plain(params["uri"])
        except (CallError, KeyError):
            uri = None
        if not isinstance(uri, str):
            return Answer.failure(INVALID_PARAMS, "no uri")
        if method == "resources/subscribe" and uri not in self._uris:
            if len(self._uris) >= SUBSCRIPTIONS:
                return Answer.failure(INVALID_PARAMS, "too many subscriptions")
            self._uris[uri] = params["uri"]
        elif method == "resources/subscribe" or self._uris.pop(uri, None) is None:
            return Answer(result=b"{}")
        acknowledged = self._renew()
        await asyncio.wait({acknowledged}, timeout=ACKNOWLEDGED)
        return Answer(result=b"{}")

    def _renew(self) -> asyncio.Future[None]:
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._listen(self._task, acknowledged))
        return acknowledged

    async def _listen(self, before: asyncio.Task[None] | None, acknowledged: asyncio.Future[None]) -> None:
        wait, most = AGAIN
        wants: Params = dict.fromkeys(self._lists, b"true")
        if self._uris:
            wants["resourceSubscriptions"] = b"[%b]" % b",".join(self._uris.values())
        params = message.put({"notifications": message.put(wants), "_meta": message.put(own(self._version))})

        def note(method: str, params: Params) -> None:
            nonlocal wait
            if method == "notifications/subscriptions/acknowledged":
                wait = AGAIN[0]
                if before is not None:
                    before.cancel()
                if not acknowledged.done():
                    acknowledged.set_result(None)
            else:
                self._heard(method, {key: raw for key, raw in params.items() if key != "_meta"})

        try:
            while True:
                answer = await self._open(params, note)
                if code(answer) == METHOD_NOT_FOUND:
                    return
                await asyncio.sleep(wait)
                wait = min(wait * 2, most)
                self._missed()
        finally:
            if before is not None:
                before.cancel()
            if not acknowledged.done():
                acknowledged.set_result(None)

    def _missed(self) -> None:
        for kind in self._lists:
            self._heard(f"notifications/{kind.removesuffix('ListChanged')}/list_changed", {})
        for raw in self._uris.values():
            self._heard("notifications/resources/updated", {"uri": raw})
