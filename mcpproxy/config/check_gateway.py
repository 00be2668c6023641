"""What only shows when upstreams of the gateway process are seen as a whole: of which kind each is, and who belongs to whom.

problems(config)        mistakes
unwise(config)          warnings; a program that is not there is one, too (asked of the disk by `config/files`)
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import NODEFAULT, structs

from mcpproxy.config.gateway import Command, Hub, Messages, Remote, Sessions, Watched, own_keys
from mcpproxy.config.mistakes import Finding, nearest
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import Config, Upstream

URLS, COMMAND, MEMBERS = KINDS = ("urls", "command", "members")
LINKS = (
    "keepalive",
    "keepalive_idle",
    "connect_timeout",
    "response_timeout",
    "max_connections",
    "queue",
    "queue_timeout",
)  # to our own process, too
OF: dict[str, tuple[str, ...]] = {  # which keys a kind has, beside LINKS
    URLS: (*own_keys(Upstream), *own_keys(Remote), *own_keys(Watched), *own_keys(Messages), *own_keys(Sessions)),
    COMMAND: (*own_keys(Command), *own_keys(Watched), *own_keys(Messages), *own_keys(Sessions)),
    MEMBERS: (*own_keys(Hub), *own_keys(Sessions)),
}


def kind_of(upstream: Upstream) -> str:
    """Which of KINDS; empty where it is none."""
    return next((kind for kind in KINDS if getattr(upstream, kind)), "")


def problems(config: Config) -> Iterator[Finding]:
    """Mistakes."""
    for name, upstream in config.upstream.items():
        place = ("upstream", name)
        given = [kind for kind in KINDS if getattr(upstream, kind)]
        if not given:
            said = (
                'is missing its servers: urls = ["http://127.0.0.1:8000"], command = ["npx", "-y", "some-server"], or members = ["a", "b"]'
            )
            yield Finding(place, said, KINDS)
            continue
        for other in given[1:]:
            yield Finding((*place, other), f"an upstream has one of urls, command and members: this one has {given[0]} already")
        if len(given) == 1:
            yield from _foreign(upstream, given[0], place)
        if given == [COMMAND]:
            yield from _command(config, upstream, place)
        yield from _members(config, name, upstream, place)
        for number, route in enumerate(config.route):
            if upstream.expose == "search" and route.upstream == name and route.tools is not None and route.tools.read_only:
                said = f'means nothing here: with expose = "search" of {name} clients call everything through one tool'
                yield Finding(("route", number, "tools", "read_only"), said)
        if upstream.drift != "log" and upstream.lock is None and len(given) == 1 and given != [MEMBERS]:
            yield Finding((*place, "drift"), f'means nothing without a lock file: lock = "mcp.lock", written by `mcpproxy lock {name}`')
        if upstream.call_ceiling < upstream.call_timeout:
            yield Finding((*place, "call_ceiling"), "must not be shorter than call_timeout")


def _foreign(upstream: Upstream, kind: str, place: Place) -> Iterator[Finding]:
    """Keys of another kind mean a mistake in one of the two places."""
    allowed = {*OF[kind], *LINKS}
    for field in structs.fields(upstream):
        default = field.default_factory() if field.default is NODEFAULT and field.default_factory is not NODEFAULT else field.default
        if field.name not in allowed and getattr(upstream, field.name) != default:
            owners = " or ".join(f"`{each}`" for each in KINDS if field.name in OF[each])
            yield Finding((*place, field.name), f"means nothing with `{kind}`: it is for upstreams with {owners}")


def _command(config: Config, upstream: Upstream, place: Place) -> Iterator[Finding]:
    if not upstream.command[0]:
        yield Finding((*place, COMMAND, 0), "the name of the program is empty")
    if upstream.user is not None and config.user not in (None, "root", "0", upstream.user):
        said = f"the daemon becomes {config.user} for good and can start nobody as {upstream.user}: leave out one of the two"
        yield Finding((*place, "user"), said, given=("user",))
    if upstream.mode != "shared" and upstream.start == "warm":
        yield Finding((*place, "start"), f'with mode = "{upstream.mode}" nobody knows whom to start it for: leave out start')


def _members(config: Config, name: str, upstream: Upstream, place: Place) -> Iterator[Finding]:
    for number, member in enumerate(upstream.members):
        at = (*place, MEMBERS, number)
        found = config.upstream.get(member)
        if member == name:
            yield Finding(at, "is this upstream itself")
        elif found is None:
            known = sorted(each for each in config.upstream if each != name)
            yield Finding(at, f'there is no upstream "{member}"{nearest(member, known)}', tuple(known), given=("upstream",))
        elif found.members:
            yield Finding(at, f'"{member}" has members itself: name them here')
    for member in upstream.member:
        if member not in upstream.members:
            said = f"is not among `members`{nearest(member, upstream.members)}"
            yield Finding((*place, "member", member), said, upstream.members, given=(*place, MEMBERS))


def unwise(config: Config) -> Iterator[Finding]:
    """Warnings."""
    joined = {member for upstream in config.upstream.values() for member in upstream.members}
    for name, upstream in config.upstream.items():
        place = ("upstream", name)
        if upstream.urls and not upstream.bridge and name not in joined:
            for field in structs.fields(upstream):
                alone = field.name in (*own_keys(Remote), *own_keys(Watched), *own_keys(Messages), *own_keys(Sessions))
                if alone and getattr(upstream, field.name) != field.default:
                    yield Finding((*place, field.name), "is not used: the upstream is no member of another one, and has no bridge = true")
        if upstream.command and upstream.mode == "per-principal":
            for number, route in enumerate(config.route):
                if not route.auth and (route.upstream == name or name in config.upstream.get(route.upstream, upstream).members):
                    said = f'nobody is named here (no auth), so upstream "{name}" has one process for everybody: mode = "per-principal" means nothing'
                    yield Finding(("route", number), said)
