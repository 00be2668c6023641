"""Who fails is left out for a while, unless nobody would be left; who is back is let in slowly; who was taken out by hand stays out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.upstream.breaker import CLOSED, HALF_OPEN, LAST_RESORT_S, OPEN, Rules
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.group import Group


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("mcpproxy.upstream.group.monotonic", made)
    return made


class Made(Group):
    """A group that writes down what it says."""

    __slots__ = ("lines", "only", "said")

    def __init__(self, count, balance="round-robin", first=5.0, endpoints=None, **rules):
        self.lines, self.said, self.only = [], [], None
        group = endpoints or tuple(Endpoint(f"http://127.0.0.1:{8000 + number}", None) for number in range(count))
        super().__init__(group, Rules(**rules), first, balance, lambda only: setattr(self, "only", only), self.lines.append)
        self.say = self.said.append

    def picks(self, clock, count=60):
        return Counter(self.choose(clock.now) for _ in range(count))

    def bad(self, endpoint, times=5):
        for _ in range(times):
            endpoint.leased += 1
            self.failed(endpoint, "status 500")


# -- by itself -----------------------------------------------------------------------------------------------------------------------------


def test_a_single_endpoint_needs_no_choice(clock):
    group = Made(1)
    (a,) = group.endpoints
    assert group.only is a
    group.unreachable(a, "refused")
    assert group.only is None
    group.reached(a)
    assert group.only is a
    group.set_state(a.label, "drain")
    assert (None, None) == (group.only, group.choose(clock.now))


def test_who_answers_badly_is_left_out_and_said_so(clock):
    group = Made(3)
    a, b, c = group.endpoints
    group.bad(a)
    assert {b: 30, c: 30} == group.picks(clock)
    assert [f"{a.label}: answers badly (status 500): passed over for {a.breaker.until - 1000:.1f} s"] == group.lines
    assert [{"endpoint": a.label, "for": a.breaker.until - 1000, "hard": False, "why": "status 500"}] == group.said


def test_the_last_one_is_never_left_out_for_bad_answers(clock):
    group = Made(2)
    a, b = group.endpoints
    group.bad(a)
    group.bad(b, 50)
    assert {b: 60} == group.picks(clock)


def test_bad_answers_of_all_at_once_leave_half_of_them(clock):
    group = Made(4)
    for endpoint in group.endpoints:
        group.bad(endpoint, 20)
    assert 2 == len(group.picks(clock))


def test_who_answers_badly_is_better_than_nobody(clock):
    group = Made(2)
    a, b = group.endpoints
    group.bad(a)
    group.unreachable(b, "refused")
    assert {a: 60} == group.picks(clock)


def test_when_nobody_is_there_that_is_said_at_once_and_one_call_at_a_time_finds_out(clock):
    group = Made(2)
    a, b = group.endpoints
    group.unreachable(a, "refused")
    group.unreachable(b, "refused")
    assert {None: 60} == group.picks(clock)
    clock.now += LAST_RESORT_S
    assert [a, b, None, None] == [group.choose(clock.now) for _ in range(4)]
    group.reached(b)
    assert {b: 60} == group.picks(clock)
    assert f"{b.label}: is back" == group.lines[-1]
    assert {"endpoint": b.label, "for": 0.0} == group.said[-1]


def test_after_its_time_one_call_finds_out(clock):
    group = Made(2)
    a, b = group.endpoints
    group.bad(a)
    clock.now = a.breaker.until
    assert {a: 1, b: 59} == group.picks(clock)
    assert HALF_OPEN == a.breaker.state
    group.answered(a, 500)
    assert (OPEN, {b: 60}) == (a.breaker.state, group.picks(clock))
    clock.now = a.breaker.until
    assert 1 == group.picks(clock)[a]
    group.answered(a, 404)
    assert CLOSED == a.breaker.state, "4xx are normal for MCP"


def test_who_is_back_is_let_in_slowly(clock):
    group = Made(2)
    a, _ = group.endpoints
    group.unreachable(a, "refused")
    group.reached(a)
    shares = []
    for _ in range(12):
        shares.append(group.picks(clock, 110)[a])
        clock.now += 1.0
    assert 9 <= shares[0] <= 11
    assert shares[1:] == sorted(shares[1:])
    assert [55, 55] == shares[-2:]


@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 405, 406, 409, 415, 421, 429, 501, 505])
def test_statuses_that_speak_against_nobody(clock, status):
    group = Made(2)
    for _ in range(50):
        group.endpoints[0].leased += 1
        group.answered(group.endpoints[0], status)
    assert 2 == len(group.picks(clock))
    assert 0 == group.endpoints[0].failures


def test_who_is_full_is_passed_over(clock):
    a, b = endpoints = (Endpoint("http://a:1", None, most=1), Endpoint("http://b:1", None))
    group = Made(2, endpoints=endpoints)
    a.leased = 1
    assert {b: 60} == group.picks(clock)
    b.most = 0
    assert {None: 60} == group.picks(clock)
    assert group.living
    a.ended = 1
    assert {a: 60} == group.picks(clock)


def test_nobody_there_who_else(clock):
    group = Made(4)
    a, b, c, d = group.endpoints
    group.bad(d)
    assert b is group.another([a], a, clock.now)
    assert c is group.another([a, b], b, clock.now)
    assert a is group.another([c], c, clock.now), "in turn"
    assert group.another([a, b, c], c, clock.now) is None
    group.unreachable(b, "refused")
    assert c is group.another([a], a, clock.now)
    assert group.another([a, c], c, clock.now) is None, "it was tried just now"
    clock.now += LAST_RESORT_S
    assert b is group.another([a, c], c, clock.now)


# -- by hand and by checks -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["drain", "disabled"])
def test_who_is_taken_out_by_hand_stays_out(clock, state):
    group = Made(2)
    a, b = group.endpoints
    group.set_state(a.label, state)
    assert {b: 60} == group.picks(clock)
    group.set_checked(a.label, True, "200")
    assert {b: 60} == group.picks(clock)
    group.set_state(a.label, "enabled")
    assert 0 < group.picks(clock)[a] < 30, "slowly"


def test_a_name_or_state_that_is_none(clock):
    group = Made(1)
    with pytest.raises(ValueError, match="no endpoint"):
        group.set_state("nobody:1", "drain")
    with pytest.raises(ValueError, match="enabled, drain, disabled"):
        group.set_state(group.endpoints[0].label, "off")


def test_who_fails_its_checks_is_left_out_until_they_pass(clock):
    group = Made(2)
    a, b = group.endpoints
    group.set_checked(a.label, False, "status 503")
    assert {b: 60} == group.picks(clock)
    group.set_checked(b.label, False, "refused")
    assert {None: 60} == group.picks(clock)
    clock.now += 100
    assert {None: 60} == group.picks(clock), "checks say when"
    group.set_checked(a.label, True, "200")
    assert {a: 60} == group.picks(clock)
    assert "200" == a.checked


def test_a_check_that_passes_again_closes_the_breaker(clock):
    group = Made(1)
    (a,) = group.endpoints
    group.unreachable(a, "refused")
    group.set_checked(a.label, False, "refused")
    group.set_checked(a.label, True, "200")
    assert group.only is a


def test_what_another_worker_says(clock):
    ours, theirs = Made(4), Made(4)
    theirs.unreachable(theirs.endpoints[0], "refused")
    theirs.bad(theirs.endpoints[1])
    for said in theirs.said:
        ours.hear(said)
    assert set(ours.endpoints[2:]) == set(ours.picks(clock))
    assert [(OPEN, True), (OPEN, False)] == [(e.breaker.state, e.breaker.hard) for e in ours.endpoints[:2]]
    assert ours.said == []
    theirs.reached(theirs.endpoints[0])
    ours.hear(theirs.said[-1])
    assert CLOSED == ours.endpoints[0].breaker.state
    ours.hear({"endpoint": "somebody else's:1", "for": 3.0, "hard": True, "why": "x"})


def test_what_was_known_goes_on_after_a_reload(clock):
    old, new = Made(4), Made(3)
    a, b, c, _ = old.endpoints
    old.set_state(a.label, "disabled")
    old.set_checked(b.label, False, "refused")
    old.unreachable(c, "refused")
    new.adopt(old, checked=True)
    assert new.picks(clock) == {None: 60}
    assert ["disabled", "enabled", "enabled"] == [row["state"] for row in new.snapshot()]
    assert ["closed", "closed", "open"] == [row["breaker"] for row in new.snapshot()]
    assert [None, False, None] == [row["up"] for row in new.snapshot()]


def test_what_checks_found_is_forgotten_with_the_checks(clock):
    old, new = Made(1), Made(1)
    old.set_checked(old.endpoints[0].label, False, "status 503")
    new.adopt(old, checked=False)
    assert new.only is new.endpoints[0]


def test_what_the_file_says_anew_goes_before_what_was_done_by_hand(clock):
    old, new = Made(1), Made(1, endpoints=(Endpoint("http://127.0.0.1:8000", None, state="drain"),))
    old.set_state(old.endpoints[0].label, "disabled")
    new.adopt(old, checked=True)
    assert "drain" == new.endpoints[0].state


def test_a_snapshot(clock):
    group = Made(1)
    (a,) = group.endpoints
    a.leased, a.ended = 5, 3
    group.unreachable(a, "Connection refused")
    (row,) = group.snapshot()
    assert (2, 5, 1, "open", False, "Connection refused") == (
        row["in_use"],
        row["leased"],
        row["failures"],
        row["breaker"],
        row["alive"],
        row["last_error"],
    )


# -- whatever happens ------------------------------------------------------------------------------------------------------------------------

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["bad", "bad", "unreachable", "well", "reached", "drain", "enabled", "up", "down", "wait", "choose"]),
        st.integers(0, 3),
        st.floats(0, 20, width=16),
    ),
    max_size=80,
)


@given(EVENTS, st.sampled_from(["round-robin", "least-busy"]))
def test_nobody_lives_only_when_nobody_could_be_reached(events, balance):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr("mcpproxy.upstream.group.monotonic", clock)
        group = Made(4, balance)
        for event, number, wait in events:
            endpoint = group.endpoints[number]
            match event:
                case "bad":
                    group.bad(endpoint, 3)
                case "unreachable":
                    group.unreachable(endpoint, "refused")
                case "well" | "reached":
                    getattr(group, event)(endpoint)
                case "drain" | "enabled":
                    group.set_state(endpoint.label, event)
                case "up" | "down":
                    group.set_checked(endpoint.label, event == "up", event)
                case "wait":
                    clock.now += wait
                case "choose":
                    group.choose(clock.now)
            chosen = group.choose(clock.now)
            assert chosen is None or chosen.wanted
            if chosen is None:
                assert all(e.breaker.hard or not e.wanted for e in group.endpoints)
        clock.now += 200
        wanted = [e for e in group.endpoints if e.wanted]
        for _ in range(4 * len(wanted)):
            found = group.choose(clock.now)
            assert found is not None
            group.reached(found)
            group.well(found)
        assert not wanted or all(e.alive for e in wanted)
