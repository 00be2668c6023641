"""Who may connect from where, and whose word counts about who it is.

1. Addresses are compared as what they are: an IPv4 address inside an IPv6 one (`::ffff:10.0.0.1`) is the IPv4 address. A unix socket is in no network,
   however large: it is `unix`.
2. From a trusted proxy the client is the last address in X-Forwarded-For that is no trusted proxy itself. What stands further left, the client could
   have written itself. An entry that is no address (`unknown`, nothing at all) ends the walk: the proxy that wrote it is the client then.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
UNIX = "unix"
HOPS = 32  # entries of X-Forwarded-For that are looked at; nobody has more proxies
WRITTEN = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?|([0-9.]{7,15})(?::[0-9]{1,5})?|([0-9A-Fa-f:.]{2,45})(?:%[!-~]{1,32})?")


class Ranges:
    """Addresses of a list in the configuration."""

    __slots__ = ("_networks", "_unix")

    def __init__(self, texts: Sequence[str]) -> None:
        self._unix = UNIX in texts
        self._networks = tuple(ipaddress.ip_network(text) for text in texts if text != UNIX)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __contains__(self, address: str) -> bool:
        if address == UNIX:
            return self._unix
        found = plain(address)
        return found is not None and any(found.version == network.version and found in network for network in self._networks)


class Networks:
    """The address rules of the routes, and the trusted proxies of a listener."""

    def __init__(self, rules: Sequence[tuple[Sequence[str], Sequence[str]]], trusted: Sequence[str]) -> None:
        """`rules`: allow_from and deny_from of each route."""
        self._rules = [(Ranges(allow), Ranges(deny)) for allow, deny in rules]
        self._trusted = Ranges(trusted)
        self.idle = not self._trusted and not any(allow or deny for allow, deny in self._rules)  # nothing depends on addresses
        self.barred, self.trusts = lru_cache(maxsize=4096)(self._barred), lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        """Is this one of our proxies?"""
        return address in self._trusted

    def _barred(self, address: str) -> frozenset[int]:
        """The routes (by number) that take nobody from this address."""
        return frozenset(
            number for number, (allow, deny) in enumerate(self._rules) if (deny and address in deny) or (allow and address not in allow)
        )

    def client(self, peer: str, forwarded: Sequence[bytes]) -> str:
        """Rule 2. `peer` is a trusted proxy, `forwarded` the values of all X-Forwarded-For fields, in order."""
        found = peer
        for entry in reversed(b",".join(forwarded).rsplit(b",", HOPS)[-HOPS:]):
            address = plain(entry.strip(b" \t").decode("latin-1"))
            if address is None:
                break
            found = str(address)
            if found not in self._trusted:
                break
        return found


def plain(text: str) -> Address | None:
    """The address in a text: `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`, with a port as some proxies write it; a zone is left out."""
    written = WRITTEN.fullmatch(text)
    if written is None:
        return None
    try:
        address = ipaddress.ip_address(written[1] or written[2] or written[3])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address if written[2] else None  # in brackets or with a zone it is none
    return address.ipv4_mapped or address
