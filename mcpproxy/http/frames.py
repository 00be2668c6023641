"""The frames of HTTP/2 (RFC 9113 §4, §6) and what can be said of one by itself."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 1, 1, 4, 8, 32
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 5, 6, 7, 8, 9, 11
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441

FRAME_LIMIT = 16384  # bytes of payload: the protocol's default and least; larger frames would make other streams wait
WINDOW = 65535  # bytes: the protocol's default, for streams and the connection
MOST = 2**31 - 1  # of windows and stream ids

# kind: is it about the connection (stream 0), and the size of its payload where another one is an error of the connection
SHAPES: tuple[tuple[bool, int | None] | None, ...] = (
    (False, None),  # DATA
    (False, None),  # HEADERS
    (False, None),  # PRIORITY: a wrong size is an error of the stream
    (False, 4),  # RST_STREAM
    (True, None),  # SETTINGS
    (False, None),  # PUSH_PROMISE
    (True, 8),  # PING
    (True, None),  # GOAWAY
    None,  # WINDOW_UPDATE: both
    (False, None),  # CONTINUATION
)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (§4.1)."""
    return b"%b%c%b%b" % ((len(payload) << 8 | kind).to_bytes(4, "big"), flags, stream.to_bytes(4, "big"), payload)


def rst_stream(stream: int, code: int) -> bytes:
    """§6.4."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


pack_head = Struct(">IBI").pack  # the first nine bytes of a frame, of (length << 8 | kind, flags, stream) (§4.1)


def settings(values: dict[int, int]) -> bytes:
    """§6.5."""
    return frame(SETTINGS, 0, 0, b"".join(code.to_bytes(2, "big") + value.to_bytes(4, "big") for code, value in values.items()))


def goaway(last: int, code: int) -> bytes:
    """§6.8."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


def window_update(stream: int, step: int) -> bytes:
    """§6.9."""
    return frame(WINDOW_UPDATE, 0, stream, step.to_bytes(4, "big"))


def wrong_setting(code: int, value: int) -> int | None:
    """The error of a setting's value (§6.5.2)."""
    if code in (ENABLE_PUSH, ENABLE_CONNECT_PROTOCOL) and value > 1:
        return PROTOCOL_ERROR
    if code == MAX_FRAME_SIZE and not FRAME_LIMIT <= value < 2**24:
        return PROTOCOL_ERROR
    if code == INITIAL_WINDOW_SIZE and value > MOST:
        return FLOW_CONTROL_ERROR
    return None


def inside(whole: bytes, flags: int) -> tuple[int, int]:
    """Where the block of HEADERS or the payload of DATA begins and ends in its frame (§6.1, §6.2). (0, code) when it cannot be told."""
    start, end = 9, len(whole)
    if flags & PADDED:
        if end == 9:
            return 0, FRAME_SIZE_ERROR
        start, end = 10, end - whole[9]
    if flags & PRIORITISED and whole[3] == HEADERS:  # §5.3: read and ignored
        start += 5
        if start > len(whole):
            return 0, FRAME_SIZE_ERROR
    return (start, end) if start <= end else (0, PROTOCOL_ERROR)
