"""A warden's judgement of one entry, in each mode. tests/gateway/test_guarded.py has it at work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from mcpproxy.config import lockfile
from mcpproxy.config.model import Upstream
from mcpproxy.gateway.warden import Judgement, Warden
from mcpproxy.mcp.merge import PROMPTS, TOOLS, Item
from tests.support.gateway import SomeHub

A = Item("a", b'{"name":"a","description":"x"}')
SPACED = Item("a", b'{ "description": "x", "name": "a" }')
CHANGED = Item("a", b'{"name":"a","description":"y"}')
NEW = Item("b", b'{"name":"b"}')
WHY, NOT_IN = "is not as it was approved", "is not in the lock file"


def warden(directory: Path, drift: Literal["log", "hide", "block"]) -> tuple[Warden, list[str]]:
    said: list[str] = []
    file = directory / "mcp.lock"
    lockfile.write(str(file), {"m": {"tools": {"a": {"name": "a", "description": "x"}}}})
    found = Warden("m", SomeHub(), lambda level, text: said.append(text))
    found.become(Upstream(command=("x",), lock=str(file), drift=drift, suspicious="off"))
    return found, said


@pytest.mark.parametrize(
    ("drift", "changed", "new"),
    [
        ("log", CHANGED.raw, NEW.raw),
        ("hide", None, None),
        ("block", A.raw, None),
    ],
)
def test_what_is_seen_of_an_entry(tmp_path: Path, drift: Literal["log", "hide", "block"], changed: bytes | None, new: bytes | None) -> None:
    judge, said = warden(tmp_path, drift)
    for each in (A, SPACED):
        assert judge.judge(TOOLS, each, {}) == Judgement("", each.raw)
    assert not said
    found = judge.judge(TOOLS, CHANGED, {})
    assert found.why == WHY
    assert (found.shown is None) == (changed is None)
    assert found.shown is None or lockfile.entry(found.shown) == lockfile.entry(changed or b"")
    assert judge.judge(TOOLS, NEW, {}) == Judgement(NOT_IN, new)
    assert judge.judge(PROMPTS, A, {}).why == NOT_IN, "a tool is no prompt"
    assert len(said) == 3
    assert judge.refuses == (drift != "log")


def test_names_in_messages_show_what_is_in_them(tmp_path: Path) -> None:
    judge, said = warden(tmp_path, "hide")
    judge.judge(TOOLS, Item("a\u200b", b'{"name":"a\xe2\x80\x8b"}'), {})
    assert said == ["m: tool a\\u200b is not in the lock file: it is hidden (mcpproxy lock m shows the difference)"]
