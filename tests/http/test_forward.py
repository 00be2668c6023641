import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.http.fields import ENDS_IN_REQUEST, ENDS_IN_RESPONSE
from mcpproxy.http.forward import Dress, render_request, render_response
from mcpproxy.http.framing import CHUNKED, LENGTH
from mcpproxy.http.head import HeadError, HeadLimits, parse_request, parse_response

LIMITS = HeadLimits()
SUFFIX = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: localhost"]
WEBSOCKET = (
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)


def upstream(*fields: bytes, line: bytes = b"POST /mcp HTTP/1.1", upgrade: bool = False) -> list[bytes]:
    """The lines an upstream gets for these, Host and start line left out."""
    head = parse_request(b"\r\n".join([line, b"Host: localhost", *fields, b"", b""]), LIMITS)
    rendered = render_request(head, target=head.target, host=b"127.0.0.1:8000", proto=b"https", upgrade=upgrade)
    assert rendered.endswith(b"\r\n")
    assert b"\r\n\r\n" not in rendered
    lines = rendered.split(b"\r\n")[:-1]
    assert lines[:2] == [line.split(b" ")[0] + b" /mcp HTTP/1.1", b"Host: 127.0.0.1:8000"]
    return lines[2:]


def client(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET", close: bool = False, version: int = 11, dechunk: bool = False
) -> list[bytes]:
    """The lines a client gets for these."""
    head = parse_response(b"\r\n".join([line, *fields, b"", b""]), method)
    rendered = render_response(head, close=close, client_version=version, dechunk=dechunk)
    assert rendered.endswith(b"\r\n\r\n")
    lines = rendered.split(b"\r\n")[:-2]
    assert lines[0].startswith(b"HTTP/1.1 ")
    return lines[1:]


# -- requests


def test_order_and_case_of_fields_are_kept() -> None:
    fields = [
        b"accept: b",
        b"Mcp-Session-Id: 1",
        b"X: ",
        b"ACCEPT: a",
        b"Mcp-Param-Foo: x",
        b"Last-Event-ID: 7",
        b"traceparent: 00",
        b"Trailer: X",
        b"Via: 1.1 x",
    ]
    assert upstream(*fields) == fields + SUFFIX


def test_fields_that_end_here_are_removed() -> None:
    for name in sorted(ENDS_IN_REQUEST):
        assert upstream(b"A: b", name.title() + b": x", b"C: d") == [b"A: b", b"C: d", *SUFFIX]
    for name in (
        b"Proxy",
        b"Proxy-Authorization",
        b"proxy-x",
        b"X-Forwarded-For",
        b"x-forwarded-host",
        b"X-FORWARDED-PROTO",
        b"X-Forwarded-Prefix",
        b"a_b",
        b"_",
        b"Host_",
    ):
        assert upstream(name + b": x") == SUFFIX


def test_fields_that_connection_names_are_removed() -> None:
    assert upstream(b"X-Secret: a", b"Connection: x-secret, Keep-Alive", b"Y: z", b"connection: y", b"Z: z") == [b"Z: z", *SUFFIX]


def test_framing_is_written_anew() -> None:
    assert upstream(b"content-length:  0005 ") == [b"content-length: 5", *SUFFIX]
    assert upstream(b"TRANSFER-ENCODING:\tChunkeD") == [b"TRANSFER-ENCODING: chunked", *SUFFIX]
    assert upstream() == SUFFIX


def test_expect_goes_on_only_where_it_means_something() -> None:
    assert upstream(b"Expect: 100-continue", b"Content-Length: 5") == [b"Expect: 100-continue", b"Content-Length: 5", *SUFFIX]
    assert upstream(b"Expect: 100-continue") == SUFFIX
    assert upstream(b"Expect: 100-continue", b"Content-Length: 5", line=b"POST /mcp HTTP/1.0") == [b"Content-Length: 5", *SUFFIX]


def test_a_websocket_handshake_goes_on_where_the_route_allows_it() -> None:
    rest = list(WEBSOCKET[2:])
    assert upstream(*WEBSOCKET, line=b"GET /mcp HTTP/1.1", upgrade=True) == [*rest, b"Connection: Upgrade", b"Upgrade: websocket", *SUFFIX]
    assert upstream(*WEBSOCKET, line=b"GET /mcp HTTP/1.1") == [*rest, *SUFFIX]
    assert upstream(b"Connection: Upgrade", b"Upgrade: h2c", line=b"GET /mcp HTTP/1.1", upgrade=True) == SUFFIX


def test_target_and_host_are_the_callers() -> None:
    head = parse_request(b"GET /mcp/a?b HTTP/1.0\r\nX: y\r\nhOST: A:80\r\n\r\n", LIMITS)
    rendered = render_request(head, target=b"/a?b", host=b"up", proto=b"http", upgrade=False)
    assert rendered == b"GET /a?b HTTP/1.1\r\nX: y\r\nhOST: up\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: A:80\r\n"


# -- responses


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ndate: Sat\r\nserver: uvicorn\r\ncontent-length: 5\r\ncontent-type: application/json\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX_A: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 404 Nicht da \xfc\r\nContent-Length: 0\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nWWW-Authenticate: Bearer\r\nX: \r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nAllow: POST\r\n\r\n",
    ],
)
def test_a_head_that_needs_no_change_is_rendered_as_it_came(head: bytes) -> None:
    assert render_response(parse_response(head, b"POST"), close=False, client_version=11, dechunk=False) == head


def test_response_fields_that_end_here_are_removed() -> None:
    for name in sorted(ENDS_IN_RESPONSE):
        assert client(b"A: b", name.title() + b": x", b"Content-Length: 0") == [b"A: b", b"Content-Length: 0"]
    assert client(
        b"Connection: X-Secret, keep-alive", b"X-Secret: a", b"Keep-Alive: timeout=5", b"Proxy-Status: ok", b"Content-Length: 0"
    ) == [
        b"Proxy-Status: ok",
        b"Content-Length: 0",
    ]


def test_connection_cannot_remove_the_framing_of_a_response() -> None:
    assert client(b"Connection: Content-Length", b"Content-Length: 5") == [b"Content-Length: 5"]
    assert client(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked") == [b"Transfer-Encoding: chunked"]


def test_the_clients_connection_is_told_how_it_goes_on() -> None:
    assert client(b"Content-Length: 5", close=True) == [b"Content-Length: 5", b"Connection: close"]
    assert client(b"Content-Length: 5", version=10) == [b"Content-Length: 5", b"Connection: keep-alive"]
    assert client(b"Content-Length: 5", version=10, close=True) == [b"Content-Length: 5", b"Connection: close"]
    assert client(line=b"HTTP/1.1 100 Continue", close=True) == []
    assert client(line=b"HTTP/1.1 103 x", version=10) == []


def test_http_1_0_gets_no_chunks() -> None:
    fields = (b"Transfer-Encoding: chunked", b"Trailer: X", b"A: b")
    assert client(*fields, version=10, dechunk=True, close=True) == [b"A: b", b"Connection: close"]
    assert client(*fields, version=10, method=b"HEAD", close=True) == [b"A: b", b"Connection: close"]
    assert client(*fields) == list(fields)


def test_framing_where_no_body_can_be() -> None:
    assert client(b"Content-Length: 5", b"A: b", line=b"HTTP/1.1 204 x") == [b"A: b"]
    assert client(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 204 x") == []
    assert client(b"Content-Length: 5", line=b"HTTP/1.1 103 x") == []
    assert client(b"Content-Length: 005", method=b"HEAD") == [b"Content-Length: 5"]
    assert client(b"Content-Length: 5", line=b"HTTP/1.1 304 x") == [b"Content-Length: 5"]
    assert client(b"Content-Length: 000", method=b"GET") == [b"Content-Length: 0"]


def test_a_101_keeps_its_upgrade() -> None:
    fields = (b"upgrade: WebSocket", b"connection: upgrade", b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert client(*fields, line=b"HTTP/1.1 101 x", close=True) == [fields[2], b"Connection: Upgrade", b"Upgrade: websocket"]
    assert client(*fields[:2], line=b"HTTP/1.1 101 x") == []


# -- properties

names = st.text("abcXYZ-_!~", min_size=1, max_size=6).map(str.encode) | st.sampled_from(
    [b"Connection", b"Content-Length", b"TE", b"Expect", b"Proxy-A", b"Transfer-Encoding"]
)
values = st.text("ab ,:;\t\xff\r\n\0\x0b", max_size=8).map(lambda text: text.encode("latin-1")) | st.sampled_from(
    [b"close", b"5", b"chunked", b"abc", b"100-continue"]
)
fields = st.lists(st.tuples(names, values).map(lambda field: b"%b: %b\r\n" % field), max_size=8).map(b"".join)


@given(fields)
def test_a_rendered_request_is_read_as_what_was_understood(made: bytes) -> None:
    try:
        head = parse_request(b"POST /a HTTP/1.1\r\nHost: localhost\r\n" + made + b"\r\n", LIMITS)
    except HeadError:
        return
    rendered = render_request(head, target=head.target, host=b"up:80", proto=b"https", upgrade=True) + b"\r\n"
    again = parse_request(rendered, LIMITS)
    assert (again.method, again.target, again.framing, again.length) == (head.method, head.target, head.framing, head.length)
    assert (again.authority, again.keep_alive) == (b"up:80", True)
    kept = [field for field in head.fields if field in again.fields]
    assert [field for field in again.fields if field in kept] == kept, "order and case"
    assert {lower for _, lower, _ in again.fields} <= {lower for _, lower, _ in head.fields} | {b"x-forwarded-proto", b"x-forwarded-host"}
    assert len(rendered.split(b"\r\n")) == len(again.fields) + 3, "one line per field, none slipped in"
    twice = render_request(again, target=again.target, host=b"up:80", proto=b"https", upgrade=True)
    assert twice + b"\r\n" == rendered.replace(b"X-Forwarded-Host: localhost", b"X-Forwarded-Host: up:80"), "rendering is stable"


@given(fields, st.booleans(), st.sampled_from([10, 11]), st.sampled_from([b"200 OK", b"204 x", b"304 ", b"103 x", b"500 \xff"]))
def test_a_rendered_response_is_read_as_what_was_understood(made: bytes, close: bool, version: int, status: bytes) -> None:
    try:
        head = parse_response(b"HTTP/1.1 " + status + b"\r\n" + made + b"\r\n", b"GET")
    except HeadError:
        return
    dechunk = version == 10 and head.framing == CHUNKED
    rendered = render_response(head, close=close, client_version=version, dechunk=dechunk)
    again = parse_response(rendered, b"GET")
    assert (again.status, again.reason) == (head.status, head.reason)
    if not dechunk:
        assert (again.framing, again.length) == (head.framing, head.length)
    if head.framing == LENGTH:
        assert again.first(b"content-length") == b"%d" % head.length
    assert len(rendered.split(b"\r\n")) == len(again.fields) + 3
    assert render_response(again, close=close, client_version=version, dechunk=dechunk) == rendered, "rendering is stable"


def dressed(dress: Dress, *fields: bytes) -> list[bytes]:
    """The lines a client gets for these, so dressed."""
    head = parse_response(b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"", b""]), b"GET")
    return render_response(head, close=False, client_version=11, dechunk=False, dress=dress).split(b"\r\n")[1:-2]


def test_what_we_say_about_caches_stands_beside_what_the_server_says() -> None:
    """An answer that also depends on Accept-Encoding still does."""
    dress = Dress(put=((b"Vary", b"Origin"), (b"X-Ours", b"1")))
    assert dressed(dress, b"vary: Accept-Encoding", b"x-ours: 2", b"Content-Length: 0") == [
        *(b"vary: Accept-Encoding", b"Content-Length: 0", b"Vary: Origin", b"X-Ours: 1")
    ]


def test_what_is_hidden_does_not_stand_for_what_is_added() -> None:
    dress = Dress(add=((b"X-Frame-Options", b"DENY"),), drop=frozenset({b"x-frame-options"}))
    assert dressed(dress, b"X-Frame-Options: ALLOWALL", b"Content-Length: 0") == [b"Content-Length: 0", b"X-Frame-Options: DENY"]


def test_no_dress_hides_where_a_message_ends() -> None:
    dress = Dress(drop=frozenset({b"content-length", b"transfer-encoding"}))
    assert dressed(dress, b"Content-Length: 5") == [b"Content-Length: 5"]
    assert dressed(dress, b"Transfer-Encoding: chunked") == [b"Transfer-Encoding: chunked"]
