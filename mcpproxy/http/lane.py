"""HOT. An HTTP/2 connection without asking the library about streams.

The judgement is that of http/h2; what the library would add there for streams is kept here in two numbers, and it still judges SETTINGS and PING. Two
things make it fast. A HEADERS frame whose block is known and that opens the next stream, and a DATA frame that fits into windows and promise, are
taken in the loop itself (both at once when they are a whole call), everything else in `_frame`. And frames of ours are written without objects, from
blocks that are made once per head for all connections.

A test shows both kinds the same bytes and compares what they tell, what they say, and how they end. It is one file because what is taken in the short
way and what is left to `_frame` must add up to every frame.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

from mcpproxy.http import blocks, h2head
from mcpproxy.http.blocks import Fields
from mcpproxy.http.budget import TINY_SIZE
from mcpproxy.http.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_LIMIT,
    FRAME_SIZE_ERROR,
    HEADERS,
    MOST,
    WINDOW,
    frame,
    pack_head,
    rst_stream,
    window_update,
)
from mcpproxy.http.h2 import Connection, H2Limits, Stream, Streams

HEADS = 1024  # response heads whose blocks are remembered, by all connections together: Date makes new ones every second
HEAD_SIZE = 2048  # bytes of such a head
SPARE = 256  # streams that are over and wait to be used again

_unpack = Struct(">IBI").unpack_from  # as frames.pack_head
_peek = Struct(">5sI").unpack_from  # length, kind and flags as they are, stream

spare: list[LaneStream] = []  # of all connections: streams that brought a whole call and took a whole answer

heads: dict[
    bytes, tuple[bytes, bytes, bytes, bool]
] = {}  # head → its frame up to the stream id, the same with END_STREAM, its block, is it final
finals: dict[
    bytes, tuple[Callable[..., bytes], bytes, bytes]
] = {}  # final head → packs its frame and the start of DATA; both parts of the frame


class LaneStream(Stream):
    """A stream of the lane."""

    __slots__ = ("credit", "whole")

    def __init__(self, ended: bool, left: int, window: int, credit: int) -> None:
        self.ended = ended
        self.done = self.answered = False
        self.left = left
        self.held = b""
        self.window = window
        self.taken = self.owed = 0
        self.credit = credit  # bytes that we may send
        self.whole = False  # it began with a whole call: once answered whole, it is as good as new


class Repeat(NamedTuple):
    """A call with a body of a promised length: the next one often differs from it in nothing but its stream and its body."""

    asked: h2head.Request
    block: bytes
    first: bytes  # what HEADERS begins with: length, kind, flags
    second: bytes  # what DATA with the whole body begins with


class Lane(Connection):
    """One connection; the library keeps nothing but the connection's own state."""

    __slots__ = ("_half", "_initial", "_lane", "_repeat", "_shared")

    def __init__(self, edge: Streams, limits: H2Limits, now: float = 0.0) -> None:
        super().__init__(edge, limits, now)
        self._lane: dict[int, LaneStream] = self._streams  # type: ignore[assignment]  # _made makes no others
        self._half = limits.connection_window >> 1
        self._shared = WINDOW  # the connection's window towards the client
        self._initial = WINDOW  # the client's INITIAL_WINDOW_SIZE
        self._repeat: Repeat | None = None  # the last whole call

    # -- reading --------------------------------------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> bytes:
        """Judge all frames; what is left is the beginning of one."""
        if not self._settled:
            return super()._frames(data)
        at, size = 0, len(data)
        streams, edge, limits = self._lane, self._edge, self._limits
        known = self._reader.known.get
        repeat = self._repeat
        if repeat is not None and known(repeat.block) is repeat.asked and not self._block and not self._leaving:
            data, at = self._calls(data, 0, repeat)
            if self.ended:
                return b""
            size = len(data)
        while size - at >= 9:
            word, flags, stream = _unpack(data, at)
            length = word >> 8
            start = at + 9
            end = start + length
            if length > FRAME_LIMIT:
                self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
                return b""
            if end > size:
                break
            kind = word & 255
            if kind == DATA and flags <= END_STREAM:
                found = streams.get(stream)
                if found is not None and not found.ended and length <= found.window and length <= self._window and not self._block:
                    left = found.left
                    if flags:
                        if left < 0 or (left == length and not found.held):
                            found.ended = True
                            found.taken += length
                            self._window -= length
                            if found.done:
                                self._drop(stream, found)
                            edge.on_body(stream, data[start:end], True)
                            if self._leaving:
                                self._settle()
                            if self.ended:
                                return b""
                            at = end
                            continue
                    elif length >= TINY_SIZE and (left < 0 or left > length):
                        if left > 0:
                            found.left = left - length
                        found.taken += length
                        found.window -= length
                        self._window -= length
                        edge.on_body(stream, data[start:end], False)
                        if self.ended:
                            return b""
                        at = end
                        continue
            elif kind == HEADERS and flags | END_STREAM == END_HEADERS | END_STREAM and stream == self._highest + 2 and not self._block:
                asked = known(data[start:end])
                if asked is not None and len(streams) < limits.streams and not self._leaving and (flags == END_HEADERS or asked.may_end):
                    if flags == END_HEADERS and 0 <= asked.length <= FRAME_LIMIT:
                        data, at = self._calls(data, at, self._repeat_of(asked, data[at:end]))
                        if self.ended:
                            return b""
                        size = len(data)
                        continue
                    self._highest = stream
                    if flags == END_HEADERS:
                        streams[stream] = LaneStream(False, asked.length, limits.window, self._initial)
                        edge.on_head(stream, asked.head, False)
                    else:
                        streams[stream] = LaneStream(True, asked.length, limits.window, self._initial)
                        edge.on_head(stream, asked.whole, True)
                    if self.ended:
                        return b""
                    at = end
                    continue
            self._frame(data[at:end])
            if self.ended:
                return b""
            at = end
        return data[at:] if at else data

    def _repeat_of(self, asked: h2head.Request, head: bytes) -> Repeat:
        """Calls with this HEADERS frame."""
        made: Repeat | None = asked.repeat
        if made is None:
            made = asked.repeat = Repeat(asked, head[9:], head[:5], pack_head(asked.length << 8, END_STREAM, 0)[:5])
        self._repeat = made
        return made

    def _calls(self, data: bytes, at: int, repeat: Repeat) -> tuple[bytes, int]:
        """Take all calls from `at` on that repeat this one; returns where something else begins.

        Clients that have many calls to make send all heads before all bodies, and others end a TLS record behind each head: the edge hears of the calls
        that are whole, then of the heads whose bodies are not here yet.
        """
        asked, block, first, second = repeat
        streams, initial, head, on_call, length = self._lane, self._initial, asked.head, self._edge.on_call, asked.length
        opening: dict[int, None] = {}
        following, room = self._highest + 2, self._limits.streams - len(streams)
        step, whole, size, gone_on = 9 + len(block), 9 + length, len(data), 0
        while True:
            if size - at >= 9:
                start, stream = _peek(data, at)
                if start == second and stream in opening and size - at >= whole and length <= self._window:
                    at += whole
                    del opening[stream]
                    if spare:
                        found = spare.pop()
                        found.credit = initial
                    else:
                        found = LaneStream(True, 0, 0, initial)
                        found.whole = True
                    streams[stream] = found
                    self._window -= length
                    found.taken = length
                    if on_call(stream, head, data[at - length : at]):
                        found.taken = 0
                        gone_on += length
                    elif self.ended or self._leaving:
                        break
                    continue
                if start == first and stream == following and room and data.startswith(block, at + 9):
                    at += step
                    self._highest = stream
                    following += 2
                    room -= 1
                    opening[stream] = None
                    continue
            more, self._more = self._more, None
            if not opening or more is None:
                break
            data, at = data[at:] + more(), 0
            size = len(data)
        if gone_on:
            self._owed += gone_on
            if self._owed + self._owed_apart >= self._half:
                self._credit()
        for stream in opening:
            if self.ended:
                break
            streams[stream] = LaneStream(False, length, self._limits.window, initial)
            self._edge.on_head(stream, head, False)
        return data, at

    def _hear_head(self, stream: int, ended: bool) -> bool:
        return True

    def _hear_stream(self, whole: bytes) -> bool:
        return True

    def _hear_window(self, stream: int, found: Stream | None, step: int) -> bool:
        if found is None:
            self._shared += step
            if self._shared > MOST:
                self._fail(FLOW_CONTROL_ERROR, "h2-flow-control")
            return not self.ended
        assert isinstance(found, LaneStream)
        found.credit += step
        return True

    def _shared_window(self) -> int:
        return self._shared

    def _send_window(self, stream: int, found: Stream) -> int:
        assert isinstance(found, LaneStream)
        return found.credit

    def _new_window(self, size: int) -> bool:
        """RFC 9113 §6.9.2: all streams follow, below zero if need be."""
        change = size - self._initial
        self._initial = size
        for found in self._lane.values():
            found.credit += change
            if found.credit > MOST:
                self._fail(FLOW_CONTROL_ERROR, "h2-flow-control")
                return False
        return True

    def _made(self, ended: bool, left: int) -> LaneStream:
        return LaneStream(ended, left, self._limits.window, self._initial)

    # -- writing --------------------------------------------------------------------------------------------------------------------------------

    def delivered(self, stream: int, size: int) -> None:
        """So many bytes of the stream's body went on."""
        found = self._lane.get(stream)
        if found is None:
            return  # they were counted when the stream went
        found.taken -= size
        self._owed = owed = self._owed + size
        if not found.ended:
            found.owed += size
            if found.owed >= self._limits.window >> 1:
                self._open_window(stream, found)
        if owed + self._owed_apart >= self._half:
            self._credit()

    def room(self, stream: int) -> int:
        """How many bytes of DATA may be sent now."""
        found = self._lane.get(stream)
        if found is None:
            return 0
        credit, shared = found.credit, self._shared
        if shared < credit:
            credit = shared
        return credit if credit > 0 else 0

    def respond(self, stream: int, head: bytes, ended: bool) -> None:
        """Send a response head, interim or final, rendered as for HTTP/1.1."""
        found = self._lane.get(stream)
        if found is None or found.answered:
            return
        made = heads.get(head)
        if made is None or self._writer.owed:
            found.answered = head[9:10] != b"1"
            self._say_block(stream, self._writer.framed(remember(head)), ended)
        else:
            found.answered = made[3]
            self.out.append(b"%b%b%b" % (made[1] if ended else made[0], stream.to_bytes(4, "big"), made[2]))
        if ended:
            self._finish(stream, found)

    def answer(self, stream: int, head: bytes, body: bytes) -> bool:
        """Send a whole final response, if there is room for it."""
        found, made, size = self._lane.get(stream), finals.get(head), len(body)
        if found is None or found.answered or made is None or self._writer.owed or not 0 < size <= FRAME_LIMIT:
            return super().answer(stream, head, body)
        if size > found.credit or size > self._shared:
            return False
        self._shared -= size
        pack, start, block = made
        self.out += (pack(start, stream, block, size << 8, END_STREAM, stream), body)
        if found.whole and not found.taken:
            del self._lane[stream]
            if len(spare) < SPARE:
                spare.append(found)  # as good as new
        else:
            found.answered = found.done = True
            if not found.ended:
                found.credit -= size
                return True
            self._drop(stream, found)
        if self._leaving:
            self._settle()
        return True

    def send(self, stream: int, data: bytes) -> int:
        """Send as much of this piece of the body as there is room for; returns how much."""
        found, size = self._lane.get(stream), len(data)
        if found is None or size > found.credit or size > self._shared or found.done:
            return super().send(stream, data)
        found.credit -= size
        self._shared -= size
        if size <= FRAME_LIMIT:
            self.out.append(pack_head(size << 8, 0, stream) + data)
        else:
            self._say_frames(stream, data, 0)
        return size

    def reserve(self, stream: int) -> int:
        """All the room there is, for frames that the caller makes himself."""
        room = self.room(stream)
        if room:
            found = self._lane[stream]
            if found.done:
                return 0
            found.credit -= room
            self._shared -= room
        return room

    def release(self, stream: int, size: int) -> None:
        """So much of it was not sent."""
        self._shared += size
        found = self._lane.get(stream)
        if found is not None:
            found.credit += size

    def data(self, stream: int, data: bytes | memoryview, ended: bool) -> None:
        """Send a piece of the body, not more than there is room for."""
        found = self._lane.get(stream)
        if found is None or found.done:
            return
        size = len(data)
        found.credit -= size
        self._shared -= size
        self._say_frames(stream, data, END_STREAM if ended else 0)
        if ended:
            found.done = True
            if found.ended:
                self._drop(stream, found)
                if self._leaving:
                    self._settle()

    def _say_frames(self, stream: int, data: bytes | memoryview, last: int) -> None:
        """In as many DATA frames as it needs, without a copy of it; `last` are the flags of the last one."""
        out: list[bytes | memoryview] = self.out  # type: ignore[assignment]  # to be joined
        left = len(data)
        if left > FRAME_LIMIT:
            data = memoryview(data)
            full, at = pack_head(FRAME_LIMIT << 8, 0, stream), 0
            while left > FRAME_LIMIT:
                out += (full, data[at : at + FRAME_LIMIT])
                at += FRAME_LIMIT
                left -= FRAME_LIMIT
            data = data[at:]
        out += (pack_head(left << 8, last, stream), data)

    def _say_trailers(self, stream: int, fields: Fields) -> None:
        self._say_block(stream, self._writer.encode(fields), True)

    def _say_block(self, stream: int, block: bytes, ended: bool) -> None:
        """A block in as many frames as it needs."""
        first, rest = block[:FRAME_LIMIT], block[FRAME_LIMIT:]
        flags = END_STREAM if ended else 0
        self.out.append(frame(HEADERS, flags if rest else flags | END_HEADERS, stream, first))
        while rest:
            piece, rest = rest[:FRAME_LIMIT], rest[FRAME_LIMIT:]
            self.out.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, piece))

    def _say_reset(self, stream: int, code: int) -> None:
        self.out.append(rst_stream(stream, code))

    def _say_window(self, stream: int, step: int) -> None:
        if step:
            self.out.append(window_update(stream, step))


def remember(head: bytes) -> bytes:
    """The block of a response head."""
    block = blocks.block(h2head.response(head))
    if len(head) <= HEAD_SIZE and len(block) <= FRAME_LIMIT:
        if len(heads) >= HEADS:
            heads.clear()
            finals.clear()
        start = (len(block) << 8 | HEADERS).to_bytes(4, "big")
        final = head[9:10] != b"1"
        heads[head] = start + b"\x04", start + b"\x05", block, final
        if final:
            finals[head] = Struct(f">5sI{len(block)}sIBI").pack, start + b"\x04", block
    return block
