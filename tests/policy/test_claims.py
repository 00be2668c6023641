"""What a token must say of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.policy.claims import Believed, Expected, lead, words
from mcpproxy.policy.verdict import Refused
from tests.policy.minting import ISSUER, NOW, RESOURCE, good, settings


def judge(claims, now=NOW, *, audience=(RESOURCE,), issuer=True, end=True, **given):
    return Expected("corp", settings(**given), audience).judge(claims, now, issuer=issuer, end=end, digest="d" * 64)


def kind(claims, **given):
    judged = judge(claims, **given)
    return judged.kind if isinstance(judged, Refused) else "believed"


def test_who_it_is():
    principal = judge(good(scp=["admin"], realm_access={"roles": ["ops", 7]}), roles_claim="realm_access.roles", roles=("staff",)).principal
    assert ("alice", "corp") == (principal.name, principal.by)
    assert {"files:read", "mail", "admin"} == principal.scopes
    assert {"ops", "staff"} == principal.roles
    assert 16 == len(principal.key)
    assert "1" != principal.key, "a digest"


def test_the_key_tells_tokens_apart():
    assert judge(good(jti="1")).principal.key == judge(good(jti="1", exp=NOW + 9)).principal.key
    assert judge(good(jti="1")).principal.key != judge(good(jti="2")).principal.key
    assert "d" * 16 == judge(good(jti=None)).principal.key == judge(good(jti=7)).principal.key


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        (good(iss="https://evil.example/"), "token-issuer"),
        (good(iss=ISSUER + "/"), "token-issuer"),
        (good(iss=[ISSUER]), "token-issuer"),
        (good(iss=None), "token-issuer"),
        (good(aud="https://other.example/mcp"), "token-audience"),
        (good(aud=RESOURCE + "/x"), "token-audience"),
        (good(aud=RESOURCE.replace("https", "http")), "token-audience"),
        (good(aud=RESOURCE.upper()), "token-audience"),
        (good(aud="https://mcp.example:8443/mcp"), "token-audience"),
        (good(aud=f"{RESOURCE} https://other.example"), "token-audience"),
        (good(aud=[]), "token-audience"),
        (good(aud=[[RESOURCE]]), "token-audience"),
        (good(aud={RESOURCE: 1}), "token-audience"),
        (good(aud=""), "token-audience"),
        (good(aud=None), "token-audience"),
        (good(exp=NOW - 31), "token-expired"),
        (good(exp=NOW - 30), "token-expired"),
        (good(exp=0), "token-expired"),
        (good(exp=None), "token-claims"),
        (good(exp="2100-01-01"), "token-claims"),
        (good(exp=str(NOW + 600)), "token-claims"),
        (good(exp=True), "token-claims"),
        (good(exp=[NOW + 600]), "token-claims"),
        (good(exp=-1), "token-claims"),
        (good(exp=float("inf")), "token-claims"),
        (good(exp=float("nan")), "token-claims"),
        (good(exp=10**400), "token-claims"),  # no float is that large
        (good(nbf=10**400), "token-claims"),
        (good(nbf=NOW + 31), "token-not-yet-valid"),
        (good(iat=NOW + 31), "token-not-yet-valid"),
        (good(nbf="soon"), "token-claims"),
        (good(iat=False), "token-claims"),
        (good(sub=None), "token-claims"),
        (good(sub=""), "token-claims"),
        (good(sub=7), "token-claims"),
        (good(sub="a\nb"), "token-claims"),
        (good(sub="a\x00b"), "token-claims"),
        (good(sub="a\u202eb"), "token-claims"),
        (good(sub="x" * 257), "token-claims"),
        (good(sub=" alice"), "token-claims"),
        (good(sub="alice\u00a0"), "token-claims"),
        (good(sub="re\u0301ne"), "token-claims"),
        (good(cnf={"jkt": "x"}), "token-bound"),
        (good(cnf={"x5t#S256": "x"}), "token-bound"),
        (good(cnf=7), "token-bound"),
        ({}, "token-issuer"),
    ],
)
def test_what_is_refused(claims, refused):
    assert refused == kind(claims)


@pytest.mark.parametrize(
    "claims",
    [
        good(),
        good(exp=NOW - 29),
        good(nbf=NOW + 30),
        good(iat=NOW + 30),
        good(iat=None, nbf=None, jti=None, scope=None),
        good(aud=["https://other.example", RESOURCE]),
        good(aud=RESOURCE + "/"),
        good(aud="HTTPS://MCP.example:443/mcp"),
        good(scope=7, scp={"a": 1}),
        good(exp=NOW + 0.5),
    ],
)
def test_what_is_believed(claims):
    assert "believed" == kind(claims)


def test_until_and_since_know_the_skew():
    believed = judge(good(exp=NOW + 100, nbf=NOW - 100, iat=NOW - 200), skew=7.0)
    assert (NOW + 107, NOW - 107) == (believed.until, believed.since)


def test_the_audience_of_the_configuration_goes_before_the_routes():
    expected = Expected("corp", settings(audience=("api://mcp",)), (RESOURCE,))
    assert isinstance(expected.judge(good(aud="api://mcp"), NOW), Believed)
    assert "token-audience" == expected.judge(good(), NOW).kind


def test_without_any_audience_nothing_is_believed():
    assert "token-audience" == kind(good(), audience=())


def test_an_answer_may_do_without_issuer_and_end():
    said = good(iss=None, exp=None)
    assert "believed" == kind(said, issuer=False, end=False)
    assert "token-issuer" == kind(good(iss="https://evil.example"), issuer=False)
    assert "token-expired" == kind(good(exp=NOW - 60), end=False)


@pytest.mark.parametrize(
    ("path", "found"),
    [("sub", "alice"), ("a.b", 1), ("https://x.example/role", 2), ("a.b.c", None), ("no", None), ("a.", None), ("", None), ("sub.x", None)],
)
def test_claims_are_found_by_name_or_by_dots(path, found):
    assert found == lead({"sub": "alice", "a": {"b": 1}, "https://x.example/role": 2}, path)


@pytest.mark.parametrize(
    ("value", "said"), [("a b  c", ("a", "b", "c")), (["a", 1, "b c"], ("a", "b c")), (None, ()), (7, ()), ({"a": 1}, ())]
)
def test_words(value, said):
    assert said == words(value)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = plain | st.lists(plain, max_size=3) | st.dictionaries(st.text(max_size=3), plain, max_size=2)
names = st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "scp", "cnf", "roles"])


@given(st.dictionaries(names, anything))
def test_whatever_it_says_it_is_judged(claims):
    assert isinstance(judge({**good(), **claims}, roles_claim="roles"), Believed | Refused)
