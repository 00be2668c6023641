"""mcpproxy status, for people and for scripts."""

import json
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.cli.status import lines, plain
from tests.cli.watched import watched
from tests.control.visiting import OVERVIEW


def test_a_daemon_that_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path) as here:
        assert status_of(["status", *here.words]) == 0
        said = capsys.readouterr().out
        assert ": ok, up " in said
        assert f"{here.endpoint} up" in said
        assert status_of(["status", "--json", *here.words]) == 0
        assert json.loads(capsys.readouterr().out)["health"] == "ok"


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["status", "--admin", f"unix:{tmp_path}/none.sock"]) == 1
    assert "no daemon answers at" in capsys.readouterr().err


def test_what_needs_a_look_is_named_and_control_characters_are_not_obeyed() -> None:
    look = {
        "version": "1", "health": "degraded", "uptime_s": 61, "pid": 4711, "generation": 2, "requests": 1, "connections": {}, "workers": [], "upstreams": {},
        "open": OVERVIEW["open"], "problems": ["worker 1 is \x1b[2Jsilent"],
        "certificates": [{"names": ["a"], "source": "file", "days": 2.5}, {"names": ["b"], "source": "acme", "days": None}],
    }  # fmt: skip
    said = lines(look)
    assert said[0].endswith(", generation 2, process 4711")
    assert said[2:-1] == ["  workers: ", "  certificate a (file): 2 days", "  certificate b (acme): not there yet"]
    assert said[-1] == "  ! worker 1 is ?[2Jsilent"
    assert plain("a\nb\u202e") == "a?b?"
