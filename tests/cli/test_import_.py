"""mcpproxy import: stdout is the configuration, stderr what to do about it."""

import io
import json
import sys
import tomllib
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.config.load import load

SERVERS = json.dumps(
    {"mcpServers": {"a": {"command": "x", "env": {"A_TOKEN": "hush"}, "frobnicate": 1}, "b": {"url": "https://b.test/mcp"}}}
)


def written(directory: Path, text: str | bytes) -> str:
    file = directory / "source"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_the_configuration_is_on_stdout_and_the_rest_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["import", written(tmp_path, SERVERS)]) == 0
    out, err = capsys.readouterr()
    assert set(load(out).upstream) == {"a", "b", "all"}
    assert err.splitlines() == [
        "mcpproxy: read as mcpServers: 2 upstreams, 3 routes",
        "  to be set in the environment of the daemon (no value was taken over):",
        "    A_TOKEN: A_TOKEN of a",
        "  no equivalent, or yours to decide:",
        "    mcpServers.a.frobnicate: no equivalent",
    ]
    assert "hush" not in out + err


def test_stdin_and_a_named_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SERVERS.encode())))
    assert status_of(["import", "--from", "named-servers", "-"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["route"][0]["path"] == "/servers/a"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["import", written(tmp_path, SERVERS.replace("}", "}\r\n").encode(encoding))]) == 0
    assert load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "it is empty"),
        (b"hello", "its format is not recognised; --from"),
        (b"\xff\x00", "is no text in UTF-8"),
        (b"x" * (5 << 20), "larger than 4 MiB"),
        (b'{"mcpServers": {"a": {"command": ""}}}', "nothing in it could be used"),
        (b'{"mcpServers": ', "line 1, column"),
        (b'{"a": ' * 100_000, "too deeply"),
    ],
)
def test_what_cannot_be_used(text: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["import", written(tmp_path, text)]) == 1
    out, err = capsys.readouterr()
    assert (out, told in err) == ("", True)


def test_a_file_that_is_not_there_and_a_wrong_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["import", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    assert status_of(["import"]) == 2
    assert status_of(["import", "--from", "apache", "x"]) == 2


@pytest.mark.parametrize(("module", "text"), [("crossplane", "location /mcp { proxy_pass http://a:1; }"), ("yaml", "mcp_servers: {}")])
def test_a_library_that_is_missing_is_named(
    module: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert status_of(["import", written(tmp_path, text + "\n;")]) == 1
    assert "pip install 'mcpproxy[import]'" in capsys.readouterr().err


def test_names_of_theirs_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({"mcpServers": {"\x1b[2J\na": {"command": "x", "\x1b]0;x\x07": 1, "env": {"\x1b": "y"}}}})
    assert status_of(["import", written(tmp_path, text)]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
