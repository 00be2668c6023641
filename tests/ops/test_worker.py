"""The life of the process: it starts or says why not, drains when told, ends when told twice, and loses no line."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.net.stepping import DEADLINE
from tests.support.client import RawClient, get
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

RUN = """
import sys
from pathlib import Path
from mcpproxy.config import load
from mcpproxy.ops.supervise import run
config = load.load(Path(sys.argv[1]))
drain = float(sys.argv[2]) if len(sys.argv) > 2 else None
sys.exit(run(config, drain=drain, ready=lambda urls: print("ready", *urls, flush=True)))
"""


class Child:
    """run() in a process of its own; its log goes to a file."""

    def __init__(
        self, folder: Path, upstream: str, *, drain: str = "", address: str = "", access: str = "", level: str = "info", before: str = ""
    ) -> None:
        self.log = folder / "access.log"
        self.address = address or f"127.0.0.1:{free_port()}"
        file = folder / "mcpproxy.toml"
        file.write_text(
            f'workers = 1\ndrain = "20s"\n[[listen]]\naddress = "{self.address}"\n[upstream.u]\nurls = ["{upstream}"]\n[[route]]\nupstream = "u"\n'
            f'[log]\naccess = "{access or self.log}"\nlevel = "{level}"\n'
        )
        command = [sys.executable, "-c", before + RUN, str(file), *([drain] if drain else [])]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ready(self) -> list[str]:
        assert self.process.stdout
        return self.process.stdout.readline().split()

    def client(self) -> RawClient:
        return RawClient(int(self.address.rpartition(":")[2]))

    def said(self) -> str:
        """All it said on stderr; it has ended."""
        assert self.process.stderr
        return self.process.stderr.read()

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def status(self) -> int:
        return self.process.wait(DEADLINE)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def answering(link: Link) -> None:
    while True:
        link.read_request()
        link.send(response(b"ok"))


def streaming(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    link.hang()


def ok(message: Message) -> bool:
    return message.start.split(b" ")[1] == b"200"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_when_it_is_ready_and_ends_when_it_is_told(tmp_path: Path, number: int) -> None:
    with ScriptedUpstream(answering) as upstream, Child(tmp_path, upstream.url) as child:
        assert ["ready", f"http://{child.address}"] == child.ready()
        with child.client() as client:
            assert ok(client.exchange(get()))
            child.tell(number)
            assert client.is_closed()
        assert 0 == child.status()
        assert ["done"] == [line["end"] for line in child.lines]


def test_a_signal_at_the_very_start_is_heard(tmp_path: Path) -> None:
    with Child(tmp_path, "http://127.0.0.1:9") as child:
        child.ready()
        child.tell(signal.SIGTERM)
        assert 0 == child.status()


AT_ONCE = """
import mcpproxy.ops.supervise as life, os, signal
share = life.share
def shared(*args):
    made = share(*args)  # its addresses accept: who waits for that may send the signal now
    os.kill(os.getpid(), signal.%s)
    return made
life.share = shared
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_anybody_hears_it_waits(tmp_path: Path, number: signal.Signals) -> None:
    with Child(tmp_path, "http://127.0.0.1:9", before=AT_ONCE % number.name) as child:
        child.ready()
        if number is signal.SIGUSR1:
            child.tell(signal.SIGTERM)
        assert 0 == child.status()


def test_a_stream_runs_on_until_the_second_signal_and_its_line_says_so(tmp_path: Path) -> None:
    with ScriptedUpstream(streaming) as upstream, Child(tmp_path, upstream.url) as child:
        child.ready()
        with child.client() as client:
            client.send(get())
            client.read_until(b"a\r\n")
            child.tell(signal.SIGTERM)
            until(lambda: refused(child), "no more connections")
            assert child.process.stderr
            assert "mcpproxy: draining: 1 connection still busy, ended in 20s at the latest; " in child.process.stderr.readline()
            assert child.process.poll() is None
            child.tell(signal.SIGTERM)
            assert 0 == child.status()
            client.read_to_end()
            assert "reset" == client.how
        assert ["stopped"] == [line["end"] for line in child.lines]


def refused(child: Child) -> bool:
    try:
        child.client().close()
    except ConnectionError:  # refused, or reset: still waiting at the moment when the socket was closed
        return True
    return False


def test_a_drain_given_at_the_start_goes_before_the_configured_one(tmp_path: Path) -> None:
    with ScriptedUpstream(streaming) as upstream, Child(tmp_path, upstream.url, drain="0.3") as child:
        child.ready()
        with child.client() as client:
            client.send(get())
            client.read_until(b"a\r\n")
            child.tell(signal.SIGTERM)
            assert 0 == child.status()
        assert ["stopped"] == [line["end"] for line in child.lines]


def test_usr1_reopens_the_log(tmp_path: Path) -> None:
    with ScriptedUpstream(answering) as upstream, Child(tmp_path, upstream.url) as child:
        child.ready()
        with child.client() as client:
            client.exchange(get("/one"))
            old = tmp_path / "old.log"
            child.log.rename(old)
            child.tell(signal.SIGUSR1)
            until(child.log.exists)
            client.exchange(get("/two"))
        child.tell(signal.SIGTERM)
        assert 0 == child.status()
        assert ["/one"] == [json.loads(line)["path"] for line in old.read_text().splitlines()]
        assert ["/two"] == [line["path"] for line in child.lines]


def counted(said: str) -> list[dict[str, Any]]:
    """What the lines of counts hold; there is no other line."""
    assert all(line.startswith("mcpproxy: counts {") for line in said.splitlines()), said
    return [json.loads(line.removeprefix("mcpproxy: counts ")) for line in said.splitlines()]


def test_it_says_what_it_counted_when_asked_and_at_the_end(tmp_path: Path) -> None:
    with ScriptedUpstream(answering) as upstream, Child(tmp_path, upstream.url) as child:
        child.ready()
        with child.client() as client:
            client.exchange(get("/one"))
            client.exchange(get("/two"))
            child.tell(signal.SIGUSR1)
            until(lambda: child.log.exists() and len(child.lines) == 2)
            client.exchange(get("/three"))
            child.tell(signal.SIGTERM)
            assert 0 == child.status()
        asked, ended = counted(child.said())
    assert (asked["requests"], ended["requests"]) == (2, 3)
    assert (asked["connections"]["open"], ended["connections"]["open"]) == (1, 0)
    assert asked["upstreams"] == {"u": {"in_use": 0, "idle": 1, "waiting": 0, "unreachable": 0}}


def test_a_server_that_cannot_be_reached_is_named_with_the_reason(tmp_path: Path) -> None:
    with Child(tmp_path, "http://127.0.0.1:1") as child:
        child.ready()
        with child.client() as client:
            assert b"502" in client.exchange(get()).start
        child.tell(signal.SIGTERM)
        assert 0 == child.status()
        assert child.said().splitlines()[0] == "mcpproxy: warning: upstream u: 127.0.0.1:1: Connection refused"


def test_who_wants_warnings_only_hears_no_counts(tmp_path: Path) -> None:
    with Child(tmp_path, "http://127.0.0.1:9", level="warning") as child:
        child.ready()
        child.tell(signal.SIGUSR1)
        child.tell(signal.SIGTERM)
        assert 0 == child.status()
        assert child.said() == ""


def test_a_closed_stderr_stops_nothing(tmp_path: Path) -> None:
    with ScriptedUpstream(answering) as upstream, Child(tmp_path, upstream.url) as child:
        child.ready()
        assert child.process.stderr
        child.process.stderr.close()
        child.tell(signal.SIGUSR1)
        with child.client() as client:
            assert ok(client.exchange(get()))
        child.tell(signal.SIGTERM)
        assert 0 == child.status()
        child.process.stderr = None


def test_usr1_without_a_log_harms_nobody(tmp_path: Path) -> None:
    with Child(tmp_path, "http://127.0.0.1:9", access="off") as child:
        child.ready()
        child.tell(signal.SIGUSR1)
        child.tell(signal.SIGUSR1)
        with child.client() as client:
            assert b"502" in client.exchange(get()).start
        child.tell(signal.SIGTERM)
        assert 0 == child.status()


def test_a_start_that_fails_says_why_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Child(tmp_path, "http://127.0.0.1:9", address=address) as child:
            _, errors = child.process.communicate(timeout=DEADLINE)
            assert 1 == child.process.returncode
    first, second = errors.splitlines()
    assert first == f"mcpproxy: {address} is in use by another process"
    assert second.startswith("  ")


def test_a_unix_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with Child(tmp_path, "http://127.0.0.1:9", address=f"unix:{path}") as child:
        assert ["ready", f"unix:{path}"] == child.ready()
        assert path.is_socket()
        child.tell(signal.SIGTERM)
        assert 0 == child.status()
    assert not os.path.lexists(path)
