"""Where lines go: whole, in order, never holding up the loop, never without bound."""

import os
import threading
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.observe import sinks
from mcpproxy.observe.sinks import Sink
from tests.support.waiting import until

PATIENCE = 10.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.json"


def test_lines_arrive_whole_and_in_order(file: Path) -> None:
    sink = Sink(str(file))
    for number in range(100):
        sink.put([b"%d\n" % number, b"and more\n"])
    assert sink.close(PATIENCE)
    assert file.read_bytes() == b"".join(b"%d\nand more\n" % number for number in range(100))


def test_a_file_is_continued_and_nobody_else_may_read_it(file: Path) -> None:
    file.write_text("old\n")
    file.chmod(0o600)
    sink = Sink(str(file))
    sink.put([b"new\n"])
    sink.close(PATIENCE)
    assert file.read_text() == "old\nnew\n"
    fresh = file.with_name("fresh.json")
    Sink(str(fresh)).close(PATIENCE)
    assert fresh.stat().st_mode & 0o007 == 0


def test_reopening_sends_earlier_lines_to_the_old_file_and_later_ones_to_the_new(file: Path) -> None:
    sink = Sink(str(file))
    sink.put([b"before\n"])
    old = file.rename(file.with_suffix(".1"))
    sink.reopen()
    sink.put([b"after\n"])
    assert sink.close(PATIENCE)
    assert (old.read_text(), file.read_text()) == ("before\n", "after\n")


def test_a_reopening_that_fails_keeps_the_old_file(file: Path) -> None:
    sink = Sink(str(file))
    old = file.rename(file.with_suffix(".1"))
    file.mkdir()
    sink.reopen()
    sink.put([b"line\n"])
    assert sink.close(PATIENCE)
    assert old.read_text() == "line\n"


def test_a_file_that_cannot_be_opened_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"log file .*: No such file or directory"):
        Sink(str(tmp_path / "no" / "such" / "place"))


class Pipe:
    """A sink into a pipe that nobody reads yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read_end, write_end = os.pipe()
        monkeypatch.setitem(sinks.STANDARD, "stdout", write_end)
        self.sink = Sink("stdout")
        os.close(write_end)

    def read_all(self) -> bytes:
        pieces = []
        while piece := os.read(self.read_end, 1 << 20):
            pieces.append(piece)
        os.close(self.read_end)
        return b"".join(pieces)


def test_a_pipe_that_stands_still_holds_up_nobody_and_loses_counted_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "WAITING_BYTES", 1 << 20)
    pipe = Pipe(monkeypatch)
    line = b"x" * 1023 + b"\n"
    for _ in range(3000):  # three times the bound; a put that waited would wait for ever
        pipe.sink.put([line])
    dropped = pipe.sink.dropped
    assert 1900 < dropped < 2100
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(pipe.read_all()))
    reader.start()
    until(lambda: pipe.sink._taken == pipe.sink._written, "the pipe to be emptied")
    pipe.sink.put([b"last\n"])
    assert pipe.sink.close(PATIENCE)
    os.close(pipe.sink._fd)
    reader.join(PATIENCE)
    lines = output[0].splitlines(keepends=True)
    assert lines == [line] * (3000 - dropped) + [b'{"dropped_lines":%d}\n' % dropped, b"last\n"]


def test_a_stop_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    pipe.sink.put([b"x" * (1 << 20)])
    assert not pipe.sink.close(0.05)
    os.close(pipe.read_end)  # the thread ends by EPIPE


def test_a_reader_that_is_gone_costs_lines_not_the_thread(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    os.close(pipe.read_end)
    pipe.sink.put([b"a\n", b"b\n"])
    until(lambda: pipe.sink.dropped == 2, "two lines to be counted")
    assert pipe.sink.close(PATIENCE)


def test_a_pipe_somebody_made_non_blocking_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe(monkeypatch)
    os.set_blocking(pipe.sink._fd, False)
    pipe.sink.put([b"y" * 299_999 + b"\n"])
    output: list[bytes] = []
    reader = threading.Thread(target=lambda: output.append(pipe.read_all()))
    reader.start()
    assert pipe.sink.close(PATIENCE)
    os.close(pipe.sink._fd)
    reader.join(PATIENCE)
    assert len(output[0]) == 300_000
