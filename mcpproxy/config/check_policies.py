"""Does what is said about callers (policies) fit together? Asked by `check`, beside its own questions.

    problems(config)     ways to know a caller that cannot know anybody, keys that mean nothing where they stand, names that are taken: mistakes
    unwise(config)       legal, and probably not what was wanted: warnings

What rests on a name that is not there is not asked: that name is the mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec import Struct, structs

from mcpproxy.config import names
from mcpproxy.config.mistakes import Finding, nearest
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.config.model import Config, Listen, Route, Tls, Upstream
from mcpproxy.config.policies import Auth, Constraint, Credential, Tools

# Which keys a type has, and which of them it cannot do without. What stands in no list is for all types.
OAUTH = ("issuer", "audience", "skew", "private", "ca", "name_claim", "roles_claim")
AUTH_KEYS: dict[str, tuple[str, ...]] = {
    "api-key": ("file", "headers"),
    "jwt": (*OAUTH, "jwks", "refresh", "algorithms"),
    "introspection": (*OAUTH, "introspection", "client_id", "client_secret", "cache"),
    "mtls": ("name_from",),
}
TOKENS = ("token_url", "client_id", "client_secret", "scope", "resource", "audience", "private", "ca")
CREDENTIAL_KEYS: dict[str, tuple[str, ...]] = {
    "header": ("header", "value"),
    "passthrough": (),
    "client-credentials": TOKENS,
    "token-exchange": TOKENS,
    "sigv4": ("region", "service", "access_key", "secret_key", "session_token"),
}
CREDENTIAL_NEEDS: dict[str, tuple[str, ...]] = {
    "header": ("value",),
    "client-credentials": ("token_url", "client_id", "client_secret"),
    "token-exchange": ("token_url", "client_id", "client_secret"),
    "sigv4": ("region", "service", "access_key", "secret_key"),
}

# Names of fields that are taken. Keys of callers also cannot stand where a plan does not look (edge/cut): they would not be told from one another.
FRAMING = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect", "forwarded"}
)
OURS = frozenset({"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "x-request-id"})
MEANT = frozenset(
    {"content-type", "accept", "cookie", "origin", "referer", "user-agent", "traceparent", "tracestate", "baggage", "last-event-id"}
)
NO_PLACES_FOR_KEYS = ("mcp-", "x-forwarded-", "if-", "sec-", "access-control-", "proxy")  # how such names begin
REFRESH = (10.0, 86_400.0)  # seconds; policy/jwks asks no more often, and keeps keys no longer
NEEDED_BY_CLIENTS = FRAMING | {"content-type", "content-encoding", "www-authenticate", "mcp-session-id", "mcp-protocol-version", "location"}


def problems(config: Config) -> Iterator[Finding]:
    """Mistakes."""
    certificates = any(isinstance(listen.tls, Tls) and listen.tls.client_ca is not None for listen in config.listen)
    for name, auth in config.auth.items():
        yield from _auth(auth, ("auth", name), certificates)
    for name, limit in config.limit.items():
        if limit.rate is None and limit.daily is None and limit.concurrent is None:
            yield Finding(("limit", name), "it limits nothing: give rate, daily or concurrent", ("rate", "daily", "concurrent"))
    if config.audit is not None and config.audit.file == config.log.access:
        yield Finding(("audit", "file"), "is the access log: lines of others would break its chain")
    for number, listen in enumerate(config.listen):
        if listen.proxy_protocol and not listen.trusted_proxies:
            said = "say which proxies: trusted_proxies is empty"
            yield Finding(("listen", number, "proxy_protocol"), said, given=("listen", number, "trusted_proxies"))
    for name, upstream in config.upstream.items():
        yield from _upstream(upstream, ("upstream", name))
    for number, route in enumerate(config.route):
        yield from _route(config, route, ("route", number))


def _auth(auth: Auth, place: Place, certificates: bool) -> Iterator[Finding]:
    yield from _typed(auth, auth.type, AUTH_KEYS, place)
    if auth.type == "api-key" and auth.file is None:
        yield Finding(place, 'is missing its file of keys: file = "keys.jsonl"; mcpproxy key add NAME makes it')
    for index, header in enumerate(auth.headers):
        if header.lower() in FRAMING | OURS | MEANT or header.lower().startswith(NO_PLACES_FOR_KEYS):
            yield Finding((*place, "headers", index), f'"{header}" has a meaning of its own: no place for a key')
    if auth.type == "jwt" and auth.issuer is None:
        yield Finding(place, 'is missing its issuer: issuer = "https://…", exactly as the tokens have it in their `iss`')
    if auth.type == "introspection" and auth.issuer is None and auth.introspection is None:
        yield Finding(place, 'nobody can be asked: give issuer = "https://…", or the endpoint: introspection = "https://…"')
    issuer = auth.issuer if auth.jwks is None and auth.introspection is None else None  # nobody asks for its metadata then
    for key, url in (("issuer", issuer), ("jwks", auth.jwks), ("introspection", auth.introspection)):
        if not auth.private and _on_this_machine(url):
            yield Finding((*place, key), "is on this machine, which is asked only with private = true")
    if auth.type == "jwt" and not REFRESH[0] <= auth.refresh <= REFRESH[1]:
        yield Finding((*place, "refresh"), "key sets are asked for again every 10 seconds (10s) to every day (24h)")
    if auth.type == "mtls" and not certificates:
        yield Finding(place, "no listener asks for client certificates: give one's tls a client_ca", given=("listen",))


def _typed(table: Struct, kind: str, keys: Mapping[str, Sequence[str]], place: Place) -> Iterator[Finding]:
    """Keys of another type mean a mistake in one of the two places."""
    special = {key for several in keys.values() for key in several}
    for field in structs.fields(table):
        if kind and field.name in special and field.name not in keys[kind] and getattr(table, field.name) != field.default:
            owners = " or ".join(f'"{each}"' for each, several in keys.items() if field.name in several)
            yield Finding((*place, field.name), f'means nothing with type "{kind}": it is for {owners}')


def _on_this_machine(url: str | None) -> bool:
    return url is not None and names.is_loopback(urlsplit(url).hostname or "")


def _upstream(upstream: Upstream, place: Place) -> Iterator[Finding]:
    taken: dict[str, str] = {}  # name of a field → who writes it
    credential, identity = upstream.credential, upstream.identity
    if credential is not None:
        at = (*place, "credential")
        yield from _credential(credential, at)
        if credential.type not in ("passthrough", ""):
            taken[credential.header.lower()] = "credential"
    for key, name, at in (
        ("identity", identity.header if identity is not None else "", (*place, "identity", "header")),
        ("principal_header", upstream.principal_header or "", (*place, "principal_header")),
    ):
        lower = name.lower()
        if lower in FRAMING | OURS | MEANT | {"authorization"} or lower.startswith("mcp-"):
            yield Finding(at, f'"{name}" has a meaning of its own: no place to say who calls')
        elif lower and lower in taken:
            yield Finding(at, f'"{name}" is the field of {taken[lower]} already')
        taken.setdefault(lower, key)


def _credential(credential: Credential, place: Place) -> Iterator[Finding]:
    yield from _typed(credential, credential.type, CREDENTIAL_KEYS, place)
    for key in CREDENTIAL_NEEDS.get(credential.type, ()):
        if getattr(credential, key) is None:
            yield Finding((*place, key), f'is missing: type "{credential.type}" needs it')
    lower = credential.header.lower()
    if lower in FRAMING | OURS or lower.startswith("mcp-"):
        yield Finding((*place, "header"), f'"{credential.header}" has a meaning of its own: no place for a credential')
    if not credential.private and _on_this_machine(credential.token_url):
        yield Finding((*place, "token_url"), "is on this machine, which is asked only with private = true")


def _route(config: Config, route: Route, place: Place) -> Iterator[Finding]:
    for key, named, known, about in (
        ("auth", route.auth, sorted(config.auth), 'there is no way to know a caller called "{}"'),
        ("limits", route.limits, sorted(config.limit), 'there is no limit called "{}"'),
    ):
        table = key.rstrip("s")
        for index, name in enumerate(named):
            if name not in known:
                hint = nearest(name, known) if known else f"; add [{table}.{name}]"
                yield Finding((*place, key, index), about.format(name) + hint, tuple(known), given=(table,))
    if all(name in config.auth for name in route.auth):
        yield from _callers(config, route, place)
    if route.cors and not route.allow_origins:
        said = 'say which pages: allow_origins is empty ("*" is every page)'
        yield Finding((*place, "cors"), said, given=(*place, "allow_origins"))
    for index, name in enumerate(route.hide_headers):
        if name.lower() in NEEDED_BY_CLIENTS:
            yield Finding((*place, "hide_headers", index), f"clients cannot do without {name}")
    if route.tools is not None:
        yield from _tools(route.tools, (*place, "tools"))
        if not route.mcp:
            yield Finding((*place, "tools"), "rules about calls on a route that is not MCP: leave out tools or mcp = false")


def _callers(config: Config, route: Route, place: Place) -> Iterator[Finding]:
    """What rests on the ways this route knows its callers."""
    tokens = [name for name in route.auth if config.auth[name].type in ("jwt", "introspection")]
    unsure = any(not config.auth[name].type for name in route.auth)  # that is a mistake already
    if route.scopes and not tokens and not unsure:
        yield Finding((*place, "scopes"), "only tokens have scopes: auth names none of type jwt or introspection", given=("auth",))
    if route.public_url is None and all(host.startswith("*") for host in route.host):
        for name in tokens:
            if not config.auth[name].audience:
                said = f'tokens of "{name}" must be for somebody: give public_url (or an exact host, or audience in [auth.{name}])'
                yield Finding((*place, "auth"), said, given=("auth", name, "audience"))
                break
    upstream = config.upstream.get(route.upstream)
    exchange = upstream is not None and upstream.credential is not None and upstream.credential.type == "token-exchange"
    if exchange and not tokens and not unsure:
        said = "its upstream exchanges the caller's token, and no caller here has one: add auth of type jwt or introspection"
        yield Finding((*place, "auth"), said, given=("auth",))


def _tools(tools: Tools, place: Place) -> Iterator[Finding]:
    for kind, rules in (("allow", tools.allow), ("deny", tools.deny)):
        for number, rule in enumerate(rules):
            for name, constraint in rule.args.items():
                yield from _constraint(constraint, (*place, kind, number, "args", name))


def _constraint(constraint: Constraint, place: Place) -> Iterator[Finding]:
    if constraint == Constraint(optional=True):
        yield Finding(place, "it asks for nothing: the argument may be missing, and may be anything")
    if constraint.min is not None and constraint.max is not None and constraint.min > constraint.max:
        yield Finding((*place, "min"), f"no number is at least {constraint.min} and at most {constraint.max}")


def unwise(config: Config) -> Iterator[Finding]:
    """Warnings."""
    for number, listen in enumerate(config.listen):
        yield from _unwise_listener(listen, ("listen", number))
    yield from _unused(config)
    for name, auth in config.auth.items():
        if auth.type == "introspection" and auth.client_id is None:
            yield Finding(("auth", name), "asks without a client_id: issuers answer only those they know (RFC 7662)")
    for name, upstream in config.upstream.items():
        told = "identity" if upstream.identity is not None else "principal_header" if upstream.principal_header is not None else ""
        if told and not any(route.auth for route in config.route if route.upstream == name):
            yield Finding(("upstream", name, told), "no route that leads here has auth: nobody's name is known")
    for number, route in enumerate(config.route):
        yield from _unwise_route(route, ("route", number))


def _unwise_listener(listen: Listen, place: Place) -> Iterator[Finding]:
    if isinstance(listen.tls, Tls) and listen.tls.client_ca is None and listen.tls.client_cert != "optional":
        yield Finding((*place, "tls", "client_cert"), "means nothing without client_ca: nobody is asked for a certificate")
    for index, network in enumerate(listen.trusted_proxies):
        if network.endswith("/0"):
            said = f"{network}: whoever connects may say who he is, and be anybody; name the addresses of your proxies"
            yield Finding((*place, "trusted_proxies", index), said)


def _unused(config: Config) -> Iterator[Finding]:
    asked = {name for route in config.route for name in route.auth}
    for name in config.auth:
        if name not in asked:
            yield Finding(("auth", name), "no route has it in its auth: nobody is asked for it")
    limited = {name for route in config.route for name in route.limits}
    for name in config.limit:
        if name not in limited:
            yield Finding(("limit", name), "no route has it in its limits: nothing is counted")


def _unwise_route(route: Route, place: Place) -> Iterator[Finding]:
    if "*" in route.allow_origins and len(route.allow_origins) > 1:
        yield Finding((*place, "allow_origins"), '"*" is every page: the others add nothing')
    for index, host in enumerate(route.allow_hosts):
        if route.host and not any(_covers(one, host) or _covers(host, one) for one in route.host):
            yield Finding((*place, "allow_hosts", index), f"no request for {host} comes to this route: its host says others")
    if route.tools is not None and not route.auth and any(rule.who != ("*",) for rule in (*route.tools.allow, *route.tools.deny)):
        yield Finding((*place, "tools"), "rules name callers, and without auth nobody has a name")


def _covers(wide: str, narrow: str) -> bool:
    """Is every host of `narrow` one of `wide`?"""
    return wide == narrow or (wide.startswith("*.") and narrow.endswith(wide[1:]))
