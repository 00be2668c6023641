"""What a request's head says about the call in its body (MCP 2026-07-28, basic/transports/streamable-http), and whether that is true.

`Mcp-Method` and `Mcp-Name` mirror `method` and what it acts on, `MCP-Protocol-Version` the revision in `_meta`. The head half is read once per distinct
head (`read`), the comparison is made per body (`check`). A head of an older revision has no mirror: what it says in these fields is not looked at, for
nobody checked it (MCP.md §9.2), and the body alone decides.

A field that is there twice, that cannot be decoded, or that contradicts the body is answered 400 and -32020. One that is missing contradicts nothing:
the server refuses it. A body that is not plain UTF-8 (another charset, a content coding) cannot be judged: 415.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from mcpproxy.mcp.call import NAMED_BY, Call
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH, INVALID_REQUEST, CallError

MODERN = b"2026-07-28"  # the first revision whose fields mirror the body
VERSION, METHOD, NAME = b"mcp-protocol-version", b"mcp-method", b"mcp-name"
MARK, END = b"=?base64?", b"?="  # around values that are not visible ASCII; lower case
UTF_8 = frozenset({b"charset=utf-8", b'charset="utf-8"', b"charset=utf8", b'charset="utf8"'})
BODY_NAMED = frozenset({"completion/complete", "subscriptions/listen"})  # what they act on is in the body alone
is_revision = re.compile(rb"\d{4}-\d{2}-\d{2}").fullmatch
is_plain = re.compile(rb"[\t -~]*").fullmatch


@dataclass(frozen=True, slots=True)
class Mirror:
    """The head half. All None on requests of older revisions, but for the version."""

    modern: bool
    version: str | None
    method: str | None = None
    name: str | None = None

    @property
    def call(self) -> Call | None:
        """The call, as far as the head alone names it. None: the body must be looked at. It has no id and no arguments."""
        if not self.modern or self.method is None or self.method in BODY_NAMED or (self.name is None and self.method in NAMED_BY):
            return None
        return Call(b"", self.method, self.name if self.method in NAMED_BY else None)

    def check(self, calls: tuple[Call, ...]) -> None:
        """Does the body say the same? Raises CallError with the id of the call."""
        call = calls[0]
        if self.modern:
            if len(calls) > 1 and not calls[1].implied:
                raise CallError("bad-call", INVALID_REQUEST)  # batches ended with 2025-03-26
            if self.method is not None and self.method != call.method:
                raise CallError("header-mismatch", HEADER_MISMATCH, call.id)
            if self.name is not None and self.name != call.name and call.method in NAMED_BY:
                raise CallError("header-mismatch", HEADER_MISMATCH, call.id)
        if self.version is not None:
            for each in calls:
                if each.raw_meta and each.version() not in (None, self.version):
                    raise CallError("header-mismatch", HEADER_MISMATCH, each.id)


def read(fields: Iterable[tuple[bytes, bytes, bytes]]) -> Mirror:
    """The mirror in the fields of a head (name, name in lower case, value). Raises CallError 400 or 415."""
    found: dict[bytes, bytes] = {}
    for _, name, value in fields:
        if name in (VERSION, METHOD, NAME):
            if name in found:
                raise CallError("header-mismatch", HEADER_MISMATCH)
            found[name] = value
        elif (name == b"content-type" and not _is_utf8(value)) or (
            name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
        ):
            raise CallError("unreadable-body", INVALID_REQUEST, status=415)
    version = found.get(VERSION)
    modern = version is not None and is_revision(version) is not None and version >= MODERN
    named = None if version is None else version.decode("latin-1")
    if not modern:
        return Mirror(False, named)
    return Mirror(True, named, _plain(found.get(METHOD)), decoded(found.get(NAME)))


def _is_utf8(content_type: bytes) -> bool:
    """Some servers decode bodies as their charset says, and in UTF-7 `+AG4-ame` is a key `name` that nobody sees here."""
    return all(b"charset" not in part or part.strip() in UTF_8 for part in content_type.lower().split(b";"))


def _plain(value: bytes | None) -> str | None:
    if value is None:
        return None
    if not is_plain(value):
        raise CallError("header-mismatch", HEADER_MISMATCH)
    return value.decode()


def decoded(value: bytes | None) -> str | None:
    """A name, out of its wrapping. A marker in another case, or without its end, is a name."""
    if value is None or not (value.startswith(MARK) and value.endswith(END) and len(value) >= len(MARK) + len(END)):
        return _plain(value)
    wrapped = value[len(MARK) : -len(END)]
    try:
        raw = b64decode(wrapped, validate=True)
        if b64encode(raw) != wrapped:
            raise ValueError
        return raw.decode()
    except ValueError:
        raise CallError("header-mismatch", HEADER_MISMATCH) from None
