"""The head for the next hop, built from judged parts (never spliced): RFC 9110 §7.6, RFC 9112 §9.

Order and case of the end-to-end fields stay as they were. Hop-by-hop fields are written anew; everything else a client could use to speak in our
name towards the server is dropped (http/fields has the table and the reasons).
"""

from __future__ import annotations

from mcpproxy.http.fields import DROP_IN_REQUEST, DROP_IN_RESPONSE, DROP_PREFIXES_IN_REQUEST
from mcpproxy.http.framing import CHUNKED, LENGTH
from mcpproxy.http.head import RequestHead, ResponseHead


def render_request(head: RequestHead, *, target: bytes, host: bytes, proto: bytes, upgrade: bool) -> bytes:
    """The upstream's request head, without the empty line: the edge adds what belongs to the connection and the exchange."""
    nominated = head.nominated
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, host)]
    for raw, name, value in head.fields:
        if name in DROP_IN_REQUEST or name in nominated or b"_" in name or name.startswith(DROP_PREFIXES_IN_REQUEST):
            if name == b"content-length" and head.framing == LENGTH:
                lines.append(b"%b: %d\r\n" % (raw, head.length))
            elif name == b"transfer-encoding" and head.framing == CHUNKED:
                lines.append(b"%b: chunked\r\n" % raw)
            continue
        if name == b"expect" and not head.expect_continue:  # HTTP/1.0: means nothing there
            continue
        lines.append(b"%b: %b\r\n" % (raw, value))
    if upgrade and head.upgrade is not None:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    lines.append(b"X-Forwarded-Proto: %b\r\n" % proto)
    if head.authority:
        lines.append(b"X-Forwarded-Host: %b\r\n" % head.authority)
    return b"".join(lines)


def render_response(head: ResponseHead, *, close: bool, client_version: int, dechunk: bool) -> bytes:
    """The client's response head, whole. `close`: its connection ends with this response; `dechunk`: it does not know chunks."""
    nominated = head.nominated
    status = head.status
    bodiless = status < 200 or status in (204, 304)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, head.reason)]
    for raw, name, value in head.fields:
        if name in DROP_IN_RESPONSE or name in nominated:
            if name == b"transfer-encoding" and not dechunk and not bodiless and client_version == 11:
                lines.append(b"%b: chunked\r\n" % raw)
            continue
        if name == b"content-length":
            if status < 200 or status == 204:  # RFC 9110 §8.6: must not be there
                continue
            if head.framing == LENGTH:
                value = b"%d" % head.length
        lines.append(b"%b: %b\r\n" % (raw, value))
    if status == 101 and head.upgrade is not None:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % head.upgrade)
    elif status >= 200:
        if close:
            lines.append(b"Connection: close\r\n")
        elif client_version == 10:
            lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
