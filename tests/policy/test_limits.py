"""What a gate admits, against a model that counts in fractions; that a refusal costs nothing; who is counted together; what is told."""

import json
import re
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.config.load import load
from mcpproxy.config.policies import Limit
from mcpproxy.http.head import parse_response
from mcpproxy.http.replies import MESSAGES
from mcpproxy.mcp.call import calls_of
from mcpproxy.policy.buckets import COUNT, COUNT_BITS, DAY, NAMED, WAYS, Buckets
from mcpproxy.policy.limits import (
    PROBES,
    SLACK,
    SLOTS,
    Check,
    Denied,
    Gate,
    Held,
    RateGate,
    compile_gates,
    identity,
    network,
    too_many,
    tools_of,
)
from mcpproxy.policy.verdict import Principal
from mcpproxy.units import Rate

NOW = 1_800_000_000.0  # 08:00 UTC
MIDNIGHT = (NOW // DAY + 1) * DAY
SECRET = b"s" * 32  # the same sets every time
HOME = b"\x7f\0\0\1"
ALICE, BOB = "keys\nalice", "keys\nbob"


def gate(*limits: Limit, buckets: Buckets | None = None, plain: bool = False) -> Gate:
    buckets = buckets or Buckets(secret=SECRET)
    checks = [Check(buckets, f"l{number}", limit, (number,)) for number, limit in enumerate(limits)]
    probes = Check(buckets, "probes", PROBES, ("probes",))
    return Gate(buckets, checks, probes) if plain or not RateGate.fits(checks) else RateGate(buckets, checks, probes)


def configured(text: str, buckets: Buckets | None = None) -> tuple[Gate | None, ...]:
    head = '[[listen]]\naddress = "127.0.0.1:0"\n[upstream.a]\nurls = ["http://127.0.0.1:1"]\n'
    return compile_gates(load(head + text), buckets or Buckets(secret=SECRET))


def denied(verdict: Denied | Held | None) -> Denied:
    assert isinstance(verdict, Denied)
    return verdict


# Rates ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    """GCRA in exact arithmetic."""

    def __init__(self, rate: Rate) -> None:
        self.interval = Fraction(int(rate.period), rate.count)
        self.room = rate.burst * self.interval
        self.full = Fraction(0)

    def wait(self, now: Fraction, cost: int) -> Fraction:
        return max(Fraction(0), max(self.full, now) + (cost - 1) * self.interval - self.room - now)

    def ask(self, now: Fraction, cost: int = 1) -> bool:
        if self.wait(now, cost):
            return False
        self.full = max(self.full, now) + cost * self.interval
        return True


# Moments and intervals that doubles can say exactly, so that model and gate must agree to the last bit.
EXACT = st.builds(Rate, st.sampled_from([1, 2, 4, 8, 64, 1024]), st.sampled_from([1.0, 60.0, 3600.0, DAY]), st.integers(0, 20))
ANY = st.builds(Rate, st.integers(1, 100_000), st.sampled_from([1.0, 60.0, 3600.0, DAY]), st.integers(0, 20))
GAPS = st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 3, 512, 1024, 5000, 60 * 1024, 4000 * 1024]), st.integers(1, 4)), max_size=80)


@settings(deadline=None)
@given(EXACT, GAPS)
def test_a_gate_admits_what_the_model_admits(rate: Rate, gaps: Sequence[tuple[int, int]]) -> None:
    quick, plain, batch = gate(Limit(rate=rate)), gate(Limit(rate=rate), plain=True), gate(Limit(rate=rate))
    assert isinstance(quick, RateGate)
    assert not isinstance(plain, RateGate)
    model, together, now = Model(rate), Model(rate), Fraction(int(NOW))
    for gap, cost in gaps:
        now += Fraction(gap, 1024)
        wait = model.wait(now, 1)
        expected = model.ask(now)
        for one in (quick, plain):
            verdict = one.admit(float(now), HOME, ALICE)
            assert (verdict is None) is expected
            if verdict is not None:
                assert denied(verdict).retry_after == -(-wait // 1)
        assert (batch.admit_batch(float(now), HOME, ALICE, [None] * cost) is None) is together.ask(now, cost)


@settings(deadline=None)
@given(ANY, st.lists(st.floats(0, 3.0), min_size=1, max_size=100))
def test_no_window_has_more_than_burst_and_rate(rate: Rate, gaps: list[float]) -> None:
    one, interval, now, admitted = gate(Limit(rate=rate)), rate.period / rate.count, NOW, []
    for gap in gaps:
        now += gap * interval
        if one.admit(now, HOME, ALICE) is None:
            admitted.append(now)
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            window = admitted[last] - admitted[first]
            assert last - first <= rate.burst + window / interval + 0.5 + 1e-6 * (last - first)


@settings(deadline=None)
@given(ANY, st.integers(0, 60), st.floats(0, 10))
def test_who_waits_as_told_is_admitted(rate: Rate, times: int, later: float) -> None:
    one = gate(Limit(rate=rate))
    for _ in range(times):
        one.admit(NOW, HOME, ALICE)
    now = NOW + later
    verdict = one.admit(now, HOME, ALICE)
    if verdict is not None:
        assert one.admit(now + denied(verdict).retry_after, HOME, ALICE) is None


@settings(deadline=None)
@given(st.builds(Rate, st.integers(1, 10_000), st.sampled_from([1.0, 60.0, 3600.0, DAY]), st.integers(0, 200)), st.floats(0, DAY))
def test_no_rounding_costs_the_last_of_a_burst(rate: Rate, later: float) -> None:
    one = gate(Limit(rate=rate))
    assert sum(one.admit(NOW + later, HOME, ALICE) is None for _ in range(rate.burst + 5)) == rate.burst + 1


def test_burst_more_than_one_may_come_at_once() -> None:
    one = gate(Limit(rate=Rate(30, 60.0, burst=10)))
    assert [one.admit(NOW, HOME, ALICE) for _ in range(11)] == [None] * 11
    refused = denied(one.admit(NOW, HOME, ALICE))
    assert (refused.kind, refused.status, refused.name, refused.limit) == ("rate-limited", 429, "l0/rate", 30)
    assert (refused.retry_after, refused.reset, refused.remaining) == (2, 2, 0)
    assert one.admit(NOW + 1.99, HOME, ALICE) is not None
    assert one.admit(NOW + 2, HOME, ALICE) is None
    assert one.admit(NOW + 2, HOME, ALICE) is not None


def test_a_clock_that_steps_back_locks_nobody_out() -> None:
    one = gate(Limit(rate=Rate(30, 60.0, burst=10), daily=100))
    for _ in range(11):
        one.admit(NOW, HOME, ALICE)
    before = NOW - 3 * DAY
    assert denied(one.admit(before, HOME, ALICE)).retry_after == 2, "the bucket counts as empty, nothing worse"
    assert one.admit(before + 2, HOME, ALICE) is None
    assert one.admit(before + 60, HOME, ALICE) is None


def test_a_moment_that_is_a_little_old_gives_nothing_away() -> None:
    one = gate(Limit(rate=Rate(1, 1.0, burst=10)))
    for _ in range(11):
        one.admit(NOW, HOME, ALICE)
    assert denied(one.admit(NOW - SLACK + 1, HOME, ALICE)).retry_after == SLACK
    assert denied(one.admit(NOW, HOME, ALICE)).retry_after == 1


# Days and what goes on at once ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_daily_quota_ends_at_midnight_utc() -> None:
    one = gate(Limit(daily=3))
    assert [one.admit(NOW, HOME, ALICE) for _ in range(3)] == [None] * 3
    refused = denied(one.admit(NOW + 0.5, HOME, ALICE))
    assert (refused.kind, refused.name, refused.limit, refused.remaining) == ("quota-used-up", "l0/daily", 3, 0)
    assert refused.retry_after == MIDNIGHT - NOW
    assert one.admit(MIDNIGHT - 0.001, HOME, ALICE) is not None
    assert [one.admit(MIDNIGHT, HOME, ALICE) is None for _ in range(4)] == [True] * 3 + [False]


def test_another_worker_may_see_midnight_first() -> None:
    one = gate(Limit(daily=3))
    assert one.admit(MIDNIGHT, HOME, ALICE) is None
    assert one.admit(MIDNIGHT - 0.001, HOME, ALICE) is None
    assert one.admit(MIDNIGHT, HOME, ALICE) is None
    assert one.admit(MIDNIGHT - 0.001, HOME, ALICE) is not None
    assert one.admit(MIDNIGHT, HOME, ALICE) is not None


def test_a_place_is_given_back_exactly_once() -> None:
    one = gate(Limit(concurrent=2))
    first, second = one.admit(NOW, HOME, ALICE), one.admit(NOW, HOME, ALICE)
    refused = denied(one.admit(NOW, HOME, ALICE))
    assert (refused.kind, refused.name, refused.retry_after) == ("too-many-at-once", "l0/concurrent", 1)
    assert isinstance(one.admit(NOW, HOME, BOB), Held)
    assert isinstance(first, Held)
    assert isinstance(second, Held)
    first.leave()
    first.leave()
    assert isinstance(one.admit(NOW, HOME, ALICE), Held)
    assert isinstance(one.admit(NOW, HOME, ALICE), Denied)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60), st.integers(1, 4))
def test_never_more_at_once_than_allowed(moves: list[tuple[bool, int]], most: int) -> None:
    one, going = gate(Limit(concurrent=most)), []
    for come, which in moves:
        if come:
            verdict = one.admit(NOW, HOME, ALICE)
            assert isinstance(verdict, Held) is (len(going) < most)
            if isinstance(verdict, Held):
                going.append(verdict)
        elif going:
            going.pop(which % len(going)).leave()


def test_when_every_way_is_held_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcpproxy.policy import limits
    from mcpproxy.policy.buckets import Region

    monkeypatch.setattr(limits, "NAMED", Region(0, 1))
    one = gate(Limit(concurrent=1), buckets=Buckets(sets=1))
    places = [one.admit(NOW, HOME, f"keys\n{number}") for number in range(WAYS)]
    assert all(isinstance(place, Held) for place in places)
    refused = denied(one.admit(NOW, HOME, "keys\nnew"))
    assert (refused.kind, refused.status, refused.retry_after) == ("limits-full", 503, 1)


# Several limits ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

SEVERAL = (
    Limit(rate=Rate(2, 1.0, burst=4)),
    Limit(per=("address",), rate=Rate(1, 1.0, burst=6), daily=25),
    Limit(per=(), concurrent=5),
    Limit(per=("principal", "tool"), rate=Rate(1, 4.0, burst=2)),
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 40),
            st.sampled_from([ALICE, BOB, ""]),
            st.lists(st.sampled_from(["x", "y", None]), min_size=1, max_size=3),
            st.booleans(),
        ),
        max_size=80,
    )
)
def test_all_limits_agree_or_none_of_them_is_touched(asked: list[tuple[int, str, list[str | None], bool]]) -> None:
    buckets = Buckets(sets=16, secret=SECRET)
    one = _in_small_regions(buckets)
    now, going = NOW, []
    for sixteenths, principal, tools, leave in asked:
        now += sixteenths / 16
        one.fields(now, HOME, principal, tools[0])
        one.admit_batch(now, HOME, principal, tools * 100)  # makes the entries, takes nothing
        before = bytes(buckets._memory)
        alone = [Gate(buckets, [check], one._probes) for check in one.checks]
        verdict = one.admit(now, HOME, principal, tools[0]) if len(tools) == 1 else one.admit_batch(now, HOME, principal, tools)
        after = bytes(buckets._memory)
        if isinstance(verdict, Denied):
            assert after == before
            waits = [each.admit_batch(now, HOME, principal, tools) for each in alone]
            told = [each for each in waits if isinstance(each, Denied)]
            assert verdict.retry_after == max(each.retry_after for each in told)
            buckets._memory[:] = before
        else:
            assert after != before
            assert isinstance(verdict, Held), "one of them counts what goes on"
            going.append(verdict)
            buckets._memory[:] = before
            assert not any(isinstance(each.admit_batch(now, HOME, principal, tools), Denied) for each in alone), "each alone agrees"
            assert bytes(buckets._memory) == after, "and takes the same"
        if leave and going:
            going.pop(0).leave()


def _in_small_regions(buckets: Buckets) -> Gate:
    """All keys in sixteen sets, so that comparing the whole memory is cheap. Entries do not change hands: there are few callers."""
    from mcpproxy.policy.buckets import Region

    one = gate(*SEVERAL, buckets=buckets)
    for check in one.checks:
        label = check.name
        for who in [*((caller, tool) for caller in (ALICE, BOB, HOME) for tool in ("x", "y")), ALICE, BOB, HOME, ""]:
            check.fresh[who] = buckets.slot(Region(0, 16), repr((label, who)).encode())
    return one


def test_a_batch_counts_each_of_its_calls() -> None:
    one = gate(Limit(rate=Rate(1, 60.0, burst=3)), Limit(per=("tool",), daily=2))
    assert denied(one.admit_batch(NOW, HOME, ALICE, ["x", "x", "x"])).name == "l1/daily"
    assert denied(one.admit_batch(NOW, HOME, ALICE, ["x", "x", "y", "y", None])).name == "l0/rate"
    assert one.admit_batch(NOW, HOME, ALICE, ["x", "x", "y", None]) is None
    assert denied(one.admit(NOW, HOME, ALICE, "y")).name == "l0/rate"
    assert denied(one.admit(NOW + 60, HOME, ALICE, "x")).name == "l1/daily"
    assert one.admit(NOW + 60, HOME, ALICE, "y") is None


def test_a_batch_without_messages_is_a_request() -> None:
    one = gate(Limit(daily=1), Limit(per=("tool",), daily=1))
    assert one.admit_batch(NOW, HOME, ALICE, []) is None
    assert one.admit_batch(NOW, HOME, ALICE, []) is not None


def test_messages_of_a_body_and_their_tools() -> None:
    body = (
        b'[{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"x"}},{"jsonrpc":"2.0","method":"notifications/cancelled"},'
        b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"y"}},{"jsonrpc":"2.0","id":2,"result":{}}]'
    )
    assert tools_of(calls_of(body)) == ["x", None, None, None]
    listen = b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"resourceSubscriptions":["file:///a","file:///b"]}}}'
    assert any(call.implied for call in calls_of(listen))
    assert tools_of(calls_of(listen)) == [None]


def test_what_a_batch_may_still_have_is_told() -> None:
    one = gate(Limit(rate=Rate(1, 60.0, burst=3)))
    refused = denied(one.admit_batch(NOW, HOME, ALICE, [None] * 5))
    assert (refused.remaining, refused.retry_after) == (4, 60), "it can never be admitted; not before the bucket is full, at least"
    assert one.admit_batch(NOW, HOME, ALICE, [None] * 4) is None
    assert denied(one.admit_batch(NOW + 60, HOME, ALICE, [None] * 2)).retry_after == 60


def test_a_tool_with_a_long_name_is_counted_once_too() -> None:
    one, name = gate(Limit(per=("tool",), daily=3)), "x" * 5000
    assert one.admit_batch(NOW, HOME, ALICE, [name, name]) is None
    assert one.admit(NOW, HOME, ALICE, name) is None
    assert one.admit(NOW, HOME, ALICE, name) is not None
    assert one.admit(NOW, HOME, ALICE, name + "x") is None
    assert not one.checks[0].fresh


# Who is counted together ────────────────────────────────────────────────────────────────────────────────────────────────────────

CALLS = [(address, who, tool) for address in (b"\1\1\1\1", b"\2\2\2\2") for who in (ALICE, BOB, "") for tool in ("x", "y", None)]


@pytest.mark.parametrize(
    ("per", "key"),
    [
        ((), lambda address, who, tool: ()),
        (("address",), lambda address, who, tool: address),
        (("principal",), lambda address, who, tool: who or address),
        (("tool",), lambda address, who, tool: tool),
        (("address", "principal"), lambda address, who, tool: (address, who)),
        (("principal", "address", "tool"), lambda address, who, tool: tool and (address, who, tool)),
        (("tool", "principal"), lambda address, who, tool: tool and (who or address, tool)),
        (("address", "tool"), lambda address, who, tool: tool and (address, tool)),
    ],
)
def test_each_combination_is_counted_apart(per: tuple[str, ...], key) -> None:
    one = gate(Limit(per=per, daily=1), Limit(per=(), daily=10_000))
    seen = set()
    for call in CALLS * 2:
        this = key(*call)
        expected = this is not None and this in seen
        assert isinstance(one.admit(NOW, *call), Denied) is expected, call
        seen.add(this)


def test_routes_share_a_limit_unless_it_says_route() -> None:
    text = """
        [limit.both]
        daily = 3
        [limit.each]
        per = ["principal", "route"]
        daily = 2
        [[route]]
        upstream = "a"
        limits = ["both", "each"]
        [[route]]
        upstream = "a"
        path = "/b"
        limits = ["each", "both"]
        [[route]]
        upstream = "a"
        path = "/c"
        rate = "1/d"
        [[route]]
        upstream = "a"
        path = "/d"
        rate = "1/d"
        [[route]]
        upstream = "a"
        path = "/e"
    """
    buckets = Buckets(secret=SECRET)
    one, two, three, four, none = configured(text, buckets)
    assert one
    assert two
    assert three
    assert four
    assert none is None
    assert one.admit(NOW, HOME, ALICE) is None
    assert one.admit(NOW, HOME, ALICE) is None
    assert denied(one.admit(NOW, HOME, ALICE)).name == "each/daily"
    assert two.admit(NOW, HOME, ALICE) is None
    assert denied(two.admit(NOW, HOME, ALICE)).name == "both/daily"
    assert isinstance(three, RateGate)
    assert three.admit(NOW, HOME, ALICE) is None
    assert denied(three.admit(NOW, HOME, ALICE)).name == "rate"
    assert four.admit(NOW, HOME, ALICE) is None
    # a reload reads the same file again; what was used stays used
    again = configured(text, buckets)
    assert all(isinstance(each.admit(NOW, HOME, ALICE), Denied) for each in again[:4] if each)


def test_the_edge_is_told_when_it_must_know_the_tool() -> None:
    assert not gate(Limit(daily=1)).needs_tool
    assert gate(Limit(daily=1), Limit(per=("address", "tool"), daily=1)).needs_tool


def test_a_name_is_counted_by_who_knows_it() -> None:
    assert identity(None) == ""
    names = [identity(Principal(name, by)) for name, by in (("a", "keys"), ("a", "corp"), ("b", "keys"))]
    assert len(set(names)) == 3
    assert identity(Principal("a", "keys", frozenset({"r"}), key="1")) == names[0]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", b"\xc0\0\2\7"),
        ("::ffff:192.0.2.7", b"\xc0\0\2\7"),
        ("64:ff9b::c000:207", b"\xc0\0\2\7"),
        ("2001:db8:1:2:3:4:5:6", b"\x20\x01\x0d\xb8\0\1\0\2"),
        ("2001:db8:1:2::1", b"\x20\x01\x0d\xb8\0\1\0\2"),
        ("fe80::1%eth0", b"\xfe\x80\0\0\0\0\0\0"),
        ("::1", b"\0" * 8),
        ("", b""),
        ("unix:", b""),
    ],
)
def test_what_an_address_is_counted_as(address: str, expected: bytes) -> None:
    assert network(address) == expected


def test_a_million_callers_cost_bounded_memory() -> None:
    one = gate(Limit(per=("address",), rate=Rate(1, 1.0)), buckets=Buckets(secret=SECRET))
    for number in range(3 * SLOTS):
        one.admit(NOW, number.to_bytes(4))
    check = one.checks[0]
    assert len(check.fresh) + len(check._older) <= 2 * SLOTS
    assert one.admit(NOW, (3 * SLOTS - 1).to_bytes(4)) is not None
    assert one.admit(NOW, (3 * SLOTS - SLOTS - 1).to_bytes(4)) is not None, "found in the table again"


def test_many_callers_each_have_their_own() -> None:
    one = gate(Limit(rate=Rate(1, 60.0, burst=1)), buckets=Buckets(secret=SECRET))
    callers = [f"keys\n{number}" for number in range(NAMED.sets // 2)]
    for expected in (None, None):
        assert all(one.admit(NOW, HOME, caller) is expected for caller in callers)
    assert all(isinstance(one.admit(NOW, HOME, caller), Denied) for caller in callers)


def test_what_is_exempt_has_an_allowance_of_its_own() -> None:
    one = gate(Limit(daily=1))
    assert one.admit(NOW, HOME, ALICE) is None
    assert all(one.probe(NOW, HOME) is None for _ in range(601))
    refused = denied(one.probe(NOW, HOME))
    assert (refused.kind, refused.status, refused.retry_after) == ("too-many-probes", 503, 1)
    assert one.probe(NOW, b"\1\2\3\4") is None
    head = too_many(refused, jsonrpc=True, close=False).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert parse_response(head, b"POST").first(b"ratelimit") is None


# What is told ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

ITEM = r'"[A-Za-z0-9._/-]+"(?:;(?:[qwrt]=[0-9]{1,15}|qu="concurrent-requests"))+'  # RFC 9651: a String with Parameters
LIST = re.compile(rf"{ITEM}(?:, {ITEM})*")


def answer(refused: Denied, **how: object) -> tuple[dict[str, str], bytes]:
    head, _, body = too_many(refused, **{"jsonrpc": True, "close": False, **how}).partition(b"\r\n\r\n")  # type: ignore[arg-type]
    parsed = parse_response(head + b"\r\n\r\n", b"POST")
    assert parsed.status == refused.status
    return {name.decode().lower(): value.decode() for name, _, value in parsed.fields}, body


def test_fields_tell_every_limit_of_the_route() -> None:
    one = gate(Limit(rate=Rate(30, 60.0, burst=10), daily=1000), Limit(per=(), concurrent=5), Limit(per=("tool",), daily=7))
    place = one.admit(NOW, HOME, ALICE, None)
    assert isinstance(place, Held)
    (policy_name, policy), (name, now) = one.fields(NOW, HOME, ALICE)
    assert (policy_name, name) == (b"RateLimit-Policy", b"RateLimit")
    rate, daily, concurrent, tools = (
        '"l0/rate";q=30;w=60',
        '"l0/daily";q=1000;w=86400',
        '"l1/concurrent";q=5;qu="concurrent-requests"',
        '"l2/daily";q=7;w=86400',
    )
    assert policy.decode() == ", ".join((rate, daily, concurrent, tools))
    assert now.decode() == f'"l0/rate";r=10;t=2, "l0/daily";r=999;t={int(MIDNIGHT - NOW)}, "l1/concurrent";r=4'
    assert LIST.fullmatch(policy.decode())
    assert LIST.fullmatch(now.decode())
    assert one.fields(NOW, HOME, BOB, "x")[1][1].decode().endswith(f'"l2/daily";r=7;t={int(MIDNIGHT - NOW)}')


def test_reading_the_fields_takes_nothing() -> None:
    one = gate(Limit(rate=Rate(1, 60.0)), Limit(concurrent=1), buckets=Buckets(sets=4096, secret=SECRET))
    before = bytes(one._buckets._memory)
    assert b"r=1;t=60" in one.fields(NOW, HOME, ALICE)[1][1]
    assert bytes(one._buckets._memory) == before


@settings(deadline=None)
@given(ANY, st.integers(0, 40), st.floats(0, 5))
def test_what_is_left_is_what_is_admitted(rate: Rate, times: int, later: float) -> None:
    one = gate(Limit(rate=rate))
    for _ in range(times):
        one.admit(NOW, HOME, ALICE)
    now = NOW + later
    left = int(re.findall(rb";r=([0-9]+)", one.fields(now, HOME, ALICE)[1][1])[0])
    admitted = 0
    while one.admit(now, HOME, ALICE) is None:
        admitted += 1
    assert abs(left - admitted) <= (0 if rate.period / rate.count > 0.01 else 1)


@pytest.mark.parametrize("id", [b"0", b"17", b'"a"', b""])
def test_429_answers_the_call(id: bytes) -> None:
    one = gate(Limit(rate=Rate(1, 60.0)))
    one.admit(NOW, HOME, ALICE)
    fields, body = answer(denied(one.admit(NOW + 0.5, HOME, ALICE)), id=id)
    assert fields["retry-after"] == "60"
    assert fields["ratelimit-policy"] == '"l0/rate";q=1;w=60'
    assert fields["ratelimit"] == '"l0/rate";r=0;t=60'
    assert (fields["content-type"], fields["cache-control"]) == ("application/json", "no-store")
    assert json.loads(body) == {
        "jsonrpc": "2.0",
        "id": json.loads(id or b"null"),
        "error": {"code": 429, "message": MESSAGES["rate-limited"] + " Try again in 60 s.", "data": {"reason": "rate-limited"}},
    }


def test_429_of_a_batch_and_of_what_is_no_call() -> None:
    one = gate(Limit(concurrent=1))
    one.admit(NOW, HOME, ALICE)
    refused = denied(one.admit(NOW, HOME, ALICE))
    assert [each["id"] for each in json.loads(answer(refused, id=(b"0", b'"x"'))[1])] == [0, "x"]
    fields, body = answer(refused, jsonrpc=False)
    assert json.loads(body)["error"]["reason"] == "too-many-at-once"
    assert (fields["retry-after"], fields["ratelimit"]) == ("1", '"l0/concurrent";r=0;t=1')
    fields, body = answer(refused, head_only=True, close=True)
    assert (body, fields["connection"], fields["retry-after"]) == (b"", "close", "1")


def test_counts_fit_their_word() -> None:
    one = gate(Limit(daily=1 << 31))
    one.admit(NOW, HOME, ALICE)
    index = one.checks[0].slot(HOME, ALICE, None).index  # type: ignore[union-attr]
    one._buckets.used[index] += (1 << 31) - 2
    assert one.admit(NOW, HOME, ALICE) is None
    assert one.admit(NOW, HOME, ALICE) is not None
    assert one._buckets.used[index] == (int(NOW // DAY) << COUNT_BITS) + (1 << 31)
    assert COUNT > 1 << 31


@pytest.mark.parametrize("limit", [Limit(rate=Rate(1, 60.0, burst=2)), Limit(daily=3), Limit(concurrent=3)])
def test_two_workers_tables_answer_as_one(limit: Limit) -> None:
    """The same code with locks."""
    one, two = gate(limit), gate(limit, buckets=Buckets(2, secret=SECRET))
    for _ in range(5):
        assert type(one.admit(NOW, HOME, ALICE)) is type(two.admit(NOW, HOME, ALICE))
