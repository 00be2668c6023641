import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.errors import Side
from mcpproxy.http.framing import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE
from mcpproxy.http.head import (
    LINES,
    LONGEST_LINE,
    RESPONSE_LIMITS,
    HeadError,
    HeadLimits,
    RequestHead,
    ResponseHead,
    bad_start,
    judged,
    parse_request,
    parse_response,
)

LIMITS = HeadLimits()
CALL = (
    b"POST /mcp?x=1 HTTP/1.1\r\nHost: mcp.example.com:8443\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
    b"MCP-Protocol-Version: 2025-11-25\r\nAuthorization: Bearer abc\r\nContent-Length: 120\r\n\r\n"
)


def request(*fields: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes | None = b"localhost") -> bytes:
    named = () if host is None else (b"Host: " + host,)
    return b"\r\n".join([line, *named, *fields, b"", b""])


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def parsed(*fields: bytes, line: bytes = b"POST / HTTP/1.1") -> RequestHead:
    return parse_request(request(*fields, line=line), LIMITS)


def answered(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET") -> ResponseHead:
    return parse_response(response(*fields, line=line), method)


def refusal(head: bytes, limits: HeadLimits = LIMITS) -> HeadError:
    with pytest.raises(HeadError) as caught:
        parse_request(head, limits)
    assert caught.value.side is Side.DOWNSTREAM
    return caught.value


def bad_answer(head: bytes) -> str:
    with pytest.raises(HeadError) as caught:
        parse_response(head, b"GET")
    assert (caught.value.side, caught.value.status) == (Side.UPSTREAM, 502)
    return caught.value.kind


# -- requests that are fine


def test_a_tool_call_is_understood() -> None:
    head = parse_request(CALL, LIMITS)
    assert (head.method, head.target, head.path) == (b"POST", b"/mcp?x=1", b"/mcp")
    assert (head.host, head.authority, head.version) == (b"mcp.example.com", b"mcp.example.com:8443", 11)
    assert (head.framing, head.length, head.keep_alive, head.expect_continue, head.upgrade) == (LENGTH, 120, True, False, None)
    assert head.fields[3] == (b"MCP-Protocol-Version", b"mcp-protocol-version", b"2025-11-25")
    assert head.first(b"authorization") == b"Bearer abc"
    assert head.first(b"nothing") is None


@pytest.mark.parametrize(
    ("fields", "framing", "length"),
    [
        ((), NO_BODY, 0),
        ((b"Content-Length: 0",), LENGTH, 0),
        ((b"content-LENGTH:\t5 ",), LENGTH, 5),
        ((b"Content-Length: 0005",), LENGTH, 5),
        ((b"Content-Length: 999999999999999999",), LENGTH, 10**18 - 1),
        ((b"Transfer-Encoding: chunked",), CHUNKED, 0),
        ((b"TRANSFER-encoding:  ChunKed\t",), CHUNKED, 0),
        ((b"Content_Length: 7", b"X-Content-Length: 8"), NO_BODY, 0),
    ],
)
def test_how_a_request_body_ends(fields: tuple[bytes, ...], framing: int, length: int) -> None:
    for line in (b"POST / HTTP/1.1", b"GET / HTTP/1.1", b"DELETE / HTTP/1.1"):
        head = parsed(*fields, line=line)
        assert (head.framing, head.length) == (framing, length)


@pytest.mark.parametrize(
    ("line", "connection", "keep"),
    [
        (b"GET / HTTP/1.1", b"X: y", True),
        (b"GET / HTTP/1.1", b"Connection: close", False),
        (b"GET / HTTP/1.1", b"Connection: x, CLOSE", False),
        (b"GET / HTTP/1.1", b"Connection: closed", True),
        (b"GET / HTTP/1.0", b"X: y", False),
        (b"GET / HTTP/1.0", b"Connection: Keep-Alive", True),
        (b"GET / HTTP/1.0", b"Connection: keep-alive, close", False),
    ],
)
def test_may_the_connection_go_on(line: bytes, connection: bytes, keep: bool) -> None:
    assert parsed(connection, line=line).keep_alive is keep


def test_absolute_form_goes_on_as_a_path() -> None:
    head = parsed(line=b"GET http://LOCALHOST/a?b HTTP/1.1")
    assert (head.target, head.path, head.host) == (b"/a?b", b"/a", b"localhost")


def test_expectation_of_continue() -> None:
    assert parsed(b"Expect: 100-Continue", b"Content-Length: 5").expect_continue
    assert not parsed(b"Expect: 100-continue").expect_continue, "no body to wait with"
    assert not parsed(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST / HTTP/1.0").expect_continue, "RFC 9110 §10.1.1"
    for value in (b"banana", b"100-continue, banana", b""):
        assert refusal(request(b"Expect: " + value)).status == 417
    assert refusal(request(b"Expect: 100-continue", b"Expect: x")).status == 417


WEBSOCKET = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")


def test_websocket_is_the_only_upgrade() -> None:
    line = b"GET /ws HTTP/1.1"
    assert parsed(*WEBSOCKET, line=line).upgrade == b"websocket"
    assert parsed(*WEBSOCKET, b"Content-Length: 0", line=line).upgrade == b"websocket"
    assert parsed(*WEBSOCKET, b"Content-Length: 1", line=line).upgrade is None
    assert parsed(*WEBSOCKET, b"Transfer-Encoding: chunked", line=line).upgrade is None
    assert parsed(*WEBSOCKET).upgrade is None
    assert parsed(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA", line=line).upgrade is None


# -- requests that are refused


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"CONNECT localhost:22 HTTP/1.1", 405),
        (b"CONNECT / HTTP/1.1", 405),
        (b"TRACE / HTTP/1.1", 405),
        (b"GET / HTTP/2.0", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET / HTTP/3.0", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/9.9", 505),
        (b"GET / HTTP/0.9", 400),
        *((b"GET / " + version, 400) for version in (b"HTTP/1", b"HTTP/1.", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.1.1", b"http/1.1", b"HTTP/+1.1", b"HTTP/1,1")),
        *((b"GET / " + version, 400) for version in (b"HTTP/2", b"HTTP", b"ICY/1.1", b"HTTP/1.1 ", b"HTTP/1.1\t", b"HTTP/1.1x", b"HTTP/1.1\0", b"")),
        (b"GET /", 400),
        (b"GET", 400),
        (b"", 400),
        (b" GET / HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /  HTTP/1.1", 400),
        (b"GET\t/ HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"G\xcbT / HTTP/1.1", 400),
        (b'"GET" / HTTP/1.1', 400),
        (b"GET: / HTTP/1.1", 400),
        (b"A" * 33 + b" / HTTP/1.1", 400),
        (b"GET \xc3\xbc HTTP/1.1", 400),
        (b"GET /\x7f HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"GET localhost:80 HTTP/1.1", 400),
        (b"GET http://evil/ HTTP/1.1", 400),
        (b"GET /a/../b HTTP/1.1", 400),
        (b"GET /%2e%2E/b HTTP/1.1", 400),
        (b"GET /a#b HTTP/1.1", 400),
        (b"GET /a\\b HTTP/1.1", 400),
        (b"HTTP/1.1 200 OK", 400),
        (b"GET /" + b"a" * 8192 + b" HTTP/1.1", 414),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1", 414),
    ],
)  # fmt: skip
def test_request_lines_that_are_refused(line: bytes, status: int) -> None:
    head = request(line=line)
    assert refusal(head).status == status
    early = bad_start(head[:-2], LIMITS)
    assert early is None or early.status == status


def test_a_target_as_long_as_allowed_passes() -> None:
    assert len(parsed(line=b"GET /" + b"a" * 8191 + b" HTTP/1.1").target) == 8192


BAD_LINES = (
    b"X y: v", b"X : v", b"X\t: v", b" X: v", b"\tX: v", b": v", b":", b"X", b'"X": v', b"X(): v", b"X\0: v", b"\xfc: v",
    b"X\x7f: v", b"X[]: v",
    b"X: a\r\n b", b"X: a\r\n\tb", b"X:\r\n b", b"X: a\rb", b"X: a\nb", b"X: a\r", b"X: a\n", b"\rX: a", b"\nX: a", b"X\r: a",
    b"X: a\0", b"X: \x01", b"X: a\x1f",
    b"X: \x0b", b"X: a\x0c", b"X: a\x7f", b"X: \x1b[31m", b"X: y\rTransfer-Encoding: chunked", b"X: y\nTransfer-Encoding: chunked",
    b"X: y\n\nGET / HTTP/1.1",
)  # fmt: skip


@pytest.mark.parametrize("line", BAD_LINES)
def test_malformed_lines_are_refused_on_both_sides(line: bytes) -> None:
    for head in (request(line), request(b"A: b", line, b"C: d")):
        assert refusal(head).status == 400
    assert bad_answer(response(line))
    assert bad_answer(response(b"A: b", line, b"C: d"))


@pytest.mark.parametrize("line", BAD_LINES)
def test_malformed_lines_are_noticed_before_the_head_is_whole(line: bytes) -> None:
    for head, is_response in ((request(line, b"Y: z"), False), (response(line, b"Y: z"), True)):
        early = bad_start(head[: head.index(b"Y: z")], response=is_response)
        assert early is not None
        assert early.status == (502 if is_response else 400)


@pytest.mark.parametrize(
    "value",
    [
        b"+5", b"-5", b"5_0", b"5 0", b"0x5", b"5.0", b"5e0", b"5,5", b"5, 5", b"5,", b"", b"five", b"5h", b'"5"', b"5;", b"-0",
        b"\xd9\xa5", b"5\xa0", b"\xc2\xb2",
        b"9" * 19, b"9" * 5000,
    ],
)  # fmt: skip
def test_lengths_that_are_none(value: bytes) -> None:
    assert refusal(request(b"Content-Length: " + value)).status == 400
    assert bad_answer(response(b"Content-Length: " + value)) == "bad-content-length"


@pytest.mark.parametrize(
    "value",
    [
        b"xchunked", b"chunkedx", b"chunked, identity", b"identity, chunked", b"identity", b"chunked, chunked", b"gzip, chunked",
        b"gzip", b"chunked;", b"chunked;q=1",
        b'"chunked"', b",chunked", b"chunked,", b"", b"ch unked", b"chunked\xa0", b"\xe2\x84\xaaunked", b"chunked=1",
        b"chunked chunked", b"trailers",
    ],
)  # fmt: skip
def test_codings_that_are_not_exactly_chunked(value: bytes) -> None:
    assert refusal(request(b"Transfer-Encoding: " + value)).kind == "bad-transfer-encoding"
    assert bad_answer(response(b"Transfer-Encoding: " + value)) == "bad-transfer-encoding"


def test_ambiguous_framing_is_refused() -> None:
    length, coding = b"Content-Length: 5", b"Transfer-Encoding: chunked"
    for fields in (
        (length, length), (length, b"content-length: 6"), (length, b"Content-Length:"), (coding, coding), (coding,
        b"Transfer-encoding: identity"),
        (length, coding), (coding, length), (b"content-length: 0", b"TRANSFER-ENCODING: Chunked"),
    ):  # fmt: skip
        assert refusal(request(*fields)).status == 400
        assert refusal(request(*fields, line=b"GET / HTTP/1.1")).status == 400
        assert bad_answer(response(*fields))
        with pytest.raises(HeadError):
            parse_response(response(*fields), b"HEAD")
    assert refusal(request(coding, line=b"POST / HTTP/1.0")).kind == "bad-transfer-encoding"
    assert bad_answer(response(coding, line=b"HTTP/1.0 200 OK")) == "bad-transfer-encoding"


def test_exactly_one_host() -> None:
    for head in (request(host=None), request(b"Host: localhost"), request(host=b"a b"), request(line=b"GET a HTTP/1.1")):
        assert refusal(head).status == 400
    assert refusal(request(host=None)).kind == "missing-host"
    assert refusal(request(line=b"GET / HTTP/1.0", host=None)).kind == "missing-host"
    assert refusal(request(b"host: localhost")).kind == "bad-host"
    assert refusal(request(b"HOST: evil")).kind == "bad-host"
    assert refusal(request(b"Host:")).kind == "bad-host"
    for host in (b"", b" \t ", b"a b", b"u@localhost", b"localhost:x", b"localhost, evil", b"localhost/a", b"[::1", b"a:1:2"):
        assert refusal(request(host=host)).kind == "bad-host"


def test_connection_cannot_name_what_frames_or_routes_or_names_the_call() -> None:
    for name in (b"Content-Length", b"transfer-encoding", b"close, HOST", b"Mcp-Protocol-Version", b"mcp-method", b"close,Mcp-Name"):
        error = refusal(request(b"Connection: " + name, b"Content-Length: 5"))
        assert (error.kind, error.status) == ("bad-connection", 400)
    assert answered(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked").framing == CHUNKED, "old servers say that"


def test_connection_has_few_options() -> None:
    many = b"Connection: " + b"a," * 600
    assert refusal(request(many)).kind == "bad-connection"
    assert refusal(request(b"connection:" + b"a" * 600, b"X: y", b"CONNECTION: " + b"b" * 600)).kind == "bad-connection"
    assert bad_answer(response(many)) == "bad-connection"
    assert parsed(b"Connection: " + b"a," * 400, b"X-Connection: " + b"a," * 600).keep_alive


def test_floods_are_counted_before_anything_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(parsed(*[b"a:"] * 99).fields) == 100
    assert refusal(request(*[b"a:"] * 100)).kind == "too-many-fields"
    assert refusal(request(b"X: " + b"y" * 33_000)).kind == "head-too-large"
    assert refusal(CALL, HeadLimits(head=len(CALL) - 1)).status == 431
    assert parse_request(CALL, HeadLimits(head=len(CALL))).length == 120
    monkeypatch.setattr("mcpproxy.http.head.Fields", None)
    assert refusal(request(*[b"a:"] * 500_000)).status == 431


def test_what_was_judged_good_once_is_good_only_where_it_stood_whole() -> None:
    """Field lines are remembered (h11 sees each once); sizes, counts and what fields mean together are judged in every head."""
    assert parsed(b"Content-Length: 5").length == 5
    assert parsed(b"Transfer-Encoding: chunked").framing == CHUNKED
    assert refusal(request(b"Content-Length: 5", b"Transfer-Encoding: chunked")).kind == "length-and-coding"
    assert refusal(request(b"Content-Length: 5", b"Content-Length: 5")).kind == "bad-content-length"
    assert refusal(request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")).kind == "bad-transfer-encoding"
    assert refusal(request(b"Host: localhost")).kind == "bad-host"
    for bad in (b"X: \x00", b"X : y", b" X: y", b"X: y\n", b"X: y\rZ: z", b": y", b"X"):
        for _ in range(2):
            assert refusal(request(bad)).status == 400, bad


def test_remembered_lines_are_bounded() -> None:
    for number in range(3 * LINES):
        parsed(b"X-Number: %d" % number)
    assert len(judged) <= LINES
    parsed(b"X-Long: " + b"y" * LONGEST_LINE)
    assert not any(len(line) > LONGEST_LINE for line in judged)


def test_a_head_ends_with_its_first_empty_line() -> None:
    assert refusal(request()[:-2]).status == 400
    assert refusal(request() + b"X: y\r\n\r\n").status == 400
    assert refusal(request() + b"X").status == 400


# -- responses


@pytest.mark.parametrize(
    ("line", "fields", "framing", "length"),
    [
        (b"HTTP/1.1 200 OK", (b"Content-Length: 5",), LENGTH, 5),
        (b"HTTP/1.1 200 OK", (b"Transfer-Encoding: chunked",), CHUNKED, 0),
        (b"HTTP/1.1 200 OK", (), UNTIL_CLOSE, 0),
        (b"HTTP/1.0 200 OK", (), UNTIL_CLOSE, 0),
        (b"HTTP/1.0 200 OK", (b"Content-Length: 5",), LENGTH, 5),
        (b"HTTP/1.1 204 No Content", (b"Content-Length: 5",), NO_BODY, 0),
        (b"HTTP/1.1 304 Not Modified", (b"Content-Length: 5",), NO_BODY, 0),
        (b"HTTP/1.1 304 Not Modified", (b"Transfer-Encoding: chunked",), NO_BODY, 0),
        (b"HTTP/1.1 100 Continue", (), NO_BODY, 0),
        (b"HTTP/1.1 103 Early Hints", (b"Link: </a>",), NO_BODY, 0),
        (b"HTTP/1.1 205 Reset Content", (), UNTIL_CLOSE, 0),
        (b"HTTP/1.1 599 ", (b"Content-Length: 0",), LENGTH, 0),
    ],
)
def test_how_a_response_body_ends(line: bytes, fields: tuple[bytes, ...], framing: int, length: int) -> None:
    head = answered(*fields, line=line)
    assert (head.framing, head.length) == (framing, length)
    assert answered(*fields, line=line, method=b"HEAD").framing == NO_BODY


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.1 404 Not\tFound at all", 404, b"Not\tFound at all"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 299 \xfcber", 299, b"\xfcber"),
    ],
)
def test_status_lines_that_are_fine(line: bytes, status: int, reason: bytes) -> None:
    head = answered(line=line)
    assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK", b"HTTP/2 200 OK", b"HTTP/0.9 200 OK", b"HTTP/1.2 200 OK", b"HTTP/1.10 200 OK", b"http/1.1 200 OK",
        b"ICY 200 OK", b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 +200 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK",
        b"HTTP/1.1 600 OK",
        b"HTTP/1.1 999 OK", b"HTTP/1.1  200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 two OK",
        b"HTTP/1.1 OK", b"HTTP/1.1",
        b"HTTP/1.1 200 \0", b"HTTP/1.1 200 \x1b[31m", b"HTTP/1.1 200 a\x7f", b"HTTP/1.1 200 a\rb", b"HTTP/1.1 200 OK\x0b",
        b"HTTP/1.1 200OK", b"200 OK",
        b"GET / HTTP/1.1", b"<html>", b"", b"HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK", b"\r\nHTTP/1.1 200 OK",
    ],
)  # fmt: skip
def test_status_lines_that_are_refused(line: bytes) -> None:
    assert bad_answer(response(b"Content-Length: 0", line=line))
    early = bad_start(response(b"Content-Length: 0", line=line)[:-2], response=True)
    assert early is not None
    assert early.status == 502


@pytest.mark.parametrize(
    ("fields", "keep", "timeout"),
    [
        ((), True, None),
        ((b"Connection: close",), False, None),
        ((b"Connection: keep-alive", b"Keep-Alive: timeout=5"), True, 5),
        ((b"Keep-Alive: max=100, Timeout = 60",), True, 60),
        ((b'Keep-Alive: timeout="7"',), True, 7),
        ((b"Keep-Alive: notimeout=5",), True, None),
        ((b"Keep-Alive: timeout=soon",), True, None),
        ((b"Keep-Alive: timeout=99999999999",), True, None),
    ],
)
def test_may_the_link_be_used_again(fields: tuple[bytes, ...], keep: bool, timeout: int | None) -> None:
    head = answered(*fields)
    assert (head.keep_alive, head.keep_alive_timeout) == (keep, timeout)
    assert not answered(line=b"HTTP/1.0 200 OK").keep_alive
    assert answered(b"Connection: keep-alive", line=b"HTTP/1.0 200 OK").keep_alive


def test_a_101_is_an_upgrade_only_when_it_is_a_whole_one() -> None:
    line = b"HTTP/1.1 101 Switching Protocols"
    whole = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert answered(*whole, line=line).upgrade == b"websocket"
    assert answered(*whole[:2], line=line).upgrade is None
    assert answered(line=line).upgrade is None
    assert answered(*whole).upgrade is None


def test_large_response_heads() -> None:
    assert len(answered(*[b"Set-Cookie: a=b"] * RESPONSE_LIMITS.fields).fields) == RESPONSE_LIMITS.fields
    assert bad_answer(response(*[b"a: b"] * (RESPONSE_LIMITS.fields + 1))) == "response-head-too-large"
    assert bad_answer(response(b"X: " + b"y" * RESPONSE_LIMITS.head)) == "response-head-too-large"


# -- heads that are not all there

RESPONSE = b"HTTP/1.1 200 OK\r\ndate: x\r\nContent-Type: text/event-stream\r\nX-Empty:\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_tls_on_a_plain_port_has_a_name_of_its_own() -> None:
    error = bad_start(bytes.fromhex("16030100c8010000c40303"), LIMITS)
    assert error is not None
    assert error.kind == "tls-on-plain-port"


def test_every_beginning_of_a_good_head_is_good() -> None:
    for i in range(len(CALL) - 3):
        assert bad_start(CALL[:i], LIMITS) is None
        assert bad_start(b"\r\n" + CALL[:i], LIMITS) is None, "an empty line before it is forgiven"
    for i in range(len(RESPONSE) - 3):
        assert bad_start(RESPONSE[:i], response=True) is None
    for start in (b"\r", b"\r\n", b"\r\n\r", b"\r\n\r\n", b"\r\n\r\n\r"):
        assert bad_start(start, LIMITS) is None


@pytest.mark.parametrize(
    ("prefix", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"\x16\x03", 400),
        (b"\0", 400),
        (b"\n", 400),
        (b"\rG", 400),
        (b"\r\r", 400),
        (b"\r\n\r\n\r\n", 400),
        (b"\xef\xbb\xbfGET", 400),
        (b" ", 400),
        (b"{", 400),
        (b'{"jsonrpc"', 400),
        (b"GET  ", 400),
        (b"GET /\n", 400),
        (b"GET / HTTX", 400),
        (b"GET / HTTP/1.1 ", 400),
        (b"GET / HTTP/1.1\n", 400),
        (b"GET / HTTP/1.1\r\r", 400),
        (b"GET / HTTP/1.1\rH", 400),
        (b"GET \xff", 400),
        (b"GET /\0", 400),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", 400),
        (b"EHLO evil.example\r\n", 400),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", 400),
        (b"A" * 33, 400),
        (b"PRI * HTTP/2.0\r\n", 505),
        (b"CONNECT a:1 HTTP/1.1\r\n", 405),
        (b"GET /" + b"a" * 8192, 414),
        (b"GET / HTTP/1.1\r\nHost: a\nX", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b", 400),
        (b"GET / HTTP/1.1\r\n ", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\nHost: \x01", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
        (b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 101, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 33_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"y" * 33_000, 431),
    ],
)
def test_garbage_is_noticed_at_once(prefix: bytes, status: int) -> None:
    error = bad_start(prefix, LIMITS)
    assert error is not None
    assert (error.status, error.side) == (status, Side.DOWNSTREAM)


@pytest.mark.parametrize(
    "prefix",
    [
        b"<html>", b"G", b"H2", b"\r", b"\r\n", b"\n", b" ", b"http", b"HTTP/1.1\n", b"HTTP/1.1 200\n", b"HTTP/1.1  ",
        b"HTTP/1.1 2x", b"HTTP/1.1 2000", b"\x15\x03\x01",
        b'{"a"', b"HTTP/2.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\n", b"HTTP/1.1 200 OK\r\nX\r\n", b"HTTP/1.1 200 \0",
        b"HTTP/1.1 200 " + b"x" * 65_536,
        b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 257,
    ],
)  # fmt: skip
def test_a_server_that_does_not_speak_http_is_noticed_at_once(prefix: bytes) -> None:
    error = bad_start(prefix, response=True)
    assert error is not None
    assert (error.status, error.side) == (502, Side.UPSTREAM)


# -- properties

FRAGMENTS = [
    b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.0\r\n", b"HTTP/1.1 200 OK\r\n", b"Host: a\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"X: y\r\n", b"X:\t y\xff \r\n", b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\0", b",", b"5",
    b"chunked", b"X",
]  # fmt: skip


def refused_with(error: HeadError, statuses: set[int]) -> None:
    assert error.status in statuses
    assert (error.side is Side.UPSTREAM) == (error.status == 502)


def read_by_h11(head: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(head)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    return event.method, event.target, event.headers.raw_items()


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=12).map(b"".join))
@example(CALL)
def test_any_head_is_refused_or_read_as_h11_reads_it(head: bytes) -> None:
    try:
        ours = parse_request(head, LIMITS)
    except HeadError as error:
        refused_with(error, {400, 405, 414, 417, 431, 505})
        return
    method, target, fields = read_by_h11(head)
    assert (ours.method, ours.target) == (method, target)
    assert [(name, value) for name, _, value in ours.fields] == fields
    for i in range(len(head) - 3):
        assert bad_start(head[:i], LIMITS) is None, "what is accepted whole was never refused as a beginning"


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=12).map(b"".join))
def test_any_response_head_is_refused_or_was_good_from_its_beginning(rest: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + rest
    try:
        parse_response(head, b"GET")
    except HeadError as error:
        refused_with(error, {502})
        return
    for i in range(len(head) - 3):
        assert bad_start(head[:i], response=True) is None


@given(st.binary(max_size=80), st.booleans())
def test_arbitrary_bytes_only_ever_raise_our_errors(data: bytes, is_response: bool) -> None:
    bad_start(data, response=is_response)
    for head in (data, data + b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        for parse in (lambda head: parse_request(head, LIMITS), lambda head: parse_response(head, b"GET")):
            try:
                parse(head)
            except HeadError:
                pass


@given(
    st.sampled_from([CALL, request(b"X: y", b"Z:"), request(*WEBSOCKET, line=b"GET / HTTP/1.1")]), st.integers(0, 400), st.integers(0, 255)
)
def test_a_damaged_head_that_was_refused_early_is_refused_whole(head: bytes, place: int, byte: int) -> None:
    at = place % (len(head) - 4)
    damaged = head[:at] + bytes((byte,)) + head[at + 1 :]
    early = [error for i in range(1, len(damaged) - 3) if (error := bad_start(damaged[:i], LIMITS)) is not None]
    if early and b"\r\n\r\n" not in damaged[:-4]:
        assert refusal(damaged).status == early[0].status
