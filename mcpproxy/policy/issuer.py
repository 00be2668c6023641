"""An authorization server as we must know it: its metadata, found under its own name and believed only when they name it.

Asked in the order the MCP specification gives to clients (RFC 8414 with the path inserted, then OpenID Connect Discovery inserted and appended).
A document whose `issuer` is not the very text of the configuration is nobody's: else whoever may answer one path of a host could put in keys of
their own (RFC 8414 §3.3). What a document names is asked under the same guard as the document (net/fetch).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from mcpproxy.clock import monotonic
from mcpproxy.config.policies import Auth
from mcpproxy.net.fetch import FetchError, Response, fetch


class Fetch(Protocol):
    """net/fetch with what the configuration says about the issuer put in."""

    def __call__(
        self, url: str, *, method: str = "GET", body: bytes | None = None, headers: tuple[tuple[str, str], ...] = ()
    ) -> Awaitable[Response]: ...


BELIEVED_S = 3600.0  # endpoints of an issuer move once in years
JSON = (("Accept", "application/json"),)


def fetcher(auth: Auth) -> Fetch:
    """How this issuer may be asked."""
    return partial(fetch, private=auth.private, ca=auth.ca)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The few members we use."""

    jwks_uri: str | None
    introspection_endpoint: str | None


class Issuer:
    """Asks for the metadata once, and again after a while or when what they named did not work."""

    __slots__ = ("_asked", "_fetch", "_known", "_now", "url")

    def __init__(self, url: str, fetch: Fetch, now: Callable[[], float] = monotonic) -> None:
        self.url = url
        self._fetch = fetch
        self._now = now
        self._known: Metadata | None = None
        self._asked = 0.0

    async def metadata(self) -> Metadata:
        """Older metadata serve when newer ones cannot be had. Raises FetchError, telling the last thing that went wrong."""
        if self._known is None or self._now() - self._asked > BELIEVED_S:
            try:
                self._known = await self._ask()
                self._asked = self._now()
            except FetchError:
                if self._known is None:
                    raise
        return self._known

    def doubt(self) -> None:
        """Something the metadata named did not work: ask again next time."""
        self._asked = float("-inf")

    async def _ask(self) -> Metadata:
        problem = FetchError("bad-response", f"{self.url} has no metadata document")
        for url in documents(self.url):
            try:
                answer = await self._fetch(url, headers=JSON)
            except FetchError as error:
                if error.kind in ("bad-response", "redirected", "too-large"):
                    problem = error
                    continue
                raise  # the other documents are at the same place
            if answer.status == 200:
                try:
                    return read(answer.body, self.url)
                except ValueError as error:
                    problem = FetchError("bad-response", f"{url}: {error}")
        raise problem


def documents(issuer: str) -> Iterator[str]:
    """Where the metadata of an issuer may be, best first."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def read(body: bytes, issuer: str) -> Metadata:
    """Raises ValueError with what is wrong."""
    said = json_object(body)
    if said.get("issuer") != issuer:
        raise ValueError("the document names another issuer")
    return Metadata(_url(said, "jwks_uri"), _url(said, "introspection_endpoint"))


def json_object(body: bytes) -> dict[str, Any]:
    """A JSON object of others. Raises ValueError, also where it is nested too deeply."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise ValueError("not JSON") from None
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def _url(said: dict[str, Any], name: str) -> str | None:
    value = said.get(name)
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None
