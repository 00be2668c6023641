"""What only shows when the whole configuration is seen.

    problems(config)        names that must exist, things that must not be there twice, combinations that mean nothing: these refuse the configuration
    unwise(config)          legal, and probably not what was wanted: warnings
    check_files(config)     certificates, keys and authorities it names: `mcpproxy check` and the start both ask

Blank values stand for what was found wrong already; they are passed over. Nothing here changes the configuration.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

from mcpproxy.config import names
from mcpproxy.config.mistakes import Finding, Mistake, nearest
from mcpproxy.config.model import CertificateFiles, Config, Limits, Listen, Log, Route, Tls, Upstream

NAMES: dict[type, str] = {
    Listen: "[[listen]]",
    Tls: "[listen.tls]",
    CertificateFiles: "[[listen.tls.certificates]]",
    Upstream: "[upstream.NAME]",
    Route: "[[route]]",
    Log: "[log]",
    Limits: "[limits]",
    Config: "the top of the file",
}


def problems(config: Config) -> Iterator[Finding]:
    """Everything that makes the configuration unusable."""
    yield from _listeners(config)
    yield from _routes(config)
    if config.limits.target >= config.limits.head:
        yield Finding(("limits", "target"), "must be smaller than limits.head: the target is a part of the head")


def _listeners(config: Config) -> Iterator[Finding]:
    if not config.listen:
        yield Finding(("listen",), 'there is no listener: add [[listen]] with address = "0.0.0.0:443"')
    seen: dict[str, int] = {}
    for number, listen in enumerate(config.listen):
        place = ("listen", number)
        if listen.redirect and listen.tls is not None:
            yield Finding((*place, "redirect"), "a listener with tls has nothing to redirect: leave out redirect or tls")
        if isinstance(listen.tls, Tls):
            yield from _tls(listen.tls, (*place, "tls"))
        if not listen.redirect and not config.route:
            yield Finding(place, 'nothing is behind this listener: add [[route]] with upstream = "…"')
        if not listen.address or listen.address.endswith(":0"):
            continue
        other = next((seen[address] for address in _overlapping(listen.address) if address in seen), None)
        if other is not None:
            yield Finding((*place, "address"), f"listen[{other}] is there already ({config.listen[other].address})")
        elif listen.address.startswith(("0.0.0.0:", "[::]:")):
            port = listen.address.rpartition(":")[2]
            wide = listen.address.startswith("[")
            inside = [
                i for a, i in seen.items() if a.startswith("[") == wide and not a.startswith("unix:") and a.rpartition(":")[2] == port
            ]
            if inside:
                yield Finding((*place, "address"), f"takes the address of listen[{inside[0]}] too ({config.listen[inside[0]].address})")
        seen.setdefault(listen.address, number)


def _overlapping(address: str) -> list[str]:
    if address.startswith("unix:"):
        return [address]
    port = address.rpartition(":")[2]
    return [address, f"[::]:{port}" if address.startswith("[") else f"0.0.0.0:{port}"]


def _tls(tls: Tls, place: tuple[str | int, ...]) -> Iterator[Finding]:
    if (tls.cert is None) != (tls.key is None):
        given, missing = ("cert", "key") if tls.key is None else ("key", "cert")
        yield Finding((*place, given), f"{given} and {missing} go together: {missing} is missing")
    if tls.hosts and (tls.cert or tls.key or tls.certificates):
        yield Finding((*place, "hosts"), "names for a development certificate mean nothing beside certificate files: leave out one of them")
    if not (tls.hosts or tls.cert or tls.key or tls.certificates):
        yield Finding(place, 'no certificate: give cert and key, certificates, or write tls = "dev"')


def _routes(config: Config) -> Iterator[Finding]:
    seen: dict[tuple[str, bytes], int] = {}
    for number, route in enumerate(config.route):
        place = ("route", number)
        if route.upstream and route.upstream not in config.upstream:
            known = sorted(config.upstream)
            said = nearest(route.upstream, known) if known else f"; add [upstream.{route.upstream}]"
            yield Finding((*place, "upstream"), f'there is no upstream "{route.upstream}"{said}', tuple(known))
        for host in route.host or ("",):
            key = (host, names.plain_path(route.path.encode()))
            if key in seen:
                what = f'host "{host}" and path "{route.path}"' if host else f'path "{route.path}" for any host'
                yield Finding(place, f"route[{seen[key]}] has {what} already")
            seen.setdefault(key, number)
        if route.strip_prefix and route.path == "/":
            yield Finding((*place, "strip_prefix"), 'there is nothing to strip from path "/"')


def unwise(config: Config) -> Iterator[Finding]:
    """Warnings."""
    secure = any(listen.tls is not None for listen in config.listen)
    for number, listen in enumerate(config.listen):
        place = ("listen", number)
        public = not _is_private(listen.address)
        if public and listen.tls is None and not listen.redirect:
            yield Finding((*place, "address"), "plain HTTP on a public address: tokens and calls can be read on the way; add tls")
        if public and (listen.tls == "dev" or (isinstance(listen.tls, Tls) and listen.tls.hosts)):
            yield Finding(
                (*place, "tls"), "a development certificate on a public address: clients that do not trust this machine refuse it"
            )
        if listen.redirect and not secure:
            yield Finding((*place, "redirect"), "redirects to port 443, but no listener here has tls")
    used = {route.upstream for route in config.route}
    for name, upstream in config.upstream.items():
        if name not in used:
            yield Finding(("upstream", name), "no route leads here")
        yield from _unwise_upstream(upstream, ("upstream", name))
    for number, route in enumerate(config.route):
        place = ("route", number)
        if route.sse_keepalive is not None and route.sse_keepalive < 1:
            yield Finding((*place, "sse_keepalive"), "more than one comment a second on every silent stream: is the unit right?")
        if route.idle_timeout < 60:
            yield Finding((*place, "idle_timeout"), "streams that are quiet for less than a minute are cut: is the unit right?")
        if config.health is not None and names.plain_path(route.path.encode()) == names.plain_path(config.health.encode()):
            yield Finding((*place, "path"), f"requests to exactly {config.health} are answered by the health check of the proxy")


def _unwise_upstream(upstream: Upstream, place: tuple[str | int, ...]) -> Iterator[Finding]:
    https = any(url.startswith("https:") for url in upstream.urls)
    if upstream.keepalive > upstream.max_connections:
        yield Finding((*place, "keepalive"), "more idle connections than max_connections allows in use")
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
    """What is wrong with the certificates, keys and authorities the configuration names. Empty: all can be loaded."""
    return [finding.located({}) for finding in file_findings(config)]


def file_findings(config: Config) -> Iterator[Finding]:
    """check_files as findings."""
    for number, listen in enumerate(config.listen):
        if not isinstance(listen.tls, Tls):
            continue
        place = ("listen", number, "tls")
        if listen.tls.cert and listen.tls.key:
            yield from _pair(listen.tls.cert, listen.tls.key, place)
        for index, files in enumerate(listen.tls.certificates):
            yield from _pair(files.cert, files.key, (*place, "certificates", index))
    for name, upstream in config.upstream.items():
        if upstream.ca is not None:
            yield from _authorities(upstream.ca, ("upstream", name, "ca"))


def _pair(cert: str, key: str, place: tuple[str | int, ...]) -> Iterator[Finding]:
    readable = True
    for name, file in (("cert", cert), ("key", key)):
        if reason := _unreadable(file):
            readable = False
            yield Finding((*place, name), f"{file}: {reason}")
    if not readable:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if "passphrase" in reason:
            yield Finding(
                (*place, "key"), f"{key}: the key is protected by a passphrase; store it without one, readable by the daemon only"
            )
        elif reason == "KEY_VALUES_MISMATCH":
            yield Finding((*place, "key"), f"{key} is not the key of {cert}")
        elif not _holds_certificate(cert):
            yield Finding((*place, "cert"), f"{cert}: not a certificate in PEM; give the full chain, leaf first")
        else:
            yield Finding((*place, "key"), f"{key}: not a private key in PEM ({reason.lower().replace('_', ' ')})")


def _authorities(file: str, place: tuple[str | int, ...]) -> Iterator[Finding]:
    if reason := _unreadable(file):
        yield Finding(place, f"{file}: {reason}")
    elif not _holds_certificate(file):
        yield Finding(place, f"{file}: no certificate in PEM")


def _unreadable(file: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            stream.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _holds_certificate(file: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        return False
    return True


def _no_password() -> str:
    raise ValueError("the key is protected by a passphrase")
