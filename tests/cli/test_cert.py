"""mcpproxy cert dev: files, and how to trust them."""

from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.pki import devca


def test_the_files_are_made_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path), "--host", "mcp.test", "--host", "192.168.1.20"]) == 0
    out = capsys.readouterr().out
    files = devca.files(tmp_path)
    assert all(str(path) in out and path.is_file() for path in files)
    assert f"--cacert {files.ca}" in out
    names = devca.names_of(devca.read_certificate(devca.Store(tmp_path), "cert.pem"))
    assert {devca.general_name("mcp.test"), devca.general_name("192.168.1.20")} <= set(names)


def test_the_default_place_is_the_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    assert status_of(["cert", "dev"]) == 0
    assert devca.files(tmp_path / "state").ca.is_file()


@pytest.mark.parametrize(("host", "status"), [("mcp.example.com", 1), ("not a host", 2)])
def test_names_it_cannot_vouch_for_are_refused(tmp_path: Path, host: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path), "--host", host]) == status
    assert host in capsys.readouterr().err.splitlines()[0]


def test_a_directory_that_cannot_be_made_is_one_line_and_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert status_of(["cert", "dev", "--state-dir", str(tmp_path / "file" / "below")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"mcpproxy: state directory {tmp_path}/file/below: Not a directory",
        "  name another one with --state-dir or state_dir",
    ]
