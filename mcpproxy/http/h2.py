"""An HTTP/2 connection with a client: frames in, calls out; calls in, frames out (RFC 9113).

Two judges look at every frame. First ours, for what the h2 library takes or answers more harshly than the RFC asks (frame sizes as soon as they are
known, padding, blocks and their continuation, fields, lengths, closed streams, limits and floods); then the library, which keeps the states of
connection and streams, the settings and the windows. What either refuses is refused. http/lane has the same judgement without asking the library
about ordinary streams; a test holds the two to the same words. It is one file because a frame is judged by all that is known of its connection.

 1. Input never raises, however it is cut; a frame counts when it is all there, a head when its block is.
 2. A stream error ends the stream and costs the client points (http/budget); a connection error says GOAWAY and nothing after it.
 3. The edge is told of a stream once at its end: by its last body call, or by on_reset, after which the stream is unknown here, too.
 4. What a client promised as Content-Length is compared with what came before the last byte passes on: without END_STREAM that waits.
 5. Windows open for bytes that went on, never for bytes that came. Bytes of streams that are gone count as gone on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import HPACKError, OversizedHeaderListError

from mcpproxy.http import budget as prices
from mcpproxy.http import h2head
from mcpproxy.http.blocks import BlockReader, BlockWriter, Fields
from mcpproxy.http.budget import Budget
from mcpproxy.http.frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    ENABLE_CONNECT_PROTOCOL,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_LIMIT,
    FRAME_SIZE_ERROR,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    MOST,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    SHAPES,
    STREAM_CLOSED,
    WINDOW,
    frame,
    goaway,
    inside,
    rst_stream,
    settings,
    window_update,
    wrong_setting,
)
from mcpproxy.http.h2head import Malformed, Request

BLOCK_FRAMES = 16  # HEADERS and CONTINUATION of one block; a head of 32 KiB needs three
LIST_LIMIT = 3  # times the head limit: a list up to this is read and answered 431, a longer one ends the connection (its table is lost)
REMEMBERED_RESETS = 256  # streams: frames that were under way when a stream was reset arrive soon or never
SKIPPED = 64  # gaps in the stream ids that are remembered, to name the right error
THEIR_FAULT = frozenset({PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM})
PING_DATA = b"mcpproxy"  # eight bytes, as it happens
KNOWN_SETTINGS = frozenset({1, 2, 3, 4, 5, 6, 8})  # the library would keep all others for ever

CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    validate_inbound_headers=False,  # h2head judges fields, as stream errors
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


class Streams(Protocol):
    """Who lives behind the streams: the edge. Called from within Connection.receive()."""

    def on_head(self, stream: int, head: bytes, ended: bool) -> None:
        """A request begins."""

    def on_body(self, stream: int, data: bytes, ended: bool) -> None:
        """Its body, without framing; may be empty when it ends."""

    def on_call(self, stream: int, head: bytes, body: bytes) -> bool:
        """A request and its whole body: on_head and on_body in one. Only the lane sees that far ahead. True: the body goes on, as if `delivered`."""

    def on_trailers(self, stream: int, fields: Fields) -> None:
        """Its body ended with trailers."""

    def on_reset(self, stream: int, code: int) -> None:
        """It is over: say nothing more on it."""

    def on_window(self, stream: int) -> None:
        """There may be room to send again; 0: on all streams."""


@dataclass(frozen=True, slots=True)
class H2Limits:
    """What one connection may have."""

    streams: int = 128  # at a time; RFC 9113 §6.5.2 recommends 100 or more
    head: int = (
        32 * 1024
    )  # bytes; told to the client as MAX_HEADER_LIST_SIZE. http/head judges heads, lists of three times the size are not even read
    window: int = 65535  # bytes of one stream that wait for its upstream; never below the protocol's default, which clients use at once
    connection_window: int = 1024 * 1024  # bytes of all streams that wait: some stalled uploads do not stop the others


class Stream:
    """What must be known of a stream that is open."""

    __slots__ = ("answered", "done", "ended", "held", "left", "owed", "taken", "window")

    def __init__(self, ended: bool, left: int, window: int) -> None:
        self.ended = ended  # the client said END_STREAM
        self.done = False  # we said END_STREAM
        self.answered = False  # we sent the head of the final response
        self.left = left  # bytes that Content-Length still promises; -1: it promised nothing
        self.held = b""  # what completes the promise, until END_STREAM confirms it
        self.window = window  # bytes that the client may send
        self.taken = 0  # bytes that came and did not go on yet
        self.owed = 0  # bytes that went on and are not yet in the client's window again


class Judge(H2Connection):
    """The library, with less memory of what is over: frames on closed streams never get that far."""

    MAX_CLOSED_STREAMS = 16


class Connection:
    """One connection, the server's side. The h2 library keeps the streams."""

    __slots__ = (
        "_block",
        "_block_flags",
        "_block_size",
        "_block_stream",
        "_budget",
        "_edge",
        "_granted",
        "_h2",
        "_highest",
        "_last",
        "_leaving",
        "_limits",
        "_more",
        "_owed",
        "_owed_apart",
        "_paid",
        "_pings",
        "_preface",
        "_reader",
        "_resets",
        "_settled",
        "_skipped",
        "_streams",
        "_unread",
        "_window",
        "_writer",
        "ended",
        "now",
        "out",
        "pongs",
        "reason",
        "spent",
    )

    def __init__(self, edge: Streams, limits: H2Limits, now: float = 0.0) -> None:
        self.out: list[bytes] = []  # the edge joins, writes and clears it
        self.ended = False  # nothing more is read; `out` is the last word
        self.reason = ""  # kind of the connection error
        self.pongs = 0  # answers to our PINGs
        self.spent = -prices.GREETING  # points since the edge last looked (and set it back)
        self.now = now  # set by the edge: the budget flows back with time
        self._edge = edge
        self._limits = limits
        self._more: Callable[[], bytes] | None = None
        self._budget = Budget(now)
        self._streams: dict[int, Stream] = {}
        self._highest = 0  # id of the newest stream
        self._resets: dict[int, bool] = {}  # stream → was it we who reset it
        self._skipped: dict[int, int] = {}  # first and last id of a gap
        self._leaving = 0  # 1: no new streams, the connection ends with the last one
        self._last = MOST  # what our last GOAWAY named: it never rises (§6.8)
        self._window = limits.connection_window
        self._owed = 0  # bytes for the connection's window that the library knows of
        self._owed_apart = 0  # and those it does not: frames on streams that are gone
        self._granted = WINDOW  # bytes that we were ever allowed to send on the connection
        self._paid = 0  # bytes sent that have paid for a WINDOW_UPDATE
        self._pings = 0  # of ours without an answer
        self._preface = PREFACE
        self._settled = False  # the client's first SETTINGS came
        self._unread = b""
        self._block: list[bytes] = []  # pieces of a block without its end
        self._block_stream = self._block_flags = self._block_size = 0
        self._reader = BlockReader(LIST_LIMIT * limits.head)
        self._writer = BlockWriter()
        self._h2 = judge = Judge(CONFIG)
        judge.local_settings = our_settings(limits.window)
        judge.max_inbound_frame_size = 2**24 - 1  # judged before
        judge.encoder = self._writer  # type: ignore[assignment]  # the three words of an encoder that the library uses
        judge.decoder = Deaf()  # type: ignore[assignment]

    # -- what the edge asks ---------------------------------------------------------------------------------------------------------------------

    @property
    def open(self) -> int:
        """Streams that at least one side has not finished."""
        return len(self._streams)

    @property
    def partial(self) -> bool:
        """Did a frame, a block or the preface begin that is not all there? It needs a deadline."""
        return bool(self._unread or self._block or self._preface or not self._settled)

    def begin(self, *, preface_seen: bool = False) -> None:
        """Our SETTINGS and window go out. `preface_seen`: the edge took the client's preface."""
        limits, judge = self._limits, self._h2
        told = {MAX_CONCURRENT_STREAMS: limits.streams, MAX_HEADER_LIST_SIZE: limits.head, ENABLE_CONNECT_PROTOCOL: 1}
        if limits.window != WINDOW:
            told[INITIAL_WINDOW_SIZE] = limits.window
        self.out.append(settings(told))
        judge.initiate_connection()
        if limits.connection_window > WINDOW:
            judge.increment_flow_control_window(limits.connection_window - WINDOW)
            self.out.append(window_update(0, limits.connection_window - WINDOW))
        judge.clear_outbound_data_buffer()
        judge.receive_data(PREFACE)
        if preface_seen:
            self._preface = b""

    def delivered(self, stream: int, size: int) -> None:
        """So many bytes of the stream's body went on."""
        found = self._streams.get(stream)
        if found is None:
            return  # they were counted when the stream went
        found.taken -= size
        found.owed += size
        self._owed += size
        if not found.ended and found.owed >= self._limits.window >> 1:
            self._open_window(stream, found)
        self._credit()

    def room(self, stream: int) -> int:
        """How many bytes of DATA may be sent now."""
        return max(0, self._h2.local_flow_control_window(stream)) if stream in self._streams else 0

    def respond(self, stream: int, head: bytes, ended: bool) -> None:
        """Send a response head, interim or final, rendered as for HTTP/1.1."""
        found = self._streams.get(stream)
        if found is not None and not found.answered:
            found.answered = head[9:10] != b"1"
            self._say_head(stream, head, ended)
            if ended:
                self._finish(stream, found)

    def answer(self, stream: int, head: bytes, body: bytes) -> bool:
        """Send a whole final response, if there is room for it."""
        if self.room(stream) < len(body):
            return False
        self.respond(stream, head, not body)
        if body:
            self.data(stream, body, True)
        return True

    def send(self, stream: int, data: bytes) -> int:
        """Send as much of this piece of the body as there is room for; returns how much."""
        room = self.room(stream)
        if room >= len(data):
            room = len(data)
        elif not room:
            return 0
        self.data(stream, data[:room], False)
        return room

    def reserve(self, stream: int) -> int:
        """Take all the room there is for this stream (`room`) out of both windows, where there is a short way to spend it: bytes for DATA frames that the
        caller makes (frames.data_head). What is left comes back by `release`, before anything else is asked of this connection."""
        return 0

    def release(self, stream: int, size: int) -> None:
        """So much of what was reserved was not sent."""

    def data(self, stream: int, data: bytes | memoryview, ended: bool) -> None:
        """Send a piece of the body, not more than there is room for. An empty one that ends it needs none, also where a client made its window smaller than
        what is on its way (below zero, §6.9.2): "MAY be sent if there is no available space in either flow-control window" (RFC 9113 §6.9)."""
        found = self._streams.get(stream)
        if found is not None and not found.done:
            self._say_data(stream, data, ended)
            if ended:
                self._finish(stream, found)

    def trailers(self, stream: int, fields: Fields) -> None:
        """End the response with trailers."""
        fields = h2head.response_trailers(fields)
        found = self._streams.get(stream)
        if not fields:
            self.data(stream, b"", True)
        elif found is not None and not found.done:
            self._say_trailers(stream, fields)
            self._finish(stream, found)

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once, with RST_STREAM."""
        found = self._streams.get(stream)
        if found is not None:
            self._say_reset(stream, code)
            self._forget(stream, found, True)
            if code in THEIR_FAULT:
                self._spend(prices.FAULT)
            self._settle()

    def refused(self) -> None:
        """The edge refused a request that it had to read for that."""
        self._spend(prices.FAULT)
        self.spent += prices.REFUSAL

    def ping(self) -> None:
        """Is the client still there?"""
        if not self.ended:
            self._pings += 1
            self.out.append(frame(PING, 0, 0, PING_DATA))

    def goaway(self, code: int = NO_ERROR, *, last: bool) -> None:
        """No more streams soon (`last` false) or from now on; those that are open go on."""
        if self.ended:
            return
        if last:
            self._leaving = 1
            self._last = min(self._last, self._highest)
        self.out.append(goaway(self._last, code))
        if last:
            self._settle()

    def receive(self, data: bytes, more: Callable[[], bytes] | None = None) -> None:
        """Take what the client sent. `more` reads on, where a call began and its body may be behind (once; empty when nothing is)."""
        self._more = more
        if self._unread:
            data = self._unread + data
        if self._preface and not self.ended:
            if not data.startswith(self._preface[: len(data)]):
                self._fail(PROTOCOL_ERROR, "h2-bad-preface")
            elif len(data) < len(self._preface):
                self._unread = data
                return
            data = data[len(self._preface) :]
            self._preface = b""
        self._unread = b"" if self.ended else self._frames(data)

    # -- frames ---------------------------------------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> bytes:
        """Judge all frames; what is left is the beginning of one."""
        at, size = 0, len(data)
        while size - at >= 9:
            length = int.from_bytes(data[at : at + 3], "big")
            if length > FRAME_LIMIT:
                self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
                return b""
            end = at + 9 + length
            if end > size:
                break
            self._frame(data[at:end])
            if self.ended:
                return b""
            at = end
        return data[at:] if at else data

    def _frame(self, whole: bytes) -> None:
        kind, flags = whole[3], whole[4]
        stream = int.from_bytes(whole[5:9], "big") & 0x7FFFFFFF
        if self._block:
            if kind != CONTINUATION or stream != self._block_stream:  # §6.2
                return self._fail(PROTOCOL_ERROR, "h2-broken-block")
        elif not self._settled:
            if kind != SETTINGS or flags & ACK:  # §3.4
                return self._fail(PROTOCOL_ERROR, "h2-bad-preface")
            self._settled = True
        if kind >= len(JUDGES):
            return self._spend(prices.IGNORED)  # §5.5
        rule = SHAPES[kind]
        if rule is not None and (stream == 0) != rule[0]:
            return self._fail(PROTOCOL_ERROR, "h2-stream-id")
        if rule is not None and rule[1] is not None and len(whole) != 9 + rule[1]:
            return self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
        JUDGES[kind](self, stream, flags, whole)

    # -- heads ----------------------------------------------------------------------------------------------------------------------------------

    def _headers(self, stream: int, flags: int, whole: bytes) -> None:
        start, end = inside(whole, flags)
        if not start:
            return self._fail(end, "h2-padding")
        if flags & END_HEADERS:
            return self._fields(stream, bool(flags & END_STREAM), whole[start:end])
        self._block = [whole[start:end]]
        self._block_stream, self._block_flags, self._block_size = stream, flags, end - start

    def _continuation(self, stream: int, flags: int, whole: bytes) -> None:
        block = self._block
        if not block:
            return self._fail(PROTOCOL_ERROR, "h2-broken-block")
        block.append(whole[9:])
        self._block_size += len(whole) - 9
        if len(block) > BLOCK_FRAMES or self._block_size > LIST_LIMIT * self._limits.head:
            return self._fail(ENHANCE_YOUR_CALM, "h2-head-too-large")
        self._spend(prices.CONTINUED)
        if flags & END_HEADERS and not self.ended:
            self._block = []
            self._fields(stream, bool(self._block_flags & END_STREAM), b"".join(block))

    def _fields(self, stream: int, ended: bool, block: bytes) -> None:
        """A whole block: of a new stream, or the trailers of one that is open."""
        known = self._reader.known.get(block)
        fields: Fields = []
        if known is None or stream <= self._highest:
            try:
                fields = self._reader.read(block)  # whatever becomes of the stream: the table must follow (§4.3)
            except OversizedHeaderListError:
                return self._fail(ENHANCE_YOUR_CALM, "h2-head-too-large")
            except HPACKError:
                return self._fail(COMPRESSION_ERROR, "h2-compression")
        if stream > self._highest:
            self._new_stream(stream, ended, block, known, fields)
        elif (found := self._streams.get(stream)) is not None:
            self._trailers(stream, found, ended, fields)
        else:
            self._late_head(stream)

    def _new_stream(self, stream: int, ended: bool, block: bytes, known: object, fields: Fields) -> None:
        if not stream & 1:
            return self._fail(PROTOCOL_ERROR, "h2-stream-id")
        if stream > self._highest + 2:
            if len(self._skipped) >= SKIPPED:
                del self._skipped[next(iter(self._skipped))]
            self._skipped[self._highest + 1] = stream - 1
        self._highest = stream
        if len(self._streams) >= self._limits.streams or self._leaving:  # §5.1.2, §6.8
            return self._refuse(stream, ended, REFUSED_STREAM)
        try:
            if known is None:
                known = h2head.request(fields)
                self._weigh(len(fields), len(known.whole))
                self._reader.remember(block, known, 2 * len(known.whole))
            assert isinstance(known, Request)
            if ended and not known.may_end:
                raise Malformed
        except Malformed:
            return self._refuse(stream, ended, PROTOCOL_ERROR)
        self._streams[stream] = self._made(ended, known.length)
        if self._hear_head(stream, ended):
            self._edge.on_head(stream, known.whole if ended else known.head, ended)

    def _weigh(self, fields: int, size: int) -> None:
        """A head that was unfolded from a small block is work all the same."""
        if fields > prices.MANY or size > prices.LARGE:
            self.spent += max(0, fields - prices.MANY) * 2 + max(0, size - prices.LARGE) // 64

    def _refuse(self, stream: int, ended: bool, code: int) -> None:
        """A new stream that the edge never hears of."""
        if self._hear_head(stream, ended):
            self._say_reset(stream, code)
            self._remember_reset(stream, True)
            self._spend(prices.FAULT)

    def _trailers(self, stream: int, found: Stream, ended: bool, fields: Fields) -> None:
        if found.ended:
            return self._stream_error(stream, found, STREAM_CLOSED)
        if not ended or found.left > 0:
            return self._stream_error(stream, found, PROTOCOL_ERROR)
        try:
            fields = h2head.trailers(fields)
        except Malformed:
            return self._stream_error(stream, found, PROTOCOL_ERROR)
        if self._hear_head(stream, True):
            held, found.held = found.held, b""
            self._end(stream, found)
            if held:
                self._edge.on_body(stream, held, False)
            if not self.ended and stream not in self._resets:  # the edge may have reset it meanwhile
                self._edge.on_trailers(stream, fields)
            self._settle()

    def _late_head(self, stream: int) -> None:
        """A head on a stream that is gone (§5.1)."""
        ours = self._resets.get(stream)
        if ours:
            return self._spend(prices.IGNORED)
        if ours is None:
            implied = any(first <= stream <= last for first, last in self._skipped.items())
            return self._fail(PROTOCOL_ERROR if implied or not stream & 1 else STREAM_CLOSED, "h2-stream-id")
        self._resets[stream] = True
        self.out.append(rst_stream(stream, STREAM_CLOSED))
        self._spend(prices.FAULT)

    # -- bodies ---------------------------------------------------------------------------------------------------------------------------------

    def _data(self, stream: int, flags: int, whole: bytes) -> None:
        size = len(whole) - 9
        start, end = inside(whole, flags)
        if not start:
            return self._fail(end, "h2-padding")
        self._window -= size
        if self._window < 0:
            return self._fail(FLOW_CONTROL_ERROR, "h2-flow-control")
        found = self._streams.get(stream)
        if found is None:
            return self._late_data(stream, size)
        if found.ended:
            self._owed_apart += size
            return self._stream_error(stream, found, STREAM_CLOSED)
        found.window -= size
        if found.window < 0:
            return self._fail(FLOW_CONTROL_ERROR, "h2-flow-control")
        if self._hear_stream(whole):
            found.taken += size
            self._body(stream, found, whole[start:end], bool(flags & END_STREAM), size - (end - start))

    def _body(self, stream: int, found: Stream, payload: bytes, ended: bool, padding: int) -> None:
        """DATA that is allowed here."""
        if not ended and len(payload) < prices.TINY_SIZE:
            self._spend(prices.TINY if payload else prices.EMPTY)
            if self.ended:
                return
        left = found.left
        if left >= 0:
            found.left = left = left - len(payload)
            if left < 0 or (ended and left):
                self._stream_error(stream, found, PROTOCOL_ERROR)  # §8.1.1
                return
            if ended:
                payload = found.held + payload
            elif not left:
                found.held += payload
                payload = b""
        if padding and not ended:
            self.delivered(stream, padding)
        if ended:
            self._end(stream, found)
        if payload or ended:
            self._edge.on_body(stream, payload, ended)
            self._settle()

    def _late_data(self, stream: int, size: int) -> None:
        """DATA on a stream that is idle or gone."""
        if stream > self._highest or not stream & 1:
            return self._fail(PROTOCOL_ERROR, "h2-stream-id")
        self._owed_apart += size
        if self._resets.get(stream):  # it was under way when we reset
            self._spend(prices.IGNORED)
        else:
            self._remember_reset(stream, True)
            self.out.append(rst_stream(stream, STREAM_CLOSED))
            self._spend(prices.FAULT)
        self._credit()

    # -- the small frames -----------------------------------------------------------------------------------------------------------------------

    def _priority(self, stream: int, flags: int, whole: bytes) -> None:
        """§5.3: ignored, but for its size (§6.3)."""
        if len(whole) == 9 + 5:
            return self._spend(prices.IGNORED)
        found = self._streams.get(stream)
        if found is not None:
            return self._stream_error(stream, found, FRAME_SIZE_ERROR)
        self._fail(FRAME_SIZE_ERROR, "h2-frame-size")

    def _rst_stream(self, stream: int, flags: int, whole: bytes) -> None:
        found = self._streams.get(stream)
        if found is None:
            return self._late(stream)
        if self._hear_stream(whole):
            self._forget(stream, found, False)
            self._spend(prices.LEAVE if found.answered else prices.CANCEL)
            if not self.ended:
                self._edge.on_reset(stream, int.from_bytes(whole[9:], "big"))
                self._settle()

    def _settings(self, stream: int, flags: int, whole: bytes) -> None:
        size = len(whole) - 9
        if size % 6 or (flags & ACK and size):
            return self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
        self._spend(prices.SETTINGS + size // 6)
        last: dict[int, int] = {}
        for at in range(9, len(whole), 6):
            code, value = int.from_bytes(whole[at : at + 2], "big"), int.from_bytes(whole[at + 2 : at + 6], "big")
            if (wrong := wrong_setting(code, value)) is not None:
                return self._fail(wrong, "h2-bad-settings")
            if code in KNOWN_SETTINGS:
                last[code] = value
                if code == HEADER_TABLE_SIZE:
                    self._writer.header_table_size = value  # every one of them: the least must be told (RFC 7541 §4.2)
        if self.ended or (INITIAL_WINDOW_SIZE in last and not self._new_window(last[INITIAL_WINDOW_SIZE])):
            return None
        if self._hear(frame(SETTINGS, ACK, 0, b"") if flags & ACK else settings(last)) and INITIAL_WINDOW_SIZE in last:
            self._edge.on_window(0)

    def _push_promise(self, stream: int, flags: int, whole: bytes) -> None:
        self._fail(PROTOCOL_ERROR, "h2-push-promise")  # §8.4

    def _ping(self, stream: int, flags: int, whole: bytes) -> None:
        if flags & ACK and self._pings:
            self._pings -= 1
            self.pongs += 1
        else:
            self._spend(prices.PING)
        if not self.ended:
            self._hear(whole)

    def _goaway(self, stream: int, flags: int, whole: bytes) -> None:
        """The client will open no more streams; the library would drop those that are open, so it is not told."""
        if len(whole) < 9 + 8:
            return self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
        self._spend(prices.IGNORED)
        self._leaving = 1
        self._settle()

    def _window_update(self, stream: int, flags: int, whole: bytes) -> None:
        if len(whole) != 9 + 4:
            return self._fail(FRAME_SIZE_ERROR, "h2-frame-size")
        if self._granted - self._shared_window() - self._paid >= prices.PAYS_UPDATE:
            self._paid += prices.PAYS_UPDATE
        else:
            self._spend(prices.TINY)
        step = int.from_bytes(whole[9:], "big") & MOST
        found = self._streams.get(stream)
        if stream and found is None:
            return self._late(stream)
        if not step:  # §6.9
            return self._stream_error(stream, found, PROTOCOL_ERROR) if found else self._fail(PROTOCOL_ERROR, "h2-flow-control")
        if self.ended:
            return None
        if found is not None and self._send_window(stream, found) + step > MOST:  # §6.9.1
            return self._stream_error(stream, found, FLOW_CONTROL_ERROR)
        if self._hear_window(stream, found, step):
            if not stream:
                self._granted += step
            self._edge.on_window(stream)

    def _late(self, stream: int) -> None:
        """RST_STREAM or WINDOW_UPDATE on a stream that is not open: on an idle one an error (§5.1), otherwise under way when it closed."""
        if stream > self._highest or not stream & 1:
            return self._fail(PROTOCOL_ERROR, "h2-stream-id")
        self._spend(prices.IGNORED)

    # -- what becomes of streams ----------------------------------------------------------------------------------------------------------------

    def _end(self, stream: int, found: Stream) -> None:
        """The client has said all."""
        found.ended = True
        if found.done:
            self._drop(stream, found)

    def _finish(self, stream: int, found: Stream) -> None:
        """We have said all."""
        found.done = True
        if found.ended:
            self._drop(stream, found)
            self._settle()

    def _drop(self, stream: int, found: Stream) -> None:
        del self._streams[stream]
        if found.taken:
            self._owed += found.taken
            self._credit()

    def _forget(self, stream: int, found: Stream, ours: bool) -> None:
        self._remember_reset(stream, ours)
        self._drop(stream, found)

    def _remember_reset(self, stream: int, ours: bool) -> None:
        if len(self._resets) >= REMEMBERED_RESETS:
            del self._resets[next(iter(self._resets))]
        self._resets[stream] = ours

    def _stream_error(self, stream: int, found: Stream, code: int) -> None:
        self._say_reset(stream, code)
        self._forget(stream, found, True)
        self._spend(prices.FAULT)
        if not self.ended:
            self._edge.on_reset(stream, code)
            self._settle()

    # -- the connection -------------------------------------------------------------------------------------------------------------------------

    def _spend(self, price: int) -> None:
        """Take points from the client; without any left it is told to calm down."""
        self.spent += price
        gone = self._budget.spend(price, self.now)
        if gone >= 1:
            self._fail(ENHANCE_YOUR_CALM, "h2-flood")
        elif gone >= prices.SOFT and not self._leaving:
            self.goaway(last=True)  # without an error: some clients drop all streams at one

    def _fail(self, code: int, reason: str) -> None:
        """A connection error."""
        if not self.ended:
            self.out.append(goaway(min(self._last, self._highest), code))
            self.reason = reason
            self.spent += prices.ERROR
            self._stop()

    def _settle(self) -> None:
        """Was that the last stream of a connection that is being left?"""
        if self._leaving and not self._streams and not self.ended:
            self._stop()

    def _stop(self) -> None:
        self.ended = True
        self._streams.clear()
        self._block = []

    def _credit(self) -> None:
        """Open the connection's window when half of it is owed."""
        owed = self._owed + self._owed_apart
        if owed >= self._limits.connection_window >> 1 and not self.ended:
            self._window += owed
            self._say_window(0, self._owed)
            if self._owed_apart:
                self.out.append(window_update(0, self._owed_apart))
            self._owed = self._owed_apart = 0

    def _open_window(self, stream: int, found: Stream) -> None:
        step, found.owed = found.owed, 0
        found.window += step
        self._say_window(stream, step)

    # -- the library ----------------------------------------------------------------------------------------------------------------------------

    def _hear(self, whole: bytes) -> bool:
        """Let the library judge a frame. True when the connection goes on."""
        try:
            self._h2.receive_data(whole)
        except ProtocolError as error:
            self._fail(error.error_code, "h2-protocol")
            return False
        self._flush()
        return True

    def _flush(self) -> None:
        said = self._h2.data_to_send()
        if said:
            self.out.append(said)

    def _made(self, ended: bool, left: int) -> Stream:
        return Stream(ended, left, self._limits.window)

    def _hear_head(self, stream: int, ended: bool) -> bool:
        """Tell the library that a block came; what it says is none of its business."""
        return self._hear(frame(HEADERS, END_HEADERS | ended, stream, b""))

    def _hear_stream(self, whole: bytes) -> bool:
        """Tell it of DATA or RST_STREAM on an open stream."""
        return self._hear(whole)

    def _hear_window(self, stream: int, found: Stream | None, step: int) -> bool:
        """Tell it of more room, on a stream or the connection (without the reserved bit, which it would take for a number)."""
        return self._hear(window_update(stream, step))

    def _new_window(self, size: int) -> bool:
        """The client's INITIAL_WINDOW_SIZE is about to change. True when the connection goes on."""
        return self._h2.open_inbound_streams >= 0  # asking makes the library forget closed streams: their windows cannot overflow any more

    def _shared_window(self) -> int:
        """How much of the connection's window is left to us."""
        return self._h2.outbound_flow_control_window

    def _send_window(self, stream: int, found: Stream) -> int:
        """How much of the stream's own window is left to us."""
        return self._h2.streams[stream].outbound_flow_control_window

    def _say_head(self, stream: int, head: bytes, ended: bool) -> None:
        self._h2.send_headers(stream, h2head.response(head), end_stream=ended)
        self._flush()

    def _say_data(self, stream: int, data: bytes | memoryview, ended: bool) -> None:
        most = min(FRAME_LIMIT, self._h2.max_outbound_frame_size)
        size = len(data)
        for at in range(0, size or 1, most):
            self._h2.send_data(stream, bytes(data[at : at + most]), end_stream=ended and at + most >= size)
        self._flush()

    def _say_trailers(self, stream: int, fields: Fields) -> None:
        self._h2.send_headers(stream, fields, end_stream=True)
        self._flush()

    def _say_reset(self, stream: int, code: int) -> None:
        try:
            self._h2.reset_stream(stream, code)
        except ProtocolError:  # both sides had ended when we saw what the last frame held
            self.out.append(rst_stream(stream, code))
        self._flush()

    def _say_window(self, stream: int, step: int) -> None:
        if step:
            self._h2.increment_flow_control_window(step, stream or None)
            self._flush()


@cache
def our_settings(window: int) -> Settings:
    """What the library must know of them; the same for all connections, and nothing changes it."""
    return Settings(client=False, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window})


class Deaf:
    """A decoder for the library, which need not hear what fields say."""

    __slots__ = ("max_allowed_table_size", "max_header_list_size")

    def decode(self, data: bytes, raw: bool = False) -> list[tuple[bytes, bytes]]:
        """Nothing."""
        return []


JUDGES = (
    Connection._data,
    Connection._headers,
    Connection._priority,
    Connection._rst_stream,
    Connection._settings,
    Connection._push_promise,
    Connection._ping,
    Connection._goaway,
    Connection._window_update,
    Connection._continuation,
)
