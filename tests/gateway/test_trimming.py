"""Results that are too large: cut where they can be, refused where not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.gateway.parts import TOO_LARGE, Answer
from mcpproxy.gateway.trimming import trimmed


def result(*texts: str, **more: Any) -> Answer:
    return Answer(json.dumps({"content": [{"type": "text", "text": each} for each in texts], **more}).encode())


def texts(answer: Answer) -> list[str]:
    return [each["text"] for each in json.loads(answer.result or b"")["content"]]


def test_what_fits_is_not_touched() -> None:
    small = result("x" * 100)
    assert trimmed("tools/call", small, 1000) is small
    assert trimmed("tools/list", result("x" * 5000), 1000).result
    error = Answer(error=b"{}")
    assert trimmed("tools/call", error, 1) is error


def test_the_last_text_is_cut_first_and_says_so() -> None:
    answer = trimmed("tools/call", result("first", "x" * 5000, isError=False, new=1.5), 1000)
    assert len(answer.result or b"") <= 1000
    found = json.loads(answer.result or b"")
    assert (found["isError"], found["new"]) == (False, 1.5)
    first, cut = texts(answer)
    assert first == "first"
    assert cut.startswith("xxx")
    assert "[cut here: the whole result has" in cut
    assert len(texts(trimmed("tools/call", result("y" * 900, "x" * 900), 1000))) == 2


@given(st.lists(st.text(max_size=300), min_size=1, max_size=5), st.integers(700, 2000))
def test_whatever_it_says_it_fits_or_is_refused(said: list[str], most: int) -> None:
    answer = trimmed("tools/call", result(*said), most)
    if answer.result is None:
        assert json.loads(answer.error or b"")["code"] == TOO_LARGE
    else:
        assert len(answer.result) <= most
        assert all(new == old or old.startswith(new.partition("\n[cut")[0]) for old, new in zip(said, texts(answer), strict=True))


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("tools/call", result("x" * 5000, structuredContent={"a": 1})),
        ("tools/call", Answer(json.dumps({"content": [{"type": "image", "data": "x" * 5000}]}).encode())),
        ("tools/call", Answer(b'{"content":[{"type":"text"}],"x":"' + b"x" * 5000 + b'"}')),
        ("tools/call", Answer(b'{"x":"' + b"x" * 5000 + b'"}')),
        ("resources/read", Answer(json.dumps({"contents": [{"uri": "x", "text": "x" * 5000}]}).encode())),
        ("prompts/get", result("x" * 5000)),
    ],
)
def test_what_cannot_be_cut_is_refused(method: str, answer: Answer) -> None:
    found = json.loads(trimmed(method, answer, 1000).error or b"")
    assert found["code"] == TOO_LARGE
    assert "1000 are allowed (max_result)" in found["message"]
