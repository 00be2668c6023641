"""Every SDK client takes its tour through the faces of the gateway, in both eras and over HTTP+SSE, with nothing but a stand-in behind them."""

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.real.test_tours import BIG, CLIENTS, NEEDS, check
from tests.support.software import REAL, REPOSITORY, Driver, Server


@pytest.fixture(scope="module")
def gateway() -> Iterator[Server]:
    with Server(sys.executable, REAL / "servers" / "faces.py", "{port}", env={"PYTHONPATH": str(REPOSITORY)}) as server:
        yield server


@pytest.mark.parametrize(
    ("kind", "era"), [pytest.param(kind, era, id=f"{kind}-{era}", marks=pytest.mark.software(*NEEDS[kind])) for kind, era in CLIENTS]
)
def test_streamable_http(kind: str, era: str, gateway: Server, clients: Callable[[str], Driver]) -> None:
    """`ask` is a question in the midst of a call: on its stream in the older era, `input_required` and a retry in the modern one."""
    seen = clients(kind).ask({"url": gateway.origin + "/mcp", "era": era, "transport": "http", "big": BIG})
    check(seen, kind)
    assert seen["ask"] == "Hello Ada"
    expected = "2026-07-28" if era == "auto" else "2025-11-25"
    assert (seen.get("protocol") or expected) == expected


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind, marks=pytest.mark.software(*NEEDS[kind])) for kind in ("sdk2", "sdk1", "ts1", "ts2")]
)
def test_http_and_sse(kind: str, gateway: Server, clients: Callable[[str], Driver]) -> None:
    """At the same URL."""
    seen = clients(kind).ask({"url": gateway.origin + "/mcp", "era": "legacy", "transport": "sse", "big": BIG})
    check(seen, kind)
    assert seen["ask"] == "Hello Ada"
