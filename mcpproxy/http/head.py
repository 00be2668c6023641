"""What does this head say, and may it be believed?

h11 parses; this file refuses what h11 lets through (docs/security.md) and works out what the exchange needs: the target, the host, how the body
ends, whether the connection goes on.

 1. Sizes and counts are judged before anything is parsed.
 2. A head is judged as bytes first: one pass finds bare CR or LF, NUL and other control characters, and folded lines.
 3. What is ambiguous is refused, not repaired: two lengths, length with chunks, two hosts, a target that another parser might read differently.
 4. `head` always ends with the empty line; it is the whole head and nothing behind it.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import h11

from mcpproxy.errors import ProxyError, Side
from mcpproxy.http.fields import NEVER_NOMINATED, TOKEN, VALUE, options
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE
from mcpproxy.http.upgrade import asked_for, granted

Field = tuple[bytes, bytes, bytes]  # name as sent, name in lower case, value

UNCLEAN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n)|\r\n[ \t]")  # RFC 9112 §2.2, §5.2; RFC 9110 §5.5
UNCLEAN_START = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])|\r\n[ \t]")  # as UNCLEAN, but the end may still come
LENGTH_LINE = re.compile(rb"\r\ncontent-length:[ \t]*[0-9]{1,18}[ \t]*\r\n")
VERSION = re.compile(rb"HTTP/([0-9])\.([0-9])")
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,253})(?::([0-9]{1,5}))?")
TARGET = re.compile(rb"/[!-~]*")
ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})|%00|%0[aAdD]")
DOT_SEGMENT = re.compile(rb"/(?:\.|%2[eE]){1,2}(?=/|$|;)")
KEEP_ALIVE_TIMEOUT = re.compile(rb"(?:^|[,; ])timeout=([0-9]{1,6})(?=$|[,; ])", re.IGNORECASE)
METHOD_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}(?: |$)")
REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})  # the one makes a forward proxy of us, the other an echo of credentials
LONGEST_METHOD = 32  # bytes; the longest registered one has 17
RESPONSE_FIELDS = 200  # a server is not a stranger, but is not trusted with memory either
ASKED = h11.Request(method="GET", target="/", headers=[("host", "x"), ("connection", "upgrade"), ("upgrade", "x")])


class HeadError(ProxyError):
    """A head that must be refused. From a server (`side` UPSTREAM) the status is always 502."""

    def __init__(self, status: int, kind: str, side: Side = Side.DOWNSTREAM) -> None:
        super().__init__(kind, side, status)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """The bounds of a request head: bytes of all, bytes of the target, number of fields."""

    head: int = 32 * 1024
    target: int = 8 * 1024
    fields: int = 100


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request head that was judged."""

    method: bytes
    target: bytes  # origin-form (or `*`), as it is to be sent on
    path: bytes  # the target before `?`, as received
    host: bytes  # lower case, without port and final dot; b"" for an HTTP/1.0 client that sent none
    authority: bytes  # Host as sent
    version: int  # 10 or 11
    fields: tuple[Field, ...]
    framing: int  # NO_BODY, LENGTH, CHUNKED
    length: int
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes | None  # b"websocket" when correctly asked for
    nominated: frozenset[bytes]  # names in Connection

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field (name in lower case)."""
        return _first(self.fields, name)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response head that was judged."""

    status: int
    reason: bytes
    version: int
    fields: tuple[Field, ...]
    framing: int  # NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE
    length: int
    keep_alive: bool
    keep_alive_timeout: int | None  # seconds
    upgrade: bytes | None
    nominated: frozenset[bytes]

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field (name in lower case)."""
        return _first(self.fields, name)


def _first(fields: tuple[Field, ...], name: bytes) -> bytes | None:
    for _, lower, value in fields:
        if lower == name:
            return value
    return None


# -- requests ----------------------------------------------------------------------------------------------------------------------------------


def parse_request(head: bytes, limits: HeadLimits) -> RequestHead:
    """Judge a whole request head. Raises HeadError."""
    line_end = head.index(b"\r\n")
    _sizes(head, line_end, limits)
    if UNCLEAN.search(head) is not None:
        raise HeadError(400, "bad-character")
    version = _request_line(head[:line_end])
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        parser.receive_data(head)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise HeadError(400, _kind(error)) from None
    if not isinstance(event, h11.Request):
        raise HeadError(400, "bad-head")
    fields = _fields(event)
    authority = _authority(fields, version)
    connection = _connection(fields, Side.DOWNSTREAM)
    framing, length = _request_framing(head, fields, version)
    target = _target(event.method, event.target, authority)
    return RequestHead(
        method=event.method,
        target=target,
        path=target.partition(b"?")[0],
        host=_host(authority),
        authority=authority,
        version=version,
        fields=fields,
        framing=framing,
        length=length,
        keep_alive=b"close" not in connection if version == 11 else b"keep-alive" in connection and b"close" not in connection,
        expect_continue=_expects(fields, version),
        upgrade=asked_for(event.method, version, framing == NO_BODY, connection, fields),
        nominated=connection,
    )


def bad_start(data: bytes, limits: HeadLimits | None = None, *, response: bool = False) -> HeadError | None:
    """Judge a head that has not all arrived: is it already clear that it will be refused? So garbage is answered at once, not at a deadline."""
    if response:
        if UNCLEAN_START.search(data) is not None or not data.startswith(b"HTTP/1."[: len(data)]):
            return HeadError(502, "bad-response-head", Side.UPSTREAM)
        return None
    limits = limits or HeadLimits()
    if data[:2] in (b"\x16\x03", b"\x16") and data[:1] == b"\x16":
        return HeadError(400, "tls-on-plain-port")
    line_end = data.find(b"\r\n")
    try:
        _sizes(data, line_end if line_end >= 0 else len(data), limits)
        if UNCLEAN_START.search(data) is not None:
            raise HeadError(400, "bad-character")
        if data and METHOD_START.match(data) is None:
            raise HeadError(400, "bad-request-line")
        if line_end >= 0:
            _request_line(data[:line_end])
    except HeadError as error:
        return error
    return None


def _sizes(head: bytes, line_end: int, limits: HeadLimits) -> None:
    if line_end > limits.target + LONGEST_METHOD + len(b"  HTTP/1.1"):
        raise HeadError(414, "target-too-long")
    if len(head) > limits.head:
        raise HeadError(431, "head-too-large")
    if head.count(b"\r\n", line_end + 2) > limits.fields + 1:
        raise HeadError(431, "too-many-fields")


def _request_line(line: bytes) -> int:
    """RFC 9112 §3: method SP target SP version, single spaces."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise HeadError(400, "bad-request-line")
    method, target, version = parts
    if not target or len(method) > LONGEST_METHOD or TOKEN.fullmatch(method) is None:
        raise HeadError(400, "bad-request-line")
    found = VERSION.fullmatch(version)
    if found is None:
        raise HeadError(400, "bad-version")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise HeadError(400 if found.group(1) == b"0" else 505, "version-not-supported")
    if method in REFUSED_METHODS:
        raise HeadError(405, "method-not-allowed")
    return 11 if version == b"HTTP/1.1" else 10


def _fields(event: h11.Request | h11.Response | h11.InformationalResponse) -> tuple[Field, ...]:
    names = [name for name, _ in event.headers]
    return tuple((raw, name, value) for (raw, value), name in zip(event.headers.raw_items(), names, strict=True))


def _authority(fields: tuple[Field, ...], version: int) -> bytes:
    """RFC 9110 §7.2, RFC 9112 §3.2: exactly one Host (HTTP/1.0 may have none), and it is a host."""
    hosts = [value for _, name, value in fields if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == 11):
        raise HeadError(400, "bad-host")
    if not hosts:
        return b""
    found = HOST.fullmatch(hosts[0])
    if found is None or int(found.group(2) or 0) > 65535:
        raise HeadError(400, "bad-host")
    name = found.group(1)
    if name[:1] == b"[":
        try:
            ipaddress.IPv6Address(name[1:-1].decode())
        except ValueError:
            raise HeadError(400, "bad-host") from None
    return hosts[0]


def _host(authority: bytes) -> bytes:
    found = HOST.fullmatch(authority)
    return found.group(1).lower().removesuffix(b".") if found is not None else b""


def _target(method: bytes, target: bytes, authority: bytes) -> bytes:
    """RFC 9112 §3.2: origin-form, absolute-form of this very authority (reduced to origin-form), or `*` with OPTIONS."""
    if target == b"*":
        if method != b"OPTIONS":
            raise HeadError(400, "bad-target")
        return target
    if target[:1] != b"/":
        found = ABSOLUTE.fullmatch(target)
        if found is None or HOST.fullmatch(found.group(1)) is None:
            raise HeadError(400, "bad-target")
        if found.group(1).lower() != authority.lower():
            raise HeadError(400, "host-mismatch")
        rest = found.group(2) or b"/"
        target = rest if rest[:1] == b"/" else b"/" + rest
    if TARGET.fullmatch(target) is None or b"#" in target or b"\\" in target or BAD_PERCENT.search(target) is not None:
        raise HeadError(400, "bad-target")
    if DOT_SEGMENT.search(target.partition(b"?")[0]) is not None:
        raise HeadError(400, "dot-segment")
    return target


def _request_framing(head: bytes, fields: tuple[Field, ...], version: int) -> tuple[int, int]:
    """RFC 9112 §6.3, with everything ambiguous refused (§11.2)."""
    codings = [value for _, name, value in fields if name == b"transfer-encoding"]
    lower = head.lower()
    lengths = lower.count(b"\r\ncontent-length:")
    if codings or b"\r\ntransfer-encoding:" in lower:
        if lengths:
            raise HeadError(400, "length-and-chunked")
        if version == 10 or len(codings) != 1 or codings[0].lower() != b"chunked":
            raise HeadError(400, "bad-transfer-encoding")
        return CHUNKED, 0
    if not lengths:
        return NO_BODY, 0
    if lengths > 1 or LENGTH_LINE.search(lower) is None:
        raise HeadError(400, "bad-content-length")
    return LENGTH, int(_first(fields, b"content-length") or b"0")


def _connection(fields: tuple[Field, ...], side: Side) -> frozenset[bytes]:
    found = options([value for _, name, value in fields if name == b"connection"])
    for option in found:
        if TOKEN.fullmatch(option) is None or option in NEVER_NOMINATED:
            raise HeadError(400 if side is Side.DOWNSTREAM else 502, "bad-connection-field", side)
    return frozenset(found)


def _expects(fields: tuple[Field, ...], version: int) -> bool:
    """RFC 9110 §10.1.1."""
    expectations = [value.lower() for _, name, value in fields if name == b"expect"]
    if version == 10 or not expectations:
        return False
    if expectations != [b"100-continue"]:
        raise HeadError(417, "unknown-expectation")
    return True


def _kind(error: h11.RemoteProtocolError) -> str:
    text = str(error).lower()
    for word, kind in (("host", "bad-host"), ("content-length", "bad-content-length"), ("transfer-encoding", "bad-transfer-encoding")):
        if word in text:
            return kind
    return "bad-head"


# -- responses ---------------------------------------------------------------------------------------------------------------------------------


def parse_response(head: bytes, method: bytes) -> ResponseHead:
    """Judge a whole response head to a request with `method`. Raises HeadError(502)."""
    if head.count(b"\r\n") > RESPONSE_FIELDS + 2:
        raise HeadError(502, "too-many-response-fields", Side.UPSTREAM)
    if UNCLEAN.search(head) is not None or head[:7] != b"HTTP/1." or head[7:9] not in (b"0 ", b"1 ") or not head[9:12].isdigit():
        raise HeadError(502, "bad-response-head", Side.UPSTREAM)
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head) + 1)
    try:
        parser.send(ASKED)
        parser.receive_data(head)
        event = parser.next_event()
    except h11.ProtocolError:
        raise HeadError(502, "bad-response-head", Side.UPSTREAM) from None
    if not isinstance(event, (h11.Response, h11.InformationalResponse)) or not 100 <= event.status_code <= 599:
        raise HeadError(502, "bad-response-head", Side.UPSTREAM)
    version = 11 if event.http_version == b"1.1" else 10
    fields = _fields(event)
    connection = _connection(fields, Side.UPSTREAM)
    framing, length = _response_framing(head, fields, version, event.status_code, method)
    timeout = KEEP_ALIVE_TIMEOUT.search(_first(fields, b"keep-alive") or b"")
    return ResponseHead(
        status=event.status_code,
        reason=event.reason,
        version=version,
        fields=fields,
        framing=framing,
        length=length,
        keep_alive=b"close" not in connection if version == 11 else b"keep-alive" in connection and b"close" not in connection,
        keep_alive_timeout=int(timeout.group(1)) if timeout is not None else None,
        upgrade=granted(event.status_code, connection, fields),
        nominated=connection,
    )


def _response_framing(head: bytes, fields: tuple[Field, ...], version: int, status: int, method: bytes) -> tuple[int, int]:
    """RFC 9112 §6.3."""
    codings = [value for _, name, value in fields if name == b"transfer-encoding"]
    lower = head.lower()
    lengths = lower.count(b"\r\ncontent-length:")
    chunked = bool(codings) or b"\r\ntransfer-encoding:" in lower
    if (chunked and (lengths or version == 10 or len(codings) != 1 or codings[0].lower() != b"chunked")) or lengths > 1:
        raise HeadError(502, "bad-response-framing", Side.UPSTREAM)
    if lengths and LENGTH_LINE.search(lower) is None:
        raise HeadError(502, "bad-response-framing", Side.UPSTREAM)
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NO_BODY, 0
    if chunked:
        return CHUNKED, 0
    if lengths:
        return LENGTH, int(_first(fields, b"content-length") or b"0")
    return UNTIL_CLOSE, 0


__all__ = ["VALUE", "Field", "HeadError", "HeadLimits", "RequestHead", "ResponseHead", "bad_start", "parse_request", "parse_response"]
