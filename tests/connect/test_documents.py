"""What challenges and metadata say."""

import json
from typing import Any

import pytest

from mcpproxy.connect.documents import Challenge, authority_of, challenge_of, is_above, resource_of, safe
from mcpproxy.connect.places import WireError

URL = "https://mcp.example/a/mcp"
GOOD = {"issuer": "https://as.example/t", "authorization_endpoint": "https://as.example/t/a", "token_endpoint": "https://as.example/t/t"}
GOOD |= {"code_challenge_methods_supported": ["S256"]}  # type: ignore[dict-item]


class Web:
    def __init__(self, **pages: Any) -> None:
        self.pages = {f"https://{name}": page for name, page in pages.items()}
        self.asked: list[str] = []

    async def __call__(self, url: str) -> tuple[int, bytes]:
        self.asked.append(url)
        page = self.pages.get(url)
        return (page, b"") if isinstance(page, int) else (404, b"") if page is None else (200, json.dumps(page).encode())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('Bearer resource_metadata="https://x/y", scope="a b"', Challenge("https://x/y", "a b")),
        ('Basic realm="Bearer x", bearer error=insufficient_scope , scope="a"', Challenge("", "a", "insufficient_scope")),
        ('Bearer error="x", DPoP error="y", algs="z"', Challenge("", "", "x")),
        (r'Bearer scope="a\"b"', Challenge("", 'a"b')),
        ("Bearer", Challenge()),
        ('Digest realm="x"', Challenge()),
        ("", Challenge()),
    ],
)
def test_challenges(said: str, expected: Challenge) -> None:
    assert challenge_of(said) == expected


async def test_the_metadata_of_a_server_is_looked_for_where_it_may_lie() -> None:
    web = Web(
        **{"mcp.example/.well-known/oauth-protected-resource": {"resource": "https://mcp.example", "authorization_servers": ["https://a"]}}
    )
    found = await resource_of(URL, Challenge("https://mcp.example/said"), web)
    assert found is not None and found.authorization_servers == ["https://a"]
    assert [each.removeprefix("https://mcp.example") for each in web.asked] == [
        "/said",
        "/.well-known/oauth-protected-resource/a/mcp",
        "/.well-known/oauth-protected-resource",
    ]
    assert await resource_of(URL, Challenge(), Web()) is None


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ({"resource": "https://other.example/a/mcp", "authorization_servers": ["https://a"]}, "not about"),
        ({"resource": URL, "authorization_servers": []}, "names no"),
        (503, "answered 503"),
    ],
)
async def test_metadata_that_is_of_no_use(page: Any, said: str) -> None:
    with pytest.raises(WireError, match=said):
        await resource_of(URL, Challenge(), Web(**{"mcp.example/.well-known/oauth-protected-resource/a/mcp": page}))


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (URL, True),
        (URL + "/", True),
        ("https://mcp.example", True),
        ("https://mcp.example:443/a", True),
        ("https://mcp.example/a/mc", False),
        ("http://mcp.example/a/mcp", False),
        ("https://mcp.example.evil/", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_whose_tokens_are_ours(resource: str, expected: bool) -> None:
    assert is_above(resource, URL) is expected


@pytest.mark.parametrize(
    "place", ["/.well-known/oauth-authorization-server/t", "/.well-known/openid-configuration/t", "/t/.well-known/openid-configuration"]
)
async def test_the_metadata_of_an_issuer_is_looked_for_where_it_may_lie(place: str) -> None:
    found = await authority_of("https://as.example/t", Web(**{f"as.example{place}": GOOD}))
    assert found is not None and found.token_endpoint == "https://as.example/t/t"
    assert await authority_of("https://as.example/t", Web()) is None


@pytest.mark.parametrize(
    "url", ["http://a.example/", "javascript:alert(1)", "https://u@a/", "https://", "https://ä/", "file:///etc/passwd", "https://["]
)
def test_where_nobody_is_sent(url: str) -> None:
    with pytest.raises(WireError, match="not https"):
        safe(url)


def test_plain_http_on_this_machine_is_safe() -> None:
    assert safe("http://127.0.0.1:1/x") and safe("https://a.example/")
