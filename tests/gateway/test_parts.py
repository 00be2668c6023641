"""The words of the room."""

from mcpproxy.gateway.parts import INTERNAL, Answer
from mcpproxy.mcp import message


def test_errors_of_ours_lie_outside_of_the_reserved_range() -> None:
    """MCP 2026-07-28, basic/index: -32768 to -32000 is JSON-RPC's and the protocol's."""
    for code in INTERNAL:
        assert not -32768 <= code <= -32000
        failure = Answer.failure(code, "why", {"member": "x"})
        assert failure.error is not None
        assert failure.result is None
        assert message.plain(failure.error) == {"code": code, "message": "why", "data": {"member": "x"}}
