"""The words of this room: what a face, the hub and a member say to each other.

    face ──Call──▶ Service (hub) ──Call──▶ Conversation (of a Member) ──▶ server
         ◀─Answer──               ◀─Answer──
         ◀── call.note, call.question ── in the midst of a call
         ◀── client.hears, client.question ── outside of any

Everything here is of one event loop; nothing is called from another thread. Values are raw JSON (mcp/message).

1. `ask` returns exactly one Answer. What goes wrong on our side of the server is an Answer with an error, too; it raises nothing but CancelledError.
2. To cancel the task that awaits `ask` is to cancel the call: whoever is below tells the server in the words of its era, and forgets the call.
3. A method or member of params that nobody here knows goes through as it came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mcpproxy.mcp import message
from mcpproxy.mcp.message import Params

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)


class Era(Enum):
    """Sessions and `initialize`, or requests that carry everything with them (versioning, 2026-07-28)."""

    LEGACY = "legacy"
    MODERN = "modern"


# Codes of our own lie outside of JSON-RPC's reserved range (MCP 2026-07-28, basic/index, error codes).
MEMBER_UNAVAILABLE, MEMBER_LOST, TIMED_OUT, TOO_LARGE, NO_ONE_TO_ASK, NOT_APPROVED = 4503, 4502, 4504, 4413, 4409, 4403
INTERNAL = (MEMBER_UNAVAILABLE, MEMBER_LOST, TIMED_OUT, TOO_LARGE, NO_ONE_TO_ASK)


@dataclass(frozen=True, slots=True)
class Answer:
    """A result or an error object: exactly one of them is there, raw."""

    result: bytes | None = None
    error: bytes | None = None
    recovered: bool = False  # the server had lost its session, and got a new one for this

    @staticmethod
    def failure(code: int, text: str, data: object = None) -> Answer:
        """An error of ours."""
        return Answer(error=message.error(code, text, data))


@dataclass(frozen=True, slots=True)
class Server:
    """What a server (or the hub, for all of them) says about itself."""

    era: Era
    version: str  # the revision that is spoken with it
    capabilities: Params
    info: bytes = b"{}"  # its `serverInfo`
    instructions: str = ""
    meta: bytes | None = None  # `_meta` of what it said; of the hub: which members are missing


class Client(ABC):
    """Who asks: a session (legacy), or one request or one `subscriptions/listen` (modern). Made by faces."""

    __slots__ = ()  # there are thousands of sessions

    principal: str  # policy/limits.identity of the caller; "" for nobody
    route: int  # index of the route it came by: whose tool rules filter its lists; -1: none
    session: str  # "" where the era has none
    era: Era
    version: str
    capabilities: Params
    info: bytes
    level: str | None  # of log messages it wants; None: it did not say
    subscriptions: set[str]  # URIs of resources whose changes it wants

    @abstractmethod
    def hears(self, method: str, params: bytes | None) -> None:
        """A notification that belongs to no call. The face passes it on as its era wants it, or drops it."""

    @abstractmethod
    async def question(self, method: str, params: bytes | None) -> Answer:
        """A request of a server outside of any call of this client (legacy servers: roots/list, sampling, elicitation, ping)."""


@dataclass(slots=True, eq=False)
class Call(ABC):
    """A request of a client."""

    client: Client
    method: str
    params: Params  # as the client wrote them, `_meta` included; the hub may replace members, nobody changes what lies in them
    request_id: str = ""  # of the edge, for the log
    token: bytes | None = None  # the client's progressToken, raw
    labels: dict[str, str] = field(default_factory=dict)  # for log and metrics: member, recovered

    @abstractmethod
    def note(self, method: str, params: Params) -> None:
        """A notification about this call (progress, message). `progressToken` is the face's to restore: it is not in `params`."""

    @abstractmethod
    async def question(self, method: str, params: bytes | None) -> Answer:
        """A request of the server to the client, in the midst of the call. An error where the client cannot be asked."""


class Unavailable(Exception):
    """There is no conversation to be had now; the text is for the client, and says nothing about our insides."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.text, self.retry_after = text, retry_after


class Conversation(ABC):
    """One initialised connection to one server. Hides transport and era."""

    server: Server
    front: Conversation | None = None  # the one that is given away in its place (gateway/guarded)

    @abstractmethod
    async def ask(self, call: Call) -> Answer:
        """Have it answered. When the client is legacy and the answer of a modern server is `input_required`, the rounds are made here, by `call.question`."""

    @abstractmethod
    async def tell(self, method: str, params: bytes | None) -> None:
        """A notification to the server. Where its era does not know it: nothing."""

    @abstractmethod
    async def close(self) -> None:
        """It is not needed any more: end it politely (DELETE, stdin closed, …)."""


class Hearer(ABC):
    """Who owns conversations (the hub) hears what belongs to no call."""

    @abstractmethod
    def heard(self, member: str, client: Client | None, method: str, params: Params) -> None:
        """A notification of a server: list_changed, resources/updated, message, …. `client`: whose conversation it is, or who
        began it where it is a caller's own; None: everybody's."""

    @abstractmethod
    async def asked(self, member: str, client: Client | None, method: str, params: bytes | None) -> Answer:
        """A request of a server that belongs to no call."""

    @abstractmethod
    def changed(self, member: str, *, available: bool, client: Client | None = None) -> None:
        """A server is there, or gone: its lists may be others now. `client` as in `heard`."""


class Member(ABC):
    """A configured server."""

    name: str

    @abstractmethod
    async def start(self) -> None:
        """What is to be warm is started. Does not wait, and does not fail: who is not there is `Unavailable` later."""

    @abstractmethod
    async def conversation(self, client: Client) -> Conversation:
        """The one for this client: everybody's, its session's or its principal's. Raises Unavailable."""

    @abstractmethod
    def leave(self, client: Client) -> None:
        """This session is over: what was its alone is closed."""

    @abstractmethod
    async def stop(self) -> None:
        """Nothing of it is left when this returns: no child, no connection."""

    @abstractmethod
    def state(self) -> Mapping[str, object]:
        """For operators: state, children, pids, restarts, last error, era, version."""


class Service(ABC):
    """What a face talks to: one per upstream."""

    name: str

    @abstractmethod
    async def server(self, client: Client) -> Server:
        """What all of it says about itself to this client. Waits for no member longer than its deadline, fails for none."""

    @abstractmethod
    async def ask(self, call: Call) -> Answer:
        """Everything but what faces answer themselves (initialize, server/discover, ping, subscriptions/listen, session matters)."""

    @abstractmethod
    async def tell(self, client: Client, method: str, params: bytes | None) -> None:
        """A notification of a client that belongs to no call (roots/list_changed)."""

    @abstractmethod
    def join(self, client: Client) -> None:
        """From now on it hears. Faces call it for sessions and for listens."""

    @abstractmethod
    def leave(self, client: Client) -> None:
        """It is gone."""
