"""Days on which the machine itself is the trouble: its clock is set, its disk is full, its log cannot be written."""

import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.scenarios.conftest import Run
from tests.support.client import get, post
from tests.support.daemon import Daemon, run_to_end, simple_config
from tests.support.keys import Keys
from tests.support.upstream import Link, ScriptedUpstream, answer
from tests.support.waiting import until

DAY = 86_400
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


class Time:
    """The clock of one daemon: as far from ours as the file says. Its monotonic clock goes on, as a real one does when the clock is set."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "offset"
        self.set(0)

    def set(self, seconds: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s")
        new.rename(self.file)

    @property
    def prefix(self) -> list[str]:
        told = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": self.file, "FAKETIME_DONT_FAKE_MONOTONIC": 1, "FAKETIME_NO_CACHE": 1}
        return ["env", *(f"{name}={value}" for name, value in told.items())]


def ticking(link: Link) -> None:
    """A stream for who asks for one, else an answer."""
    while True:
        request = link.read_request()
        if request.start.startswith(b"GET"):
            link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not link.owner.closing.wait(0.02):
                link.send(b"9\r\ndata: x\n\n\r\n")
            return
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.needs("faketime")
def test_a_clock_that_is_set_harms_no_stream_no_limit_and_no_key_for_long(tmp_path: Path) -> None:
    """A day ahead and two days back: what is open goes on, who may come in is judged by the new time, nobody is locked out by the old one."""
    moved, keys = Time(tmp_path), Keys(tmp_path)
    short, long = keys.add("short", expires=time.time() + 3600), keys.add("long")
    with ScriptedUpstream(ticking) as upstream:
        config = simple_config(
            upstream.url,
            auth={"keys": keys.auth()},
            route={"auth": "keys", "rate": "500/s burst 100", "limits": ["daily"]},
            limit={"daily": {"daily": 100000}},
            health="/healthz",
        )
        with Daemon(config, tmp_path, prefix=moved.prefix) as daemon, daemon.client() as stream:

            def status(key: str) -> int:
                with daemon.client() as client:
                    return client.exchange(post(b"{}", extra=f"X-API-Key: {key}\r\n")).status

            def told() -> float:
                with daemon.client() as client:
                    date = client.exchange(get("/healthz")).all("date")[0]
                    return parsedate_to_datetime(date.decode()).timestamp()

            stream.send(get("/", extra=f"X-API-Key: {long}\r\n"))
            stream.read_until(b"data: x\n\n")
            assert (status(short), status(long)) == (200, 200)
            for offset, expected in ((DAY, 401), (-DAY, 200), (0, 200)):
                moved.set(offset)
                until(lambda: abs(told() - time.time() - offset) < 60, "it lives in another time")  # noqa: B023
                until(lambda: status(short) == expected, f"the key is judged anew at {offset:+d} s")  # noqa: B023
                until(lambda: [status(long) for _ in range(20)] == [200] * 20, "at most one empty bucket is waited for")
                stream.read_until(b"data: x\n\n")
                day = time.strftime("%Y-%m-%d", time.gmtime(time.time() + offset))
                until(lambda: any(record["time"].startswith(day) for record in daemon.select(method="POST")), f"lines of {day}")  # noqa: B023
            stream.close()


@contextmanager
def no_room(daemon: Daemon, size: int) -> Iterator[None]:
    """A full disk, for each of its processes: no file grows beyond `size`."""
    for pid in daemon.workers:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    for pid in daemon.workers:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_costs_log_lines_and_no_call_and_the_gap_is_told(workers: int, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, workers=workers, log={"access": str(log)})
        until(lambda: len(daemon.workers) == workers, "all workers")

        def call(times: int) -> None:
            for _ in range(times):
                with daemon.client() as client:
                    assert client.exchange(post(b"x")).body == b"x"

        call(10)
        until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 10, "lines")
        with no_room(daemon, log.stat().st_size):
            call(30)
            daemon.signal(signal.SIGUSR1)  # what waits is tried now
            until(lambda: sum("counts" in message for message in daemon.messages) == workers, "it was tried")
        call(10 * workers)
        daemon.stop()
    rows = [json.loads(line) for line in log.read_bytes().splitlines()]
    dropped = sum(row["dropped_lines"] for row in rows if "dropped_lines" in row)
    told = sum("id" in row for row in rows)
    assert dropped > 0
    assert told + dropped == 10 + 30 + 10 * workers


def test_a_log_directory_that_is_gone_at_rotation_costs_nothing(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    log = folder / "access.log"
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, log={"access": str(log)})
        folder.rename(tmp_path / "moved")
        daemon.signal(signal.SIGUSR1)
        for _ in range(5):
            with daemon.client() as client:
                assert client.exchange(post(b"x")).body == b"x"
        daemon.stop()
    assert (tmp_path / "moved" / "access.log").read_bytes().count(b"\n") == 5


def test_a_state_directory_that_cannot_be_is_told_where_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    state = str(tmp_path / "file" / "state")
    code, said = run_to_end(simple_config("http://127.0.0.1:9", listen={"tls": "dev"}, state_dir=state), tmp_path)
    assert code == 1
    assert state in said
    assert "Traceback" not in said


def test_and_is_not_missed_where_nothing_must_be_kept(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(upstream.url, state_dir=str(tmp_path / "file" / "state"))
        with daemon.client() as client:
            assert client.exchange(post(b"x")).body == b"x"
