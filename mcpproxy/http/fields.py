"""What do we know about a field by its name? One table; everything else in this room reads it.

A row says where the field ends or is refused:
    q  dropped in requests (not forwarded as the client sent it)
    s  dropped in responses
    t  refused in trailers: whoever merges trailers into the head would be steered by bytes nobody judged (RFC 9110 §6.5.1)
Fields without a row pass as they are, in their order and case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

Field = tuple[bytes, bytes, bytes]  # name as sent, name in lower case, value

TOKEN = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"  # for character classes (RFC 9110 §5.6.2)
TEXT = rb"\t -~\x80-\xff"  # what may stand in a value (RFC 9110 §5.5; obs-text is opaque, but allowed)
is_token = re.compile(rb"[%b]+" % TOKEN).fullmatch


class Row(NamedTuple):
    """One field and what becomes of it."""

    name: bytes
    flags: str
    why: str


TABLE = (
    Row(b"connection", "qst", "hop by hop: it talks about this connection (RFC 9110 §7.6.1)"),
    Row(b"keep-alive", "qst", "hop by hop"),
    Row(b"proxy-connection", "qst", "hop by hop, never standardised"),
    Row(b"te", "qst", "hop by hop; we splice trailers, but promise nobody that they arrive"),
    Row(b"upgrade", "qst", "hop by hop; written anew for a websocket handshake"),
    Row(b"http2-settings", "qst", "belongs to an upgrade to h2c, which we do not offer"),
    Row(b"transfer-encoding", "t", "framing: rendered from what was understood"),
    Row(b"content-length", "t", "framing: rendered from what was understood"),
    Row(b"trailer", "t", "names fields of the trailer section; makes no sense inside it"),
    Row(b"host", "t", "routing: rendered from the upstream's policy"),
    Row(b"forwarded", "qt", "a claim about who asks; only a proxy we trust could make it"),
    Row(b"x-real-ip", "qt", "a claim about who asks; the edge appends the truth"),
    Row(b"x-request-id", "qt", "the edge appends it, the client's own or ours"),
    Row(b"mcpproxy-call", "qt", "what the edge says to the gateway process, and nobody else"),
    Row(b"mcpproxy-member", "st", "what the gateway process says to the edge, for its log"),
    Row(b"x-original-url", "qt", "some frameworks route by it, past the route that was judged here"),
    Row(b"x-rewrite-url", "qt", "as x-original-url"),
    Row(b"proxy-authenticate", "st", "asks for credentials for a proxy: we are the proxy (RFC 9110 §11.7.1)"),
    Row(b"proxy-authentication-info", "st", "as proxy-authenticate"),
    Row(b"authorization", "t", "authentication"),
    Row(b"x-api-key", "t", "authentication"),
    Row(b"x-mcp-identity", "t", "authentication: who calls, as we say it"),
    Row(b"www-authenticate", "t", "authentication"),
    Row(b"authentication-info", "t", "authentication"),
    Row(b"cookie", "t", "authentication"),
    Row(b"set-cookie", "t", "authentication"),
    Row(b"origin", "t", "authentication: who may call from a browser"),
    Row(b"expect", "t", "request modifier"),
    Row(b"max-forwards", "t", "request modifier"),
    Row(b"range", "t", "request modifier"),
    Row(b"cache-control", "t", "response control"),
    Row(b"location", "t", "response control"),
    Row(b"retry-after", "t", "response control"),
    Row(b"vary", "t", "response control"),
    Row(b"content-encoding", "t", "decides how the payload is read"),
    Row(b"content-type", "t", "decides how the payload is read"),
    Row(b"content-range", "t", "decides how the payload is read"),
    Row(b"last-event-id", "t", "decides which events are sent"),
)
# Whole families, by how the name begins.
FAMILIES = (
    Row(b"proxy", "qt", "meant for a proxy; `Proxy:` becomes HTTP_PROXY in CGI-like servers (CVE-2016-5385)"),
    Row(b"x-forwarded-", "qt", "claims about who asks and how; only a proxy we trust could make them"),
    Row(b"if-", "t", "request modifiers"),
    Row(b"mcp-", "t", "names the call, the session, the version: rules act on them"),
)


def _names(flag: str) -> frozenset[bytes]:
    return frozenset(row.name for row in TABLE if flag in row.flags)


def _families(flag: str) -> tuple[bytes, ...]:
    return tuple(row.name for row in FAMILIES if flag in row.flags)


ENDS_IN_REQUEST, ENDS_IN_RESPONSE, REFUSED_IN_TRAILERS = _names("q"), _names("s"), _names("t")
FAMILIES_THAT_END_IN_REQUEST, FAMILIES_REFUSED_IN_TRAILERS = _families("q"), _families("t")
KEPT_WHATEVER_CONNECTION_SAYS = frozenset(
    {b"content-length", b"transfer-encoding", b"host", b"mcp-protocol-version", b"mcp-method", b"mcp-name"}
)  # no peer can make us forget where a message ends, nor keep from the server by which words we judged its call


def options(fields: Iterable[Field]) -> frozenset[bytes]:
    """The options of all Connection fields, in lower case: `close`, `keep-alive`, `upgrade`, and names of fields that end here."""
    found = [value for _, lower, value in fields if lower == b"connection"]
    if not found:
        return frozenset()
    return frozenset(option.strip(b" \t") for option in b",".join(found).lower().split(b","))


def may_be_trailer(lower: bytes) -> bool:
    """May a field of this name (in lower case) come after the body?"""
    return lower not in REFUSED_IN_TRAILERS and not lower.startswith(FAMILIES_REFUSED_IN_TRAILERS)
