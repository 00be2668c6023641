"""Who may import whom: rooms lie on floors, and imports point down."""

import subprocess
import sys

import pytest

from tests.house.tree import MODULES, ROOT, Module

# From the ground up. Rooms in one row are on one floor and do not know each other; the rows of ground and top are the exception.
FLOORS = (
    {"__init__", "__version__", "errors", "units", "clock"},
    {"config"},
    {"http", "net", "mcp"},
    {"upstream", "policy", "pki", "observe"},
    {"edge"},
    {"gateway"},
    {"staffing", "pooling"},
    {"assemble"},
    {"control"},
    {"refit"},
    {"ops", "demo", "migrate", "connect"},
    {"cli"},
    {"__main__"},
)
GROUND = FLOORS[0]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

# What a sans-io room must be given instead of taking it.
WORLD = {"asyncio", "socket", "ssl", "time", "os", "random", "secrets", "threading", "subprocess", "select", "datetime"}
SANS_IO = ("http", "mcp")

# Only mcpproxy/clock.py asks what time it is.
CLOCK_READERS = {"time.time", "time.monotonic", "time.monotonic_ns", "time.time_ns", "time.perf_counter", "time", "time.sleep"}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_imports_point_down(module: Module) -> None:
    assert module.room in LEVEL, f"{module.room} has no floor: give it a row in FLOORS"
    for room in module.rooms_used():
        assert room in LEVEL, f"{module.name} imports {room}, which has no floor"
        if room in GROUND and module.room in GROUND:
            continue
        assert LEVEL[room] < LEVEL[module.room], f"{module.name} imports {room}, which is not below {module.room}"


def test_sans_io_rooms_take_nothing_from_the_world() -> None:
    for module in MODULES:
        taken = {name.partition(".")[0] for name in module.imports()} & WORLD
        assert module.room not in SANS_IO or not taken, f"{module.name} imports {taken}: time, randomness and bytes come in as arguments"


@pytest.mark.parametrize("module", [module for module in MODULES if module.name != "clock"], ids=lambda module: module.name)
def test_only_the_clock_reads_the_clock(module: Module) -> None:
    read = set(module.imports()) & CLOCK_READERS
    assert not read, f"{module.name} imports {read}: ask mcpproxy.clock, or take `now` as an argument"
    assert "datetime.now(" not in module.text


def test_the_net_knows_no_http() -> None:
    for module in MODULES:
        if module.room == "net":
            assert not any(name.startswith(("h11", "h2", "hpack")) for name in module.imports()), module.name


def test_libraries_stay_in_their_rooms() -> None:
    """`mcpproxy run` starts without rich and without the MCP SDK; the SDK is not even installed on most machines. Workers know nothing of Prometheus."""
    for module in MODULES:
        used = {name.partition(".")[0] for name in module.imports()} & {"click", "rich", "mcp", "uvicorn", "prometheus_client"}
        allowed = {"cli": {"click", "rich"}, "demo": {"rich", "mcp", "uvicorn"}, "control": {"prometheus_client"}}.get(module.room, set())
        assert used <= allowed, f"{module.name} imports {used - allowed}"


def test_only_two_files_know_the_acme_library() -> None:
    """And nobody imports that file but inside a function of the control process."""
    for module in MODULES:
        used = {name.partition(".")[0] for name in module.imports()} & {"acme", "josepy", "requests", "OpenSSL"}
        assert not used or module.name in ("pki/acme", "pki/acme_client"), f"{module.name} imports {used}"
        assert "mcpproxy.pki.acme_client" not in module.imports() or module.name == "pki/acme", f"{module.name} imports pki/acme_client"
        asks = [name for name in module.imports() if name == "mcpproxy.pki.acme" or name.startswith("mcpproxy.pki.acme.")]
        assert not asks or module.room == "control", f"{module.name} imports {asks}"


def test_workers_carry_no_metrics_library() -> None:
    """The supervisor is forked into workers with all it imported."""
    asks = "import sys, mcpproxy.ops.supervise; print(sorted({'prometheus_client', 'opentelemetry', 'acme', 'josepy', 'requests'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
