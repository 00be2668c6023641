"""Which web pages may call, and what their browsers are told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config import names
from mcpproxy.config.mistakes import Wrong
from mcpproxy.policy.origin import ALLOWED_FIELDS, PARAMETERS, Origins

APP = Origins(
    ("https://app.example.com", "https://*.tools.example", "http://localhost:*", "http://[::1]:6274", "https://xn--bcher-kva.example")
)
ANY = Origins(("*",))


@pytest.mark.parametrize(
    "origin",
    [
        b"https://app.example.com",
        b"https://a.tools.example",
        b"https://a.b-c.d_e.tools.example",
        b"http://localhost",
        b"http://localhost:6274",
        b"http://[::1]:6274",
        b"https://xn--bcher-kva.example",
    ],
)
def test_pages_that_may_call(origin: bytes) -> None:
    assert APP.allows(origin)
    assert ANY.allows(origin)


@pytest.mark.parametrize(
    "origin",
    [
        *(b"", b"null", b"NULL", b"*", b"app.example.com", b"//app.example.com", b"https://", b"https:", b"://"),
        *(b"http://app.example.com", b"https://app.example.com:443", b"https://app.example.com:8443", b"https://app.example.com:"),
        *(
            b"https://App.example.com",
            b"HTTPS://app.example.com",
            b"https://app.example.com.",
            b"https://app.example.com/",
            b"https://app.example.com/x",
        ),
        *(
            b" https://app.example.com",
            b"https://app.example.com ",
            b"https://app.example.com\n",
            b"https://app.example.com, https://app.example.com",
        ),
        *(
            b"https://appxexample.com",
            b"https://app.example.com.evil.test",
            b"https://evil.test?https://app.example.com",
            b"https://x@app.example.com",
        ),
        *(
            b"https://evilapp.example.com",
            b"https://tools.example",
            b"https://.tools.example",
            b"https://a..tools.example",
            b"https://eviltools.example",
        ),
        *(b"https://a.tools.example:8443", b"https://a/.tools.example", b"https://a@b.tools.example", b"https://\xe9.tools.example"),
        *(b"http://localhost:", b"http://localhost:x", b"http://localhost:123456", b"https://localhost:1", b"http://localhost.evil.test:1"),
        *(b"http://127.0.0.1:6274", b"http://[::1]", b"http://[::1]:62740", b"http://::1:6274", b"https://b\xc3\xbccher.example"),
    ],
)
def test_pages_that_may_not(origin: bytes) -> None:
    assert not APP.allows(origin)


@pytest.mark.parametrize("origin", [b"", b"null", b"NULL", b"example.com"])
def test_every_page_has_a_name(origin: bytes) -> None:
    """`null` is everybody's, and so nobody's."""
    assert not ANY.allows(origin)


@pytest.mark.parametrize(("label", "times"), [(b"a", 32_000), (b"a.", 16_000), (b"aaaa-.", 5_000), (b"-", 32_000), (b"a..", 10_000)])
def test_long_names_take_no_time(label: bytes, times: int) -> None:
    many = Origins([f"https://*.{'a.' * number}example" for number in range(60)])
    assert not many.allows(b"https://" + label * times + b"!")


@given(st.from_regex(r"https?://(\*\.)?[a-z]{1,3}(\.[a-z]{1,3}){0,2}(:[0-9]{1,5}|:\*)?", fullmatch=True), st.text(max_size=30))
def test_a_page_may_call_when_it_is_the_one_that_was_written(configured: str, other: str) -> None:
    try:
        normal = names.origin(configured)
    except Wrong:
        return
    origins = Origins((normal,))
    page = normal.replace("*.", "www.").replace(":*", ":81")
    assert origins.allows(page.encode())
    for wrong in (other, other + page, page + other, page.replace("://", "://" + other)):
        same = wrong == page or ("*." in normal and wrong.partition("://")[2].endswith(normal.partition("*")[2].removesuffix(":*")))
        assert same or ":*" in normal or not origins.allows(wrong.encode("latin-1", "replace"))


def test_an_answer_names_the_page_it_is_for() -> None:
    granted = dict(APP.grants(b"https://app.example.com"))
    assert granted[b"Access-Control-Allow-Origin"] == b"https://app.example.com"
    assert granted[b"Vary"] == b"Origin"
    assert {b"Mcp-Session-Id", b"WWW-Authenticate", b"Retry-After"} <= set(granted[b"Access-Control-Expose-Headers"].split(b", "))
    assert b"Access-Control-Allow-Credentials" not in granted
    assert APP.varies() == ((b"Vary", b"Origin"),)


def test_every_page_gets_the_same_answer() -> None:
    granted = dict(ANY.grants(b"https://app.example.com"))
    assert granted[b"Access-Control-Allow-Origin"] == b"*"
    assert b"Vary" not in granted
    assert ANY.varies() == ()


def allowed(fields: bytes, origins: Origins = APP) -> list[bytes]:
    return dict(origins.preflight(b"https://app.example.com", fields))[b"Access-Control-Allow-Headers"].split(b", ")


USUAL = ALLOWED_FIELDS.split(b", ")


def test_a_preflight_allows_what_mcp_needs() -> None:
    told = dict(APP.preflight(b"https://app.example.com", b"authorization, content-type"))
    assert told[b"Access-Control-Allow-Methods"].split(b", ") == [b"GET", b"POST", b"DELETE", b"OPTIONS"]
    assert told[b"Access-Control-Max-Age"] == b"7200"
    assert {b"Authorization", b"MCP-Protocol-Version", b"Mcp-Method", b"Mcp-Name", b"Mcp-Session-Id", b"Last-Event-ID"} <= set(USUAL)
    assert told[b"Access-Control-Allow-Headers"].split(b", ") == USUAL


def test_mirrored_arguments_are_allowed_by_name() -> None:
    assert allowed(b"content-type,mcp-param-region, Mcp-Param-Tenant_id,\tmcp-param-a.b , mcp-param-region") == [
        *USUAL,
        *(b"mcp-param-region", b"mcp-param-tenant_id", b"mcp-param-a.b"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b",",
        b"x-other",
        b"mcp-param-",
        b"x-mcp-param-y",
        b"mcp-param-a b",
        b"mcp-param-\xe9",
        b"mcp-param-" + b"a" * 65,
        b"mcp-param-a:b",
        b"cookie",
    ],
)
def test_other_fields_are_not(fields: bytes) -> None:
    assert allowed(fields) == USUAL


def test_many_names_are_not_all_repeated() -> None:
    assert len(allowed(b",".join(b"mcp-param-%d" % number for number in range(1000)))) == len(USUAL) + PARAMETERS
    assert allowed(b"mcp-param-" * 3000) == USUAL


def test_fields_that_hold_keys_of_the_route_are_allowed() -> None:
    origins = Origins(("*",), ("Authorization", "X-API-Key", "X-Agent-Key"))
    assert allowed(b"", origins) == [*USUAL, b"X-Agent-Key"]


@given(st.binary(max_size=200))
def test_whatever_a_preflight_asks_for_the_answer_is_a_field(fields: bytes) -> None:
    for name in allowed(fields.replace(b"\r", b"").replace(b"\n", b"")):
        assert name.isascii()
        assert name.decode().isprintable()
        assert b" " not in name
