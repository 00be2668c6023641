"""Tokens from a real authorization server, over real connections: ours, exchanged ones, and its bad days."""

import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.config.policies import Credential
from mcpproxy.errors import ProxyError
from mcpproxy.net.fetch import Bounds, fetch
from mcpproxy.policy.outbound import Outbound
from mcpproxy.policy.verdict import Ask, Principal
from tests.policy.minting import Said, bearer
from tests.support.authorization import MACHINE, MACHINE_SECRET, RESOURCE_SECRET, RESOURCE_SERVER, Authority
from tests.support.certs import Certificate, make_certificate

FILES = "https://files.example/mcp"
ALICE = Principal("alice", "corp", scoped=True)


class Desk:
    """One upstream's Outbound, and a clock that can be put forward."""

    def __init__(self, authority: Authority, kind: str, secret: str | None = None, seconds: float | None = None, **given: object) -> None:
        machine = kind == "client-credentials"
        client, ours = (MACHINE, MACHINE_SECRET) if machine else (RESOURCE_SERVER, RESOURCE_SECRET)
        said = {"token_url": f"{authority.issuer}/token", "private": True, "client_id": client, "client_secret": "env:S", "resource": FILES}
        if authority.certificate is not None:
            said["ca"] = str(authority.certificate.cert)
        credential = Credential(type=kind, **{**said, **given})
        shorter = partial(fetch, private=True, ca=credential.ca, bounds=Bounds(seconds=seconds)) if seconds is not None else None
        self.said = Said()
        self.ahead = 0.0
        upstream = Upstream(urls=("https://files.example",), credential=credential)
        self.outbound = Outbound("files", upstream, lambda _: secret or ours, self.said, fetch=shorter, now=self.now)

    def now(self) -> float:
        return time.time() + self.ahead

    async def shown(self, token: str = ""):
        """The token that is shown, or the kind of what went wrong."""
        credentials = (bearer(token.encode()),) if token else ()
        found = self.outbound.lines(ALICE, credentials, self.now())
        if isinstance(found, Ask):
            await found.question.ask()
            found = self.outbound.lines(ALICE, credentials, self.now())
        if isinstance(found, ProxyError):
            return found.kind
        return found.decode().removeprefix("Authorization: Bearer ").removesuffix("\r\n")


@pytest.fixture
def authority(certificate: Certificate):
    with Authority(certificate, path="/tenant") as running:
        yield running


async def test_a_token_of_ours(authority):
    desk = Desk(authority, "client-credentials", scope="files:read files:write")
    token = await desk.shown()
    claims = authority.tokens[token].claims
    assert (MACHINE, FILES, "files:read files:write") == (claims["sub"], claims["aud"], claims["scope"])
    assert [token] * 5 == [await desk.shown() for _ in range(5)]
    assert 1 == authority.asked["/tenant/token"]
    desk.ahead = authority.lifetime * 0.8
    due = desk.outbound.due(desk.now())
    assert due is not None
    await due.ask()
    assert token != await desk.shown()
    assert 2 == authority.asked["/tenant/token"]


async def test_over_plain_http_on_this_machine():
    with Authority(None) as authority:
        assert await Desk(authority, "client-credentials").shown() in authority.tokens


async def test_each_callers_token_is_exchanged(authority):
    desk = Desk(authority, "token-exchange", scope="files:read")
    first, second = authority.token(resource="https://mcp.example/mcp"), authority.token(resource="https://mcp.example/mcp")
    shown = [await desk.shown(first), await desk.shown(second)]
    assert 4 == len({first, second, *shown})
    for token in shown:
        claims = authority.tokens[token].claims
        assert (MACHINE, RESOURCE_SERVER, FILES, "files:read") == (claims["sub"], claims["client_id"], claims["aud"], claims["scope"])
    asked = authority.asked["/tenant/token"]
    assert shown == [await desk.shown(first), await desk.shown(second)]
    assert asked == authority.asked["/tenant/token"]


async def test_a_callers_token_that_is_no_good_there(authority):
    desk = Desk(authority, "token-exchange")
    assert "exchange-refused" == await desk.shown("made.up")
    token = authority.token()
    authority.revoke(token)
    assert "exchange-refused" == await desk.shown(token)
    assert [] == desk.said.lines
    assert await desk.shown(authority.token()) in authority.tokens


@pytest.mark.parametrize("kind", ["client-credentials", "token-exchange"])
async def test_a_wrong_secret(authority, kind):
    desk = Desk(authority, kind, secret="wrong s3cret")
    assert "upstream-credential-refused" == await desk.shown(authority.token())
    [(_, text)] = desk.said.lines
    assert text.endswith("the answer is 401 invalid_client") and "s3cret" not in text


async def test_a_client_that_may_not_exchange(authority):
    authority.clients[RESOURCE_SERVER] = replace(authority.clients[RESOURCE_SERVER], grant_types=[])
    desk = Desk(authority, "token-exchange")
    assert "upstream-credential-refused" == await desk.shown(authority.token())
    assert desk.said.lines[0][1].endswith("unauthorized_client")


# -- bad days -------------------------------------------------------------------------------------------------------------------------------------


def says(status=200, body=b"", **fields):
    return lambda: (status, body, [(name.replace("_", "-"), value) for name, value in fields.items()])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (says(500, b"{}"), "the answer is 500"),
        (says(200, b"<html>"), "not JSON"),
        (says(200, b" " * 70_000), "too-large"),
        (says(302, Location="http://169.254.169.254/"), "redirected"),
        (says(200, b"{}", Content_Encoding="gzip"), "compressed"),
    ],
)
async def test_an_endpoint_that_answers_something_else(authority, answer, said):
    authority.replaced["/tenant/token"] = answer
    desk = Desk(authority, "client-credentials")
    assert "upstream-credential-unavailable" == await desk.shown()
    assert said in desk.said.lines[0][1]
    del authority.replaced["/tenant/token"]
    desk.ahead = 3
    assert await desk.shown() in authority.tokens


async def test_an_endpoint_that_is_slow(authority):
    gone = threading.Event()
    authority.replaced["/tenant/token"] = lambda: (gone.wait(), says(500)())[1]
    desk = Desk(authority, "client-credentials", seconds=0.2)
    assert "upstream-credential-unavailable" == await desk.shown()
    gone.set()
    assert "timeout" in desk.said.lines[0][1]


async def test_an_endpoint_that_is_down(authority):
    desk = Desk(authority, "client-credentials")
    token = await desk.shown()
    authority.__exit__()
    try:
        desk.ahead = authority.lifetime - 60
        due = desk.outbound.due(desk.now())
        assert due is not None
        await due.ask()
        assert token == await desk.shown(), "it serves to its end"
        desk.ahead = authority.lifetime
        assert "upstream-credential-unavailable" == await desk.shown()
        assert "connect-failed" in desk.said.lines[0][1] and 1 == len(desk.said.lines)
    finally:
        authority.__enter__()


async def test_an_endpoint_inside_is_not_asked(authority):
    desk = Desk(authority, "client-credentials", private=False)
    assert "upstream-credential-unavailable" == await desk.shown()
    assert "address-refused" in desk.said.lines[0][1]
    assert not authority.asked


async def test_an_endpoint_with_a_strangers_certificate(authority, tmp_path: Path):
    desk = Desk(authority, "client-credentials", ca=str(make_certificate(tmp_path).cert))
    assert "upstream-credential-unavailable" == await desk.shown()
    assert "tls-failed" in desk.said.lines[0][1]
    assert not authority.asked, "it saw no secret of ours"
