"""The lane and the library say the same: the same bytes, cut anywhere, become the same calls, the same answers, the same end."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.http import frames, lane
from mcpproxy.http.frames import DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, HEADERS, PADDED, RST_STREAM, frame
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.http.lane import HEAD_SIZE, HEADS, Lane
from tests.http.h2crowd import LIMITS, Crowd, Reacting
from tests.http.h2play import GET, OK, POST, Play, data, update


def both(seed: int) -> tuple[Reacting, Reacting]:
    """Two connections that have begun."""
    return Reacting(Connection, seed), Reacting(Lane, seed)


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=True), st.integers(0, 2**32), st.lists(st.integers(0, 3000), max_size=6))
def test_the_lane_and_the_library_say_the_same(random: Random, seed: int, cuts: list[int]) -> None:
    said = Crowd(random).script()
    judged, laned = both(seed)
    for piece in said:
        judged.say(piece)
    whole = b"".join(said)
    at = 0
    for cut in (*cuts, len(whole)):
        laned.say(whole[at : at + cut])
        at += cut
    assert laned.outcome() == judged.outcome()


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=True), st.integers(0, 2**32))
def test_a_changed_byte_changes_both(random: Random, seed: int) -> None:
    whole = bytearray(b"".join(Crowd(random).script()) + b"\0")
    whole[random.randrange(len(whole))] = random.randrange(256)
    judged, laned = both(seed)
    judged.say(bytes(whole))
    for at in range(0, len(whole), 7):
        laned.say(bytes(whole[at : at + 7]))
    assert laned.outcome() == judged.outcome()


# -- the lane by itself -------------------------------------------------------------------------------------------------------------------------


def test_ordinary_streams_are_no_business_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Lane)
    asked: list[bytes] = []
    monkeypatch.setattr(play.connection._h2, "receive_data", asked.append)
    for stream in (1, 3, 5):
        play.say(play.head(stream, POST), frame(DATA, END_STREAM, stream, b"hello"), frames.window_update(stream, 5))
        play.connection.respond(stream, OK, False)
        play.connection.data(stream, b"x", True)
    assert not asked
    assert [one.kind for one in play.heard()] == ["HEADERS", "DATA"] * 3
    assert play.connection.open == 0


def test_a_call_that_is_known_and_whole_is_told_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(Lane)
    calls: list[tuple[int, bytes, bytes]] = []
    monkeypatch.setattr(play, "on_call", lambda *call: calls.append(call))
    fields = [*POST, (b"content-length", b"5")]
    wires = [play.head(stream, fields) + frame(DATA, END_STREAM, stream, b"hello") for stream in (1, 3, 5, 7, 9)]
    play.say(*wires[:3])
    play.say(wires[3][:-1])
    play.say(wires[3][-1:], wires[4])
    head = b"POST /mcp HTTP/2.0\r\nhost: a.example\r\ncontent-length: 5\r\n\r\n"
    assert calls == [(5, head, b"hello"), (9, head, b"hello")]
    assert [call[:2] for call in play.told()] == [("head", 1), ("body", 1), ("head", 3), ("body", 3), ("head", 7), ("body", 7)]


LENGTH_5 = [*POST, (b"content-length", b"5")]
HEAD_5 = b"POST /mcp HTTP/2.0\r\nhost: a.example\r\ncontent-length: 5\r\n\r\n"


class Caller(Play):
    """A lane whose client knows the table already; what it tells of whole calls is kept apart, and they go on at once."""

    def __init__(self, limits: H2Limits) -> None:
        self.whole: list[tuple[int, bytes]] = []
        super().__init__(Lane, limits)
        self.say(self.head(1, LENGTH_5), data(1, b"first", ended=True)).say(self.head(3, LENGTH_5), data(3, b"third", ended=True))
        for stream in (1, 3):
            self.connection.reset(stream, 8)
        self.whole.clear()
        self.told()

    def on_call(self, stream: int, head: bytes, body: bytes) -> bool:
        assert head == HEAD_5
        self.whole.append((stream, body))
        return True


def test_calls_are_whole_also_where_all_heads_come_before_all_bodies() -> None:
    play = Caller(H2Limits())
    heads = [play.head(stream, LENGTH_5) for stream in (5, 7, 9)]
    play.say(*heads, data(5, b"fifth", ended=True), data(9, b"ninth", ended=True), data(7, b"seven", ended=True))
    assert play.whole == [(5, b"fifth"), (9, b"ninth"), (7, b"seven")]
    assert not play.told()


def test_heads_whose_bodies_do_not_come_with_them_are_told_in_order_after_the_calls() -> None:
    play = Caller(H2Limits())
    play.say(*(play.head(stream, LENGTH_5) for stream in (5, 7, 9)), data(7, b"seven", ended=True), data(9, b"ni"))
    assert play.whole == [(7, b"seven")]
    assert [call[:2] for call in play.told()] == [("head", 5), ("head", 9), ("body", 9)]


def test_what_lies_behind_is_read_once_where_a_body_is_missing() -> None:
    play = Caller(H2Limits())
    behind = [data(5, b"fifth", ended=True) + data(7, b"se"), b"nobody asks for this"]
    play.connection.receive(play.head(5, LENGTH_5) + play.head(7, LENGTH_5), lambda: behind.pop(0))
    assert play.whole == [(5, b"fifth")]
    assert [call[:2] for call in play.told()] == [("head", 7), ("body", 7)]
    assert len(behind) == 1
    play.connection.receive(data(7, b"ven", ended=True), lambda: behind.pop(0))
    assert len(behind) == 1


def test_nothing_is_read_behind_where_nothing_is_missing() -> None:
    play = Caller(H2Limits())
    play.connection.receive(play.head(5, LENGTH_5) + data(5, b"fifth", ended=True), lambda: pytest.fail("read on"))
    assert play.whole == [(5, b"fifth")]


def test_calls_that_went_on_open_the_connections_window() -> None:
    play = Caller(H2Limits(connection_window=70_000))
    fields = [*POST, (b"content-length", b"16000")]
    play.on_call = lambda *_: True  # type: ignore[method-assign]
    for stream in range(5, 17, 2):
        play.say(play.head(stream, fields) + data(stream, b"x" * 16000, ended=True))
        play.connection.reset(stream, 8)
    steps = [one.payload for one in play.heard() if one.kind == "WINDOW_UPDATE" and one.stream == 0]
    assert sum(int.from_bytes(step, "big") for step in steps) >= 48_000


def test_no_more_calls_are_taken_than_there_may_be_streams() -> None:
    play = Caller(H2Limits(streams=2))
    play.say(*(play.head(stream, LENGTH_5) for stream in (5, 7, 9)), data(5, b"fifth", ended=True), data(7, b"seven", ended=True))
    assert play.whole == []
    assert [call[:2] for call in play.told()][:2] == [("head", 5), ("head", 7)]
    assert [(one.kind, one.stream) for one in play.heard() if one.kind == "RST_STREAM"][-1] == ("RST_STREAM", 9)


FOLLOWERS = {
    "the whole body": data(5, b"hello", ended=True),
    "another stream's body": data(1, b"hello", ended=True),
    "a body that goes on": data(5, b"hel"),
    "too little": data(5, b"hell", ended=True),
    "too much": data(5, b"hello!", ended=True),
    "a frame too large": data(5, b"x" * 16385, ended=True),
    "trailers": frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x00\x01x\x01y"),
    "HEADERS with the flags of a last DATA": frame(HEADERS, END_STREAM, 5, b"\x00\x01x\x01y"),
    "RST_STREAM with that flag": frame(RST_STREAM, END_STREAM, 5, b"\0\0\0\x08"),
    "padding": frame(DATA, PADDED | END_STREAM, 5, b"\1hello\0"),
    "an unknown frame": frame(77, END_STREAM, 5, b"hello"),
}


@pytest.mark.parametrize("follower", FOLLOWERS.values(), ids=FOLLOWERS.keys())
@pytest.mark.parametrize("promise", [True, False])
def test_what_follows_a_known_head_is_judged_the_same(follower: bytes, promise: bool) -> None:
    fields = [*POST, (b"content-length", b"5")] if promise else POST
    outcomes = []
    for kind in (Connection, Lane):
        play = Play(kind)
        play.say(play.head(1, fields)).say(play.head(3, fields))
        play.say(play.head(5, fields) + follower)
        outcomes.append(
            (play.told(), [(one.kind, one.stream, one.payload) for one in play.heard()], play.connection.open, play.connection.ended)
        )
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("size", [0, 1000, 16384])
@pytest.mark.parametrize("delivered", [True, False])
def test_calls_for_ever_use_no_window_up(size: int, delivered: bool) -> None:
    """What came with a call counts, and comes back when it went on or the call is over."""
    for kind in (Connection, Lane):
        play = Play(kind, LIMITS)
        for stream in range(1, 201, 2):
            play.say(play.head(stream, POST) + data(stream, b"x" * size, ended=True))
            if delivered:
                play.connection.delivered(stream, size)
            assert play.connection.answer(stream, OK, b"y" * 10)
            play.say(update(0, 10))
        opened = sum(one.number for one in play.heard() if (one.kind, one.stream) == ("WINDOW_UPDATE", 0))
        assert 0 <= 100 * size - opened < LIMITS.connection_window
        assert play.connection.open == 0
        play.goes_on()


def test_calls_that_nobody_takes_fill_the_window() -> None:
    """RFC 9113 §6.9.1."""
    for kind in (Connection, Lane):
        play = Play(kind, replace(LIMITS, streams=8))
        for stream in (1, 3, 5, 7):
            play.say(play.head(stream, POST) + data(stream, b"x" * 16384, ended=True))
        play.say(play.head(9, POST) + data(9, b"x" * 16384, ended=True))
        assert len(play.told()) == 9
        play.lost(FLOW_CONTROL_ERROR, last=9)


@pytest.mark.parametrize("kind", [Connection, Lane])
def test_a_call_that_is_answered_at_once_may_be_the_last(kind: type[Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(kind)
    wires = [play.head(stream, POST) + data(stream, b"hello", ended=True) for stream in (1, 3, 5)]
    play.say(*wires[:2])
    for stream in (1, 3):
        play.connection.respond(stream, OK, True)

    def leave(stream: int, body: bytes, ended: bool) -> None:
        play.connection.goaway(last=True)
        play.connection.respond(stream, OK, True)

    monkeypatch.setattr(play, "on_body", leave)
    play.say(wires[2])
    assert play.connection.ended
    assert [one.kind for one in play.heard()[-2:]] == ["GOAWAY", "HEADERS"]


def test_a_large_response_head_goes_on_in_continuations() -> None:
    play = Play(Lane)
    play.say(play.head(1, GET, ended=True))
    play.connection.respond(1, b"HTTP/1.1 200 OK\r\nX-Large: " + b"y" * 40000 + b"\r\n\r\n", True)
    wire = b"".join(play.connection.out)
    assert [(wire[at + 3], wire[at + 4]) for at in (0, 16393, 32786)] == [(1, 1), (9, 0), (9, 4)]


def test_response_heads_are_remembered_in_bounds() -> None:
    lane.heads.clear()
    for number in range(2 * HEADS):
        lane.remember(b"HTTP/1.1 200 OK\r\nX: %d\r\n\r\n" % number)
    assert len(lane.heads) <= HEADS
    lane.remember(b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_SIZE + b"\r\n\r\n")
    assert all(len(head) <= HEAD_SIZE for head in lane.heads)


def test_a_client_that_shrinks_its_table_is_told_before_the_next_block() -> None:
    play = Play(Lane)
    play.say(frames.settings({1: 0}), play.head(1, GET, ended=True), play.head(3, GET, ended=True))
    play.decoder.max_allowed_table_size = 0
    for stream in (1, 3):
        play.connection.respond(stream, OK, True)
    _, first, second = play.heard()
    assert first.payload == b"\x20" + second.payload


def test_room_is_reserved_in_both_windows_and_comes_back() -> None:
    play = Play(Lane)
    play.say(play.head(1, GET), play.head(3, GET))
    play.connection.respond(1, OK, False)
    play.say(update(1, 100_000), update(3, 100_000))
    assert play.connection.reserve(1) == frames.WINDOW  # all that the connection allows
    assert [play.connection.room(stream) for stream in (1, 3)] == [0, 0]
    play.connection.release(1, frames.WINDOW - 500)
    assert [play.connection.room(stream) for stream in (1, 3)] == [frames.WINDOW - 500] * 2
    assert play.connection.reserve(1) == frames.WINDOW - 500
    play.connection.data(1, b"", True)
    play.connection.release(1, 1000)  # of a stream that is over: the connection has it
    assert play.connection.room(3) == 1000


@pytest.mark.parametrize("kind", [Connection, Lane])
def test_nothing_is_reserved_where_nothing_may_be_sent(kind: type[Connection]) -> None:
    play = Play(kind)
    play.say(play.head(1, GET), play.head(3, GET))
    play.connection.respond(1, OK, True)
    assert play.connection.reserve(1) == 0
    assert play.connection.reserve(5) == 0
    assert play.connection.room(3) == frames.WINDOW
