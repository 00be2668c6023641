"""What tools say of themselves is the last word of the lists that passed."""

import json

import pytest

from mcpproxy.policy import hints
from mcpproxy.policy.hints import Hints


def listed(*tools: tuple[str, object]) -> bytes:
    return json.dumps(
        {"tools": [{"name": name, "annotations": said, "inputSchema": {}} for name, said in tools], "nextCursor": ""}
    ).encode()


def test_only_true_is_a_yes() -> None:
    known = Hints()
    assert known.learn(listed(("a", {"readOnlyHint": True}), ("b", {"readOnlyHint": False}), ("c", {}), ("d", None)))
    assert [known.read_only(name) for name in "abcde"] == [True, False, False, False, None]


def test_lists_come_in_pages_and_the_last_word_counts() -> None:
    known = Hints()
    known.learn(listed(("a", {"readOnlyHint": True})))
    known.learn(listed(("b", {"readOnlyHint": True})))
    assert (known.read_only("a"), known.read_only("b")) == (True, True)
    known.learn(listed(("a", {"readOnlyHint": False})))
    assert (known.read_only("a"), known.read_only("b")) == (False, True)


def test_a_tool_that_is_listed_twice_is_its_worse_half() -> None:
    known = Hints()
    known.learn(listed(("a", {"readOnlyHint": True}), ("a", {"destructiveHint": True}), ("a", {"readOnlyHint": True})))
    assert known.read_only("a") is False


@pytest.mark.parametrize("result", [b"", b"{}", b'{"tools":5}', b'{"tools":[{"name":5}]}', b"\xff", b'{"tools":' + b"[" * 100_000])
def test_what_is_no_list_teaches_nothing(result: bytes) -> None:
    assert not Hints().learn(result)


def test_a_server_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "TOOLS", 2)
    known = Hints()
    known.learn(listed(*((name, {"readOnlyHint": True}) for name in ("a", "b", "c", "x" * 257))))
    known.learn(listed(("b", {})))
    assert [known.read_only(name) for name in ("a", "b", "c", "x" * 257)] == [True, False, None, None]
