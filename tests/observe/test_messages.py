"""The daemon's own words reach stderr when they can, and hold nobody up when they cannot."""

import contextlib
import os

import pytest

from mcpproxy.observe import messages
from mcpproxy.observe.messages import LEVELS, Messages


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
