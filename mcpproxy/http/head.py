"""What does this head say, and is there only one way to read it?

`parse_request` and `parse_response` take everything up to and including the empty line. One strict pattern takes the lines apart, h11 judges method,
target, names and values, then we judge what h11 lets pass. Whatever two servers could read differently is refused:

 1. Sizes and numbers of fields are checked before anything is parsed.
 2. Lines end with CRLF and nothing else contains CR or LF; no folding, no control character but HTAB in values, no blank before a colon.
 3. At most one Content-Length, decimal digits only; Transfer-Encoding is exactly `chunked`, once, never with Content-Length or HTTP/1.0.
 4. Exactly one Host, and it is a host. The target is a path (absolute-form with the same authority is reduced to it), without dot segments.

`bad_start` judges a head that is not all there by the same rules, so that garbage is answered at once and not at the deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import h11

from mcpproxy.errors import ProxyError, Side
from mcpproxy.http import target as targets
from mcpproxy.http import upgrade as upgrades
from mcpproxy.http.fields import KEPT_WHATEVER_CONNECTION_SAYS, TEXT, TOKEN, Field, is_token, options
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE

METHOD_LIMIT = 32  # bytes; the longest registered method has 17
CONNECTION_LIMIT = 1024  # bytes of all Connection fields: every option costs a look at every field
LENGTH_DIGITS = 18  # of Content-Length: below 2**63, so it is the same number to everybody


class HeadError(ProxyError):
    """A head that must be refused."""

    def __init__(self, status: int, kind: str) -> None:
        super().__init__(kind, Side.UPSTREAM if status == 502 else Side.DOWNSTREAM, status)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """How much head we read before we refuse."""

    head: int = 32 * 1024  # bytes; browsers and SDKs stay below 8 KiB, long tokens and cookies do not
    target: int = 8 * 1024  # bytes; RFC 9112 §3 recommends to take at least 8000
    fields: int = 100  # more than any client sends, few enough to look at one by one


RESPONSE_LIMITS = HeadLimits(head=64 * 1024, fields=256)  # servers are chosen by the operator; still, one read must hold a head


@dataclass(slots=True)
class RequestHead:
    """A request head that was accepted. Nobody changes it."""

    method: bytes
    target: bytes  # origin-form, as it goes upstream; or `*`
    path: bytes  # of the target, raw
    host: bytes  # lower case, without port
    authority: bytes  # the Host value as sent
    version: int  # 10, 11 or 20
    fields: tuple[Field, ...]
    first: Callable[[bytes], bytes | None]  # lower-case name → value of the first field of that name
    options: frozenset[bytes]  # of all Connection fields
    framing: int
    length: int
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes | None


@dataclass(slots=True)
class ResponseHead:
    """A response head that was accepted. Nobody changes it."""

    status: int
    reason: bytes
    version: int
    fields: tuple[Field, ...]
    first: Callable[[bytes], bytes | None]  # lower-case name → value of the first field of that name
    options: frozenset[bytes]  # of all Connection fields
    framing: int
    length: int
    keep_alive: bool
    keep_alive_timeout: int | None  # seconds, from Keep-Alive: timeout=
    upgrade: bytes | None


def parse_request(head: bytes, limits: HeadLimits, *, h2: bool = False) -> RequestHead:
    """Read a request head. Raises HeadError 400, 405, 414, 417, 431, 505. `h2`: one that http/h2 wrote down in these words, and no other."""
    method, raw_target, version, end = _request_line(head, limits)
    if (version == 20) is not h2:
        raise HeadError(505, "unsupported-version")
    _check_size(head, head.count(b"\n") - 2, limits, response=False)
    fields = Fields(head, end, 400)
    length, chunked = fields.framing(version)
    authority = fields.only(b"host", "bad-host")
    if authority is None:
        raise HeadError(400, "missing-host")
    if not targets.is_authority(authority):
        raise HeadError(400, "bad-host")
    _ask_h11(fields, h11.Request, method=method, target=raw_target)
    target = targets.reduced(method, raw_target, authority)
    if target is None:
        raise HeadError(400, "bad-target")
    said = fields.options()
    if said & KEPT_WHATEVER_CONNECTION_SAYS:
        raise HeadError(400, "bad-connection")
    has_body = chunked or length is not None
    return RequestHead(
        method=method,
        target=target,
        path=target.partition(b"?")[0],
        host=targets.host_of(authority),
        authority=authority,
        version=version,
        fields=fields.all,
        first=fields.first.get,
        options=said,
        framing=CHUNKED if chunked else LENGTH if length is not None else NO_BODY,
        length=length or 0,
        keep_alive=_keeps(version, said),
        expect_continue=_expects_continue(fields) and version != 10 and has_body,
        upgrade=upgrades.asked(method, version, fields.all) if b"upgrade" in said and not chunked and not length else None,
    )


def parse_response(head: bytes, method: bytes) -> ResponseHead:
    """Read a response head to a request with `method`. Raises HeadError 502."""
    status, reason, version, end = _status_line(head)
    _check_size(head, head.count(b"\n") - 2, RESPONSE_LIMITS, response=True)
    fields = Fields(head, end, 502)
    length, chunked = fields.framing(version)
    _ask_h11(fields, h11.Response if status >= 200 else h11.InformationalResponse, status_code=status, reason=reason)
    said = fields.options()
    if method == b"HEAD" or status < 200 or status in (204, 304):  # RFC 9112 §6.3, rule 1
        framing, length = NO_BODY, None
    else:
        framing = CHUNKED if chunked else UNTIL_CLOSE if length is None else LENGTH
    return ResponseHead(
        status=status,
        reason=reason,
        version=version,
        fields=fields.all,
        first=fields.first.get,
        options=said,
        framing=framing,
        length=length or 0,
        keep_alive=_keeps(version, said),
        keep_alive_timeout=_timeout(fields.first.get(b"keep-alive")),
        upgrade=upgrades.switched(fields.all) if status == 101 else None,
    )


def bad_start(prefix: bytes, limits: HeadLimits | None = None, *, response: bool = False) -> HeadError | None:
    """Is the beginning of a head (no empty line in it yet) beyond repair? A little CRLF before a request is not."""
    limits = limits or (RESPONSE_LIMITS if response else HeadLimits())
    try:
        _judge_start(prefix, limits, response=response)
    except HeadError as error:
        return error.with_traceback(None)  # the frames would hold the error, and the error the frames
    return None


# -- the start line -----------------------------------------------------------------------------------------------------------------------------

REQUEST_LINE = re.compile(rb"([%b]{1,%d}) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n" % (TOKEN, METHOD_LIMIT))
STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-5][0-9][0-9])(?: ([%b]*))?\r\n" % TEXT)
VERSIONS = {b"1.0": 10, b"1.1": 11, b"2.0": 20}
NEVER = frozenset({b"CONNECT", b"TRACE"})  # tunnels to anywhere, and echoes of credentials


def _request_line(head: bytes, limits: HeadLimits) -> tuple[bytes, bytes, int, int]:
    found = REQUEST_LINE.match(head)
    if found is None:
        raise HeadError(400, "bad-request-line")
    method, target, version = found.groups()
    if len(target) > limits.target:
        raise HeadError(414, "target-too-long")
    if version not in VERSIONS:
        raise HeadError(*((400, "bad-request-line") if version.startswith(b"0") else (505, "unsupported-version")))
    if method in NEVER:
        raise HeadError(405, "method-not-allowed")
    return method, target, VERSIONS[version], found.end()


def _status_line(head: bytes) -> tuple[int, bytes, int, int]:
    found = STATUS_LINE.match(head)
    if found is None or found[1] not in VERSIONS or found[1] == b"2.0":
        raise HeadError(502, "bad-status-line")
    return int(found[2]), found[3] or b"", VERSIONS[found[1]], found.end()


# -- bytes --------------------------------------------------------------------------------------------------------------------------------------

PLAIN = bytes(c for c in range(256) if c >= 32 and c != 127) + b"\t\r\n"  # all that a head may consist of


def _check_size(head: bytes, fields: int, limits: HeadLimits, *, response: bool) -> None:
    if len(head) > limits.head:
        raise HeadError(502, "response-head-too-large") if response else HeadError(431, "head-too-large")
    if fields > limits.fields:
        raise HeadError(502, "response-head-too-large") if response else HeadError(431, "too-many-fields")


def _check_bytes(head: bytes, status: int) -> None:
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines or head.count(b"\r") != lines:
        raise HeadError(status, "bad-line-end")
    if head.translate(None, PLAIN):
        raise HeadError(status, "control-character")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HeadError(status, "folded-field")


# -- fields -----------------------------------------------------------------------------------------------------------------------------------

is_length = re.compile(rb"[0-9]{1,%d}" % LENGTH_DIGITS).fullmatch
field_line = re.compile(rb"([%b]+):([%b]*)" % (TOKEN, TEXT)).fullmatch
LINES = 1024  # field lines remembered: heads that differ mostly share all lines but one or two
LONGEST_LINE = 512  # bytes of a line worth remembering; at most 1 MiB altogether
judged: dict[bytes, Field] = {}  # lines that h11 and we found good, whatever head they stood in
names_timeout = re.compile(rb"(?<![^,; \t])timeout[ \t]*=[ \t]*\"?([0-9]{1,9})(?![0-9])", re.IGNORECASE).search


class Fields:
    """The field lines of a head, taken apart in one go: every byte between start line and empty line belongs to exactly one good line."""

    __slots__ = ("all", "first", "fresh", "status", "twice")

    def __init__(self, head: bytes, start: int, status: int) -> None:
        """Raises HeadError with `status`."""
        self.status = status
        self.first = first = dict[bytes, bytes]()
        self.fresh: list[tuple[bytes, Field]] = []  # lines nobody has judged yet
        self.twice: set[bytes] = set()
        if not head.endswith(b"\r\n\r\n"):
            raise self._why(head)
        everything: list[Field] = []
        for line in head[start:-4].split(b"\r\n") if len(head) > start + 2 else ():
            field = judged.get(line)
            if field is None:
                found = field_line(line)
                if found is None:
                    raise self._why(head)
                name = found[1]
                field = name, name.lower(), found[2].strip(b" \t")
                self.fresh.append((line, field))
            everything.append(field)
            lower = field[1]
            if lower in first:
                self.twice.add(lower)
            else:
                first[lower] = field[2]
        self.all = tuple(everything)

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """What h11 has not judged before."""
        return [(name, value) for _, (name, _, value) in self.fresh]

    def remember(self) -> None:
        """h11 found nothing wrong."""
        for line, field in self.fresh:
            if len(line) <= LONGEST_LINE:
                if len(judged) >= LINES:
                    judged.clear()
                judged[line] = field

    def _why(self, head: bytes) -> HeadError:
        """Something lies between the lines."""
        if head.find(b"\r\n\r\n") != len(head) - 4:
            return HeadError(self.status, "bad-line-end")
        try:
            _check_bytes(head, self.status)
        except HeadError as error:
            return error
        return HeadError(self.status, "bad-field")

    def only(self, lower: bytes, kind: str) -> bytes | None:
        """The value of a field that may come once; None when it is not there."""
        if lower in self.twice:
            raise HeadError(self.status, kind)
        return self.first.get(lower)

    def framing(self, version: int) -> tuple[int | None, bool]:
        """Content-Length, and whether the body is chunked."""
        coding = self.only(b"transfer-encoding", "bad-transfer-encoding")
        length = self.only(b"content-length", "bad-content-length")
        if length is not None and not is_length(length):
            raise HeadError(self.status, "bad-content-length")
        if coding is not None:
            if coding.lower() != b"chunked" or version == 10:
                raise HeadError(self.status, "bad-transfer-encoding")
            if length is not None:
                raise HeadError(self.status, "length-and-coding")
        return None if length is None else int(length), coding is not None

    def options(self) -> frozenset[bytes]:
        """Of all Connection fields."""
        if b"connection" not in self.first:
            return NO_OPTIONS
        if sum(len(value) for _, lower, value in self.all if lower == b"connection") > CONNECTION_LIMIT:
            raise HeadError(self.status, "bad-connection")
        return options(self.all)


NO_OPTIONS: frozenset[bytes] = frozenset()


def _ask_h11(fields: Fields, kind: Callable[..., object], **start: object) -> None:
    """Let h11 judge the start line and every field line it has not seen (with a Host of our own: the real one is judged by us, and counted)."""
    try:
        kind(headers=[ANY_HOST, *[pair for pair in fields.pairs() if pair[0].lower() != b"host"]], **start)
    except h11.LocalProtocolError as error:
        raise HeadError(fields.status, "bad-field") from error
    fields.remember()


ANY_HOST = (b"Host", b"any")


def _keeps(version: int, said: frozenset[bytes]) -> bool:
    return b"close" not in said and (version != 10 or b"keep-alive" in said)


def _expects_continue(fields: Fields) -> bool:
    if b"expect" not in fields.first:
        return False
    if any(value.lower() != b"100-continue" for _, name, value in fields.all if name == b"expect"):
        raise HeadError(417, "unknown-expectation")
    return True


def _timeout(keep_alive: bytes | None) -> int | None:
    found = names_timeout(keep_alive) if keep_alive else None
    return int(found[1]) if found else None


# -- heads that are not all there ------------------------------------------------------------------------------------------------------------

FORGIVEN = 4  # bytes of CRLF before a request line (RFC 9112 §2.2)
AS_DIGIT = bytes.maketrans(b"123456789", b"000000000")
whole_fields = re.compile(rb"(?:[%b]+:[^\r]*\r\n)*" % TOKEN).match  # the bytes of values were looked at before
begins_field = re.compile(rb"(?:[%b]+(?::[^\r]*)?)?\r?" % TOKEN).fullmatch
begins_target = re.compile(rb"[!-~]*").fullmatch


def _judge_start(prefix: bytes, limits: HeadLimits, *, response: bool) -> None:
    status = 502 if response else 400
    if not response:
        if prefix.startswith(b"\x16\x03"):
            raise HeadError(400, "tls-on-plain-port")
        for _ in range(FORGIVEN // 2):
            prefix = prefix.removeprefix(b"\r\n")
        if prefix == b"\r":
            return
    end = prefix.find(b"\r\n") + 2
    if end >= 2:
        if response:
            _status_line(prefix)
        elif _request_line(prefix, limits)[2] == 20:
            raise HeadError(505, "unsupported-version")
    elif response:
        _judge_status_line(prefix)
    else:
        _judge_request_line(prefix, limits)
    _check_size(prefix, prefix.count(b"\n") - 1, limits, response=response)
    _check_bytes(prefix.removesuffix(b"\r"), status)
    if end >= 2:
        fields = whole_fields(prefix, end)
        if fields is None or not begins_field(prefix, fields.end()):
            raise HeadError(status, "bad-field")


def _judge_request_line(line: bytes, limits: HeadLimits) -> None:
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    if len(method) > METHOD_LIMIT or (line and not is_token(method)) or not begins_target(target):
        raise HeadError(400, "bad-request-line")
    if len(target) > limits.target:
        raise HeadError(414, "target-too-long")
    if (rest and not target) or not b"HTTP/0.0\r".startswith(version.translate(AS_DIGIT)):
        raise HeadError(400, "bad-request-line")


def _judge_status_line(line: bytes) -> None:
    if not b"HTTP/0.0 000".startswith(line[:12].translate(AS_DIGIT)) or line[12:13] not in b" \r":
        raise HeadError(502, "bad-status-line")
