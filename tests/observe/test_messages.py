"""The daemon's own words reach stderr when they can, and hold nobody up when they cannot."""

import contextlib
import os
from pathlib import Path

import pytest

from mcpproxy.observe import messages
from mcpproxy.observe.messages import LEVELS, Messages, priority


@pytest.mark.parametrize("wanted", LEVELS)
def test_only_what_is_important_enough_is_said(wanted: str, capfd: pytest.CaptureFixture[str]) -> None:
    for level in LEVELS:
        Messages(wanted).say(level, f"this is {level}")
    said = [line.rpartition(" ")[2] for line in capfd.readouterr().err.splitlines()]
    assert said == list(LEVELS[LEVELS.index(wanted) :])


def test_a_line_is_one_line_and_names_its_level(capfd: pytest.CaptureFixture[str]) -> None:
    Messages("info").say("info", "here")
    Messages("info").say("warning", "a\nb\x1b[31m \udc80")
    assert capfd.readouterr().err == "mcpproxy: here\nmcpproxy: warning: a?b?[31m ?\n"


def test_a_full_pipe_is_not_waited_for_and_a_closed_one_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(messages, "STDERR", writer)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    Messages("info").say("error", "nobody reads")
    os.close(reader)
    Messages("info").say("error", "nobody can")
    os.close(writer)
    Messages("info").say("error", "not there")


@pytest.mark.parametrize(("level", "begins"), [("debug", "<7>"), ("info", "<6>"), ("warning", "<4>"), ("error", "<3>")])
def test_in_the_journal_a_line_has_its_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str, begins: str) -> None:
    with (tmp_path / "journal").open("wb") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(messages, "STDERR", journal.fileno())
        Messages("debug").say(level, "here")
        assert (tmp_path / "journal").read_text() == f"{begins}mcpproxy: {'' if level == 'info' else f'{level}: '}here\n"


@pytest.mark.parametrize("stream", ["", "1:2", "nonsense"])
def test_stderr_that_is_not_the_journal_gets_none(monkeypatch: pytest.MonkeyPatch, stream: str) -> None:
    """A shell in a service has the variable, too, and its own stderr."""
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert priority("error") == ""
    monkeypatch.setattr(messages, "STDERR", 999)
    assert priority("error") == ""
