"""May this be said to this client? What it declared decides (MCP, basic/lifecycle; 2026-07-28, basic/index, `_meta`).

A server behind us may be shared, and was told what all of its clients can do together: so it is asked here again, for the one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Params

steps = re.compile(r"[/?#]").finditer
NEEDS = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
LEVELS = {name: rank for rank, name in enumerate(("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"))}


def unfit(capabilities: Params, method: str, params: bytes | None) -> str:
    """Why a client with these capabilities cannot be asked this; "" where it can. Methods nobody here knows can."""
    need = "tasks" if method.startswith("tasks/") else NEEDS.get(method)
    if need is None:
        return ""
    declared = capabilities.get(need)
    if declared is None:
        return f"the client has not declared {need}"
    if method == "elicitation/create" and params is not None and b'"url"' in params:
        try:
            forms = message.parts(declared)
            if message.parts(params).get("mode") == b'"url"' and "url" not in forms:
                return "the client has not declared elicitation by URL"
        except CallError:
            return "the question cannot be read"
    return ""


def loud_enough(level: str | None, params: Params) -> bool:
    """Does a client that wants log messages from `level` on want this one?"""
    if level is None:
        return True
    said = LEVELS.get(params.get("level", b"").strip(b'"').decode("latin-1"))
    return said is None or said >= LEVELS.get(level, 0)


def above(uri: str) -> Iterator[str]:
    """A URI and all that it lies below, the nearest first: who subscribed to one of these hears of it (MCP server/resources, subscriptions)."""
    yield uri
    for step in reversed(list(steps(uri))):
        yield uri[: step.end()]
        yield uri[: step.start()]


def concerns(wanted: Collection[str], params: Params) -> bool:
    """Is a `resources/updated` about one of these, or what lies below it? Raises CallError."""
    uri = message.plain(params.get("uri", b"null"))
    return isinstance(uri, str) and any(each in wanted for each in above(uri))
