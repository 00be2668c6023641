"""mcpproxy reload: it is done when the command is over, or the command says why not."""

from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.watched import watched
from tests.support.waiting import until


def test_the_new_configuration_is_in_force_or_every_mistake_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path) as here:
        good = here.daemon.file.read_text()
        here.daemon.file.write_text(good + '\n[limits]\nkeepalive = "10s"\n')
        assert status_of(["reload", *here.words]) == 0
        assert "mcpproxy: configuration reloaded (generation 2)" in capsys.readouterr().out
        here.daemon.file.write_text(good + '\n[limits]\nkeepalive = "soon"\nnonsense = 1\n')
        assert status_of(["reload", *here.words]) == 1
        said = capsys.readouterr().err
        assert "limits.keepalive" in said
        assert "limits.nonsense" in said
        assert status_of(["status", *here.words]) == 1, "it is found all the same"
        said = capsys.readouterr().out
        assert "generation 2" in said
        assert "! the last reload was refused: " in said
        here.daemon.file.write_text(good)
        assert status_of(["reload", *here.words]) == 0
        assert status_of(["status", *here.words]) == 0
        assert "generation 3" in capsys.readouterr().out


def test_a_process_gets_a_signal_where_nobody_can_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As under systemd with `[admin] address = "off"`, or with an address that only the new file has."""
    with watched(tmp_path) as here:
        told = ["reload", *here.words, "--admin", f"unix:{tmp_path}/none.sock", "--pid", str(here.daemon.process.pid)]
        assert status_of(told) == 0
        assert "was told to read its configuration again" in capsys.readouterr().out
        until(lambda: any("generation 2" in line for line in here.daemon.messages), "the reload")
        here.daemon.file.write_text(here.daemon.file.read_text() + "\n[limits]\nnonsense = 1\n")
        assert status_of(told) == 1, "not even told"
        assert "limits.nonsense" in capsys.readouterr().err
        assert status_of(["reload", *here.words, "--pid", "999999999"]) == 1, "who answers decides"
        assert "limits.nonsense" in capsys.readouterr().err


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["reload", "--admin", f"unix:{tmp_path}/none.sock"]) == 1
    assert "no daemon answers at" in capsys.readouterr().err
