import pytest

from mcpproxy.http.fields import (
    ENDS_IN_REQUEST,
    ENDS_IN_RESPONSE,
    FAMILIES,
    FAMILIES_REFUSED_IN_TRAILERS,
    FAMILIES_THAT_END_IN_REQUEST,
    KEPT_WHATEVER_CONNECTION_SAYS,
    REFUSED_IN_TRAILERS,
    TABLE,
    is_token,
    may_be_trailer,
    options,
)


def test_every_row_is_lower_case_known_once_and_says_why() -> None:
    names = [row.name for row in TABLE + FAMILIES]
    assert len(names) == len(set(names))
    for row in TABLE + FAMILIES:
        assert row.name == row.name.lower()
        assert row.flags
        assert set(row.flags) <= set("qst")
        assert row.why


def test_the_rows_are_counted() -> None:
    """A new row is a new decision: it changes a number here."""
    assert (len(ENDS_IN_REQUEST), len(ENDS_IN_RESPONSE), len(REFUSED_IN_TRAILERS)) == (12, 9, 38)
    assert (FAMILIES_THAT_END_IN_REQUEST, FAMILIES_REFUSED_IN_TRAILERS) == (
        (b"proxy", b"x-forwarded-"),
        (b"proxy", b"x-forwarded-", b"if-", b"mcp-"),
    )


def test_what_frames_or_routes_is_never_a_trailer() -> None:
    for name in KEPT_WHATEVER_CONNECTION_SAYS | ENDS_IN_REQUEST - {b"http2-settings"} | ENDS_IN_RESPONSE - {b"http2-settings"}:
        assert not may_be_trailer(name)
    for name in (b"digest", b"grpc-status", b"server-timing", b"x-checksum", b"etag"):
        assert may_be_trailer(name)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], set()),
        ([b"close"], {b"close"}),
        ([b"Keep-Alive, X-Secret"], {b"keep-alive", b"x-secret"}),
        ([b"TE\t, \tUpgrade", b"close"], {b"te", b"upgrade", b"close"}),
        ([b", ,,"], {b""}),
        ([b""], {b""}),
    ],
)
def test_options_of_all_connection_fields_count(values: list[bytes], expected: set[bytes]) -> None:
    assert options([(b"X", b"x", b"close"), *((b"Connection", b"connection", value) for value in values)]) == expected


def test_tokens() -> None:
    assert all(is_token(token) for token in (b"GET", b"a", b"!#$%&'*+-.^_`|~09azAZ"))
    assert not any(is_token(text) for text in (b"", b"a b", b"a:", b"\xfc", b"a\n", b"(", b"a\0"))
