"""What an address spends is paid in time, and whoever spends nothing pays nothing."""

import pytest

from mcpproxy.edge.debts import ADDRESSES, CREDIT_S, MOST_S, POINT_S, Debt, Debts
from mcpproxy.http import budget

NOW = 1000.0


def test_a_little_trouble_costs_no_wait():
    debt = Debt()
    assert debt.charge(30 * budget.CANCEL, NOW) == 0  # a page that is left


def test_trouble_without_end_has_a_fixed_share_of_the_time():
    """However it is dealt out over connections, no more than a point in POINT_S is bought."""
    debt, now, points = Debt(), NOW, 0
    for _ in range(1000):
        points += 700
        now += debt.charge(700, now)
    assert points * POINT_S <= now - NOW + CREDIT_S + 700 * POINT_S


def test_time_pays():
    debt = Debt()
    wait = debt.charge(20_000, NOW)
    assert wait == pytest.approx(20_000 * POINT_S - CREDIT_S)
    assert debt.wait(NOW + wait) == pytest.approx(0)
    assert debt.charge(1, NOW + 60) == 0


def test_no_debt_is_for_ever():
    debt = Debt()
    assert debt.charge(10**9, NOW) == MOST_S - CREDIT_S


def test_an_address_is_known_again():
    debts = Debts()
    assert debts.of("192.0.2.1") is debts.of("192.0.2.1")
    assert debts.of("192.0.2.1") is not debts.of("192.0.2.2")


def test_of_ipv6_the_network_counts():
    debts = Debts()
    assert debts.of("2001:db8::1") is debts.of("2001:db8:0:0:ffff::2")
    assert debts.of("2001:db8::1") is not debts.of("2001:db8:0:1::1")
    assert debts.of("fe80::1%eth0") is debts.of("fe80::2%eth0")


def test_only_so_many_are_remembered_and_the_latest_stay():
    debts = Debts()
    first, second = debts.of("first"), debts.of("second")
    for number in range(ADDRESSES - 2):
        debts.of(f"other {number}")
    assert debts.of("first") is first
    debts.of("one more")
    assert debts.of("first") is first
    assert debts.of("second") is not second
