"""Calls of modern clients that wait for their client to come again with answers (MCP 2026-07-28, basic/patterns/mrtr).

A legacy server asks in the midst of a call, a modern client can only be asked by an answer: so the call is parked, its client gets `input_required`, and a
`requestState` by which the retry finds it again.

    requestState = "mcpproxy-" 8 hex digits "-" base64url( AES-SIV( upstream, caller, method, digest of the params ; id of the parked call, round ) )

1. It opens for the caller, the method and the params it was made for. One that was changed, or is somebody else's, opens nothing; nothing is told about why.
2. Each round has its own: an older one opens nothing any more.
3. What is parked is bounded: in number, for each caller, in bytes, in time. Whoever does not come again is answered for, and the call ends.
4. The key lives as long as the process, as do the calls. So does the mark, which says whose a state is: servers have their own, also one that is an mcpproxy.
5. To a server of the older era no state goes: it would carry the call out once more (gateway/greeting).
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter, OrderedDict
from hashlib import sha256
from secrets import token_bytes, token_hex
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from mcpproxy.gateway.parts import NO_ONE_TO_ASK, Answer
from mcpproxy.mcp.jsonrpc import INVALID_PARAMS
from mcpproxy.mcp.message import Params

REFUSED = Answer.failure(INVALID_PARAMS, "Invalid or expired requestState")
KIND = b"mcpproxy parked call 1"
PARKED_S = 600.0  # for a person to answer
LAST_S = 5.0  # for a server to take it that nobody answered
MOST, MOST_OF_ONE = 1000, 100  # parked calls of all, and of one caller
MOST_BYTES = 64 * 1024 * 1024  # of their params, questions and answers
OPEN = 32  # questions of one call at once
NOT_OURS = frozenset({"_meta", "inputResponses", "requestState"})  # members of params that a retry has otherwise


class Waits(Protocol):
    """A call that can be parked."""

    principal: str

    def cancel(self) -> None:
        """Nobody wants it any more."""


class Rounds:
    """What a call asks its client, and how it is found again."""

    __slots__ = ("asked", "call", "digest", "expired", "expires", "id", "method", "open", "round", "size")

    def __init__(self, call: Waits, method: str, params: Params) -> None:
        self.call, self.method = call, method
        self.digest = digest(params)
        self.id = token_bytes(16)
        self.round = 0
        self.asked = 0  # questions so far
        self.open: dict[str, tuple[asyncio.Future[Answer], bytes]] = {}  # key → who waits, and the question as JSON
        self.size = sum(map(len, params.values()))  # bytes
        self.expires = 0.0
        self.expired = False

    def ask(self, question: bytes) -> tuple[str, asyncio.Future[Answer]] | None:
        """One more question: its key, and where the answer comes. None: there are too many."""
        if len(self.open) >= OPEN or self.expired:
            return None
        self.asked += 1
        key = f"q{self.asked}"
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.open[key] = future, question
        return key, future

    def answer(self, key: str, answer: Answer) -> None:
        """What the client says. A key nobody asked for means nothing."""
        found = self.open.pop(key, None)
        if found is not None and not found[0].done():
            found[0].set_result(answer)

    def fail(self, answer: Answer) -> None:
        """The same for all that is open."""
        for key in tuple(self.open):
            self.answer(key, answer)


class Lot:
    """Where parked calls are."""

    __slots__ = ("_key", "bytes", "limit", "mark", "of", "parked", "ttl", "upstream")

    def __init__(self, upstream: str, ttl: float = PARKED_S, limit: int = MOST) -> None:
        self.upstream, self.ttl, self.limit = upstream.encode(), ttl, limit
        self.mark = f"mcpproxy-{token_hex(4)}-"
        self._key = AESSIV(token_bytes(64))
        self.parked: OrderedDict[bytes, Rounds] = OrderedDict()  # by id; whose time is over first, first
        self.of: Counter[str] = Counter()  # how many each caller has
        self.bytes = 0

    def room(self, caller: str, size: int) -> bool:
        """Is there a place for one more of this caller, with so many bytes?"""
        return len(self.parked) < self.limit and self.of[caller] < MOST_OF_ONE and self.bytes + size <= MOST_BYTES

    def park(self, rounds: Rounds, now: float) -> str:
        """The state by which it is found again."""
        rounds.round += 1
        rounds.expires = now + self.ttl
        if rounds.id not in self.parked:
            self.parked[rounds.id] = rounds
            self.of[rounds.call.principal] += 1
            self.bytes += rounds.size
        sealed = self._key.encrypt(
            rounds.id + rounds.round.to_bytes(4, "big"), self._bound(rounds.call.principal, rounds.method, rounds.digest)
        )
        return self.mark + urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def made(self, state: bytes | None) -> bool:
        """Is this raw `requestState` of this lot? Those of modern servers go through."""
        return state is not None and state.startswith(b'"%b' % self.mark.encode())

    def take(self, state: str, caller: str, method: str, params: Params) -> Rounds | None:
        """The call with this state, which is parked no more. None: there is none, for this caller and these params."""
        text = state.removeprefix(self.mark).encode("ascii", "replace")
        try:
            raw = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            if urlsafe_b64encode(raw).rstrip(b"=") != text:
                return None
            told = self._key.decrypt(raw, self._bound(caller, method, digest(params)))
        except (InvalidTag, ValueError):
            return None
        rounds = self.parked.get(told[:16])
        if rounds is None or rounds.expired or rounds.round.to_bytes(4, "big") != told[16:]:
            return None
        self.forget(rounds)
        return rounds

    def forget(self, rounds: Rounds) -> None:
        """It is parked no more."""
        if self.parked.pop(rounds.id, None) is not None:
            self.bytes -= rounds.size
            self.of[rounds.call.principal] -= 1
            if not self.of[rounds.call.principal]:
                del self.of[rounds.call.principal]

    def grow(self, rounds: Rounds, size: int) -> None:
        """It holds so many bytes more."""
        rounds.size += size
        if rounds.id in self.parked:
            self.bytes += size

    def sweep(self, now: float) -> None:
        """Whose clients did not come again."""
        while self.parked:
            rounds = next(iter(self.parked.values()))
            if rounds.expires > now:
                return
            if rounds.expired:
                self.forget(rounds)
                rounds.call.cancel()
            else:
                rounds.expired, rounds.expires = True, now + LAST_S
                self.parked.move_to_end(rounds.id)
                rounds.fail(Answer.failure(NO_ONE_TO_ASK, "The client did not come back with an answer"))

    def end_all(self) -> None:
        """Nobody comes again."""
        for rounds in tuple(self.parked.values()):
            self.forget(rounds)
            rounds.call.cancel()

    def _bound(self, caller: str, method: str, digest: bytes) -> list[bytes]:
        return [KIND, self.upstream, caller.encode(), method.encode(), digest]


def digest(params: Params) -> bytes:
    """Of what a retry must repeat: values, however they are written."""
    found = sha256()
    for key in sorted(params):
        if key not in NOT_OURS:
            raw = params[key]
            try:
                raw = msgspec.json.encode(msgspec.json.decode(raw), order="deterministic")
            except (msgspec.MsgspecError, RecursionError, ValueError):
                pass
            found.update(b"%d:%b%d:%b" % (len(key.encode()), key.encode(), len(raw), raw))
    return found.digest()
