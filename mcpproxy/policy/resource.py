"""The protected resource, as OAuth clients find it (RFC 9728, RFC 6750; MCP's authorization chapter).

    401 WWW-Authenticate: Bearer resource_metadata="https://h/.well-known/oauth-protected-resource/mcp", scope="…"
    GET /.well-known/oauth-protected-resource/mcp  ──▶  {"resource": "https://h/mcp", "authorization_servers": […], …}

Either we are the resource (the route has `auth` by tokens): Endpoint makes the document and the challenges. A route with API keys only has no document
(404) and no `resource_metadata` in its challenges, so that clients which know only OAuth fail at once. Or the upstream is (no `auth`): Rewriting
puts the public URL where the upstream names itself, in its document and its challenges. What is not understood stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from mcpproxy.config.model import Listen, Route
from mcpproxy.config.policies import Auth
from mcpproxy.http.replies import MESSAGES, document, reply

WELL_KNOWN = "/.well-known/oauth-protected-resource"
TOKENS = ("jwt", "introspection")  # the types of [auth.NAME] that OAuth clients can do something about
ISSUER_PLACES = (b"/.well-known/oauth-authorization-server", b"/.well-known/openid-configuration")
CORS = (
    (b"Access-Control-Allow-Origin", b"*"),
    (b"Access-Control-Allow-Methods", b"GET, HEAD, OPTIONS"),
    (b"Access-Control-Allow-Headers", b"MCP-Protocol-Version"),
)
ALLOW = (b"Allow", b"GET, HEAD, OPTIONS")
PORTS = {"https": 443, "http": 80}
LARGEST = 64 * 1024  # bytes of an upstream's document


# -- URLs ---------------------------------------------------------------------------------------------------------------------------------------


def canonical(url: str) -> str:
    """A URL so that equal ones are the same text: scheme and host in lower case, no default port, no final slash. Other texts stay as they are."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in PORTS:
        return url
    authority, slash, path = rest.partition("/")
    authority = authority.lower().removesuffix(f":{PORTS[scheme.lower()]}")
    return f"{scheme.lower()}://{authority}{slash}{path}".rstrip("/")


def well_known(path: str) -> str:
    """Where the document of the endpoint at `path` is."""
    return WELL_KNOWN + ("" if path == "/" else path)


def endpoint_path(path: bytes) -> bytes | None:
    """The endpoint whose document is at `path`: its route has it. None: this is no such place."""
    mark = WELL_KNOWN.encode()
    if not path.startswith(mark):
        return None
    rest = path[len(mark) :]
    return b"/" if rest in (b"", b"/") else rest if rest.startswith(b"/") else None


def asks_for_issuer(path: bytes) -> bool:
    """Where clients look for an authorization server on the resource's own host (as the 2025-03-26 revision had it). A route with `auth` has none: real
    404, `answer(None, …)`, without asking for credentials; behind any other route the upstream may have one."""
    return any(path == place or path.startswith(place + b"/") for place in ISSUER_PLACES)


def public_urls(route: Route, listens: Iterable[Listen]) -> tuple[str, ...]:
    """The URLs of a route's endpoint that the configuration alone tells: what tokens may be for. Never from what a client sent: who chooses the Host
    would choose the audience. Empty: the route names no exact host and no `public_url`."""
    if route.public_url is not None:
        return (route.public_url,)
    path = "" if route.path == "/" else route.path
    return tuple(
        f"{scheme}://{host}{port}{path}"
        for listen in listens
        if not listen.redirect
        for scheme, port in (_scheme_and_port(listen),)
        for host in route.host
        if not host.startswith("*")
    )


def _scheme_and_port(listen: Listen) -> tuple[str, str]:
    scheme = "http" if listen.tls is None else "https"
    number = "" if listen.address.startswith("unix:") else listen.address.rpartition(":")[2]
    return scheme, "" if number in ("", "0", str(PORTS[scheme])) else f":{number}"


def public_url(route: Route, scheme: str, authority: str) -> str:
    """The URL a client used, as far as we can know: what is configured, else what it says itself. For documents and challenges only."""
    if route.public_url is not None:
        return route.public_url
    return canonical(f"{scheme}://{authority}") + ("" if route.path == "/" else route.path)


# -- we are the resource --------------------------------------------------------------------------------------------------------------------------


class Endpoint:
    """What OAuth clients are told about a route. Made once per route and public URL (`public_url`)."""

    __slots__ = ("document", "metadata_url", "resource", "scopes")

    def __init__(self, route: Route, resource: str, auths: Sequence[Auth]) -> None:
        servers = tuple(dict.fromkeys(auth.issuer for auth in auths if auth.type in TOKENS and auth.issuer is not None))
        parts = urlsplit(resource)
        self.resource = resource
        self.scopes = route.scopes
        self.metadata_url = f"{parts.scheme}://{parts.netloc}{well_known(parts.path or '/')}" if servers else None
        said: dict[str, object] = {"resource": resource, "authorization_servers": servers}
        if route.scopes:
            said["scopes_supported"] = route.scopes
        said["bearer_methods_supported"] = ("header",)
        self.document = msgspec.json.encode(said) if servers else None  # None: 404 at the well-known place

    def missing(self) -> bytes:
        """401: nothing was shown. No error, as there is none yet (RFC 6750 §3.1)."""
        return self._challenge("", "", self.scopes)

    def invalid(self, kind: str, description: str = "") -> bytes:
        """401: what was shown is no good. `kind` is the slug of the answer."""
        return self._challenge("invalid_token", description or MESSAGES.get(kind, ""), self.scopes)

    def insufficient(self, needed: Iterable[str]) -> bytes:
        """403: known, but without these scopes. All that this needs are named, those the route needs among them, so that one more token will do."""
        return self._challenge("insufficient_scope", "The access token lacks a scope.", tuple(dict.fromkeys((*self.scopes, *needed))))

    def _challenge(self, error: str, description: str, scopes: Sequence[str]) -> bytes:
        """The value of WWW-Authenticate."""
        said = [("error", error), ("error_description", description)]
        if self.metadata_url is not None:
            said += [("scope", " ".join(scopes)), ("resource_metadata", self.metadata_url)]
        shown = ", ".join(f'{name}="{quotable(value)}"' for name, value in said if value)
        return f"Bearer {shown}".encode() if shown else b'Bearer realm="mcp"'


def answer(endpoint: Endpoint | None, method: bytes, *, close: bool) -> bytes:
    """What is answered at a document's place, to everybody and from any origin. `endpoint`: of the route at `endpoint_path`, None when there is none.
    404 is a real one: clients that get 401 or a page here look no further."""
    if endpoint is None or endpoint.document is None:
        return reply(404, "no-route", jsonrpc=False, close=close, extra=CORS[:1], head_only=method == b"HEAD")
    if method == b"OPTIONS":
        return document(b"", (ALLOW, *CORS, (b"Access-Control-Max-Age", b"86400")), close=close)
    if method not in (b"GET", b"HEAD"):
        return reply(405, "method-not-allowed", jsonrpc=False, close=close, extra=(ALLOW, *CORS[:1]))
    return document(endpoint.document, ((b"Cache-Control", b"max-age=300"), *CORS[:1]), close=close, head_only=method == b"HEAD")


def quotable(text: str) -> str:
    """What may stand between quotes in a challenge (RFC 6750 §3): nothing that ends them, nothing to be escaped."""
    return "".join(c for c in text if " " <= c <= "~" and c not in '"\\')


# -- the upstream is the resource -----------------------------------------------------------------------------------------------------------------

is_plain = re.compile(r"[!#-\[\]-~]+").fullmatch  # no blanks, quotes, backslashes, or bytes beyond ASCII
NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
PARAMETER = re.compile(
    rb'[ \t,]*(?:(?:NAME[ \t]+)?(?P<name>NAME)[ \t]*=[ \t]*(?:"(?P<quoted>(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~])*)"|NAME)|NAME)[ \t]*(?=,|$)'.replace(
        b"NAME", NAME
    )
)  # a parameter, perhaps the first after its scheme; or a scheme without any


class Rewriting:
    """From how the upstream names itself to how the world names it.

    `upstreams` are the origins it may know itself by (its own URLs, the Host it is sent); `public` is the origin clients use; `prefix` is the path
    that is stripped on the way to the upstream."""

    __slots__ = ("_prefix", "_public", "_upstreams")

    def __init__(self, upstreams: Iterable[str], public: str, prefix: str = "") -> None:
        self._upstreams = frozenset(map(canonical, upstreams))
        self._public = canonical(public)
        self._prefix = prefix.rstrip("/")

    def url(self, url: str) -> str | None:
        """Its public form; None when it is not one of the upstream's."""
        if not is_plain(url):
            return None
        try:
            parts = urlsplit(url)
        except ValueError:
            return None
        if canonical(f"{parts.scheme}://{parts.netloc}") not in self._upstreams or parts.fragment:
            return None
        at = WELL_KNOWN if f"{parts.path}/".startswith(f"{WELL_KNOWN}/") else ""
        return self._public + at + self._prefix + parts.path.removeprefix(at) + (f"?{parts.query}" if parts.query else "")

    def document(self, body: bytes) -> bytes | None:
        """An RFC 9728 document with the public `resource`. None: leave it as it is. Its length changes."""
        if len(body) > LARGEST:
            return None
        try:
            said = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            resource = msgspec.json.decode(said["resource"], type=str)
            public = self.url(resource)
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
            return None
        if public is None:
            return None
        said["resource"] = msgspec.Raw(msgspec.json.encode(public))
        return msgspec.json.encode(said)

    def challenge(self, value: bytes) -> bytes:
        """A WWW-Authenticate value with the public `resource_metadata`. Whatever is not a list of challenges with parameters stays untouched."""
        made, position = b"", 0
        while position < len(value):
            found = PARAMETER.match(value, position)
            if found is None:
                return value
            if found["quoted"] is not None and found["name"].lower() == b"resource_metadata":
                start, end = found.span("quoted")
                public = self.url(found["quoted"].decode("latin-1"))
                made += (
                    value[position:start] + (public.encode("latin-1") if public is not None else found["quoted"]) + value[end : found.end()]
                )
            else:
                made += found[0]
            position = found.end()
        return made
