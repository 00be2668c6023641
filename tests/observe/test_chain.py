"""The chain goes on: over rotations, stops, kills in the middle of a line, full disks and the end of the machine; and it says what happened."""

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcpproxy.config.policies import Audit
from mcpproxy.observe import chain as chains
from mcpproxy.observe.chain import CHUNK, Chain, Line, resume, taken_apart
from mcpproxy.observe.keeping import NO_HASH, PUBLIC, Head, Keeper, public_key, read_head
from mcpproxy.observe.verify import Report, verify

NOW = 1_795_000_000.0
BODY = b'"time":"2026-11-18T11:06:40.000Z","type":"call","n":%d'


class Log:
    """An audit file and the state beside it."""

    def __init__(self, directory: Path) -> None:
        self.file, self.state = directory / "audit.log", directory / "state"
        self.told: list[int] = []

    def start(self, **settings: Any) -> Chain:
        chain = Chain(Audit(file=str(self.file), **settings), Keeper(self.state), NOW)
        chain.flush()
        return chain

    def write(self, chain: Chain, *numbers: int) -> None:
        bodies = [BODY % number for number in numbers]
        while bodies:
            del bodies[: chain.append(bodies, NOW)]

    def kill(self, chain: Chain) -> None:
        """The process is gone: nothing more is written, the lock is free."""
        os.close(chain._fd)
        chain._keeper.close()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_bytes().splitlines() if taken_apart(line)]

    def verify(self, *older: Path) -> Report:
        key = public_key((self.state / PUBLIC).read_bytes(), "key")
        return verify([str(file) for file in (*older, self.file)], [key], read_head(self.state))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@contextmanager
def full_disk(at: int) -> Iterator[None]:
    """No file can grow beyond `at` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def good(report: Report, *, calls: int) -> Report:
    assert report.problems == []
    assert report.calls == calls
    return report


def types(log: Log) -> list[str]:
    return [line["type"] for line in log.lines]


# -- days as they should be ------------------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_begin_line_calls_and_a_checkpoint(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1, 2, 3)
    chain.close(NOW)
    assert types(log) == ["begin", "call", "call", "call", "checkpoint"]
    assert [line["seq"] for line in log.lines] == [1, 2, 3, 4, 5]
    assert log.lines[0]["start"] == "first" and log.lines[0]["prev"] == NO_HASH
    assert good(log.verify(), calls=3).signed == 5
    assert os.stat(log.file).st_mode & 0o027 == 0


def test_the_next_run_goes_on_with_the_chain(log: Log) -> None:
    for number in range(3):
        chain = log.start()
        log.write(chain, number)
        chain.close(NOW)
    assert [line["start"] for line in log.lines if line["type"] == "begin"] == ["first", "stop", "stop"]
    assert good(log.verify(), calls=3).notes == []


def test_a_rotation_goes_on_with_the_chain_in_the_new_file(log: Log, tmp_path: Path) -> None:
    chain, old = log.start(), tmp_path / "audit.log.1"
    log.write(chain, 1)
    log.file.rename(old)
    log.write(chain, 2)
    chain.reopen(NOW, [])
    log.write(chain, 3)
    chain.close(NOW)
    assert json.loads(old.read_bytes().splitlines()[-1])["type"] == "checkpoint"
    assert log.lines[0]["start"] == "rotation"
    assert good(log.verify(old), calls=3).first == 1


def test_reopening_the_same_file_changes_nothing(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1)
    chain.reopen(NOW, [])
    chain.close(NOW)
    assert types(log) == ["begin", "call", "checkpoint", "checkpoint"]
    good(log.verify(), calls=1)


def test_a_file_that_was_rotated_while_nobody_was_there(log: Log, tmp_path: Path) -> None:
    chain, old = log.start(), tmp_path / "audit.log.1"
    log.write(chain, 1)
    chain.close(NOW)
    log.file.rename(old)
    chain = log.start()
    chain.close(NOW)
    assert log.lines[0]["start"] == "stop"
    good(log.verify(old), calls=1)
    assert "the beginning is missing" in str(log.verify().problems[0])


def test_a_file_that_is_copied_and_emptied_goes_on_as_well(log: Log, tmp_path: Path) -> None:
    chain, old = log.start(), tmp_path / "audit.log.1"
    log.write(chain, 1, 2)
    old.write_bytes(log.file.read_bytes())
    os.truncate(log.file, 0)
    log.write(chain, 3)
    chain.close(NOW)
    good(log.verify(old), calls=3)


def test_it_is_signed_when_it_is_time_and_only_when_there_is_something(log: Log) -> None:
    chain = log.start(checkpoint=60.0, fsync="never")
    chain.rest(NOW + 60)
    assert types(log) == ["begin", "checkpoint"]
    assert not chain.rest(NOW + 6000) and chain.wait(NOW + 6000) is None
    log.write(chain, 1)
    assert 0.0 < (chain.wait(NOW) or 0.0) <= 60.0
    assert not chain.rest(NOW + 59)
    assert chain.rest(NOW + 60)
    chain.close(NOW)


@pytest.mark.parametrize(("fsync", "after_append", "after_a_second"), [("never", 0, 0), ("second", 0, 1), ("batch", 1, 1)])
def test_lines_are_forced_to_the_disk_as_configured(
    log: Log, monkeypatch: pytest.MonkeyPatch, fsync: str, after_append: int, after_a_second: int
) -> None:
    chain = log.start(fsync=fsync)
    forced: list[int] = []
    monkeypatch.setattr(chains.os, "fsync", lambda fd: forced.append(fd))
    log.write(chain, 1)
    assert forced.count(chain._fd) == after_append
    chain.rest(NOW + 1)
    assert forced.count(chain._fd) == after_a_second
    chain.close(NOW)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        chains.opened("/dev/full")


def test_a_great_many_lines_are_written_in_pieces(log: Log) -> None:
    chain = log.start()
    bodies = [BODY % 1 + b',"x":"%b"' % (b"x" * (CHUNK // 2)), BODY % 2 + b',"x":"%b"' % (b"x" * CHUNK), BODY % 3]
    assert [chain.append(bodies, NOW), chain.append(bodies[1:], NOW), chain.append(bodies[2:], NOW)] == [1, 1, 1]
    chain.close(NOW)
    good(log.verify(), calls=3)


# -- kills -------------------------------------------------------------------------------------------------------------------------------------------


def test_a_kill_at_any_byte_leaves_a_chain_that_goes_on(log: Log) -> None:
    """Three lines are being written; the process dies after each number of bytes."""
    chain = log.start()
    log.write(chain, 1)
    before, head = log.file.read_bytes(), (log.state / "audit-head").read_bytes()
    chain._seal([BODY % 2, BODY % 3, BODY % 4])
    data, meant = bytes(chain._rest), (log.state / "audit-head").read_bytes()
    log.kill(chain)
    assert head != meant
    for cut in range(len(data) + 1):
        log.file.write_bytes(before + data[:cut])
        (log.state / "audit-head").write_bytes(meant)
        chain = log.start()
        log.write(chain, 5)
        chain.close(NOW)
        whole = data[:cut].count(b"\n") + (cut in [place for place in range(len(data)) if data[place : place + 1] == b"\n"])
        report = good(log.verify(), calls=2 + whole)
        begin = next(line for line in log.lines if line.get("start") == "kill")
        assert begin.get("missing", 0) == 3 - whole
        torn = data[:cut].rpartition(b"\n")[2]
        assert begin.get("torn", {"bytes": 0})["bytes"] == (0 if taken_apart(torn) else len(torn))
        assert bool(report.notes) == (whole < 3)


def test_a_kill_between_two_writes_is_no_loss(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1)
    log.kill(chain)
    chain = log.start()
    chain.close(NOW)
    assert [line["start"] for line in log.lines if line["type"] == "begin"] == ["first", "kill"]
    assert good(log.verify(), calls=1).notes == []


def test_a_kill_while_it_tells_of_a_kill(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1)
    chain._seal([BODY % 2])
    os.write(chain._fd, bytes(chain._rest)[:40])
    log.kill(chain)
    chain = Chain(Audit(file=str(log.file)), Keeper(log.state), NOW)
    os.write(chain._fd, bytes(chain._rest)[:50])
    log.kill(chain)
    chain = log.start()
    log.write(chain, 3)
    chain.close(NOW)
    good(log.verify(), calls=2)


def test_lines_that_somebody_put_in_while_nobody_was_there_are_not_adopted(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1)
    log.kill(chain)
    last = taken_apart(log.file.read_bytes().splitlines()[-1])
    assert last is not None
    forged = chained(last, BODY % 666)
    with log.file.open("ab") as file:
        file.write(forged)
    chain = log.start()
    chain.close(NOW)
    assert log.lines[-2]["foreign"] == len(forged)
    problems = [str(problem) for problem in log.verify().problems]
    assert any("bytes at the end that it had not written" in problem for problem in problems)


def test_lines_that_somebody_took_away_while_nobody_was_there(log: Log) -> None:
    chain = log.start()
    log.write(chain, 1, 2, 3)
    chain.close(NOW)
    data = log.file.read_bytes().splitlines(keepends=True)
    log.file.write_bytes(b"".join(data[:-2]))
    chain = log.start()
    chain.close(NOW)
    problems = [str(problem) for problem in log.verify().problems]
    assert any("2 lines before this one are missing" in problem for problem in problems)
    assert any("cut or replaced" in problem for problem in problems)


def test_the_end_of_the_machine_may_leave_more_or_less_than_the_head_says(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpproxy.observe.keeping.boot_id", lambda: "one")
    chain = log.start()
    log.write(chain, 1)
    older = (log.state / "audit-head").read_bytes()
    log.write(chain, 2, 3)
    newer, data = (log.state / "audit-head").read_bytes(), log.file.read_bytes()
    log.kill(chain)
    monkeypatch.setattr("mcpproxy.observe.keeping.boot_id", lambda: "two")
    (log.state / "audit-head").write_bytes(older)  # the file came to the disk, the head did not
    chain = log.start()
    chain.close(NOW)
    assert (log.lines[-2]["start"], log.lines[-2]["adopted"]) == ("crash", 2)
    assert "newer than the last head" in str(good(log.verify(), calls=3).notes[0])
    log.file.write_bytes(data[:-200])  # the head came, the end of the file did not
    (log.state / "audit-head").write_bytes(newer)
    chain = log.start()
    chain.close(NOW)
    assert (log.lines[-2]["start"], log.lines[-2]["missing"]) == ("crash", 2)
    assert "up to 2 lines that had not reached the disk are missing" in str(good(log.verify(), calls=1).notes[-1])


# -- full disks --------------------------------------------------------------------------------------------------------------------------------------

PAD = 10  # lines, so that the log is larger than the head, which must find its place


def padded(log: Log) -> Chain:
    chain = log.start()
    log.write(chain, *range(PAD))
    return chain


@pytest.mark.parametrize("room", [0, 1, 100, 150, 200, 250])
def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(log: Log, room: int) -> None:
    chain = padded(log)
    with full_disk(log.file.stat().st_size + room):
        assert chain.append([BODY % 1, BODY % 2], NOW) == 2
        with pytest.raises(OSError, match="too large"):
            chain.flush()
        with pytest.raises(OSError, match="too large"):
            chain.append([BODY % 3], NOW)
        chain.lost += 1
    chain.tell_lost(NOW)
    log.write(chain, 4)
    chain.close(NOW)
    assert types(log) == ["begin", *["call"] * PAD, "call", "call", "lost", "call", "checkpoint"]
    report = good(log.verify(), calls=PAD + 3)
    assert report.lost == 1 and "1 call is not in the log" in str(report.notes[0])


@pytest.mark.parametrize("room", [0, 1, 100, 150, 200, 250])
def test_an_old_file_that_never_takes_the_rest_ends_with_half_a_line_that_the_new_one_explains(log: Log, tmp_path: Path, room: int) -> None:
    chain, old, waiting = padded(log), tmp_path / "audit.log.1", [BODY % 3]
    with full_disk(log.file.stat().st_size + room):
        chain.append([BODY % 1, BODY % 2], NOW)
        log.file.rename(old)
        chain.reopen(NOW, waiting)  # the new file is small enough
    written = old.read_bytes().count(b"\n") - 1 - PAD
    assert (chain.lost, waiting) == (0, [BODY % 1, BODY % 2, BODY % 3][written:]), "calls are not lost, but written into the new one"
    chain.append(waiting, NOW)
    chain.close(NOW)
    good(log.verify(old), calls=PAD + 3)


def test_a_stop_with_a_full_disk_is_told_by_the_next_run(log: Log) -> None:
    chain = padded(log)
    with full_disk(log.file.stat().st_size + 50):
        chain.append([BODY % 1], NOW)
        chain.lost += 7
        with pytest.raises(OSError, match="too large"):
            chain.close(NOW)
    chain = log.start()
    assert chain.lost == 8
    chain.close(NOW)
    report = log.verify()
    assert report.problems == [] and report.lost == 8


def test_wherever_a_full_disk_cuts_the_last_lines_of_a_run_the_next_one_goes_on(tmp_path: Path) -> None:
    """Also where a line is whole but for its end."""
    whole = len(BODY % 1) + len('{"seq":12,') + chains.SEAL_SIZE
    for room in (*range(0, whole, 10), whole - 1, whole, whole + 1, whole + 2, 2 * whole + 1):
        log = Log(tmp_path / str(room))
        log.file.parent.mkdir()
        chain = padded(log)
        with full_disk(log.file.stat().st_size + room):
            chain.append([BODY % 1, BODY % 2], NOW)
            with pytest.raises(OSError, match="too large"):
                chain.close(NOW)
        chain = log.start()
        log.write(chain, 3)
        if chain.lost:
            chain.tell_lost(NOW)
        chain.close(NOW)
        report = log.verify()
        assert (room, report.problems) == (room, [])
        assert report.calls + report.lost == PAD + 3


def test_a_disk_that_is_full_at_the_start_is_no_reason_not_to_serve(log: Log) -> None:
    with full_disk(0):
        keeper_needs_room = pytest.raises(OSError, match="too large")
        with keeper_needs_room:
            Keeper(log.state)
    Keeper(log.state).close()
    chain = padded(log)
    chain.close(NOW)
    size = log.file.stat().st_size
    with full_disk(size + 10):
        chain = Chain(Audit(file=str(log.file)), Keeper(log.state), NOW)
        with pytest.raises(OSError, match="too large"):
            chain.flush()
    log.write(chain, 1)
    chain.close(NOW)
    good(log.verify(), calls=PAD + 1)


# -- how the last run ended: the table ---------------------------------------------------------------------------------------------------------------


def chained(last: Line | None, *bodies: bytes) -> bytes:
    """Lines after `last` with good hashes."""
    from hashlib import sha256

    seq, previous = (last.seq, last.hash) if last else (0, NO_HASH)
    text = b""
    for body in bodies:
        seq += 1
        line = b'{"seq":%d,%b' % (seq, body)
        previous = sha256(bytes.fromhex(previous) + line).hexdigest()
        text += b'%b,"hash":"%b"}\n' % (line, previous.encode())
    return text


THREE = chained(None, BODY % 1, BODY % 2, BODY % 3)
ONE, TWO, LAST = (line for line in map(taken_apart, THREE.splitlines()) if line is not None)
FOUR = chained(LAST, BODY % 4)
TORN = FOUR[:30]


def head(sure: Line, meant: Line | None = None, **changes: Any) -> Head:
    meant = meant or sure
    return Head(1, sure.seq, sure.hash, meant.seq, meant.hash, boot="now", **changes)


@pytest.mark.parametrize(
    ("tail", "found", "boot", "expected"),
    [
        (b"", None, "now", ("first", 0, {})),
        (THREE, None, "now", ("unknown", 3, {})),
        (THREE + TORN, None, "now", ("unknown", 3, {"torn": TORN})),
        (b"hello\n", None, "now", ("unknown", 0, {"foreign": 6})),
        (THREE, head(LAST, closed=True), "now", ("stop", 3, {})),
        (THREE, head(LAST, closed=True), "later", ("stop", 3, {})),
        (b"", head(LAST, closed=True), "now", ("stop", 3, {})),
        (THREE + b"x", head(LAST, closed=True), "later", ("stop", 3, {"foreign": 1})),
        (THREE, head(LAST), "now", ("kill", 3, {})),
        (THREE + TORN, head(LAST), "now", ("kill", 3, {"foreign": 30})),
        (THREE, head(TWO, LAST), "now", ("kill", 3, {})),
        (THREE[:-1], head(TWO, LAST), "now", ("kill", 3, {})),
        (THREE[:-9], head(TWO, LAST), "now", ("kill", 2, {"torn": THREE.splitlines()[2][:-8], "missing": 1})),
        (THREE, head(ONE, TWO), "now", ("kill", 2, {"foreign": len(THREE.splitlines()[2]) + 1})),
        (THREE, head(ONE, TWO), "later", ("crash", 3, {"adopted": 1})),
        (THREE + TORN, head(ONE), "later", ("crash", 3, {"adopted": 2, "torn": TORN})),
        (THREE[: -len(FOUR)], head(LAST), "now", ("kill", 3, {"cut": True})),
        (THREE[:-9], head(LAST), "later", ("crash", 2, {"torn": THREE.splitlines()[2][:-8], "missing": 1})),
        (b"other\n", head(LAST), "later", ("crash", 3, {"cut": True})),
        (b"other\n", head(LAST), "now", ("kill", 3, {"cut": True})),
    ],
)
def test_where_the_chain_goes_on(tail: bytes, found: Head | None, boot: str, expected: tuple[str, int, dict[str, Any]]) -> None:
    start, seq, members = expected
    resumed = resume(tail, found, boot)
    assert (resumed.start, resumed.seq) == (start, seq)
    rest = {"torn": b"", "missing": 0, "adopted": 0, "cut": False, "foreign": 0}
    assert {name: getattr(resumed, name) for name in rest} == rest | members


def test_what_was_forced_to_the_disk_is_there_after_the_end_of_the_machine() -> None:
    assert resume(THREE[:-9], head(LAST), "later", synced=True).cut


def test_only_our_own_lines_are_taken_apart() -> None:
    good_line = THREE.splitlines()[0]
    assert taken_apart(good_line) == ONE
    for bad in (
        b"",
        b"{}",
        good_line[:-1],
        good_line + b" ",
        good_line.replace(b"hash", b"hush"),
        good_line[:-3] + b'F"}',
        b" " + good_line,
    ):
        assert taken_apart(bad) is None


# -- days in any order -------------------------------------------------------------------------------------------------------------------------------

OPERATIONS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.sampled_from(["sign", "rotate", "stop", "kill", "reopen", "lost"]), st.just(0)),
    st.tuples(st.sampled_from(["full", "die"]), st.integers(0, 700)),
    st.tuples(st.sampled_from(["full and rotate", "full and stop"]), st.integers(0, 400)),
)


@settings(deadline=None, max_examples=50)
@example([("full and stop", 138)])
@given(st.lists(OPERATIONS, max_size=12))
def test_whatever_happens_in_whatever_order_the_chain_is_whole_and_every_call_is_accounted_for(operations: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as directory:
        log, older = Log(Path(directory)), list[Path]()
        chain = padded(log)
        calls = PAD

        def rotated() -> None:
            older.append(log.file.with_name(f"audit.log.{len(older)}"))
            log.file.rename(older[-1])

        for what, number in operations:
            if what == "append":
                log.write(chain, *range(number))
                calls += number
            elif what == "sign":
                chain.sign(NOW)
            elif what in ("rotate", "reopen"):
                if what == "rotate":
                    rotated()
                chain.reopen(NOW, [])
            elif what == "lost":
                chain.lost += 1
                calls += 1
                chain.tell_lost(NOW)
            elif what == "stop":
                chain.close(NOW)
                chain = log.start()
            elif what == "kill":
                log.kill(chain)
                chain = log.start()
            elif what == "die":  # in the middle of a write
                chain._seal([BODY % 1] * 3)
                data = bytes(chain._rest)[:number]
                os.write(chain._fd, data)
                log.kill(chain)
                chain = log.start()
                calls += data.count(b"\n") + bool(taken_apart(data.rpartition(b"\n")[2]))
            else:
                waiting = list[bytes]()
                size = max(log.file.stat().st_size, 2048)  # the head must find its place
                chain.append([BODY % 9 + b',"x":"%b"' % (b"x" * (size - log.file.stat().st_size))], NOW)
                with full_disk(log.file.stat().st_size + number):
                    chain.append([BODY % 1] * 3, NOW)
                    if what == "full and rotate":
                        rotated()
                        chain.reopen(NOW, waiting)
                    elif what == "full and stop":
                        with suppress(OSError):
                            chain.close(NOW)
                if what == "full and stop":
                    chain = log.start()
                chain.flush()
                if waiting:
                    chain.append(waiting, NOW)
                calls += 4
                if chain.lost:
                    chain.tell_lost(NOW)
        chain.close(NOW)
        report = log.verify(*older)
        assert report.problems == []
        assert report.calls + report.lost == calls
