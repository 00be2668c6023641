"""What is said about callers and does not fit together: refused, each with its place; or legal and unwise."""

import re

import pytest

from mcpproxy.config.check_policies import AUTH_KEYS, CREDENTIAL_KEYS, CREDENTIAL_NEEDS
from mcpproxy.config.load import read
from mcpproxy.config.policies import Auth, Credential
from mcpproxy.edge.cut import REQUEST_CUTS
from tests.config.samples import GOOD, mistakes, only, with_listen, with_route, with_upstream

KEYS = '[auth.keys]\ntype = "api-key"\nfile = "keys.jsonl"\n'
MTLS = '[auth.certs]\ntype = "mtls"\n'
JWT = '[auth.corp]\ntype = "jwt"\nissuer = "https://login.example"\n'
OPAQUE = '[auth.corp]\ntype = "introspection"\nintrospection = "https://login.example/ask"\nclient_id = "us"\n'
LOCAL = with_route('host = "a.test"\nauth = "corp"') + JWT.replace("https://login.example", "http://127.0.0.1:8080") + "private = true\n"
CLIENTS = 'tls = { cert = "a", key = "b", client_ca = "c" }'


@pytest.mark.parametrize(
    ("text", "path", "line", "said"),
    [
        (GOOD + '[log]\naccess = "/x/a.log"\n[audit]\nfile = "/x/a.log"\n', "audit.file", 10, "is the access log"),
        (with_route('auth = "keys"'), "route[0].auth[0]", 7, 'no way to know a caller called "keys"; add [auth.keys]'),
        (with_route('auth = ["keys", "kys"]') + KEYS, "route[0].auth[1]", 7, 'did you mean "keys"?'),
        (with_route('auth = "keys"') + '[auth.keys]\ntype = "api-key"\n', "auth.keys", 8, "is missing its file of keys"),
        (with_route('auth = "certs"') + MTLS, "auth.certs", 8, "no listener asks for client certificates"),
        (with_route('host = "a.test"\nauth = "corp"') + JWT.replace("issuer", "#"), "auth.corp", 9, "is missing its issuer"),
        (with_route('host = "a.test"\nauth = "corp"') + OPAQUE.replace("\nintro", "\n#"), "auth.corp", 9, "nobody can be asked"),
        (LOCAL.replace("private", "#"), "auth.corp.issuer", 11, "only with private = true"),
        (LOCAL.replace("private = true", 'jwks = "http://127.0.0.1/"'), "auth.corp.jwks", 12, "only with private = true"),
        (LOCAL + 'refresh = "9s"\n', "auth.corp.refresh", 13, "every 10 seconds (10s) to every day"),
        (LOCAL + 'refresh = "25h"\n', "auth.corp.refresh", 13, "every 10 seconds (10s) to every day"),
        (with_route('auth = "corp"') + JWT, "route[0].auth", 7, "give public_url"),
        (with_route('auth = "corp"\nhost = "*.a.test"') + OPAQUE, "route[0].auth", 7, "give public_url"),
    ],
)
def test_what_cannot_know_anybody_is_refused(text: str, path: str, line: int, said: str) -> None:
    mistake = only(text)
    assert (mistake.path, mistake.line) == (path, line)
    assert said in str(mistake)


FITTING = (b"mcpp_0123456789_" + b"s" * 38, b"123", b"0" * 2 + b"-" + b"a" * 32 + b"-" + b"a" * 16 + b"-01")


def fields_cut_out_of_keys() -> set[str]:
    """Every name in edge/cut's pattern whose values are not part of what a plan is found by."""
    named = {name.decode() for name in re.findall(rb"[a-z]+(?:-[a-z]+)*-?", REQUEST_CUTS.pattern)}
    named |= {name + "x" for name in named if name.endswith("-")}
    return {name for name in named for value in FITTING if REQUEST_CUTS.search(b"\r\n%b: %b\r\n" % (name.encode(), value))}


def test_no_key_stands_where_plans_do_not_look() -> None:
    """Or a head with one caller's key there would find the plan that was made for another's."""
    cut = fields_cut_out_of_keys()
    assert {"content-length", "traceparent", "x-request-id", "tracestate", "baggage", "last-event-id", "mcp-param-x"} <= cut
    for name in [*cut, "Cookie", "HOST", "Mcp-Session-Id", "X-Forwarded-For"]:
        mistake = only(with_route('auth = "keys"') + KEYS + f'headers = ["X-API-Key", "{name}"]\n')
        assert mistake.path == "auth.keys.headers[1]"
        assert "no place for a key" in mistake.message
    assert mistakes(with_route('auth = "keys"') + KEYS + 'headers = ["X-Agent-Key", "Api_Key", "Authorization"]\n') == []


def test_what_can_is_taken_without_a_word() -> None:
    for text in (
        with_route('auth = "keys"') + KEYS,
        with_listen(CLIENTS) + 'auth = ["certs", "keys"]\n' + MTLS + KEYS,
        with_route('auth = ["corp", "keys"]\nhost = "a.test"') + JWT + KEYS,
        LOCAL,
        with_route('auth = "corp"\npublic_url = "https://a.test/mcp"') + JWT,
        with_route('auth = "corp"') + OPAQUE + 'audience = "api://mcp"\n',
    ):
        assert mistakes(text) == []
        assert read(text).warnings == ()


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (GOOD + KEYS, "auth.keys", "no route has it in its auth"),
        (with_route('auth = "corp"\nhost = "a.test"') + OPAQUE.replace("client_id", "#"), "auth.corp", "asks without a client_id"),
        (
            with_listen('tls = { cert = "a", key = "b", client_cert = "required" }'),
            "listen[0].tls.client_cert",
            "means nothing without client_ca",
        ),
    ],
)
def test_what_nobody_goes_is_unwise(text: str, path: str, said: str) -> None:
    (warning,) = read(text).warnings
    assert warning.path == path
    assert said in warning.message


def with_credential(type: str, *lines: str) -> str:
    """GOOD with an upstream that is shown something."""
    return GOOD + "\n".join(["[upstream.search.credential]", f'type = "{type}"', *lines, ""])


TOKEN = ('token_url = "https://login.example/token"', 'client_id = "us"', 'client_secret = "env:S"')
TOOLS = "[route.tools]\nallow = [{ args = { x = %s } }]"


@pytest.mark.parametrize(
    ("text", "path", "line", "said"),
    [
        (with_route('auth = "keys"') + KEYS + 'issuer = "https://a.test"\n', "auth.keys.issuer", 11, 'it is for "jwt" or "introspection"'),
        (with_route('auth = "keys"') + KEYS + 'ca = "a.pem"\n', "auth.keys.ca", 11, 'means nothing with type "api-key"'),
        (with_route('auth = "keys"') + KEYS + 'name_from = "cn"\n', "auth.keys.name_from", 11, 'it is for "mtls"'),
        (with_route('host = "a.test"\nauth = "corp"') + JWT + 'headers = "X-Key"\n', "auth.corp.headers", 12, 'it is for "api-key"'),
        (
            with_route('host = "a.test"\nauth = "corp"') + JWT + 'client_secret = "env:S"\n',
            "auth.corp.client_secret",
            12,
            '"introspection"',
        ),
        (with_route('host = "a.test"\nauth = "corp"') + OPAQUE + 'algorithms = "RS256"\n', "auth.corp.algorithms", 13, 'it is for "jwt"'),
        (with_route('auth = "keys"\nscopes = "a"') + KEYS, "route[0].scopes", 8, "only tokens have scopes"),
        (with_listen("proxy_protocol = true"), "listen[0].proxy_protocol", 3, "trusted_proxies is empty"),
        (with_credential("header"), "upstream.search.credential.value", 7, 'type "header" needs it'),
        (with_credential("header", 'value = "env:S"', 'header = "Host"'), "upstream.search.credential.header", 10, "a meaning of its own"),
        (
            with_credential("header", 'value = "env:S"', 'header = "MCP-Name"'),
            "upstream.search.credential.header",
            10,
            "a meaning of its own",
        ),
        (with_credential("passthrough", 'value = "env:S"'), "upstream.search.credential.value", 9, 'it is for "header"'),
        (
            with_credential("sigv4", 'region = "r"', 'service = "s"', 'access_key = "env:A"'),
            "upstream.search.credential.secret_key",
            7,
            "needs it",
        ),
        (with_credential("client-credentials", *TOKEN, 'region = "r"'), "upstream.search.credential.region", 12, 'it is for "sigv4"'),
        (
            with_credential("client-credentials", 'token_url = "http://[::1]/token"', *TOKEN[1:]),
            "upstream.search.credential.token_url",
            9,
            "only with private = true",
        ),
        (with_credential("token-exchange", *TOKEN), "route[0].auth", 5, "no caller here has one"),
        (with_upstream('principal_header = "Authorization"'), "upstream.search.principal_header", 5, "no place to say who calls"),
        (with_upstream('principal_header = "X-Forwarded-For"'), "upstream.search.principal_header", 5, "no place to say who calls"),
        (with_upstream('principal_header = "Mcp-Session-Id"'), "upstream.search.principal_header", 5, "no place to say who calls"),
        (with_upstream('identity = { header = "cookie" }'), "upstream.search.identity.header", 5, "no place to say who calls"),
        (
            with_upstream('identity = {}\nprincipal_header = "x-mcp-identity"'),
            "upstream.search.principal_header",
            6,
            "is the field of identity already",
        ),
        (
            with_upstream('principal_header = "X-Key"\ncredential = { type = "header", header = "x-key", value = "env:S" }'),
            "upstream.search.principal_header",
            5,
            "is the field of credential already",
        ),
        (with_route("cors = true"), "route[0].cors", 7, "allow_origins is empty"),
        (with_route('hide_headers = ["Server", "content-length"]'), "route[0].hide_headers[1]", 7, "cannot do without content-length"),
        (with_route('hide_headers = "Mcp-Session-Id"'), "route[0].hide_headers[0]", 7, "cannot do without Mcp-Session-Id"),
        (with_route("mcp = false\n[route.tools]\nallow = [{}]"), "route[0].tools", 8, "not MCP"),
        (with_route(TOOLS % "{ min = 2, max = 1 }"), "route[0].tools.allow[0].args.x.min", 8, "at least 2 and at most 1"),
        (with_route((TOOLS % "{ optional = true }").replace("allow", "deny")), "route[0].tools.deny[0].args.x", 8, "asks for nothing"),
    ],
)
def test_what_means_nothing_is_refused(text: str, path: str, line: int, said: str) -> None:
    mistake = only(text)
    assert (mistake.path, mistake.line) == (path, line)
    assert said in str(mistake)


def test_every_mistake_at_once_and_no_conclusions_from_them() -> None:
    """That its auth is not there is the mistake; that its scopes then mean nothing is none."""
    text = GOOD.replace("8000", '8000"\nproxy_protocol = true\ntrusted_proxies = "10.0.0.1/8', 1)
    text += 'auth = ["corp", "kyes"]\nscopes = "a"\nlimits = "calls"\ncors = true\nallow_origins = ["app.test", "null"]\n'
    text += KEYS + '[auth.corp]\ntype = "jwt"\n[limit.cals]\nrate = 5\n'
    text += '[upstream.search.credential]\ntype = "sigv4"\nregion = "r"\nservice = "s"\naccess_key = "AKIA"\n'
    assert [(mistake.path, mistake.line) for mistake in mistakes(text)] == [
        ("listen[0].trusted_proxies", 4),
        ("route[0].auth[1]", 9),
        ("route[0].limits[0]", 11),
        ("route[0].allow_origins[0]", 13),
        ("route[0].allow_origins[1]", 13),
        ("auth.corp", 17),
        ("limit.cals.rate", 20),
        ("upstream.search.credential.secret_key", 21),
        ("upstream.search.credential.access_key", 25),
    ]


@pytest.mark.parametrize(
    "text",
    [
        with_listen('proxy_protocol = true\ntrusted_proxies = ["10.0.0.0/8", "unix"]'),
        with_credential("header", 'value = "env:S"', 'header = "Cookie"'),
        with_credential("passthrough"),
        with_credential("client-credentials", *TOKEN, 'audience = "a"'),
        with_credential("sigv4", 'region = "r"', 'service = "s"', 'access_key = "env:A"', 'secret_key = "env:B"'),
        with_route('host = "a.test"\nauth = "corp"\nscopes = "a"') + JWT,
        LOCAL.replace("private = true", 'jwks = "file:/etc/keys.json"'),
        LOCAL.replace("private = true", 'jwks = "https://login.example/keys"'),
        with_route(TOOLS % "{}"),
        with_route(TOOLS % "{ min = 1, max = 1 }"),
        with_route('cors = true\nallow_origins = "*"\nhide_headers = ["Server", "Date"]\nsecurity_headers = true'),
        with_upstream('identity = {}\nprincipal_header = "X-Forwarded-User"') + 'auth = "keys"\n' + KEYS,
    ],
)
def test_what_fits_is_taken_without_a_word(text: str) -> None:
    assert mistakes(text) == []
    assert read(text).warnings == ()


@pytest.mark.parametrize(
    ("text", "path", "said"),
    [
        (GOOD + '[limit.calls]\nrate = "1/s"\n', "limit.calls", "no route has it in its limits"),
        (
            with_listen('trusted_proxies = ["10.0.0.0/8", "0.0.0.0/0"]'),
            "listen[0].trusted_proxies[1]",
            "whoever connects may say who he is",
        ),
        (with_listen('trusted_proxies = "::/0"'), "listen[0].trusted_proxies[0]", "whoever connects"),
        (with_upstream("identity = {}"), "upstream.search.identity", "nobody's name is known"),
        (with_upstream('principal_header = "X-User"'), "upstream.search.principal_header", "nobody's name is known"),
        (with_route('allow_origins = ["*", "https://a.test"]'), "route[0].allow_origins", "the others add nothing"),
        (
            with_route('host = ["a.test", "*.b.test"]\nallow_hosts = ["x.b.test", "c.test"]'),
            "route[0].allow_hosts[1]",
            "no request for c.test",
        ),
        (with_route('[route.tools]\nallow = [{ who = "a" }]'), "route[0].tools", "without auth nobody has a name"),
        (with_route('[route.tools]\nshadow = true\ndeny = [{ who = "a" }]'), "route[0].tools", "without auth nobody has a name"),
    ],
)
def test_what_is_probably_not_meant_has_a_warning(text: str, path: str, said: str) -> None:
    (warning,) = read(text).warnings
    assert warning.path == path
    assert warning.line is not None
    assert said in warning.message


def test_every_key_belongs_to_a_type_or_to_all() -> None:
    """A key that was added to a table and forgotten here would be taken where it means nothing."""
    for table, keys, common in ((Auth, AUTH_KEYS, {"type", "roles"}), (Credential, CREDENTIAL_KEYS, {"type"})):
        named = {key for several in keys.values() for key in several}
        assert named | common == set(table.__struct_fields__)
        assert not named & common
    for type, needs in CREDENTIAL_NEEDS.items():
        assert set(needs) <= set(CREDENTIAL_KEYS[type])
