"""Entries for the tests of the audit log."""

from typing import Any

from mcpproxy.mcp.call import Call, calls_of
from mcpproxy.mcp.outcome import OK
from mcpproxy.observe.auditline import Entry

ARGUMENTS = b'{"query":"weather","path":"/a/b","limit":10}'


def call(arguments: bytes = ARGUMENTS, tool: str = "search", *, id: bytes = b"1") -> tuple[Call, ...]:
    body = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"%b","arguments":%b}}'
    return calls_of(body % (id, tool.encode(), arguments))


def entry(**changes: Any) -> Entry:
    """A call of agent-alpha that went well."""
    facts: dict[str, Any] = {
        "began": 100.0,
        "ended": 100.25,
        "request_id": b"abc-1",
        "client": b'"client":"192.0.2.1"',
        "who": b',"principal":"agent-alpha","auth":"keys","key":"7h3kq9x2ab"',
        "where": b',"route":"route[0]","upstream":"search","session":"0123456789ab"',
        "trace": b"0af7651916cd43dd8448eb211c80319c",
        "era": "2025-11-25",
        "calls": call(),
        "verdict": "allowed",
        "rule": "route[0].tools.allow[0]",
        "reason": "",
        "outcome": OK,
        "status": 200,
        "bytes_in": 300,
        "bytes_out": 400,
    }
    return Entry(**facts | changes)
