"""Where URLs lead."""

from typing import Any

import pytest

from mcpproxy.connect.places import WireError, is_loopback, place_of, proxy_for


@pytest.mark.parametrize("url", ["ftp://a/", "http://", "https://u:p@a/", "http://a:99999/", "http://ä/", "http://a/ b", "mcp.example.com"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(WireError):
        place_of(url)


def test_places() -> None:
    place = place_of("https://[::1]:8443/mcp?x=1#y")
    assert (place.name, place.port, place.authority, place.target) == ("::1", 8443, "[::1]:8443", "/mcp?x=1")
    assert [is_loopback(name) for name in ("::1", "127.9.9.9", "localhost", "a.localhost", "localhost.example")] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("*", True),
        ("", False),
        ("a.example", True),
        (".example", True),
        ("b.example, a.example:443", True),
        ("a.example:80", False),
        ("ample", False),
    ],
)
def test_who_is_not_asked_by_proxy(without: str, expected: Any) -> None:
    assert (proxy_for(place_of("https://a.example/"), {"HTTPS_PROXY": "http://p", "no_proxy": without}) is None) is expected


def test_which_proxy() -> None:
    environment = {"HTTP_PROXY": "http://upper", "http_proxy": "http://lower", "ALL_PROXY": "http://all"}
    places = [place_of(url) for url in ("http://a.example/", "https://a.example/", "https://127.0.0.1/")]
    assert [proxy_for(place, environment) for place in places] == ["http://lower", "http://all", None]
