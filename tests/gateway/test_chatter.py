"""What processes say, within bounds."""

from __future__ import annotations

import pytest

from mcpproxy.gateway import chatter
from mcpproxy.gateway.chatter import Chatter


async def test_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, str]] = []
    speak = Chatter("files", lambda level, text: said.append((level, text)))
    for n in range(chatter.MOST + 7):
        speak("info", f"word {n}")
    assert len(said) == chatter.MOST
    assert said[0] == ("info", "files: word 0")
    monkeypatch.setattr(chatter, "WINDOW", 0.0)
    speak("warning", "later")
    assert said[-2:] == [("info", "files: 7 more messages were left out"), ("warning", "files: later")]
