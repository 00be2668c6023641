"""An HTTP/2 connection in memory: what the edge is told, what the client hears."""

import pytest

from mcpproxy.http import budget
from mcpproxy.http.frames import ENHANCE_YOUR_CALM, NO_ERROR, PING, PREFACE, PROTOCOL_ERROR, SETTINGS, frame
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.http.lane import Lane
from tests.http.h2play import GET, GET_HEAD, OK, POST, POST_HEAD, Play, data, headers, reset, settings, split, update

KINDS = [Connection, Lane]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def play(request: pytest.FixtureRequest) -> Play:
    return Play(request.param)


def test_it_begins_with_settings_and_a_window() -> None:
    play = Play(begin=False)
    play.connection.begin()
    first, second = play.heard()
    assert (first.kind, first.payload) == ("SETTINGS", b"\0\3\0\0\0\x80\0\6\0\0\x80\0\0\x08\0\0\0\1")
    assert (second.kind, second.stream, second.number) == ("WINDOW_UPDATE", 0, 1024 * 1024 - 65535)
    assert play.connection.partial
    play.say(PREFACE, settings())
    assert [(one.kind, one.flags) for one in play.heard()] == [("SETTINGS", 1)]
    assert not play.connection.partial


def test_the_edge_may_have_seen_the_preface() -> None:
    play = Play(begin=False)
    play.connection.begin(preface_seen=True)
    play.say(settings(), play.head(1, GET, ended=True))
    assert play.told() == [("head", 1, GET_HEAD, True)]


def test_a_request_and_its_answer(play: Play) -> None:
    play.say(play.head(1, POST), data(1, b"hello"), data(1, b"", ended=True))
    assert play.told() == [("head", 1, POST_HEAD, False), ("body", 1, b"hello", False), ("body", 1, b"", True)]
    play.connection.respond(1, OK, False)
    play.connection.data(1, b"wor", False)
    play.connection.data(1, memoryview(b"ld"), True)
    head, first, second = play.heard()
    assert head.fields == [(b":status", b"200"), (b"content-type", b"text/plain")]
    assert (first.payload, first.ended, second.payload, second.ended) == (b"wor", False, b"ld", True)
    assert play.connection.open == 0


def test_a_body_of_promised_length_waits_for_its_end(play: Play) -> None:
    play.say(play.head(1, [*POST, (b"content-length", b"5")]), data(1, b"he"), data(1, b"llo"))
    assert play.told()[1:] == [("body", 1, b"he", False)]
    play.say(data(1, b"", ended=True))
    assert play.told() == [("body", 1, b"llo", True)]


def test_a_body_that_goes_on_behind_its_promise_is_never_completed(play: Play) -> None:
    play.say(play.head(1, [*POST, (b"content-length", b"5")]), data(1, b"hello"), data(1, b"!"))
    assert play.told()[1:] == [("reset", 1, PROTOCOL_ERROR)]
    play.refused(1, PROTOCOL_ERROR)


def test_trailers_end_a_body(play: Play) -> None:
    play.say(play.head(1, [*POST, (b"content-length", b"2")]), data(1, b"hi"), play.head(1, [(b"x-sum", b"1")], ended=True))
    assert play.told()[1:] == [("body", 1, b"hi", False), ("trailers", 1, [(b"x-sum", b"1")])]


def test_interim_answers_and_trailers_go_out(play: Play) -> None:
    play.say(play.head(1, GET, ended=True))
    play.connection.respond(1, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", False)
    play.connection.respond(1, OK, False)
    play.connection.trailers(1, [(b"X-Sum", b"1")])
    assert [(one.fields[0], one.ended) for one in play.heard()] == [
        ((b":status", b"103"), False),
        ((b":status", b"200"), False),
        ((b"x-sum", b"1"), True),
    ]
    assert play.connection.open == 0


def test_windows_open_when_bytes_went_on(play: Play) -> None:
    play.say(play.head(1, POST), *[data(1, b"x" * 16000) for _ in range(4)])
    assert not play.heard()
    play.connection.delivered(1, 32000)
    assert not play.heard()
    play.connection.delivered(1, 1000)
    assert [(one.kind, one.stream, one.number) for one in play.heard()] == [("WINDOW_UPDATE", 1, 33000)]


def test_the_connection_window_opens_for_streams_that_are_gone(play: Play) -> None:
    """Uploads that nobody took do not take the connection with them."""
    for stream in range(1, 101, 2):
        play.say(play.head(stream, POST), data(stream, b"x" * 16000))
        play.connection.reset(stream, NO_ERROR)
        play.say(data(stream, b"x" * 16000))
    opened = sum(one.number for one in play.heard() if one.kind == "WINDOW_UPDATE")
    assert 50 * 32000 - opened < 1024 * 1024
    play.goes_on()


def test_padding_opens_the_windows_again(play: Play) -> None:
    play.say(play.head(1, POST))
    for _ in range(1000):
        play.connection.now += 1
        play.say(frame(0, 8, 1, b"\xff" + b"x" + b"\0" * 255))
        play.connection.delivered(1, 1)
    assert sum(one.number for one in play.heard() if one.stream == 1) > 200_000


def test_room_is_the_smaller_window(play: Play) -> None:
    play.say(play.head(1, GET, ended=True), play.head(3, GET, ended=True))
    assert play.connection.room(1) == 65535
    play.say(update(1, 1000))
    assert play.connection.room(1) == 65535
    play.say(update(0, 10))
    assert play.connection.room(1) == 65545
    play.connection.respond(1, OK, False)
    play.connection.data(1, b"x" * 65000, False)
    assert (play.connection.room(1), play.connection.room(3), play.connection.room(5)) == (545, 545, 0)
    assert max(len(one.payload) for one in play.heard()) == 16384
    play.say(settings((4, 100)))
    assert (play.connection.room(1), play.connection.room(3)) == (0, 100)
    play.say(settings((4, 65535)))
    assert play.connection.room(1) == 545
    assert [call for call in play.told() if call[0] == "window"] == [("window", 1), ("window", 0), ("window", 0), ("window", 0)]


def test_resets_of_the_client_and_of_ours_end_a_stream_for_good(play: Play) -> None:
    play.say(play.head(1, POST), play.head(3, POST), reset(1, 8))
    assert play.told()[2:] == [("reset", 1, 8)]
    play.connection.reset(3, 2)
    assert [(one.kind, one.stream, one.code) for one in play.heard()] == [("RST_STREAM", 3, 2)]
    for stream in (1, 3):
        play.connection.respond(stream, OK, False)
        play.connection.data(stream, b"x", True)
        play.connection.trailers(stream, [(b"x", b"y")])
        play.connection.reset(stream, 2)
    assert not play.heard()
    play.say(data(3, b"x"), update(3, 5), play.head(3, [(b"x", b"y")], ended=True))
    assert not play.told()
    assert not play.heard()
    play.goes_on()


def test_streams_beyond_the_limit_are_refused_and_their_tables_followed() -> None:
    play = Play(limits=H2Limits(streams=2))
    play.say(play.head(1, GET), play.head(3, GET), play.head(5, [*GET, (b"x-new", b"1")], ended=True))
    play.refused(5, 7)
    play.connection.reset(1, 0)
    play.say(play.head(7, [*GET, (b"x-new", b"1")], ended=True))
    assert play.told()[-1] == ("head", 7, GET_HEAD[:-2] + b"x-new: 1\r\n\r\n", True)


def test_a_warning_lets_streams_come_and_the_last_word_does_not(play: Play) -> None:
    play.say(play.head(1, GET, ended=True))
    play.connection.goaway(last=False)
    play.say(play.head(3, GET, ended=True))
    play.connection.goaway(last=True)
    play.say(play.head(5, GET, ended=True))
    assert [call[:2] for call in play.told()] == [("head", 1), ("head", 3)]
    assert [(one.kind, one.number if one.kind == "GOAWAY" else one.code) for one in play.heard()] == [
        ("GOAWAY", 2**31 - 1),
        ("GOAWAY", 3),
        ("RST_STREAM", 7),
    ]
    play.connection.respond(1, OK, True)
    assert play.connection.open == 1
    play.connection.respond(3, OK, True)
    assert play.connection.ended
    assert not play.connection.reason


def test_a_client_that_leaves_gets_its_answers_first(play: Play) -> None:
    play.say(play.head(1, POST), frame(7, 0, 0, b"\0" * 8), data(1, b"x", ended=True))
    assert play.connection.open == 1
    play.connection.respond(1, OK, False)
    play.connection.data(1, b"x", True)
    assert [one.kind for one in play.heard()] == ["HEADERS", "DATA"]
    assert play.connection.ended


def test_signs_of_life_are_counted_when_they_were_asked_for(play: Play) -> None:
    play.connection.ping()
    asked = play.heard()[0]
    play.say(frame(PING, 1, 0, asked.payload), frame(PING, 1, 0, asked.payload))
    assert play.connection.pongs == 1


def test_an_answer_given_at_once_is_given(play: Play) -> None:
    def refuse(connection: Connection, stream: int) -> None:
        connection.respond(stream, OK, True)
        connection.reset(stream, NO_ERROR)

    play.reply = refuse
    play.say(play.head(1, POST), data(1, b"x" * 100), data(1, b"", ended=True))
    assert play.told() == [("head", 1, POST_HEAD, False)]
    assert [one.kind for one in play.heard()] == ["HEADERS", "RST_STREAM"]


def test_the_client_may_want_small_frames_but_never_gets_large_ones(play: Play) -> None:
    play.say(settings((5, 2**24 - 1)), play.head(1, GET, ended=True))
    play.connection.respond(1, OK, False)
    play.connection.data(1, b"x" * 40000, True)
    assert [len(one.payload) for one in play.heard() if one.kind == "DATA"] == [16384, 16384, 40000 - 32768]


FLOODS = {
    "RST_STREAM (CVE-2023-44487)": (lambda play, n: play.head(2 * n + 1, GET) + reset(2 * n + 1, 8), 500),
    "resets of ours (CVE-2025-8671)": (lambda play, n: play.head(2 * n + 1, GET) + update(2 * n + 1, 0), 500),
    "malformed": (lambda play, n: play.head(2 * n + 1, GET[1:]), 500),
    "SETTINGS": (lambda play, n: settings(), 500),
    "SETTINGS of many values": (lambda play, n: settings(*[(0x4242, 1)] * 2730), 10),
    "PING": (lambda play, n: frame(PING, 0, 0, b"12345678"), 2000),
    "PRIORITY": (lambda play, n: frame(2, 0, 1, b"\0\0\0\0\1"), 5000),
    "unknown": (lambda play, n: frame(77, 0, 0, b""), 5000),
    "empty DATA": (lambda play, n: (play.head(1, POST) if n == 0 else b"") + data(1, b""), 2000),
    "WINDOW_UPDATE": (lambda play, n: update(0, 1), 20000),
    "SETTINGS ACK": (lambda play, n: frame(SETTINGS, 1, 0, b""), 500),
    "PING ACK": (lambda play, n: frame(PING, 1, 0, b"12345678"), 2000),
}


@pytest.mark.parametrize(("one", "enough"), FLOODS.values(), ids=FLOODS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_ends_softly_and_then_hard(kind: type[Connection], one, enough: int) -> None:  # type: ignore[no-untyped-def]
    """RFC 9113 §10.5. Answers that pile up are bounded, too."""
    play = Play(kind)
    number = 0
    while not play.connection.ended and number < enough:
        play.say(one(play, number))
        number += 1
    assert number < enough
    goodbyes = [said for said in play.heard() if said.kind == "GOAWAY"]
    assert goodbyes[0].code == NO_ERROR
    assert len(goodbyes) == 1 or goodbyes[-1].code == ENHANCE_YOUR_CALM
    assert sum(len(said.payload) + 9 for said in play.spoken) < 100_000


def test_a_flood_beside_a_stream_is_ended_hard(play: Play) -> None:
    play.say(play.head(1, GET, ended=True))
    for _ in range(budget.POINTS // budget.PING):
        play.say(frame(PING, 0, 0, b"12345678"))
    play.lost(ENHANCE_YOUR_CALM, last=1)


def test_a_download_pays_for_the_windows_it_needs(play: Play) -> None:
    play.say(update(0, 2**30), play.head(1, GET, ended=True), update(1, 2**30))
    play.connection.respond(1, OK, False)
    for _ in range(20_000):
        play.connection.data(1, b"x" * 16384, False)
        play.connection.out.clear()
        play.say(update(1, 16384), update(0, 16384))
    play.goes_on()


def test_a_download_through_small_windows_is_no_flood(play: Play) -> None:
    """`nghttp -w 8 -W 8`: windows of 255 bytes, opened at half, on the stream and the connection."""
    play.say(settings((4, 255)), play.head(1, GET, ended=True))
    play.connection.respond(1, OK, False)
    for _ in range(20_000):
        play.connection.data(1, b"x" * 128, False)
        play.connection.out.clear()
        play.say(update(1, 128), update(0, 128))
    play.goes_on()


def test_a_download_byte_by_byte_is_a_flood(play: Play) -> None:
    """CVE-2019-9511."""
    play.say(settings((4, 1)), play.head(1, GET, ended=True))
    play.connection.respond(1, OK, False)
    for _ in range(budget.POINTS + 100):
        play.connection.data(1, b"x" * play.connection.room(1), False)
        play.say(update(1, 1))
    play.lost(ENHANCE_YOUR_CALM, last=1)


def test_bytes_that_come_one_by_one_say_the_same(play: Play) -> None:
    wire = play.head(1, POST) + data(1, b"hello") + frame(PING, 0, 0, b"12345678") + play.head(1, [(b"x", b"y")], ended=True)
    for at in range(len(wire)):
        play.say(wire[at : at + 1])
    assert play.told() == [("head", 1, POST_HEAD, False), ("body", 1, b"hello", False), ("trailers", 1, [(b"x", b"y")])]
    assert [one.kind for one in play.heard()] == ["PING"]
    assert not play.connection.partial


def test_a_frame_that_began_needs_a_deadline(play: Play) -> None:
    wire = play.head(1, POST)
    seen = [play.say(part).connection.partial for part in (wire[:5], wire[5:], headers(3, b"", flags=0))]
    assert seen == [True, False, True]


def test_the_same_head_is_read_once(play: Play) -> None:
    play.encoder.header_table_size = 4096
    for stream in (1, 3, 5):
        play.say(play.head(stream, POST, ended=True))
    heads = [call[2] for call in play.told()]
    assert heads[1] is heads[2]


def test_what_was_sent_is_whole_frames(play: Play) -> None:
    play.say(play.head(1, GET, ended=True))
    play.connection.respond(1, OK, False)
    assert [one.kind for one in split(b"".join(play.connection.out))] == ["HEADERS"]
