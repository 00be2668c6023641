"""WebSocket handshakes (RFC 6455 §4): was one asked for correctly, and is this 101 the answer to it?

Only `websocket` is ever upgraded: h2c by upgrade is gone from the standard (RFC 9113 §3.1), and an unknown protocol would be a hole in every rule.
"""

from __future__ import annotations

import re

from mcpproxy.http.fields import options

KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")  # 16 bytes in base64
Fields = tuple[tuple[bytes, bytes, bytes], ...]


def _values(fields: Fields, wanted: bytes) -> list[bytes]:
    return [value for _, name, value in fields if name == wanted]


def asked_for(method: bytes, version: int, no_body: bool, connection: frozenset[bytes], fields: Fields) -> bytes | None:
    """b"websocket" when this request is a well-formed handshake, else None (its Upgrade field is then dropped like any hop-by-hop field)."""
    if method != b"GET" or version != 11 or not no_body or b"upgrade" not in connection:
        return None
    keys = _values(fields, b"sec-websocket-key")
    if options(_values(fields, b"upgrade")) != [b"websocket"] or _values(fields, b"sec-websocket-version") != [b"13"]:
        return None
    if len(keys) != 1 or KEY.fullmatch(keys[0]) is None:
        return None
    return b"websocket"


def granted(status: int, connection: frozenset[bytes], fields: Fields) -> bytes | None:
    """The protocol a 101 switches to, in lower case; None for every other response."""
    if status != 101 or b"upgrade" not in connection:
        return None
    protocols = options(_values(fields, b"upgrade"))
    return protocols[0] if len(protocols) == 1 else None
