"""What RFC 9113 and RFC 7541 ask of a server, as raw frames: the right error, of the stream or of the connection.

Each row is a client's frames after its preface and SETTINGS, and what must become of them. Both kinds of connection are asked, whole and byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from mcpproxy.http import frames
from mcpproxy.http.frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    frame,
)
from mcpproxy.http.h2 import Connection, H2Limits
from mcpproxy.http.lane import Lane
from tests.http.h2play import GET, GET_HEAD, OK, POST, POST_HEAD, Play, data, headers, reset, settings, update

EIGHT = b"12345678"
BIG = 16385

Wire = Callable[[Play], bytes]


class Lost(NamedTuple):
    """A connection error."""

    code: int
    last: int = 0  # the last stream that GOAWAY names


class Refused(NamedTuple):
    """A stream error."""

    stream: int
    code: int


class Taken(NamedTuple):
    """No error; these calls."""

    calls: tuple[tuple[object, ...], ...] = ()


def get(play: Play, stream: int = 1) -> bytes:
    """A whole request."""
    return play.head(stream, GET, ended=True)


def post(play: Play, stream: int = 1) -> bytes:
    """A request with a body to come."""
    return play.head(stream, POST)


def answered(play: Play) -> bytes:
    """A request that was answered: a stream that both sides have ended."""
    play.reply = lambda connection, stream: connection.respond(stream, OK, True)
    return get(play)


def cut_short(play: Play) -> bytes:
    """A request that we reset."""
    play.reply = lambda connection, stream: connection.reset(stream, 8)
    return post(play)


def half(play: Play) -> bytes:
    """A request that was answered before its end."""
    play.reply = lambda connection, stream: connection.respond(stream, OK, True)
    return post(play)


RULES: dict[str, tuple[Wire, Lost | Refused | Taken]] = {
    # -- frames
    "4.1 unknown kinds are ignored": (
        lambda p: frame(77, 255, 0, b"x") + frame(78, 0, 1, b"") + get(p),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    "4.1 flags without a meaning are ignored": (lambda p: frame(PING, 0xFE, 0, EIGHT), Taken()),
    "4.1 flags without a meaning are ignored on HEADERS": (
        lambda p: headers(1, p.block(GET), flags=END_HEADERS | END_STREAM | 0xD2),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    "4.1 flags without a meaning are ignored on DATA": (
        lambda p: post(p) + frame(DATA, 0xF6 | END_STREAM, 1, b"x"),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x", True))),
    ),
    "4.1 the reserved bit is ignored": (lambda p: frame(HEADERS, 5, 2**31 + 1, p.block(GET)), Taken((("head", 1, GET_HEAD, True),))),
    "4.1 the reserved bit is ignored on DATA": (
        lambda p: post(p) + frame(DATA, 1, 2**31 + 1, b"x"),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x", True))),
    ),
    "4.2 DATA too large": (lambda p: post(p) + frame(DATA, 0, 1, b"x" * BIG), Lost(FRAME_SIZE_ERROR, 1)),
    "4.2 HEADERS too large": (lambda p: frame(HEADERS, 5, 1, b"x" * BIG), Lost(FRAME_SIZE_ERROR)),
    "4.2 SETTINGS too large": (lambda p: frame(SETTINGS, 0, 0, b"\0" * 16386), Lost(FRAME_SIZE_ERROR)),
    "4.2 an unknown frame too large": (lambda p: frame(77, 0, 0, b"x" * BIG), Lost(FRAME_SIZE_ERROR)),
    "4.2 a size that is known too large is not waited for": (lambda p: b"\xff\xff\xff\x00\x00\0\0\0\1", Lost(FRAME_SIZE_ERROR)),
    "4.2 the largest frame": (
        lambda p: post(p) + frame(DATA, 1, 1, b"x" * 16384),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x" * 16384, True))),
    ),
    # -- field blocks
    "4.3 a block that cannot be read": (lambda p: headers(1, b"\x80"), Lost(COMPRESSION_ERROR)),
    "4.3 a block between other frames": (lambda p: headers(1, p.block(POST), flags=0) + data(1, b""), Lost(PROTOCOL_ERROR)),
    "4.3 a block between a body": (lambda p: post(p) + headers(3, p.block(POST), flags=0) + data(1, b"x" * 100), Lost(PROTOCOL_ERROR, 1)),
    "4.3 a block between a body's end": (
        lambda p: post(p) + headers(3, p.block(POST), flags=0) + data(1, b"x", ended=True),
        Lost(PROTOCOL_ERROR, 1),
    ),
    "4.3 a block between other streams": (
        lambda p: headers(1, p.block(POST), flags=0) + frame(CONTINUATION, 4, 3, b""),
        Lost(PROTOCOL_ERROR),
    ),
    "4.3 a block between unknown frames": (lambda p: headers(1, p.block(POST), flags=0) + frame(77, 0, 1, b""), Lost(PROTOCOL_ERROR)),
    "4.3 a block between PING": (lambda p: headers(1, p.block(POST), flags=0) + frame(PING, 0, 0, EIGHT), Lost(PROTOCOL_ERROR)),
    "4.3 a block in another block": (lambda p: headers(1, b"", flags=0) + get(p, 3), Lost(PROTOCOL_ERROR)),
    "4.3 the table follows a refused stream": (
        lambda p: p.head(1, [*GET[1:], (b"x", b"1")]) + p.head(3, [*GET, (b"x", b"1")], ended=True),
        Refused(1, PROTOCOL_ERROR),
    ),
    # -- states of streams
    "5.1 DATA on an idle stream": (lambda p: data(1, b"x"), Lost(PROTOCOL_ERROR)),
    "5.1 DATA on an idle stream beside another": (lambda p: get(p) + data(3, b"x"), Lost(PROTOCOL_ERROR, 1)),
    "5.1 RST_STREAM on an idle stream": (lambda p: reset(1, 8), Lost(PROTOCOL_ERROR)),
    "5.1 WINDOW_UPDATE on an idle stream": (lambda p: update(1, 5), Lost(PROTOCOL_ERROR)),
    "5.1 WINDOW_UPDATE on a stream of ours": (lambda p: get(p) + update(2, 5), Lost(PROTOCOL_ERROR, 1)),
    "5.1 CONTINUATION on an idle stream": (lambda p: frame(CONTINUATION, 4, 1, b""), Lost(PROTOCOL_ERROR)),
    "5.1 half-closed (remote): DATA": (lambda p: get(p) + data(1, b"x"), Refused(1, STREAM_CLOSED)),
    "5.1 half-closed (remote): HEADERS": (lambda p: get(p) + get(p), Refused(1, STREAM_CLOSED)),
    "5.1 half-closed (remote): CONTINUATION": (lambda p: get(p) + frame(CONTINUATION, 4, 1, b""), Lost(PROTOCOL_ERROR, 1)),
    "5.1 half-closed (remote): WINDOW_UPDATE": (lambda p: get(p) + update(1, 5), Taken((("head", 1, GET_HEAD, True), ("window", 1)))),
    "5.1 half-closed (remote): PRIORITY": (lambda p: get(p) + frame(PRIORITY, 0, 1, b"\0\0\0\0\5"), Taken((("head", 1, GET_HEAD, True),))),
    "5.1 half-closed (remote): RST_STREAM": (lambda p: get(p) + reset(1, 8), Taken((("head", 1, GET_HEAD, True), ("reset", 1, 8)))),
    "5.1 half-closed (local): DATA": (
        lambda p: half(p) + data(1, b"x", ended=True),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x", True))),
    ),
    "5.1 closed: DATA": (lambda p: answered(p) + data(1, b"x"), Refused(1, STREAM_CLOSED)),
    "5.1 closed: HEADERS": (lambda p: answered(p) + get(p), Lost(STREAM_CLOSED, 1)),
    "5.1 closed: CONTINUATION": (lambda p: answered(p) + frame(CONTINUATION, 4, 1, b""), Lost(PROTOCOL_ERROR, 1)),
    "5.1 closed: WINDOW_UPDATE": (lambda p: answered(p) + update(1, 5), Taken((("head", 1, GET_HEAD, True),))),
    "5.1 closed: RST_STREAM": (lambda p: answered(p) + reset(1, 8), Taken((("head", 1, GET_HEAD, True),))),
    "5.1 closed: PRIORITY": (lambda p: answered(p) + frame(PRIORITY, 0, 1, b"\0\0\0\0\5"), Taken((("head", 1, GET_HEAD, True),))),
    "5.1 reset by the client: DATA": (lambda p: post(p) + reset(1, 8) + data(1, b"x"), Refused(1, STREAM_CLOSED)),
    "5.1 reset by the client: HEADERS": (lambda p: post(p) + reset(1, 8) + get(p), Refused(1, STREAM_CLOSED)),
    "5.1 reset by the client: WINDOW_UPDATE": (
        lambda p: post(p) + reset(1, 8) + update(1, 5),
        Taken((("head", 1, POST_HEAD, False), ("reset", 1, 8))),
    ),
    "5.1 reset by us: what was under way is ignored": (
        lambda p: cut_short(p) + data(1, b"x") + update(1, 5) + reset(1, 8) + p.head(1, [(b"x", b"y")], ended=True),
        Refused(1, 8),
    ),
    "5.1.1 an even stream": (lambda p: get(p, 2), Lost(PROTOCOL_ERROR)),
    "5.1.1 a stream that was passed over": (lambda p: get(p, 5) + get(p, 3), Lost(PROTOCOL_ERROR, 5)),
    "5.1.1 a stream that was passed over, with heads that are known": (
        lambda p: answered(p) + get(p, 3) + get(p, 5) + get(p, 9) + get(p, 7),
        Lost(PROTOCOL_ERROR, 9),
    ),
    "5.1.1 an even stream, with a head that is known": (lambda p: answered(p) + get(p, 3) + get(p, 5) + get(p, 8), Lost(PROTOCOL_ERROR, 5)),
    "5.1.1 the last stream there is": (lambda p: get(p, 2**31 - 1), Taken((("head", 2**31 - 1, GET_HEAD, True),))),
    "5.1.2 more streams than were granted": (lambda p: get(p, 1) + get(p, 3) + get(p, 5), Refused(5, REFUSED_STREAM)),
    # -- DATA
    "6.1 DATA on stream 0": (lambda p: frame(DATA, 0, 0, b"x"), Lost(PROTOCOL_ERROR)),
    "6.1 padding": (
        lambda p: post(p) + frame(DATA, PADDED | END_STREAM, 1, b"\3hello\0\0\0"),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"hello", True))),
    ),
    "6.1 padding and nothing else": (
        lambda p: post(p) + frame(DATA, PADDED | END_STREAM, 1, b"\3\0\0\0"),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"", True))),
    ),
    "6.1 padding as long as the payload": (lambda p: post(p) + frame(DATA, PADDED, 1, b"\3ab"), Lost(PROTOCOL_ERROR, 1)),
    "6.1 padding without its length": (lambda p: post(p) + frame(DATA, PADDED, 1, b""), Lost(FRAME_SIZE_ERROR, 1)),
    # -- HEADERS
    "6.2 HEADERS on stream 0": (lambda p: get(p, 0), Lost(PROTOCOL_ERROR)),
    "6.2 padding and priority": (
        lambda p: frame(HEADERS, 5 | PADDED | PRIORITISED, 1, b"\2" + b"\0\0\0\0\5" + p.block(GET) + b"\0\0"),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    "6.2 padding longer than the block": (lambda p: frame(HEADERS, 5 | PADDED, 1, b"\x09\x82"), Lost(PROTOCOL_ERROR)),
    "6.2 padding that reaches into the priority": (
        lambda p: frame(HEADERS, 5 | PADDED | PRIORITISED, 1, b"\5\0\0\0\0\5\0"),
        Lost(PROTOCOL_ERROR),
    ),
    "6.2 priority that is cut": (lambda p: frame(HEADERS, 5 | PRIORITISED, 1, b"\0\0\0"), Lost(FRAME_SIZE_ERROR)),
    "5.3 a stream that depends on itself": (
        lambda p: frame(HEADERS, 5 | PRIORITISED, 1, b"\0\0\0\1\5" + p.block(GET)),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    # -- PRIORITY
    "6.3 PRIORITY is ignored": (lambda p: frame(PRIORITY, 0, 1, b"\0\0\0\1\5") + get(p), Taken((("head", 1, GET_HEAD, True),))),
    "6.3 PRIORITY on stream 0": (lambda p: frame(PRIORITY, 0, 0, b"\0\0\0\1\5"), Lost(PROTOCOL_ERROR)),
    "6.3 PRIORITY of another size": (lambda p: post(p) + frame(PRIORITY, 0, 1, b"\0\0\0\1"), Refused(1, FRAME_SIZE_ERROR)),
    "6.3 PRIORITY of another size, idle": (lambda p: frame(PRIORITY, 0, 1, b"\0\0\0\1\5\5"), Lost(FRAME_SIZE_ERROR)),
    # -- RST_STREAM
    "6.4 RST_STREAM": (lambda p: post(p) + reset(1, 0x1234), Taken((("head", 1, POST_HEAD, False), ("reset", 1, 0x1234)))),
    "6.4 RST_STREAM on stream 0": (lambda p: reset(0, 8), Lost(PROTOCOL_ERROR)),
    "6.4 RST_STREAM too short": (lambda p: post(p) + frame(RST_STREAM, 0, 1, b"\0\0\0"), Lost(FRAME_SIZE_ERROR, 1)),
    "6.4 RST_STREAM too long": (lambda p: post(p) + frame(RST_STREAM, 0, 1, b"\0" * 5), Lost(FRAME_SIZE_ERROR, 1)),
    # -- SETTINGS
    "6.5 SETTINGS on a stream": (lambda p: frame(SETTINGS, 0, 1, b""), Lost(PROTOCOL_ERROR)),
    "6.5 SETTINGS of half a value": (lambda p: frame(SETTINGS, 0, 0, b"\0\3\0\0\0"), Lost(FRAME_SIZE_ERROR)),
    "6.5 an acknowledgement with values": (lambda p: frame(SETTINGS, 1, 0, b"\0\3\0\0\0\1"), Lost(FRAME_SIZE_ERROR)),
    "6.5.2 ENABLE_PUSH 2": (lambda p: settings((2, 2)), Lost(PROTOCOL_ERROR)),
    "6.5.2 ENABLE_PUSH 1": (lambda p: settings((2, 1)), Taken()),
    "6.5.2 INITIAL_WINDOW_SIZE too large": (lambda p: settings((4, 2**31)), Lost(FLOW_CONTROL_ERROR)),
    "6.5.2 MAX_FRAME_SIZE too small": (lambda p: settings((5, 16383)), Lost(PROTOCOL_ERROR)),
    "6.5.2 MAX_FRAME_SIZE too large": (lambda p: settings((5, 2**24)), Lost(PROTOCOL_ERROR)),
    "6.5.2 unknown settings are ignored": (lambda p: settings((0x4242, 7), (9, 2**32 - 1), (0, 0)), Taken()),
    "6.5.2 a wrong value before a right one": (lambda p: settings((4, 2**31), (4, 65535)), Lost(FLOW_CONTROL_ERROR)),
    "6.5.3 values are taken in order": (lambda p: settings((4, 1), (4, 65535), (1, 0), (1, 4096)), Taken((("window", 0),))),
    "6.5.3 an acknowledgement that nobody waits for": (lambda p: frame(SETTINGS, 1, 0, b"") * 3, Taken()),
    # -- PUSH_PROMISE, PING, GOAWAY
    "8.4 PUSH_PROMISE": (lambda p: post(p) + frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + b"\x82"), Lost(PROTOCOL_ERROR, 1)),
    "6.7 PING on a stream": (lambda p: frame(PING, 0, 1, EIGHT), Lost(PROTOCOL_ERROR)),
    "6.7 PING too short": (lambda p: frame(PING, 0, 0, EIGHT[1:]), Lost(FRAME_SIZE_ERROR)),
    "6.7 PING too long": (lambda p: frame(PING, 1, 0, EIGHT + b"9"), Lost(FRAME_SIZE_ERROR)),
    "6.8 GOAWAY on a stream": (lambda p: frame(GOAWAY, 0, 1, EIGHT), Lost(PROTOCOL_ERROR)),
    "6.8 GOAWAY too short": (lambda p: frame(GOAWAY, 0, 0, EIGHT[1:]), Lost(FRAME_SIZE_ERROR)),
    "6.8 GOAWAY lets streams finish": (
        lambda p: post(p) + frame(GOAWAY, 0, 0, b"\0" * 8 + b"why") + data(1, b"x", ended=True),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x", True))),
    ),
    # -- WINDOW_UPDATE and windows
    "6.9 WINDOW_UPDATE too short": (lambda p: frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), Lost(FRAME_SIZE_ERROR)),
    "6.9 WINDOW_UPDATE too long": (lambda p: frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0\1"), Lost(FRAME_SIZE_ERROR)),
    "6.9 WINDOW_UPDATE of nothing": (lambda p: update(0, 0), Lost(PROTOCOL_ERROR)),
    "6.9 WINDOW_UPDATE of nothing on a stream": (lambda p: get(p) + update(1, 0), Refused(1, PROTOCOL_ERROR)),
    "6.9 the reserved bit is ignored": (lambda p: update(0, 2**31 + 1), Taken((("window", 0),))),
    "6.9.1 a window too large": (lambda p: update(0, 2**31 - 1), Lost(FLOW_CONTROL_ERROR)),
    "6.9.1 a stream's window too large": (lambda p: get(p) + update(1, 2**31 - 1), Refused(1, FLOW_CONTROL_ERROR)),
    "6.9.1 the largest windows": (
        lambda p: get(p) + update(1, 2**31 - 1 - 65535) + update(0, 2**31 - 1 - 65535),
        Taken((("head", 1, GET_HEAD, True), ("window", 1), ("window", 0))),
    ),
    "6.9.1 more than the stream's window": (lambda p: post(p) + data(1, b"x" * 16384) * 4, Lost(FLOW_CONTROL_ERROR, 1)),
    "6.9.1 padding counts": (
        lambda p: post(p) + data(1, b"x" * 16384) * 3 + frame(DATA, PADDED, 1, b"\xff" + b"\0" * 16383),
        Lost(FLOW_CONTROL_ERROR, 1),
    ),
    "6.9.2 a larger initial window makes a stream's too large": (
        lambda p: get(p) + update(1, 2**31 - 1 - 65535) + settings((4, 65536)),
        Lost(FLOW_CONTROL_ERROR, 1),
    ),
    "6.9.2 it makes no window too large of a stream that is closed": (
        lambda p: get(p) + update(1, 2**31 - 1 - 65535) + reset(1, 8) + settings((4, 65536)),
        Taken((("head", 1, GET_HEAD, True), ("window", 1), ("reset", 1, 8), ("window", 0))),
    ),
    # -- CONTINUATION
    "6.10 a block in pieces": (
        lambda p: headers(1, b"", flags=END_STREAM) + frame(CONTINUATION, 0, 1, b"") + frame(CONTINUATION, 4, 1, p.block(GET)),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    "6.10 CONTINUATION on stream 0": (lambda p: headers(1, b"", flags=0) + frame(CONTINUATION, 4, 0, b""), Lost(PROTOCOL_ERROR)),
    "6.10 CONTINUATION without a beginning": (lambda p: get(p) + frame(CONTINUATION, 4, 1, b"\x82"), Lost(PROTOCOL_ERROR, 1)),
    "6.10 CONTINUATION behind an end": (
        lambda p: headers(1, b"", flags=0) + frame(CONTINUATION, 4, 1, p.block(POST)) + frame(CONTINUATION, 4, 1, b""),
        Lost(PROTOCOL_ERROR, 1),
    ),
    "10.5.1 CONTINUATION without end (CVE-2024-27316)": (
        lambda p: headers(1, b"", flags=0) + frame(CONTINUATION, 0, 1, b"\0\1a\1b") * 20,
        Lost(ENHANCE_YOUR_CALM),
    ),
    "10.5.1 a block that is too large": (
        lambda p: headers(1, b"x" * 16384, flags=0) + frame(CONTINUATION, 0, 1, b"x" * 16384) * 6,
        Lost(ENHANCE_YOUR_CALM),
    ),
    "10.5.1 a block that grows (HPACK bomb, CVE-2016-6581)": (
        lambda p: headers(1, b"\x40\x01a\x7f\x81\x1d" + b"z" * 3840 + b"\xbe" * 1000),
        Lost(ENHANCE_YOUR_CALM),
    ),
    # -- HTTP in it
    "8.1 trailers": (
        lambda p: post(p) + data(1, b"x") + p.head(1, [(b"x-sum", b"1")], ended=True),
        Taken((("head", 1, POST_HEAD, False), ("body", 1, b"x", False), ("trailers", 1, [(b"x-sum", b"1")]))),
    ),
    "8.1 trailers that end nothing": (lambda p: post(p) + p.head(1, [(b"x-sum", b"1")]), Refused(1, PROTOCOL_ERROR)),
    "8.1 trailers with a pseudo-field": (lambda p: post(p) + p.head(1, [(b":path", b"/")], ended=True), Refused(1, PROTOCOL_ERROR)),
    "8.1 trailers that would be framing": (
        lambda p: post(p) + p.head(1, [(b"content-length", b"1")], ended=True),
        Refused(1, PROTOCOL_ERROR),
    ),
    "8.1.1 a promise and an end": (lambda p: p.head(1, [*POST, (b"content-length", b"1")], ended=True), Refused(1, PROTOCOL_ERROR)),
    "8.1.1 less than promised": (
        lambda p: p.head(1, [*POST, (b"content-length", b"9")]) + data(1, b"x", ended=True),
        Refused(1, PROTOCOL_ERROR),
    ),
    "8.1.1 more than promised": (lambda p: p.head(1, [*POST, (b"content-length", b"1")]) + data(1, b"xy"), Refused(1, PROTOCOL_ERROR)),
    "8.1.1 less than promised, then trailers": (
        lambda p: p.head(1, [*POST, (b"content-length", b"9")]) + data(1, b"x") + p.head(1, [(b"x", b"y")], ended=True),
        Refused(1, PROTOCOL_ERROR),
    ),
    "8.1.1 more than promised, in padding": (
        lambda p: p.head(1, [*POST, (b"content-length", b"1")]) + frame(DATA, PADDED | END_STREAM, 1, b"\2xy\0\0"),
        Refused(1, PROTOCOL_ERROR),
    ),
    "8.1.1 two promises": (
        lambda p: p.head(1, [*POST, (b"content-length", b"1"), (b"content-length", b"1")]),
        Refused(1, PROTOCOL_ERROR),
    ),
    "8.2 a name in upper case": (lambda p: p.head(1, [*GET, (b"X-Upper", b"1")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.1 a line break in a value": (lambda p: p.head(1, [*GET, (b"x", b"1\r\nhost: b")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.1 a colon in a name": (lambda p: p.head(1, [*GET, (b"x:y", b"1")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.1 an empty name": (lambda p: p.head(1, [*GET, (b"", b"1")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.2 connection": (lambda p: p.head(1, [*GET, (b"connection", b"close")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.2 transfer-encoding": (lambda p: p.head(1, [*POST, (b"transfer-encoding", b"chunked")]), Refused(1, PROTOCOL_ERROR)),
    "8.2.2 te": (lambda p: p.head(1, [*GET, (b"te", b"gzip")]), Refused(1, PROTOCOL_ERROR)),
    "8.3 a pseudo-field behind a field": (lambda p: p.head(1, [(b"x", b"1"), *GET]), Refused(1, PROTOCOL_ERROR)),
    "8.3 a pseudo-field twice": (lambda p: p.head(1, [*GET, GET[0]]), Refused(1, PROTOCOL_ERROR)),
    "8.3 an unknown pseudo-field": (lambda p: p.head(1, [*GET, (b":x", b"1")]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 no method": (lambda p: p.head(1, GET[1:]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 no scheme": (lambda p: p.head(1, [GET[0], *GET[2:]]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 no path": (lambda p: p.head(1, GET[:-1]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 an empty path": (lambda p: p.head(1, [*GET[:-1], (b":path", b"")]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 host against authority": (lambda p: p.head(1, [*GET, (b"host", b"b.example")]), Refused(1, PROTOCOL_ERROR)),
    "8.3.1 nothing at all": (lambda p: p.head(1, []), Refused(1, PROTOCOL_ERROR)),
    # -- RFC 7541
    "RFC 7541 2.3.3 an index of nothing": (lambda p: headers(1, b"\xff\x80\x01"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 4.2 a table that grows beyond our limit": (lambda p: headers(1, b"\x3f\xe2\x1f\x82"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 4.2 a change of size behind a field": (lambda p: headers(1, b"\x82\x20"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 4.2 a change of size at the start": (
        lambda p: headers(1, b"\x20\x3f\xe1\x1f" + p.block(GET), ended=True),
        Taken((("head", 1, GET_HEAD, True),)),
    ),
    "RFC 7541 5.1 an integer without end": (lambda p: headers(1, b"\xff" + b"\xff" * 100), Lost(COMPRESSION_ERROR)),
    "RFC 7541 5.2 a string without end": (lambda p: headers(1, b"\x00\x05ab"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 5.2 Huffman with the end of string": (lambda p: headers(1, b"\x00\x84\xff\xff\xff\xff\x01x"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 5.2 Huffman padding of zeros": (lambda p: headers(1, b"\x00\x81\x18\x01x"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 5.2 Huffman padding of a byte": (lambda p: headers(1, b"\x00\x82\x1f\xff\x01x"), Lost(COMPRESSION_ERROR)),
    "RFC 7541 6.1 index 0": (lambda p: headers(1, b"\x80"), Lost(COMPRESSION_ERROR)),
}

LIMITS = H2Limits(streams=2)


def judge(play: Play, expected: Lost | Refused | Taken) -> None:
    """Did that become of it?"""
    match expected:
        case Lost(code, last):
            play.lost(code, last)
        case Refused(stream, code):
            play.refused(stream, code)
        case Taken(calls):
            assert play.told() == list(calls)
            assert not [one for one in play.heard() if one.kind in ("RST_STREAM", "GOAWAY")]
            if not play.connection.ended:
                play.goes_on()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", [Connection, Lane])
def test_a_server_does_as_the_rfc_says(kind: type[Connection], name: str) -> None:
    wire, expected = RULES[name]
    play = Play(kind, LIMITS)
    play.say(wire(play))
    judge(play, expected)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", [Connection, Lane])
def test_it_does_so_however_the_bytes_are_cut(kind: type[Connection], name: str) -> None:
    wire, expected = RULES[name]
    play = Play(kind, LIMITS)
    said = wire(play)
    step = 1 if len(said) < 1000 else 997
    for at in range(0, len(said), step):
        play.say(said[at : at + step])
    judge(play, expected)


PREFACES = {
    "3.4 another protocol": (b"GET / HTTP/1.1\r\n\r\n", PROTOCOL_ERROR),
    "3.4 one byte of another protocol": (b"\x16", PROTOCOL_ERROR),
    "3.4 nearly": (PREFACE[:-1] + b"\r", PROTOCOL_ERROR),
    "3.4 no SETTINGS": (PREFACE + frame(PING, 0, 0, EIGHT), PROTOCOL_ERROR),
    "3.4 an acknowledgement is no SETTINGS": (PREFACE + frame(SETTINGS, 1, 0, b""), PROTOCOL_ERROR),
    "3.4 an unknown frame is no SETTINGS": (PREFACE + frame(77, 0, 0, b""), PROTOCOL_ERROR),
    "3.4 a first frame that is too large": (PREFACE + b"\xff\xff\xff\4\0\0\0\0\0", FRAME_SIZE_ERROR),
    "3.4 wrong SETTINGS": (PREFACE + frames.settings({4: 2**31}), FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize(("said", "code"), PREFACES.values(), ids=PREFACES.keys())
@pytest.mark.parametrize("kind", [Connection, Lane])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_a_connection_begins_with_its_preface(kind: type[Connection], said: bytes, code: int, cut: bool) -> None:
    play = Play(kind, begin=False)
    play.connection.begin()
    for piece in [said[at : at + 1] for at in range(len(said))] if cut else [said]:
        play.say(piece)
    play.lost(code)


def test_the_rules_name_their_sections() -> None:
    assert all(name[0].isdigit() or name.startswith("RFC 7541") for name in RULES)
    assert len(RULES) > 120
