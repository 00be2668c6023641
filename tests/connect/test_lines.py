"""stdin and stdout."""

import asyncio
import os
from pathlib import Path

import pytest

from mcpproxy.connect.lines import QUEUE, Out, Splitter, TooLong, read_lines


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_lines_come_out_whole_however_they_came(step: int) -> None:
    data = b'{"a":1}\r\n\n  \n' + b"x" * 10 + b"\n" + b"y" * 11 + b"\nlast"
    splitter = Splitter(10)
    found = [line for at in range(0, len(data), step) for line in splitter.feed(data[at : at + step])] + splitter.last()
    assert [line if isinstance(line, bytes) else "long" for line in found] == [b'{"a":1}', b"x" * 10, "long", b"last"]
    assert isinstance(found[2], TooLong)


async def test_one_line_after_the_other_is_handed_over(tmp_path: Path) -> None:
    """Also from a file, which epoll does not take."""
    (tmp_path / "in").write_bytes(b"1\n2\n3")
    taken: list[bytes | TooLong] = []
    busy = False

    async def take(line: bytes | TooLong) -> None:
        nonlocal busy
        assert not busy
        busy = True
        await asyncio.sleep(0)
        taken.append(line)
        busy = False

    descriptor = os.open(tmp_path / "in", os.O_RDONLY)
    await read_lines(descriptor, 100, take)
    os.close(descriptor)
    assert taken == [b"1", b"2", b"3"]


async def test_what_breaks_while_taking_is_told(tmp_path: Path) -> None:
    async def take(line: bytes | TooLong) -> None:
        raise KeyError("x")

    reading, writing = os.pipe()
    os.write(writing, b"1\n")
    with pytest.raises(KeyError):
        await read_lines(reading, 100, take)
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("blocking", [True, False])
async def test_who_does_not_read_stops_us(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, blocking)
    out = Out(writing)
    line = b"x" * (QUEUE // 4)
    for _ in range(5):
        await out.put(line)
    more = asyncio.ensure_future(out.put(b"last"))
    await asyncio.sleep(0)
    assert not more.done()
    got = bytearray()
    while not got.endswith(b"last\n"):
        got += await asyncio.to_thread(os.read, reading, 1 << 20)
    await more
    await out.flush(5)
    assert bytes(got) == (line + b"\n") * 5 + b"last\n"
    os.close(reading)
    await out.put(b"x")
    await asyncio.wait_for(out.gone.wait(), 20)
    await out.put(b"y")
    os.close(writing)
