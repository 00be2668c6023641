"""The words of sessions: a call that waits, and what a session with a server of the older eras can do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcpproxy.connect import envelope as envelopes
from mcpproxy.connect.envelope import Envelope
from mcpproxy.connect.places import WireError
from mcpproxy.mcp import message

if TYPE_CHECKING:
    from mcpproxy.connect.bridge import Bridge

JSON = b"Content-Type: application/json\r\n"
ACCEPT = JSON + b"Accept: application/json, text/event-stream\r\n"
LISTS = {"tools": "notifications/tools/list_changed", "prompts": "notifications/prompts/list_changed"}
LISTS["resources"] = "notifications/resources/list_changed"
SUBSCRIPTIONS = 1000  # resources whose changes are asked for again in a new session


class Call:
    """A line of the client (or of ours) with requests in it: one, but for batches."""

    __slots__ = ("answered", "drops", "envelope", "modern", "own", "peek", "raw", "task", "waiting")

    def __init__(self, raw: bytes, asked: dict[str, bytes], envelope: Envelope) -> None:
        self.raw, self.envelope = raw, envelope
        self.waiting = asked  # key → raw id of what has no answer yet
        self.answered = asyncio.Event()
        self.modern = self.own = False
        self.task: asyncio.Task[None] | None = None
        self.peek: Callable[[Envelope], None] | None = None  # sees the answer before the client does
        self.drops: Callable[[Envelope], bool] | None = None  # notifications that the client is not to hear

    @property
    def is_batch(self) -> bool:
        """Of 2025-03-26."""
        return self.raw[:1] == b"["


class NotHere(Exception):
    """This is not how the server is spoken with. What it answered."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status, self.body = status, body


class Session(ABC):
    """One session after the other with one server; `generation` counts them. What the client said once is said again in each new one."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge, self.remote = bridge, bridge.remote
        self.generation = 0
        self.begun = False
        self.version = ""
        self._initialize = self._initialized = b""
        self._level = b""
        self._subscribed: dict[bytes, bytes] = {}  # uri → params, raw
        self._announced: set[str] = set()  # lists whose changes the server tells
        self._renewing = asyncio.Lock()

    @abstractmethod
    async def begin(self, call: Call) -> None:
        """The client's `initialize`. Raises WireError, NotHere."""

    @abstractmethod
    async def ask(self, call: Call) -> None:
        """A request of the client, until it is answered. Raises WireError."""

    @abstractmethod
    async def tell(self, raw: bytes, first: Envelope) -> None:
        """A notification or an answer of the client. Raises WireError."""

    @abstractmethod
    async def end(self) -> None:
        """The server may forget it."""

    @abstractmethod
    async def _open(self) -> None:
        """A new session, without asking the client, up to its `initialize`. Raises WireError."""

    @abstractmethod
    async def _started(self) -> None:
        """`initialized` was said."""

    async def renew(self, generation: int) -> None:
        """The session of `generation` is lost: begin another one as the client began that. Raises WireError."""
        async with self._renewing:
            if self.generation != generation:
                return  # somebody was quicker
            if not self._initialize:
                raise WireError("the server wants a session, and the client began none", sent=True)
            self.generation += 1
            await self.bridge.call_off()
            try:
                await self._open()
            except WireError:
                self.generation = generation  # the next one tries again
                raise
            await self.tell(self._initialized or message.notification("notifications/initialized"), Envelope(method="again"))
            await self._started()
            if self._level:
                await self.said_again("logging/setLevel", self._level)
            for params in [*self._subscribed.values()]:
                await self.said_again("resources/subscribe", params)
            self.bridge.say("the session with the server was lost; there is a new one")
            for name in sorted(self._announced):
                await self.bridge.tell_client(LISTS[name])

    async def said_again(self, method: str, params: bytes) -> None:
        """A request of the client, once more and for us. That it fails is no reason to fail."""
        call, answer = self.bridge.own(method, params)
        try:
            async with asyncio.timeout(10):
                await self.ask(call)
                await answer
        except (TimeoutError, WireError):
            self.bridge.say(f"{method} could not be said again in the new session")
        finally:
            for key in call.waiting:
                self.bridge.calls.pop(key, None)

    async def settled(self) -> None:
        """No session is just being renewed."""
        if self._renewing.locked():
            async with self._renewing:
                pass

    def greeted(self, envelope: Envelope) -> None:
        """The answer to `initialize`."""
        result = envelopes.plain(envelope.result)
        if not isinstance(result, dict):
            return
        version, capabilities = result.get("protocolVersion"), result.get("capabilities")
        self.version = version if isinstance(version, str) and version.isascii() and version.isprintable() else ""
        self.begun = True
        if isinstance(capabilities, dict):
            changing = {name for name in LISTS if isinstance(capabilities.get(name), dict) and capabilities[name].get("listChanged")}
            self._announced = changing

    def remember(self, call: Call) -> None:
        """What must be said again in a new session."""
        if call.own:
            return
        method, params = call.envelope.method, bytes(call.envelope.params)
        if method == "logging/setLevel":
            self._level = params
        elif method in ("resources/subscribe", "resources/unsubscribe"):
            uri = bytes(envelopes.params(call.envelope).uri)
            if method == "resources/unsubscribe":
                self._subscribed.pop(uri, None)
            elif len(self._subscribed) < SUBSCRIPTIONS:
                self._subscribed[uri] = params
