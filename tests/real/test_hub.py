"""Every SDK client takes its tour through a hub: a bridge and several members, children and HTTP servers, of both eras."""

import sys
from collections.abc import Callable, Iterator

import pytest

from tests.real.test_tours import BIG, CLIENTS, NEEDS, check, some
from tests.support.install_real import python
from tests.support.software import REAL, REPOSITORY, Driver, Server

HUB, ENV = REAL / "servers" / "hub.py", {"PYTHONPATH": str(REPOSITORY)}
SDK2 = f"{sys.executable} {REAL / 'servers' / 'sdk2.py'} stdio"


@pytest.fixture(scope="module")
def children() -> Iterator[Server]:
    """A bridge to a server of the Python SDK 2, which speaks both eras."""
    with Server(sys.executable, HUB, "{port}", f"one={SDK2}", env=ENV) as server:
        yield server


@pytest.fixture(scope="module")
def old(sdk1: Server) -> Iterator[Server]:
    """Three members, the first of the older era, over HTTP and stdio."""
    with Server(
        *(
            sys.executable,
            HUB,
            "{port}",
            f"one={sdk1.origin}",
            f"two={python('mcp1')} {REAL / 'servers' / 'sdk1.py'} stdio",
            f"three={SDK2}",
        ),
        env=ENV,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def new(sdk2: Server) -> Iterator[Server]:
    """Two members, the first of the newer era, and one that is not there."""
    with Server(sys.executable, HUB, "{port}", f"one={sdk2.origin}", f"two={SDK2}", "gone=http://127.0.0.1:9", env=ENV) as server:
        yield server


PLACES: dict[str, list[str]] = {"children": [], "old": ["mcp1"], "new": []}
PAIRS = [
    pytest.param(kind, era, behind, id=f"{kind}-{era}-{behind}", marks=pytest.mark.software(*NEEDS[kind], *needs))
    for kind, era in CLIENTS
    for behind, needs in PLACES.items()
]


@pytest.mark.parametrize(("kind", "era", "behind"), some(PAIRS, 4))
def test_streamable_http(kind: str, era: str, behind: str, clients: Callable[[str], Driver], request: pytest.FixtureRequest) -> None:
    gateway: Server = request.getfixturevalue(behind)
    seen = clients(kind).ask({"url": gateway.origin + "/mcp", "era": era, "transport": "http", "big": BIG})
    check(seen, kind)
    assert seen["ask"] == "Hello Ada"
