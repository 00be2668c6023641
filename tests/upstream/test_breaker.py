"""Trouble opens it, an end of the open time lets a few try, an answer closes it; nothing makes it stay open for ever."""

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.upstream.breaker import CLOSED, HALF_OPEN, JITTER, LAST_RESORT_S, LONGEST_S, OPEN, Breaker, Rules, can_spare

FIRST = 5.0


def breaker(first=FIRST, uniform=lambda: 0.0, **rules):
    return Breaker(Rules(**rules), first, uniform)


def fail(one, times, now=100.0, leases=0, *, spared=True):
    return [one.failed(now, leases + number, "status 500", spared=spared) for number in range(1, times + 1)]


# -- opens ---------------------------------------------------------------------------------------------------------------------------------


def test_nobody_there_opens_at_once():
    one = breaker()
    assert one.unreachable(100.0, "refused")
    assert (OPEN, True, 105.0, "refused") == (one.state, one.hard, one.until, one.why)


def test_without_a_first_open_time_nobody_there_opens_nothing():
    one = breaker(first=0)
    assert not one.unreachable(100.0, "refused")
    assert CLOSED == one.state


def test_bad_answers_open_when_there_are_enough_of_them():
    one = breaker()
    assert [False] * 4 + [True] == fail(one, 5)
    assert (OPEN, False) == (one.state, one.hard)


def test_bad_answers_that_are_few_among_many_open_nothing():
    one = breaker()
    assert not any(one.failed(100.0, 3 * number, "status 500", spared=True) for number in range(1, 50))
    assert one.failed(100.0, 3 * 49 - 60, "status 500", spared=True)


def test_bad_answers_long_ago_do_not_count():
    one = breaker()
    fail(one, 4)
    assert not any(fail(one, 4, now=111.0, leases=4))
    assert any(fail(one, 1, now=112.0, leases=8))


def test_who_cannot_be_spared_stays():
    one = breaker()
    assert not any(fail(one, 50, spared=False))
    assert CLOSED == one.state


def test_bad_answers_need_not_count():
    assert not any(fail(breaker(failures=0), 50))


# -- closes --------------------------------------------------------------------------------------------------------------------------------


def test_one_call_finds_out_and_closes_it():
    one = breaker()
    fail(one, 5)
    assert not one.probe(104.9)
    assert one.probe(105.0)
    assert not one.probe(105.0), "one at a time"
    assert HALF_OPEN == one.state
    assert one.well(106.0)
    assert CLOSED == one.state
    assert not one.well(106.0)


def test_a_call_that_finds_it_bad_opens_it_for_twice_as_long():
    one = breaker()
    fail(one, 5)
    times = []
    for _ in range(6):
        now = one.until
        assert one.probe(now)
        assert one.failed(now, 9, "status 500", spared=False)
        times.append(one.until - now)
    assert [10.0, 20.0, 40.0, LONGEST_S, LONGEST_S, LONGEST_S] == times


def test_after_a_good_while_the_open_time_is_short_again():
    one = breaker()
    one.unreachable(100.0, "refused")
    one.reached(101.0)
    one.unreachable(102.0, "refused")
    assert 10.0 == one.until - 102.0
    one.reached(103.0)
    one.unreachable(120.0, "refused")
    assert FIRST == one.until - 120.0


def test_open_times_differ():
    assert FIRST * (1 + JITTER) == (one := breaker(uniform=lambda: 1.0)).unreachable(0.0, "refused") * one.until


def test_who_tried_and_never_said_does_not_hold_it_half_open():
    one = breaker(probes=2)
    fail(one, 5)
    assert [True, True, False] == [one.probe(105.0) for _ in range(3)]
    assert one.probe(one.until)


def test_a_connection_is_enough_where_nobody_was_there_and_only_there():
    one = breaker()
    one.unreachable(100.0, "refused")
    assert one.reached(101.0)
    fail(one, 5)
    assert not one.reached(101.0)
    one.probe(one.until)
    assert not one.reached(one.until)
    assert HALF_OPEN == one.state


def test_an_older_call_that_ends_well_says_nothing_about_bad_answers():
    one = breaker()
    fail(one, 5)
    assert not one.well(101.0)
    one.unreachable(102.0, "refused")
    assert one.well(103.0), "but somebody is there"


def test_as_a_last_resort_who_was_not_there_is_tried_soon():
    one = breaker()
    one.unreachable(100.0, "refused")
    assert not one.probe(100.0 + LAST_RESORT_S / 2, last_resort=True)
    assert 100.0 + LAST_RESORT_S == one.asks_again(last_resort=True)
    assert one.probe(100.0 + LAST_RESORT_S, last_resort=True)
    assert not one.probe(100.0 + LAST_RESORT_S, last_resort=True)


def test_what_others_say_opens_for_as_long_as_they_say():
    one = breaker()
    one.told(100.0, 3.0, "refused", hard=True)
    assert (OPEN, True, 103.0) == (one.state, one.hard, one.until)
    one.told(100.0, 30.0, "refused", hard=True)
    assert 103.0 == one.until


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["unreachable", "failed", "spared", "well", "reached", "probe", "last", "told", "close"]),
        st.floats(0, 30, width=16),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(1, 3), st.sampled_from([0.0, 0.5, 5.0, 100.0]))
def test_it_is_never_stuck(events, probes, first):
    """Whatever happened, within the longest open time somebody may try, and an answer then closes it."""
    now = 1000.0
    one = Breaker(Rules(probes=probes), first)
    for number, (event, later) in enumerate(events):
        now += later
        match event:
            case "unreachable":
                one.unreachable(now, "refused")
            case "failed" | "spared":
                one.failed(now, number, "status 500", spared=event == "spared")
            case "well":
                one.well(now)
            case "reached":
                one.reached(now)
            case "probe" | "last":
                one.probe(now, last_resort=event == "last")
            case "told":
                one.told(now, later, "told", hard=number % 2 == 0)
            case "close":
                one.close(now)
        assert one.state in (CLOSED, OPEN, HALF_OPEN)
        assert one.state == CLOSED or one.until - now <= max(LONGEST_S, first) * (1 + JITTER) + 1e-6
        if one.state != CLOSED:
            asks = one.asks_again()
            assert asks <= one.until
    if one.state != CLOSED:
        at = one.asks_again()
        assert one.probe(max(now, at))
        assert one.well(max(now, at))
    assert CLOSED == one.state


# -- how many ------------------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 1))
def test_one_is_always_left_and_no_more_than_the_share_is_out(living, out, share):
    if can_spare(living, out, Rules(max_ejected=share)):
        assert living >= 2
        assert out + 1 <= max(1, share * (living + out))


def test_of_two_one_may_always_be_out():
    assert can_spare(2, 0, Rules(max_ejected=0.1))
    assert not can_spare(1, 1, Rules(max_ejected=1.0))
