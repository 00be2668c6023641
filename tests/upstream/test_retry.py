"""The retry rule, as a table."""

import pytest

from mcpproxy.upstream.retry import may_retry

FACTS = {"reused": True, "attempts": 1, "accepted": False, "method": b"POST", "whole": True}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({}, True),
        ({"reused": False}, False),
        ({"attempts": 2}, False),
        ({"whole": False}, False),
        ({"accepted": True}, False),
        ({"accepted": True, "method": b"PUT"}, False),
        ({"accepted": True, "method": b"PATCH"}, False),
        ({"accepted": True, "method": b"GET"}, True),
        ({"accepted": True, "method": b"HEAD"}, True),
        ({"accepted": True, "method": b"OPTIONS"}, True),
        ({"accepted": True, "method": b"DELETE"}, True),
        ({"accepted": True, "method": b"DELETE", "reused": False}, False),
        ({"accepted": True, "method": b"get"}, False),
    ],
)
def test_a_request_is_sent_again_only_when_that_is_harmless(change, answer):
    assert answer is may_retry(**{**FACTS, **change})
