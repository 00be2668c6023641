"""What the edge answers by itself: health, redirects, no such host or route, and the log's view of heads that were never understood."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mcpproxy.clock import http_date, monotonic
from mcpproxy.edge.exchange import NO_UPSTREAM
from mcpproxy.http.replies import dated

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream
    from mcpproxy.edge.plan import Plan

REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[!-~]{0,2048})?")  # a path; other forms may hold a password


def answer(client: Downstream, plan: Plan, data: bytes, end: int) -> None:
    """Send the plan's own answer. A body the client may be sending is not waited for: the connection ends then."""
    keep = plan.keep and not client.draining.is_set
    made = plan.answer if keep else plan.answer_close
    assert made is not None
    reply = dated(made, http_date())
    x = client.exchange
    client.log.add(
        (
            plan.about,
            client.about,
            x.request_id,
            x.began,
            0.0,
            monotonic(),
            plan.status,
            len(data) if not keep else end,
            len(reply),
            NO_UPSTREAM,
            0,
            b"local",
            b"",
        )
    )
    client.ahead = data[end:]
    x.request_ended = plan.keep or not plan.has_body
    client.exchange_over(keep, reply)


def describe_refused(head: bytes, protocol: str | None = None) -> bytes:
    """Members for a head that was refused or never ended: method and path if the first line looks like one, never a query or fragment, never a field."""
    found = REQUEST_LINE.match(head)
    method = found.group(1).decode() if found else None
    path = found.group(2).partition(b"?")[0].partition(b"#")[0].decode("latin-1")[:256] if found and found.group(2) else None
    return json.dumps({"method": method, "host": None, "path": path, "protocol": protocol}, separators=(",", ":"))[1:-1].encode()
