"""From the configuration to authenticators: what is learned once serves every route."""

import time
from pathlib import Path

from mcpproxy.clock import unix
from mcpproxy.config.policies import Auth
from mcpproxy.policy.jwks import FRESH_FILE_S
from mcpproxy.policy.oauth import Tokens
from mcpproxy.policy.verdict import Accepted, Ask, Refused
from tests.policy.minting import Said, bearer, good, key_set, mint, settings
from tests.support.authorization import RESOURCE_SECRET, RESOURCE_SERVER, Authority, new_key

KEY = new_key("ES256")
ONE, TWO = "https://one.example/mcp", "https://two.example/mcp"


def token(audience):
    now = time.time()
    return bearer(mint(good(aud=audience, exp=now + 600, iat=now), KEY))


def no_secret(reference):
    raise AssertionError(reference)


async def test_keys_are_loaded_once_for_all_routes(tmp_path: Path):
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(KEY))
    tokens = Tokens({"corp": settings(jwks=f"file:{file}"), "keys": Auth(type="api-key", file="/x")}, no_secret, Said())
    one, two = tokens.authenticator("corp", (ONE,)), tokens.authenticator("corp", (TWO,))
    assert one is tokens.authenticator("corp", (ONE,)), "the same for the same"
    assert tokens.authenticator("keys", (ONE,)) is None
    [question] = tokens.due(unix())
    await question.ask()
    assert [] == list(tokens.due(unix()))
    assert 1 == len(list(tokens.due(unix() + FRESH_FILE_S)))
    assert isinstance(one.judge(token(ONE), unix()), Accepted)
    assert isinstance(two.judge(token(TWO), unix()), Accepted)
    assert isinstance(one.judge(token(TWO), unix()), Refused)


def test_an_audience_of_the_configuration_makes_all_routes_one(tmp_path: Path):
    tokens = Tokens({"corp": settings(audience=("api://mcp",))}, no_secret, Said())
    assert tokens.authenticator("corp", (ONE,)) is tokens.authenticator("corp", (TWO,))


async def test_our_own_secret_is_read_from_its_reference():
    with Authority(None, opaque=True, audience=ONE) as authority:
        auth = Auth(type="introspection", issuer=authority.issuer, private=True, client_id=RESOURCE_SERVER, client_secret="env:SECRET")
        tokens = Tokens({"opaque": auth}, {"env:SECRET": RESOURCE_SECRET}.__getitem__, Said())
        assert [] == list(tokens.due(unix()))
        one = tokens.authenticator("opaque", (ONE,))
        assert one is not None
        shown = bearer(authority.token().encode())
        judged = one.judge(shown, unix())
        assert isinstance(judged, Ask)
        await judged.question.ask()
        assert isinstance(one.judge(shown, unix()), Accepted)
