import ctypes
import errno
import os
import signal

import pytest

from mcpproxy.policy.locks import STRIPES, Locks
from tests.policy.forked import fork


def free(locks: Locks, stripe: int) -> bool:
    """Could this process have it at once? (It keeps what it got.)"""
    return ctypes.CDLL(None).pthread_mutex_trylock(locks.addresses[stripe]) in (0, errno.EOWNERDEAD)


def free_for_others(locks: Locks, stripe: int) -> bool:
    return fork(lambda tell: tell(b"%d" % free(locks, stripe))).wait() == b"1"


@pytest.fixture
def locks():
    return Locks()


def test_one_process_at_a_time_has_a_lock(locks: Locks) -> None:
    locks.take((3,))
    assert not free_for_others(locks, 3)
    assert free_for_others(locks, 4)
    locks.give()
    assert free_for_others(locks, 3)


def test_several_are_taken_and_given_back_together(locks: Locks) -> None:
    locks.take((0, 7, STRIPES - 1))
    assert [free_for_others(locks, stripe) for stripe in (0, 7, STRIPES - 1)] == [False] * 3
    locks.give()
    assert [free_for_others(locks, stripe) for stripe in (0, 7, STRIPES - 1)] == [True] * 3


def test_a_child_that_lives_on_does_not_keep_what_its_killed_parent_had(locks: Locks) -> None:
    still, end = os.pipe()

    def parent_of_a_child(tell) -> None:
        locks.take((5,))
        os.close(end)
        if os.fork() == 0:
            os.read(still, 1)  # until the test ends
            os._exit(0)
        tell(b"locked")
        os.read(still, 1)

    holder = fork(parent_of_a_child)
    assert holder.read() == b"locked"
    assert not free_for_others(locks, 5)
    holder.kill()
    assert free_for_others(locks, 5)
    os.close(end)
    os.close(still)


def test_who_waits_gets_it_when_the_holder_is_killed(locks: Locks) -> None:
    still, end = os.pipe()

    def hold(tell) -> None:
        locks.take((9,))
        tell(b"locked")
        os.close(end)
        os.read(still, 1)

    def wait(tell) -> None:
        tell(b"waiting ")
        locks.take((9,))
        tell(b"got it")

    holder = fork(hold)
    assert holder.read() == b"locked"
    waiter = fork(wait)
    assert waiter.read(8) == b"waiting "
    holder.kill()
    assert waiter.wait() == b"got it"
    os.close(end)
    os.close(still)


def test_after_many_killed_holders_it_is_as_good_as_new(locks: Locks) -> None:
    def hold(tell) -> None:
        locks.take((1, 2, 3))
        tell(b"locked")
        signal.pause()

    for _ in range(20):
        holder = fork(hold)
        assert holder.read() == b"locked"
        assert not free_for_others(locks, 2)
        holder.kill()
        locks.take((1, 2))
        locks.give()
        assert free_for_others(locks, 1)
