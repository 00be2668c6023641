"""The MCP SDK's own OAuth client in front of what policy/ says: it finds the documents, gets a token, asks for more scopes when told to, and is let in.

The edge is played by a few lines here: it takes the credential out, judges it, and says what policy/resource made.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from mcpproxy.config.model import Route
from mcpproxy.config.policies import Auth
from mcpproxy.http.replies import reply
from mcpproxy.policy.bearer import Bearer
from mcpproxy.policy.issuer import fetcher
from mcpproxy.policy.jwks import key_source
from mcpproxy.policy.resource import Endpoint, answer, endpoint_path, public_url
from mcpproxy.policy.verdict import Accepted, Ask, Credential, Refused
from tests.policy.minting import Said
from tests.support.authorization import MACHINE, MACHINE_SECRET, Authority

CALLBACK = "http://localhost:1/callback"


class Edge:
    """A route with `auth`, as the edge would serve it."""

    def __init__(self, auth: Auth, scopes: tuple[str, ...], port: int) -> None:
        self.route = Route(upstream="u", host=("127.0.0.1",), path="/files/mcp", scopes=scopes)
        self.url = public_url(self.route, "http", f"127.0.0.1:{port}")
        self.endpoint = Endpoint(self.route, self.url, [auth])
        self.keys = key_source("corp", auth, fetcher(auth), Said())
        self.bearer = Bearer("corp", auth, (self.url,), self.keys)
        self.seen: list[tuple[str, int]] = []
        self.callers: list[str] = []

    def serve(self, method: bytes, path: bytes, token: bytes | None, more: str | None) -> bytes:
        at = endpoint_path(path)
        if at is not None:
            return answer(self.endpoint if at == self.route.path.encode() else None, method, close=True)
        if path != self.route.path.encode():
            return reply(404, "no-route", jsonrpc=False, close=True)
        if token is None:
            return self.refuse(401, "token-claims", self.endpoint.missing())
        judged = self.judge(Credential("bearer", token, b"authorization"))
        if not isinstance(judged, Accepted):
            assert isinstance(judged, Refused)
            return self.refuse(judged.status, judged.kind, self.endpoint.invalid(judged.kind))
        needed = {*self.route.scopes, *([more] if more else [])}
        if not needed <= judged.principal.scopes:
            return self.refuse(403, "token-claims", self.endpoint.insufficient([more] if more else []))
        self.callers.append(judged.principal.name)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

    def judge(self, credential: Credential) -> Any:
        judged = self.bearer.judge(credential, self.keys._now())
        if isinstance(judged, Ask):
            asyncio.run(judged.question.ask())
            judged = self.bearer.judge(credential, self.keys._now())
        return judged

    def refuse(self, status: int, kind: str, challenge: bytes) -> bytes:
        return reply(status, kind, jsonrpc=True, close=True, extra=((b"WWW-Authenticate", challenge),))


@contextmanager
def running(authority: Authority, scopes: tuple[str, ...] = ()) -> Iterator[Edge]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization")
            token = shown.removeprefix("Bearer ").encode() if shown else None
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = edge.serve(self.command.encode(), self.path.encode(), token, self.headers.get("X-Needs"))
            edge.seen.append((self.path, int(said.split()[1])))
            self.wfile.write(said)

        do_POST = do_OPTIONS = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    daemon = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    edge = Edge(Auth(type="jwt", issuer=authority.issuer, private=True), scopes, daemon.server_address[1])
    thread = threading.Thread(target=daemon.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield edge
    finally:
        daemon.shutdown()
        thread.join()
        daemon.server_close()


class Storage:
    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


def person(url: str) -> OAuthClientProvider:
    """A client whose user says yes to everything, in a browser that follows the redirect."""
    from mcp.client.auth import AuthorizationCodeResult

    came: dict[str, list[str]] = {}

    async def browse(where: str) -> None:
        async with httpx2.AsyncClient() as browser:
            came.update(parse_qs(urlsplit((await browser.get(where)).headers["location"]).query))

    async def back() -> Any:
        return AuthorizationCodeResult(code=came["code"][0], state=came["state"][0])

    metadata = OAuthClientMetadata(redirect_uris=[CALLBACK], client_name="test", token_endpoint_auth_method="none")  # type: ignore[list-item]
    return OAuthClientProvider(url, metadata, Storage(), browse, back)


@pytest.fixture(params=["", "/tenant"])
def authority(request):
    with Authority(None, path=request.param) as made:
        yield made


PLACE = "/.well-known/oauth-protected-resource/files/mcp"


async def test_a_person_is_let_in(authority):
    with running(authority, scopes=("files:read",)) as edge:
        async with httpx2.AsyncClient(auth=person(edge.url)) as client:
            for _ in range(3):
                assert "ok" == (await client.post(edge.url, json={})).text
        assert [("/files/mcp", 401), (PLACE, 200), *[("/files/mcp", 200)] * 3] == edge.seen
        assert ["alice"] * 3 == edge.callers
        [issued] = authority.tokens.values()
        assert (edge.url, "files:read") == (issued.claims["aud"], issued.claims["scope"])


async def test_a_person_gets_more_scopes_when_told_which(authority):
    with running(authority, scopes=("files:read",)) as edge:
        async with httpx2.AsyncClient(auth=person(edge.url)) as client:
            assert "ok" == (await client.post(edge.url, json={})).text
            assert "ok" == (await client.post(edge.url, json={}, headers={"X-Needs": "files:write"})).text
        assert [401, 200, 200, 403, 200] == [status for _, status in edge.seen]
        assert {"files:read", "files:write"} == set(list(authority.tokens.values())[-1].claims["scope"].split())


async def test_a_token_that_has_expired_is_renewed(authority):
    with running(authority) as edge:
        async with httpx2.AsyncClient(auth=person(edge.url)) as client:
            assert "ok" == (await client.post(edge.url, json={})).text
            edge.keys._now = lambda now=edge.keys._now: now() + 7200  # type: ignore[misc]
            authority.lifetime = 10_000
            assert "ok" == (await client.post(edge.url, json={})).text
        assert [401, 200, 200, 401, 200, 200] == [status for _, status in edge.seen]


async def test_a_machine_is_let_in(authority):
    with running(authority, scopes=("files:read",)) as edge:
        provider = ClientCredentialsOAuthProvider(
            edge.url, Storage(), client_id=MACHINE, client_secret=MACHINE_SECRET, issuer=authority.issuer
        )
        async with httpx2.AsyncClient(auth=provider) as client:
            assert "ok" == (await client.post(edge.url, json={})).text
        assert [MACHINE] == edge.callers


async def test_where_only_keys_open_a_client_that_knows_oauth_fails_soon(authority):
    with running(authority) as edge:
        edge.endpoint = Endpoint(edge.route, edge.url, [Auth(type="api-key", file="/keys")])
        async with httpx2.AsyncClient(auth=person(edge.url)) as client:
            with pytest.raises(OAuthFlowError):
                await client.post(edge.url, json={})
        assert {401, 404} == {status for _, status in edge.seen}
