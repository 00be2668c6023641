"""The words all policies share: what a caller shows, who that is, and what follows.

    Credential ──▶ Authenticator.judge ──▶ Accepted(principal, until) | Refused(status, kind, …) | Ask(question) | None ("not one of mine")

An authenticator is pure: it knows keys, key sets and cached answers, and the moment it is asked about. What it would have to ask the world for is a
Question; the edge has it answered (outside of the hot path, once for all who wait for the same) and asks the authenticator again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request or its connection shows."""

    scheme: str  # "bearer" (Authorization), "key" (another field), "certificate" (TLS)
    value: bytes
    field: bytes = b""  # lower-case name of the field it stood in


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. Never holds a secret: it goes to logs as it is."""

    name: str
    by: str  # the [auth.NAME] that knows it
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    scoped: bool = False  # it came with a token, and can do no more than the token's scopes say
    key: str = ""  # id of the key, or a digest of the token's `jti`: which of a caller's credentials it was


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is `principal`, until `until` (Unix seconds); then ask again."""

    principal: Principal
    until: float = inf


@dataclass(frozen=True, slots=True)
class Refused:
    """It is nobody we let in. `kind` is a slug of http/replies; `error` and `description` are OAuth's words for the challenge (RFC 6750 §3)."""

    kind: str
    status: int = 401
    error: str = "invalid_token"
    description: str = ""
    principal: Principal | None = None  # who it is, where that is known: for the logs
    retry_after: int = 0  # seconds; 0: coming again helps nobody


@dataclass(frozen=True, slots=True)
class Question:
    """Something the world must be asked. Equal `about` means the same question: it is asked once for all who wait.

    `ask` never raises: what went wrong is remembered by the authenticator, which is asked again afterwards.
    """

    about: str
    ask: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Ask:
    """Cannot be decided before this is answered."""

    question: Question


Judgement = Accepted | Refused | Ask | None


class Payer(Protocol):
    """Who pays when a credential that costs us something is worth nothing (policy/failures)."""

    def broke(self, now: float) -> Refused | None:
        """The answer, when this one has nothing left to pay with."""

    def charge(self, now: float, count: int = 1) -> None:
        """So many signatures or questions."""

    def refund(self, count: int = 1) -> None:
        """It was worth something after all."""


class Authenticator(Protocol):
    """One [auth.NAME]."""

    name: str

    def judge(self, credential: Credential, now: float, payer: Payer | None = None) -> Judgement:
        """Who shows this? `now` is Unix seconds. None: this credential is not of a kind this one knows."""


def judge_by_any(authenticators: Iterable[Authenticator], credential: Credential, now: float, payer: Payer | None = None) -> Judgement:
    """Any of them will do. Who accepts wins, whatever others say or would have to ask; else what must be asked is asked; else the refusal that says most
    (that somebody else issued the token says least). None: nobody knows this kind."""
    asked: Ask | None = None
    refused: Refused | None = None
    for authenticator in authenticators:
        judged = authenticator.judge(credential, now, payer)
        if isinstance(judged, Accepted):
            return judged
        if isinstance(judged, Ask):
            asked = asked or judged
        elif judged is not None and (refused is None or refused.kind == SOMEBODY_ELSES):
            refused = judged
    return asked or refused


SOMEBODY_ELSES = "token-issuer"
