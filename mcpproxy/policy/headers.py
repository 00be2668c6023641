"""What is changed in response heads for security's sake: fields that protect browsers, and fields that tell too much.

Only added where the server does not say its own; over TLS only: HSTS (RFC 6797 §7.2).
"""

from __future__ import annotations

from mcpproxy.config.model import Route
from mcpproxy.http.forward import Dress

HSTS = (b"Strict-Transport-Security", b"max-age=63072000; includeSubDomains")
ALWAYS = ((b"X-Content-Type-Options", b"nosniff"), (b"X-Frame-Options", b"DENY"))


def dress(route: Route, secure: bool) -> Dress | None:
    """Of a route on a listener; None: nothing changes."""
    add = ((HSTS, *ALWAYS) if secure else ALWAYS) if route.security_headers else ()
    drop = frozenset(name.lower().encode() for name in route.hide_headers)
    return Dress(add=add, drop=drop) if add or drop else None
