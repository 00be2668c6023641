"""The tables about callers as the other rooms rely on them: off until configured, closed once they are."""

import msgspec
import pytest

from mcpproxy.config.kinds import Secret
from mcpproxy.config.load import keys_of, load
from mcpproxy.config.model import Config, Listen, Route, Tls, Upstream
from mcpproxy.config.policies import ALGORITHMS, TABLES, Auth, Constraint, Credential, Limit, Rule, Tools
from tests.config.samples import GOOD, with_route


def test_everything_is_off_until_it_is_configured() -> None:
    config = load(GOOD)
    assert (config.auth, config.limit, config.audit) == ({}, {}, None)
    route, upstream, listen = config.route[0], config.upstream["search"], config.listen[0]
    assert route == Route(upstream="search")
    off = (
        route.auth,
        route.scopes,
        route.limits,
        route.allow_from,
        route.deny_from,
        route.allow_hosts,
        route.allow_origins,
        route.hide_headers,
    )
    assert off == ((),) * len(off)
    assert (route.rate, route.tools, route.public_url, route.cors, route.security_headers) == (None, None, None, False, False)
    assert (upstream.credential, upstream.identity, upstream.principal_header, upstream.cookies) == (None, None, None, False)
    assert (listen.proxy_protocol, listen.trusted_proxies) == (False, ())
    assert (Tls().client_ca, Tls().client_cert) == (None, "optional")


def test_what_is_configured_denies_by_default() -> None:
    tools = load(with_route("[route.tools]")).route[0].tools
    assert tools == Tools()
    assert tools is not None
    assert (tools.allow, tools.deny, tools.read_only, tools.shadow, tools.trust_headers) == ((), (), False, False, False)
    assert Rule().who == ("*",)
    assert not Constraint().optional
    assert not Auth(type="jwt").private
    assert Credential(type="header").header == "Authorization"
    assert Limit().per == ("principal",)


def test_no_symmetric_algorithm_can_be_chosen() -> None:
    """With them whoever can check a token can make one, and a public key is a secret everybody knows."""
    assert not any(name.startswith("HS") or name == "none" for name in ALGORITHMS)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_what_sounds_like_a_secret_is_read_as_one(table: type) -> None:
    """A value that was written into the file would be printed by the first mistake beside it."""
    secret = {name for name, key in keys_of(table).items() if isinstance(key.kind, Secret)}
    sounding = {name for name in keys_of(table) if name.endswith(("secret", "_key", "password", "session_token"))}
    assert sounding <= secret


def test_the_tables_hang_in_the_model() -> None:
    hung = {field.name for table in (Config, Listen, Tls, Upstream, Route) for field in msgspec.structs.fields(table)}
    assert {"auth", "limit", "audit", "credential", "identity", "tools", "client_ca", "trusted_proxies"} <= hung
