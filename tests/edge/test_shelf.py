"""What is remembered of one caller is never told of another."""

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.clock import clock
from mcpproxy.edge.facts import ANYBODY, Caller
from mcpproxy.edge.shelf import SHELVES
from mcpproxy.errors import ProxyError
from tests.edge.town import People, Town
from tests.net.stepping import Steps

# -- a small world ------------------------------------------------------------------------------------------------------------------------------

ROUTES = (
    'auth = ["keys", "corp", "certs"]\nscopes = ["files"]\n[route.tools]\nallow = [{ who = ["alice", "anna", "ann.test"], tools = ["add"] }]',
    'auth = "keys"\nrate = "5/s"\nallow_hosts = ["localhost", "*.lan"]',
    'auth = ["certs", "keys"]\nallow_origins = "https://*.example.com"\ncors = true\nsecurity_headers = true',
    'auth = "corp"\nallow_from = ["10.0.0.0/8", "192.0.2.7"]',
    'rate = "5/s"\ndeny_from = ["198.51.100.0/24"]\nallow_origins = "*"\ncors = true',
)
UPSTREAMS = (
    'principal_header = "X-Agent"',
    "identity = {}\ncookies = true",
    'credential = { type = "passthrough" }\nprincipal_header = "X-Agent"',
)
LISTENS = ("", 'trusted_proxies = ["10.0.0.0/8"]')


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def towns(people, tmp_path_factory):
    """One town for every configuration, made when it is first wanted."""
    steps, made = Steps(), {}

    def town(route, upstream, listen):
        key = route, upstream, listen
        if key not in made:
            made[key] = Town(
                steps,
                people,
                route=ROUTES[route],
                upstream=UPSTREAMS[upstream],
                listen=LISTENS[listen],
                directory=tmp_path_factory.mktemp("town"),
            )
            made[key].know_keys()
        return made[key]

    yield town
    for each in made.values():
        each.stop()
    steps.close()


TRACE = "00-%032x-%016x-01"
CUT = st.tuples(
    st.sampled_from(["content-length", "traceparent", "x-request-id", "mcp-param-city", "last-event-id", "baggage", "tracestate"]),
    st.integers(0, 3),
)


def cut_line(name, number):
    value = {"content-length": number * 5, "traceparent": TRACE % (number, number), "baggage": f"user={number}"}.get(name, f"v{number}")
    return f"{name}: {value}"


@st.composite
def requests(draw):
    """Which person, by which field, in which case and order, with which varying values."""
    who = draw(st.sampled_from(["alice", "alice", "bob", "bob", "anna", "bert", "odd", "unknown", "two", "nobody", "nobody"]))
    field = draw(st.sampled_from(["Authorization", "authorization", "X-API-Key", "x-aPI-kEY"]))
    more = draw(
        st.lists(
            st.sampled_from(
                [
                    *("Origin: https://a.example.com", "Origin: https://b.example.com", "Origin: null"),
                    *("X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 198.51.100.1, 10.0.0.9", "X-Forwarded-Host: a.lan"),
                    *("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: add", "Mcp-Name: del", "Mcp-Session-Id: s1"),
                    *("X-Agent: admin", "X_Agent: admin", "X-MCP-Identity: lie", "Cookie: a=1", "Connection: x-agent", "Accept: x"),
                ]
            ),
            max_size=3,
        )
    )
    cuts = draw(st.lists(CUT, max_size=3))
    target = draw(st.sampled_from(["/mcp", "/mcp", "/mcp", "/mcp/a", "/open", "/mcp?token=x", "/.well-known/oauth-protected-resource/mcp"]))
    host = draw(st.sampled_from(["localhost", "localhost", "a.lan", "b.other"]))
    method = draw(st.sampled_from(["POST", "POST", "POST", "GET", "OPTIONS", "DELETE"]))
    position = draw(st.integers(0, 6))
    return who, field, more, cuts, target, host, method, position


def write(people, request, h2=False):
    who, field, more, cuts, target, host, method, position = request
    lines = [*more, *(cut_line(*each) for each in cuts)]
    shown = {"unknown": b"mcpp_0123456789_" + b"a" * 38, "two": people.alice}.get(who) or getattr(people, who, None)
    if shown is not None:
        bearer = b"Bearer " if field.lower() == "authorization" else b""
        lines.insert(position, f"{field}: {(bearer + shown).decode()}")
        if who == "two":
            lines.append(f"X-Api-Key: {people.bob.decode()}")
    if h2:  # as http/h2 writes it down
        lines = [line.partition(":")[0].lower() + ":" + line.partition(":")[2] for line in lines]
    return "\r\n".join(
        [f"{method} {target} {'HTTP/2.0' if h2 else 'HTTP/1.1'}", f"{'host' if h2 else 'Host'}: {host}", *lines, "", ""]
    ).encode()


CALLERS = ("anybody", "ann", "ben", "proxy", "barred", "ann barred")


def caller(people, kind):
    certificate = getattr(people, kind.split()[0], None)
    return Caller(
        proxy="10.0.0.1" if kind == "proxy" else None, barred=frozenset({0}) if "barred" in kind else frozenset(), certificate=certificate
    )


GUARD = (
    "origin",
    "credentials",
    "principal",
    "until",
    "mirror",
    "exemption",
    "network",
    "where",
    "who",
    "identity",
    "has_body",
    "peek",
    "names_calls",
)


def told(make):
    """All that follows from a judgement, to be compared."""
    try:
        plan = make()
    except ProxyError as error:
        return error.kind, error.status
    said = {
        field.name: getattr(plan, field.name) for field in fields(plan) if field.name not in ("guard", "pool", "responses", "rewriting")
    }
    guard = plan.guard
    if guard is not None:
        said |= {f"guard.{name}": getattr(guard, name) for name in GUARD}
        said["guard.needs"] = None if guard.allowance is None else (guard.allowance.needs, guard.allowance.shadow)
        said["guard.allows"] = allows(guard)
    said["responses"] = plan.responses.method, plan.responses.version, plan.responses.dress
    return said


def allows(guard):
    from mcpproxy.mcp.call import Call

    if guard.allowance is None:
        return None
    return [guard.allowance.judge_all((Call(b"1", "tools/call", name),)).allowed for name in ("add", "del")]


def as_the_edge_does(shelf, head, h2):
    plans = shelf.plans_h2 if h2 else shelf.plans
    return plans.fresh.get(head) or shelf.plan_for(head, h2=h2)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.integers(0, len(ROUTES) - 1), st.integers(0, len(UPSTREAMS) - 1), st.integers(0, len(LISTENS) - 1)),
    st.lists(requests(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(CALLERS), st.booleans(), st.lists(CUT, max_size=2)), min_size=4, max_size=14),
)
def test_a_remembered_verdict_is_the_one_that_this_caller_would_get_now(towns, people, which, kinds, sequence):
    """Whoever asked before, with whatever varying values, on connections of whatever kind: remembered or compiled, the judgement is the same."""
    town = towns(*which)
    town.front.shelves.clear()
    clock.tick()
    keys = list({request[0] for request in kinds} | {"alice", "bob", "nobody"})
    for number, kind, h2, cuts in sequence:
        base = kinds[number % len(kinds)]
        person = keys[number % len(keys)] if number >= len(kinds) else base[0]
        head = write(people, (person, base[1], base[2], cuts if number > 2 else base[3], *base[4:]), h2)
        who = caller(people, kind)
        shelf = town.front.shelves.of(who)
        fresh = told(lambda head=head, who=who, h2=h2: town.judge.request(head, who, h2=h2))
        for _ in range(3):  # compiled, a template, remembered
            kept = told(lambda shelf=shelf, head=head, h2=h2: as_the_edge_does(shelf, head, h2))
            assert without_moment(kept) == without_moment(fresh)


def without_moment(said):
    """How long a token need not be looked at again moves with the clock."""
    if isinstance(said, dict) and "guard.until" in said:
        return said | {"guard.until": said["guard.until"] == float("inf")}
    return said


def test_the_property_has_teeth(towns, people, monkeypatch):
    """With a cut that forgets keys it would fail."""
    import re

    from mcpproxy.edge import shelf as shelf_of

    town = towns(1, 0, 0)
    town.front.shelves.clear()
    careless = re.compile(rb"\r\n(x-api-key): (mcpp_[0-9A-Za-z_]+)(?=\r\n)", re.IGNORECASE)
    monkeypatch.setattr(shelf_of, "REQUEST_CUTS", careless)
    shelf = town.front.shelves.anybody
    one, two = (b"GET /mcp HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %b\r\n\r\n" % key for key in (people.alice, people.bob))
    for _ in range(3):
        shelf.plan_for(one)
    assert told(lambda: shelf.plan_for(two)) != told(lambda: town.judge.request(two))


# -- one by one -----------------------------------------------------------------------------------------------------------------------------------

POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"


def test_callers_with_equal_facts_share_a_shelf_and_others_do_not(towns, people):
    shelves = towns(0, 0, 0).front.shelves
    assert shelves.of(Caller()) is shelves.of(ANYBODY) is shelves.anybody
    ann = Caller(certificate=people.ann)
    assert shelves.of(ann) is shelves.of(replace(ann))
    assert len({id(shelves.of(caller(people, kind))) for kind in CALLERS}) == len(CALLERS)


def test_two_certificates_and_the_same_head(towns, people):
    """Two connections, byte for byte the same request, each by its own name; a third that shows nothing is refused."""
    shelves = towns(0, 0, 0).front.shelves
    head = POST + b"Content-Length: 2\r\n\r\n"
    for _ in range(4):
        names = [shelves.of(Caller(certificate=each)).plan_for(head).guard.principal.name for each in (people.ann, people.ben)]
        assert names == ["ann.test", "ben.test"]
        assert shelves.anybody.plan_for(head).status == 401


def test_a_refusal_is_not_remembered(towns, people):
    shelf = towns(1, 0, 0).front.shelves.anybody
    shelf.clear()
    for _ in range(3):
        assert shelf.plan_for(POST + b"X-API-Key: nonsense\r\n\r\n").status == 401
    assert not len(shelf.plans) and not len(shelf.templates)


def test_a_judgement_that_waits_for_an_answer_is_for_one_request(steps, people, tmp_path):
    town = Town(steps, people, route='auth = "corp"', directory=tmp_path)
    shelf = town.front.shelves.anybody
    head = POST + b"Authorization: Bearer %b\r\n\r\n" % people.anna
    for _ in range(3):
        plan = shelf.plan_for(head)
        assert plan.guard.question is not None and not plan.lasts
    assert not len(shelf.plans)
    town.ask(plan.guard.question)
    plan = shelf.plan_for(head)
    assert (plan.guard.question, plan.guard.principal.name) == (None, "anna")
    town.stop()


def test_everything_is_forgotten_also_on_shelves_that_nobody_finds_again(towns, people):
    shelves = towns(1, 0, 0).front.shelves
    heads = [POST + b"X-API-Key: %b\r\n\r\n" % people.alice]
    heads.append(
        heads[0]
        .replace(b"HTTP/1.1", b"HTTP/2.0")
        .lower()
        .replace(b"post", b"POST")
        .replace(b"http/2", b"HTTP/2")
        .replace(people.alice.lower(), people.alice)
    )
    first = Caller(proxy="first")
    kept = [shelves.of(first), *(shelves.of(Caller(proxy=f"proxy {number}")) for number in range(SHELVES))]
    for shelf in kept:
        for h2 in (False, True):
            for _ in range(3):
                shelf.plan_for(heads[h2], h2=h2)
        assert len(shelf.plans) == len(shelf.plans_h2) == 1
    assert shelves.of(first) is not kept[0], "there were too many"
    shelves.clear()
    assert not any(len(shelf.plans) + len(shelf.plans_h2) + len(shelf.templates) for shelf in kept)


def test_special_callers_are_bounded(towns):
    shelves = towns(1, 0, 0).front.shelves
    for number in range(3 * SHELVES):
        shelves.of(Caller(proxy=f"other {number}"))
    assert len(shelves._special) <= SHELVES
    assert len(shelves.alive) <= SHELVES + 2, "what no connection uses is gone"
