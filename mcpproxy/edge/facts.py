"""Facts that a judgement is made of, beside the head: those of the connection (part of the key, edge/shelf), and what the next hop is told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from mcpproxy.http.forward import NOTHING
from mcpproxy.http.head import RequestHead
from mcpproxy.http.target import is_authority
from mcpproxy.policy.verdict import Credential, Principal

as_json = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Caller:
    """The facts of a connection that can change a judgement."""

    proxy: str | None = None  # the address of a trusted one: the client is who it says (X-Forwarded-For)
    barred: frozenset[int] = frozenset()  # indices of the routes that take nobody from this address
    certificate: Credential | None = None


ANYBODY = Caller()


@dataclass(slots=True)
class Told:
    """What the next hop is told beside the client's own fields, and not told."""

    drop: frozenset[bytes] = NOTHING  # lower-case names of fields that end here
    lines: bytes = b""  # field lines of our own
    proto: bytes = b""  # what a trusted proxy said of the client: its scheme,
    host: bytes = b""  # its Host,
    address: bytes = b""  # its address
    forwarded: bytes = b""  # then: the connection's own fields, up to the request id


DIRECT = Told()


def said_by_proxy(head: RequestHead) -> tuple[bytes, bytes]:
    """The scheme and the Host that the client used, as a trusted proxy tells them. Empty: it does not."""
    proto, host = (head.first(b"x-forwarded-proto") or b"").lower(), head.first(b"x-forwarded-host") or b""
    return proto if proto in (b"http", b"https") else b"", host if is_authority(host) else b""


def origin_of(head: RequestHead, caller: Caller, scheme: str) -> tuple[str, str]:
    """Scheme and authority by which this client knows us; `scheme` is the listener's."""
    proto, host = said_by_proxy(head) if caller.proxy is not None else (b"", b"")
    return proto.decode() or scheme, (host or head.authority).decode("latin-1")


def short_hash(secret: bytes) -> bytes:
    """Enough of a session id to follow it through the logs, too little to use it."""
    return hashlib.sha256(secret).hexdigest()[:12].encode()


def who_line(principal: Principal | None) -> bytes:
    """Members of log lines that say who it is, each with its leading comma."""
    if principal is None:
        return b""
    line = b',"principal":%b,"auth":%b' % (as_json(principal.name), as_json(principal.by))
    return line + b',"key":%b' % as_json(principal.key) if principal.key else line


def client_line(address: bytes) -> bytes:
    """The same for a client that a trusted proxy names; on its connections the proxy's own address is called `proxy`."""
    return b',"client":"%b"' % address if address else b""


def renamed(about: bytes, caller: Caller) -> bytes:
    """Log members of a connection, of which the first is its address: the client's, or a trusted proxy's?"""
    return (b'"client":' if caller.proxy is None else b'"proxy":') + about[about.index(b":") + 1 :]
