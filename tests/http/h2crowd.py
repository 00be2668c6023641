"""Clients and edges that do anything: mostly what they should, now and then what they may, rarely what nobody should."""

from __future__ import annotations

from random import Random
from typing import Any

from hpack import Encoder

from mcpproxy.http import frames
from mcpproxy.http.frames import CONTINUATION, DATA, END_HEADERS, HEADERS, PADDED, PING, PREFACE, PRIORITISED, SETTINGS, frame
from mcpproxy.http.h2 import Connection, H2Limits
from tests.http.h2play import GET, OK, POST, Fields, Play

LIMITS = H2Limits(streams=4, head=2048, connection_window=70_000)
REQUESTS: list[Fields] = [
    GET,
    POST,
    [*POST, (b"content-length", b"5")],
    [*POST, (b"content-length", b"300")],
    [*POST, (b"content-length", b"0")],
    [*GET, (b"x-new", b"1")],
    [*GET, (b"x-new", b"2")],
    # not to be taken
    GET[1:],
    [*GET, (b"connection", b"close")],
    [*GET, (b"x-large", b"y" * 3000)],
    [*GET, (b"x-huge", b"y" * 5000)],
]
GOOD_REQUESTS = 7
PROMISES = {2: 5, 3: 300, 4: 0}
SIZES = [0, 1, 5, 63, 64, 100, 295, 300, 5000, 16384]
STREAMS = [1, 3, 5, 7, 9, 0, 2, 2**31 - 1, 2**31 + 1]
STEPS = [0, 1, 100, 65535, 2**31 - 1, 2**31 - 1 - 65535]
VALUES = [0, 1, 100, 16384, 65535, 70000, 2**31 - 1, 2**31]


class Crowd:
    """A client that knows what it opened, but not what became of it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.encoder = Encoder()
        self.newest = -1
        self.opened: dict[int, int | None] = {}  # stream → what is left of its promise
        self.nonsense = random.choice([0.0, 0.02, 0.1])
        self.oddity = random.choice([0.0, 0.1, 0.4])

    def script(self) -> list[bytes]:
        """The frames of its life."""
        said = []
        for _ in range(self.random.randrange(60)):
            kind = self.random.random()
            acts = NONSENSE if kind < self.nonsense else ODDITIES if kind < self.oddity else MANNERS
            said += self.random.choice(acts)(self)
        return said

    def some(self) -> int:
        """One of its streams."""
        return self.random.choice(list(self.opened) or [1])

    def block(self, request: int) -> bytes:
        """The head of a new stream."""
        self.newest += 2
        self.opened[self.newest] = PROMISES.get(request)
        if len(self.opened) > 4:
            del self.opened[next(iter(self.opened))]
        return self.encoder.encode(REQUESTS[request])

    def open(self) -> list[bytes]:
        request = self.random.choice([0, 1, 1, 2, 2, 3, 4])
        block = self.block(request)
        ended = request in (0, 4) and self.random.random() < 0.8
        if ended:
            del self.opened[self.newest]
        return [frame(HEADERS, END_HEADERS | ended, self.newest, block)]

    def call(self) -> list[bytes]:
        request = self.random.choice([1, 2, 2, 2, 3])
        block = self.block(request)
        size = self.opened.pop(self.newest)
        if size is None:
            size = self.random.choice(SIZES)
        return [frame(HEADERS, END_HEADERS, self.newest, block), frame(DATA, 1, self.newest, b"x" * size)]

    def calls(self) -> list[bytes]:
        """Heads first, then their bodies, in any order; some come later or never."""
        request = self.random.choice([2, 2, 3])
        heads, bodies = [], []
        for _ in range(self.random.randrange(1, 4)):
            heads.append(frame(HEADERS, END_HEADERS, self.newest + 2, self.block(request)))
            if self.random.random() < 0.9:
                self.opened.pop(self.newest, None)
                bodies.append(frame(DATA, 1, self.newest, b"x" * PROMISES[request]))
        self.random.shuffle(bodies)
        return heads + bodies

    def body(self) -> list[bytes]:
        if not self.opened:
            return self.open()
        stream = self.some()
        size = self.random.choice(SIZES)
        left = self.opened[stream]
        if left is None:
            ended = self.random.random() < 0.3
        else:
            size = self.random.choice([min(size, left), left])
            self.opened[stream] = left = left - size
            ended = not left and self.random.random() < 0.7
        if ended:
            del self.opened[stream]
        return [frame(DATA, ended, stream, b"x" * size)]

    def room(self) -> list[bytes]:
        return [frames.window_update(self.random.choice([0, self.some()]), self.random.choice([1, 1000, 100_000]))]

    def open_odd(self) -> list[bytes]:
        block = self.block(self.random.randrange(len(REQUESTS)))
        return [frame(HEADERS, END_HEADERS | self.random.randrange(2), self.newest, block)]

    def continued(self) -> list[bytes]:
        block = self.block(self.random.randrange(GOOD_REQUESTS))
        at = self.random.randrange(len(block) + 1)
        return [
            frame(HEADERS, PRIORITISED | self.random.randrange(2), self.newest, b"\0\0\0\0\1" + block[:at]),
            frame(CONTINUATION, END_HEADERS, self.newest, block[at:]),
        ]

    def padded(self) -> list[bytes]:
        padding = self.random.randrange(256)
        payload = bytes([padding]) + b"x" * self.random.choice(SIZES[:-1]) + b"\0" * padding
        return [frame(DATA, PADDED | self.random.randrange(2), self.some(), payload)]

    def body_odd(self) -> list[bytes]:
        return [frame(DATA, self.random.randrange(2), self.some(), b"x" * self.random.choice(SIZES))]

    def trailers(self) -> list[bytes]:
        return [frame(HEADERS, END_HEADERS | (self.random.random() < 0.9), self.some(), self.encoder.encode([(b"x-sum", b"1")]))]

    def reset(self) -> list[bytes]:
        return [frames.rst_stream(self.some(), self.random.randrange(16))]

    def settings(self) -> list[bytes]:
        return [frames.settings({4: self.random.choice(VALUES[:-2]), self.random.randrange(1, 4): self.random.choice(VALUES[:2])})]

    def skip(self) -> list[bytes]:
        self.newest += 2
        return []

    def ping(self) -> list[bytes]:
        return [frame(PING, self.random.randrange(2), 0, b"12345678")]

    def goaway(self) -> list[bytes]:
        return [frames.goaway(0, 0)] if self.random.random() < 0.2 else []

    def room_odd(self) -> list[bytes]:
        return [frames.window_update(self.random.choice([0, self.some(), self.some()]), self.random.choice(STEPS))]

    def setting_odd(self) -> list[bytes]:
        return [frames.settings({self.random.randrange(1, 10): self.random.choice(VALUES)})]

    def flood(self) -> list[bytes]:
        stream = self.some()
        self.opened[stream] = None
        return [frame(DATA, 0, stream, b"x" * 16384)] * self.random.randrange(6)

    def interrupted(self) -> list[bytes]:
        block = self.block(self.random.randrange(GOOD_REQUESTS))
        return [frame(HEADERS, 0, self.newest, block), *self.random.choice([self.body, self.open, self.ping])()]

    def late(self) -> list[bytes]:
        stream = self.random.randrange(1, max(self.newest, 1) + 1)
        return [frame(HEADERS, END_HEADERS | 1, stream, self.encoder.encode(REQUESTS[self.random.randrange(2)]))]

    def lie(self) -> list[bytes]:
        block = self.block(2)
        return [frame(HEADERS, END_HEADERS | 1, self.newest, block)]

    def too_large(self) -> list[bytes]:
        return [frame(DATA, 0, self.some(), b"x" * 16385)]

    def overflow(self) -> list[bytes]:
        return [frames.window_update(self.some(), 2**31 - 1 - 65535), frames.settings({4: self.random.choice([65535, 70000])})]

    def any(self) -> list[bytes]:
        flags = self.random.choice([0, 1, 4, 5, 8, 9, 12, 13, 32 + 4, 32 + 5, 32 + 13, 2, 255])
        payload = self.random.choice([b"x" * self.random.choice([*SIZES, 16385]), self.random.randbytes(self.random.randrange(40))])
        return [frame(self.random.randrange(13), flags, self.random.choice([*STREAMS, self.some(), self.some()]), payload)]

    def fields(self) -> list[bytes]:
        self.newest += 2
        odd = [(self.random.randbytes(2), self.random.randbytes(3)) for _ in range(self.random.randrange(3))]
        return [frame(HEADERS, END_HEADERS, self.newest, self.encoder.encode([*GET, *odd]))]

    def raw(self) -> list[bytes]:
        return [self.random.randbytes(self.random.randrange(20))]


MANNERS = [Crowd.open, Crowd.call, Crowd.call, Crowd.calls, Crowd.body, Crowd.body, Crowd.body, Crowd.room]
ODDITIES = [
    *(Crowd.open_odd, Crowd.continued, Crowd.padded, Crowd.body_odd, Crowd.trailers, Crowd.reset, Crowd.settings),
    *(Crowd.skip, Crowd.ping, Crowd.goaway, Crowd.room, Crowd.lie, Crowd.flood),
]
NONSENSE = [
    Crowd.any,
    Crowd.any,
    Crowd.fields,
    Crowd.raw,
    Crowd.room_odd,
    Crowd.setting_odd,
    Crowd.interrupted,
    Crowd.late,
    Crowd.overflow,
    Crowd.too_large,
]

RESPONSES = {
    "ok": OK,
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "large": b"HTTP/1.1 404 Not Found\r\nX-Large: " + b"y" * 40000 + b"\r\n\r\n",
}


class Reacting(Play):
    """An edge that does something at each call; the same for the same calls."""

    def __init__(self, kind: type[Connection], seed: int) -> None:
        self.random = Random(seed)
        self.unread: dict[int, int] = {}
        self.answered: set[int] = set()
        super().__init__(kind, LIMITS, begin=False)
        self.connection.begin()
        self.say(PREFACE, frame(SETTINGS, 0, 0, b""))

    def on_head(self, stream: int, head: bytes, ended: bool) -> None:
        super().on_head(stream, head, ended)
        if ended:
            self.unread[stream] = 0
            self.react()

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        super().on_body(stream, data, ended)
        self.unread[stream] = self.unread.get(stream, 0) + len(data)
        self.react()

    def on_trailers(self, stream: int, fields: Fields) -> None:
        super().on_trailers(stream, fields)
        self.react()

    def on_window(self, stream: int) -> None:
        super().on_window(stream)
        self.react()

    def react(self) -> None:
        """Some things that an edge might do now, as long as they make sense."""
        random, connection = self.random, self.connection
        for _ in range(random.randrange(4) if self.unread else 0):
            stream = random.choice(list(self.unread))
            what = random.choice(["respond", "data", "data", "data", "trailers", "alone", "delivered", "delivered", "reset", "rare"])
            if what == "respond" or (what in ("data", "trailers") and stream not in self.answered):
                name = random.choice(["ok", "ok", "ok", "interim", "large", "whole"])
                if name == "whole":
                    if connection.answer(stream, OK, b"z" * random.choice([0, 1, 1000, 20000])):
                        self.answered.add(stream)
                    continue
                connection.respond(stream, RESPONSES[name], name != "interim" and random.random() < 0.2)
                if name != "interim":
                    self.answered.add(stream)
            elif what == "data" and random.random() < 0.1:
                connection.answer(stream, OK, b"z" * random.choice([0, 1, 1000, 20000]))  # too late
            elif what == "alone" and stream in self.answered:
                self.write_alone(stream, random.choice([1, 100, 5000]))
            elif what == "data":
                size = random.choice([0, 1, 100, 40000])
                if random.random() < 0.5:
                    self.calls.append(("sent", connection.send(stream, b"z" * size)))
                else:
                    connection.data(stream, b"z" * min(size, connection.room(stream)), random.random() < 0.5)
            elif what == "trailers":
                connection.trailers(stream, random.choice([[], [(b"X-Sum", b"1")]]))
            elif what == "delivered":
                size = random.choice([min(100, self.unread[stream]), self.unread[stream]])
                if size:
                    self.unread[stream] -= size
                    connection.delivered(stream, size)
            elif what == "reset":
                if random.random() < 0.3:
                    connection.reset(stream, random.choice([0, 1, 2, 8]))
            elif random.random() < 0.1:
                connection.goaway(last=random.random() < 0.3)
            else:
                connection.ping()

    def write_alone(self, stream: int, size: int) -> None:
        """A frame of the edge's own, where there is a short way to one."""
        connection = self.connection
        size = min(size, connection.room(stream))
        reserved = connection.reserve(stream)
        if reserved:
            connection.out.append(frame(DATA, 0, stream, b"z" * size))
            connection.release(stream, reserved - size)
        elif size:
            connection.send(stream, b"z" * size)

    def outcome(self) -> list[Any]:
        """All that anybody can see of the connection."""
        connection = self.connection
        self.heard()
        said = [(one.kind, one.flags, one.stream, one.payload) for one in self.spoken]
        rooms = [connection.room(stream) for stream in range(1, 40, 2)]
        return [in_order(self.calls), said, connection.ended, connection.open, connection.pongs, rooms]


def in_order(calls: list[Any]) -> list[Any]:
    """Each head that a body follows, right before what follows it: the lane may tell a head later than it came, but never after its stream's body."""
    told: list[Any] = []
    heads: dict[int, Any] = {}
    for call in calls:
        if call[0] == "head" and not call[3]:
            heads[call[1]] = call
            continue
        if call[0] != "sent" and call[1] in heads:
            told.append(heads.pop(call[1]))
        told.append(call)
    return told + [heads[stream] for stream in sorted(heads)]
