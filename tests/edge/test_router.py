"""The router against tables and against a model so naive that it can be read at a glance."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.model import Route
from mcpproxy.config.names import generous_path
from mcpproxy.edge.router import Router


def router(*routes: tuple[str, str]) -> Router:
    """Routes of (host, path); an empty host is any."""
    return Router([Route(upstream="u", host=(host,) if host else (), path=path) for host, path in routes])


@pytest.mark.parametrize(
    ("path", "index"),
    [
        (b"/", 0),
        (b"/mcp", 1),
        (b"/mcp/", 1),
        (b"/mcp/x", 1),
        (b"/mcpx", 0),
        (b"/mcp-x", 0),
        (b"/mcp/search", 2),
        (b"/mcp/search/deep/er", 2),
        (b"/mcp/searching", 1),
        (b"/MCP", 0),
        (b"/%6dcp", 1),
        (b"/%6Dcp/%73earch", 2),
        (b"/mcp%2fx", None),
        (b"*", 0),
        (b"/.well-known/oauth-protected-resource", 0),
    ],
)
def test_the_longest_prefix_on_segment_borders_wins(path: bytes, index: int | None) -> None:
    assert index == router(("", "/"), ("", "/mcp"), ("", "/mcp/search")).find(b"any.example", path)


def test_the_order_in_the_file_does_not_matter() -> None:
    assert router(("", "/mcp/search"), ("", "/mcp"), ("", "/")).find(b"h", b"/mcp/search/x") == 0


def test_without_a_route_for_everything_there_is_none() -> None:
    only = router(("", "/mcp"))
    assert only.find(b"h", b"/other") is None
    assert only.find(b"h", b"/") is None
    assert only.find(b"h", b"*") is None


HOSTS = (("", "/"), ("*.example.com", "/"), ("*.eu.example.com", "/"), ("a.eu.example.com", "/"), ("[::1]", "/"), ("192.0.2.1", "/"))


@pytest.mark.parametrize(
    ("host", "index"),
    [
        (b"a.eu.example.com", 3),
        (b"a.eu.example.com.", 3),
        (b"b.eu.example.com", 2),
        (b"x.y.eu.example.com", 2),
        (b"eu.example.com", 1),
        (b"a.example.com", 1),
        (b"example.com", 0),
        (b"notexample.com", 0),
        (b".example.com", 0),
        (b"", 0),
        (b"[::1]", 4),
        (b"192.0.2.1", 5),
    ],
)
def test_exact_hosts_before_longer_wildcards_before_shorter_before_any(host: bytes, index: int) -> None:
    assert index == router(*HOSTS).find(host, b"/x")


def test_a_host_without_a_fitting_path_leaves_it_to_the_wider_ones() -> None:
    layers = router(("", "/"), ("*.example.com", "/mcp"), ("a.example.com", "/files"))
    assert [layers.find(b"a.example.com", path) for path in (b"/files", b"/mcp", b"/x")] == [2, 1, 0]


def test_hosts_are_known_when_some_route_names_them() -> None:
    named = router(("a.example", "/mcp"), ("*.b.example", "/mcp"))
    assert [named.knows_host(host) for host in (b"a.example", b"x.b.example", b"b.example", b"c.example")] == [True, True, False, False]
    assert router(("", "/mcp")).knows_host(b"whatever")
    assert not Router([]).knows_host(b"whatever")


@pytest.mark.parametrize(
    "path",
    [
        b"/public/../admin",
        b"/public/%2e%2e/admin",
        b"/public/%2E./admin/x",
        b"/public%2f..%2fadmin",
        b"/public/..%5cadmin",
        b"/public/..\\admin",
        b"//admin",
        b"/%2fadmin",
        b"/./admin",
        b"/x/../admin",
        b"/admin/../public",
        b"/public/x/../../admin",
        b"/admin%2fx",
        b"/admin;x/y",
        b"/;x/admin",
        b"/public/;/..;x/admin",
        b"/admin%3bx",
    ],
)
def test_no_other_reading_of_a_path_leads_into_another_route(path: bytes) -> None:
    assert router(("", "/"), ("", "/public"), ("", "/admin")).find(b"h", path) is None


@pytest.mark.parametrize(
    "path",
    [
        b"/mcp/a%2Fb",
        b"/mcp//x",
        b"/mcp/./x",
        b"/mcp/x/../y",
        b"/mcp/..%20",
        b"/mcp/%C3%A9",
        b"/mcp/%00",
        b"/mcp/%zz",
        b"/mcp/%",
        b"/mcp/a;b=c",
        b"/mcp/;",
    ],
)
def test_odd_paths_that_stay_in_their_route_pass(path: bytes) -> None:
    assert router(("", "/"), ("", "/mcp")).find(b"h", path) == 1


def test_a_route_with_encoded_characters_is_found_in_either_case_of_the_escape() -> None:
    encoded = router(("", "/"), ("", "/caf%C3%A9"))
    assert [encoded.find(b"h", path) for path in (b"/caf%C3%A9/x", b"/caf%c3%a9", b"/caf%C3")] == [1, 1, 0]


def test_a_path_of_slashes_costs_no_more_than_its_routes() -> None:
    slashes = router(("", "/"), ("", "/a/b"))
    assert slashes._any.plain.depth == 2
    assert slashes.find(b"h", b"/" * 8000) == 0


def test_a_host_of_dots_is_just_unknown() -> None:
    assert router(("*.example.com", "/")).find(b"." * 30000, b"/") is None
    assert router(("*.example.com", "/")).find(b"a" + b".a" * 15000, b"/") is None


SEGMENTS = st.sampled_from(["a", "b", "ab", "mcp"])
PATHS = st.lists(SEGMENTS, max_size=4).map(lambda segments: "/" + "/".join(segments))
NAMES = st.lists(st.sampled_from(["x", "y", "xy"]), min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(st.just(""), NAMES, NAMES.map("*.".__add__))


def naive(routes: list[tuple[str, str]], host: str, path: str) -> int | None:
    """All routes that fit, sorted by what the documentation says."""

    def fits(pattern: str, prefix: str) -> bool:
        host_fits = pattern in ("", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]) and len(host) > len(pattern) - 1)
        return host_fits and (prefix == "/" or path == prefix or path.startswith(prefix + "/"))

    def rank(index: int) -> tuple[int, int, int]:
        pattern, prefix = routes[index]
        return (0 if not pattern else 1 if pattern.startswith("*.") else 2, len(pattern), len(prefix))

    return max((index for index, route in enumerate(routes) if fits(*route)), key=rank, default=None)


@given(st.lists(st.tuples(PATTERNS, PATHS), unique=True, max_size=12), NAMES, PATHS, st.sampled_from(["", "/"]))
def test_the_router_agrees_with_the_naive_model(routes: list[tuple[str, str]], host: str, path: str, tail: str) -> None:
    path = path.rstrip("/") + tail or "/"
    assert naive(routes, host, path) == router(*routes).find(host.encode(), path.encode())


@given(
    st.lists(PATHS, unique=True, max_size=8),
    st.lists(st.sampled_from(["a", "b", "mcp", "..", ".", "", "%61", "%2e", "%2f", "\\", ";", "a;b", "%3B"]), max_size=8),
)
def test_what_a_generous_server_reads_is_never_in_another_route(prefixes: list[str], segments: list[str]) -> None:
    made = router(*(("", prefix) for prefix in prefixes))
    path = ("/" + "/".join(segments)).encode()
    found = made.find(b"h", path)
    assert found is None or found == made.find(b"h", generous_path(path))


@given(st.lists(PATHS, unique=True, min_size=1), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_get_an_answer(prefixes: list[str], host: bytes, path: bytes) -> None:
    found = router(*(("", prefix) for prefix in prefixes)).find(host, path)
    assert found is None or 0 <= found < len(prefixes)


def test_more_exact_patterns_are_asked_first() -> None:
    """The order of _tables is the order of the documentation."""
    found = list(router(*HOSTS)._tables(b"a.eu.example.com"))
    indices = [paths.plain.routes[b"/"] for paths in found]
    assert indices == [3, 2, 1, 0]
    assert all(first > second for first, second in pairwise(indices))
