"""One head, judged by everything a route says: in which order, with which answer, and what the next hop is told."""

import json
import time

import pytest

from mcpproxy.edge.admission import UNREACHABLE_S, dressed, field_value, host_allowed
from mcpproxy.edge.facts import ANYBODY, Caller
from mcpproxy.http.forward import Dress
from mcpproxy.http.head import HeadLimits, parse_request
from mcpproxy.policy.verdict import Accepted, Ask, Refused
from tests.edge.town import People, Town
from tests.support.speakers import MODERN

LIMITS = HeadLimits()


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture
def town(steps, people, tmp_path):
    made = []

    def build(route="", **more):
        made.append(Town(steps, people, route=route, directory=tmp_path, **more))
        return made[-1]

    yield build
    for each in made:
        each.stop()


def head(*lines, method="POST", target="/mcp", host="localhost"):
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


def judged(town, raw, caller=ANYBODY, now=None):
    return town.admission.judge(parse_request(raw, LIMITS), raw, caller, now or time.time())


def key(people, name="alice"):
    return f"X-API-Key: {getattr(people, name).decode()}"


def bearer(token):
    return f"Authorization: Bearer {token.decode()}"


def text(found):
    """The answer of our own."""
    return found.answer(False).decode()


# -- in which order -------------------------------------------------------------------------------------------------------------------------------


def test_a_route_without_policies_has_no_admission(town):
    it = town('auth = "keys"')
    assert it.judge.routes[1].admission is None


def test_address_host_page_and_then_who(town, people):
    """The first that says no is the one that is heard, so that nobody's key is judged for somebody who may not come from there."""
    it = town('auth = "keys"\nallow_from = "10.0.0.0/8"\nallow_hosts = "localhost"\nallow_origins = "https://a.example"')
    wrong = head("Origin: https://b.example", "X-API-Key: wrong", host="other")
    barred = Caller(barred=frozenset({0}))
    assert judged(it, wrong, barred).kind == "address-denied"
    assert judged(it, wrong).kind == "host-denied"
    assert judged(it, head("Origin: https://b.example", "X-API-Key: wrong")).kind == "origin-denied"
    assert judged(it, head("Origin: https://a.example", "X-API-Key: wrong")).kind == "key-unknown"
    found = judged(it, head("Origin: https://a.example", key(people)))
    assert (found.answer, found.about) == (None, b',"principal":"alice","auth":"keys","key":"%b"' % people.alice[5:15])


def test_a_route_that_others_are_barred_from_is_no_business_of_this_one(town, people):
    it = town('auth = "keys"\nallow_from = "10.0.0.0/8"')
    assert judged(it, head(key(people)), Caller(barred=frozenset({1}))).answer is None


def test_a_preflight_shows_no_credential(town):
    it = town('auth = "keys"\nallow_origins = "https://a.example"\ncors = true')
    ask = ("Origin: https://a.example", "Access-Control-Request-Method: POST")
    assert judged(it, head(*ask, method="OPTIONS")).status == 204
    assert judged(it, head(*ask)).status == 401, "only OPTIONS is one"
    assert judged(it, head(ask[0], method="OPTIONS")).status == 401
    assert judged(it, head(ask[1], method="OPTIONS")).status == 401


@pytest.mark.parametrize(
    "lines", [("Origin: https://a.example", "Origin: https://a.example"), ("origin: null", "Origin: https://a.example")]
)
def test_two_origins_are_refused(town, lines):
    found = judged(town('allow_origins = "https://a.example"'), head(*lines))
    assert (found.status, found.kind) == (400, "bad-origin")


# -- what answers carry, and who is told of them ----------------------------------------------------------------------------------------------

PAGE = "Origin: https://a.example"
READABLE = 'auth = ["keys", "corp"]\nscopes = ["files"]\nallow_origins = "https://a.example"\ncors = true\nmax_body = "1KiB"\n'


def plan_of(town, raw, **how):
    return town.front.shelves.anybody.plan_for(raw, **how)


REFUSED = {
    "two credentials": (["Authorization: Bearer a", "Authorization: Bearer b"], 400, "several-credentials"),
    "no credential at all": (["Authorization: Bearer !"], 400, "bad-credential"),
    "nothing shown": ([], 401, "no-credential"),
    "a body declared too large": (["KEY", "Content-Length: 1025"], 413, "body-too-large"),
    "a call in two ways": (
        ["KEY", "Content-Length: 9", f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: a", "Mcp-Method: b"],
        400,
        "header-mismatch",
    ),
    "a body nobody can read": (["KEY", "Content-Length: 9", "Content-Encoding: gzip"], 415, "unreadable-body"),
}


@pytest.mark.parametrize(("lines", "status", "kind"), REFUSED.values(), ids=REFUSED)
def test_a_page_can_read_whatever_is_said_to_it(lines, status, kind, town, people):
    it = town(READABLE + "security_headers = true\ntools = { allow = [{}], deny = [{ tools = 'x' }] }")
    plan = plan_of(it, head(PAGE, *[key(people) if line == "KEY" else line for line in lines]))
    assert (plan.status, plan.reason) == (status, kind.encode())
    for answer in (plan.answer, plan.answer_close):
        assert b"\r\nAccess-Control-Allow-Origin: https://a.example\r\n" in answer
        assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
    assert (b'"principal":"alice"' in plan.about) is ("KEY" in lines)


def test_a_template_refuses_a_body_with_the_routes_fields(town, people):
    it = town(READABLE)
    lengths = [judged_plan(it, people, length) for length in (1, 2, 3, 1025)]
    assert [plan.status for plan in lengths] == [0, 0, 0, 413]
    assert b"Access-Control-Allow-Origin: https://a.example" in lengths[-1].answer and b'"alice"' in lengths[-1].about


def judged_plan(it, people, length):
    return plan_of(it, head(PAGE, key(people), f"Content-Length: {length}"))


def test_a_preflight_carries_the_security_fields_too(town):
    it = town(READABLE + "security_headers = true")
    plan = plan_of(it, head(PAGE, "Access-Control-Request-Method: POST", method="OPTIONS"))
    assert plan.status == 204 and b"nosniff" in plan.answer


def test_who_lacks_a_scope_is_named_in_the_log(town, people):
    it = town(READABLE)
    it.know_keys()
    plan = plan_of(it, head(bearer(people.odd)))
    assert (plan.status, plan.reason) == (403, b"insufficient-scope")
    assert b',"principal":"odd","auth":"corp"' in plan.about


@pytest.mark.parametrize("place", ["oauth-protected-resource/mcp", "oauth-protected-resource", "oauth-authorization-server/mcp"])
def test_metadata_are_for_those_who_are_let_near(place, town, people):
    """Networks and hosts that are refused do not get them; pages of any origin do."""
    it = town('auth = "corp"\nallow_from = "10.0.0.0/8"\nallow_hosts = "localhost"\nallow_origins = "https://a.example"', path="/")
    asks = {"method": "GET", "target": f"/.well-known/{place}"}
    barred = it.front.shelves.of(Caller(barred=frozenset({0}))).plan_for(head(**asks))
    assert (barred.status, barred.reason) == (403, b"address-denied")
    wrong = plan_of(it, head(**asks, host="other"))
    assert (wrong.status, wrong.reason) == (403, b"host-denied")
    fine = plan_of(it, head("Origin: https://b.example", **asks))
    assert fine.status in (200, 404) and b"Access-Control-Allow-Origin: *" in fine.answer


@pytest.mark.parametrize("route", ['auth = "keys"', "tools = { allow = [{}] }", 'rate = "5/s"', "audit = true"])
def test_the_server_sees_the_method_that_was_judged(route, town, people, tmp_path):
    names = ("X-HTTP-Method-Override", "x-http-method", "X-Method-Override")
    more = f'[audit]\nfile = "{tmp_path / "audit.log"}"' if "audit" in route else ""
    it = town(route, more=more)
    ask = head(key(people), *[f"{name}: DELETE" for name in names])
    assert b"ethod-override" not in plan_of(it, ask).heads[0].lower() and b"x-http-method" not in plan_of(it, ask).heads[0].lower()
    if not more:  # else the other route is audited, too
        untouched = plan_of(it, head("X-HTTP-Method-Override: DELETE", target="/open")).heads[0]
        assert b"X-HTTP-Method-Override: DELETE" in untouched, "nobody judges there"


# -- who ---------------------------------------------------------------------------------------------------------------------------------------------


def test_scopes_are_asked_of_tokens_only(town, people):
    it = town('auth = ["keys", "corp", "certs"]\nscopes = ["files"]\npublic_url = "https://mcp.example/mcp"')
    it.know_keys()
    for shown in (key(people), bearer(people.anna)):
        assert judged(it, head(shown)).answer is None
    certified = judged(it, head(), Caller(certificate=people.ann))
    assert certified.answer is None and time.time() < certified.guard.until < float("inf"), "to the certificate's end"
    missing = judged(it, head(bearer(people.odd)))
    assert (missing.status, missing.kind) == (403, "insufficient-scope")
    assert 'error="insufficient_scope"' in text(missing) and 'scope="files"' in text(missing)


def test_a_certificate_counts_where_the_head_shows_nothing(town, people):
    it = town('auth = ["certs", "keys"]')
    ann = Caller(certificate=people.ann)
    assert b'"ann.test"' in judged(it, head(), ann).about
    assert b'"alice"' in judged(it, head(key(people)), ann).about
    assert judged(it, head("X-API-Key: wrong"), ann).status == 401
    assert judged(it, head()).kind == "no-credential"


def test_what_has_to_be_asked_first_stands_in_the_guard(town, people):
    it = town('auth = "corp"')
    raw = head(bearer(people.anna))
    found = judged(it, raw)
    assert (found.answer, found.about, found.guard.head) == (None, b"", raw)
    assert isinstance(it.admission.who(found.guard.credentials, time.time()), Ask)
    it.ask(found.guard.question)
    found = judged(it, raw)
    assert (found.guard.question, found.guard.head, found.guard.principal.name) == (None, b"", "anna")
    assert time.time() < found.guard.until <= people.end + 60


def test_an_end_is_asked_about_again(town, people):
    it = town('auth = "corp"')
    it.know_keys()
    found = judged(it, head(bearer(people.anna)))
    again = it.admission.who(found.guard.credentials, time.time())
    assert isinstance(again, Accepted) and again.principal == found.guard.principal
    late = it.admission.who(found.guard.credentials, people.end + 60.0)
    assert isinstance(late, Ask | Refused)


def test_the_challenge_says_how_to_do_better(town):
    it = town('auth = "corp"\nscopes = ["files"]\npublic_url = "https://mcp.example/mcp"')

    def challenge(refused):
        [(name, value)] = it.admission.challenge(refused, ("https", "localhost"))
        return name, value

    place = b'resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/mcp"'
    name, value = challenge(Refused("token-expired"))
    assert name == b"WWW-Authenticate" and value.startswith(b'Bearer error="invalid_token"') and place in value
    assert b'error="insufficient_scope"' in challenge(Refused("insufficient-scope", 403, "insufficient_scope"))[1]
    assert challenge(Refused("issuer-unreachable", 503, "")) == (b"Retry-After", b"%d" % UNREACHABLE_S)
    missing = text(judged(it, head()))
    assert "error=" not in missing and place.decode() in missing


def test_an_answer_to_who_is_refused_has_the_fields_of_the_route(town):
    it = town('auth = "keys"\nsecurity_headers = true\nallow_origins = "https://a.example"\ncors = true')
    said = text(judged(it, head("Origin: https://a.example")))
    for line in (
        "X-Frame-Options: DENY",
        "Strict-Transport-Security: ",
        "Access-Control-Allow-Origin: https://a.example",
        "WWW-Authenticate: Bearer",
    ):
        assert f"\r\n{line}" in said
    assert json.loads(said.partition("\r\n\r\n")[2])["error"]["data"]["reason"] == "no-credential"


# -- what the next hop is told ----------------------------------------------------------------------------------------------------------------------


def test_what_was_shown_ends_here_and_who_it_was_goes_on(town, people):
    it = town('auth = "keys"', upstream='principal_header = "X-Agent"')
    told = judged(it, head(key(people))).told
    assert {b"authorization", b"x-api-key", b"cookie", b"x-agent"} <= told.drop
    assert told.lines == b"X-Agent: alice\r\n"


def test_the_name_of_a_field_is_ours_also_where_nobody_is_asked(steps, people, tmp_path):
    it = Town(steps, people, route='rate = "1/s"', upstream='principal_header = "X-Agent"', directory=tmp_path)
    told = judged(it, head("X-Agent: admin")).told
    assert b"x-agent" in told.drop and b"authorization" not in told.drop and told.lines == b""
    it.stop()


@pytest.mark.parametrize(
    ("lines", "address", "chain"),
    [
        ((), b"10.0.0.1", b"10.0.0.1"),
        (("X-Forwarded-For: 192.0.2.7",), b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        (("X-Forwarded-For: 6.6.6.6, 192.0.2.7", "x-forwarded-for: 10.9.9.9"), b"192.0.2.7", b"6.6.6.6, 192.0.2.7, 10.9.9.9, 10.0.0.1"),
        (("X-Forwarded-For: 192.0.2.7, unknown",), b"10.0.0.1", b"192.0.2.7, unknown, 10.0.0.1"),
    ],
)
def test_a_trusted_proxy_joins_the_chain(town, people, lines, address, chain):
    it = town('auth = "keys"', listen='trusted_proxies = "10.0.0.0/8"')
    told = judged(it, head(key(people), *lines), Caller(proxy="10.0.0.1")).told
    assert told.address == address
    assert told.forwarded == b"X-Forwarded-For: %b\r\nX-Real-IP: %b\r\nX-Request-Id: " % (chain, address)
    assert judged(it, head(key(people), *lines)).told.forwarded == b"", "only of a trusted one"


@pytest.mark.parametrize(
    ("lines", "proto", "host"),
    [
        (("X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: a.example:8443"), b"https", b"a.example:8443"),
        (("X-Forwarded-Proto: gopher", "X-Forwarded-Host: a b"), b"", b""),
        ((), b"", b""),
    ],
)
def test_scheme_and_host_of_a_trusted_proxy(town, people, lines, proto, host):
    it = town('auth = "keys"', listen='trusted_proxies = "10.0.0.0/8"')
    told = judged(it, head(key(people), *lines), Caller(proxy="10.0.0.1")).told
    assert (told.proto, told.host) == (proto, host)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("agent-alpha", b"agent-alpha"),
        ("a b", b"a b"),
        ("grüße", b"gr%C3%BC%C3%9Fe"),
        ("a\r\nX: y", b"a%0D%0AX:%20y"),
        ("50%", b"50%25"),
        ("a\0", b"a%00"),
    ],
)
def test_a_name_in_a_field(name, field):
    said = field_value(name)
    assert said.replace(b"%20", b" ") == field.replace(b"%20", b" ")
    assert b"\r" not in said and b"\n" not in said and said.isascii()


# -- small parts ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        *((b"example.com", True), (b"a.example.org", True), (b"a.b.example.org", True), (b"example.com.", True)),
        *(
            (b"example.org", False),
            (b"evil-example.org", False),
            (b"example.com.evil", False),
            (b"", False),
            (b"127.0.0.1", False),
            (b".", False),
        ),
    ],
)
def test_hosts(host, allowed):
    assert host_allowed(host, frozenset({"example.com", "*.example.org"})) is allowed


def test_what_we_say_of_cors_replaces_what_the_server_says():
    assert dressed(None, ()) is None
    base = Dress(add=((b"X-A", b"1"),), drop=frozenset({b"server"}))
    made = dressed(base, ((b"Vary", b"Origin"),))
    assert made.put == ((b"Vary", b"Origin"),) and made.add == base.add
    assert {b"server", b"access-control-allow-origin", b"access-control-allow-credentials"} <= made.drop
