"""Programs that servers are: known to be missing before anybody calls them."""

import pytest

from mcpproxy.config import programs
from mcpproxy.config.model import Config, Upstream


def said(directory, **keys):
    config = Config(listen=(), upstream={"files": Upstream(**keys)}, state_dir=str(directory))
    return [(finding.place[-1], finding.message) for check in (programs.broken, programs.unwise) for finding in check(config)]


def test_what_is_there_is_not_spoken_of(tmp_path):
    assert [] == said(tmp_path, command=("sh", "-c", "true"))
    assert [] == said(tmp_path, urls=("http://h",))
    assert [] == said(tmp_path, command=("/bin/sh",), cwd=str(tmp_path))


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "./server"])
def test_a_program_that_is_not_there(tmp_path, program):
    assert [0] == [place for place, _ in said(tmp_path, command=(program,))]


def test_programs_are_looked_for_where_the_server_will_run(tmp_path):
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert [] == said(tmp_path, command=("./server",), cwd=str(tmp_path))
    assert [] == said("/", command=("server",), env={"PATH": str(tmp_path)})
    assert [] == said("/", command=("server",), env={"PATH": "env:ELSEWHERE"})


def test_a_directory_that_is_not_there(tmp_path):
    assert [("cwd", f"{tmp_path}/x: there is no such directory")] == said(tmp_path, command=("sh",), cwd=f"{tmp_path}/x")


def test_a_sandbox_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ["sandbox"] == [place for place, _ in said(tmp_path, command=("/bin/sh",), sandbox="bwrap")]
