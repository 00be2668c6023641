"""Every word to systemd arrives as sd_notify(3) has it, and its absence harms nobody."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from mcpproxy.ops.systemd import (
    NOT_YET,
    READY,
    STOPPING,
    WATCHDOG,
    Unit,
    reloading,
    resign,
    status,
    successor_environment,
    tell,
    watchdog_interval,
)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield ear


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_that_we_are_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@mcpproxy-{secrets.token_hex(8)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0", 1) if abstract else name)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert tell(READY)
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", [None, "", "nonsense", "/no/such/socket", "@nobody-listens-here", "vsock:2:1234"])
def test_nobody_to_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if place is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
    assert not tell(READY)
    assert os.environ.get("NOTIFY_SOCKET") == place


def test_a_systemd_that_does_not_read_holds_nobody_up(systemd: socket.socket) -> None:
    told = 0
    while tell(WATCHDOG):
        told += 1
    assert told
    assert systemd.recv(100) == b"WATCHDOG=1"


def test_several_lines_are_one_message(systemd: socket.socket) -> None:
    tell(STOPPING, status("drains"), WATCHDOG)
    assert systemd.recv(100) == b"STOPPING=1\nSTATUS=drains\nWATCHDOG=1"


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    tell(reloading())
    first, second = systemd.recv(100).split(b"\n")
    assert first == b"RELOADING=1"
    name, _, moment = second.partition(b"=")
    assert name == b"MONOTONIC_USEC"
    assert before - 1 <= int(moment) <= time.monotonic_ns() // 1000


def test_a_status_is_one_line() -> None:
    assert status("fine\nREADY=1") == b"STATUS=fine?READY=1"


def test_how_it_goes_is_told_when_it_is_another_way(systemd: socket.socket) -> None:
    unit = Unit(2)
    for serving in (1, 2, 2, 1):
        unit.say(serving, 2, stopping=False)
    for left in (2, 1, 1, 0):
        unit.say(left, left, stopping=True)
    tell(READY)
    assert [systemd.recv(100).decode() for _ in range(8)] == [
        "STATUS=1 worker serves of 2",
        "STATUS=2 workers serve",
        "STATUS=1 worker serves of 2",
        "STOPPING=1",
        "STATUS=draining: 2 workers left",
        "STATUS=draining: 1 worker left",
        "STATUS=draining: 0 workers left",
        "READY=1",
    ]


def test_the_watchdog_hears_of_those_who_live(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Unit(1).due == inf
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    unit = Unit(1)
    assert unit.due == 0
    for now, alive in ((100.0, True), (105.0, False), (110.0, True)):
        unit.ping(now, alive=alive)
        assert unit.due == now + 5
    tell(READY)
    assert [systemd.recv(100) for _ in range(3)] == [WATCHDOG, WATCHDOG, READY]


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_told_twice_as_often_as_it_asks(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], interval: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert watchdog_interval() == interval


def test_who_takes_over_speaks_from_then_on_and_nobody_else(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd warns of every word of a process that is not the main one, and believes none."""
    monkeypatch.setenv(NOT_YET, str(os.getppid()))
    unit = Unit(1)
    unit.say(1, 1, stopping=False)
    assert not tell(WATCHDOG)
    monkeypatch.setenv(NOT_YET, "1073741824")  # it is gone, and was our parent
    unit.say(1, 1, stopping=False)
    assert systemd.recv(99) == b"STATUS=1 worker serves"
    resign(42)
    assert systemd.recv(99) == b"MAINPID=42\nWATCHDOG=1"
    assert not tell(WATCHDOG)


def test_who_takes_over_is_watched_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process number is another one than $WATCHDOG_PID: it would not say a word, and be killed."""
    theirs = successor_environment(
        {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "1", "LISTEN_PID": "1", "LISTEN_FDS": "1", "NOTIFY_SOCKET": "/n"}
    )
    assert theirs == {"WATCHDOG_USEC": "10000000", "NOTIFY_SOCKET": "/n"}
