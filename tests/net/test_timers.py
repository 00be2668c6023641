"""The wheel fires late by at most a tick, never early, and forgets what was disarmed."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.net.timers import TICK, Ticker, Wheel


class Item:
    def __init__(self, answers=()):
        self.wake = 0
        self.asked = []
        self.answers = list(answers)

    def due(self, now):
        self.asked.append(now)
        return self.answers.pop(0) if self.answers else None


@given(st.lists(st.floats(0.1, 500), min_size=1, max_size=40))
def test_every_item_is_asked_once_within_a_tick_of_its_deadline(delays):
    wheel = Wheel(1000.0)
    items = [(Item(), 1000.0 + delay) for delay in delays]
    for item, deadline in items:
        wheel.arm(item, deadline)
    now = 1000.0
    while now < 1502:
        now += TICK
        wheel.turn(now)
    for item, deadline in items:
        assert 1 == len(item.asked)
        assert deadline <= item.asked[0] <= deadline + 2 * TICK
    assert 0 == len(wheel)


def test_a_disarmed_item_is_never_asked():
    wheel, item = Wheel(0.0), Item()
    wheel.arm(item, 3.0)
    wheel.disarm(item)
    wheel.turn(10.0)
    assert [] == item.asked
    assert 0 == len(wheel)


def test_at_most_moves_a_deadline_earlier_but_never_later():
    wheel, item = Wheel(0.0), Item()
    wheel.arm(item, 75.0)
    wheel.at_most(item, 10.0)
    wheel.at_most(item, 40.0)
    wheel.turn(11.0)
    assert 1 == len(item.asked)


def test_an_item_that_answers_with_a_deadline_is_asked_again():
    wheel, item = Wheel(0.0), Item([20.0, None])
    wheel.arm(item, 5.0)
    wheel.turn(6.0)
    wheel.turn(19.0)
    assert 1 == len(item.asked)
    wheel.turn(21.0)
    assert 2 == len(item.asked)


def test_items_closed_by_a_neighbour_in_the_same_turn_are_left_alone():
    wheel = Wheel(0.0)
    victim = Item()

    class Killer(Item):
        def due(self, now):
            wheel.disarm(victim)
            return super().due(now)

    killers = [Killer() for _ in range(20)]
    for item in (*killers, victim):
        wheel.arm(item, 5.0)
    wheel.turn(6.0)
    assert all(len(killer.asked) == 1 for killer in killers)
    assert len(victim.asked) <= 1
    assert 0 == len(wheel)


def test_a_process_that_slept_for_a_day_asks_everything_that_is_overdue():
    wheel, item = Wheel(0.0), Item()
    wheel.arm(item, 30.0)
    wheel.turn(86_400.0)
    assert 1 == len(item.asked)


def test_a_chore_may_come_later_and_goes_last():
    done = []
    loop = SimpleNamespace(call_later=lambda *_: None, broken=print)
    ticker = Ticker(loop, Wheel(0.0), [lambda now: done.append("first")])
    ticker.add(lambda now: done.append("last"))
    ticker.start()
    assert done == ["first", "last"]
