"""mcpproxy demo, as a newcomer meets it: what the screen shows is pasted into a shell, and works."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.rig import Command
from tests.demo.test_child import wait_until_gone
from tests.support.ports import free_port
from tests.support.waiting import until

READY = "Ctrl-C ends the demo."


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    state = tmp_path_factory.mktemp("demo")
    with Command("demo", "--listen", f"127.0.0.1:{free_port()}", "--state-dir", str(state), state=state) as command:
        command.until_says(READY)
        yield command


def pasted(line: str) -> str:
    """What a shell in another directory prints."""
    answer = subprocess.run(["bash", "-c", line], cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def child_of(process: int) -> int:
    """The MCP server's process id."""
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


@pytest.mark.needs("curl")
def test_the_curl_line_works_when_it_is_pasted(demo: Command) -> None:
    (line,) = [line for line in demo.out.splitlines() if line.startswith("curl ")]
    assert "-k" not in line.split()
    assert "--insecure" not in line
    assert '"serverInfo":{"name":"mcpproxy-demo"' in pasted(line)


def test_the_sdk_snippet_works_when_it_is_pasted(demo: Command) -> None:
    found = re.search(r"^SSL_CERT_FILE=.*?^END$", demo.out, re.MULTILINE | re.DOTALL)
    assert found
    assert pasted(found[0]).splitlines() == [
        "tools: ['echo', 'add', 'count']",
        "2 + 3 = 5",
        *(f"progress: {number} of 5" for number in range(1, 6)),
    ]


@pytest.mark.needs("curl")
def test_any_other_path_gets_an_answer_too(demo: Command) -> None:
    line = next(line for line in demo.out.splitlines() if line.startswith("curl "))
    certificate, url = re.findall(r"--cacert (\S+) (\S+)/mcp", line)[0]
    assert pasted(f"curl -sS -o /dev/null -w '%{{http_code}}' --cacert {certificate} {url}/") == "404"


def test_requests_appear_below_as_json_lines(demo: Command) -> None:
    until(lambda: re.search(r'^\{"time":.*"path":"/mcp".*\}$', demo.out, re.MULTILINE), "an access line")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_and_takes_its_server_along(tmp_path: Path, number: int) -> None:
    with Command("demo", "--listen", f"127.0.0.1:{free_port()}", state=tmp_path / "state") as command:
        command.until_says(READY)
        child = child_of(command.process.pid)
        assert command.told_to_end(number) == 0
        assert command.err == ""
        wait_until_gone(child)


def test_a_demo_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    with Command("demo", "--listen", f"127.0.0.1:{free_port()}", state=tmp_path / "state") as command:
        command.until_says(READY)
        child = child_of(command.process.pid)
        assert command.told_to_end(signal.SIGKILL) == -signal.SIGKILL
        wait_until_gone(child)


def test_it_ends_when_its_server_dies_and_says_so(tmp_path: Path) -> None:
    with Command("demo", "--listen", f"127.0.0.1:{free_port()}", state=tmp_path / "state") as command:
        command.until_says(READY)
        os.kill(child_of(command.process.pid), signal.SIGKILL)
        assert command.wait() == 1
        assert command.err.splitlines()[0] == "mcpproxy: the demo's MCP server ended by itself (status -9)"


def test_a_taken_port_is_said_at_once_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Command("demo", "--listen", address, state=tmp_path / "state") as command:
            assert command.wait() == 1
    assert command.out == ""
    assert command.err.splitlines()[0] == f"mcpproxy: {address} is in use by another process"
    assert "mcpproxy demo --listen 127.0.0.1:9443 (make demo LISTEN=127.0.0.1:9443)" in command.err


@pytest.mark.parametrize("address", ["8443", "localhost", "example.com:443", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    with Command("demo", "--listen", address, state=tmp_path / "state") as command:
        assert command.wait() == 2
    assert command.err.splitlines()[1].startswith("  --listen: ")


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda name, *a: None if name == 'mcp' else find(name, *a)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Command("demo", state=tmp_path / "state") as command:
        assert command.wait() == 1
    assert command.err.splitlines() == [
        "mcpproxy: the demo needs the MCP SDK, which is not installed",
        "  in a checkout: pip install '.[demo]', or make demo",
    ]
