"""Fields of HTTP/2 as heads of HTTP/1.1, and what is refused on the way."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.http import h2head, upgrade
from mcpproxy.http.h2head import Malformed
from mcpproxy.http.head import HeadLimits

Fields = list[tuple[bytes, bytes]]
METHOD, PATH, SCHEME, AUTHORITY = (b":method", b"POST"), (b":path", b"/mcp"), (b":scheme", b"https"), (b":authority", b"a.example")
START = [METHOD, SCHEME, AUTHORITY, PATH]


def without(field: tuple[bytes, bytes]) -> Fields:
    return [kept for kept in START if kept != field]


def with_(field: tuple[bytes, bytes]) -> Fields:
    """The good request with another value for one pseudo-field."""
    return [field if kept[0] == field[0] else kept for kept in START]


def test_a_request_becomes_the_canonical_head() -> None:
    found = h2head.request([*START, (b"accept", b"x"), (b"host", b"A.example"), (b"content-length", b"5")])
    assert found.head == found.whole == b"POST /mcp HTTP/2.0\r\nhost: a.example\r\naccept: x\r\ncontent-length: 5\r\n\r\n"
    assert found.length == 5


def test_a_body_of_unknown_length_goes_on_in_chunks() -> None:
    found = h2head.request(START)
    assert found.head == b"POST /mcp HTTP/2.0\r\nhost: a.example\r\ntransfer-encoding: chunked\r\n\r\n"
    assert found.whole == b"POST /mcp HTTP/2.0\r\nhost: a.example\r\n\r\n"
    assert found.length == -1


def test_cookies_are_joined_where_the_first_stood() -> None:
    """RFC 9113 §8.2.3."""
    found = h2head.request([*START, (b"cookie", b"a=1"), (b"accept", b"x"), (b"cookie", b"b=2")])
    assert found.whole == b"POST /mcp HTTP/2.0\r\nhost: a.example\r\ncookie: a=1; b=2\r\naccept: x\r\n\r\n"


def test_host_may_stand_for_the_authority() -> None:
    found = h2head.request([*without(AUTHORITY), (b"host", b"b.example:8443")])
    assert found.whole == b"POST /mcp HTTP/2.0\r\nhost: b.example:8443\r\n\r\n"


@pytest.mark.parametrize("name", [b":method", b":path", b":scheme", b":authority"])
def test_a_pseudo_field_comes_once_and_first(name: bytes) -> None:
    """RFC 9113 §8.3."""
    again = next(field for field in START if field[0] == name)
    with pytest.raises(Malformed):
        h2head.request([*START, again])
    with pytest.raises(Malformed):
        h2head.request([*without(again), (b"accept", b"x"), again])
    with pytest.raises(Malformed):
        h2head.request([*without(again), (b"host", b"a.example"), again])
    with pytest.raises(Malformed):
        h2head.request([*without(again), (b"cookie", b"a"), again])
    with pytest.raises(Malformed):
        h2head.request(without(again))


BAD = {
    "8.3 unknown pseudo-field": [*START, (b":version", b"2")],
    "8.3 response pseudo-field": [*START, (b":status", b"200")],
    "RFC 8441 §4 protocol without CONNECT": [*START, (b":protocol", b"websocket")],
    "RFC 8441 §4 another protocol": [*with_((b":method", b"CONNECT")), (b":protocol", b"connect-udp")],
    "RFC 8441 §4 no path": [(b":method", b"CONNECT"), SCHEME, AUTHORITY, (b":protocol", b"websocket")],
    "RFC 8441 §4 no scheme": [(b":method", b"CONNECT"), PATH, AUTHORITY, (b":protocol", b"websocket")],
    "RFC 8441 §4 no authority": [(b":method", b"CONNECT"), PATH, SCHEME, (b":protocol", b"websocket"), (b"host", b"a.example")],
    "RFC 8441 a length": [*with_((b":method", b"CONNECT")), (b":protocol", b"websocket"), (b"content-length", b"5")],
    "RFC 8441 an upgrade": [*with_((b":method", b"CONNECT")), (b":protocol", b"websocket"), (b"upgrade", b"h2c")],
    **{
        f"8.3.1 method {value!r}": with_((b":method", value))
        for value in (b"", b"GE T", b"GET\t", b"GET:", b"G" * 33, b"GET / HTTP/1.1\r\n")
    },
    **{
        f"8.3.1 path {value!r}": with_((b":path", value))
        for value in (b"", b"mcp", b"/a b", b"/a\tb", b"/\x7f", b"/\xe9", b"*", b"http://a/", b"/\r\n")
    },
    **{f"8.3.1 scheme {value!r}": with_((b":scheme", value)) for value in (b"", b"ftp", b"https ", b"HTTPS\r\n")},
    **{
        f"8.3.1 authority {value!r}": with_((b":authority", value))
        for value in (b"", b"a b", b"a/b", b"user@a.example", b"a.example:99999", b"a.example:x", b"a,b", b"a\r\n", b"a.example:80:80")
    },
    "8.3.1 host and authority differ": [*START, (b"host", b"b.example")],
    "two hosts": [*START, (b"host", b"a.example"), (b"host", b"a.example")],
    "8.5 connect with a path": with_((b":method", b"CONNECT")),
    "8.5 connect without authority": [(b":method", b"CONNECT"), (b"host", b"a.example")],
    **{
        f"8.2.1 name {name!r}": [*START, (name, b"x")]
        for name in (b"", b"Accept", b"a b", b"a:b", b"a\r\n", b"a\0", b"\x7f", b"\xe9", b"a\t", b"(a)")
    },
    **{
        f"8.2.1 value {value!r}": [*START, (b"x", value)]
        for value in (b"a\rb", b"a\nb", b"a\0b", b"a\r\nb: c", b" a", b"a ", b"\ta", b"a\t", b"a\x01b", b"a\x7fb", b"\x1b[2J")
    },
    **{f"8.2.2 {name!r}": [*START, (name, b"close")] for name in sorted(h2head.OF_CONNECTIONS)},
    "8.2.2 te": [*START, (b"te", b"gzip")],
    "8.2.2 te and more": [*START, (b"te", b"trailers, gzip")],
    **{
        f"8.1.1 length {value!r}": [*START, (b"content-length", value)]
        for value in (b"", b"+1", b"-1", b"1_0", b"0x1", b"1,1", b"\xb2", b"9" * 19)
    },
    "8.1.1 two lengths": [*START, (b"content-length", b"1"), (b"content-length", b"1")],
    "a control in a cookie": [*START, (b"cookie", b"a"), (b"cookie", b"b\r\nx: y")],
}


@pytest.mark.parametrize("fields", BAD.values(), ids=BAD.keys())
def test_what_is_no_request_is_refused(fields: Fields) -> None:
    with pytest.raises(Malformed):
        h2head.request(fields)


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"OPTIONS"), SCHEME, AUTHORITY, (b":path", b"*")],
        with_((b":path", b"/a?b=%20&c=[d]")),
        with_((b":authority", b"[::1]:8443")),
        with_((b":scheme", b"http")),
        [*START, (b"te", b"trailers")],
        [*START, (b"x", b"")],
        [*START, (b"x", b"a\tb \xe9")],
        [*START, (b"content-length", b"0")],
    ],
)
def test_what_is_unusual_is_still_a_request(fields: Fields) -> None:
    assert h2head.request(fields).whole.endswith(b"\r\n\r\n")


def test_connect_is_a_request_that_http_head_refuses() -> None:
    """RFC 9113 §8.5. It gets an answer, 405, like TRACE."""
    found = h2head.request([(b":method", b"CONNECT"), (b":authority", b"a.example:443")])
    assert found.whole == b"CONNECT a.example:443 HTTP/2.0\r\nhost: a.example:443\r\n\r\n"


def test_a_websocket_is_asked_for_as_over_http_1() -> None:
    """RFC 8441 §4, §5."""
    fields = [
        (b":method", b"CONNECT"),
        (b":protocol", b"WebSocket"),
        SCHEME,
        AUTHORITY,
        PATH,
        (b"sec-websocket-version", b"13"),
        (b"origin", b"x"),
    ]
    found = h2head.request([*fields, (b"sec-websocket-key", b"client's"), (b"sec-websocket-accept", b"none")])
    assert found.head == found.whole
    assert not found.may_end
    assert found.head == (
        b"GET /mcp HTTP/2.0\r\nhost: a.example\r\nsec-websocket-version: 13\r\norigin: x\r\n"
        b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: %b\r\n\r\n" % upgrade.KEY
    )
    heads = [(name, name, value) for name, value in (line.split(b": ") for line in found.head.split(b"\r\n")[1:-2])]
    assert upgrade.asked(b"GET", 11, heads) == b"websocket"


ANYTHING = st.tuples(
    st.one_of(st.sampled_from([b"accept", b"cookie", b"host", b"te", b":path"]), st.binary(max_size=8)), st.binary(max_size=12)
)


@given(st.lists(ANYTHING, max_size=6))
def test_no_field_can_be_taken_for_another(fields: Fields) -> None:
    """Whatever is accepted has as many lines as it has fields, each a name and a value, and one end."""
    try:
        found = h2head.request([*START, *fields])
    except Malformed:
        return
    lines = found.whole.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert all(re.fullmatch(rb"[!-9;-~]+: [\t -~\x80-\xff]*", line) for line in lines[1:-2])
    cookies = sum(name == b"cookie" for name, _ in fields)
    hosts = sum(name == b"host" for name, _ in fields)
    assert len(lines) - 4 == len(fields) - hosts - max(cookies - 1, 0)
    assert len(found.whole) < HeadLimits().head


def test_trailers_are_judged_as_those_of_http_1() -> None:
    assert h2head.trailers([(b"x-checksum", b"1")]) == [(b"x-checksum", b"1")]
    for name in (b":path", b"host", b"content-length", b"authorization", b"mcp-session-id", b"x_y", b"X", b"te"):
        with pytest.raises(Malformed):
            h2head.trailers([(name, b"1")])
    with pytest.raises(Malformed):
        h2head.trailers([(b"x", b"y" * 10_000)])
    with pytest.raises(Malformed):
        h2head.trailers([(b"x", b"y")] * 33)


def test_a_response_head_becomes_fields() -> None:
    head = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nX-Empty:\r\nLink: <a:b>\r\n\r\n"
    assert h2head.response(head) == [(b":status", b"404"), (b"content-type", b"text/plain"), (b"x-empty", b""), (b"link", b"<a:b>")]


def test_a_response_has_no_fields_about_the_connection_behind_its_body() -> None:
    assert h2head.response_trailers([(b"X-Sum", b"1"), (b"Connection", b"close")]) == [(b"x-sum", b"1")]
