"""What an upstream is shown, whatever the configuration says: never the caller's own credential in place of ours."""

import base64

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.config.policies import Credential, Identity
from mcpproxy.errors import ProxyError, StartError
from mcpproxy.net.fetch import FetchError, Response
from mcpproxy.pki.store import Store
from mcpproxy.policy import verdict
from mcpproxy.policy.identity import IdentityKey
from mcpproxy.policy.outbound import Outbound
from mcpproxy.policy.sigv4 import Outgoing
from mcpproxy.policy.verdict import Ask, Principal
from tests.policy.minting import NOW, Said, bearer

SECRETS = {"env:V": "Bearer s3cret", "env:S": "client s3cret", "env:A": "AKIDEXAMPLE", "env:K": "s3cret/key", "env:T": "s3cret-session"}
TOKENS = {"token_url": "https://login.example/token", "client_id": "us", "client_secret": "env:S"}
AWS = {"region": "us-east-1", "service": "bedrock", "access_key": "env:A", "secret_key": "env:K", "session_token": "env:T"}
GIVEN = {
    "header": {"value": "env:V"},
    "passthrough": {},
    "client-credentials": TOKENS,
    "token-exchange": TOKENS,
    "sigv4": AWS,
}
ALICE = Principal("alice", "corp", scoped=True)
AGENT = Principal("agent-alpha", "keys")
SHOWN = bearer(b"token-of-alice")
REQUEST = Outgoing(b"POST", b"/mcp", b"up.example", b"{}")


def made(kind=None, *, identity=None, answer=None, key=None, secrets=None, shown=None, **given):
    """One upstream's Outbound, and the bodies its token endpoint was asked with."""
    asked = []

    async def fetch(url, *, method="GET", body=None, headers=()):
        asked.append(body)
        if shown is not None:
            shown.append(dict(headers)["Authorization"])
        if isinstance(answer, Exception):
            raise answer
        return answer or Response(200, b'{"access_token":"granted","token_type":"Bearer","expires_in":100}')

    credential = Credential(type=kind, **{**GIVEN[kind], **given}) if kind is not None else None
    upstream = Upstream(urls=("https://up.example",), credential=credential, identity=identity)
    return Outbound("files", upstream, (secrets or SECRETS).__getitem__, Said(), key, fetch=fetch, now=lambda: NOW), asked


async def settled(outbound, principal=ALICE, credentials=(SHOWN,), now=NOW):
    found = outbound.lines(principal, credentials, now, REQUEST)
    if isinstance(found, Ask):
        await found.question.ask()
        found = outbound.lines(principal, credentials, now, REQUEST)
    return found


def test_a_fixed_field():
    outbound, _ = made("header")
    assert b"Authorization: Bearer s3cret\r\n" == outbound.static
    assert b"X-Upstream-Key: Bearer s3cret\r\n" == made("header", header="X-Upstream-Key")[0].static
    assert b"" == outbound.lines(ALICE, (SHOWN,), NOW)
    assert (False, False) == (outbound.each, outbound.needs_body)


@pytest.mark.parametrize("kind", [None, "passthrough"])
def test_nothing_of_ours(kind):
    outbound, _ = made(kind)
    assert (b"", b"", False) == (outbound.static, outbound.lines(ALICE, (SHOWN,), NOW), outbound.each)


async def test_a_token_of_ours():
    outbound, asked = made("client-credentials")
    assert (True, False, b"") == (outbound.each, outbound.needs_body, outbound.static)
    for principal, credentials in ((None, ()), (AGENT, (bearer(b"mcpp_key"),)), (ALICE, (SHOWN,))):
        assert b"Authorization: Bearer granted\r\n" == await settled(outbound, principal, credentials)
    assert 1 == len(asked) and b"alice" not in asked[0]


async def test_a_token_for_the_caller():
    outbound, asked = made("token-exchange")
    assert b"Authorization: Bearer granted\r\n" == await settled(outbound)
    assert b"subject_token=token-of-alice&" in asked[0]


@pytest.mark.parametrize(
    ("principal", "credentials"),
    [
        (None, ()),
        (None, (SHOWN,)),
        (AGENT, (bearer(b"mcpp_0123456789_key"),)),
        (AGENT, (SHOWN, verdict.Credential("certificate", b"der"))),  # accepted for the certificate; nobody judged the token
        (ALICE, ()),
    ],
    ids=["nobody", "not judged", "a key", "a certificate beside a token", "nothing shown"],
)
async def test_who_has_no_token_has_none_to_exchange(principal, credentials):
    outbound, asked = made("token-exchange")
    found = await settled(outbound, principal, credentials)
    assert isinstance(found, ProxyError)
    assert ("exchange-needs-token", 403) == (found.kind, found.status)
    outbound.rejected(principal, credentials, NOW)
    assert [] == asked, "keys of ours and tokens nobody judged go nowhere"


def test_an_aws_signature():
    outbound, _ = made("sigv4")
    assert (True, True, b"") == (outbound.each, outbound.needs_body, outbound.static)
    lines = outbound.lines(None, (), NOW, REQUEST)
    assert b"Credential=AKIDEXAMPLE/20270115/us-east-1/bedrock/aws4_request, " in lines
    assert b"X-Amz-Security-Token: s3cret-session\r\n" in lines
    assert b"s3cret/key" not in lines
    assert b"X-Amz-Security-Token" not in made("sigv4", session_token=None)[0].lines(None, (), NOW, REQUEST)


def test_a_signature_is_for_one_host():
    """Which server is asked is known only after it was signed."""
    credential = Credential(type="sigv4", **AWS)
    several = {"urls": ("https://a.example", "https://b.example"), "credential": credential}
    with pytest.raises(StartError, match="several names"):
        Outbound("files", Upstream(**several), SECRETS.__getitem__, Said())
    assert Outbound("files", Upstream(**several, host="files.example"), SECRETS.__getitem__, Said()).needs_body


@pytest.mark.parametrize("kind", [None, "client-credentials", "token-exchange", "sigv4"])
async def test_who_calls(kind, tmp_path):
    outbound, _ = made(kind, identity=Identity(), key=IdentityKey.kept(Store(tmp_path)))
    assert outbound.each
    found = await settled(outbound)
    assert isinstance(found, bytes)
    lines = found.split(b"\r\n")
    assert 1 == sum(line.startswith(b"X-MCP-Identity: ey") for line in lines)
    assert (kind is not None) == (1 == sum(line.startswith(b"Authorization: ") for line in lines))
    assert b"" == lines[-1]


async def test_nobody_calls(tmp_path):
    outbound, _ = made(identity=Identity(), key=IdentityKey.kept(Store(tmp_path)))
    assert b"" == await settled(outbound, None, ())


@pytest.mark.parametrize("kind", ["client-credentials", "token-exchange"])
async def test_without_our_credential_nothing_goes(kind):
    outbound, _ = made(kind, answer=FetchError("timeout", "slow"))
    found = await settled(outbound)
    assert isinstance(found, ProxyError)
    assert ("upstream-credential-unavailable", 503) == (found.kind, found.status)


@pytest.mark.parametrize("kind", ["client-credentials", "token-exchange"])
async def test_a_token_the_upstream_refused_is_forgotten(kind):
    outbound, _ = made(kind)
    await settled(outbound)
    outbound.rejected(ALICE, (SHOWN,), NOW + 20)
    assert isinstance(outbound.lines(ALICE, (SHOWN,), NOW + 20), Ask)


def test_a_rejection_of_what_is_not_a_token_changes_nothing():
    for kind in (None, "header", "passthrough", "sigv4"):
        made(kind)[0].rejected(ALICE, (SHOWN,), NOW)


async def test_what_is_due():
    outbound, asked = made("client-credentials")
    await outbound.due(NOW).ask()
    assert 1 == len(asked)
    assert outbound.due(NOW) is None
    assert all(made(kind)[0].due(NOW) is None for kind in (None, "header", "passthrough", "token-exchange", "sigv4"))


@pytest.mark.parametrize("kind", GIVEN)
def test_a_secret_that_is_no_field_value(kind, monkeypatch):
    monkeypatch.setattr(f"{__name__}.SECRETS", dict.fromkeys(SECRETS, "sécret"))
    if kind == "passthrough":
        made(kind)
        return
    with pytest.raises(StartError, match="beyond ASCII") as caught:
        made(kind)
    assert "sécret" not in str(caught.value)


@pytest.mark.parametrize("kind", GIVEN)
def test_nothing_secret_is_shown(kind):
    outbound, _ = made(kind)
    assert not any(secret in repr(outbound) for secret in SECRETS.values())


# -- secrets that change --------------------------------------------------------------------------------------------------------------------------


def test_a_field_is_another_one_once_its_secret_is():
    secrets = dict(SECRETS)
    outbound, _ = made("header", secrets=secrets)
    assert not outbound.renew()
    secrets["env:V"] = "Bearer another"
    assert outbound.renew()
    assert b"Authorization: Bearer another\r\n" == outbound.static


def test_signatures_are_of_the_keys_of_now():
    secrets = dict(SECRETS)
    outbound, _ = made("sigv4", secrets=secrets)
    before = outbound.lines(AGENT, (), NOW, REQUEST)
    secrets |= {"env:A": "AKIDANOTHER", "env:K": "another/key", "env:T": "another-session"}
    assert not outbound.renew()
    after = outbound.lines(AGENT, (), NOW, REQUEST)
    assert before != after == made("sigv4", secrets=secrets)[0].lines(AGENT, (), NOW, REQUEST)
    assert b"AKIDANOTHER/" in after and b"X-Amz-Security-Token: another-session" in after


async def test_tokens_are_asked_for_with_the_secret_of_now_and_older_ones_serve():
    secrets, shown = dict(SECRETS), []
    outbound, asked = made("client-credentials", secrets=secrets, shown=shown)
    line = await settled(outbound)
    secrets["env:S"] = "another"
    assert not outbound.renew()
    assert line == await settled(outbound)
    assert len(asked) == 1
    await settled(outbound, now=NOW + 1000)
    assert [base64.b64decode(each.removeprefix("Basic ")) for each in shown] == [b"us:client%20s3cret", b"us:another"]


def test_what_needs_no_secret_does_not_change():
    assert not made()[0].renew()
    assert not made("passthrough")[0].renew()
