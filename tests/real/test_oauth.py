"""SDK clients log in with a real authorization server and call a tool of a server that knows nothing of it, through the daemon."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent

from tests.policy.test_with_sdk import Storage, person
from tests.support import software
from tests.support.authorization import MACHINE, MACHINE_SECRET, Authority
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.ports import free_port


class Door:
    def __init__(self, daemon: Daemon, url: str, authority: Authority, context: ssl.SSLContext) -> None:
        self.daemon, self.url, self.authority, self.context = daemon, url, authority, context

    async def call(self, auth: Any, era: str, *, http2: bool) -> str:
        """What the tool says to this client."""
        async with httpx2.AsyncClient(auth=auth, verify=self.context, http2=http2, timeout=30) as http:
            async with Client(streamable_http_client(self.url, http_client=http), mode=era, cache=None) as client:
                said = await client.call_tool("echo", {"message": "grüße"})
                return "".join(each.text for each in said.content if isinstance(each, TextContent))


@contextmanager
def opened(origin: str, directory: Path, certificate: Certificate, **route: Any) -> Iterator[Door]:
    port = free_port()
    url = f"https://localhost:{port}/mcp"
    with Authority(None) as authority:
        config = {
            "listen": [{"address": f"127.0.0.1:{port}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}],
            "auth": {"corp": {"type": "jwt", "issuer": authority.issuer, "private": True}},
            "upstream": {"u": {"urls": [origin], "principal_header": "X-Agent"}},
            "route": [{"upstream": "u", "path": "/mcp", "auth": "corp", "public_url": url, "scopes": ["files:read"], **route}],
            "drain": "5s",
        }
        with Daemon(config, directory) as daemon:
            yield Door(daemon, url, authority, certificate.client(alpn=()))


def callers(door: Door) -> set[str]:
    return {record["principal"] for record in door.daemon.wait_records(1, path="/mcp", status=200)}


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_person_with_the_python_sdk(era: str, http2: bool, sdk2: software.Server, tmp_path: Path, certificate: Certificate) -> None:
    with opened(sdk2.origin, tmp_path, certificate) as door:
        assert asyncio.run(door.call(person(door.url), era, http2=http2)) == "Echo: grüße"
        assert callers(door) == {"alice"}
        [issued] = door.authority.tokens.values()
        assert (issued.claims["aud"], issued.claims["scope"]) == (door.url, "files:read")
        [place] = [record for record in door.daemon.records if record["path"].startswith("/.well-known/")]
        assert place["path"] == "/.well-known/oauth-protected-resource/mcp", "found by the challenge, at the first try"


def test_a_machine_with_the_python_sdk(sdk2: software.Server, tmp_path: Path, certificate: Certificate) -> None:
    with opened(sdk2.origin, tmp_path, certificate) as door:
        provider = ClientCredentialsOAuthProvider(
            door.url, Storage(), client_id=MACHINE, client_secret=MACHINE_SECRET, issuer=door.authority.issuer
        )
        assert asyncio.run(door.call(provider, "auto", http2=False)) == "Echo: grüße"
        assert callers(door) == {MACHINE}


@pytest.mark.software("node", "npm")
@pytest.mark.parametrize("kit", ["sdk1", "sdk2"])
def test_a_person_with_the_typescript_sdk(kit: str, sdk2: software.Server, tmp_path: Path, certificate: Certificate) -> None:
    with opened(sdk2.origin, tmp_path, certificate) as door, software.visitor(kit, certificate.cert) as visitor:
        seen = visitor.ask({"url": door.url})
        assert "error" not in seen, seen["error"]
        assert seen["echo"] == "Echo: grüße"
        assert callers(door) == {"alice"}
        assert {issued.claims["aud"] for issued in door.authority.tokens.values()} == {door.url}


@pytest.mark.software("fastmcp")
@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
def test_a_server_that_is_the_resource_itself(http2: bool, tmp_path: Path, certificate: Certificate) -> None:
    """It names itself by its own address; the person logs in by the public one. (An issuer without a path it would write with a slash of its own.)"""
    listen = {"address": f"127.0.0.1:{free_port()}", "tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}
    with Authority(None, path="/tenant") as authority, software.guarded_server(authority.issuer) as server:
        config = {"listen": [listen], "upstream": {"u": {"urls": [server.origin]}}, "route": [{"upstream": "u"}], "drain": "5s"}
        with Daemon(config, tmp_path) as daemon:
            url = f"https://localhost:{daemon.port()}/mcp"
            door = Door(daemon, url, authority, certificate.client(alpn=()))
            assert asyncio.run(door.call(person(url), "legacy", http2=http2)) == "Echo: grüße"
            assert {issued.claims["aud"] for issued in authority.tokens.values()} == {url}
            daemon.wait_records(1, method="DELETE")  # the last there is
            found = [(record["path"], record["status"]) for record in daemon.records if record["path"].startswith("/.well-known/")]
            assert found == [("/.well-known/oauth-protected-resource/mcp", 200)]
