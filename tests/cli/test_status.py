"""mcpproxy status, for people and for scripts."""

import json
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.cli.status import lines, plain
from tests.cli.watched import watched
from tests.control.visiting import OVERVIEW

OVERVIEW_LOOK = {
    "version": "1", "health": "ok", "uptime_s": 61, "pid": 4711, "generation": 2, "requests": 1, "connections": {}, "workers": [], "upstreams": {},
    "open": OVERVIEW["open"], "problems": [], "certificates": [],
}  # fmt: skip


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


def test_members_have_a_line_each_and_what_only_the_gateway_asks_has_no_other():
    idle = {"in_use": 0, "waiting": 0, "endpoints": [{"label": "gateway", "state": "up", "in_use": 0, "idle": 0}]}
    look = {
        **OVERVIEW_LOOK,
        "upstreams": {
            "files": idle,
            "web": {"in_use": 0, "waiting": 0, "endpoints": [{"label": "127.0.0.1:1", "state": "up", "in_use": 0, "idle": 0}]},
            "both": {"in_use": 0, "waiting": 0, "endpoints": [{"label": "127.0.0.1:2", "state": "up", "in_use": 0, "idle": 3}]},
            "all": {**idle, "in_use": 2},
        },
        "gateway": {
            "members": {
                "files": {"state": "running", "pids": [7, 8], "calls": 3, "errors": 1, "restarts": 0},
                "web": {"state": "away", "calls": 0, "errors": 0, "restarts": 0, "last_error": "The server refused the connection."},
                "both": {"state": "idle"},
            },
            "upstreams": {"all": {"sessions": 4, "streams": 1, "members": ["files", "web", "both"]}},
        },
    }
    assert lines(look)[3:] == [
        "  upstream both: 0 in use, 0 waiting; 127.0.0.1:2 up",
        "  upstream all: 2 in use, 0 waiting; 4 sessions, 1 streams; files, web, both",
        "  member files: running, processes 7, 8; 3 calls, 1 errors, 0 restarts",
        "  member web: away; 0 calls, 0 errors, 0 restarts; The server refused the connection.",
        "  member both: idle; 0 calls, 0 errors, 0 restarts",
    ]


def test_what_needs_a_look_is_named_and_control_characters_are_not_obeyed() -> None:
    look = {
        **OVERVIEW_LOOK, "health": "degraded", "problems": ["worker 1 is \x1b[2Jsilent"],
        "certificates": [{"names": ["a"], "source": "file", "days": 2.5}, {"names": ["b"], "source": "acme", "days": None}],
    }  # fmt: skip
    said = lines(look)
    assert said[0].endswith(", generation 2, process 4711")
    assert said[2:-1] == ["  workers: ", "  certificate a (file): 2 days", "  certificate b (acme): not there yet"]
    assert said[-1] == "  ! worker 1 is ?[2Jsilent"
    assert plain("a\nb\u202e") == "a?b?"
