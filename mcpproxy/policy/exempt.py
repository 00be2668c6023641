"""What no limit counts: requests that keep a client in its era, let it find out how to log in, or give something back (MCP.md §9.5 tells the traps).

A 429 for `server/discover` makes clients believe that the server is an old one, for as long as they live; one for `/.well-known/…` ends their login; a
DELETE frees what a session holds. So these are exempt. Whoever is exempt must not be able to call anything:

 1. By the head alone only what cannot carry a call: DELETE; GET and HEAD of the well-known places, by their plain spelling.
 2. `Mcp-Method: server/discover` is a claim of the client. It exempts only when the body, of a length that is known and small, was looked at and says the
    same. A claim without such a body is counted like any call; one that contradicts its body is refused elsewhere (400, -32020).
 3. Exempt is not unbounded: `limits.Gate.probe` has an allowance far above what clients need, for each address. Beyond it the answer is 503, not 429.

Health is answered before any route is found, so no limit ever sees it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from mcpproxy.mcp.call import Call

DISCOVER = "server/discover"
DISCOVER_BODY = 16 * 1024  # bytes; a probe has a few hundred
_CLAIM = DISCOVER.encode()

# At the root (RFC 8615), or below the issuer's path, where OpenID Connect Discovery appends it and MCP clients look for it.
_WELL_KNOWN = re.compile(
    rb"/\.well-known/[A-Za-z0-9._~/-]+|/[A-Za-z0-9._~/-]*/\.well-known/(?:openid-configuration|oauth-authorization-server)"
)
_ODD = re.compile(rb"//|/\.\.?(?:/|\Z)")  # a server might walk to another place


class Exemption(Enum):
    """What the head says about it."""

    NONE = "counted like any other"
    CERTAIN = "not counted, whatever its body says"
    IF_BODY_SAYS = "not counted if its body is a server/discover"


def exemption(method: bytes, path: bytes, claim: bytes | None, length: int) -> Exemption:
    """By what a plan knows. `path` as received, without the query; `claim`: the only Mcp-Method; `length` of the body, below zero when it is not known."""
    if method == b"DELETE":
        return Exemption.CERTAIN
    if method in (b"GET", b"HEAD"):
        plain = _WELL_KNOWN.fullmatch(path) is not None and _ODD.search(path) is None
        return Exemption.CERTAIN if plain else Exemption.NONE
    if method == b"POST" and claim == _CLAIM and 0 < length <= DISCOVER_BODY:
        return Exemption.IF_BODY_SAYS
    return Exemption.NONE


def discovers(calls: Sequence[Call]) -> bool:
    """Does this body ask for nothing but `server/discover`? The one word that counts once a body was looked at, whatever the head claims."""
    return len(calls) == 1 and calls[0].method == DISCOVER
