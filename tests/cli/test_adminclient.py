"""Which daemon a command means, and what is said when it does not answer."""

import http.server
import threading
from pathlib import Path

import pytest

from mcpproxy.cli import adminclient as module
from mcpproxy.cli.adminclient import AdminClient, find
from mcpproxy.control.place import Place
from mcpproxy.errors import StartError
from tests.config.samples import GOOD
from tests.support.ports import free_port


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv(module.TOKEN, raising=False)
    monkeypatch.setattr(module, "RUNTIME", str(tmp_path / "run"))
    monkeypatch.setattr(module, "DEFAULT_CONFIG", tmp_path / "etc.toml")


def written(tmp_path: Path, lines: str) -> Path:
    file = tmp_path / "mcpproxy.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n{GOOD}{lines}')
    return file


def test_what_the_command_line_says() -> None:
    assert find(None, "/run/a.sock").address == "unix:/run/a.sock"
    assert find(None, "127.0.0.1:9090").address == "127.0.0.1:9090"
    with pytest.raises(StartError) as caught:
        find(None, "nonsense")
    assert caught.value.code == 2


def test_what_the_configuration_says(tmp_path: Path) -> None:
    assert find(written(tmp_path, ""), None).address == f"unix:{tmp_path}/state/admin.sock"
    (tmp_path / "token").write_text("secret\n")
    found = find(written(tmp_path, '[admin]\naddress = "0.0.0.0:9"\ntoken = "file:token"\n'), None)
    assert found == AdminClient("0.0.0.0:9", "secret")
    with pytest.raises(StartError, match="no admin listener"):
        find(written(tmp_path, '[admin]\naddress = "off"\n'), None)


def test_a_configuration_with_mistakes_tells_where_the_daemon_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, '[admin]\naddress = "127.0.0.1:9"\n[log]\nlevle = "info"\n')
    assert find(file, None).address == "127.0.0.1:9"
    assert capsys.readouterr().err == (
        f"mcpproxy: warning: {file}: 1 mistake (`mcpproxy check` names them); the daemon goes on with what it read before\n"
    )
    file.write_text("state_dir = /nowhere\n")
    with pytest.raises(StartError) as caught:
        find(file, None)
    assert "--admin ADDRESS" in caught.value.hint
    assert "line 1: " in caught.value.hint


def test_a_token_that_cannot_be_read_here_may_be_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, '[admin]\naddress = "127.0.0.1:9"\ntoken = "env:NOT_SET_HERE"\n')
    with pytest.raises(StartError) as caught:
        find(file, None)
    assert module.TOKEN in caught.value.hint
    monkeypatch.setenv(module.TOKEN, "secret")
    assert find(file, None).token == "secret"


def test_without_any_file_it_is_looked_for_where_daemons_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert find(None, None).address == f"unix:{tmp_path}/state/admin.sock"
    with Place(f"unix:{tmp_path}/run/admin.sock").open():
        assert find(None, None).address == f"unix:{tmp_path}/run/admin.sock"
        assert find(written(tmp_path, ""), None).address == f"unix:{tmp_path}/run/admin.sock"


@pytest.mark.parametrize("address", ["unix:/nonexistent/admin.sock", "tcp"])
def test_nobody_is_there(address: str) -> None:
    with pytest.raises(StartError, match="no daemon answers at"):
        AdminClient(f"127.0.0.1:{free_port()}" if address == "tcp" else address).get("status")


def test_somebody_else_is_there() -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(StartError, match="no mcpproxy"):
            AdminClient(f"127.0.0.1:{server.server_port}").get("status")
        thread.join(10)
