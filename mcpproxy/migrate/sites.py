"""What web servers say about sites, whichever of them it is: listeners with certificates, groups of addresses, the path a request has behind us.

nginx and Caddy share this file because they share the question: what of a site is said by our routes, and what is not.
"""

from __future__ import annotations

import ipaddress
import re

from mcpproxy import units
from mcpproxy.config import names
from mcpproxy.migrate import hidden
from mcpproxy.migrate.found import Found, Keys, Part, valid

OURS = frozenset(  # header fields that our edge sets, or passes, by itself
    "host connection upgrade x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-forwarded-server x-forwarded-scheme "
    "x-forwarded-ssl x-forwarded-uri x-original-uri forwarded x-request-id proxy accept accept-encoding cache-control content-type content-length te "
    "x-accel-buffering last-event-id user-agent origin".split()
)
SECURITY = frozenset(("strict-transport-security", "x-frame-options", "x-content-type-options"))
STREAMING = frozenset(("cache-control", "x-accel-buffering", "connection", "content-type", "keep-alive", "alt-svc"))
SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]?)(i?)b?", re.IGNORECASE)
TIME = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w|M|y)?")
FACTORS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2592000, "y": 31536000}
LONGEST = 366 * 86400.0


def duration(text: str, bare: str = "s") -> str | None:
    """`1h30m` or `3600` as we write it."""
    parts = TIME.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    seconds = sum(float(number) * FACTORS[unit or bare] for number, unit in parts)
    return units.show_duration(seconds) if 0.001 <= seconds <= LONGEST else None


def size(text: str, *, decimal: bool = False) -> str | None:
    """`100M` as we write it."""
    found = SIZE.fullmatch(text)
    if not found:
        return None
    step = 1000 if decimal and not found[3] else 1024
    count = int(found[1]) * step ** "kmgt".index(found[2].lower()) * (step if found[2] else 1) if found[2] else int(found[1])
    return units.show_size(count) if 0 < count < 1 << 50 else None


def hosts(found: Found, place: str, given: list[str]) -> list[str]:
    """Names of a site, as routes have them; none: any."""
    out: list[str] = []
    for name in given:
        if name in ("_", "", "*", '""'):
            continue
        wanted = [name[1:], f"*{name}"] if name.startswith(".") else [name]
        for each in wanted:
            host = valid(names.host, each.rstrip("."))
            if host is None:
                found.note(place, f'the host name "{each[:60]}" has no equivalent (exact names, and *. at the left)')
            elif host not in out:
                out.append(host)
    return out


def path_to(found: Found, place: str, path: str, uri: str | None) -> Keys | None:
    """How a location and the path behind it (None: unchanged) are said: keys of the route, and of the upstream under "upstream"."""
    if hidden.secret_value(path) or hidden.secret_value(uri or ""):
        found.note(place, "its path holds what looks like a secret, which is not written here: left out")
        return None
    ours = valid(names.path, path.rstrip("/") or "/")
    if ours is None:
        found.note(place, "its path has no equivalent (a prefix of whole segments): left out")
        return None
    if uri is None or (uri.rstrip("/") or "/") == ours:
        return {"path": ours}
    if uri == "/" and ours != "/":
        return {"path": ours, "strip_prefix": True}
    theirs = valid(names.path, uri.rstrip("/") or "/")
    if theirs is None:
        found.note(place, "the path behind it has no equivalent: left out")
        return None
    found.note(place, f"paths below {ours} are not put below {theirs}; the MCP endpoint there is served at {ours} (bridge)")
    keys: Keys = {"bridge": True, "mcp_path": theirs}
    if theirs.endswith("/sse"):
        keys["transport"] = "sse"
    return {"path": ours, "upstream": keys}


def upstream_host(found: Found, place: str, part: Keys, text: str, *, keep: tuple[str, ...], own: tuple[str, ...]) -> None:
    """The Host that the server gets."""
    if text in keep:
        part["host"] = "keep"
    elif text not in own:
        fixed = valid(names.host_policy, text)
        if fixed is None:
            found.note(place, 'this Host has no equivalent: upstream.host is a name, "keep" or "upstream"')
        else:
            part["host"] = fixed


def sent_field(found: Found, owner: str, place: str, part: Keys, name: str, value: str, *, variable: bool) -> None:
    """A header field that is set for the server: our own, or its credential, or nothing of ours."""
    if name.lower() in OURS or name.lower().startswith(("mcp-", "sec-websocket", "cf-", "x-forwarded-", "access-control-request")):
        return
    if not variable and not value:
        found.note(place, f"{name}: a field is not taken out of requests here")
    elif (
        not variable and "credential" not in part and (hidden.secret_name(name) or hidden.secret_value(value)) and valid(names.header, name)
    ):
        part["credential"] = {"type": "header", "header": name, "value": hidden.credential(found, owner, name, value)}
    elif variable and name.lower() == "authorization":
        return
    else:
        found.note(place, f"{name}: no such field is set for the server (principal_header and identity tell it who calls)")


def tls_name(host: str) -> bool:
    """Can a public authority sign this name?"""
    last = host.rpartition(".")[2]
    return (
        "." in host
        and not host.startswith(("*.", "["))
        and "_" not in host
        and not last.isdigit()
        and last
        not in ("localhost", "local", "internal", "lan", "home", "test", "arpa", "invalid", "example", "localdomain", "onion", "private")
    )


def is_address(host: str) -> bool:
    """An IP address?"""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def slug(text: str) -> str:
    """A name for an upstream, from its first address."""
    text = re.sub(r"^[a-z0-9+]+://", "", text)
    text = re.sub(r"^unix:.*/", "", text).removesuffix(".sock")
    host, _, port = text.rpartition(":")
    plain = (
        (f"server-{port}" if port.isdigit() and (host in ("localhost", "") or is_address(host)) else host or text)
        if port.isdigit()
        else text
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:50] or "server"


def part_of(found: Found, place: str, wanted: str, keys: Keys) -> Part:
    """An upstream with these keys, made once."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", wanted).strip("-._")[:50] or "server"
    return found.shared(name, place, keys)


def merge_origins(route: Keys, value: str) -> bool:
    """Access-Control-Allow-Origin, as allow_origins; False: it is none."""
    origin = "*" if value in ("*", "$http_origin", "{http.request.header.Origin}", "{header.Origin}") else valid(names.origin, value)
    if origin is None:
        return False
    route |= {"allow_origins": [origin], "cors": True}
    return True
