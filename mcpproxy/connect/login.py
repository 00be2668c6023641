"""OAuth for a person: log in once in the browser, and be known from then on (MCP 2026-07-28, basic/authorization; OAuth 2.1).

   lines ── a token that is good ──▶ Authorization
     └─ soon at its end ──▶ renew (refresh token)
   refused ── 401 ──▶ somebody else has a newer one? ──▶ renew ──▶ log in        403 insufficient_scope ──▶ log in with more scopes, once for each

1. One login at a time, here and between instances (tokens, rule 2). A browser is opened for a refusal, never for a network that is gone: only the
   authorization server's own `invalid_grant` ends a refresh token.
2. Who we are there: the client id the user gave; else the one of a metadata document, where the server takes those; else one that we register.
   What was registered at one issuer is never shown to another, and neither is a token.
3. The answer must come with our `state` and, where it names the issuer, with the one we asked (RFC 9207); the code is bound to us by PKCE.
4. Tokens are asked for this server alone (`resource`, RFC 8707) and shown to nobody else (remote: same origin).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from mcpproxy.clock import unix
from mcpproxy.connect.documents import Authority, Challenge, authority_of, challenge_of, older_authority, resource_of, safe
from mcpproxy.connect.places import Place, WireError, is_loopback, place_of
from mcpproxy.connect.remote import Credential, Say
from mcpproxy.connect.tokens import Client, Kept, Store, Turn
from mcpproxy.connect.visit import VISIT_S, Browser, Door, open_browser
from mcpproxy.connect.wire import Wire
from mcpproxy.net.fetch import allowed

EARLY_S = 60.0  # before its end a token is renewed, or in the last quarter of its life
ANSWER_S = 20.0  # of an authorization server, to one request
LARGEST = 256 * 1024  # bytes of its answers
QUIET_S = 60.0  # after a login that failed no browser is opened for so long
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nAccept: application/json\r\n"
OFFLINE = "offline_access"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user said about the login."""

    client_id: str = ""
    client_secret: str = ""
    metadata_url: str = ""  # a client id metadata document that describes us
    redirect: str = ""  # where the browser comes back to
    scope: str = ""


class Granted(msgspec.Struct):
    """An answer of a token endpoint (RFC 6749 §5.1)."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105 - a word of the protocol
    expires_in: float | str | None = None
    refresh_token: str = ""
    scope: str = ""


class Registered(msgspec.Struct):
    """An answer of a registration endpoint (RFC 7591 §3.2.1)."""

    client_id: str
    client_secret: str = ""
    client_secret_expires_at: float = 0
    token_endpoint_auth_method: str = ""


class Refusal(WireError):
    """The token endpoint said no (RFC 6749 §5.2)."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text, hopeless=True)
        self.code = code


class Login(Credential):
    """See above."""

    def __init__(
        self,
        wire: Wire,
        url: str,
        store: Store,
        say: Say,
        wishes: Wishes = Wishes(),
        browser: Browser = open_browser,
        *,
        patience: float = VISIT_S,
    ) -> None:
        self._wire, self._url, self._store, self._say, self._wishes, self._browser = wire, url, store, say, wishes, browser
        self._patience = patience
        self._kept = store.read()
        self._turn = asyncio.Lock()
        self._wider: set[str] = set()  # scopes for which we asked anew
        name = place_of(url).name
        self._private = is_loopback(name) or (name.replace(".", "").isdigit() and not allowed(name, private=False))

    async def lines(self, method: bytes, place: Place, body: bytes) -> bytes:
        kept = self._kept
        if kept is None or not kept.access_token:
            return b""
        if kept.renew and unix() > kept.renew and kept.refresh_token:
            kept = await self._renewed(kept)
        return b"Authorization: Bearer %b\r\n" % kept.access_token.encode() if kept.access_token else b""

    async def refused(self, status: int, challenge: str, shown: bytes) -> bool:
        said = challenge_of(challenge)
        if status == 403 and (said.error != "insufficient_scope" or said.scope in self._wider):
            return False
        async with self._turn:
            kept = self._kept
            if kept is not None and kept.access_token and kept.access_token.encode() not in shown:
                return True  # somebody here was quicker
            async with self._store.locked() as turn:
                kept = self._kept = self._store.read()
                if kept is not None and kept.access_token and kept.access_token.encode() not in shown:
                    return True  # another instance was
                if status == 401 and kept is not None and kept.refresh_token and await self._refresh(kept):
                    return True
                if status == 403:
                    self._wider.add(said.scope)
                await self._log_in(said, turn)
                return True

    # -- renewing ----------------------------------------------------------------------------------------------------------------------------

    async def _renewed(self, kept: Kept) -> Kept:
        async with self._turn:
            if self._kept is not None and self._kept is not kept:
                return self._kept
            async with self._store.locked():
                there = self._store.read()
                if there is not None and there.access_token != kept.access_token:
                    self._kept = there
                    return there
                try:
                    await self._refresh(kept)
                except WireError as error:
                    self._say(f"the token could not be renewed yet: {error.text}")  # the present one serves on, to its end
                return self._kept or kept

    async def _refresh(self, kept: Kept) -> bool:
        """Is there a new token? Raises WireError where nobody said no."""
        if kept.client is None or not kept.token_endpoint:
            return False
        form = {"grant_type": "refresh_token", "refresh_token": kept.refresh_token, "resource": kept.resource}
        try:
            self._take(kept, await self._ask_token(kept.token_endpoint, kept.client, form))
        except Refusal as refusal:
            if refusal.code in ("invalid_client", "unauthorized_client"):
                kept.client = None
            kept.refresh_token = ""
            self._kept = kept
            self._store.write(kept)
            return False
        return True

    def _take(self, kept: Kept, granted: Granted) -> None:
        if granted.token_type.lower() != "bearer" or not is_token(granted.access_token):
            raise WireError("the authorization server gave a token that is no bearer token", hopeless=True)
        kept.access_token = granted.access_token
        kept.refresh_token = granted.refresh_token or kept.refresh_token
        kept.scope = granted.scope or kept.scope
        kept.renew = 0.0
        with suppress(ValueError, TypeError):
            life = float(granted.expires_in)  # type: ignore[arg-type]
            kept.renew = unix() + life - min(EARLY_S, life / 4)
        self._kept = kept
        self._store.write(kept)

    # -- logging in --------------------------------------------------------------------------------------------------------------------------

    async def _log_in(self, said: Challenge, turn: Turn) -> None:
        if turn.failed_ago() < QUIET_S:
            raise WireError(f"the login failed a moment ago; it can be tried again after {QUIET_S:g} s", hopeless=True)
        try:
            await self._logged_in(said)
        except (WireError, asyncio.CancelledError) as error:
            if isinstance(error, WireError):
                self._say(f"the login failed: {error.text}")
                turn.failed(now=unix())
            raise
        turn.failed(now=0)
        self._say(f"logged in at {self._kept.issuer if self._kept else ''}")

    async def _logged_in(self, said: Challenge) -> None:
        resource = await resource_of(self._url, said, self._get)
        parts = urlsplit(self._url)
        issuer = resource.authorization_servers[0] if resource else f"{parts.scheme}://{parts.netloc}"
        authority = await authority_of(issuer, self._get)
        if authority is None:
            if resource is not None:
                raise WireError(f"{issuer} has no metadata, so there is no way to log in", hopeless=True)
            authority = older_authority(self._url)
        kept = self._kept
        old = kept if kept is not None and kept.issuer == authority.issuer else None  # rule 2
        door, client = await self._client(authority, old.client if old else None)
        try:
            scope = self._scope(said, resource.scopes_supported if resource else [], authority, old)
            target = resource.resource if resource else self._url.partition("#")[0]
            verifier = secrets.token_urlsafe(48)
            came = await door.come(
                page_of(authority, client, door, scope, target, verifier), self._browser, self._say, seconds=self._patience
            )
        finally:
            door.close()
        form = {
            "grant_type": "authorization_code",
            "code": code_in(came, authority),
            "redirect_uri": door.url,
            "code_verifier": verifier,
            "resource": target,
        }
        fresh = Kept(self._url, authority.issuer, authority.token_endpoint, authority.revocation_endpoint, target, scope, client)
        self._take(fresh, await self._ask_token(authority.token_endpoint, client, form))

    def _scope(self, said: Challenge, supported: list[str], authority: Authority, old: Kept | None) -> str:
        """What the user wants, else what the challenge asks for, else what the server has; with what we had, when more is asked for."""
        wanted = dict.fromkeys((self._wishes.scope or said.scope or " ".join(supported)).split())
        if said.error == "insufficient_scope":
            wanted = dict.fromkeys([*(old.scope.split() if old else []), *wanted, *said.scope.split()])
        if wanted and OFFLINE in authority.scopes_supported:
            wanted[OFFLINE] = None
        return " ".join(wanted)

    async def _client(self, authority: Authority, old: Client | None) -> tuple[Door, Client]:
        """Rule 2, and a door with the address that this client is known by."""
        wishes = self._wishes
        if wishes.client_id:
            method = _method(authority, wishes.client_secret)
            return Door(wishes.redirect), Client(wishes.client_id, wishes.client_secret, method)
        if wishes.metadata_url and authority.client_id_metadata_document_supported:
            return Door(wishes.redirect), Client(wishes.metadata_url)
        if old is not None and old.registered and old.redirect_uri and not (old.expires and unix() > old.expires - EARLY_S):
            try:
                if not wishes.redirect or wishes.redirect == old.redirect_uri:
                    return Door(old.redirect_uri), old
            except WireError:  # the port is somebody else's now
                pass
        if not authority.registration_endpoint:
            raise WireError(f"{authority.issuer} registers no clients: --client-id says who we are there", hopeless=True)
        door = Door(wishes.redirect)
        try:
            return door, await self._register(authority, door.url)
        except BaseException:
            door.close()
            raise

    async def _register(self, authority: Authority, redirect: str) -> Client:
        about = {
            "client_name": "mcpproxy connect",
            "redirect_uris": [redirect],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
        }
        status, body = await self._post(authority.registration_endpoint, b"Content-Type: application/json\r\n", msgspec.json.encode(about))
        try:
            if status not in (200, 201):
                raise ValueError
            found = msgspec.json.decode(body, type=Registered)
        except (ValueError, msgspec.DecodeError):
            raise WireError(
                f"{authority.issuer} did not register us ({status}): --client-id says who we are there", hopeless=True
            ) from None
        method = found.token_endpoint_auth_method or ("client_secret_basic" if found.client_secret else "none")
        secret = "" if method == "none" else found.client_secret
        return Client(found.client_id, secret, method, redirect, found.client_secret_expires_at if secret else 0.0, registered=True)

    # -- asking ------------------------------------------------------------------------------------------------------------------------------

    async def _ask_token(self, endpoint: str, client: Client, form: dict[str, str]) -> Granted:
        fields, more = shown_as(client)
        status, body = await self._post(endpoint, FORM + fields, urlencode({**form, **more}).encode())
        try:
            if status == 200:
                return msgspec.json.decode(body, type=Granted)
            said: Any = msgspec.json.decode(body)
        except msgspec.DecodeError:
            said = None
        code = said.get("error") if isinstance(said, dict) else None
        if isinstance(code, str) and 400 <= status < 500 and status != 429:
            raise Refusal(f"the authorization server refused: {_shown(code)} {_shown(said.get('error_description'))}".strip(), code)
        raise WireError(f"the token endpoint answered {status}")

    async def _get(self, url: str) -> tuple[int, bytes]:
        return await self._ask(b"GET", url, b"Accept: application/json\r\nMCP-Protocol-Version: 2025-11-25\r\n", b"")

    async def _post(self, url: str, fields: bytes, body: bytes) -> tuple[int, bytes]:
        return await self._ask(b"POST", safe(url), fields, body)

    async def _ask(self, method: bytes, url: str, fields: bytes, body: bytes) -> tuple[int, bytes]:
        place = place_of(url)
        public = not (self._private or place.name == place_of(self._url).name)
        try:
            async with asyncio.timeout(ANSWER_S):
                reply = await self._wire.send(method, url, fields, body, most=LARGEST, public=public)
                return reply.status, await reply.body()
        except TimeoutError:
            raise WireError(f"{place.authority} did not answer within {ANSWER_S:g} s") from None

    async def log_out(self) -> bool:
        """Give the tokens back, and forget them. Was there something to forget?"""
        async with self._store.locked():
            kept = self._store.read()
            token = kept.refresh_token or kept.access_token if kept else ""
            if kept is not None and kept.revocation_endpoint and kept.client is not None and token:
                fields, more = shown_as(kept.client)
                try:
                    await self._post(kept.revocation_endpoint, FORM + fields, urlencode({"token": token, **more}).encode())
                except WireError as error:
                    self._say(f"the token could not be revoked: {error.text}")
            return self._store.forget()


def page_of(authority: Authority, client: Client, door: Door, scope: str, resource: str, verifier: str) -> str:
    """Where the browser goes."""
    asked = {
        "response_type": "code",
        "client_id": client.client_id,
        "redirect_uri": door.url,
        "state": door.state,
        "code_challenge": base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "resource": resource,
    }
    if scope:
        asked["scope"] = scope
    if OFFLINE in scope.split():
        asked["prompt"] = "consent"
    where = authority.authorization_endpoint
    return f"{where}{'&' if '?' in where else '?'}{urlencode(asked)}"


def code_in(came: Mapping[str, str], authority: Authority) -> str:
    """Rule 3. Raises WireError."""
    issuer = came.get("iss")
    if issuer is None and authority.authorization_response_iss_parameter_supported:
        raise WireError("the answer of the login does not say which authorization server it is of", hopeless=True)
    if issuer is not None and issuer != authority.issuer:
        raise WireError(f"the answer of the login is of {_shown(issuer)}, not of {authority.issuer}", hopeless=True)
    if "error" in came or not came.get("code"):
        said = f"{_shown(came.get('error'))} {_shown(came.get('error_description'))}".strip()
        raise WireError(f"the authorization server refused: {said or 'no code'}", hopeless=True)
    return came["code"]


def shown_as(client: Client) -> tuple[bytes, dict[str, str]]:
    """How a client shows itself to the token endpoint: fields, and members of the form (RFC 6749 §2.3.1)."""
    if client.client_secret and client.token_endpoint_auth_method in ("client_secret_basic", ""):
        pair = f"{quote(client.client_id, safe='')}:{quote(client.client_secret, safe='')}"
        return b"Authorization: Basic %b\r\n" % base64.b64encode(pair.encode()), {}
    if client.client_secret:
        return b"", {"client_id": client.client_id, "client_secret": client.client_secret}
    return b"", {"client_id": client.client_id}


def _method(authority: Authority, secret: str) -> str:
    if not secret:
        return "none"
    known = authority.token_endpoint_auth_methods_supported
    return "client_secret_post" if known and "client_secret_basic" not in known else "client_secret_basic"


def is_token(text: str) -> bool:
    """May it stand in a field?"""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _shown(text: object) -> str:
    """Somebody else's words, for a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text[:200]) if isinstance(text, str) else ""
