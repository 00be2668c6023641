"""Was a websocket asked for, and is this 101 the answer to it (RFC 6455 §4)?

Only a complete and correct handshake counts; of anything else the upgrade is ignored, as RFC 9110 §7.8 allows, and the request goes on as a plain
one. That leaves no way to open a tunnel by asking for something that we and the server understand differently (h2c, two protocols, a body in
between). Whether Sec-WebSocket-Accept fits the key is the client's to check: it is the one who would be deceived.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from mcpproxy.http.fields import Field, options

WEBSOCKET = b"websocket"
KEY = b"bWNwcHJveHktaDItd3MhIQ=="  # over HTTP/2 a client has none (RFC 8441 §5); the server behind us wants one, and any will do
HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-accept"})  # Connection may not take these away
_key = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==").fullmatch  # base64 of 16 bytes
_accept = re.compile(rb"[A-Za-z0-9+/]{27}=").fullmatch  # base64 of a SHA-1
_version = re.compile(rb"[0-9]{1,3}").fullmatch  # whether it is one the server speaks (13), the server says (426)

ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())  # RFC 6455 §4.2.2
_accepts = re.compile(rb"\r\nsec-websocket-accept:[ \t]*([^\r \t]*)", re.IGNORECASE).findall


def answers_our_key(head: bytes) -> bool:
    """Is this 101 the answer to KEY? Where the key is ours, so is the check (RFC 6455 §4.1)."""
    return _accepts(head) == [ACCEPT]


def asked(method: bytes, version: int, fields: Iterable[Field]) -> bytes | None:
    """The protocol a request without body asks to switch to, or None."""
    fields = tuple(fields)
    if method != b"GET" or version == 10 or not _named(fields):
        return None
    keys, versions = _values(fields, b"sec-websocket-key"), _values(fields, b"sec-websocket-version")
    return WEBSOCKET if len(keys) == len(versions) == 1 and _key(keys[0]) and _version(versions[0]) else None


def switched(fields: Iterable[Field]) -> bytes | None:
    """The protocol a 101 switches to, or None when it is no good answer to anything we let through."""
    fields = tuple(fields)
    accepts = _values(fields, b"sec-websocket-accept")
    return WEBSOCKET if _named(fields) and len(accepts) == 1 and _accept(accepts[0]) else None


def _named(fields: tuple[Field, ...]) -> bool:
    upgrades, said = _values(fields, b"upgrade"), options(fields)
    return len(upgrades) == 1 and upgrades[0].lower() == WEBSOCKET and b"upgrade" in said and not said & HANDSHAKE


def _values(fields: tuple[Field, ...], name: bytes) -> list[bytes]:
    return [value for _, lower, value in fields if lower == name]
