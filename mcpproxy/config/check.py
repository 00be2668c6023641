"""What only shows when the whole configuration is seen.

    problems(config)        names that must exist, things that must not be there twice, combinations that mean nothing: mistakes
    unwise(config)          legal, and probably not what was wanted: warnings
    check_files(config)     the files it names (config/files): `mcpproxy check` and the start both ask

Blank values stand for what was found wrong already; they are passed over. Nothing here changes the configuration.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from mcpproxy.config import check_acme, check_gateway, check_policies, files, names
from mcpproxy.config.kinds import PROCESSES
from mcpproxy.config.mistakes import Finding, Mistake, Wrong, nearest
from mcpproxy.config.model import Config, Tls, Upstream
from mcpproxy.config.serving import OFF
from mcpproxy.config.upstreams import HTTP, TCP, Health

LINKS, CLIENTS = 8, 64  # of an upstream's max_connections, and of limits.connections, for each worker that nobody asked for by number


def problems(config: Config) -> Iterator[Finding]:
    """Everything that makes the configuration unusable."""
    yield from _listeners(config)
    yield from _routes(config)
    yield from _upstreams(config)
    yield from _circles(config)
    yield from check_policies.problems(config)
    yield from check_acme.problems(config)
    yield from check_gateway.problems(config)
    yield from _admin(config)
    if config.workers > 1:
        yield from several(config)
    if config.group is not None and config.user is None:
        yield Finding(("group",), "goes with user")
    if config.otel is not None and not 0 <= config.otel.sample <= 1:
        yield Finding(("otel", "sample"), "is a share: from 0 (none) to 1 (all)")
    if config.limits.target >= config.limits.head:
        yield Finding(("limits", "target"), "must be smaller than limits.head: the target is a part of the head")


def several(config: Config) -> Iterator[Finding]:
    """What does not go with several processes."""
    for name, upstream in config.upstream.items():
        if upstream.max_connections < config.workers:
            what = f"fewer than workers ({config.workers}): each of them has its share, and one would have none"
            yield Finding(("upstream", name, "max_connections"), what)
    if 0 < config.limits.connections < config.workers:
        yield Finding(("limits", "connections"), f"fewer than workers ({config.workers}): each of them has its share")


def sensible_workers(config: Config, cores: int) -> int:
    """How many for `workers = "auto"`: one for each core, as long as each gets enough of what is divided among them to need nothing of the others'."""
    shares = [upstream.max_connections // LINKS for upstream in config.upstream.values()]
    if config.limits.connections:
        shares.append(config.limits.connections // CLIENTS)
    return max(1, min(cores, PROCESSES, *shares))


def _listeners(config: Config) -> Iterator[Finding]:
    if not config.listen:
        yield Finding(("listen",), 'there is no listener: add [[listen]] with address = "0.0.0.0:443"')
    for number, listen in enumerate(config.listen):
        place = ("listen", number)
        if listen.redirect and listen.tls is not None:
            yield Finding((*place, "redirect"), "a listener with tls has nothing to redirect: leave out redirect or tls")
        if isinstance(listen.tls, Tls):
            yield from _tls(listen.tls, (*place, "tls"))
        if not listen.redirect and not config.route:
            yield Finding(place, 'nothing is behind this listener: add [[route]] with upstream = "…"', given=("route",))
        other = next((index for index in range(number) if _clash(config.listen[index].address, listen.address)), None)
        if other is not None:
            yield Finding((*place, "address"), f"{listen.address} is taken by listen[{other}] ({config.listen[other].address})")


def _admin(config: Config) -> Iterator[Finding]:
    """Who comes in by TCP shows a token, or is on this machine."""
    address = config.admin.address or ""
    other = next((number for number, listen in enumerate(config.listen) if address and _clash(listen.address, address)), None)
    if other is not None:
        yield Finding(("admin", "address"), f"{address} is taken by listen[{other}] ({config.listen[other].address})")
    if address in ("", OFF) or address.startswith("unix:"):
        if config.admin.token is not None:
            yield Finding(
                ("admin", "token"), 'nobody is asked for it: who may open the socket may come in; it goes with address = "127.0.0.1:9090"'
            )
    elif config.admin.token is None and not ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_loopback:
        what = f"{address} can be reached from elsewhere, and everybody may do everything there: add a token, or listen on 127.0.0.1"
        yield Finding(("admin", "address"), what)


def _clash(one: str, other: str) -> bool:
    """Can the system not give both? (An IPv6 listener takes no IPv4 connections here, so `[::]:443` and `0.0.0.0:443` go together.)"""
    host, _, port = one.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    if not one or port == "0" or port != other_port or host.startswith("[") != other_host.startswith("["):
        return False
    return host == other_host or any(every in (host, other_host) for every in ("0.0.0.0", "[::]"))


def _tls(tls: Tls, place: tuple[str | int, ...]) -> Iterator[Finding]:
    if (tls.cert is None) != (tls.key is None):
        given, missing = ("cert", "key") if tls.key is None else ("key", "cert")
        yield Finding((*place, given), f"{given} and {missing} go together: {missing} is missing")
    if tls.hosts and (tls.cert or tls.key or (tls.certificates and tls.acme is None)):
        what = "names for a certificate by ACME have their own place beside cert and key: certificates = [{ hosts = [...] }]"
        alone = "names for a development certificate mean nothing beside certificate files: leave out one of them"
        yield Finding((*place, "hosts"), alone if tls.acme is None else what)
    for number, each in enumerate(tls.certificates):
        if (each.cert is None) != (each.key is None):
            given, missing = ("cert", "key") if each.key is None else ("key", "cert")
            yield Finding((*place, "certificates", number, given), f"{given} and {missing} go together: {missing} is missing")
        elif (each.cert is None) == (not each.hosts):
            yield Finding((*place, "certificates", number), "a certificate has either cert and key, or hosts (and comes by acme)")
    if not (tls.hosts or tls.cert or tls.key or tls.certificates or tls.acme):
        yield Finding(place, 'no certificate: give cert and key, certificates, hosts and acme, or write tls = "dev"')


def _routes(config: Config) -> Iterator[Finding]:
    seen: dict[tuple[str, bytes], int] = {}
    called: dict[str, int] = {}
    for number, route in enumerate(config.route):
        place = ("route", number)
        if route.name and called.setdefault(route.name, number) != number:
            yield Finding((*place, "name"), f'route[{called[route.name]}] is called "{route.name}" already')
        if route.upstream and route.upstream not in config.upstream:
            known = sorted(config.upstream)
            said = nearest(route.upstream, known) if known else f"; add [upstream.{route.upstream}]"
            yield Finding((*place, "upstream"), f'there is no upstream "{route.upstream}"{said}', tuple(known), given=("upstream",))
        for host in route.host or ("",):
            key = (host, names.generous_path(route.path.encode()))
            if key in seen:
                what = f'host "{host}" and path "{route.path}"' if host else f'path "{route.path}" for any host'
                yield Finding(place, f"route[{seen[key]}] has {what} already")
            seen.setdefault(key, number)
        if route.strip_prefix and route.path == "/":
            yield Finding((*place, "strip_prefix"), 'there is nothing to strip from path "/"')


def _upstreams(config: Config) -> Iterator[Finding]:
    for name, upstream in config.upstream.items():
        place = ("upstream", name)
        for url, endpoint in upstream.endpoints.items():
            try:
                known = names.url(url) in upstream.urls
            except Wrong:
                continue  # said where it was read
            if not known:
                said = f"there is no such URL in `urls`{nearest(url, upstream.urls)}"
                yield Finding((*place, "endpoints", url), said, tuple(f'"{one}"' for one in upstream.urls))
            if endpoint.max_connections is not None and endpoint.max_connections < config.workers:
                what = f"fewer than workers ({config.workers}): each of them has its share, and one would have none"
                yield Finding((*place, "endpoints", url, "max_connections"), what)
        if (upstream.cert is None) != (upstream.key is None):
            given, missing = ("cert", "key") if upstream.key is None else ("key", "cert")
            yield Finding((*place, given), f"{given} and {missing} go together: {missing} is missing")
        if upstream.health is not None:
            yield from _health(upstream.health, (*place, "health"))


def _health(health: Health, place: tuple[str | int, ...]) -> Iterator[Finding]:
    if health.timeout is not None and health.timeout > health.every:
        yield Finding((*place, "timeout"), "must not be longer than `every`: one check ends before the next begins")
    if health.check == TCP and health.path is not None:
        yield Finding((*place, "path"), "a TCP check asks for nothing: leave out path, or check")
    if health.check != HTTP and health.expect:
        yield Finding((*place, "expect"), f'is for check = "{HTTP}"; an MCP call has a result or not')


def _circles(config: Config) -> Iterator[Finding]:
    """A server that is ourselves: every request would come back until no descriptor is left."""
    for name, upstream in config.upstream.items():
        for number, url in enumerate(upstream.urls):
            for listen in config.listen:
                if _leads_to(url, listen.address):
                    place = ("upstream", name, "urls", number)
                    yield Finding(place, f"{url} is this proxy itself (it listens on {listen.address}): give the address of the server")


def _leads_to(url: str, address: str) -> bool:
    """Does this upstream URL, as far as can be told without asking anybody, lead to this listening address?"""
    if url.startswith("unix:") or address.startswith("unix:"):
        return url == address
    parts = urlsplit(url)
    name, (host, _, port) = parts.hostname or "", address.rpartition(":")
    if not port or (parts.port or (443 if parts.scheme == "https" else 80)) != int(port):
        return False
    ours = ipaddress.ip_address(host.strip("[]"))
    if name == "localhost":
        return ours.is_loopback or ours.is_unspecified
    try:
        theirs = ipaddress.ip_address(name)
    except ValueError:
        return False
    return theirs == ours or (ours.is_unspecified and theirs.version == ours.version and (theirs.is_loopback or theirs.is_unspecified))


def unwise(config: Config) -> Iterator[Finding]:
    """Warnings."""
    yield from check_policies.unwise(config)
    yield from check_acme.unwise(config)
    yield from check_gateway.unwise(config)
    secure = any(listen.tls is not None for listen in config.listen)
    for number, listen in enumerate(config.listen):
        place = ("listen", number)
        public = not _is_private(listen.address)
        if public and listen.tls is None and not listen.redirect:
            yield Finding((*place, "address"), "plain HTTP on a public address: tokens and calls can be read on the way; add tls")
        if public and (listen.tls == "dev" or (isinstance(listen.tls, Tls) and listen.tls.hosts and listen.tls.acme is None)):
            yield Finding(
                (*place, "tls"), "a development certificate on a public address: clients that do not trust this machine refuse it"
            )
        if listen.redirect and not secure:
            yield Finding((*place, "redirect"), "redirects to port 443, but no listener here has tls")
    used = {route.upstream for route in config.route} | {member for upstream in config.upstream.values() for member in upstream.members}
    for name, upstream in config.upstream.items():
        if name not in used:
            yield Finding(("upstream", name), "no route leads here")
        yield from _unwise_upstream(upstream, ("upstream", name))
    for number, route in enumerate(config.route):
        place = ("route", number)
        if route.sse_keepalive is not None and route.sse_keepalive < 1:
            yield Finding((*place, "sse_keepalive"), "more than one comment a second on every silent stream: is the unit right?")
        if route.tools is not None and not route.tools.allow and not route.tools.shadow:
            yield Finding((*place, "tools"), "every call is denied: no `allow` says what is not")
        if route.idle_timeout < 60:
            yield Finding((*place, "idle_timeout"), "streams that are quiet for less than a minute are cut: is the unit right?")
        if config.health is not None and names.plain_path(route.path.encode()) == names.plain_path(config.health.encode()):
            yield Finding((*place, "path"), f"requests to exactly {config.health} are answered by the health check of the proxy")


def _unwise_upstream(upstream: Upstream, place: tuple[str | int, ...]) -> Iterator[Finding]:
    https = any(url.startswith("https:") for url in upstream.urls)
    if upstream.keepalive > upstream.max_connections:
        yield Finding((*place, "keepalive"), "more idle connections than max_connections allows in use")
    if not https:
        for key in ("cert", "server_name"):
            if getattr(upstream, key) is not None:
                yield Finding((*place, key), "is not used: no url is https")
    if upstream.health is not None and upstream.health.every < 1:
        yield Finding((*place, "health", "every"), "more than one check a second of each server: is the unit right?")
    if (
        upstream.urls
        and all(endpoint.state != "enabled" for endpoint in map(upstream.endpoints.get, upstream.urls) if endpoint is not None)
        and len(upstream.endpoints) == len(upstream.urls)
    ):
        yield Finding((*place, "endpoints"), "none of its servers is enabled: every call is answered 503")
    if https and not upstream.verify:
        yield Finding((*place, "verify"), "the server's certificate is not checked: anyone on the way can pretend to be it; prefer ca")
    if upstream.ca is not None and not (https and upstream.verify):
        yield Finding((*place, "ca"), "is not used: " + ("verify is false" if https else "no url is https"))
    if upstream.response_timeout < 5:
        yield Finding((*place, "response_timeout"), "tools that think for longer than this are answered 504: is the unit right?")
    near = upstream.host.partition(".")[0]
    if upstream.host not in ("upstream", "keep") and "." not in upstream.host and nearest(near, ("upstream", "keep")):
        yield Finding((*place, "host"), f'"{upstream.host}" is taken as a host name{nearest(near, ("upstream", "keep"))}')


def _is_private(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    ip = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    return ip.is_loopback or (ip.is_private and not ip.is_unspecified)


def check_files(config: Config) -> list[Mistake]:
    """What is wrong with the certificates, keys, authorities and directories the configuration names. Empty: all can be used."""
    return [finding.located({}) for finding in files.broken(config)]
