"""The audit log as the daemon uses it: entries go in at the loop's pace, lines come out in a chain, and a full disk is not silent."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.config.policies import Audit
from mcpproxy.errors import StartError
from mcpproxy.observe import audit as audits
from mcpproxy.observe.audit import HAND_OVER, WAITING, AuditLog
from mcpproxy.observe.habits import KNOWN
from mcpproxy.observe.keeping import PUBLIC, public_key, read_head
from mcpproxy.observe.verify import Report, verify
from tests.observe.samples import call, entry
from tests.support.waiting import DEADLINE, until


class Play:
    """A log, and what was told meanwhile."""

    def __init__(self, directory: Path) -> None:
        self.file, self.state = directory / "audit.log", directory / "state"
        self.told: list[tuple[str, str]] = []

    def open(self, **settings: Any) -> AuditLog:
        return AuditLog(Audit(file=str(self.file), **settings), str(self.state), lambda level, text: self.told.append((level, text)))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_bytes().splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["type"] == kind]

    def verify(self, *older: Path) -> Report:
        return verify(
            [str(file) for file in (*older, self.file)], [public_key((self.state / PUBLIC).read_bytes(), "key")], read_head(self.state)
        )


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


@contextmanager
def full_disk(file: Path, room: int) -> Iterator[None]:
    """The file cannot grow by more than `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def written(play: Play, log: AuditLog, count: int) -> None:
    """Hand over, and wait until so many calls are in the file."""
    log.tick()
    until(lambda: len(play.of("call")) == count, lambda: f"{len(play.of('call'))} of {count} lines")


def test_entries_become_lines_of_a_chain(play: Play) -> None:
    log = play.open()
    for number in range(3 * HAND_OVER + 5):
        log.add(entry(request_id=b"%d" % number))
    assert log.close(DEADLINE)
    assert [line["id"] for line in play.of("call")] == [str(number) for number in range(3 * HAND_OVER + 5)]
    report = play.verify()
    assert (report.problems, report.calls, play.told) == ([], 3 * HAND_OVER + 5, [])


def test_a_tick_is_enough(play: Play) -> None:
    log = play.open()
    log.add(entry())
    written(play, log, 1)
    log.tick()
    assert log.close(DEADLINE)


def test_rotation_puts_later_lines_into_the_new_file(play: Play, tmp_path: Path) -> None:
    log, old = play.open(), tmp_path / "audit.log.1"
    log.add(entry(request_id=b"one"))
    play.file.rename(old)
    log.reopen()
    log.add(entry(request_id=b"two"))
    assert log.close(DEADLINE)
    assert b'"id":"one"' in old.read_bytes()
    assert [line["id"] for line in play.of("call")] == ["two"]
    assert play.verify(old).problems == []


def test_a_rotation_that_fails_goes_on_in_the_old_file(play: Play, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    play.file = folder / "audit.log"
    log = play.open()
    folder.rename(tmp_path / "gone")
    log.reopen()
    log.add(entry())
    assert log.close(DEADLINE)
    play.file = tmp_path / "gone" / "audit.log"
    assert len(play.of("call")) == 1 and play.verify().problems == []
    assert play.told[0][0] == "error" and "No such file" in play.told[0][1]


def test_a_place_that_cannot_be_had_is_a_start_error(tmp_path: Path) -> None:
    for file, state in (tmp_path / "none" / "a", tmp_path), (Path("/dev/full"), tmp_path), (tmp_path / "a", Path("/proc/none")):
        with pytest.raises(StartError) as caught:
            AuditLog(Audit(file=str(file)), str(state), lambda level, text: None)
        assert caught.value.hint


# -- full disks ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 300, 1000])
def test_what_a_full_disk_took_is_counted_and_told(play: Play, room: int) -> None:
    log = play.open()
    log.add(entry())
    log.add(entry())
    written(play, log, 2)
    with full_disk(play.file, room):
        for number in range(50):
            log.add(entry(request_id=b"full-%d" % number))
            if number % 10 == 9:
                log.tick()
        until(lambda: log.lost >= 30, lambda: str(log.lost))
        assert not log.blocked
    log.add(entry())
    assert log.close(DEADLINE)
    report = play.verify()
    assert (report.problems, report.lost, report.calls + report.lost) == ([], log.lost, 53)
    assert [level for level, _ in play.told] == ["error", "warning"]
    assert "File too large; lines are lost" in play.told[0][1]


@pytest.mark.parametrize("room", [0, 300, 1000])
def test_with_block_calls_are_held_off_and_nothing_is_lost(play: Play, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "RETRY_S", 0.02)
    log = play.open(when_full="block")
    log.add(entry())
    log.add(entry())
    written(play, log, 2)
    with full_disk(play.file, room):
        for _ in range(50):
            log.add(entry())
        log.tick()
        until(lambda: log.blocked)
        log.add(entry())  # was under way
        log.tick()
    until(lambda: not log.blocked)
    written(play, log, 53)
    assert log.close(DEADLINE)
    assert (play.verify().problems, log.lost, play.of("lost")) == ([], 0, [])
    assert "calls are refused" in play.told[0][1]


def test_a_disk_that_is_full_at_the_start_blocks_from_the_start(play: Play) -> None:
    play.open().close(DEADLINE)
    log = play.open()
    for _ in range(3):
        log.add(entry())
    log.close(DEADLINE)
    with full_disk(play.file, 10):
        log = play.open(when_full="block")
        assert log.blocked
        assert log.close(DEADLINE)
    log = play.open()
    log.close(DEADLINE)
    assert play.verify().problems == []


def test_a_writer_that_stands_still_is_not_waited_for(play: Play) -> None:
    log = play.open()
    log._handed = WAITING  # the thread has this much to do
    log.add(entry())
    log.tick()
    assert log.lost == 1
    log._handed = 0
    log.add(entry())
    assert log.close(DEADLINE)
    assert (play.verify().lost, len(play.of("call"))) == (1, 1)


def test_with_block_a_writer_that_stands_still_holds_calls_off(play: Play) -> None:
    log = play.open(when_full="block")
    log._handed = log._done = 0
    log._handed += WAITING
    log.add(entry())
    log.tick()
    written(play, log, 1)
    until(lambda: log.blocked, "held off")
    log._done += WAITING
    log.add(entry())
    log.tick()
    until(lambda: not log.blocked)
    assert log.close(DEADLINE)
    assert (play.verify().problems, log.lost) == ([], 0)


def test_an_entry_that_cannot_be_rendered_is_lost_alone(play: Play) -> None:
    log = play.open()
    log.add(entry(status="nonsense"))
    log.add(entry(status="nonsense"))
    log.add(entry())
    assert log.close(DEADLINE)
    assert (log.lost, len(play.of("call")), play.verify().lost) == (2, 1, 2)
    assert len(play.told) == 1 and "could not be written" in play.told[0][1]


# -- kills -----------------------------------------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
from mcpproxy.config.policies import Audit
from mcpproxy.observe.audit import AuditLog
from tests.observe.samples import entry
log = AuditLog(Audit(file=sys.argv[1]), sys.argv[2], print)
print("ready", flush=True)
while True:
    log.add(entry())
"""


def test_with_block_a_rotation_on_a_full_disk_loses_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audits, "RETRY_S", 0.02)
    log = play.open(when_full="block")
    for _ in range(9):
        log.add(entry())
    written(play, log, 9)
    old = play.file.with_name("audit.log.1")
    with full_disk(play.file, 300):
        for _ in range(5):
            log.add(entry())
        log.tick()
        until(lambda: log.blocked)
        play.file.rename(old)
        log.reopen()
        until(lambda: not log.blocked)  # the new file is small enough
    written(play, log, 5)
    assert log.close(DEADLINE)
    report = play.verify(old)
    assert (report.problems, report.calls, report.lost, log.lost) == ([], 14, 0, 0)


KILLED = """
import sys
from mcpproxy.config.policies import Audit
from mcpproxy.observe.audit import AuditLog
from tests.observe.samples import entry
from tests.observe.test_audit import full_disk
from pathlib import Path
file = Path(sys.argv[1])
log = AuditLog(Audit(file=str(file)), sys.argv[2], lambda level, text: None)
log.add(entry())
log.tick()
while file.read_bytes().count(b'"call"') != 1:
    pass
with full_disk(file, max(2048 - file.stat().st_size, 0)):  # the head has its place
    for number in range(70):
        log.add(entry())
        log.tick()
        while log._done != number + 2:
            pass
    print(log.lost, flush=True)
    sys.stdin.read()
"""


def test_what_a_full_disk_took_is_told_after_a_kill(play: Play) -> None:
    command = [sys.executable, "-c", KILLED, str(play.file), str(play.state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lost = int(process.stdout.readline())
        process.kill()
    assert lost > 50
    assert play.open().close(DEADLINE)
    report = play.verify()
    (missing,) = re.findall(rb'"start":"kill".*"missing":(\d+)', play.file.read_bytes())
    assert (report.problems, report.lost) == ([], lost)
    assert report.calls + lost + int(missing) == 71


def larger(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_a_daemon_that_is_killed_while_it_writes_leaves_a_chain_that_goes_on(play: Play) -> None:
    for size in (20_000, 100_000, 150_000):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(play.file), str(play.state)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            until(partial(larger, play.file, size))
            process.kill()
    log = play.open()
    log.add(entry())
    assert log.close(DEADLINE)
    report = play.verify()
    assert report.problems == [] and report.calls > 100


# -- what is unusual -------------------------------------------------------------------------------------------------------------------------------


def test_a_tool_that_a_caller_never_used_gives_a_warning_line_and_a_count(play: Play) -> None:
    log = play.open(anomalies=True)
    for _ in range(KNOWN):
        log.add(entry())
    log.add(entry(calls=call(tool="delete_all"), verdict="denied"))
    log.add(entry(calls=call(tool="delete_all"), who=b""))
    log.add(entry(calls=call(tool="delete_all"), request_id=b"odd"))
    log.add(entry(calls=call(tool="delete_all")))
    assert log.close(DEADLINE)
    (warning,) = play.of("warning")
    assert (warning["kind"], warning["principal"], warning["tool"], warning["id"]) == ("new-tool", "agent-alpha", "delete_all", "odd")
    assert log.warnings == 1
    log = play.open(anomalies=True)
    log.add(entry(calls=call(tool="delete_all")))
    assert log.close(DEADLINE)
    assert log.warnings == 0 and play.verify().problems == []


def test_without_anomalies_nothing_is_remembered(play: Play) -> None:
    log = play.open()
    log.add(entry())
    assert log.close(DEADLINE)
    assert not any("habits" in name for name in os.listdir(play.state))
