"""The lane and the library say the same: the same bytes, cut anywhere, become the same calls, the same answers, the same end."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpproxy.http import frames, lane
from mcpproxy.http.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, PING, PREFACE, PRIORITISED, SETTINGS, frame
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.http.lane import HEAD_SIZE, HEADS, Lane
from tests.http.h2play import GET, OK, POST, Fields, Play

LIMITS = H2Limits(streams=4, head=2048, connection_window=70_000)

# -- what a client may send, from manners to nonsense -------------------------------------------------------------------------------------------

STREAM = st.sampled_from([1, 3, 5, 7, 9, 11, 13, 15, 15, 17, 0, 2, 2**31 - 1])
PAYLOAD = st.one_of(st.sampled_from([b"", b"x", b"hello", b"x" * 100, b"x" * 5000, b"x" * 16384]), st.binary(max_size=100))
FIELDS = st.one_of(
    st.sampled_from(
        [
            GET,
            GET,
            POST,
            POST,
            [*POST, (b"content-length", b"5")],
            [*POST, (b"content-length", b"100")],
            [*POST, (b"content-length", b"0")],
            [*GET, (b"x-new", b"1")],
            [*GET, (b"x-new", b"2")],
            [(b"x-sum", b"1")],
            [],
            GET[1:],
            [*GET, (b"connection", b"close")],
            [*GET, (b"x-large", b"y" * 3000)],
            [*GET, (b"x-huge", b"y" * 5000)],
        ]
    ),
    st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), max_size=3),
)
FLAGS = st.sampled_from([0, 1, 4, 5, 5, 4, 8, 9, 12, 13, 32 + 4, 32 + 5, 32 + 13, 2, 255])
KIND = st.integers(0, 12)
STEP = st.sampled_from([0, 1, 100, 65535, 2**31 - 1])

Frame = tuple[str, Any]
FRAME = st.one_of(
    st.tuples(st.just("head"), st.tuples(STREAM, FIELDS, st.booleans())),
    st.tuples(st.just("head"), st.tuples(STREAM, FIELDS, st.booleans())),
    st.tuples(st.just("data"), st.tuples(STREAM, PAYLOAD, st.booleans())),
    st.tuples(st.just("data"), st.tuples(STREAM, PAYLOAD, st.booleans())),
    st.tuples(st.just("padded"), st.tuples(STREAM, PAYLOAD, st.integers(0, 300), st.booleans())),
    st.tuples(st.just("continued"), st.tuples(STREAM, FIELDS, st.integers(0, 60), st.booleans())),
    st.tuples(st.just("update"), st.tuples(STREAM, STEP)),
    st.tuples(st.just("reset"), st.tuples(STREAM, st.integers(0, 15))),
    st.tuples(st.just("settings"), st.tuples(st.integers(1, 9), st.sampled_from([0, 1, 100, 16384, 65535, 70000, 2**31 - 1, 2**31]))),
    st.tuples(st.just("ping"), st.integers(0, 1)),
    st.tuples(st.just("any"), st.tuples(KIND, FLAGS, STREAM, PAYLOAD)),
    st.tuples(st.just("raw"), st.binary(max_size=20)),
)


def wire(script: list[Frame]) -> bytes:
    """The bytes of such a client."""
    encoder = Encoder()
    said = []
    for kind, what in script:
        if kind == "head":
            stream, fields, ended = what
            said.append(frame(HEADERS, END_HEADERS | ended, stream, encoder.encode(fields)))
        elif kind == "data":
            stream, payload, ended = what
            said.append(frame(DATA, ended, stream, payload))
        elif kind == "padded":
            stream, payload, padding, ended = what
            said.append(frame(DATA, PADDED | ended, stream, bytes([min(padding, 255)]) + payload + b"\0" * padding))
        elif kind == "continued":
            stream, fields, at, ended = what
            block = encoder.encode(fields)
            said.append(frame(HEADERS, PRIORITISED | ended, stream, b"\0\0\0\0\1" + block[:at]))
            said.append(frame(9, END_HEADERS, stream, block[at:]))
        elif kind == "update":
            said.append(frames.window_update(*what))
        elif kind == "reset":
            said.append(frames.rst_stream(*what))
        elif kind == "settings":
            said.append(frames.settings(dict([what])))
        elif kind == "ping":
            said.append(frame(PING, what, 0, b"12345678"))
        elif kind == "any":
            said.append(frame(*what))
        else:
            said.append(what)
    return b"".join(said)


# -- what an edge may do ------------------------------------------------------------------------------------------------------------------------

RESPONSES = {
    "ok": OK,
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "large": b"HTTP/1.1 404 Not Found\r\nX-Large: " + b"y" * 40000 + b"\r\n\r\n",
}


ACTION = st.one_of(
    st.tuples(st.just("respond"), st.sampled_from(list(RESPONSES)), st.booleans()),
    st.tuples(st.just("data"), st.sampled_from([0, 1, 100, 40000]), st.booleans()),
    st.tuples(st.just("trailers"), st.sampled_from([[], [(b"X-Sum", b"1")]])),
    st.tuples(st.just("delivered"), st.sampled_from([1, 100, 5000, 40000])),
    st.tuples(st.just("reset"), st.sampled_from([0, 1, 2, 8])),
    st.tuples(st.just("goaway"), st.booleans()),
    st.tuples(st.just("ping")),
)


class Reacting(Play):
    """An edge that answers calls from a list of actions, whatever they are."""

    def __init__(self, kind: type[Connection], actions: list[tuple[Any, ...]]) -> None:
        self.actions = list(actions)
        self.unread: dict[int, int] = {}
        self.answered: set[int] = set()
        super().__init__(kind, LIMITS, begin=False)
        self.connection.begin()

    def on_head(self, stream: int, head: bytes, ended: bool) -> None:
        super().on_head(stream, head, ended)
        self.react(stream)

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        super().on_body(stream, data, ended)
        self.unread[stream] = self.unread.get(stream, 0) + len(data)
        self.react(stream)

    def on_trailers(self, stream: int, fields: Fields) -> None:
        super().on_trailers(stream, fields)
        self.react(stream)

    def on_window(self, stream: int) -> None:
        super().on_window(stream)
        if stream:
            self.react(stream)

    def react(self, stream: int) -> None:
        """One thing that an edge might do now, as long as it makes sense."""
        if not self.actions:
            return
        what, *how = self.actions.pop()
        connection = self.connection
        if what == "respond":
            name, ended = how
            final = name != "interim"
            connection.respond(stream, RESPONSES[name], ended and final)
            if final:
                self.answered.add(stream)
        elif what == "data":
            if stream in self.answered:
                size, ended = how
                connection.data(stream, b"z" * min(size, connection.room(stream)), ended)
        elif what == "trailers":
            if stream in self.answered:
                connection.trailers(stream, how[0])
        elif what == "delivered":
            size = min(how[0], self.unread.get(stream, 0))
            self.unread[stream] = self.unread.get(stream, 0) - size
            connection.delivered(stream, size)
        elif what == "reset":
            connection.reset(stream, how[0])
        elif what == "goaway":
            connection.goaway(last=how[0])
        else:
            connection.ping()


def outcome(play: Play) -> list[Any]:
    """All that anybody can see of a connection."""
    connection = play.connection
    said = [(one.kind, one.flags, one.stream, one.fields or one.payload) for one in play.heard()]
    return [play.calls, said, connection.ended, connection.open, connection.pongs, [connection.room(stream) for stream in (1, 3, 5, 7)]]


@settings(max_examples=500, deadline=None)
@given(
    st.lists(FRAME, max_size=20).map(wire),
    st.lists(ACTION, max_size=30),
    st.lists(st.integers(0, 3000), max_size=6),
)
def test_the_lane_and_the_library_say_the_same(said: bytes, actions: list[tuple[Any, ...]], cuts: list[int]) -> None:
    said = PREFACE + frame(SETTINGS, 0, 0, b"") + said
    judged, laned = Reacting(Connection, actions), Reacting(Lane, actions)
    judged.say(said)
    at = 0
    for cut in (*cuts, len(said)):
        laned.say(said[at : at + cut])
        at += cut
    assert outcome(laned) == outcome(judged)


@settings(max_examples=100, deadline=None)
@given(st.lists(FRAME, max_size=8).map(wire), st.lists(ACTION, max_size=10), st.data())
def test_a_changed_byte_changes_both(said: bytes, actions: list[tuple[Any, ...]], choice: st.DataObject) -> None:
    said = PREFACE + frame(SETTINGS, 0, 0, b"") + said
    at = choice.draw(st.integers(0, len(said) - 1))
    said = said[:at] + bytes([choice.draw(st.integers(0, 255))]) + said[at + 1 :]
    judged, laned = Reacting(Connection, actions), Reacting(Lane, actions)
    judged.say(said)
    for at in range(len(said)):
        laned.say(said[at : at + 1])
    assert outcome(laned) == outcome(judged)


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
