"""Who may come in to the admin listener, and may this page of the browser?

1. A unix socket's permissions say who may open it; on TCP with a token, every request shows it (Authorization: Bearer). The dashboard keeps it in its tab.
   There is no cookie: a browser would send it to every port of this host.
2. A name in Host that is not of this machine is refused: a web page that rebinds its own name to 127.0.0.1 (DNS rebinding) says that name. An IP address
   nobody can rebind. With a token names are let pass: such a page does not have it.
3. What a browser says of a page on another origin (Origin, Sec-Fetch-Site) is believed: refused. Nothing of CORS is ever answered.
4. Whoever changes something says so in JSON: no form of another page can.
5. The token is compared in constant time, is never in a URL or a message; every wrong one is paid for with WRONG_S.
"""

from __future__ import annotations

import ipaddress
from hashlib import sha256
from hmac import compare_digest

from mcpproxy.control.web import Refusal, Request, pay

WRONG_S = 0.5  # before somebody with a wrong token hears so
LOCAL = frozenset({"localhost", "localhost.", "ip6-localhost"})
NAVIGATIONS = frozenset({"same-origin", "none"})


class Doorman:
    """At one listener. `token`: what must be shown; empty: whoever can connect may come in."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def polite(self, request: Request) -> None:
        """Rules 2 to 4. Raises Refusal."""
        headers = request.headers
        host = headers.get("host", "")
        if not self._token and not is_local(host):
            raise Refusal(421, "this name is not one of this machine's: use localhost or an address")
        origin = headers.get("origin")
        if (origin is not None and origin not in (f"http://{host}", f"https://{host}")) or (
            headers.get("sec-fetch-site", "none") not in NAVIGATIONS and not _is_visit(headers)
        ):
            raise Refusal(403, "web pages of other origins have no business here")
        if (
            request.method not in ("GET", "HEAD")
            and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json"
        ):
            raise Refusal(415, "whatever changes something is asked for in application/json")

    async def admit(self, request: Request) -> str:
        """Who it is, for the messages. Raises Refusal (401)."""
        if not self._token:
            return request.peer
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return f"token from {request.peer}"
        if scheme:
            await pay(WRONG_S)
        raise Refusal(401, "a token is needed here", (("WWW-Authenticate", 'Bearer realm="mcpproxy admin"'),))

    def _is_token(self, shown: str) -> bool:
        return compare_digest(sha256(shown.encode("latin-1", "replace")).digest(), sha256(self._token.encode()).digest())


def is_local(host: str) -> bool:
    """Is this Host (with or without a port) a name of this machine that no web page can have, or an address?"""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
    if name.lower() in LOCAL:
        return True
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def _is_visit(headers: dict[str, str]) -> bool:
    """A person followed a link to the dashboard: the page itself says nothing."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
