"""One address of an upstream: what its URL means, and what is known about it."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcpproxy.net.resolve import Name, Target, literal
from mcpproxy.upstream.breaker import CLOSED, Breaker, Rules

if TYPE_CHECKING:
    from mcpproxy.upstream.pool import UpstreamLink

DEFAULT_PORTS = {"http": 80, "https": 443}
STATES = ("enabled", "drain", "disabled")  # by hand: as usual; no new leases but of those who must go there; no new leases at all


class Endpoint:
    """An address with its idle links. `label` names it in logs; `authority` is the Host it expects; `quoted` is the label for log lines."""

    __slots__ = (
        "authority",
        "breaker",
        "checked",
        "configured",
        "ended",
        "failures",
        "hostname",
        "idle",
        "index",
        "label",
        "leased",
        "most",
        "name",
        "quoted",
        "since",
        "state",
        "targets",
        "tls",
        "told",
        "trial",
        "trouble",
        "up",
        "weight",
    )

    def __init__(
        self,
        url: str,
        tls: ssl.SSLContext | None,
        *,
        weight: float = 1.0,
        most: int | None = None,
        state: str = "enabled",
        server_name: str = "",
        target: Target | None = None,
    ) -> None:
        """`target`: where it is, for one without a URL; `url` is but its name then."""
        self.index = 0  # set by the pool: which of a plan's heads is for this endpoint (those with the same authority share one)
        self.tls = tls if url.startswith("https:") else None
        self.idle: list[UpstreamLink] = []  # newest last: the warmest link is leased first, the coldest ages out
        self.leased = self.ended = 0  # leases so far, dials included; and how many of them are over
        self.most = most  # of them at once
        self.weight = weight
        self.state = self.configured = state  # one of STATES; the first may be another one by hand
        self.up: bool | None = None  # by active checks, as far as there are any
        self.checked = ""  # what the last of them said
        self.breaker = Breaker(Rules(), 5.0)  # set by the pool, by its rules
        self.trial = False  # the breaker is not closed: it wants to hear how calls end
        self.since = float("-inf")  # when it came back and its slow start began
        self.failures = 0  # that count for the breaker, in all
        self.trouble = ""  # the last of them
        self.told = float("-inf")  # when the operator last heard why this endpoint cannot be reached
        self.name: Name | None = None
        self.targets: tuple[Target, ...] = ()
        self.hostname = ""
        if target is not None:
            self.label, self.authority, self.targets = url, "localhost", (target,)
            self.quoted = json.dumps(self.label).encode()
            return
        if url.startswith("unix:"):
            path = url[5:]
            self.label, self.authority = url, "localhost"
            self.targets = (Target(socket.AF_UNIX, path),)
            self.quoted = json.dumps(self.label).encode()
            return
        parts = urlsplit(url)
        self.hostname = parts.hostname or ""
        dialled = self.hostname
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.authority = parts.netloc
        self.label = f"[{self.hostname}]:{port}" if ":" in self.hostname else f"{self.hostname}:{port}"
        self.quoted = json.dumps(self.label).encode()
        target = literal(dialled, port)
        if target is not None:
            self.targets = (target,)
        else:
            self.name = Name(dialled, port)
        if server_name:
            self.hostname = server_name  # in the handshake, and in the certificate

    @property
    def in_use(self) -> int:
        """Leases that are open now, dials included."""
        return self.leased - self.ended

    @property
    def full(self) -> bool:
        """As many as it may have."""
        return self.most is not None and self.leased - self.ended >= self.most

    @property
    def wanted(self) -> bool:
        """Nothing but its breaker may speak against it."""
        return self.state == "enabled" and self.up is not False

    @property
    def alive(self) -> bool:
        """May anybody's call go there?"""
        return self.wanted and self.breaker.state == CLOSED
