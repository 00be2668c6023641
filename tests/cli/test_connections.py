"""mcpproxy connections: who is there, and out with one."""

import json
from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.watched import Watched, watched
from tests.scenarios.test_admin import open_stream
from tests.support.waiting import until


def nobody(here: Watched, capsys: pytest.CaptureFixture[str]) -> bool:
    assert status_of(["connections", *here.words]) == 0
    return capsys.readouterr() == ("", "nobody is connected\n")


def test_they_are_listed_and_one_is_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with watched(tmp_path) as here:
        stream = open_stream(here.daemon)
        assert status_of(["connections", *here.words]) == 0
        assert "127.0.0.1  HTTP/1.1  1 request  1 open" in capsys.readouterr().out
        assert status_of(["connections", "--upstream", "u", *here.words]) == 0
        line = capsys.readouterr().out
        assert "  stream  127.0.0.1  GET /stream  u (" in line
        assert status_of(["connections", "--principal", "nobody", *here.words]) == 0
        assert capsys.readouterr() == ("", "nothing is open\n")
        assert status_of(["connections", "--principal", "nobody", "--json", *here.words]) == 0
        assert capsys.readouterr() == ("", "")
        assert status_of(["connections", "--streams", "--json", *here.words]) == 0
        name = json.loads(capsys.readouterr().out)["id"]
        assert line.startswith(name)
        assert status_of(["connections", "--close", name, *here.words]) == 0
        assert here.daemon.record(end="stopped")["path"] == "/stream"
        stream.close()
        until(lambda: nobody(here, capsys), "it is said that nobody is connected")
        assert status_of(["connections", "--close", name, *here.words]) == 1
        assert "there is no such connection" in capsys.readouterr().err
