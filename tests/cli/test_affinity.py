"""mcpproxy affinity rotate: a new key in front, the file as it was otherwise."""

import os
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.config.sealfile import NAME, new_file, parse

CONFIG = '[[listen]]\naddress = "127.0.0.1:1"\n[upstream.u]\nurls = ["http://a", "http://b"]\n[[route]]\nupstream = "u"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "c.toml"
    file.write_text(CONFIG + f'[affinity]\nkey_file = "{tmp_path}/keys"\n')
    (tmp_path / "keys").write_bytes(new_file())
    (tmp_path / "keys").chmod(0o640)
    return file


def test_a_new_key_comes_in_front(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    (first,) = parse(keys.read_bytes())
    assert status_of(["affinity", "rotate", "-c", str(config)]) == 0
    assert capsys.readouterr().out == f"{keys}: a new key seals; 2 keys open\n"
    assert parse(keys.read_bytes())[1:] == [first]
    assert keys.stat().st_mode & 0o777 == 0o640, "as it was"
    assert status_of(["affinity", "rotate", "-c", str(config), "--keep", "0"]) == 0
    assert len(parse(keys.read_bytes())) == 1
    assert sorted(os.listdir(tmp_path)) == ["c.toml", "keys"]


def test_without_a_key_file_it_is_that_of_the_state_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(CONFIG)
    arguments = ["affinity", "rotate", "-c", str(tmp_path / "c.toml"), "--state-dir", str(tmp_path)]
    assert status_of(arguments) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / NAME).write_bytes(new_file())
    (tmp_path / NAME).chmod(0o600)
    assert status_of(arguments) == 0
    assert len(parse((tmp_path / NAME).read_bytes())) == 2


def test_a_file_that_is_none_is_left_alone(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("words\n")
    assert status_of(["affinity", "rotate", "-c", str(config)]) == 1
    assert capsys.readouterr().err.splitlines()[0].startswith(f"mcpproxy: {tmp_path}/keys: line 1 is no key")
    assert (tmp_path / "keys").read_text() == "words\n"
