"""What commands share: reading the configuration, and what is said when that fails."""

from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.cli.options import LEVELS, announce, configured, say, warnings
from mcpproxy.errors import StartError
from tests.support.certs import Certificate

GOOD = """
[[listen]]
address = "127.0.0.1:8000"
[upstream.u]
urls = ["http://127.0.0.1:9"]
[[route]]
upstream = "u"
"""


def written(directory: Path, text: str) -> Path:
    file = directory / "mcpproxy.toml"
    file.write_text(text)
    return file


def test_the_configuration_is_read(tmp_path: Path) -> None:
    assert configured(written(tmp_path, GOOD)).config.listen[0].address == "127.0.0.1:8000"


def test_the_state_directory_of_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, 'state_dir = "/elsewhere"\n' + GOOD)
    monkeypatch.chdir(tmp_path)
    assert configured(file).config.state_dir == "/elsewhere"
    assert configured(file, "here").config.state_dir == str(tmp_path / "here")


@pytest.mark.parametrize("command", [["run"], ["serve", "http://127.0.0.1:1"], ["cert", "dev"]])
def test_an_empty_state_directory_is_not_this_directory(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*command, "--state-dir", ""]) == 2
    assert "--state-dir" in capsys.readouterr().err.splitlines()[0]


def test_a_home_is_found_whatever_the_shell_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert status_of(["cert", "dev", "--state-dir=~/state"]) == 0
    assert (tmp_path / "state" / "ca.pem").exists()
    assert status_of(["cert", "dev", "--state-dir", "~nobody-of-this-name/state"]) == 0  # a directory of that name, then
    assert (tmp_path / "~nobody-of-this-name" / "state" / "ca.pem").exists()


def test_every_mistake_is_named_in_one_error(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD + 'pth = "/"\nmax_body = "10 apples"\n')
    with pytest.raises(StartError) as caught:
        configured(file)
    assert caught.value.message == f"{file}: 2 mistakes"
    assert "route[0].pth" in caught.value.hint
    assert "route[0].max_body" in caught.value.hint
    assert caught.value.code == 1


def test_certificates_are_looked_at_before_the_start(tmp_path: Path, certificate: Certificate) -> None:
    text = GOOD.replace('8000"', f'8000"\ntls = {{ cert = "{certificate.cert}", key = "{tmp_path}/none.pem" }}')
    with pytest.raises(StartError) as caught:
        configured(written(tmp_path, text))
    assert "none.pem: No such file or directory" in caught.value.hint


@pytest.mark.parametrize(("name", "said"), [("missing.toml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_one_line_and_advice(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(StartError, match=said) as caught:
        configured(tmp_path / name)
    assert "mcpproxy serve URL needs none" in caught.value.hint


def test_a_file_without_permission_is_no_mistake_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, GOOD)

    def forbidden(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.access", lambda *_, **__: False)
    monkeypatch.setattr("mcpproxy.config.load.read", forbidden)
    assert status_of(["check", "-c", str(file)]) == 1
    assert capsys.readouterr().err.splitlines()[0] == f"mcpproxy: {file}: Permission denied"


def test_warnings_name_their_line(tmp_path: Path) -> None:
    (warning,) = warnings(configured(written(tmp_path, GOOD.replace("127.0.0.1:8000", "0.0.0.0:8000"))))
    assert warning.startswith("mcpproxy: warning: line 3: listen[0].address: plain HTTP on a public address")


def test_a_key_everybody_can_read_is_a_warning(tmp_path: Path, certificate: Certificate) -> None:
    key = tmp_path / "loose.key"
    key.write_bytes(certificate.key.read_bytes())
    key.chmod(0o644)
    text = GOOD.replace('8000"', f'8000"\ntls = {{ cert = "{certificate.cert}", key = "{key}" }}')
    (warning,) = warnings(configured(written(tmp_path, text)))
    assert "loose.key" in warning


@pytest.mark.parametrize("wanted", LEVELS)
def test_messages_below_the_wanted_level_are_not_said(tmp_path: Path, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(written(tmp_path, GOOD + f'[log]\nlevel = "{wanted}"\n')).config
    for level in LEVELS:
        say(config, level, level)
    out, err = capsys.readouterr()
    assert (out, err.split()) == ("", list(LEVELS[LEVELS.index(wanted) :]))


def test_readiness_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(configured(written(tmp_path, GOOD)).config, ["http://127.0.0.1:8000", "unix:/run/x.sock"])
    assert capsys.readouterr() == ("", "mcpproxy: serving http://127.0.0.1:8000, unix:/run/x.sock\n")
