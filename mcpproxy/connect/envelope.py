"""What we must know of a message to pass it on, and no more: whose it is, not what it says.

The gateway reads messages strictly (mcp/message), because it judges them for others. Here the user's own client talks to a server that the user chose:
whatever the two understand goes through, byte for byte where that is possible.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mcpproxy.gateway.parts import MODERN_VERSIONS

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
NOTHING = msgspec.Raw()


class Envelope(msgspec.Struct):
    """A request (method and id), a notification (method alone) or a response. Values as they came."""

    id: msgspec.Raw = NOTHING
    method: str | None = None
    params: msgspec.Raw = NOTHING
    result: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING

    @property
    def key(self) -> str:
        """The id, so that spellings of the same are the same, and 1 is not "1"."""
        raw = bytes(self.id)
        return "" if raw in (b"", b"null") else repr(msgspec.json.decode(raw))

    @property
    def is_request(self) -> bool:
        return self.method is not None and bool(bytes(self.id))

    @property
    def is_response(self) -> bool:
        return self.method is None


class Meta(msgspec.Struct):
    version: str | None = msgspec.field(default=None, name=VERSION_KEY)


class Params(msgspec.Struct, rename="camel"):
    """Members of params that matter to us, whatever their type."""

    meta: msgspec.Raw = msgspec.field(default=NOTHING, name="_meta")
    name: msgspec.Raw = NOTHING
    uri: msgspec.Raw = NOTHING
    task_id: msgspec.Raw = NOTHING
    arguments: msgspec.Raw = NOTHING
    request_id: msgspec.Raw = NOTHING
    protocol_version: msgspec.Raw = NOTHING


_one = msgspec.json.Decoder(Envelope).decode
_many = msgspec.json.Decoder(list[Envelope]).decode
_params = msgspec.json.Decoder(Params).decode
_meta = msgspec.json.Decoder(Meta).decode


def read(raw: bytes) -> list[Envelope] | None:
    """The messages of a line or an answer: one, but for batches of 2025-03-26. None for what is no message."""
    try:
        return _many(raw) if raw[:1] == b"[" else [_one(raw)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def params(envelope: Envelope) -> Params:
    """Of a request or notification; empty for what cannot be read."""
    try:
        return _params(envelope.params) if bytes(envelope.params) else Params()
    except (msgspec.DecodeError, RecursionError):
        return Params()


def version(of: Params) -> str | None:
    """The revision that a modern message says it is of; None for a message of the older eras."""
    try:
        said = _meta(of.meta).version if bytes(of.meta) else None
    except (msgspec.DecodeError, RecursionError):
        return None
    return said if said is not None and said >= MODERN_VERSIONS[0] else None


def plain(raw: msgspec.Raw | bytes) -> Any:
    """As plain values; None for what cannot be read."""
    try:
        return msgspec.json.decode(raw) if bytes(raw) else None
    except (msgspec.DecodeError, RecursionError):
        return None
