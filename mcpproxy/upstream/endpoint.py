"""One address of an upstream: what its URL means, and whether it is worth trying now."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcpproxy.net.resolve import Name, Target, literal

if TYPE_CHECKING:
    from mcpproxy.upstream.pool import UpstreamLink

DEFAULT_PORTS = {"http": 80, "https": 443}


class Endpoint:
    """An address with its idle links. `label` names it in logs; `authority` is the Host it expects; `quoted` is the label for log lines."""

    __slots__ = ("authority", "dead_until", "hostname", "idle", "index", "label", "name", "quoted", "targets", "tls", "told")

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        self.index = 0  # set by the pool: which of a plan's heads is for this endpoint (those with the same authority share one)
        self.tls = tls if url.startswith("https:") else None
        self.idle: list[UpstreamLink] = []  # newest last: the warmest link is leased first, the coldest ages out
        self.dead_until = float("-inf")
        self.told = float("-inf")  # when the operator last heard why this endpoint cannot be reached
        self.name: Name | None = None
        self.targets: tuple[Target, ...] = ()
        self.hostname = ""
        if url.startswith("unix:"):
            path = url[5:]
            self.label, self.authority = url, "localhost"
            self.targets = (Target(socket.AF_UNIX, path),)
            self.quoted = json.dumps(self.label).encode()
            return
        parts = urlsplit(url)
        self.hostname = parts.hostname or ""
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.authority = parts.netloc
        self.label = f"[{self.hostname}]:{port}" if ":" in self.hostname else f"{self.hostname}:{port}"
        self.quoted = json.dumps(self.label).encode()
        target = literal(self.hostname, port)
        if target is not None:
            self.targets = (target,)
        else:
            self.name = Name(self.hostname, port)

    def alive(self, now: float) -> bool:
        """False for a while after nobody answered there."""
        return self.dead_until <= now
