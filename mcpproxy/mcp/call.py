"""HOT. Which calls does this request body make? A bounded peek: the caller has the body whole, and decides how large it may be.

A call is one JSON-RPC request as a policy sees it. The body is one message, or the batch of the 2025-03-26 revision: at most BATCH messages, each a call
of its own. Batches are read whatever revision the head names, because some servers read them always; a server that does not refuses them itself.

    body ──▶ the short way: exactly {"jsonrpc", "id"?, "method", "params"?: {"name"?, "uri"?, "arguments"?, "_meta"?}}, compact, plain keys
         ├─▶ compacted, and the short way again
         └─▶ the long way (jsonrpc.members): anything else that is JSON; refuses what two parsers may read differently

The short way needs no look at the keys: the lengths of what was found, with the punctuation of compact JSON, add up to the length of the body.
Whatever else stands there (a key twice, an unknown one, an escape, a space, a name beyond ASCII) makes the body longer, and nothing makes it shorter.

A subscription (`subscriptions/listen`) to resources or tasks is also the calls it stands for: one `resources/subscribe` or `tasks/get` for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Raw, Struct, field

from mcpproxy.mcp.jsonrpc import INVALID_PARAMS, INVALID_REQUEST, CallError, Words, check_utf8, members, not_json, value

BATCH = 100  # messages; as many as the TypeScript SDK takes
ID_LIMIT = 1024  # bytes of an id: it comes back in our answers
IMPLIED = 1000  # resources and tasks one subscription may name
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"  # in params._meta

# Which parameter names what a method acts on.
NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/result": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
NEED_NAMES = frozenset({*NAMED_BY, "completion/complete"})
MESSAGE = Words("jsonrpc", "id", "method", "params", "result", "error")
PARAMS = Words("name", "uri", "taskId", "ref", "arguments", "_meta", "notifications")
REF = Words("type", "name", "uri")  # of completion/complete
FILTER = Words("resourceSubscriptions", "taskIds")  # of subscriptions/listen: params.notifications
META = Words(VERSION_KEY)
NO_WORDS = Words()
NOTHING = Raw(b"")
ID_BEGINS = b'"-0123456789n'  # a text, a number, null


class Call(Struct, gc=False):
    """One message of a client. Without a method it is the client's answer to a request of the server."""

    id: bytes  # raw JSON, exactly as it came: b'0', b'"x"'; b"" (or b"null") is a notification
    method: str
    name: str | None = None  # of the tool or prompt, URI of the resource, id of the task
    raw_arguments: Raw = NOTHING
    raw_meta: Raw = NOTHING
    implied: bool = False  # no message of its own: what a subscription stands for

    @property
    def response(self) -> bool:
        """It answers the server."""
        return self.method == ""

    @property
    def notification(self) -> bool:
        """Nobody waits for an answer."""
        return self.method != "" and (self.id == b"" or self.id == b"null")

    def arguments(self, words: Words) -> Mapping[str, object]:
        """Those arguments that `words` name, decoded. Raises CallError where two parsers may read them differently, or a number is too large."""
        found = _table(self.raw_arguments, words, self.id)
        try:
            return {word: value(found[word]) for word in words.plain if word in found}
        except CallError:
            raise CallError("bad-call", INVALID_PARAMS, self.id) from None

    def argument_names(self) -> tuple[str, ...]:
        """The names of all arguments, for the audit log."""
        return tuple(_table(self.raw_arguments, NO_WORDS, self.id))

    def version(self) -> str | None:
        """The revision that `_meta` names (2026-07-28 and later)."""
        if not self.raw_meta:
            return None
        meta = bytes(self.raw_meta)
        if b"\\" not in meta and meta.isascii():  # so every key is written plainly
            times = meta.lower().count(b"io.modelcontextprotocol/protocolversion")
            if times == 0:
                return None
            if times == 1 and (version := _plain_version(meta)) is not None:
                return version
        raw = _table(self.raw_meta, META, self.id).get(VERSION_KEY)
        return None if raw is None else _text(raw, self.id)


class _Meta(Struct, gc=False):
    version: str | None = field(default=None, name=VERSION_KEY)


def _plain_version(meta: bytes) -> str | None:
    try:
        return _version(meta).version
    except msgspec.DecodeError:
        return None


class _Params(Struct, gc=False):
    name: str | None = None
    uri: str | None = None
    arguments: Raw = NOTHING
    meta: Raw = field(default=NOTHING, name="_meta")


class _Message(Struct, gc=False):
    jsonrpc: str = ""
    id: Raw = NOTHING
    method: str = ""
    params: _Params | None = None


# A list that ends at once where it is too long.
_Batch = msgspec.defstruct(
    "_Batch", [(f"call{number}", Raw, NOTHING) for number in range(BATCH)], array_like=True, forbid_unknown_fields=True, gc=False
)
_message = msgspec.json.Decoder(_Message, strict=True).decode
_batch = msgspec.json.Decoder(_Batch, strict=True).decode
_version = msgspec.json.Decoder(_Meta, strict=True).decode
_texts = msgspec.json.Decoder(list[str], strict=True).decode


def calls_of(body: bytes) -> tuple[Call, ...]:
    """The calls of a body, in its order. Raises CallError (400): no JSON, no JSON-RPC, or two ways to read it."""
    if not body.isascii():
        check_utf8(body)
    if (call := _short(body)) is not None:
        return (call,)
    try:
        compact = msgspec.json.format(body, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        raise not_json() from None
    if len(compact) != len(body) and (call := _short(compact)) is not None:
        return (call,)
    if compact[:1] != b"[":
        return tuple(_calls(compact))
    return _several(compact)


def ids_of(calls: tuple[Call, ...]) -> bytes | tuple[bytes, ...]:
    """What an error that answers all of them must carry: the id of the one, or those of the batch that wait for an answer."""
    messages = [call for call in calls if not call.implied]
    if len(messages) == 1:
        return messages[0].id
    return tuple([call.id for call in messages if not call.notification and not call.response])


def _short(body: bytes) -> Call | None:
    """The one call of a body that is exactly of the ordinary shape; else None."""
    try:
        message = _message(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    params = message.params
    method = message.method
    name = None
    arguments = meta = NOTHING
    size = 29 + len(method)  # {"jsonrpc":"2.0","method":""}
    if id_size := len(message.id):
        size += 6 + id_size  # "id":,
    if params is not None:
        size += 12  # ,"params":{}
        many = 0
        if params.name is not None:
            size += 10 + len(params.name)  # "name":"",
            many = 1
        if params.uri is not None:
            size += 9 + len(params.uri)
            many = 1
        arguments = params.arguments
        if arguments:
            size += 13 + len(arguments)
            many = 1
        meta = params.meta
        if meta:
            size += 9 + len(meta)
            many = 1
        size -= many  # the last one has no comma
        by = NAMED_BY.get(method)
        if by == "name":
            name = params.name
        elif by == "uri":
            name = params.uri
    if size != len(body) or not method or message.jsonrpc != "2.0" or (name is None and method in NEED_NAMES):
        return None
    return Call(_id(message.id), method, name, arguments, meta)


def _several(body: bytes) -> tuple[Call, ...]:
    """The calls of a batch."""
    try:
        batch = _batch(body)
    except msgspec.ValidationError:
        raise CallError("batch-too-large", INVALID_REQUEST) from None
    except (msgspec.DecodeError, RecursionError):
        raise not_json() from None
    messages = [raw for raw in msgspec.structs.astuple(batch) if raw]
    if not messages:
        raise CallError("bad-call", INVALID_REQUEST)
    return tuple([call for raw in messages for call in _calls(raw)])


def _calls(raw: bytes | Raw) -> Iterator[Call]:
    """The call of one message, and those it stands for."""
    found = members(raw, MESSAGE)
    id = _id(found.get("id", NOTHING))
    if bytes(found.get("jsonrpc", NOTHING)) != b'"2.0"':
        raise CallError("bad-call", INVALID_REQUEST, id)
    answers = "result" in found or "error" in found
    if "method" not in found:
        if not answers:
            raise CallError("bad-call", INVALID_REQUEST, id)
        yield Call(id, "")
        return
    method = _text(found["method"], id, INVALID_REQUEST)
    if answers:
        raise CallError("ambiguous-call", INVALID_REQUEST, id)
    if not method:
        raise CallError("bad-call", INVALID_REQUEST, id)
    params = _table(found.get("params", NOTHING), PARAMS, id)
    name = None
    if by := NAMED_BY.get(method):
        name = _text(params.get(by, NOTHING), id)
    elif method == "completion/complete":
        name = _reference(params.get("ref", NOTHING), id)
    yield Call(id, method, name, params.get("arguments", NOTHING), params.get("_meta", NOTHING))
    if method == "subscriptions/listen":
        chosen = _table(params.get("notifications", NOTHING), FILTER, id)
        for key, implied in ("resourceSubscriptions", "resources/subscribe"), ("taskIds", "tasks/get"):
            for each in _list(chosen.get(key, NOTHING), id):
                yield Call(id, implied, each, implied=True)


def _id(raw: Raw) -> bytes:
    """An id as it came. Bounded: it comes back in our answers."""
    id = bytes(raw)
    if id and (len(id) > ID_LIMIT or id[0] not in ID_BEGINS):
        raise CallError("bad-call", INVALID_REQUEST)
    return id


def _table(raw: Raw, words: Words, id: bytes) -> Mapping[str, Raw]:
    """The members of an object that may be missing."""
    if not raw or bytes(raw) == b"null":
        return {}
    return members(raw, words, id)


def _text(raw: Raw, id: bytes, code: int = INVALID_PARAMS) -> str:
    """A text that must be there."""
    if raw and isinstance(text := value(raw), str):
        return text
    raise CallError("bad-call", code, id)


def _list(raw: Raw, id: bytes) -> list[str]:
    """A list of texts that may be missing."""
    if not raw or bytes(raw) == b"null":
        return []
    try:
        texts = _texts(raw)
    except (msgspec.DecodeError, RecursionError):
        texts = None
    if texts is None or len(texts) > IMPLIED:
        raise CallError("bad-call", INVALID_PARAMS, id)
    return texts


def _reference(raw: Raw, id: bytes) -> str:
    """The prompt or resource template that a completion is about."""
    found = _table(raw, REF, id)
    key = {b'"ref/prompt"': "name", b'"ref/resource"': "uri"}.get(bytes(found.get("type", NOTHING)))
    if key is None or ("name" in found and "uri" in found):
        raise CallError("bad-call", INVALID_PARAMS, id)
    return _text(found.get(key, NOTHING), id)
