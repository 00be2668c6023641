"""May this be said to this client?"""

import pytest

from mcpproxy.gateway.fitting import loud_enough, unfit
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
