"""What we know about field names: one row per field a proxy must not simply pass on, and what a well-formed name or value is.

Drop in a request, drop in a response, and why. Fields named by `Connection` are dropped beside these (RFC 9110 §7.6.1), and in requests every name
with an underscore: CGI-like servers cannot tell it from the one with a dash, so `X_Real_IP` would pass for ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.6.2
VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")  # RFC 9110 §5.5: no CTL but HTAB, no edge spaces


@dataclass(frozen=True, slots=True)
class Rule:
    """How one field is treated."""

    name: bytes
    in_request: bool
    in_response: bool
    why: str


RULES = (
    Rule(b"connection", True, True, "hop-by-hop: written anew for the next hop"),
    Rule(b"keep-alive", True, True, "hop-by-hop: says how long this link idles, not the next one"),
    Rule(b"proxy-connection", True, True, "never standard, always hop-by-hop in effect"),
    Rule(b"proxy-authenticate", False, True, "between a client and its own proxy"),
    Rule(b"proxy-authorization", True, True, "a credential for us, not for the server"),
    Rule(b"proxy-authentication-info", False, True, "between a client and its own proxy"),
    Rule(b"proxy", True, False, "httpoxy: becomes HTTP_PROXY in CGI-like servers"),
    Rule(b"te", True, False, "hop-by-hop: what this link may carry"),
    Rule(b"transfer-encoding", True, True, "hop-by-hop: written anew from the framing that was judged"),
    Rule(b"upgrade", True, True, "hop-by-hop: written anew when an upgrade is allowed"),
    Rule(b"http2-settings", True, False, "part of an upgrade we do not forward (RFC 9113 §3.1)"),
    Rule(b"content-length", True, False, "written anew from the framing that was judged"),
    Rule(b"host", True, False, "written anew for the upstream"),
    Rule(b"forwarded", True, False, "who is in front of us is ours to say (RFC 7239)"),
    Rule(b"x-real-ip", True, False, "who is in front of us is ours to say"),
    Rule(b"x-request-id", True, False, "written anew: the client's when it is well-formed, else ours"),
)
DROP_IN_REQUEST = frozenset(rule.name for rule in RULES if rule.in_request)
DROP_IN_RESPONSE = frozenset(rule.name for rule in RULES if rule.in_response)
DROP_PREFIXES_IN_REQUEST = (b"x-forwarded-",)  # whatever a client claims here, servers believe
NEVER_NOMINATED = frozenset({b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization", b"cookie", b"expect"})
"""Fields a client may not have removed by naming them in `Connection`: the judgement rests on them."""

NEVER_IN_TRAILERS = frozenset(
    {
        b"transfer-encoding", b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer", b"te", b"connection",
        b"keep-alive", b"upgrade", b"host", b"expect", b"max-forwards", b"range", b"cache-control", b"age", b"date", b"expires", b"location",
        b"retry-after", b"vary", b"warning", b"authorization", b"www-authenticate", b"cookie", b"set-cookie", b"proxy-authorization",
        b"proxy-authenticate", b"proxy-connection", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip",
        b"mcp-session-id", b"mcp-method", b"mcp-name", b"mcp-protocol-version", b"x-api-key", b"origin", b"last-event-id",
    }
)  # fmt: skip
"""RFC 9110 §6.5.1: no framing, routing, authorization or response control in trailers."""


def options(values: list[bytes]) -> list[bytes]:
    """A comma-separated list field (`Connection`, `Upgrade`), lower-case, empty members left out."""
    found = []
    for value in values:
        found += [part.strip(b" \t").lower() for part in value.split(b",")]
    return [option for option in found if option]
