"""What the edge answers by itself: health, redirects, no such host or route, and the log's view of heads that were never understood."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mcpproxy.clock import http_date, monotonic
from mcpproxy.edge.exchange import NO_UPSTREAM
from mcpproxy.edge.plan import SILENT, only_head
from mcpproxy.errors import ProxyError
from mcpproxy.http import replies
from mcpproxy.http.replies import dated
from mcpproxy.mcp.jsonrpc import CallError

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream
    from mcpproxy.edge.plan import Plan

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[!-~]{0,2048})?")  # a path; other forms may hold a password

SWALLOWED = 64 * 1024  # bytes of body of a request that is answered here, that are read and forgotten to keep the connection


def answer(client: Downstream, plan: Plan, data: bytes, end: int) -> None:
    """Send the plan's own answer. A small body is read and forgotten first, so that the connection can go on; otherwise it ends."""
    missing = plan.body - (len(data) - end)
    if plan.keep and 0 <= plan.body <= SWALLOWED and not client.draining.is_set:
        if missing > 0 and not plan.expects:
            client.swallow(missing, end)
            return
        if missing <= 0:
            client.ahead = data[end + plan.body :]
            reply(client, plan, end + plan.body, keep=True)
            return
    reply(client, plan, len(data), keep=False)


def reply(client: Downstream, plan: Plan, size: int, *, keep: bool) -> None:
    """The plan's own answer to a request of `size` bytes, and its line in the log."""
    made = plan.answer if keep else plan.answer_close
    assert made is not None
    out = dated(made, http_date())
    x = client.exchange
    extra = b',"reason":"%b"' % plan.reason if plan.reason else b""
    end = b"refused" if plan.reason else b"local"
    row = (plan.about, client.about, x.request_id, x.began, 0.0, monotonic(), plan.status, size, len(out))
    client.log.add((*row, NO_UPSTREAM, 0, end, extra, plan.place))
    if plan.guard is not None:
        x.bytes_in = size
        plan.guard.refused(x, plan.status, plan.reason.decode(), len(out))
    x.request_ended = keep or not plan.body
    client.exchange_over(keep, out)


def refusal(error: ProxyError, head: bytes, *, mcp: bool, close: bool, date: bytes = b"") -> bytes:
    """The answer to a head that is not to be served. What contradicts itself about the call has a code of MCP's own."""
    if mcp and isinstance(error, CallError):
        answer = replies.rpc_error(error.status, error.code, "", b"", error.kind, close=close, date=date)
    else:
        answer = replies.reply(error.status, error.kind, jsonrpc=mcp, close=close, date=date)
    return only_head(answer) if head.startswith(b"HEAD ") else answer


def describe_refused(head: bytes, protocol: str | None = None, kind: str = "") -> bytes:
    """Members for a head that was refused or never ended: method and path if the first line looks like one, never a query or fragment, never a field."""
    found = REQUEST_LINE.match(head) if kind not in SILENT else None
    method = found.group(1).decode() if found else None
    path = found.group(2).partition(b"?")[0].partition(b"#")[0].decode("latin-1")[:256] if found and found.group(2) else None
    return json.dumps({"method": method, "host": None, "path": path, "protocol": protocol}, separators=(",", ":"))[1:-1].encode()
