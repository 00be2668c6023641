"""mcpproxy top: a snapshot where it is piped, live until `q` in a terminal."""

import os
import pty
import select
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from rich.console import Console

from mcpproxy.cli.main import status_of
from mcpproxy.cli.top import chart, screen
from tests.cli.watched import watched
from tests.control.visiting import REFUSAL
from tests.scenarios.test_admin import open_stream

ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"  # another screen, and back


def test_piped_it_is_one_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path) as here:
        stream = open_stream(here.daemon)
        assert status_of(["top", *here.words]) == 0
        said = capsys.readouterr().out
        assert "mcpproxy " in said
        assert here.endpoint in said
        stream.close()


def test_in_a_terminal_it_lives_until_q(tmp_path: Path) -> None:
    with watched(tmp_path) as here:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "mcpproxy", "top", *here.words]
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
            os.close(theirs)
            seen = read_until(ours, here.endpoint.encode())
            assert ENTER in seen
            os.write(ours, b"xq")
            seen = read_until(ours, LEAVE)
            assert process.wait(30) == 0
        os.close(ours)


def read_until(descriptor: int, words: bytes) -> bytes:
    seen, end = b"", time.monotonic() + 30
    while words not in seen:
        assert time.monotonic() < end, seen
        assert select.select([descriptor], [], [], 30)[0], seen
        try:
            seen += os.read(descriptor, 65536)
        except OSError:  # its end
            assert words in seen, seen
    return seen


def test_names_are_text_and_no_markup() -> None:
    refusal = {**REFUSAL, "principal": "[red]x[/red]\x1b[2J", "worker": 0}
    look = {
        "version": "1", "health": "down", "uptime_s": 1, "generation": 1, "rate": None, "connections": {}, "workers": [], "upstreams": {},
        "latency": {"p50_ms": 1.0, "p95_ms": None, "p99_ms": 2.0}, "problems": ["a"], "refusals": [refusal],
        "open": {"kinds": {}, "principals": [{"name": "[bold]y", "streams": 2}], "others": 0, "upstreams": []},
    }  # fmt: skip
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - its own
    console.print(screen(look, deque([1.0, 2.0])))
    said = console.export_text()
    assert "[red]x[/red]?[2J" in said
    assert "[bold]y" in said


def test_a_chart_is_as_long_as_what_is_known() -> None:
    assert chart(deque()) == ""
    assert chart(deque([0.0, 0.0])) == "▁▁"
    assert chart(deque([0.0, 5.0, 10.0])) == "▁▄█"
