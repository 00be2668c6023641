import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.http.framing import RESPONSE, ChunkedScanner
from mcpproxy.http.sse import COMMENT, COMMENT_CHUNK, EventBoundary
from tests.http.cuts import cuts


def places(stream: bytes) -> list[int]:
    """After how many bytes a comment may be put in."""
    boundary = EventBoundary()
    found = [0] if boundary.between else []
    for i in range(len(stream)):
        boundary.feed(stream[i : i + 1])
        if boundary.between:
            found.append(i + 1)
    return found


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", [0]),
        (b"data: a\n\n", [0, 9]),
        (b"data: a\r\n\r\n", [0, 11]),
        (b"data: a\r\r", [0, 9]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [0, 18, 27]),
        (b": ping\r\n\r\ndata: a\r\n\r\n", [0, 10, 21]),
        (b"id: 1\ndata:\n\n\n\nretry: 3\n", [0, 13, 14, 15]),
        (b"\r\n\ndata", [0, 2, 3]),
        (b"data: a\r\n\ndata: b\n\r\n", [0, 10, 20]),
    ],
)
def test_between_is_true_exactly_where_no_event_is_open(stream: bytes, expected: list[int]) -> None:
    assert places(stream) == expected


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_the_cut_does_not_matter(end: bytes) -> None:
    for stream, between in ((b"data: a" + end + end, True), (b"data: a" + end, False), (b"data: a", False)):
        for pieces in cuts(stream):
            boundary = EventBoundary()
            for piece in pieces:
                boundary.feed(piece)
            assert boundary.between is between


def events(stream: bytes) -> list[tuple[bytes, ...]]:
    """A client's view: the lines of each dispatched event, comments left out (WHATWG HTML §9.2.6)."""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    found: list[tuple[bytes, ...]] = []
    now: list[bytes] = []
    for line in lines[:-1]:
        if not line and now:
            found.append(tuple(now))
            now = []
        elif line and not line.startswith(b":"):
            now.append(line)
    return found


@given(st.text("ab:\r\n", max_size=30).map(str.encode))
def test_a_comment_put_in_there_changes_no_event(stream: bytes) -> None:
    for place in places(stream):
        assert events(stream[:place] + COMMENT + stream[place:]) == events(stream)


def test_the_chunked_comment_is_one_whole_chunk() -> None:
    scanner = ChunkedScanner(RESPONSE)
    payload: list[bytes] = []
    assert scanner.feed(COMMENT_CHUNK, payload) == len(COMMENT_CHUNK)
    assert scanner.between
    assert payload == [COMMENT]
