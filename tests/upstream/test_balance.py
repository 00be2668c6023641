"""Everybody gets the share its weight says, spread out; of two the less busy."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.upstream.balance import BALANCERS, LeastBusy, RoundRobin
from mcpproxy.upstream.endpoint import Endpoint


def endpoints(count):
    return tuple(Endpoint(f"http://127.0.0.1:{8000 + number}", None) for number in range(count))


def even(group):
    return [(endpoint, 1.0) for endpoint in group]


def test_turns_go_round():
    group = endpoints(3)
    turns = RoundRobin()
    turns.set(even(group))
    assert [*group, *group] == [turns.next() for _ in range(6)]


def test_changes_that_come_often_favour_nobody():
    group = endpoints(3)
    turns = RoundRobin()
    got = Counter()
    for _ in range(30):
        turns.set(even(group))
        got[turns.next()] += 1
    assert dict.fromkeys(group, 10) == got


@pytest.mark.parametrize("name", BALANCERS)
def test_nobody_lives(name):
    turns = BALANCERS[name]()
    assert turns.next() is None
    group = endpoints(2)
    for shares in ([(group[0], 3.0), (group[1], 1.0)], even(group), even(group[:1])):
        turns.set(shares)
        assert turns.next() in group
        turns.set([])
        assert turns.next() is None


def test_heavy_ones_are_not_bunched():
    a, b = endpoints(2)
    turns = RoundRobin()
    turns.set([(a, 3.0), (b, 1.0)])
    row = [turns.next() for _ in range(40)]
    assert Counter({a: 30, b: 10}) == Counter(row)
    at = [number for number, endpoint in enumerate(row) if endpoint is b]
    assert {4} == {later - one for one, later in pairwise(at)}


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.integers(1, 300))
def test_turns_are_fair_at_every_moment(weights, calls):
    """Nobody is ever more than a few calls ahead of or behind its share."""
    group = endpoints(len(weights))
    turns = RoundRobin()
    turns.set([(endpoint, float(weight)) for endpoint, weight in zip(group, weights, strict=True)])
    got = Counter()
    for call in range(1, calls + 1):
        got[turns.next()] += 1
        for endpoint, weight in zip(group, weights, strict=True):
            assert abs(got[endpoint] - call * weight / sum(weights)) <= len(group)


@given(st.lists(st.lists(st.integers(1, 20), min_size=3, max_size=3), min_size=1, max_size=12))
def test_weights_that_change_all_the_time_starve_nobody(changes):
    group = endpoints(3)
    turns = RoundRobin()
    for weights in changes:
        turns.set([(endpoint, float(weight)) for endpoint, weight in zip(group, weights, strict=True)])
        got = Counter(turns.next() for _ in range(3 * sum(weights)))
        assert set(got) == set(group)
        for endpoint, weight in zip(group, weights, strict=True):
            assert got[endpoint] >= weight


def test_of_two_the_less_busy():
    a, b = endpoints(2)
    turns = LeastBusy(random.Random(1).random)
    turns.set(even([a, b]))
    a.leased = 1
    assert {b} == {turns.next() for _ in range(50)}
    a.ended = 1
    assert {a, b} == {turns.next() for _ in range(50)}


def test_busy_is_meant_by_weight():
    a, b = endpoints(2)
    turns = LeastBusy(random.Random(1).random)
    turns.set([(a, 4.0), (b, 1.0)])
    a.leased, b.leased = 3, 1
    assert {a} == {turns.next() for _ in range(50)}
    a.leased = 5
    assert {b} == {turns.next() for _ in range(50)}


@given(st.lists(st.integers(1, 10), min_size=2, max_size=6), st.integers(0, 2**32))
def test_leases_that_stay_are_shared_by_weight(weights, seed):
    group = endpoints(len(weights))
    turns = LeastBusy(random.Random(seed).random)
    turns.set([(endpoint, float(weight)) for endpoint, weight in zip(group, weights, strict=True)])
    calls = 60 * len(weights)
    for _ in range(calls):
        turns.next().leased += 1
    for endpoint, weight in zip(group, weights, strict=True):
        share = calls * weight / sum(weights)
        assert share / 2 - 4 <= endpoint.leased <= share * 2 + 4
