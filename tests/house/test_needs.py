"""Tests that this machine cannot run are left out and named; in CI that is a failure."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT

PLAY = """
import pytest

def test_that_needs_nothing():
    pass

@pytest.mark.needs("sh")
def test_of_a_program_that_is_here():
    pass

@pytest.mark.needs("no-such-program")
@pytest.mark.parametrize("number", [1, 2])
def test_of_a_program_that_is_not(number):
    raise AssertionError("it ran")

@pytest.mark.software("no-such-room")
def test_of_a_room_that_is_not():
    raise AssertionError("it ran")
"""


def play(directory: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "conftest.py").write_text("from tests.needs import *\n")
    (directory / "test_play.py").write_text(PLAY)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers =\n    needs\n    software\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *options], cwd=directory, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_what_cannot_run_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.delenv("MCPPROXY_TESTS", raising=False)
    answer = play(tmp_path, monkeypatch, *options)
    assert answer.returncode == 0, answer.stdout
    assert "2 passed" in answer.stdout
    assert "left out: 2 tests need no-such-program, which is not installed" in answer.stdout
    assert "left out: 1 tests need no-such-room, which `make real` fetches" in answer.stdout


@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_in_ci_nothing_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.setenv("MCPPROXY_TESTS", "all")
    answer = play(tmp_path, monkeypatch, *options)
    assert answer.returncode == 1, answer.stdout
    assert "nothing may be left out" in answer.stdout
