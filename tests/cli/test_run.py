"""mcpproxy run: from a file to an answer, to a clean end; and every way the start can fail. (tests/ops and tests/scenarios go deeper.)"""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.rig import Command
from tests.cli.test_options import GOOD, written
from tests.support.client import RawClient
from tests.support.ports import free_port
from tests.support.upstream import ScriptedUpstream, answer
from tests.support.waiting import until


def config(port: int, upstream: str = "http://127.0.0.1:9") -> str:
    return GOOD.replace("8000", str(port)).replace("http://127.0.0.1:9", upstream)


def has_open(pid: int, file: Path) -> bool:
    """Is it one of the descriptors of this process?"""
    for each in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):  # closed meanwhile
            if os.readlink(f"/proc/{pid}/fd/{each}") == str(file):
                return True
    return False


def test_it_serves_what_the_file_says_and_ends_when_told(tmp_path: Path) -> None:
    port = free_port()
    with ScriptedUpstream(answer()) as upstream:
        file = written(tmp_path, config(port, upstream.url))
        with Command("run", "-c", str(file), state=tmp_path / "state") as command:
            command.until_says(f"mcpproxy: serving http://127.0.0.1:{port}", "err")
            with RawClient(port) as client:
                client.send(b"GET /mcp HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.response().status == 200
            assert command.told_to_end(signal.SIGTERM) == 0
    assert command.out.count('"path":"/mcp"') == 1


def test_systemd_is_told_when_it_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with Command("run", "-c", str(written(tmp_path, config(port))), state=tmp_path / "state"):
            said = systemd.recv(100)
            while said.startswith(b"STATUS="):  # some workers serve, others begin
                said = systemd.recv(100)
            assert said == b"READY=1"
            RawClient(port).close()


def test_signals_of_the_first_moments_are_heard_later(tmp_path: Path) -> None:
    """It is stopped where it reads its file, long before it has handlers."""
    pipe, file = tmp_path / "mcpproxy.toml", written(tmp_path, config(free_port()))
    text = file.read_bytes()
    file.unlink()
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    with Command("run", "-c", str(pipe), state=tmp_path / "state") as command:
        until(lambda: has_open(command.process.pid, pipe), "it reads")
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            command.process.send_signal(number)
        pipe.rename(tmp_path / "read")
        pipe.write_bytes(text)
        os.write(end, text)
        os.close(end)
        command.until_says("serving", "err")
        command.until_says("configuration reloaded", "err")
        assert command.told_to_end() == 0


def test_warnings_come_before_the_start(tmp_path: Path) -> None:
    port = free_port()
    file = written(tmp_path, config(port) + '[upstream.other]\nurls = ["http://127.0.0.1:9"]\n')
    with Command("run", "-c", str(file), state=tmp_path / "state") as command:
        command.until_says("serving", "err")
        assert command.told_to_end(signal.SIGINT) == 0
    assert command.err.splitlines()[0].startswith("mcpproxy: warning: ")


def test_mistakes_keep_it_from_starting(tmp_path: Path) -> None:
    file = written(tmp_path, config(free_port()) + 'pth = "/"\n')
    with Command("run", "-c", str(file), state=tmp_path / "state") as command:
        assert command.wait() == 1
    first, second = command.err.splitlines()
    assert first == f"mcpproxy: {file}: 1 mistake"
    assert second.startswith("  line 8: route[0].pth: there is no such key here")


def test_a_taken_port_keeps_it_from_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        file = written(tmp_path, config(taken.getsockname()[1]))
        with Command("run", "-c", str(file), state=tmp_path / "state") as command:
            assert command.wait() == 1
    assert "is in use by another process" in command.err.splitlines()[0]


def test_no_file_is_one_line_and_advice(tmp_path: Path) -> None:
    assert status_of(["run", "-c", str(tmp_path / "none.toml")]) == 1
