"""The head for the next hop, rendered from parsed parts; no byte of it is taken over unread.

Kept: order and case of all fields that go on. Gone: what http/fields says ends here, what Connection names, and in requests every name with an
underscore (CGI-like servers cannot tell it from one with a dash). Written anew: the start line, Host, the framing, Connection.

A response head in which nothing had to change is rendered to the very bytes that came (the edge then passes them on as they are).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mcpproxy.http.fields import (
    ENDS_IN_REQUEST,
    ENDS_IN_RESPONSE,
    FAMILIES_THAT_END_IN_REQUEST,
    KEPT_WHATEVER_CONNECTION_SAYS,
)
from mcpproxy.http.head import RequestHead, ResponseHead

NOTHING: frozenset[bytes] = frozenset()


class Dress(NamedTuple):
    """What is changed in response heads, beside what HTTP asks for."""

    put: tuple[tuple[bytes, bytes], ...] = ()  # fields we say; the server's own of these names go (but Vary: both are true)
    add: tuple[tuple[bytes, bytes], ...] = ()  # fields we say unless the server does
    drop: frozenset[bytes] = NOTHING  # lower-case names of fields that end here
    challenge: Callable[[bytes], bytes] | None = None  # rewrites the value of WWW-Authenticate
    gateway: bool = False  # it is the gateway process that answers, and says which member did (`Mcpproxy-Member`)
    opens: bool = False  # the answer may open a session (edge/affinity): its id stays in a 2xx, and only there

    def fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """For an answer of our own."""
        return self.put + self.add


def render_request(
    head: RequestHead,
    *,
    target: bytes,
    host: bytes,
    proto: bytes,
    upgrade: bool,
    drop: frozenset[bytes] = NOTHING,
    lines: bytes = b"",
    told_host: bytes = b"",
) -> bytes:
    """The request head for the upstream, up to and not including the fields that differ per connection and the final empty line.

    `drop`: lower-case names of fields that end here (credentials, claims of identity); `lines`: whole field lines of our own; `told_host`: what a proxy
    before us said the client's Host was.
    """
    gone = ENDS_IN_REQUEST | head.options | drop if head.options or drop else ENDS_IN_REQUEST
    out = [b"%b %b HTTP/1.1\r\n" % (head.method, target)]
    for name, lower, value in head.fields:
        if lower == b"host":
            value = host
        elif lower == b"content-length":
            value = b"%d" % head.length
        elif lower == b"transfer-encoding":
            value = b"chunked"
        elif lower == b"expect":
            if not head.expect_continue:
                continue  # HTTP/1.0, or no body to wait with (RFC 9110 §10.1.1)
        elif lower in gone or b"_" in lower or lower.startswith(FAMILIES_THAT_END_IN_REQUEST):
            continue
        out.append(b"%b: %b\r\n" % (name, value))
    if upgrade and head.upgrade is not None:
        out.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    out.append(b"X-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\n" % (proto, told_host or head.authority))
    out.append(lines)
    return b"".join(out)


def render_response(head: ResponseHead, *, close: bool, client_version: int, dechunk: bool, dress: Dress | None = None) -> bytes:
    """The whole response head for the client. `close`: its connection ends with this response; `dechunk`: it gets the payload without chunks."""
    gone = (ENDS_IN_RESPONSE | head.options) - KEPT_WHATEVER_CONNECTION_SAYS
    if dress is not None:
        gone |= dress.drop.union(name.lower() for name, _ in dress.put) - KEPT_WHATEVER_CONNECTION_SAYS - {b"vary"}
    if head.status < 200 or head.status == 204:
        gone |= {b"content-length", b"transfer-encoding"}  # RFC 9110 §8.6, RFC 9112 §6.1: MUST NOT be there
    if dechunk or client_version != 11:
        gone |= {b"transfer-encoding"} if client_version == 20 else {b"transfer-encoding", b"trailer"}
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    for name, lower, value in head.fields:
        if lower in gone:
            continue
        if lower == b"content-length":
            value = value.lstrip(b"0") or b"0"
        elif lower == b"transfer-encoding":
            value = b"chunked"
        elif lower == b"www-authenticate" and dress is not None and dress.challenge is not None:
            value = dress.challenge(value)
        lines.append(b"%b: %b\r\n" % (name, value))
    if dress is not None and head.status >= 200:
        lines += [b"%b: %b\r\n" % field for field in dress.put]
        lines += [b"%b: %b\r\n" % field for field in dress.add if field[0].lower() in gone or head.first(field[0].lower()) is None]
    if head.status == 101:
        if head.upgrade is not None:
            lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    elif head.status >= 200:
        if close:
            lines.append(b"Connection: close\r\n")
        elif client_version == 10:
            lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
