"""Every SDK client takes its tour through every SDK server: directly, and through the daemon.

The tour: connect (in either era), list tools, call one with text that is not ASCII, call one with 300 kB in and out, watch the progress
of a slow one, answer a question the server asks, hear of a change outside of any request (GET stream, listen stream, SSE stream), leave.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.real.conftest import ALL_PAIRS, Origin, Proxies
from tests.support.software import Driver
from tests.support.waiting import until

BIG = 300_000
ERAS = {"sdk2": ["auto", "legacy"], "ts2": ["auto", "legacy"]}  # the others know only the older one
CLIENTS = [(kind, era) for kind in ("sdk2", "sdk1", "fast", "ts1", "ts2") for era in ERAS.get(kind, ["legacy"])]
MODERN_SERVERS = {"sdk2", "fast"}
NEEDS = {"sdk2": [], "sdk1": ["mcp1"], "fast": ["fastmcp"], "ts1": ["node", "npm"], "ts2": ["node", "npm"]}
NEEDS |= {"everything": ["node", "npm"], "everything_sse": ["node", "npm"]}


def pairs(clients: list[tuple[str, str]], servers: list[str]) -> list[Any]:
    return [
        pytest.param(kind, era, server, id=f"{kind}-{era}-{server}", marks=pytest.mark.software(*NEEDS[kind], *NEEDS[server]))
        for kind, era in clients
        for server in servers
    ]


def some(pairs: list[Any], every: int) -> list[Any]:
    """Each client and each server at least once, where a room has its own tests of what is between them (tests/real/test_gateway_matrix has all)."""
    return pairs if ALL_PAIRS else pairs[::every]


def check(seen: dict[str, Any], kind: str) -> None:
    assert "error" not in seen, seen["error"]
    assert seen["echo"] == "Echo: grüße, 世界"
    assert seen["large"] == BIG + len("Echo: ")
    assert seen["slow"] == "Long running operation completed. Duration: 0.15 seconds, Steps: 3."
    # A TypeScript client drops a progress event that it reads together with the result (its handler is gone by then).
    assert seen["progress"] == [1, 2, 3] or (kind.startswith("ts") and seen["progress"] == [1, 2])
    assert seen.get("ask", "Hello Ada") == "Hello Ada"
    assert seen.get("noticed", True) is True


@pytest.mark.parametrize(("kind", "era", "server"), some(pairs(CLIENTS, ["sdk2", "sdk1", "fast", "everything"]), 3))
def test_streamable_http(
    kind: str, era: str, server: str, through: Origin, clients: Callable[[str], Driver], request: pytest.FixtureRequest
) -> None:
    origin = through(request.getfixturevalue(server).origin)
    seen = clients(kind).ask({"url": origin + "/mcp", "era": era, "transport": "http", "big": BIG})
    check(seen, kind)
    expected = "2026-07-28" if era == "auto" and server in MODERN_SERVERS else "2025-11-25"
    assert (seen.get("protocol") or expected) == expected  # fastmcp and TypeScript 1.x do not tell


@pytest.mark.parametrize(
    ("kind", "era", "server"),
    pairs([("sdk2", "legacy"), ("sdk1", "legacy"), ("ts1", "legacy"), ("ts2", "legacy")], ["sdk2", "sdk1", "everything_sse"]),
)
def test_http_and_sse(
    kind: str, era: str, server: str, through: Origin, clients: Callable[[str], Driver], request: pytest.FixtureRequest
) -> None:
    """The transport of 2024: answers to POSTs come on the stream another connection holds open."""
    origin = through(request.getfixturevalue(server).origin)
    check(clients(kind).ask({"url": origin + "/sse", "era": era, "transport": "sse", "big": BIG}), kind)


@pytest.mark.parametrize(
    ("kind", "era", "server"), pairs([each for each in CLIENTS if each[0] in ("sdk2", "ts1", "ts2")], ["sdk2", "everything"])
)
def test_streamable_http_over_http_2(
    kind: str, era: str, server: str, proxies: Proxies, clients: Callable[[str], Driver], request: pytest.FixtureRequest
) -> None:
    """To the daemon HTTP/2, behind it HTTP/1.1; the access log is the witness."""
    origin = request.getfixturevalue(server).origin
    daemon = proxies.before(origin)
    past = len(daemon.records)
    seen = clients(kind).ask({"url": proxies.url(origin) + "/mcp", "era": era, "transport": "http2", "big": BIG})
    check(seen, kind)
    assert seen.get("spoken", ["HTTP/2"]) == ["HTTP/2"]
    until(
        lambda: [each for each in daemon.records[past:] if each["protocol"] == "HTTP/2" and each["bytes_in"] > BIG],
        "the large call's log line",
    )
