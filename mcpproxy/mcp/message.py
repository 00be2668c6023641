"""JSON-RPC messages of MCP, taken apart and put together without reading more of them than must change (JSON-RPC 2.0; MCP basic/index).

    message = read(b'{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"x"}}')
    message.id == b"0"; message.method == "tools/call"; message.params()["name"] == b'"x"'

Values stay raw JSON (`bytes`): an id keeps its type and spelling, numbers keep their digits, unknown members survive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mcpproxy.mcp.jsonrpc import INVALID_REQUEST, PARSE_ERROR, CallError, Words, check_utf8, members

METHOD_NOT_FOUND, INTERNAL_ERROR = -32601, -32603
Params = dict[str, bytes]  # the members of an object: key -> raw JSON

WORDS = Words("jsonrpc", "id", "method", "params", "result", "error")
PARAMS = Words("name", "uri", "arguments", "cursor", "_meta", "ref", "requestState", "inputResponses", "taskId")
_NO_WORDS = Words()
_text = msgspec.json.Decoder(str).decode


@dataclass(slots=True)
class Message:
    """A request (method and id), a notification (method alone) or a response (id and result or error)."""

    raw: bytes
    id: bytes | None  # raw JSON: a string or an integer; None where there is none, or null
    method: str | None
    _params: bytes | None
    result: bytes | None
    error: bytes | None

    @property
    def is_request(self) -> bool:
        """Does somebody wait for an answer?"""
        return self.method is not None and self.id is not None

    @property
    def is_response(self) -> bool:
        """Is it an answer?"""
        return self.method is None

    @property
    def given(self) -> bytes | None:
        """Its params as they came."""
        return self._params

    def params(self) -> Params:
        """The members of its params. Raises CallError where that is no object, or ambiguous."""
        return {} if self._params is None else parts(self._params, PARAMS, self.id or b"")


def read(raw: bytes) -> Message:
    """One message. Raises CallError (400) for what is none, a batch included."""
    check_utf8(raw)
    found = members(raw, WORDS)
    id = _id(found.get("id"))
    method = found.get("method")
    result, error = found.get("result"), found.get("error")
    if method is not None:
        try:
            name: str | None = _text(method)
        except msgspec.DecodeError:
            raise CallError("bad-call", INVALID_REQUEST, id or b"") from None
        if result is not None or error is not None or ("id" in found and id is None):
            raise CallError("bad-call", INVALID_REQUEST, id or b"")
    elif (result is None) == (error is None):
        raise CallError("bad-call", INVALID_REQUEST, id or b"")
    else:
        name = None
    params = found.get("params")
    return Message(
        raw, id, name, None if params is None else bytes(params), *(None if each is None else bytes(each) for each in (result, error))
    )


def _id(raw: msgspec.Raw | None) -> bytes | None:
    if raw is None:
        return None
    text = bytes(raw)
    if text == b"null":
        return None
    if text[:1] == b'"' or text.lstrip(b"-").isdigit():
        return text
    raise CallError("bad-call", INVALID_REQUEST)


def parts(raw: bytes, words: Words = _NO_WORDS, id: bytes = b"") -> Params:
    """The members of an object, raw. Raises CallError."""
    return {key: bytes(each) for key, each in members(raw, words, id).items()}


def put(of: Mapping[str, bytes]) -> bytes:
    """An object with these members: the reverse of `parts`."""
    return b"{%b}" % b",".join([b"%b:%b" % (text(key), raw) for key, raw in of.items()])


def text(value: str) -> bytes:
    """A string as JSON."""
    return msgspec.json.encode(value)


def encode(value: Any) -> bytes:
    """Any plain value as JSON."""
    return msgspec.json.encode(value)


def plain(raw: bytes) -> Any:
    """Raw JSON as plain values. Raises CallError (400)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise CallError("bad-json", PARSE_ERROR) from None


def request(id: bytes, method: str, params: bytes | None) -> bytes:
    """A request, on one line if `params` is."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%b,"method":%b}' % (id, text(method))
    return b'{"jsonrpc":"2.0","id":%b,"method":%b,"params":%b}' % (id, text(method), params)


def notification(method: str, params: bytes | None = None) -> bytes:
    """A notification."""
    if params is None:
        return b'{"jsonrpc":"2.0","method":%b}' % text(method)
    return b'{"jsonrpc":"2.0","method":%b,"params":%b}' % (text(method), params)


def response(id: bytes | None, *, result: bytes | None = None, error: bytes | None = None) -> bytes:
    """The answer to the request with this id."""
    name, value = (b"result", result) if error is None else (b"error", error)
    return b'{"jsonrpc":"2.0","id":%b,"%b":%b}' % (id or b"null", name, value or b"{}")


def error(code: int, message: str, data: Any = None) -> bytes:
    """An error object (JSON-RPC 2.0 §5.1)."""
    found: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        found["data"] = data
    return msgspec.json.encode(found)


def one_line(raw: bytes) -> bytes:
    """The same JSON without line ends between its tokens: for transports that end a message with one."""
    return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw
