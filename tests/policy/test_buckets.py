"""The table by itself, and with real processes: nobody counted wrong, nothing stuck, nothing mixed up, whoever is killed."""

import os
import random
import select
from collections.abc import Callable
from math import isfinite

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.config.policies import Limit
from mcpproxy.policy import limits
from mcpproxy.policy.buckets import ADDRESSES, COUNT, COUNT_BITS, DAY, NAMED, NO_ROOM, TOOLS, WAYS, Buckets, Region, Slot
from mcpproxy.policy.limits import Check, Denied, Gate, Held
from mcpproxy.policy.locks import STRIPES
from mcpproxy.units import Rate
from tests.policy.forked import fork
from tests.policy.test_locks import free

NOW = 1_800_000_000.0
TODAY = int(NOW // DAY)
ONE_SET = Region(0, 1)
SECRET = b"s" * 32


def table(sets: int = 1, workers: int = 1) -> Buckets:
    return Buckets(workers, sets=sets, secret=SECRET)


def names(count: int, first: int = 0) -> list[bytes]:
    return [b"name %d" % number for number in range(first, first + count)]


def found(buckets: Buckets, name: bytes, region: Region = ONE_SET) -> bool:
    return buckets.look(buckets.slot(region, name)) != NO_ROOM


def test_a_key_is_found_where_it_was_put() -> None:
    buckets = Buckets(secret=SECRET)
    for region in (NAMED, TOOLS, ADDRESSES):
        for name in names(50):
            slot = buckets.slot(region, name)
            index = buckets.find(slot, NOW)
            assert region.first * WAYS <= slot.base <= index < slot.base + WAYS <= (region.first + region.sets) * WAYS
            again = buckets.slot(region, name)
            assert (again.key, again.base, buckets.find(again, NOW), buckets.look(again)) == (slot.key, slot.base, index, index)


def test_another_family_of_processes_has_other_places() -> None:
    first, second = Buckets(), Buckets()
    places = [[buckets.slot(NAMED, name).key for name in names(20)] for buckets in (first, second)]
    assert not set(places[0]) & set(places[1])


def test_a_forked_process_has_the_same_places() -> None:
    buckets = Buckets(2)
    slot = buckets.slot(NAMED, b"a")
    assert fork(lambda tell: tell(b"%d" % buckets.slot(NAMED, b"a").key)).wait() == b"%d" % slot.key


def test_what_says_nothing_any_more_goes_first() -> None:
    buckets = table()
    slots = [buckets.slot(ONE_SET, name) for name in names(WAYS)]
    for slot in slots:
        buckets.full[buckets.find(slot, NOW)] = NOW + 60
    buckets.full[slots[5].index] = NOW  # full again just now
    buckets.find(buckets.slot(ONE_SET, b"new"), NOW)
    assert [found(buckets, name) for name in names(WAYS)] == [True] * 5 + [False] + [True] * 2


def test_else_the_one_that_recovers_soonest() -> None:
    buckets = table()
    for ahead, name in enumerate(names(WAYS), 3):
        buckets.full[buckets.find(buckets.slot(ONE_SET, name), NOW)] = NOW + ahead
    index = buckets.find(buckets.slot(ONE_SET, b"new"), NOW)
    assert [found(buckets, name) for name in names(WAYS)] == [False] + [True] * 7
    assert (buckets.full[index], buckets.used[index], buckets.held[index]) == (0.0, 0, 0), "nothing of the former owner"


def test_of_daily_counts_the_smaller_one_goes_and_a_rate_before_any() -> None:
    buckets = table()
    slots = [buckets.slot(ONE_SET, name) for name in names(WAYS)]
    for number, slot in enumerate(slots):
        buckets.used[buckets.find(slot, NOW)] = (TODAY << COUNT_BITS) + 10 + number
    buckets.used[slots[6].index] = (TODAY - 1 << COUNT_BITS) + 5_000  # yesterday's
    buckets.full[slots[6].index] = NOW + 3600
    for gone in (6, 0):
        new = buckets.slot(ONE_SET, b"new %d" % gone)
        buckets.used[buckets.find(new, NOW)] = (TODAY << COUNT_BITS) + 1_000
        assert buckets.look(slots[gone]) == NO_ROOM
    assert [found(buckets, name) for name in names(WAYS)] == [False] + [True] * 5 + [False, True]


def test_what_goes_on_stays_and_at_last_there_is_no_room() -> None:
    buckets = table()
    slots = [buckets.slot(ONE_SET, name) for name in names(WAYS)]
    for slot in slots:
        buckets.hold(buckets.find(slot, NOW), 1)
    assert buckets.find(buckets.slot(ONE_SET, b"new"), NOW) == NO_ROOM
    buckets.hold(slots[2].index, -1)
    assert buckets.find(buckets.slot(ONE_SET, b"new"), NOW) == slots[2].index


def test_an_entry_that_was_just_given_out_is_not_given_out_twice() -> None:
    buckets = table()
    for name in names(WAYS - 1):
        buckets.hold(buckets.find(buckets.slot(ONE_SET, name), NOW), 1)
    first = buckets.find(buckets.slot(ONE_SET, b"a"), NOW)
    assert buckets.find(buckets.slot(ONE_SET, b"b"), NOW, [first]) == NO_ROOM
    assert buckets.find(buckets.slot(ONE_SET, b"b"), NOW) == first


def test_state_from_a_clock_that_was_wrong_says_nothing() -> None:
    buckets = table()
    slots = [buckets.slot(ONE_SET, name) for name in names(WAYS)]
    for slot in slots:
        buckets.full[buckets.find(slot, NOW)] = NOW + 60
    buckets.full[slots[3].index] = NOW + 30 * 365 * DAY
    buckets.used[slots[3].index] = (TODAY + 365 << COUNT_BITS) + 10
    assert buckets.find(buckets.slot(ONE_SET, b"new"), NOW) == slots[3].index


class Killed(Exception):
    pass


class Stores:
    """A view that ends its process before the store number `left`."""

    def __init__(self, words: memoryview, left: list[int]) -> None:
        self.words, self.left = words, left

    def __getitem__(self, index: int | slice) -> object:
        return self.words[index]

    def __setitem__(self, index: int, value: float) -> None:
        if not self.left[0]:
            raise Killed
        self.left[0] -= 1
        self.words[index] = value


@pytest.mark.parametrize("stores", range(4))
def test_a_process_killed_between_two_stores_leaves_an_entry_of_one_owner(stores: int) -> None:
    buckets = table()
    slots = [buckets.slot(ONE_SET, name) for name in names(WAYS)]
    for slot in slots:
        index = buckets.find(slot, NOW)
        buckets.full[index], buckets.used[index] = NOW + 60, (TODAY << COUNT_BITS) + 5
    new = buckets.slot(ONE_SET, b"new")
    whole = buckets.keys, buckets.full, buckets.used
    left = [stores]
    buckets.keys, buckets.full, buckets.used = (Stores(words, left) for words in whole)  # type: ignore[assignment]
    try:
        buckets.find(new, NOW)
        assert stores == 3
    except Killed:
        assert stores < 3
    buckets.keys, buckets.full, buckets.used = whole
    if buckets.look(new) == NO_ROOM:
        assert all(buckets.look(slot) != NO_ROOM for slot in slots), "at most forgotten"
    else:
        index = buckets.look(new)
        assert (buckets.full[index], buckets.used[index]) == (0.0, 0), "nothing of the former owner"


def test_only_the_dead_workers_share_is_forgotten() -> None:
    buckets = table(workers=3)
    index = buckets.find(buckets.slot(ONE_SET, b"a"), NOW)
    for buckets.worker in range(3):
        buckets.hold(index, buckets.worker + 1)
    assert buckets.holding(index) == 6
    buckets.forget_worker(1)
    assert buckets.holding(index) == 4
    buckets.worker = 0
    buckets.hold(index, -1)
    assert buckets.holding(index) == 3


def whole_again(buckets: Buckets, index: int) -> tuple[float, int]:
    count = buckets.used[index] & COUNT if buckets.used[index] >> COUNT_BITS == TODAY else 0
    return max(buckets.full[index], (TODAY + 1) * DAY if count else 0.0, NOW), count


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([0.0, 0.5, 2.0, 60.0, 3600.0]), st.sampled_from([0, 1, 900]), st.integers(0, 1)),
        max_size=60,
    )
)
def test_nobody_goes_while_one_of_its_set_has_less_to_lose(uses: list[tuple[int, float, int, int]]) -> None:
    buckets = table(sets=2)
    region = Region(0, 2)
    for number, ahead, count, held in uses:
        slot = buckets.slot(region, b"%d" % number)
        before = {index: buckets.keys[index] for index in range(slot.base, slot.base + WAYS)}
        lose = {index: (bool(buckets.holding(index)), *whole_again(buckets, index)) for index in before}
        other = [bytes(words) for words in (buckets.keys, buckets.full, buckets.used)]
        known = buckets.look(slot)
        index = buckets.find(slot, NOW)
        if known != NO_ROOM:
            assert index == known
        elif index == NO_ROOM:
            assert all(held for held, _, _ in lose.values())
            continue
        else:
            assert lose[index] == min(lose.values()) or before[index] == 0
            assert not lose[index][0]
            assert (buckets.full[index], buckets.used[index], buckets.holding(index)) == (0.0, 0, 0)
        for words, old in zip((buckets.keys, buckets.full, buckets.used), other, strict=True):
            assert bytes(words)[: 8 * index] == old[: 8 * index]
            assert bytes(words)[8 * index + 8 :] == old[8 * index + 8 :]
        buckets.full[index] = max(buckets.full[index], NOW + ahead)
        buckets.used[index] = (TODAY << COUNT_BITS) + max(buckets.used[index] & COUNT, count)
        buckets.held[index] |= held
    present = [key for key in buckets.keys if key]
    assert len(present) == len(set(present))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """A table with few entries, so that a flood need not be large."""
    monkeypatch.setattr(limits, "NAMED", Region(0, 256))
    monkeypatch.setattr(limits, "ADDRESSES", Region(256, 64))
    monkeypatch.setattr(limits, "TOOLS", Region(320, 64))
    return Buckets(sets=384, secret=SECRET)


def test_a_flood_of_addresses_displaces_itself_and_nobody_who_has_used_up_more(small: Buckets) -> None:
    addresses = Gate(small, [check(small, "a", Limit(per=("address",), rate=Rate(30, 60.0, 10)))], check(small, "p", Limit()))
    spent = [b"\x0a\x00" + number.to_bytes(2) for number in range(30)]
    for address in spent:
        assert [addresses.admit(NOW, address) for _ in range(11)] == [None] * 11
        assert isinstance(addresses.admit(NOW, address), Denied)
    for number in range(10_000):
        assert addresses.admit(NOW, b"\x0b" + number.to_bytes(3)) is None
    assert all(isinstance(addresses.admit(NOW, address), Denied) for address in spent)


def test_a_flood_of_addresses_and_tools_leaves_named_callers_alone(small: Buckets) -> None:
    probes = check(small, "p", Limit())
    per = {part: Limit(per=tuple(part.split()), rate=Rate(1, 60.0)) for part in ("principal", "address", "principal tool", "tool")}
    gates = {part: Gate(small, [check(small, part, limit)], probes) for part, limit in per.items()}
    callers = [f"keys\n{number}" for number in range(200)]
    assert all(gates["principal"].admit(NOW, b"", caller) is None for caller in callers)
    for number in range(3_000):
        gates["address"].admit(NOW, number.to_bytes(4))
        gates["principal"].admit(NOW, number.to_bytes(4))
        gates["principal tool"].admit(NOW, b"", "keys\n1", f"tool {number}")
        gates["principal tool"].admit(NOW, number.to_bytes(4), "", f"tool {number}")
        gates["tool"].admit(NOW, b"", "", f"tool {number}")
    assert all(isinstance(gates["principal"].admit(NOW, b"", caller), Denied) for caller in callers)


# With real processes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check(buckets: Buckets, name: str, limit: Limit) -> Check:
    return Check(buckets, name, limit, (name,))


def hammer(
    buckets: Buckets, gate: Gate, processes: int, attempts: int, now: Callable[[int], float], principal: str = "keys\na"
) -> list[int]:
    """How many each process got admitted. They begin together."""
    start, go = os.pipe()

    def work(number: int, tell: Callable[[bytes], None]) -> None:
        buckets.worker = number
        os.close(go)
        tell(b"r")
        os.read(start, 1)
        tell(b"%d" % sum(not isinstance(gate.admit(now(attempt), b"", principal), Denied) for attempt in range(attempts)))

    children = [fork(lambda tell, number=number: work(number, tell)) for number in range(processes)]  # type: ignore[misc]
    assert [child.read(1) for child in children] == [b"r"] * processes
    os.close(go)
    os.close(start)
    return [int(child.wait()) for child in children]


@pytest.mark.parametrize("kind", ["rate", "daily", "concurrent"])
def test_processes_together_get_exactly_what_one_would(kind: str) -> None:
    buckets = Buckets(4, secret=SECRET)
    limit = {"rate": Limit(rate=Rate(1, 1.0, burst=499)), "daily": Limit(daily=500), "concurrent": Limit(concurrent=500)}[kind]
    gate = Gate(
        buckets, [check(buckets, "a", limit), check(buckets, "b", Limit(per=(), rate=Rate(1, 1.0, 100_000)))], check(buckets, "p", Limit())
    )
    got = hammer(buckets, gate, 4, 1000, lambda attempt: NOW)
    assert sum(got) == 500
    now = NOW
    for seconds in (1, 7, 30):
        now += seconds
        again = hammer(buckets, gate, 4, 50, lambda attempt, now=now: now)  # type: ignore[misc]
        assert sum(again) == (seconds if kind == "rate" else 0)
    if kind == "daily":
        assert sum(hammer(buckets, gate, 4, 200, lambda attempt: NOW + DAY)) == 500
    if kind == "concurrent":
        for worker in range(4):
            buckets.forget_worker(worker)
        assert sum(hammer(buckets, gate, 4, 200, lambda attempt: now)) == 500


def test_processes_whose_clocks_go_on_get_what_the_rate_allows() -> None:
    """Each walks through 50 s; the bucket of one per second and 20 more allows 71 over all, however they overtake each other."""
    buckets = Buckets(4, secret=SECRET)
    gate = Gate(buckets, [check(buckets, "a", Limit(rate=Rate(1, 1.0, burst=20)))], check(buckets, "p", Limit()))
    got = hammer(buckets, gate, 4, 801, lambda attempt: NOW + attempt / 16)
    assert sum(got) == 71


def test_killed_workers_leave_no_lock_and_no_broken_entry() -> None:
    """200 times kill -9, at any moment. It takes as long as 200 forks take."""
    workers, kills, daily = 2, 200, 1 << 30
    buckets = Buckets(workers, sets=4, secret=SECRET)  # so few that entries change hands all the time
    region = Region(0, 4)
    kinds = {
        "each": Limit(rate=Rate(2, 1.0, burst=3), daily=50),
        "busy": Limit(per=("principal", "tool"), concurrent=2),
        "all": Limit(per=(), daily=daily),
    }
    probes = check(buckets, "p", Limit())
    checks = [check(buckets, name, limit) for name, limit in kinds.items()]
    callers = [f"keys\n{number}" for number in range(60)]
    slots: dict[tuple[str, str], Slot] = {}
    for one in checks:  # small regions: put every slot of every check into these four sets
        for caller in callers if one.name != "all" else [""]:
            who = (caller, "t") if one.by_tool else caller
            slots[one.name, caller] = one.fresh[who] = buckets.slot(region, repr((one.name, who)).encode())
    gate = Gate(buckets, checks, probes)

    def work(number: int, seed: int, tell: Callable[[bytes], None]) -> None:
        chance = random.Random(seed)
        buckets.worker = number
        going: list[Held] = []
        tell(b"r")
        now = NOW
        while True:
            now += chance.choice((0.0, 0.0, 0.001))
            verdict = gate.admit(now, b"", chance.choice(callers), "t")
            if isinstance(verdict, Held):
                going.append(verdict)
            if len(going) > 3:
                going.pop(chance.randrange(len(going))).leave()

    chance = random.Random(7)
    children = [fork(lambda tell, number=number: work(number, number, tell)) for number in range(workers)]  # type: ignore[misc]
    assert [child.read(1) for child in children] == [b"r"] * workers
    for seed in range(kills):
        number = chance.randrange(workers)
        select.select([], [], [], chance.random() * 0.003)
        children[number].kill()
        buckets.forget_worker(number)
        children[number] = fork(lambda tell, number=number, seed=seed: work(number, seed, tell))  # type: ignore[misc]
        assert children[number].read(1) == b"r", "it got through its start"
    before = buckets.used[buckets.look(slots["all", ""])]
    for number, child in enumerate(children):  # all that are left are at work, not stuck
        while buckets.look(slots["all", ""]) == NO_ROOM or buckets.used[buckets.look(slots["all", ""])] == before:
            assert not select.select([child.tells], [], [], 0.001)[0], "a worker died by itself"
        child.kill()
        buckets.forget_worker(number)
    assert all(free(buckets.locks, stripe) for stripe in range(STRIPES))  # type: ignore[arg-type]
    assert not any(buckets.held)
    sets = {slot.key: slot.base for slot in slots.values()}
    present = [(index, key) for index, key in enumerate(buckets.keys) if key]
    assert len({key for _, key in present}) == len(present), "no bucket is there twice"
    for index, key in present:
        assert sets[key] <= index < sets[key] + WAYS, "each is one of ours, in its own set"
        day, count = buckets.used[index] >> COUNT_BITS, buckets.used[index] & COUNT
        assert day in (0, TODAY)
        owner = next(name for (name, _), slot in slots.items() if slot.key == key)
        assert count <= {"each": 50, "busy": 0, "all": daily}[owner], "no state of another owner"
        assert buckets.full[index] == 0.0 or owner == "each"
        assert isfinite(buckets.full[index])


def test_with_one_worker_there_is_no_lock() -> None:
    assert Buckets().locks is None
    assert Buckets(2).locks is not None


def test_what_another_program_left_is_gone_on_with() -> None:
    one, other = Buckets(2), Buckets(3)
    slot = one.slot(NAMED, b"alpha")
    index = one.find(slot, 0.0)
    one.full[index], one.used[index] = 7.0, 9
    one.hold(index, 1)
    assert other.inherit(one.left())
    there = other.look(other.slot(NAMED, b"alpha"))
    assert (there, other.full[there], other.used[there], other.holding(there)) == (index, 7.0, 9, 0)


@pytest.mark.parametrize(
    "make", [bytes, lambda: b"limits 0 " + Buckets().left()[9:], lambda: table().left(), lambda: Buckets().left()[:-1]]
)
def test_what_was_made_otherwise_is_forgotten(make: Callable[[], bytes]) -> None:
    buckets = Buckets()
    key = buckets.slot(NAMED, b"alpha").key
    assert not buckets.inherit(make())
    assert buckets.slot(NAMED, b"alpha").key == key
