"""What each address may have verified in vain: bounded, fair to others, given back with time."""

from mcpproxy.policy.buckets import ADDRESSES, WAYS, Buckets
from mcpproxy.policy.failures import SAY_S, Failures
from mcpproxy.units import Rate

NOW = 1_800_000_000.0
HOME, NEIGHBOUR = b"\x7f\0\0\1", b"\x7f\0\0\2"


def failures(rate: Rate | None = None, workers: int = 1) -> Failures:
    return Failures(rate or Rate(1, 10.0, burst=4), Buckets(workers, secret=b"s" * 32))


def spend(it: Failures, address: bytes, now: float = NOW) -> int:
    """How many failures it takes until nothing is verified any more."""
    for count in range(1000):
        account = it.payer(address)
        assert account is not None
        if account.broke(now) is not None:
            return count
        account.charge(now)
    raise AssertionError("no end to it")


def test_an_address_has_its_budget_and_no_others() -> None:
    for workers in (1, 2):
        it = failures(workers=workers)
        assert (spend(it, HOME), spend(it, NEIGHBOUR)) == (5, 5)
        assert (it.failed, it.refused) == (10, 2)
        refused = it.payer(HOME)
        assert refused is not None
        answer = refused.broke(NOW + 3.5)
        assert answer is not None
        assert (answer.status, answer.kind, answer.retry_after) == (429, "too-many-failed-credentials", 7)
        assert spend(it, HOME, NOW + 20) == 2, "one every ten seconds comes back"
        assert spend(it, HOME, NOW + 3600) == 5


def test_what_is_given_back_was_never_spent() -> None:
    it = failures()
    spend(it, HOME)
    account = it.payer(HOME)
    assert account is not None
    account.refund(2)
    assert (spend(it, HOME), it.failed) == (2, 5)


def test_nobody_without_an_address_is_counted() -> None:
    assert failures().payer(b"") is None


def test_who_is_only_asked_about_takes_no_place() -> None:
    it = failures()
    account = it.payer(HOME)
    assert account is not None
    assert account.broke(NOW) is None
    account.refund()
    assert not any(it.buckets.keys)


def test_a_flood_of_addresses_is_bounded_and_forgets_those_who_spent_less_first() -> None:
    it = failures(Rate(1, 3600.0, burst=4))
    spend(it, HOME)
    for number in range(2 * ADDRESSES.sets):
        account = it.payer(number.to_bytes(8))
        assert account is not None
        account.charge(NOW)
    assert spend(it, HOME) == 0
    assert sum(map(bool, it.buckets.keys)) <= ADDRESSES.sets * WAYS


def test_the_log_hears_of_it_now_and_then() -> None:
    it = failures()
    assert it.tick(0.0) == ""
    spend(it, HOME)
    spend(it, NEIGHBOUR)
    assert it.tick(1.0).startswith("2 requests were answered")
    assert it.tick(2.0) == ""
    spend(it, HOME)
    assert it.tick(1.0 + SAY_S - 1) == ""
    assert it.tick(1.0 + SAY_S).startswith("1 request was answered")
    assert it.tick(10 * SAY_S) == ""
