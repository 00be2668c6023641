"""Frames by themselves, against hyperframe."""

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame

from mcpproxy.http import frames
from mcpproxy.http.frames import DATA, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, HEADERS, PROTOCOL_ERROR, frame


def read(whole: bytes) -> Frame:
    found, size = Frame.parse_frame_header(memoryview(whole[:9]))
    assert size == len(whole) - 9
    found.parse_body(memoryview(whole[9:]))
    return found


def test_frames_are_written_as_others_read_them() -> None:
    assert read(frame(DATA, 1, 5, b"hello")).data == b"hello"  # type: ignore[attr-defined]
    assert read(frames.rst_stream(7, 8)).error_code == 8  # type: ignore[attr-defined]
    assert read(frames.settings({3: 128, 6: 1})).settings == {3: 128, 6: 1}  # type: ignore[attr-defined]
    assert read(frames.goaway(9, 11)).last_stream_id == 9  # type: ignore[attr-defined]
    assert read(frames.window_update(0, 2**31 - 1)).window_increment == 2**31 - 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("code", "value", "wrong"),
    [
        *[(2, 0, None), (2, 1, None), (2, 2, PROTOCOL_ERROR), (8, 2, PROTOCOL_ERROR)],
        *[(4, 2**31 - 1, None), (4, 2**31, FLOW_CONTROL_ERROR), (4, 0, None)],
        *[(5, 16383, PROTOCOL_ERROR), (5, 16384, None), (5, 2**24 - 1, None), (5, 2**24, PROTOCOL_ERROR)],
        *[(1, 2**32 - 1, None), (3, 0, None), (6, 0, None), (77, 2**32 - 1, None)],
    ],
)
def test_settings_have_bounds(code: int, value: int, wrong: int | None) -> None:
    """RFC 9113 §6.5.2."""
    assert frames.wrong_setting(code, value) == wrong


def test_padding_and_priority_are_taken_off() -> None:
    padded = DataFrame(1, b"hello", pad_length=7, flags=["PADDED"]).serialize()
    start, end = frames.inside(padded, 8)
    assert padded[start:end] == b"hello"
    both = HeadersFrame(1, b"block", pad_length=3, depends_on=1, stream_weight=9, flags=["PADDED", "PRIORITY"]).serialize()
    start, end = frames.inside(both, 8 | 32)
    assert both[start:end] == b"block"


@pytest.mark.parametrize(
    ("whole", "code"),
    [
        (frame(DATA, 8, 1, b""), FRAME_SIZE_ERROR),
        (frame(DATA, 8, 1, b"\1"), PROTOCOL_ERROR),
        (frame(DATA, 8, 1, b"\3ab"), PROTOCOL_ERROR),
        (frame(HEADERS, 8, 1, b""), FRAME_SIZE_ERROR),
        (frame(HEADERS, 32, 1, b"\0\0\0\0"), FRAME_SIZE_ERROR),
        (frame(HEADERS, 8 | 32, 1, b"\3\0\0\0\0\1ab"), PROTOCOL_ERROR),
    ],
)
def test_padding_that_is_longer_than_its_frame_is_an_error(whole: bytes, code: int) -> None:
    """RFC 9113 §6.1, §6.2."""
    assert frames.inside(whole, whole[4]) == (0, code)


def test_padding_may_be_all_there_is() -> None:
    assert frames.inside(frame(DATA, 8, 1, b"\2\0\0"), 8) == (10, 10)
