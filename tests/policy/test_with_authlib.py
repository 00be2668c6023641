"""The whole way to a real authorization server and back: metadata, keys, tokens, introspection, rotation, and its bad days."""

import json
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mcpproxy.config.policies import Auth
from mcpproxy.policy.bearer import Bearer
from mcpproxy.policy.introspect import Introspected, Introspection
from mcpproxy.policy.issuer import fetcher
from mcpproxy.policy.jwks import COOL_S, FRESH_S, key_source
from mcpproxy.policy.verdict import Accepted, Ask, Refused
from tests.policy.minting import Said, bearer
from tests.support.authorization import MACHINE, RESOURCE_SECRET, RESOURCE_SERVER, Authority
from tests.support.certs import Certificate, make_certificate

RESOURCE = "https://mcp.example/mcp"


class Gate:
    """An authenticator as assembled from a configuration, and a clock that can be put forward."""

    def __init__(self, auth: Auth) -> None:
        self.said = Said()
        self.ahead = 0.0
        if auth.type == "jwt":
            self.source = key_source("corp", auth, fetcher(auth), self.said)
            self.source._now = self.now
            self.judge_of = Bearer("corp", auth, (RESOURCE,), self.source).judge
        else:
            asked = Introspection("corp", auth, RESOURCE_SECRET, fetcher(auth), self.said, self.now)
            self.judge_of = Introspected("corp", auth, (RESOURCE,), asked).judge

    def now(self) -> float:
        return time.time() + self.ahead

    async def judge(self, token: str):
        judged = self.judge_of(bearer(token.encode()), self.now())
        if isinstance(judged, Ask):
            await judged.question.ask()
            judged = self.judge_of(bearer(token.encode()), self.now())
        return judged

    async def kind(self, token: str) -> str:
        judged = await self.judge(token)
        return judged.kind if isinstance(judged, Refused) else type(judged).__name__


@pytest.fixture(params=["RS256", "PS256", "ES256", "EdDSA"])
def algorithm(request):
    return request.param


@pytest.fixture
def authority(certificate: Certificate):
    with Authority(certificate, path="/tenant", audience=RESOURCE) as running:
        yield running


def settings(authority: Authority, certificate: Certificate, **given) -> Auth:
    auth = Auth(type="jwt", issuer=authority.issuer, private=True, ca=str(certificate.cert))
    return msgspec.structs.replace(auth, **given)


@pytest.fixture
def gate(authority, certificate):
    return Gate(settings(authority, certificate))


async def test_a_signed_token(certificate, algorithm):
    with Authority(certificate, algorithm=algorithm, extra_claims={"realm_access": {"roles": ["ops"]}}) as authority:
        gate = Gate(settings(authority, certificate, roles_claim="realm_access.roles"))
        judged = await gate.judge(authority.token(resource=RESOURCE, scope="files:read"))
        assert isinstance(judged, Accepted)
        assert (MACHINE, {"files:read"}, {"ops"}) == (judged.principal.name, judged.principal.scopes, judged.principal.roles)
        assert "token-audience" == await gate.kind(authority.token(resource="https://other.example/mcp"))
        asked = dict(authority.asked)
        for _ in range(20):
            assert "Accepted" == await gate.kind(authority.token(resource=RESOURCE))
        assert {**asked, "/token": asked["/token"] + 20} == dict(authority.asked), "nobody is asked again"


@pytest.mark.parametrize("well_known", ["oauth-authorization-server", "openid-configuration"])
@pytest.mark.parametrize("path", ["", "/tenant"])
async def test_metadata_wherever_they_are(certificate, well_known, path):
    with Authority(certificate, path=path, audience=RESOURCE, well_known=well_known) as authority:
        assert "Accepted" == await Gate(settings(authority, certificate)).kind(authority.token())


async def test_plain_http_on_this_machine():
    with Authority(None, audience=RESOURCE) as authority:
        assert "Accepted" == await Gate(Auth(type="jwt", issuer=authority.issuer, private=True)).kind(authority.token())


async def test_keys_at_a_url_and_in_a_file(authority, certificate, tmp_path: Path):
    given = settings(authority, certificate, jwks=f"{authority.issuer}/keys")
    assert "Accepted" == await Gate(given).kind(authority.token())
    assert ["/tenant/keys", "/tenant/token"] == sorted(authority.asked), "no metadata are needed"
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in authority.keys]}))
    authority.asked.clear()
    assert "Accepted" == await Gate(msgspec.structs.replace(given, jwks=f"file:{file}")).kind(authority.token())
    assert ["/tenant/token"] == list(authority.asked)


async def test_rotation(authority, gate):
    old = authority.token()
    assert "Accepted" == await gate.kind(old)
    authority.rotate("ES256")
    new = authority.token()
    gate.ahead = COOL_S
    assert ["Accepted", "Accepted"] == [await gate.kind(new), await gate.kind(old)]
    authority.withdraw()
    gate.ahead = COOL_S + FRESH_S
    due = gate.source.due(gate.now())
    assert due is not None
    await due.ask()
    assert ["Accepted", "token-key-unknown"] == [await gate.kind(new), await gate.kind(old)]


async def test_tokens_of_another_issuer_with_the_same_keys(authority, gate, certificate):
    with Authority(certificate, path="/other", audience=RESOURCE) as other:
        assert "token-issuer" == await gate.kind(other.token())
        claims = {"iss": authority.issuer, "aud": RESOURCE, "sub": "x", "exp": time.time() + 60}
        other.rotate("ES384")
        assert await gate.kind(other.sign(claims)) == "token-algorithm", "not one we accept"
        other.rotate("ES256")
        assert await gate.kind(other.sign(claims)) == "token-key-unknown"


async def test_an_id_token_of_the_issuer(authority, gate):
    claims = {"iss": authority.issuer, "aud": RESOURCE, "sub": "x", "exp": time.time() + 60, "iat": time.time()}
    assert "Accepted" == await gate.kind(authority.sign(claims))
    assert "token-type" == await gate.kind(authority.sign(claims, typ="oauth-id-jag+jwt"))
    assert "token-type" == await gate.kind(authority.sign({**claims, "at_hash": "x"}, typ="JWT"))


# -- bad days -------------------------------------------------------------------------------------------------------------------------------------


def says(status=200, body=b"", **fields):
    return lambda: (status, body, [(name.replace("_", "-"), value) for name, value in fields.items()])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (says(500, b"{}"), "answered 500"),
        (says(200, b"<html>"), "not JSON"),
        (says(200, b'{"keys":[]}'), "no key"),
        (says(200, b" " * 300_000), "too-large"),
        (says(302, Location="http://169.254.169.254/"), "redirected"),
        (says(200, b"{}", Content_Encoding="gzip"), "compressed"),
    ],
)
async def test_a_key_set_that_cannot_be_had(authority, gate, answer, said):
    authority.replaced["/tenant/keys"] = answer
    token = authority.token()
    assert "issuer-unreachable" == await gate.kind(token)
    assert said in gate.said.lines[0][1]
    asked = authority.asked["/tenant/keys"]
    for _ in range(20):
        assert "issuer-unreachable" == await gate.kind(token)
    assert asked == authority.asked["/tenant/keys"], "not asked at every request"
    del authority.replaced["/tenant/keys"]
    gate.ahead = COOL_S
    assert "Accepted" == await gate.kind(token)


async def test_metadata_that_point_inside_are_not_followed(authority, certificate):
    """The issuer is public (as far as the guard is told), its key set is not."""
    gate = Gate(settings(authority, certificate, private=False))
    assert "issuer-unreachable" == await gate.kind(authority.token())
    assert "address-refused" in gate.said.lines[0][1]
    assert not authority.asked["/.well-known/oauth-authorization-server/tenant"], "not even asked"
    inside = json.dumps({**authority.metadata(), "jwks_uri": "https://169.254.169.254/latest"}).encode()
    authority.replaced["/.well-known/oauth-authorization-server/tenant"] = says(200, inside)
    gate = Gate(settings(authority, certificate))
    assert "issuer-unreachable" == await gate.kind(authority.token())
    assert "address-refused" in gate.said.lines[0][1]


async def test_an_issuer_that_is_down(authority, gate, certificate):
    token = authority.token()
    down = Gate(msgspec.structs.replace(settings(authority, certificate), issuer=authority.issuer))
    assert "Accepted" == await gate.kind(token)
    authority.__exit__()
    try:
        assert "issuer-unreachable" == await down.kind(token)
        assert "connect-failed" in down.said.lines[0][1]
        gate.ahead = FRESH_S
        due = gate.source.due(gate.now())
        assert due is not None
        await due.ask()
        assert "Accepted" == await gate.kind(token), "the keys it had serve"
    finally:
        authority.__enter__()


async def test_an_issuer_with_a_strangers_certificate(authority, certificate, tmp_path: Path):
    stranger = make_certificate(tmp_path)
    gate = Gate(settings(authority, stranger))
    assert "issuer-unreachable" == await gate.kind(authority.token())
    assert "tls-failed" in gate.said.lines[0][1]


# -- introspection ----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def opaque(authority, certificate):
    authority.opaque = True
    return Gate(settings(authority, certificate, type="introspection", client_id=RESOURCE_SERVER))


async def test_an_opaque_token(authority, opaque):
    token = authority.token(scope="files:read")
    judged = await opaque.judge(token)
    assert isinstance(judged, Accepted)
    assert (MACHINE, {"files:read"}) == (judged.principal.name, judged.principal.scopes)
    assert "Accepted" == await opaque.kind(token)
    assert 1 == authority.asked["/tenant/introspect"]
    assert "token-inactive" == await opaque.kind("made-up")
    assert "token-audience" == await opaque.kind(authority.token(resource="https://other.example"))


async def test_a_revoked_token_works_no_longer_than_the_answer_is_believed(authority, opaque):
    token = authority.token()
    assert "Accepted" == await opaque.kind(token)
    authority.revoke(token)
    assert "Accepted" == await opaque.kind(token)
    opaque.ahead = 61
    assert "token-inactive" == await opaque.kind(token)


async def test_a_wrong_secret_is_said(authority, certificate):
    authority.opaque = True
    authority.clients[RESOURCE_SERVER] = replace(authority.clients[RESOURCE_SERVER], secret="another")
    gate = Gate(settings(authority, certificate, type="introspection", client_id=RESOURCE_SERVER))
    assert "issuer-unreachable" == await gate.kind(authority.token())
    assert "client_secret right?" in gate.said.lines[0][1]
    assert RESOURCE_SECRET not in gate.said.lines[0][1]


async def test_a_signed_token_can_be_introspected_too(authority, opaque):
    authority.opaque = False
    assert "Accepted" == await opaque.kind(authority.token())
