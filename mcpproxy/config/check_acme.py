"""What only shows when the whole configuration is seen, about certificates that come by ACME: names nobody vouches for, and challenges nobody can answer."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from mcpproxy.config.mistakes import Finding
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import Config, Tls

MOST_NAMES = 100  # of one certificate, at Let's Encrypt and most others
LOCAL_NAMES = frozenset(
    {"localhost", "local", "test", "internal", "lan", "arpa", "example", "invalid", "onion"}
)  # nobody owns them on the public web


def problems(config: Config) -> Iterator[Finding]:
    """What makes the configuration unusable."""
    acme = config.acme
    if acme.directory is not None and acme.staging:
        yield Finding(("acme", "staging"), "is Let's Encrypt's, and directory names another authority: leave out one of them")
    if (acme.eab_key_id is None) != (acme.eab_hmac is None):
        given, missing = ("eab_key_id", "eab_hmac") if acme.eab_hmac is None else ("eab_hmac", "eab_key_id")
        yield Finding(("acme", given), f"{given} and {missing} go together: {missing} is missing")
    for number, listen in enumerate(config.listen):
        if not isinstance(listen.tls, Tls):
            continue
        place: Place = ("listen", number, "tls")
        if listen.tls.acme is None:
            for index, each in enumerate(listen.tls.certificates):
                if each.hosts:
                    what = 'who asks for this certificate? Give tls.acme = "you@example.com", or cert and key'
                    yield Finding((*place, "certificates", index, "hosts"), what)
            continue
        if not listen.tls.host_sets:
            yield Finding((*place, "acme"), 'for which names? Give hosts = ["mcp.example.com"]')
        for where, hosts in _sets(listen.tls, place):
            yield from _names(hosts, where, public=acme.directory is None)
        yield from _reachable(config, number, (*place, "acme"))


def unwise(config: Config) -> Iterator[Finding]:
    """Warnings."""
    uses = [listen for listen in config.listen if isinstance(listen.tls, Tls) and listen.tls.acme is not None]
    acme = config.acme
    if not uses and acme != type(acme)():
        yield Finding(("acme",), "nobody asks for certificates: no listener has tls.acme")
    if uses:
        plain = any(listen.tls is None and listen.address.endswith(":80") for listen in config.listen)
        secure = any(listen.address.endswith(":443") for listen in uses)
        if acme.challenge == "http-01" and not plain:
            yield Finding(("acme", "challenge"), "the authority asks on port 80, and no plain listener is there: is the port forwarded?")
        elif acme.challenge == "tls-alpn-01" and not secure:
            yield Finding(
                ("acme", "challenge"), "the authority asks on port 443, and no listener with acme is there: is the port forwarded?"
            )
        elif acme.challenge == "auto" and not plain and not secure:
            yield Finding(("acme",), "the authority asks on port 80 or 443, and no listener is there: is one of them forwarded?")


def _sets(tls: Tls, place: Place) -> Iterator[tuple[Place, tuple[str, ...]]]:
    if tls.hosts:
        yield (*place, "hosts"), tls.hosts
    for number, each in enumerate(tls.certificates):
        if each.hosts:
            yield (*place, "certificates", number, "hosts"), each.hosts


def _names(hosts: tuple[str, ...], place: Place, *, public: bool) -> Iterator[Finding]:
    if len(hosts) > MOST_NAMES:
        yield Finding(place, f"{len(hosts)} names: authorities put at most {MOST_NAMES} into one certificate; use several (certificates)")
    for number, host in enumerate(hosts):
        where = (*place, number)
        if host.startswith("*."):
            what = "is given by no authority that cannot change your DNS (DNS-01), which is not done here: name each host, or give cert and key"
            yield Finding(where, f'a certificate for "{host}" {what}')
        elif _is_address(host):
            yield Finding(where, f'"{host}" is an address: certificates by ACME are for names')
        elif "_" in host:
            yield Finding(where, f'"{host}" has an underscore: no authority signs such a name')
        elif public and ("." not in host or host.rpartition(".")[2] in LOCAL_NAMES):
            yield Finding(
                where,
                f'nobody owns "{host}" on the public web: leave out acme for a development certificate, or name your authority in acme.directory',
            )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _reachable(config: Config, number: int, place: Place) -> Iterator[Finding]:
    """Can anybody answer the challenge?"""
    plain = any(listen.tls is None and not listen.address.startswith("unix:") for listen in config.listen)
    secure = not config.listen[number].address.startswith("unix:")
    challenge = config.acme.challenge
    if challenge == "http-01" and not plain:
        what = 'nobody can answer http-01: add [[listen]] with address = "0.0.0.0:80" and redirect = "https", or take acme.challenge = "tls-alpn-01"'
        yield Finding(place, what)
    elif challenge == "tls-alpn-01" and not secure:
        yield Finding(place, "nobody can answer tls-alpn-01: an authority does not come to a unix socket")
    elif challenge == "auto" and not plain and not secure:
        yield Finding(place, 'nobody can answer a challenge: add [[listen]] with address = "0.0.0.0:80" and redirect = "https"')
