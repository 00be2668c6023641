"""What OAuth clients find: documents at the right places, challenges that lead to them, and an upstream's own under its public name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.model import Listen, Route
from mcpproxy.config.policies import Auth
from mcpproxy.http.head import ResponseHead, parse_response
from mcpproxy.policy.resource import (
    LARGEST,
    Endpoint,
    Rewriting,
    answer,
    asks_for_issuer,
    canonical,
    endpoint_path,
    public_url,
    public_urls,
    quotable,
    well_known,
)

JWT = Auth(type="jwt", issuer="https://login.example/")
OPAQUE = Auth(type="introspection", issuer="https://opaque.example")
KEYS = Auth(type="api-key", file="/keys.toml")
TLS = Listen(address="0.0.0.0:443", tls="dev")


def route(**given: Any) -> Route:
    return Route(**{"upstream": "u", "host": ("mcp.example",), "path": "/mcp", **given})


def endpoint(*auths: Auth, resource: str = "https://mcp.example/mcp", **given: Any) -> Endpoint:
    return Endpoint(route(**given), resource, auths or (JWT,))


# -- URLs ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("https://h/mcp", "https://h/mcp"),
        ("https://h/mcp/", "https://h/mcp"),
        ("HTTPS://H:443/MCP", "https://h/MCP"),
        ("https://h/", "https://h"),
        ("https://h", "https://h"),
        ("http://h:80", "http://h"),
        ("https://h:80/", "https://h:80"),
        ("api://mcp/", "api://mcp/"),
        ("urn:x:Y", "urn:x:Y"),
        ("", ""),
    ],
)
def test_equal_urls_are_one_text(url, same):
    assert same == canonical(url)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/mcp", "/.well-known/oauth-protected-resource/mcp"),
        ("/", "/.well-known/oauth-protected-resource"),
        ("/a/b", "/.well-known/oauth-protected-resource/a/b"),
    ],
)
def test_where_a_document_is(path, place):
    assert place == well_known(path)
    assert path.encode() == endpoint_path(place.encode())


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/.well-known/oauth-protected-resource/", b"/"),
        (b"/.well-known/oauth-protected-resources", None),
        (b"/.well-known/oauth-protected-resourcex/mcp", None),
        (b"/.well-known/oauth-authorization-server", None),
        (b"/mcp/.well-known/oauth-protected-resource", None),
        (b"/", None),
    ],
)
def test_other_places(path, found):
    assert found == endpoint_path(path)


@pytest.mark.parametrize(
    ("path", "there"),
    [
        (b"/.well-known/oauth-authorization-server", True),
        (b"/.well-known/oauth-authorization-server/mcp", True),
        (b"/.well-known/openid-configuration/mcp", True),
        (b"/.well-known/openid-configurations", False),
        (b"/.well-known/oauth-protected-resource", False),
        (b"/mcp", False),
    ],
)
def test_where_an_issuer_would_be(path, there):
    assert there == asks_for_issuer(path)


@pytest.mark.parametrize(
    ("given", "listens", "urls"),
    [
        ({}, [TLS], ("https://mcp.example/mcp",)),
        ({"path": "/"}, [TLS], ("https://mcp.example",)),
        ({"host": ("a.example", "b.example")}, [TLS], ("https://a.example/mcp", "https://b.example/mcp")),
        ({}, [Listen(address="[::]:8443", tls="dev")], ("https://mcp.example:8443/mcp",)),
        ({}, [Listen(address="127.0.0.1:8000"), Listen(address="127.0.0.1:80")], ("http://mcp.example:8000/mcp", "http://mcp.example/mcp")),
        ({}, [TLS, Listen(address="0.0.0.0:80", redirect="https")], ("https://mcp.example/mcp",)),
        ({}, [Listen(address="unix:/run/x.sock"), Listen(address="127.0.0.1:0")], ("http://mcp.example/mcp", "http://mcp.example/mcp")),
        ({"host": ("*.example",)}, [TLS], ()),
        ({"host": ()}, [TLS], ()),
        ({"host": (), "public_url": "https://public.example/x"}, [TLS], ("https://public.example/x",)),
        ({"public_url": "https://public.example/x"}, [TLS], ("https://public.example/x",)),
    ],
)
def test_what_tokens_may_be_for_is_said_by_the_configuration_alone(given, listens, urls):
    assert urls == public_urls(route(**given), listens)


@pytest.mark.parametrize(
    ("given", "authority", "url"),
    [
        ({}, "mcp.example", "https://mcp.example/mcp"),
        ({}, "MCP.example:443", "https://mcp.example/mcp"),
        ({}, "mcp.example:8443", "https://mcp.example:8443/mcp"),
        ({"path": "/"}, "[::1]:8443", "https://[::1]:8443"),
        ({"public_url": "https://public.example/x"}, "mcp.example", "https://public.example/x"),
    ],
)
def test_the_url_a_client_used(given, authority, url):
    assert url == public_url(route(**given), "https", authority)


# -- we are the resource --------------------------------------------------------------------------------------------------------------------------


def test_the_document():
    made = endpoint(JWT, OPAQUE, KEYS, JWT, scopes=("files:read",))
    assert made.document is not None
    assert {
        "resource": "https://mcp.example/mcp",
        "authorization_servers": ["https://login.example/", "https://opaque.example"],
        "scopes_supported": ["files:read"],
        "bearer_methods_supported": ["header"],
    } == json.loads(made.document)
    assert "https://mcp.example/.well-known/oauth-protected-resource/mcp" == made.metadata_url


def test_a_document_at_the_root():
    assert "https://mcp.example/.well-known/oauth-protected-resource" == endpoint(resource="https://mcp.example").metadata_url
    assert "scopes_supported" not in json.loads(endpoint().document or b"")


def test_with_keys_only_there_is_nothing_to_find():
    made = endpoint(KEYS, scopes=("x",))
    assert (None, None) == (made.document, made.metadata_url)
    assert b'Bearer realm="mcp"' == made.missing()
    assert b"resource_metadata" not in made.invalid("token-expired") + made.insufficient(("y",))


def answered(method: bytes, made: Endpoint | None) -> tuple[ResponseHead, bytes]:
    head, end, body = answer(made, method, close=False).partition(b"\r\n\r\n")
    return parse_response(head + end, method), body


ANYBODY = b"access-control-allow-origin"


def test_the_document_is_for_everybody():
    made = endpoint(scopes=("x",))
    head, body = answered(b"GET", made)
    assert (200, b"*", made.document, len(body)) == (head.status, head.first(ANYBODY), body, head.length)
    assert b"application/json" == head.first(b"content-type")
    head, body = answered(b"HEAD", made)
    assert (200, b"") == (head.status, body)
    head, body = answered(b"OPTIONS", made)
    assert (200, b"*", b"") == (head.status, head.first(ANYBODY), body)
    assert b"MCP-Protocol-Version" == head.first(b"access-control-allow-headers")
    assert b"GET, HEAD, OPTIONS" == head.first(b"access-control-allow-methods") == head.first(b"allow")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"POST"])
def test_where_there_is_none_it_is_404(method):
    for made in (None, endpoint(KEYS)):
        head, _ = answered(method, made)
        assert (404, b"*", None) == (head.status, head.first(ANYBODY), head.first(b"www-authenticate"))


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"PATCH"])
def test_documents_are_only_read(method):
    head, _ = answered(method, endpoint())
    assert (405, [b"GET, HEAD, OPTIONS"]) == (head.status, [value for _, name, value in head.fields if name == b"allow"])


WHERE = b'resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/mcp"'


def test_challenges():
    made = endpoint(scopes=("files:read", "mail"))
    assert b'Bearer scope="files:read mail", ' + WHERE == made.missing()
    assert (
        b'Bearer error="invalid_token", error_description="The access token has expired.", scope="files:read mail", ' + WHERE
        == made.invalid("token-expired")
    )
    assert (
        b'Bearer error="insufficient_scope", error_description="The access token lacks a scope.", scope="files:read mail admin", ' + WHERE
        == made.insufficient(("admin", "mail"))
    )
    assert b"Bearer " + WHERE == endpoint().missing()


@given(st.text())
def test_nothing_ends_a_quoted_text(text):
    challenge = endpoint().invalid("", text)
    assert challenge.count(b'"') % 2 == 0
    assert not set(challenge) & set(b"\r\n\\")
    assert quotable(text) == quotable(quotable(text))


# -- the upstream is the resource -----------------------------------------------------------------------------------------------------------------

SAME = Rewriting(["http://127.0.0.1:8000"], "https://mcp.example")
STRIPPED = Rewriting(["http://127.0.0.1:8000", "http://files:80"], "https://mcp.example:8443/", "/files")


@pytest.mark.parametrize(
    ("rewriting", "url", "public"),
    [
        (SAME, "http://127.0.0.1:8000/mcp", "https://mcp.example/mcp"),
        (SAME, "http://127.0.0.1:8000", "https://mcp.example"),
        (
            SAME,
            "http://127.0.0.1:8000/.well-known/oauth-protected-resource/mcp",
            "https://mcp.example/.well-known/oauth-protected-resource/mcp",
        ),
        (SAME, "http://127.0.0.1:8000/a?b=c", "https://mcp.example/a?b=c"),
        (STRIPPED, "http://127.0.0.1:8000/mcp", "https://mcp.example:8443/files/mcp"),
        (STRIPPED, "HTTP://Files/mcp", "https://mcp.example:8443/files/mcp"),
        (
            STRIPPED,
            "http://files/.well-known/oauth-protected-resource/mcp",
            "https://mcp.example:8443/.well-known/oauth-protected-resource/files/mcp",
        ),
        (
            STRIPPED,
            "http://files/.well-known/oauth-protected-resource",
            "https://mcp.example:8443/.well-known/oauth-protected-resource/files",
        ),
        (
            STRIPPED,
            "http://files/.well-known/oauth-protected-resources",
            "https://mcp.example:8443/files/.well-known/oauth-protected-resources",
        ),
        (SAME, "http://127.0.0.1:8001/mcp", None),
        (SAME, "https://127.0.0.1:8000/mcp", None),
        (SAME, "https://mcp.example/mcp", None),
        (SAME, "http://127.0.0.1:8000@evil.example/", None),
        (SAME, "http://127.0.0.1:8000/#x", None),
        (SAME, "http://127.0.0.1:8000/ x", None),
        (SAME, 'http://127.0.0.1:8000/"', None),
        (SAME, "http://127.0.0.1:8000/\r\nX: y", None),
        (SAME, "http://[::1/", None),
        (SAME, "", None),
        (SAME, "/mcp", None),
    ],
)
def test_public_forms(rewriting, url, public):
    assert public == rewriting.url(url)


def test_a_document_of_the_upstream():
    body = b'{ "resource": "http://127.0.0.1:8000/mcp", "authorization_servers": ["http://127.0.0.1:8000/"], "x": 1.50, "n": 12345678901234567890 }'
    made = SAME.document(body)
    assert (
        made
        == b'{"resource":"https://mcp.example/mcp","authorization_servers":["http://127.0.0.1:8000/"],"x":1.50,"n":12345678901234567890}'
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b"\xff",
        b'{"resource":7}',
        b'{"resource":"https://mcp.example/mcp"}',
        b'{"resource":["http://127.0.0.1:8000/mcp"]}',
        b'{"resource":"http://127.0.0.1:8000/mcp"',
        b'{"resource":"http://127.0.0.1:8000/mcp","a":"' + b"x" * LARGEST + b'"}',
        b'{"a":' * 10_000,
    ],
)
def test_what_is_not_understood_stays(body):
    assert SAME.document(body) is None


OWN = b"http://127.0.0.1:8000/.well-known/oauth-protected-resource/mcp"
PUBLIC = b"https://mcp.example/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    "value",
    [
        b'Bearer resource_metadata="%b"',
        b'Bearer error="invalid_token", error_description="Authentication required", resource_metadata="%b"',
        b'Bearer error="a, b=\\"c\\"", resource_metadata="%b", scope="x y"',
        b'bearer realm=x,Resource_Metadata="%b"',
        b'Bearer resource_metadata = "%b" , scope=x',
        b'Negotiate, Bearer resource_metadata="%b"',
        b'Basic realm="x", charset="UTF-8", DPoP algs="ES256 PS256", resource_metadata="%b"',
        b'Bearer a="\xc3\xbc", resource_metadata="%b"',
    ],
)
def test_challenges_of_the_upstream(value):
    assert value % PUBLIC == SAME.challenge(value % OWN)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b'Bearer realm="x"',
        b'Bearer resource_metadata="https://elsewhere.example/x"',
        b'Bearer resource_metadata="%b' % OWN,
        b"Bearer resource_metadata=%b" % OWN,
        b'Bearer resource_metadata="%b" x' % OWN,
        b'Negotiate YIIB==, Bearer resource_metadata="%b"' % OWN,
        b'Bearer resource_metadata="%b\\"' % OWN,
        b'Bearer resource_metadata="http://127.0.0.1:8000/\xc3\xbc"',
    ],
)
def test_other_challenges_stay(value):
    assert value == SAME.challenge(value)


@given(st.binary(max_size=100) | st.text('Ber a=,"\\/:.1x', max_size=60).map(str.encode))
def test_whatever_an_upstream_says_its_challenge_keeps_its_form(value):
    assert value == SAME.challenge(value)
