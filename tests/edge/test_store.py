"""The store is bounded whatever is put in, and keeps what is used."""

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.edge.store import COPY_BYTES, ENTRY_BYTES, LARGEST_KEY, SEEN_ONCE, Store


def test_what_is_used_survives_a_flood_of_heads_seen_once():
    store = Store(100, 10_000_000)
    store.put(b"hot", 1)
    for number in range(10_000):
        store.put(b"cold %d" % number, 0)
        if number % 20 == 0:
            assert 1 == store.find(b"hot")
    assert len(store) <= 100


def test_fresh_is_always_the_same_dictionary():
    store = Store(4, 10_000_000)
    get = store.fresh.get
    for number in range(20):
        store.put(b"%d" % number, number)
    assert 19 == get(b"19")
    store.clear()
    assert get(b"19") is None
    assert store.find(b"19") is None


def test_long_keys_are_not_stored():
    store = Store(10, 10_000_000)
    store.put(b"x" * (LARGEST_KEY + 1), 1)
    assert 0 == len(store)


@given(st.lists(st.integers(1, LARGEST_KEY), max_size=300), st.integers(1, 20))
def test_bytes_are_bounded(sizes, copies):
    store = Store(1_000_000, 100_000, copies)

    def cost(size):
        return (1 + copies) * size + ENTRY_BYTES + (copies - 1) * COPY_BYTES

    for number, size in enumerate(sizes):
        store.put(b"%08d" % number + b"x" * size, number)
        assert sum(cost(len(key)) for key in (*store.fresh, *store._old)) <= 100_000 + 2 * cost(LARGEST_KEY + 32)


def test_clear_forgets_both_generations():
    store = Store(4, 10_000_000)
    for number in range(6):
        store.put(b"%d" % number, number)
    store.clear()
    assert 0 == len(store)
    assert [None] * 6 == [store.find(b"%d" % number) for number in range(6)]


def test_a_key_earns_its_place_at_its_second_sight():
    store = Store(100, 10_000_000)
    assert [False, True] == [store.earned(b"a"), store.earned(b"a")]
    assert store.earned(b"b") is False
    store.clear()
    assert store.earned(b"b") is False


def test_keys_seen_once_are_bounded():
    store = Store(100, 10_000_000)
    for number in range(3 * SEEN_ONCE):
        store.earned(b"%d" % number)
        assert len(store._once) <= SEEN_ONCE
