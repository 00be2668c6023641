"""Where and how to log in: what the server's challenge, its metadata and the authorization server's say (RFC 9728, RFC 8414, OpenID Discovery).

    401 ──▶ Challenge ──▶ resource metadata ──▶ issuer ──▶ its metadata ──▶ Authority

Everything here was said by somebody else, so

 1. the resource must be the server we asked: the same origin, and a path above or at its own;
 2. an issuer must be what its own document calls itself (RFC 8414 §3.3), and must know PKCE with S256;
 3. its URLs are https (plain http only on this machine), and on a public address unless the server itself is on none.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from mcpproxy.connect.places import WireError, is_loopback

PROTECTED, SERVER, OPENID = "oauth-protected-resource", "oauth-authorization-server", "openid-configuration"
_parameter = re.compile(r'([A-Za-z_][\w-]*)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_bearer = re.compile(r"(?:^|,)[ \t]*bearer\b", re.IGNORECASE)
_scheme = re.compile(r",[ \t]*[A-Za-z][A-Za-z0-9-]*[ \t]+[A-Za-z_][\w-]*[ \t]*=")

Found = TypeVar("Found")
Get = Callable[[str], Awaitable[tuple[int, bytes]]]  # of a document: status and body. Raises WireError


@dataclass(frozen=True, slots=True)
class Challenge:
    """What WWW-Authenticate asks for (RFC 6750 §3, RFC 9728 §5.1)."""

    metadata: str = ""
    scope: str = ""
    error: str = ""


def challenge_of(said: str) -> Challenge:
    """The Bearer challenge among those of all the fields."""
    found = _bearer.search(said)
    if found is None:
        return Challenge()
    rest = said[found.end() :]
    following = _scheme.search(rest)
    given: dict[str, str] = {}
    for match in _parameter.finditer(rest[: following.start()] if following else rest):
        quoted, plain = match[2], match[3]
        given.setdefault(match[1].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    return Challenge(given.get("resource_metadata", ""), given.get("scope", ""), given.get("error", ""))


class Resource(msgspec.Struct):
    """Protected resource metadata, as far as it matters."""

    resource: str = ""
    authorization_servers: list[str] = []
    scopes_supported: list[str] = []


class Authority(msgspec.Struct):
    """Authorization server metadata."""

    issuer: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    registration_endpoint: str = ""
    revocation_endpoint: str = ""
    scopes_supported: list[str] = []
    code_challenge_methods_supported: list[str] = []
    token_endpoint_auth_methods_supported: list[str] = []
    client_id_metadata_document_supported: bool = False
    authorization_response_iss_parameter_supported: bool = False


async def resource_of(url: str, challenge: Challenge, get: Get) -> Resource | None:
    """The metadata of the server at `url`; None where it has none (2025-03-26: then it is its own authorization server)."""
    parts = urlsplit(url)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    places = [challenge.metadata] if challenge.metadata else []
    places += [f"{origin}/.well-known/{PROTECTED}{path}"] if path else []
    places.append(f"{origin}/.well-known/{PROTECTED}")
    for place in dict.fromkeys(places):
        found = await _document(place, Resource, get)
        if found is None:
            continue
        if not is_above(found.resource, url):
            raise WireError(f"{place} is about {found.resource or 'nothing'}, not about {url}: no login for it", hopeless=True)
        if not found.authorization_servers:
            raise WireError(f"{place} names no authorization server", hopeless=True)
        return found
    return None


def is_above(resource: str, url: str) -> bool:
    """Rule 1."""
    try:
        ours, theirs = urlsplit(url), urlsplit(resource)
        same = (ours.scheme, ours.hostname, ours.port or _port(ours.scheme)) == (
            theirs.scheme,
            theirs.hostname,
            theirs.port or _port(theirs.scheme),
        )
    except ValueError:
        return False
    return same and f"{ours.path.rstrip('/')}/".startswith(f"{theirs.path.rstrip('/')}/")


async def authority_of(issuer: str, get: Get) -> Authority | None:
    """The metadata of an issuer, wherever it lies; None where it has none."""
    safe(issuer)
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    places = [f"{origin}/.well-known/{SERVER}{path}", f"{origin}/.well-known/{OPENID}{path}"]
    places += [f"{origin}{path}/.well-known/{OPENID}"] if path else []
    for place in places:
        found = await _document(place, Authority, get)
        if found is None:
            continue
        if found.issuer.rstrip("/") != issuer.rstrip("/"):
            raise WireError(f"{place} is of the issuer {found.issuer!r}, not of {issuer}: no login there", hopeless=True)
        for each in (found.authorization_endpoint, found.token_endpoint):
            safe(each)
        for each in (found.registration_endpoint, found.revocation_endpoint):
            if each:
                safe(each)
        if "S256" not in found.code_challenge_methods_supported:
            raise WireError(f"{issuer} does not say that it knows PKCE with S256: no login there", hopeless=True)
        return found
    return None


def older_authority(url: str) -> Authority:
    """Of a server that has no documents at all: the places that 2025-03-26 gives them."""
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    return Authority(origin, f"{origin}/authorize", f"{origin}/token", f"{origin}/register", code_challenge_methods_supported=["S256"])


def safe(url: str) -> str:
    """Rule 3, as far as the URL itself tells. Raises WireError."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        fits = False
    if not fits or not parts.hostname or "@" in parts.netloc or not url.isascii() or not url.isprintable():
        raise WireError(f"the login would lead to {url[:200]!r}, which is not https", hopeless=True)
    return url


async def _document(place: str, kind: type[Found], get: Get) -> Found | None:
    status, body = await get(safe(place))
    if status >= 500:
        raise WireError(f"{place} answered {status}")
    if status != 200:
        return None
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
