"""Lines reach their place in order, however slow it is, and the loop never waits for it."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.observe.sinks import WAITING_BYTES, Sink, new_turns
from tests.support.waiting import DEADLINE, until


def test_lines_are_appended_in_order_and_all_are_there_at_the_end(tmp_path: Path):
    file = tmp_path / "access.log"
    file.write_bytes(b"earlier\n")
    sink = Sink(str(file))
    for number in range(1000):
        sink.put([b"%d\n" % number, b"and\n"])
    assert sink.close(DEADLINE)
    assert b"earlier\n" + b"".join(b"%d\nand\n" % number for number in range(1000)) == file.read_bytes()


def test_only_the_group_may_read_the_log(tmp_path: Path):
    file = tmp_path / "access.log"
    Sink(str(file)).close(DEADLINE)
    assert 0 == file.stat().st_mode & 0o027


def test_who_shares_a_place_waits_for_its_turn(tmp_path: Path):
    file, turns = tmp_path / "access.log", new_turns()
    other = os.open(f"/proc/self/fd/{turns}", os.O_RDWR)  # as another process has it
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        sink = Sink(str(file), turns)
        sink.put([b"late\n"])
        assert not sink.close(0.2)
        assert file.read_bytes() == b""
        fcntl.flock(other, fcntl.LOCK_UN)
        until(lambda: file.read_bytes() == b"late\n", "it has its turn")
    finally:
        os.close(other)
        os.close(turns)


def test_lines_of_several_writers_stay_whole(tmp_path: Path):
    """Batches larger than a pipe takes at once."""
    pipe, turns = tmp_path / "pipe", new_turns()
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    sinks = [Sink(str(pipe), turns) for _ in range(2)]
    os.set_blocking(reader, True)
    for name, sink in zip(b"ab", sinks, strict=True):
        for _ in range(20):
            sink.put([(bytes([name]) * 999 + b"\n") * 100])
    found = b""
    while len(found) < 2 * 20 * 100_000:
        found += os.read(reader, 1 << 20)
    assert all(sink.close(DEADLINE) for sink in sinks)
    os.close(reader)
    os.close(turns)
    assert {(line[:1], len(line), len(set(line))) for line in found.splitlines()} == {(b"a", 999, 1), (b"b", 999, 1)}


def test_a_file_that_cannot_be_had_is_a_start_error(tmp_path: Path):
    with pytest.raises(StartError, match="No such file or directory") as caught:
        Sink(str(tmp_path / "none" / "access.log"))
    assert caught.value.hint


def test_a_pipe_that_nobody_reads_is_a_start_error_and_one_that_is_read_a_log(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StartError, match="nobody reads") as caught:
        Sink(str(pipe))
    assert caught.value.hint
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        sink = Sink(str(pipe))
        sink.put([b"one\n"])
        assert sink.close(DEADLINE)
        assert b"one\n" == os.read(reader, 100)
    finally:
        os.close(reader)


def test_a_full_pipe_is_waited_for_and_no_line_is_lost(tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    sink = Sink(str(pipe))
    for _ in range(10):
        sink.put([b"x" * 99_999 + b"\n"])
    with open(reader, "rb") as stream:
        got = [len(stream.readline()) for _ in range(10)]
        assert (sink.close(DEADLINE), sink.dropped, got) == (True, 0, [100_000] * 10)


def test_after_a_rotation_later_lines_are_in_the_new_file(tmp_path: Path):
    file, old = tmp_path / "access.log", tmp_path / "access.log.1"
    sink = Sink(str(file))
    sink.put([b"one\n"])
    file.rename(old)
    sink.put([b"two\n"])
    sink.reopen()
    sink.put([b"three\n"])
    assert sink.close(DEADLINE)
    assert (b"one\ntwo\n", b"three\n") == (old.read_bytes(), file.read_bytes())


def test_a_rotation_that_fails_goes_on_in_the_old_file(tmp_path: Path):
    folder = tmp_path / "log"
    folder.mkdir()
    sink = Sink(str(folder / "access.log"))
    sink.put([b"one\n"])
    folder.rename(tmp_path / "moved")
    sink.reopen()
    sink.put([b"two\n"])
    assert sink.close(DEADLINE)
    assert b"one\ntwo\n" == (tmp_path / "moved" / "access.log").read_bytes()


@pytest.fixture
def pipe(tmp_path: Path):
    """A named pipe: a place that can be made to stop taking lines. Returns its path and the reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield str(path), reader
    os.close(reader)


def test_a_place_that_takes_nothing_holds_up_nobody_and_costs_a_bounded_memory(pipe):
    path, reader = pipe
    sink = Sink(path)
    line = b"x" * 1023 + b"\n"
    began = time.monotonic()
    for _ in range(2 * WAITING_BYTES // (1024 * 256)):
        sink.put([line * 256])
    assert time.monotonic() - began < 5
    assert sink._taken - sink._written <= WAITING_BYTES
    dropped = sink.dropped
    assert dropped >= WAITING_BYTES // 1024
    got = bytearray()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            try:
                got.extend(os.read(reader, 1 << 20))
            except BlockingIOError:
                time.sleep(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    until(lambda: sink._taken == sink._written, "the pipe takes what waited")
    sink.put([b"again\n"])
    assert sink.close(DEADLINE)
    until(lambda: got.endswith(b"again\n"))
    stop.set()
    thread.join()
    assert bytes(got).endswith(b'\n{"dropped_lines":%d}\nagain\n' % dropped)
    assert got.count(line) + dropped == 2 * WAITING_BYTES // 1024


def test_a_stop_does_not_wait_for_ever(pipe):
    path, _ = pipe
    sink = Sink(path)
    sink.put([b"x" * 4_000_000 + b"\n"])
    assert not sink.close(0.05)


def test_a_reader_that_is_gone_costs_its_lines_and_no_more(tmp_path: Path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = Sink(str(path))
    os.close(reader)
    sink.put([b"one\n", b"two\n"])
    until(lambda: sink.dropped == 2)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.put([b"three\n"])
    assert sink.close(DEADLINE)
    assert b'{"dropped_lines":2}\nthree\n' == os.read(reader, 100)
    os.close(reader)


def test_a_disk_that_is_full_costs_its_lines_and_no_more():
    sink = Sink("/dev/full")
    sink.put([b"one\n"])
    until(lambda: sink.dropped == 1)
    assert sink.close(DEADLINE)


class Disk:
    """os.write of a disk with so much room (bytes)."""

    def __init__(self, monkeypatch, room):
        self.room, self._write = room, os.write
        monkeypatch.setattr("mcpproxy.observe.sinks.os.write", self.write)

    def write(self, fd, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = self._write(fd, data[: self.room])
        self.room -= done
        return done


def test_all_lines_that_a_full_disk_cost_are_counted_when_there_is_room_again(tmp_path: Path, monkeypatch):
    file, disk = tmp_path / "access.log", Disk(monkeypatch, 0)
    sink = Sink(str(file))
    for lost in (3, 5, 6):
        sink.put([b"one\ntwo\n", b"three\n"] if lost == 3 else [b"x\n"] * (lost - 3))
        until(lambda: sink._taken == sink._written)
    assert 8 == sink.dropped
    disk.room = 1000
    sink.put([b"again\n"])
    assert sink.close(DEADLINE)
    assert b'{"dropped_lines":8}\nagain\n' == file.read_bytes()


def test_after_a_line_that_the_full_disk_cut_the_next_begins_on_its_own(tmp_path: Path, monkeypatch):
    file, disk = tmp_path / "access.log", Disk(monkeypatch, 6)
    sink = Sink(str(file))
    for line in (b"one\ntwo\n", b"three\n"):
        sink.put([line])
        until(lambda: sink._taken == sink._written)
    assert 2 == sink.dropped
    disk.room = 1  # room for the end of the line, but not yet for the next
    sink.put([b"four\n"])
    until(lambda: sink._taken == sink._written)
    assert 3 == sink.dropped
    disk.room = 1000
    sink.put([b"five\n"])
    assert sink.close(DEADLINE)
    assert b'one\ntw\n{"dropped_lines":3}\nfive\n' == file.read_bytes()


def test_what_was_lost_last_is_told_at_the_end(tmp_path: Path, monkeypatch):
    file, disk = tmp_path / "access.log", Disk(monkeypatch, 0)
    sink = Sink(str(file))
    sink.put([b"one\n"])
    until(lambda: sink.dropped)
    disk.room = 1000
    assert sink.close(DEADLINE)
    assert b'{"dropped_lines":1}\n' == file.read_bytes()


@pytest.mark.parametrize("target", ["stdout", "stderr"])
def test_the_standard_places(target, capfd):
    sink = Sink(target)
    sink.put([b"hello\n"])
    sink.reopen()
    assert sink.close(DEADLINE)
    assert "hello\n" == getattr(capfd.readouterr(), "out" if target == "stdout" else "err")


def test_a_standard_place_that_does_not_block_is_waited_for(pipe):
    """Somebody made our stdout non-blocking (a shell's pipe shared with another program): no line is lost to EAGAIN."""
    path, reader = pipe
    sink = Sink(path)
    os.set_blocking(sink._fd, False)
    sink.put([b"x" * 300_000 + b"\n"])
    got = b""

    def all_there():
        nonlocal got
        try:
            got += os.read(reader, 65536)
        except BlockingIOError:
            pass
        return len(got) == 300_001

    until(all_there)
    assert sink.close(DEADLINE)
