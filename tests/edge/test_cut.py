"""Cutting values out of a key is exact: same key means same head but for the values, and filling gives back what compiling would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.edge.cut import REQUEST_CUTS, RESPONSE_CUTS, cut, template

HEAD = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\ntraceparent: %b\r\nAccept: x\r\n\r\n"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

lines = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 5",
            b"content-length:7",
            b"Content-Length: 07",
            b"Content-Length: +7",
            b"Content-Length: ",
            b"Content-Length: \0",
            b"traceparent: " + TRACE,
            b"X-Request-Id: abc",
            b"X-Request-Id: a\tb",
            b"Mcp-Param-city: Berlin",
            b"Mcp-Param-city: B\xc3",
            b" folded: Content-Length: 5",
            b"Host: a",
            b"Last-Event-ID: 17",
        ]
    ),
    max_size=8,
)


def test_heads_that_differ_in_length_and_trace_share_a_key():
    one, two = cut(REQUEST_CUTS, HEAD % (b"5", TRACE)), cut(REQUEST_CUTS, HEAD % (b"123", TRACE[:-2] + b"00"))
    assert one.key == two.key
    assert [b"5", TRACE] == one.values
    assert [b"Content-Length", b"traceparent"] == one.names


@pytest.mark.parametrize("value", [b"05", b"+5", b"-5", b"5 5", b"5,5", b"", b"\0", b"5_0", b"0x5", b"9" * 16])
def test_an_odd_length_stays_in_the_key(value):
    found = cut(REQUEST_CUTS, HEAD % (value, TRACE))
    assert found is None or b"Content-Length" not in found.names


def test_two_lengths_are_not_cut():
    assert cut(REQUEST_CUTS, b"POST / HTTP/1.1\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n") is None


def test_a_literal_nul_never_meets_a_template():
    assert cut(REQUEST_CUTS, HEAD % (b"\0", TRACE)) is None


@given(lines, lines)
def test_equal_keys_mean_heads_that_differ_in_cut_values_only(one, two):
    heads = [b"\r\n".join([b"POST / HTTP/1.1", *head, b"", b""]) for head in (one, two)]
    first, second = (cut(REQUEST_CUTS, head) for head in heads)
    if first is None or second is None or first.key != second.key:
        return
    assert first.names == second.names
    for head, found in zip(heads, (first, second), strict=True):
        rebuilt = found.key
        for value in found.values:
            rebuilt = rebuilt.replace(b"\0", value, 1)
        assert rebuilt == head.replace(b": ", b":") or rebuilt.replace(b": ", b":") == head.replace(b": ", b":")


def test_a_template_fills_the_rendered_head():
    found = cut(REQUEST_CUTS, HEAD % (b"5", TRACE))
    rendered = b"POST /mcp HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\ntraceparent: " + TRACE + b"\r\nX-Forwarded-Proto: https\r\n"
    made = template(rendered, found)
    other = cut(REQUEST_CUTS, HEAD % (b"77", TRACE[:-2] + b"00"))
    assert rendered.replace(b"Content-Length: 5", b"Content-Length: 77").replace(TRACE, TRACE[:-2] + b"00") == made.fill(other.values)


def test_a_value_that_was_not_forwarded_leaves_no_hole():
    found = cut(REQUEST_CUTS, b"GET / HTTP/1.1\r\nX-Request-Id: abc\r\nHost: a\r\n\r\n")
    made = template(b"GET / HTTP/1.1\r\nHost: a\r\n", found)
    assert [] == made.order
    assert b"GET / HTTP/1.1\r\nHost: a\r\n" == made.fill(found.values)


def test_a_field_that_was_rewritten_gives_no_template():
    found = cut(REQUEST_CUTS, b"POST / HTTP/1.1\r\nContent-Length: 5\r\nHost: a\r\n\r\n")
    assert template(b"POST / HTTP/1.1\r\ncontent-length: 5\r\nHost: a\r\n", found) is None


def test_response_dates_and_sessions_are_cut():
    head = b"HTTP/1.1 200 OK\r\ndate: %b\r\ncontent-length: 5\r\nmcp-session-id: %b\r\n\r\n"
    one = cut(RESPONSE_CUTS, head % (b"Sat, 21 Nov 2026 10:00:00 GMT", b"aa"))
    two = cut(RESPONSE_CUTS, head % (b"Sat, 21 Nov 2026 10:00:01 GMT", b"bb"))
    assert one.key == two.key
    assert one.values != two.values
