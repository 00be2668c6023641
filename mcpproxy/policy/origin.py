"""Which web pages may call: Origin, preflights, and the fields that let their scripts read the answer.

A request without Origin does not come from a web page (or comes from one of this very host, which could do more than we can prevent). `null` is what
sandboxes and local files say: it is everybody's name, and so nobody's. An origin is compared as browsers write it: in lower case, an international name
in its xn-- form, without the port that its scheme has by itself; written in another way it does not come from a browser, and is refused.
The lists of fields are MCP's (all revisions).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ALLOWED_METHODS = b"GET, POST, DELETE, OPTIONS"
ALLOWED_FIELDS = (
    b"Authorization, Content-Type, Accept, X-API-Key, MCP-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id, Last-Event-ID, traceparent, "
    b"tracestate, baggage"
)
EXPOSED_FIELDS = b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, RateLimit, RateLimit-Policy, X-Request-Id"
MAX_AGE = b"7200"  # seconds a browser may remember a preflight: the most that Chromium takes
PARAMETERS = 64  # names of `Mcp-Param-*` that one preflight may ask for
is_parameter = re.compile(rb"mcp-param-[!#$%&'*+.^_`|~0-9a-z-]{1,64}").fullmatch
Fields = tuple[tuple[bytes, bytes], ...]


class Origins:
    """The `allow_origins` of a route. `keys`: fields in which its pages may show a key, beside the usual ones."""

    def __init__(self, allowed: Sequence[str], keys: Sequence[str] = ()) -> None:
        usual = {name.lower() for name in ALLOWED_FIELDS.split(b", ")}
        more = dict.fromkeys(name for name in (key.encode() for key in keys) if name.lower() not in usual)
        self._fields = b", ".join((ALLOWED_FIELDS, *more))
        self.anybody = "*" in allowed
        self._matches = re.compile("|".join(_pattern(origin) for origin in allowed if origin != "*") or r"(?!)").fullmatch

    def allows(self, origin: bytes) -> bool:
        """May pages of this origin call? (Another way to write one that may is none.)"""
        if self.anybody:
            return b"://" in origin  # `null` is no name
        return self._matches(origin.decode("latin-1")) is not None

    def grants(self, origin: bytes) -> Fields:
        """Fields for the answer to a page that may call."""
        return (
            (b"Access-Control-Allow-Origin", b"*" if self.anybody else origin),
            (b"Access-Control-Expose-Headers", EXPOSED_FIELDS),
            *self.varies(),
        )

    def varies(self) -> Fields:
        """For every answer, also to those who are no page: caches must not mix them up. Stands beside a Vary of the server (http/forward)."""
        return () if self.anybody else ((b"Vary", b"Origin"),)

    def preflight(self, origin: bytes, fields: bytes) -> Fields:
        """Fields for the answer to a preflight of a page that may call; `fields` is Access-Control-Request-Headers."""
        asked = dict.fromkeys(name.strip(b" \t") for name in fields.lower().split(b","))
        more = [name for name in asked if is_parameter(name)][:PARAMETERS]
        return (
            *self.grants(origin),
            (b"Access-Control-Allow-Methods", ALLOWED_METHODS),
            (b"Access-Control-Allow-Headers", b", ".join((self._fields, *more))),
            (b"Access-Control-Max-Age", MAX_AGE),
        )


def _pattern(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    wild = host.startswith("*.")
    host, colon, port = host.removeprefix("*.").rpartition(":") if re.search(r":[0-9*]+\Z", host) else (host.removeprefix("*."), "", "")
    labels = r"(?:[a-z0-9_-]{1,63}\.){1,16}" if wild else ""
    ports = "" if not colon else r"(?::[0-9]{1,5})?" if port == "*" else f":{port}"
    return f"{scheme}://{labels}{re.escape(host)}{ports}"
