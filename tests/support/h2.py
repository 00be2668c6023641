"""A client of raw HTTP/2 frames, and a judge of what a server says in them (RFC 9113, RFC 7541).

    with speak(daemon, certificate) as client:
        call = client.call("POST", "/mcp", b"{}").wait()
        assert (call.status, call.body, call.ended) == (200, b"...", True)

Built on hpack and nothing else: not on h2, not on mcpproxy.

 1. It sends what it is told, nonsense too: `send(frame(...))`, `open(any fields)`.
 2. It reads only when asked: `pump`, and everything that waits. Every wait has a deadline.
 3. It is polite unless told otherwise: acknowledges SETTINGS and PING (`polite`), gives back window for what it read (`credit`).
 4. What a server must not say is a RuleBroken: a frame on a stream that is not there, one byte more than the window, a field in capitals, a
    body that contradicts its content-length.
 5. `ping()` is the barrier of these tests: once it is answered, the server has read everything that was sent before.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Self, TypeVar

from hpack import Decoder, Encoder, HeaderTuple, HPACKError

from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.waiting import DEADLINE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = ("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441
LARGEST = 2**31 - 1
FRAME = 16384  # the largest frame we take, and send

Fields = list[tuple[bytes, bytes]]
Pairs = Sequence[tuple[str | bytes, str | bytes]]
Answer = TypeVar("Answer")
NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+\Z")
VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?\Z|\Z")
OF_A_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


class Code(IntEnum):
    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class RuleBroken(Exception):
    """The server said what RFC 9113 does not let a server say."""


# --- bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Any frame, also one that must not exist. `length` lies about the size of the payload."""
    return (len(payload) if length is None else length).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


def settings(values: Mapping[int, int] | Iterable[tuple[int, int]] = (), *, ack: bool = False) -> bytes:
    pairs = values.items() if isinstance(values, Mapping) else values
    return frame(SETTINGS, ACK if ack else 0, 0, b"".join(key.to_bytes(2) + value.to_bytes(4) for key, value in pairs))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4))


def literals(fields: Pairs) -> bytes:
    """A field block that touches no dynamic table: literals without indexing, no Huffman code; any bytes at all."""
    return b"".join(b"\0" + _string(_bytes(name)) + _string(_bytes(value)) for name, value in fields)


def _string(data: bytes) -> bytes:
    """RFC 7541 §5.2, §5.1: a length with a prefix of 7 bits, then the bytes."""
    size = len(data)
    if size < 127:
        return bytes([size]) + data
    coded, rest = bytearray([127]), size - 127
    while rest >= 128:
        coded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*coded, rest]) + data


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def request_fields(
    method: str = "POST",
    path: str = "/mcp",
    *,
    host: str = "localhost",
    scheme: str = "https",
    fields: Pairs = (),
    length: int | None = None,
) -> Fields:
    """A request as agents send it."""
    listed: list[tuple[str | bytes, str | bytes]] = [(":method", method), (":scheme", scheme), (":authority", host), (":path", path)]
    if method == "POST":
        listed += [("content-type", "application/json"), ("accept", "application/json, text/event-stream")]
    listed += fields
    if length is not None:
        listed.append(("content-length", str(length)))
    return [(_bytes(name), _bytes(value)) for name, value in listed]


# --- one stream


class Call:
    """A stream this client opened, and what it was answered. `reset`: the code of the server's RST_STREAM."""

    def __init__(self, client: "H2Client", number: int, method: bytes) -> None:
        self.client, self.number, self.method = client, number, method
        self.room = client.peer[INITIAL_WINDOW_SIZE]  # bytes we may send
        self.window = client.settings[INITIAL_WINDOW_SIZE]  # bytes the server may send
        self.said_all = False  # we sent END_STREAM
        self.left = False  # we sent RST_STREAM
        self.informational: list[Fields] = []
        self.fields: Fields = []
        self.trailers: Fields = []
        self.data = bytearray()
        self.taken = 0  # of `data`, by read_until and read_exact
        self.ended = False
        self.reset: int | None = None

    # --- what it was answered

    @property
    def status(self) -> int:
        return int(self.fields[0][1]) if self.fields else 0

    @property
    def body(self) -> bytes:
        return bytes(self.data)

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None or bool(self.client.how)

    def all(self, name: str) -> list[bytes]:
        return [value for key, value in self.fields if key == name.encode()]

    def first(self, name: str) -> bytes | None:
        values = self.all(name)
        return values[0] if values else None

    # --- waiting for it

    def wait(self, deadline_s: float = DEADLINE) -> Self:
        """Until the answer ended, was reset, or the connection is over."""
        self.client.until(lambda: self.over, lambda: f"the end of {self}", deadline_s)
        return self

    def wait_head(self, deadline_s: float = DEADLINE) -> Self:
        self.client.until(lambda: self.fields or self.over, lambda: f"the head of {self}", deadline_s)
        return self

    def wait_reset(self, deadline_s: float = DEADLINE) -> int:
        """The code of the server's RST_STREAM, which may follow a whole answer."""
        self.client.until(lambda: self.reset is not None, lambda: f"a reset of {self}", deadline_s)
        assert self.reset is not None
        return self.reset

    def read_until(self, marker: bytes, deadline_s: float = DEADLINE) -> bytes:
        """What was not taken yet, up to and including `marker`."""
        self.client.until(
            lambda: marker in self.data[self.taken :] or self.over, lambda: f"{marker!r} on {self}, has {self.untaken!r}", deadline_s
        )
        at = self.data.find(marker, self.taken)
        assert at >= 0, f"{self} was over before {marker!r}: {self.untaken!r}"
        return self._take(at + len(marker) - self.taken)

    def read_exact(self, count: int, deadline_s: float = DEADLINE) -> bytes:
        self.client.until(lambda: len(self.data) - self.taken >= count or self.over, lambda: f"{count} bytes on {self}", deadline_s)
        assert len(self.data) - self.taken >= count, f"{self} was over after {len(self.data) - self.taken} of {count} bytes"
        return self._take(count)

    def _take(self, count: int) -> bytes:
        self.taken += count
        return bytes(self.data[self.taken - count : self.taken])

    @property
    def untaken(self) -> bytes:
        return bytes(self.data[self.taken :])

    def __repr__(self) -> str:
        ends = f"ended={self.ended} reset={self.reset!r} connection={self.client.how or 'open'!r} goaway={self.client.goaway}"
        return f"<stream {self.number}: status {self.status}, {len(self.data)} bytes, {ends}>"

    # --- speaking

    def send(self, data: bytes, *, ended: bool = False, deadline_s: float = DEADLINE) -> Self:
        """DATA as the windows allow; waits for room. Stops when the server has ended or reset the stream meanwhile."""
        client, rest = self.client, memoryview(data)
        while rest or (ended and not self.said_all):
            if rest:
                client.until(lambda: min(self.room, client.room) > 0 or self.over, lambda: f"room to send on {self}", deadline_s)
            if self.over:
                return self
            size = min(self.room, client.room, FRAME, len(rest)) if rest else 0
            self.said_all = ended and size == len(rest)
            client.send(frame(DATA, END_STREAM if self.said_all else 0, self.number, bytes(rest[:size])))
            rest, self.room, client.room = rest[size:], self.room - size, client.room - size
        return self

    def end(self, trailers: Pairs = ()) -> Self:
        """END_STREAM, after trailers if there are any."""
        if not trailers:
            return self.send(b"", ended=True)
        self.client.send_block(self.number, self.client.encoder.encode(_encodable(trailers)), END_STREAM)
        self.said_all = True
        return self

    def cancel(self, code: int = Code.CANCEL) -> None:
        self.left = True
        self.client.try_send(rst_stream(self.number, code))

    def credit(self, increment: int) -> None:
        self.window += increment
        self.client.send(window_update(self.number, increment))


def _encodable(fields: Pairs) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name), _bytes(value)) for name, value in fields]


# --- the connection


class H2Client:
    """`raw`: connected, by TLS with ALPN h2 or plain. `settings`: ours, beside ENABLE_PUSH = 0. `greet=False`: nothing is sent yet."""

    def __init__(
        self,
        raw: RawClient,
        *,
        settings: Mapping[int, int] | None = None,
        window: int = 65535,
        credit: bool = True,
        polite: bool = True,
        greet: bool = True,
    ) -> None:
        self.raw, self.credits, self.polite = raw, credit, polite
        chosen = getattr(raw.link, "selected_alpn_protocol", lambda: "h2")()
        assert chosen == "h2", f"ALPN chose {chosen}"
        self.settings = {ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 65535, **(settings or {})}
        self.peer = {HEADER_TABLE_SIZE: 4096, MAX_CONCURRENT_STREAMS: LARGEST, INITIAL_WINDOW_SIZE: 65535, MAX_FRAME_SIZE: FRAME}
        self.room = 65535  # bytes we may send
        self.window = self.limit = 65535  # bytes the server may send
        self.encoder, self.decoder = Encoder(), Decoder(max_header_list_size=1 << 20)
        self.decoder.max_allowed_table_size = self.settings.get(
            HEADER_TABLE_SIZE, 4096
        )  # the server must say that it obeys (RFC 7541 §4.2)
        self.calls: dict[int, Call] = {}
        self.next = 1
        self.greeted = False  # the server's first SETTINGS came
        self.acknowledged = 0  # of our SETTINGS
        self.pongs: list[bytes] = []
        self.pings: list[bytes] = []  # the server's
        self.goaways: list[tuple[int, int, bytes]] = []
        self.seen: list[tuple[str, int, int, int]] = []  # every frame: name, stream, flags, size
        self._block: tuple[int, int, bytes] | None = None  # of HEADERS without END_HEADERS: stream, flags, fragment
        if greet:
            self.greet(window)

    def greet(self, window: int = 65535) -> Self:
        """The preface (§3.4): magic, SETTINGS, and a larger window for the connection."""
        more = window_update(0, window - self.window) if window > self.window else b""
        self.window = self.limit = max(window, self.window)
        self.send(PREFACE + settings(self.settings) + more)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.raw.close()

    @property
    def how(self) -> str:
        """How the input ended: see RawClient."""
        return self.raw.how

    @property
    def goaway(self) -> tuple[int, int] | None:
        """Last stream and code of the latest GOAWAY."""
        return self.goaways[-1][:2] if self.goaways else None

    # --- speaking

    def send(self, data: bytes) -> Self:
        self.raw.send(data)
        return self

    def try_send(self, data: bytes) -> bool:
        return self.raw.try_send(data)

    def stream(self, method: bytes = b"POST") -> Call:
        """The next stream; its frames are the caller's business."""
        call = self.calls[self.next] = Call(self, self.next, method)
        self.next += 2
        return call

    def open(self, fields: Pairs, *, ended: bool = True, block: bytes | None = None, more: bytes = b"") -> Call:
        """A new stream with any fields (or any `block`). `more` are frames that go in the same write."""
        listed = _encodable(fields)
        call = self.stream(dict(listed).get(b":method", b""))
        call.said_all = ended
        self.send_block(call.number, self.encoder.encode(listed) if block is None else block, END_STREAM if ended else 0, more)
        return call

    def send_block(self, stream: int, block: bytes, flags: int, more: bytes = b"") -> None:
        """HEADERS, with CONTINUATIONs where one frame does not hold it, and `more`; all in one piece."""
        pieces = [block[at : at + FRAME] for at in range(0, len(block), FRAME)] or [b""]
        last = len(pieces) - 1
        self.send(
            b"".join(
                frame(CONTINUATION if i else HEADERS, (0 if i else flags) | (END_HEADERS if i == last else 0), stream, piece)
                for i, piece in enumerate(pieces)
            )
            + more
        )

    def call(
        self,
        method: str = "POST",
        path: str = "/mcp",
        body: bytes | None = None,
        *,
        host: str = "localhost",
        fields: Pairs = (),
        ended: bool = True,
    ) -> Call:
        """A request; a body goes with its content-length. `ended=False`: the caller says more."""
        made = request_fields(method, path, host=host, fields=fields, length=len(body) if body is not None and ended else None)
        call = self.open(made, ended=ended and body is None)
        if body is not None:
            call.send(body, ended=ended)
        return call

    def ping(self, deadline_s: float = DEADLINE) -> None:
        """Once this returns, the server has read everything sent before."""
        token = b"ping%04d" % (len(self.pongs) % 10_000)
        before = len(self.pongs)
        self.send(frame(PING, 0, 0, token))
        self.until(lambda: len(self.pongs) > before or self.how, "the answer to a PING", deadline_s)
        assert not self.how, f"the connection ended ({self.how}, goaway {self.goaway}) before its PING was answered"

    def credit(self, increment: int) -> None:
        self.window += increment
        self.send(window_update(0, increment))

    # --- hearing

    def until(self, question: Callable[[], Answer], what: str | Callable[[], str], deadline_s: float = DEADLINE) -> Answer:
        """Read frames until `question` has a truthy answer."""
        end = time.monotonic() + deadline_s
        while not (answer := question()):
            try:
                going = self.pump(end - time.monotonic())
            except TimeoutError:
                going = False
            if not going and not (answer := question()):
                told = what if isinstance(what, str) else what()
                reason = f"the connection ended ({self.how})" if self.how else f"not within {deadline_s:g} s"
                raise AssertionError(f"{reason}: {told}; goaway {self.goaway}, last frames {self.seen[-8:]}")
            if answer:
                break
        return answer

    def pump(self, deadline_s: float = DEADLINE) -> bool:
        """Handle one frame; False at the end of input, TimeoutError past the deadline."""
        end = time.monotonic() + deadline_s
        raw = self.raw
        while True:
            size = int.from_bytes(raw.buffer[:3]) if len(raw.buffer) >= 9 else -1
            if 0 <= size <= len(raw.buffer) - 9:
                break
            if size > FRAME:
                raise RuleBroken(f"FRAME_SIZE_ERROR §4.2: a frame of {size} bytes")
            if raw.how or not raw.receive(end - time.monotonic()):
                return False
        kind, flags, stream = raw.buffer[3], raw.buffer[4], int.from_bytes(raw.buffer[5:9]) & LARGEST
        payload, raw.buffer = raw.buffer[9 : 9 + size], raw.buffer[9 + size :]
        self.seen.append((NAMES[kind] if kind < 10 else f"0x{kind:x}", stream, flags, size))
        self._judge_order(kind, flags, stream)
        if kind < 10:
            _HANDLERS[kind](self, stream, flags, payload)
        return True

    def drain(self, seconds: float = 0.05) -> Self:
        """Handle what has arrived, and what arrives within a moment."""
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end and self.pump(max(end - time.monotonic(), 0.001)):
                pass
        except TimeoutError:
            pass
        return self

    def read_to_end(self, deadline_s: float = DEADLINE) -> Self:
        """Until the server closes; see `how` and `goaway`."""
        end = time.monotonic() + deadline_s
        while self.pump(end - time.monotonic()):
            pass
        return self

    def _judge_order(self, kind: int, flags: int, stream: int) -> None:
        if not self.greeted and (kind != SETTINGS or flags & ACK):
            raise RuleBroken(f"§3.4: the server's first frame is {self.seen[-1]}")
        if (self._block is not None) != (kind == CONTINUATION) or (self._block and self._block[0] != stream):
            raise RuleBroken(f"§6.10: {self.seen[-1]} inside or outside of a field block")
        if kind in (DATA, HEADERS, RST_STREAM, CONTINUATION) and stream not in self.calls:
            raise RuleBroken(f"§5.1: {self.seen[-1]} on a stream that was never opened")
        if kind in (SETTINGS, PING, GOAWAY) and stream:
            raise RuleBroken(f"§6: {self.seen[-1]} on a stream")
        if kind in (PUSH_PROMISE, PRIORITY):
            raise RuleBroken(f"§6.6, §8.4: {self.seen[-1]}")

    def _on_settings(self, _stream: int, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self.acknowledged += 1
            return
        if len(payload) % 6:
            raise RuleBroken(f"§6.5: SETTINGS of {len(payload)} bytes")
        self.greeted = True
        for at in range(0, len(payload), 6):
            key, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if (key == ENABLE_PUSH and value) or (key == INITIAL_WINDOW_SIZE and value > LARGEST):
                raise RuleBroken(f"§6.5.2: setting {key} = {value}")
            if key == MAX_FRAME_SIZE and not FRAME <= value < 1 << 24:
                raise RuleBroken(f"§6.5.2: MAX_FRAME_SIZE = {value}")
            if key == INITIAL_WINDOW_SIZE:
                for call in self.calls.values():
                    call.room += value - self.peer[key]
            self.peer[key] = value
        self.encoder.header_table_size = min(self.peer[HEADER_TABLE_SIZE], 4096)
        if self.polite:
            self.try_send(settings(ack=True))

    def _on_ping(self, _stream: int, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise RuleBroken(f"§6.7: PING of {len(payload)} bytes")
        (self.pongs if flags & ACK else self.pings).append(payload)
        if not flags & ACK and self.polite:
            self.try_send(frame(PING, ACK, 0, payload))

    def _on_goaway(self, _stream: int, _flags: int, payload: bytes) -> None:
        last, code = int.from_bytes(payload[:4]) & LARGEST, int.from_bytes(payload[4:8])
        if self.goaways and last > self.goaways[-1][0]:
            raise RuleBroken(f"§6.8: the last stream rose from {self.goaways[-1][0]} to {last}")
        self.goaways.append((last, code, payload[8:]))

    def _on_window_update(self, stream: int, _flags: int, payload: bytes) -> None:
        increment = int.from_bytes(payload)
        if len(payload) != 4 or not 0 < increment <= LARGEST or (stream and stream not in self.calls):
            raise RuleBroken(f"§6.9: WINDOW_UPDATE of {increment} on stream {stream}")
        where: Call | H2Client = self.calls[stream] if stream else self
        where.room += increment
        if where.room > LARGEST:
            raise RuleBroken(f"§6.9.1: the window of stream {stream} is {where.room}")

    def _on_rst_stream(self, stream: int, _flags: int, payload: bytes) -> None:
        call = self.calls[stream]
        if len(payload) != 4:
            raise RuleBroken(f"§6.4: RST_STREAM of {len(payload)} bytes")
        if call.reset is not None:
            raise RuleBroken(f"§5.4.2: {call} is reset a second time")
        call.reset = int.from_bytes(payload)

    def _on_headers(self, stream: int, flags: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        self._block = stream, flags, payload[5:] if flags & WITH_PRIORITY else payload
        if flags & END_HEADERS:
            self._block_ended()

    def _on_continuation(self, _stream: int, flags: int, payload: bytes) -> None:
        assert self._block is not None
        number, of_headers, fragment = self._block
        self._block = number, of_headers, fragment + payload
        if flags & END_HEADERS:
            self._block_ended()

    def _block_ended(self) -> None:
        assert self._block is not None
        (stream, flags, block), self._block = self._block, None
        call = self.calls[stream]
        try:
            decoded: list[HeaderTuple] = list(self.decoder.decode(block, raw=True))
        except HPACKError as error:
            raise RuleBroken(f"§4.3: {error!r} in {block!r}") from error
        fields = [(bytes(name), bytes(value)) for name, value in decoded]
        self._judge_open(call, "HEADERS")
        ended = bool(flags & END_STREAM)
        if call.fields:
            _judge_fields(fields)
            if not ended:
                raise RuleBroken(f"§8.1: trailers that do not end {call}")
            call.trailers = fields
        else:
            _judge_fields(fields[1:])
            if not fields or fields[0][0] != b":status" or not re.fullmatch(rb"[1-5][0-9][0-9]", fields[0][1]):
                raise RuleBroken(f"§8.3.2: a response begins with {fields[:1]}")
            if fields[0][1] == b"101":
                raise RuleBroken("§8.6: 101 over HTTP/2")
            if fields[0][1][:1] == b"1":
                if ended:
                    raise RuleBroken(f"§8.1: an interim response ends {call}")
                call.informational.append(fields)
                return
            call.fields = fields
        if ended:
            self._answer_ended(call)

    def _on_data(self, stream: int, flags: int, payload: bytes) -> None:
        call = self.calls[stream]
        self._judge_open(call, "DATA")
        if not call.fields:
            raise RuleBroken(f"§8.1: DATA before the head of {call}")
        self.window -= len(payload)
        call.window -= len(payload)
        if payload and (self.window < 0 or call.window < 0):  # an empty frame is no bytes
            raise RuleBroken(f"§6.9: {-min(self.window, call.window)} bytes more than the window on {call}")
        size = len(payload)
        call.data += payload[1 : size - payload[0]] if flags & PADDED else payload
        if flags & END_STREAM:
            self._answer_ended(call)
        if self.credits:
            self._give_back(call)

    def _give_back(self, call: Call) -> None:
        """In lumps, as clients do: byte for byte, the frames of both sides would shrink to a byte."""
        updates, initial = b"", self.settings[INITIAL_WINDOW_SIZE]
        if self.window < self.limit // 2:
            updates += window_update(0, self.limit - self.window)
            self.window = self.limit
        if call.window < initial // 2 and not (call.ended or call.left):
            updates += window_update(call.number, initial - call.window)
            call.window = initial
        if updates:
            self.try_send(updates)

    @staticmethod
    def _judge_open(call: Call, kind: str) -> None:
        if call.ended or call.reset is not None:
            raise RuleBroken(f"§5.1: {kind} after the end of {call}")

    @staticmethod
    def _answer_ended(call: Call) -> None:
        call.ended = True
        lengths = call.all("content-length")
        bodiless = call.method == b"HEAD" or call.status in (204, 304)
        if bodiless and call.data:
            raise RuleBroken(f"RFC 9110 §6.4.1: a body in {call}")
        if lengths and not bodiless and [int(value) for value in lengths] != [len(call.data)]:
            raise RuleBroken(f"§8.1.1: content-length {lengths} of {call}")


_HANDLERS: dict[int, Callable[[H2Client, int, int, bytes], None]] = {
    DATA: H2Client._on_data,
    HEADERS: H2Client._on_headers,
    RST_STREAM: H2Client._on_rst_stream,
    SETTINGS: H2Client._on_settings,
    PING: H2Client._on_ping,
    GOAWAY: H2Client._on_goaway,
    WINDOW_UPDATE: H2Client._on_window_update,
    CONTINUATION: H2Client._on_continuation,
}


def _judge_fields(fields: Fields) -> None:
    for name, value in fields:
        if not NAME.match(name) or not VALUE.match(value):
            raise RuleBroken(f"§8.2.1: field {name!r}: {value!r}")
        if name in OF_A_CONNECTION:
            raise RuleBroken(f"§8.2.2: field {name!r}: {value!r}")


def speak(daemon: Daemon, certificate: Certificate | None = None, *, receive_buffer: int = 0, **options: Any) -> H2Client:
    """A connection to the daemon's first listener; with a certificate it is TLS, else prior knowledge."""
    tls = certificate.client(alpn=("h2",)) if certificate else None
    return H2Client(daemon.client(tls=tls, receive_buffer=receive_buffer), **options)
