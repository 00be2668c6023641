"""The loop hears everything that happens to a socket; underneath it is uvloop; the collector leaves what is there for good alone."""

import asyncio
import gc
import socket
import struct
import subprocess
import sys

import pytest
import uvloop

from mcpproxy.net.loop import YOUNG_OBJECTS, new_loop, settle_memory
from tests.net.stepping import tcp_pair


def test_the_loop_underneath_is_uvloop_and_the_current_one():
    loop = new_loop()
    try:
        assert isinstance(asyncio.get_event_loop_policy().get_event_loop(), uvloop.Loop)
    finally:
        loop.close()
        asyncio.set_event_loop(None)


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_readable_and_writable_are_told_apart(steps, pair):
    ours, theirs = pair
    heard, wrote = [], []
    steps.loop.add_reader(ours.fileno(), lambda: heard.append(ours.recv(10)))
    steps.turn(2)
    assert [] == heard
    theirs.send(b"a")
    steps.until(lambda: heard == [b"a"])
    steps.loop.add_writer(ours.fileno(), lambda: (wrote.append(1), steps.loop.remove_writer(ours.fileno())))
    steps.until(lambda: wrote)
    steps.turn(3)
    assert [1] == wrote
    assert [b"a"] == heard
    steps.loop.remove_reader(ours.fileno())


def test_data_and_a_reset_that_arrive_together_are_both_heard(steps):
    ours, theirs = tcp_pair(steps)
    heard = []

    def read():
        try:
            heard.append(ours.recv(1))
        except ConnectionResetError as error:
            heard.append(error)
            steps.loop.remove_reader(ours.fileno())

    theirs.send(b"a")
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    steps.loop.add_reader(ours.fileno(), read)
    steps.until(lambda: heard and isinstance(heard[-1], ConnectionResetError))


def test_a_removed_descriptor_is_left_alone_even_when_it_is_reset(steps):
    ours, theirs = tcp_pair(steps)
    heard = []
    steps.loop.add_reader(ours.fileno(), lambda: heard.append(1))
    steps.loop.remove_reader(ours.fileno())
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    steps.turn(3)
    assert [] == heard


def test_a_socket_that_takes_over_a_descriptor_within_a_turn_gets_none_of_the_old_events(steps):
    pairs = [socket.socketpair() for _ in range(8)]
    heard = []

    def close_all_and_open_others():
        for ours, theirs in pairs:
            steps.loop.remove_reader(ours.fileno())
            ours.close()
            theirs.close()
        pairs.clear()
        fresh = [socket.socketpair() for _ in range(8)]
        steps.owned(*(sock for two in fresh for sock in two))
        for ours, _ in fresh:
            steps.loop.add_reader(ours.fileno(), lambda: heard.append(1))

    for ours, theirs in pairs:
        steps.loop.add_reader(ours.fileno(), close_all_and_open_others)
        theirs.send(b"x")
    steps.turn(3)
    assert [] == pairs
    assert [] == heard


def test_a_callback_that_raises_is_reported_once_and_harms_no_other(steps):
    pairs = [socket.socketpair() for _ in range(4)]
    steps.owned(*(sock for two in pairs for sock in two))
    heard = []

    def bad():
        raise RuntimeError("a bug")

    for number, (ours, theirs) in enumerate(pairs):
        steps.loop.add_reader(ours.fileno(), bad if number % 2 else lambda ours=ours: heard.append(ours.recv(1)))
        theirs.send(b"x")
    steps.until(lambda: len(heard) == 2)
    steps.turn(3)
    assert 2 == len(steps.trouble)
    steps.trouble.clear()


def test_settled_memory_is_never_walked_again():
    thresholds = gc.get_threshold()
    try:
        settle_memory()
        assert gc.get_freeze_count() > 10_000
        assert YOUNG_OBJECTS == gc.get_threshold()[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


def test_garbage_made_later_is_still_found():
    code = """
import gc
from mcpproxy.net.loop import settle_memory
settle_memory()
for _ in range(200_000):
    cycle = []
    cycle.append(cycle)
assert gc.get_stats()[0]["collections"] > 0
assert len(gc.get_objects()) < 100_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_reader_that_drains_is_told_once_for_each_arrival_and_asks_for_what_it_left(steps, pair):
    ours, theirs = pair
    heard = []
    steps.loop.add_reader(ours.fileno(), lambda: heard.append(ours.recv(1)), drains=True)
    theirs.send(b"abc")
    steps.until(lambda: heard)
    steps.turn(3)
    assert heard == [b"a"], "the rest was left, and nobody asked"
    steps.loop.again(ours.fileno())
    steps.turn(3)
    assert heard == [b"a", b"b"]
    theirs.send(b"d")
    steps.turn(3)
    assert heard == [b"a", b"b", b"c"], "an arrival is told, however much lies there"
    steps.loop.add_writer(ours.fileno(), lambda: steps.loop.remove_writer(ours.fileno()))
    steps.turn(4)
    assert heard[3:] == [b"d"], "while it also writes, what lies there is told"
    steps.loop.remove_reader(ours.fileno())


def test_a_reader_that_drains_hears_an_end_that_came_with_the_last_bytes(steps, pair):
    ours, theirs = pair
    heard = []

    def read():
        heard.append(ours.recv(100))
        if not heard[-1]:
            steps.loop.remove_reader(ours.fileno())

    theirs.send(b"abc")
    theirs.close()
    steps.loop.add_reader(ours.fileno(), read, drains=True)
    steps.until(lambda: heard[-1:] == [b""])
    assert heard == [b"abc", b""]


def test_another_reader_takes_over(steps, pair):
    ours, theirs = pair
    first, second = [], []
    steps.loop.add_reader(ours.fileno(), lambda: first.append(ours.recv(10)), drains=True)
    theirs.send(b"one")
    steps.until(lambda: first)
    steps.loop.swap_reader(ours.fileno(), lambda: second.append(ours.recv(10)))
    theirs.send(b"two")
    steps.until(lambda: second)
    assert (first, second) == ([b"one"], [b"two"])
