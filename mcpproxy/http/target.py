"""Where does a request want to go: its target and its Host.

Accepted are origin-form and absolute-form with the authority that Host names (reduced to origin-form: the next hop gets Host anyway), and `*` with
OPTIONS. A route is found by the path as it was sent, so a path that the server would rewrite into another one is refused: dot segments, also
percent-encoded or with parameters; backslashes; percent-encoded controls and broken percent-encodings.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

HOST_LIMIT = 255  # bytes of a name in DNS

_authority = re.compile(rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*\.?))(?::([0-9]{1,5}))?").fullmatch
_absolute = re.compile(rb"https?://([^/?]+)(/[^?]*)?(\?.*)?", re.IGNORECASE).fullmatch
_bad = re.compile(rb"[^!-~]|[#\\]").search
_bad_path = re.compile(
    rb"(?:/|%2f|%5c)(?:\.|%2e){1,2}(?:/|%2f|%5c|;|%3b|$)"  # dot segments, also as servers see them that decode first or know /..;/
    rb"|%(?![0-9a-f]{2})"
    rb"|%(?:[01][0-9a-f]|7f)",
    re.IGNORECASE,
).search


def is_authority(value: bytes) -> bool:
    """Is this host[:port] as RFC 3986 §3.2 means it, and as names and addresses really look?"""
    found = _authority(value)
    if found is None or len(value) > HOST_LIMIT + 6 or (found[3] is not None and int(found[3]) > 65535):
        return False
    if found[1] is not None:
        try:
            IPv6Address(found[1].decode("ascii"))
        except AddressValueError:
            return False
    return True


def host_of(authority: bytes) -> bytes:
    """The host of a good authority as routes know it: lower case, without port and without the root's dot; an IPv6 address in its one short form."""
    host = authority.rpartition(b":")[0] if authority.rfind(b":") > authority.rfind(b"]") else authority
    if host.startswith(b"["):
        return b"[%b]" % str(IPv6Address(host[1:-1].decode("ascii"))).encode()
    return host.lower().removesuffix(b".")


def reduced(method: bytes, target: bytes, authority: bytes) -> bytes | None:
    """The target for the next hop, or None when this one must be refused."""
    if _bad(target):
        return None
    if not target.startswith(b"/"):
        if target == b"*":
            return target if method == b"OPTIONS" else None
        found = _absolute(target)
        if found is None or found[1].lower() != authority.lower():
            return None
        if method == b"OPTIONS" and found[2] is None and found[3] is None:
            return b"*"  # RFC 9112 §3.2.4
        target = (found[2] or b"/") + (found[3] or b"")
    return None if _bad_path(target.partition(b"?")[0]) else target
