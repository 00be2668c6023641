import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.errors import ProxyError
from mcpproxy.http.framing import RESPONSE, ChunkedScanner
from mcpproxy.http.sse import COMMENT, COMMENT_CHUNK, EventBoundary, Events
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


# -- what a stream says


def said(*pieces: bytes, most: int = 1000) -> list[tuple[bytes, bytes, bytes]]:
    parser = Events(most)
    return [tuple(event) for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [(b"", b"a", b"")]),
        (b"event: message\r\ndata: {}\r\n\r\n", [(b"message", b"{}", b"")]),
        (b"data: a\rdata:b\r\rdata: c\r\r", [(b"", b"a\nb", b""), (b"", b"c", b"")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a", b"")]),
        (b": ping\n\ndata: a\n\n: ping\n\n", [(b"", b"a", b"")]),
        (b"id: 7\ndata:\n\ndata: a\n\n", [(b"", b"", b"7"), (b"", b"a", b"7")]),
        (b"id: 7\n\nevent: x\n\ndata: a\n\n", [(b"", b"a", b"7")]),
        (b"data: a\n\nid: 8\ndata: b", [(b"", b"a", b"")]),
        (b"data\nnonsense: x\nid: a\0b\n\n", [(b"", b"", b"")]),
        (b"data:  two blanks\n\n", [(b"", b" two blanks", b"")]),
        (b"", []),
    ],
)
def test_events_are_taken_apart_wherever_the_stream_is_cut(stream: bytes, expected: list[tuple[bytes, ...]]) -> None:
    for pieces in cuts(stream):
        assert said(*pieces) == expected


def test_an_id_counts_once_its_event_ended_and_retry_is_in_seconds() -> None:
    parser = Events(1000)
    assert parser.feed(b"id: 1\ndata:\nretry: 1500\n") == []
    assert (parser.last_id, parser.retry) == (b"", 1.5)
    parser.feed(b"\nid: 2\ndata: half")
    assert parser.last_id == b"1"
    parser.feed(b"\nretry: soon\nretry: 123456789\nid\n\n")
    assert (parser.last_id, parser.retry) == (b"", 1.5)


@pytest.mark.parametrize("stream", [b"data: %b" % (b"a" * 200), b"data: a\n" * 60, b"data: %b\n\n" % (b"a" * 101)])
def test_what_is_larger_than_its_bound_is_refused_before_it_is_all_there(stream: bytes) -> None:
    for pieces in ([stream], [stream[i : i + 1] for i in range(len(stream))]):
        with pytest.raises(ProxyError, match="answer-too-large"):
            said(*pieces, most=100)
    assert said(b"data: %b\n\n" % (b"a" * 90), b"data: %b\n\n" % (b"b" * 90), most=100)[1][1] == b"b" * 90


@given(st.text("a:\r\n\ufeff", max_size=30).map(str.encode), st.lists(st.integers(0, 30)))
def test_any_stream_says_the_same_in_any_pieces(stream: bytes, places: list[int]) -> None:
    at = sorted({0, *places, len(stream)})
    assert said(*[stream[a:b] for a, b in itertools.pairwise(at)]) == said(stream)
