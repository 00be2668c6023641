"""mcpproxy check: every mistake at once, nothing touched."""

from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.test_options import GOOD, written


def test_a_good_file_is_fine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD)
    assert status_of(["check", "-c", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: fine\n", "")


def test_mistakes_are_counted_first_and_listed_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD.replace('"u"\n', '"v"\n') + "idle_timeout = 30\nsomething = 1\n")
    assert status_of(["check", "-c", str(file)]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, lines[0]) == ("", f"mcpproxy: {file}: 3 mistakes")
    assert [line[:9] for line in lines[1:]] == ["  line 7:", "  line 8:", "  line 9:"]


def test_the_unwise_is_fine_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD.replace("127.0.0.1:8000", "0.0.0.0:8000"))
    assert status_of(["check", "-c", str(file)]) == 0
    out, err = capsys.readouterr()
    assert (out, err.startswith("mcpproxy: warning: ")) == (f"{file}: fine\n", True)


def test_a_public_name_for_a_development_certificate_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, GOOD.replace('8000"', '8000"\ntls = { hosts = ["mcp.example.com"] }'))
    assert status_of(["check", "-c", str(file)]) == 1
    assert "mcp.example.com: the development root vouches only for local names" in capsys.readouterr().err


@pytest.mark.parametrize("tls", ['"dev"', '{ hosts = ["mcp.test"] }'])
def test_a_state_directory_that_would_stop_the_start_is_found(tls: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    good = f'state_dir = "{state}"\n' + GOOD
    file = written(tmp_path, good.replace('8000"', f'8000"\ntls = {tls}'))
    state.mkdir(mode=0o700)
    assert status_of(["check", "-c", str(file)]) == 0
    state.chmod(0o777)
    assert status_of(["check", "-c", str(file)]) == 1
    assert f"state directory {state}: others may write to it" in capsys.readouterr().err
    state.rmdir()
    state.touch()
    assert status_of(["check", "-c", str(file)]) == 1
    assert f"state directory {state}: is not a directory" in capsys.readouterr().err
    assert status_of(["check", "-c", str(written(tmp_path, good))]) == 0  # nothing is kept there without a development certificate
    state.unlink()
    file = written(tmp_path, good.replace('8000"', f'8000"\ntls = {tls}').replace(str(state), f"{file}/below"))
    assert status_of(["check", "-c", str(file)]) == 1
    assert "Not a directory" in capsys.readouterr().err


def test_checking_writes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    file = written(tmp_path, f'state_dir = "{state}"\n' + GOOD.replace('8000"', '8000"\ntls = "dev"'))
    assert status_of(["check", "-c", str(file)]) == 0
    assert not state.exists()


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MCPPROXY_CONFIG", str(written(tmp_path, GOOD)))
    assert status_of(["check"]) == 0
    assert "fine" in capsys.readouterr().out
