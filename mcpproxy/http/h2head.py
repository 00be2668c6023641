"""What does a list of HTTP/2 fields say, as an HTTP/1.1 head, and back.

`request` makes the one canonical head of a request or raises Malformed: pseudo-fields once, first and known; method a token; the path a path; the
authority a host and the same as Host; names tokens in lower case; values without controls and edge blanks; nothing that talks about a connection;
at most one Content-Length (RFC 9113 §8.2, §8.3). After it no byte of a name or value can be taken for framing by anybody who reads the head.
Sizes and what the method or path mean are judged by http/head, as for HTTP/1.1. A websocket handshake (RFC 8441) becomes one of HTTP/1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from mcpproxy.http import target as targets
from mcpproxy.http.blocks import Fields
from mcpproxy.http.fields import TEXT, is_token, may_be_trailer
from mcpproxy.http.framing import TRAILER_LIMIT, TRAILER_LINES
from mcpproxy.http.head import METHOD_LIMIT, is_length
from mcpproxy.http.upgrade import KEY

CHUNKED = b"transfer-encoding: chunked\r\n"  # how a body of unknown length goes on
OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})  # RFC 9113 §8.2.2
HANDSHAKE = b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: %b\r\n" % KEY  # what the next hop must be asked (RFC 8441 §5)
KEYS = (b"sec-websocket-key:", b"sec-websocket-accept:")  # not used over HTTP/2
PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
SCHEMES = frozenset({b"http", b"https"})

_is_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_is_value = re.compile(rb"(?:[!-~\x80-\xff](?:[%b]*[!-~\x80-\xff])?)?" % TEXT).fullmatch  # no blanks at its edges
_is_path = re.compile(rb"/[!-~]*").fullmatch


class Malformed(Exception):
    """Fields that are no request: a stream error (RFC 9113 §8.1.1)."""


class Request:
    """What was asked."""

    __slots__ = ("head", "length", "may_end", "repeat", "whole")

    def __init__(self, head: bytes, length: int | None, tunnel: bool) -> None:
        self.whole = head + b"\r\n"  # the head when the stream ends with it
        self.head = self.whole if length is not None or tunnel else b"%b%b\r\n" % (head, CHUNKED)  # the head when a body may follow
        self.length = -1 if length is None else length
        self.may_end = not length and not tunnel  # the stream may end with the head
        self.repeat: Any = None  # the lane's: how the next whole call with this head is recognised


def request(fields: Fields) -> Request:
    """Read the fields of a request. Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    length: int | None = None
    host: bytes | None = None
    lines: list[bytes] = []
    cookies: list[bytes] = []
    cookie_at = 0
    for name, value in fields:
        if name[:1] == b":":
            if lines or host is not None or name not in PSEUDO or name in pseudo:
                raise Malformed
            pseudo[name] = value
            continue
        _judge(name, value)
        if name == b"host":
            if host is not None:
                raise Malformed
            host = value
            continue
        if name == b"cookie":  # RFC 9113 §8.2.3
            if not cookies:
                cookie_at = len(lines)
                lines.append(b"")
            cookies.append(value)
            continue
        if name in OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
            raise Malformed
        if name == b"content-length":
            if length is not None or not is_length(value):
                raise Malformed
            length = int(value)
        lines.append(b"%b: %b\r\n" % (name, value))
    if cookies:
        lines[cookie_at] = b"cookie: %b\r\n" % b"; ".join(cookies)
    start = _start(pseudo, host)
    tunnel = b":protocol" in pseudo
    if tunnel:
        if length is not None:
            raise Malformed
        lines = [line for line in lines if not line.startswith(KEYS)] + [HANDSHAKE]
    return Request(b"%b%b" % (start, b"".join(lines)), length, tunnel)


def _judge(name: bytes, value: bytes) -> None:
    """RFC 9113 §8.2.1, and RFC 9110 §5.5 where it is stricter."""
    if not _is_name(name) or not _is_value(value):
        raise Malformed


def _start(pseudo: dict[bytes, bytes], host: bytes | None) -> bytes:
    """RFC 9113 §8.3.1: request line and Host."""
    method = pseudo.get(b":method", b"")
    if not is_token(method) or len(method) > METHOD_LIMIT:
        raise Malformed
    authority = pseudo.get(b":authority", host)
    if authority is None or not targets.is_authority(authority) or (host is not None and host.lower() != authority.lower()):
        raise Malformed
    if b":protocol" in pseudo:  # RFC 8441 §4
        if method != b"CONNECT" or b":authority" not in pseudo or pseudo[b":protocol"].lower() != b"websocket":
            raise Malformed
        method = b"GET"
    if method == b"CONNECT":  # §8.5; it is a request, so it gets an answer: that we do not
        if b":path" in pseudo or b":scheme" in pseudo or b":authority" not in pseudo:
            raise Malformed
        return b"CONNECT %b HTTP/2.0\r\nhost: %b\r\n" % (authority, authority)
    path = pseudo.get(b":path", b"")
    if pseudo.get(b":scheme") not in SCHEMES or not (_is_path(path) or (path == b"*" and method == b"OPTIONS")):
        raise Malformed
    return b"%b %b HTTP/2.0\r\nhost: %b\r\n" % (method, path, authority)


def trailers(fields: Fields) -> Fields:
    """Read the fields after a request's body, by the rules of http/framing. Raises Malformed."""
    size = 0
    for name, value in fields:
        _judge(name, value)
        size += len(name) + len(value) + 4
        if not may_be_trailer(name) or b"_" in name:
            raise Malformed
    if size > TRAILER_LIMIT or len(fields) > TRAILER_LINES:
        raise Malformed
    return fields


def response(head: bytes) -> Fields:
    """The fields of a response head that was rendered for HTTP/1.1."""
    start, *lines = head.split(b"\r\n")
    fields = [(b":status", start[9:12])]
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if colon and name not in OF_CONNECTIONS:
            fields.append((name, value.strip(b" \t")))
    return fields


def response_trailers(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields after a response's body, as HTTP/2 has them."""
    lower = [(name.lower(), value) for name, value in fields]
    return [field for field in lower if field[0] not in OF_CONNECTIONS]
