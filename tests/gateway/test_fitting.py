"""May this be said to this client?"""

import pytest

from mcpproxy.gateway.fitting import concerns, loud_enough, unfit
from mcpproxy.mcp import message


@pytest.mark.parametrize(
    ("declared", "method", "params", "may"),
    [
        ({}, "elicitation/create", None, False),
        ({"elicitation": b"{}"}, "elicitation/create", b'{"message":"x"}', True),
        ({"elicitation": b"{}"}, "elicitation/create", b'{"mode":"url","url":"https://x"}', False),
        ({"elicitation": b'{"url":{}}'}, "elicitation/create", b'{"mode":"url","url":"https://x"}', True),
        ({"elicitation": b'"?"'}, "elicitation/create", b'{"mode":"url"}', False),
        ({"elicitation": b"{}"}, "sampling/createMessage", None, False),
        ({"sampling": b"{}"}, "sampling/createMessage", None, True),
        ({"roots": b"{}"}, "roots/list", None, True),
        ({}, "tasks/get", None, False),
        ({}, "of/tomorrow", None, True),
    ],
)
def test_only_what_was_declared_is_asked(declared: dict[str, bytes], method: str, params: bytes | None, may: bool) -> None:
    assert (unfit(declared, method, params) == "") is may


@pytest.mark.parametrize(
    ("level", "said", "wanted"),
    [(None, "debug", True), ("info", "debug", False), ("info", "info", True), ("error", "emergency", True), ("error", "louder", True)],
)
def test_log_messages_from_a_level_on(level: str | None, said: str, wanted: bool) -> None:
    assert loud_enough(level, {"level": message.text(said)}) is wanted


@pytest.mark.parametrize(
    ("subscribed", "changed", "heard"),
    [
        ("file:///a", "file:///a", True),
        ("file:///a", "file:///a/b/c", True),
        ("file:///a/", "file:///a/b", True),
        ("file:///a", "file:///a?x=1", True),
        ("file:///a", "file:///a#part", True),
        ("file:///a", "file:///ab", False),
        ("file:///a/b", "file:///a", False),
        ("note:1", "note:12", False),
    ],
)
def test_changes_below_what_was_subscribed_to_are_heard(subscribed: str, changed: str, heard: bool) -> None:
    assert concerns({subscribed}, {"uri": message.text(changed)}) is heard


def test_a_change_of_nothing_concerns_nobody() -> None:
    assert not concerns({"x"}, {}) and not concerns({"x"}, {"uri": b"[1]"})
