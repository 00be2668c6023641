"""Lines out of pieces of any size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.gateway.lines import ENDS, Cut, Lines


@given(st.lists(st.binary(max_size=40)), st.integers(1, 50))
def test_lines_are_the_same_however_they_come(lines: list[bytes], size: int) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    reader = Lines(100)
    found = [line for start in range(0, len(stream), size) for line in reader.feed(stream[start : start + size])]
    assert found == [line for line in lines if line.strip()]


@given(st.integers(0, 3000), st.integers(1, 700))
def test_a_line_that_is_too_long_is_passed_over_and_the_next_is_whole(size: int, step: int) -> None:
    reader = Lines(1000)
    stream = b'{"jsonrpc":"2.0","id":12,"x":"' + b"x" * size + b'","id" : 34}\nnext\n'
    found = [line for start in range(0, len(stream), step) for line in reader.feed(stream[start : start + step])]
    assert found[1] == b"next"
    length = len(stream) - 6
    if length <= 1000:
        assert found[0] == stream[:length]
    else:
        assert isinstance(found[0], Cut)
        assert (found[0].size, found[0].id) == (length, b"12")
        assert len(found[0].head) <= ENDS and stream.startswith(found[0].head)
        assert len(found[0].tail) <= ENDS and stream[:length].endswith(found[0].tail)


def test_what_is_passed_over_is_not_kept() -> None:
    reader = Lines(1000)
    for _ in range(100):
        assert reader.feed(b"x" * 65536) == []
    assert len(reader._head) + len(reader._tail) + sum(map(len, reader._parts)) <= 2 * ENDS


def test_the_id_is_found_at_either_end_or_not_at_all() -> None:
    assert Cut(b'{"id":"7","result":', b"}}", 0).id == b"7"
    assert Cut(b'{"result":{"id":1', b'}},"jsonrpc":"2.0","id":8}', 0).id == b"8"
    assert Cut(b'{"result":{"id":1', b'"},"id":9,"jsonrpc":"2.0"} ', 0).id == b"9"
    assert Cut(b'{"result":{"id":1', b'"id":9}, "x": 1}', 0).id is None
    assert Cut(b'{"id":"a","result":', b"}}", 0).id is None
