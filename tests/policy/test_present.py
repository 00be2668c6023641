"""What a request shows: one credential, none, or more than it may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.model import Upstream
from mcpproxy.config.policies import Auth, Credential, Identity
from mcpproxy.http.head import HeadError, HeadLimits, RequestHead, parse_request
from mcpproxy.http.replies import MESSAGES
from mcpproxy.policy import present, verdict
from mcpproxy.policy.present import IN_URL, LONGEST, Look, ours

KEYS = Auth(type="api-key", file="keys")
JWT = Auth(type="jwt", issuer="https://login.example.com")
MTLS = Auth(type="mtls")
LIMITS = HeadLimits(head=1 << 20, target=1 << 16)
KEY = "mcpp_0123456789_" + "s" * 38


def head(*fields: str, target: str = "/mcp") -> RequestHead:
    lines = [f"POST {target} HTTP/1.1", "Host: a.example", *fields, "Content-Length: 0", "", ""]
    return parse_request("\r\n".join(lines).encode("latin-1"), LIMITS)


def shown(*fields: str, auths: tuple[Auth, ...] = (KEYS,)) -> tuple[str, str, str] | None:
    found = Look(auths).credential(head(*fields))
    return None if found is None else (found.scheme, found.value.decode(), found.field.decode())


def refused(*fields: str, auths: tuple[Auth, ...] = (KEYS,), target: str = "/mcp") -> tuple[int, str]:
    with pytest.raises(HeadError) as caught:
        Look(auths).credential(head(*fields, target=target))
    assert caught.value.kind in MESSAGES
    return caught.value.status, caught.value.kind


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], None),
        (["Authorization: Bearer abc"], ("bearer", "abc", "authorization")),
        (["aUTHORIZATION: bEARER   abc"], ("bearer", "abc", "authorization")),
        (["Authorization: Bearer a.b-c_d~e+f/g=="], ("bearer", "a.b-c_d~e+f/g==", "authorization")),
        (["X-API-Key: abc"], ("key", "abc", "x-api-key")),
        (["x-api-KEY:abc  "], ("key", "abc", "x-api-key")),
        (["X-API-Key: abc", "Authorization: Bearer abc"], ("bearer", "abc", "authorization")),
        (["Authorization: Bearer abc", "X-API-Key: abc"], ("bearer", "abc", "authorization")),
        (["Authorization: Basic YTpi"], None),
        (["Authorization: DPoP abc"], None),
        (["Authorization: Bearerabc"], None),
        (["Authorization: Bearer-abc"], None),
        (["Authorization: abc"], None),
        (["Authorization:"], None),
        (["Authorization: Basic YTpi", "X-API-Key: abc"], ("key", "abc", "x-api-key")),
        (["Proxy-Authorization: Bearer abc"], None),
        (["X_API_Key: abc"], None),
        (["X-Other-Key: abc", "Api-Key: abc"], None),
    ],
)
def test_what_is_shown(fields: list[str], found: tuple[str, str, str] | None) -> None:
    assert shown(*fields) == found


@pytest.mark.parametrize(
    "fields",
    [
        ["Authorization: Bearer abc", "Authorization: Bearer def"],
        ["Authorization: Bearer abc", "authorization: Bearer abc"],
        ["Authorization: Basic YTpi", "AUTHORIZATION: Bearer abc"],
        ["Authorization: Basic YTpi", "Authorization: Basic YTpi"],
        ["Authorization: Bearer abc", "X-API-Key: def"],
        ["X-API-Key: abc", "Authorization: Bearer def"],
        ["X-API-Key: abc", "X-Api-Key: abc"],
    ],
)
def test_more_than_one_is_refused(fields: list[str]) -> None:
    assert refused(*fields) == (400, "several-credentials")


@pytest.mark.parametrize(
    "field",
    [
        "Authorization: Bearer",
        "Authorization: bearer ",
        "Authorization: Bearer: abc",
        "Authorization: Bearer\tabc",
        "Authorization: Bearer=abc",
        "Authorization: Bearer abc def",
        "Authorization: Bearer abc, Bearer def",
        "Authorization: Bearer abc,",
        'Authorization: Bearer "abc"',
        "Authorization: Bearer a=b",
        "Authorization: Bearer \xe9",
        "X-API-Key:",
        "X-API-Key: abc def",
        "X-API-Key: Bearer abc",
        "X-API-Key: abc,def",
    ],
)
def test_what_is_malformed_is_refused(field: str) -> None:
    assert refused(field) == (400, "bad-credential")


def test_a_credential_of_any_size_is_too_large_beyond_the_limit() -> None:
    assert shown("Authorization: Bearer " + "a" * LONGEST) is not None
    assert refused("Authorization: Bearer " + "a" * (LONGEST + 1)) == (431, "head-too-large")


def test_the_route_says_where_to_look() -> None:
    own = Auth(type="api-key", file="keys", headers=("X-Agent-Key", "x-team-KEY"))
    assert shown("Authorization: Bearer abc", "X-API-Key: def", auths=(own,)) is None
    assert shown("X-AGENT-KEY: abc", auths=(own,)) == ("key", "abc", "x-agent-key")
    assert shown("Authorization: Bearer abc", auths=(own, JWT)) == ("bearer", "abc", "authorization")
    assert refused("X-Agent-Key: abc", "X-Team-Key: def", auths=(own,)) == (400, "several-credentials")
    assert refused("X-Agent-Key: abc", "Authorization: Bearer def", auths=(JWT, own)) == (400, "several-credentials")
    assert shown("X-API-Key: abc", auths=(JWT,)) is None
    assert shown("Authorization: Bearer abc", auths=(MTLS,)) is None
    assert refused("Authorization: Bearer abc", "Authorization: Bearer abc", auths=(MTLS,)) == (400, "several-credentials")


@pytest.mark.parametrize(
    "target",
    [
        *(f"/mcp?{name.decode()}=abc" for name in sorted(IN_URL)),
        "/mcp?Access_Token=abc",
        "/mcp?a=1&api_key=abc",
        "/mcp?a=1;api_key=abc",
        "/mcp?api%5Fkey=abc",
        "/mcp?%61pi_key=abc",
        "/mcp?api_key",
        "/mcp?api_key[]=abc",
        "/mcp?api_key%5B0%5D=abc",
        "/mcp?a=?&token=abc",
        f"/mcp?key={KEY}",
        f"/mcp?q={KEY[:20]}",
        f"/mcp?q=a%20{KEY.replace('_', '%5f')}",
        f"/mcp/{KEY}",
        f"/mcp/{KEY.replace('m', '%6D')}/x",
    ],
)
def test_a_credential_in_the_url_is_refused_also_beside_a_good_one(target: str) -> None:
    assert refused(f"Authorization: Bearer {KEY}", target=target) == (400, "credential-in-url")


@pytest.mark.parametrize(
    "target", ["/mcp?key=abc", "/mcp?session_id=0123", "/mcp?tokens=3", "/mcp?q=api_key", "/token", "/mcp?", "/mcp?%zz=%", "/mcp_x?mcpp_=1"]
)
def test_ordinary_urls_pass(target: str) -> None:
    assert Look((KEYS,)).credential(head(target=target)) is None


names = st.sampled_from(["Authorization", "authorization", "X-API-Key", "x-api-key", "Accept"])
values = st.sampled_from(["Bearer a", "bearer b", "Basic a", "a", "b", "", "Bearer", "Bearer a b"])


@given(st.lists(st.tuples(names, values), max_size=4))
def test_there_is_never_a_second_reading(fields: list[tuple[str, str]]) -> None:
    """Turned round, the fields show the same or are refused alike; what is shown is what every field that shows something shows."""
    lines = [f"{name}: {value}" for name, value in fields]
    readings = set()
    for order in (lines, lines[::-1]):
        try:
            readings.add(shown(*order))
        except HeadError as error:
            readings.add(error.status)  # type: ignore[arg-type]
    assert len(readings) == 1
    (reading,) = readings
    if isinstance(reading, tuple):
        told = {value.rpartition(" ")[2] for name, value in fields if name.lower() != "accept" and not value.startswith("Basic")}
        bare = {value for name, value in fields if name.lower() == "authorization" and " " not in value}
        assert reading[1] in told and told - bare <= {reading[1]}


# -- what does not go on ------------------------------------------------------------------------------------------------------------------------


def up(**more: object) -> Upstream:
    return Upstream(urls=("http://127.0.0.1:1",), **more)  # type: ignore[arg-type]


def test_credentials_and_cookies_end_here() -> None:
    own = Auth(type="api-key", file="keys", headers=("X-Agent-Key",))
    for auths, extra in [((KEYS,), set()), ((JWT,), set()), ((MTLS,), set()), ((own,), {b"x-agent-key"})]:
        assert Look(auths).ends_here(up()) == {b"authorization", b"x-api-key", b"cookie"} | extra


def test_unless_the_configuration_says_otherwise() -> None:
    look = Look((KEYS,))
    assert look.ends_here(up(cookies=True)) == {b"authorization", b"x-api-key"}
    assert look.ends_here(up(credential=Credential(type="passthrough"))) == {b"cookie"}
    assert look.ends_here(up(credential=Credential(type="passthrough"), cookies=True, principal_header="X-Caller")) == {b"x-caller"}


def test_what_we_say_ourselves_no_client_can_say() -> None:
    assert ours(up()) == frozenset()
    assert ours(up(principal_header="X-Caller", identity=Identity())) == {b"x-caller", b"x-mcp-identity"}
    assert ours(up(credential=Credential(type="header", header="X-Upstream-Key", value="env:K"))) == {b"x-upstream-key"}
    for kind in ("client-credentials", "token-exchange", "sigv4"):
        signed = {b"x-amz-date", b"x-amz-content-sha256", b"x-amz-security-token"} if kind == "sigv4" else set()
        assert ours(up(credential=Credential(type=kind))) == {b"authorization"} | signed
    assert b"x-upstream-key" in Look((KEYS,)).ends_here(up(credential=Credential(type="header", header="X-Upstream-Key", value="env:K")))


def test_those_who_show_nothing_are_told_so() -> None:
    assert (present.NOTHING_SHOWN.status, present.NOTHING_SHOWN.error) == (401, "")
    for refusal in (present.NOTHING_SHOWN, present.NOT_KNOWN):
        assert isinstance(refusal, verdict.Refused) and refusal.kind in MESSAGES
