"""What web servers share."""

import pytest

from mcpproxy.migrate import sites
from mcpproxy.migrate.found import Found, Keys


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ("24h", "24h"),
        ("3600", "3600s"),
        ("1h 30m", "90m"),
        ("300s", "300s"),
        ("0", None),
        ("x", None),
        ("100y", None),
        ("1d", "24h"),
        ("500ms", "500ms"),
        ("", None),
    ],
)
def test_durations(text: str, ours: str | None) -> None:
    from mcpproxy.units import duration

    given = sites.duration(text)
    assert (given is None) == (ours is None)
    assert given is None or ours is None or duration(given) == duration(ours)


@pytest.mark.parametrize(
    ("text", "count"),
    [("100M", "100MiB"), ("8k", "8KiB"), ("1024", "1KiB"), ("0", None), ("1g", "1GiB"), ("x", None), ("99999999999g", None)],
)
def test_sizes(text: str, count: str | None) -> None:
    assert sites.size(text) == count


def test_decimal_sizes() -> None:
    assert (sites.size("10MB", decimal=True), sites.size("10MiB", decimal=True)) == ("10000000B", "10MiB")


def test_hosts() -> None:
    found = Found("a test")
    assert sites.hosts(found, "p", ["_", "a.test", ".b.test", "A.test", "www.x.*"]) == ["a.test", "b.test", "*.b.test"]
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("path", "uri", "keys"),
    [
        ("/mcp", None, {"path": "/mcp"}),
        ("/mcp/", "/mcp/", {"path": "/mcp"}),
        ("/x/", "/", {"path": "/x", "strip_prefix": True}),
        ("/", "/", {"path": "/"}),
        ("/x", "/mcp", {"path": "/x", "upstream": {"bridge": True, "mcp_path": "/mcp"}}),
        ("/x", "/sse", {"path": "/x", "upstream": {"bridge": True, "mcp_path": "/sse", "transport": "sse"}}),
        ("/a b", None, None),
        ("/x", "/..", None),
        ("/0a1b2c3d4e5f60718293a4b5/mcp", None, None),
    ],
)
def test_paths(path: str, uri: str | None, keys: Keys | None) -> None:
    assert sites.path_to(Found("a test"), "p", path, uri) == keys


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1:8000", "server-8000"),
        ("http://mcp.test:80", "mcp.test"),
        ("unix:/run/a b.sock", "a-b"),
        ("localhost:1", "server-1"),
        ("", "server"),
        ("app", "app"),
    ],
)
def test_names_for_groups(address: str, name: str) -> None:
    assert sites.slug(address) == name


def test_fields_that_our_edge_sets_are_not_told() -> None:
    found = Found("a test")
    keys: Keys = {}
    for name in ("X-Real-IP", "X-Forwarded-Proto", "Connection", "Mcp-Session-Id"):
        sites.sent_field(found, "o", "p", keys, name, "$x", variable=True)
    assert (keys, found.notes) == ({}, [])
    sites.sent_field(found, "o", "p", keys, "X-Api-Key", "hush", variable=False)
    sites.sent_field(found, "o", "p", keys, "X-Other", "v", variable=False)
    assert keys == {"credential": {"type": "header", "header": "X-Api-Key", "value": "env:O_X_API_KEY"}}
    assert len(found.notes) == 1
