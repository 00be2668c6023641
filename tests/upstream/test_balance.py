"""Round robin over the living."""

from mcpproxy.upstream.balance import RoundRobin
from mcpproxy.upstream.endpoint import Endpoint


def endpoints(count):
    return tuple(Endpoint(f"http://127.0.0.1:{8000 + number}", None) for number in range(count))


def test_turns_go_round():
    a, b, c = group = endpoints(3)
    turns = RoundRobin(group)
    assert [a, b, c, a, b, c] == [turns.next(0.0) for _ in range(6)]


def test_the_dead_are_skipped_until_their_time_is_over():
    a, b, c = group = endpoints(3)
    b.dead_until = 10.0
    turns = RoundRobin(group)
    assert [a, c, a, c] == [turns.next(5.0) for _ in range(4)]
    assert {a, b, c} == {turns.next(10.0) for _ in range(3)}


def test_when_all_are_dead_all_are_tried():
    a, b = group = endpoints(2)
    a.dead_until = b.dead_until = 10.0
    turns = RoundRobin(group)
    assert {a, b} == {turns.next(0.0) for _ in range(2)}


def test_order_tries_each_once_and_the_dead_last():
    a, b, c, d = group = endpoints(4)
    b.dead_until = 10.0
    turns = RoundRobin(group)
    assert [a, c, d, b] == turns.order(a, 0.0)
    assert [b, c, d, a] == turns.order(b, 0.0)
    assert [c, d, a, b] == turns.order(c, 0.0)
