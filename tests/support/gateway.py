"""Stand-ins for the gateway's neighbours: clients, calls and the hub, which write down what they hear."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from mcpproxy.gateway.parts import Answer, Call, Client, Era, Hearer
from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params


class SomeClient(Client):
    """A legacy session, unless told otherwise."""

    def __init__(
        self, session: str = "s", *, principal: str = "", era: Era = Era.LEGACY, version: str = "", capabilities: Params | None = None
    ) -> None:
        self.session, self.principal, self.era = session, principal, era
        self.version = version or ("2025-11-25" if era is Era.LEGACY else "2026-07-28")
        self.route, self.level, self.info = -1, None, b'{"name":"some","version":"1"}'
        self.capabilities = {} if capabilities is None else capabilities
        self.subscriptions = set()
        self.heard: list[tuple[str, bytes | None]] = []
        self.asked: list[tuple[str, bytes | None]] = []

    def hears(self, method: str, params: bytes | None) -> None:
        self.heard.append((method, params))

    async def question(self, method: str, params: bytes | None) -> Answer:
        self.asked.append((method, params))
        return Answer(result=b'{"from":%b}' % message.text(self.session))


@dataclass(slots=True, eq=False)
class SomeCall(Call):
    """A call; `answers` are given to the server's questions, or `think` is awaited first."""

    notes: list[tuple[str, Params]] = field(default_factory=list)
    questions: list[tuple[str, bytes | None]] = field(default_factory=list)
    reply: Answer = field(default_factory=lambda: Answer(result=b'{"mine":true}'))
    think: asyncio.Event | None = None
    stopped: bool = False

    def note(self, method: str, params: Params) -> None:
        self.notes.append((method, params))

    async def question(self, method: str, params: bytes | None) -> Answer:
        self.questions.append((method, params))
        if self.think is not None:
            try:
                await self.think.wait()
            except asyncio.CancelledError:
                self.stopped = True
                raise
        return self.reply


def call(method: str, params: object = None, *, client: Client | None = None, token: bytes | None = None) -> SomeCall:
    """A call with plain params."""
    given = {} if params is None else message.parts(message.encode(params))
    return SomeCall(client or SomeClient(), method, given, token=token)


class SomeHub(Hearer):
    """Hears."""

    def __init__(self) -> None:
        self.heard_of: list[tuple[str, Client | None, str, Params]] = []
        self.asked_of: list[tuple[str, Client | None, str, bytes | None]] = []
        self.changes: list[tuple[str, bool]] = []
        self.reply = Answer(result=b'{"hub":true}')

    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        self.heard_of.append((member, client, method, params))

    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        self.asked_of.append((member, client, method, params))
        return self.reply

    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        self.changes.append((member, available))
