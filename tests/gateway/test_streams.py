"""Streams that survive their connection."""

from typing import cast

import pytest

from mcpproxy.gateway import streams
from mcpproxy.gateway.streams import OVERHEAD, Store, Stream, place
from mcpproxy.gateway.web import Visit


class Reader:
    """A visit that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.full = self.ended = self.left = False
        self.gone = self.ready = None

    def event(self, event: bytes) -> bool:
        self.told.append(event)
        return not self.left

    def end(self) -> None:
        self.ended = True

    def leave(self) -> None:
        self.left = True

    @property
    def ids(self) -> list[str]:
        return [line[4:] for event in self.told for line in event.decode().splitlines() if line.startswith("id: ")]

    @property
    def data(self) -> list[str]:
        return [line[6:] for event in self.told for line in event.decode().splitlines() if line.startswith("data: ") and line != "data: "]


def visit(reader: Reader) -> Visit:
    return cast(Visit, reader)


def reading(stream: Stream, *, after: int | None = None, prime: bool = False) -> Reader:
    reader = Reader()
    stream.attach(visit(reader), after=after, prime=prime)
    return reader


def test_events_have_ids_of_their_own_and_go_out_at_once() -> None:
    stream = Stream(3, Store(), {}, 1)
    reader = reading(stream)
    stream.send(b'{"a":1}')
    stream.send(b'{"b":\n2}')
    assert reader.told == [b'event: message\nid: 3-1\ndata: {"a":1}\n\n', b'event: message\nid: 3-2\ndata: {"b":2}\n\n']


def test_a_stream_that_was_cut_goes_on_after_the_last_event_its_client_saw() -> None:
    stream = Stream(3, Store(), {}, 1)
    first = reading(stream)
    for number in range(4):
        stream.send(b"%d" % number)
    stream._left()
    stream.send(b"4")
    stream.answered(b"5")
    second = reading(stream, after=2)
    assert first.ids == ["3-1", "3-2", "3-3", "3-4"]
    assert second.data == ["2", "3", "4", "5"] and second.ended


def test_a_complete_stream_can_be_read_again_until_it_is_forgotten() -> None:
    store, owner = Store(), dict[int, Stream]()
    stream = owner[3] = Stream(3, store, owner, 1)
    assert reading(stream).told == []
    stream.answered(b"1")
    assert reading(stream, after=0).data == ["1"]
    assert reading(stream, after=1).ended
    store.expire(stream.last + streams.KEPT_S + 1)
    assert not owner and store.bytes == 0 and not store.streams


def test_a_stream_that_waits_for_its_answer_is_not_forgotten_with_its_events() -> None:
    store, owner = Store(), dict[int, Stream]()
    stream = owner[3] = Stream(3, store, owner, 1)
    stream.send(b"1")
    store.expire(stream.last + streams.KEPT_S + 1)
    stream.answered(b"2")
    assert owner == {3: stream} and reading(stream, after=1).data == ["2"]


def test_the_first_event_primes_and_every_id_is_there_once() -> None:
    stream = Stream(0, Store())
    first = reading(stream, prime=True)
    assert first.told == [b"id: 0-1\nretry: 1000\ndata: \n\n"]
    stream.send(b"1")
    second = reading(stream, prime=True)
    stream.send(b"2")
    assert first.ids + second.ids == ["0-1", "0-2", "0-3", "0-4"]
    assert first.ended and reading(stream, after=3).data == ["2"]


def test_what_nobody_read_waits_for_the_first_reader() -> None:
    stream = Stream(0, Store())
    stream.send(b"1")
    stream.send(b"2")
    assert reading(stream, prime=True).data == ["1", "2"]
    assert reading(stream, prime=True).data == []


def test_the_second_reader_takes_the_place_of_the_first() -> None:
    stream = Stream(0, Store())
    first = reading(stream)
    second = reading(stream)
    stream.send(b"1")
    assert first.ended and first.gone is None and not first.told and second.data == ["1"]


def test_a_reader_who_is_full_gets_the_rest_when_it_reads_again() -> None:
    stream = Stream(1, Store(), {}, 1)
    reader = reading(stream)
    stream.send(b"1")
    reader.full = True
    stream.send(b"2")
    stream.answered(b"3")
    assert reader.data == ["1"] and not reader.ended
    reader.full = False
    stream.pump()
    assert reader.data == ["1", "2", "3"] and reader.ended


def test_all_events_are_bounded_and_the_silent_ones_go_first() -> None:
    store = Store(3 * (OVERHEAD + 60))
    old, new = Stream(1, store, {}, 1), Stream(2, store, {}, 1)
    reading(old), reading(new)
    old.send(b"1")
    for number in range(10):
        new.send(b"%d" % number)
        assert store.bytes <= store.limit
    assert old.events is None and new.events is not None and [event for event, _ in new.events] == [8, 9, 10]
    assert store.bytes == new.size


def test_a_slow_reader_whose_events_were_lost_is_left() -> None:
    """Else it would not know that it missed something."""
    store = Store(2 * (OVERHEAD + 60))
    stream = Stream(1, store, {}, 1)
    reader = reading(stream)
    reader.full = True
    for number in range(3):
        stream.send(b"%d" % number)
    assert reader.left


def test_an_event_without_room_is_told_and_not_kept() -> None:
    store = Store(2000)
    stream = Stream(1, store, {}, 1)
    reader = reading(stream)
    stream.send(b"x" * 5000)
    stream.send(b"1")
    assert reader.data == ["x" * 5000, "1"] and store.bytes <= store.limit


def test_what_is_said_to_a_client_that_never_reads_is_bounded() -> None:
    stream = Stream(0, Store())
    for _ in range(1000):
        stream.send(b"x" * 1000)
    assert stream.size <= streams.KEPT_UNREAD


def test_a_stream_that_is_closed_holds_nothing() -> None:
    store = Store()
    stream = Stream(0, store)
    reader = reading(stream)
    stream.send(b"1")
    stream.close()
    assert reader.ended and store.bytes == 0 and not store.streams


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"3-17", (3, 17)),
        (b"0-0", (0, 0)),
        (b"", None),
        (b"3", None),
        (b"3-", None),
        (b"-1", None),
        (b"a-1", None),
        (b"1" * 50 + b"-1", None),
    ],
)
def test_event_ids_that_are_not_ours(text: bytes, found: tuple[int, int] | None) -> None:
    assert place(text) == found
