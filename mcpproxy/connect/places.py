"""Where URLs lead, and over which proxy; and what is said when a way does not lead there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit


class WireError(Exception):
    """It did not work. `sent`: the server may have heard it."""

    def __init__(self, text: str, *, sent: bool = False, hopeless: bool = False) -> None:
        super().__init__(text)
        self.text, self.sent = text, sent
        self.hopeless = hopeless  # asking again will not help: a certificate, a URL


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads."""

    secure: bool
    name: str
    port: int
    authority: str
    target: str

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What may share connections."""
        return self.secure, self.name, self.port


def place_of(url: str) -> Place:
    """Raises WireError for what is no http(s) URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise WireError(f"{url!r} is not a URL", hopeless=True) from None
    name = (parts.hostname or "").lower()
    if parts.scheme not in ("https", "http") or not name or "@" in parts.netloc or not url.isascii() or not url.isprintable() or " " in url:
        raise WireError(f"{url!r} is not a URL like https://mcp.example.com/mcp (without user and password)", hopeless=True)
    secure = parts.scheme == "https"
    shown = f"[{name}]" if ":" in name else name
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(secure, name, port or (443 if secure else 80), shown if port is None else f"{shown}:{port}", target)


def is_loopback(name: str) -> bool:
    """This machine, by a name that says so."""
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def proxy_for(place: Place, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for this place. To this machine there is none."""
    if is_loopback(place.name):
        return None
    proxies = _proxies(environment)
    if _bypassed(place, proxies.get("no", "")):
        return None
    return proxies.get("https" if place.secure else "http") or proxies.get("all")


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    lower = {name.lower(): value for name, value in sorted(environment.items()) if value}  # the lower-case spelling wins
    return {name.removesuffix("_proxy"): value for name, value in lower.items() if name.endswith("_proxy")}


def _bypassed(place: Place, without: str) -> bool:
    """Does NO_PROXY name it? `*`, names with what lies below them, each perhaps with a port."""
    for each in (part.strip().lower() for part in without.split(",")):
        name, _, port = each.rpartition(":") if each.rpartition(":")[2].isdigit() else (each, "", "")
        name = name.removeprefix("*").removeprefix(".")
        if each == "*" or (name and (not port or int(port) == place.port) and (place.name == name or place.name.endswith(f".{name}"))):
            return True
    return False
