"""Which tests this machine can run, and which it must leave out, by name.

    pytestmark = pytest.mark.needs("nginx", "curl")     programs on the PATH
    pytestmark = pytest.mark.root                       to be root
    pytestmark = pytest.mark.software("mcp1", "npm")    rooms that `make real` fills (tests/support/install_real.py)

A marked test runs where everything it needs is there. Elsewhere it is deselected, and the summary says how many wait for what,
so a bare machine passes `make test` without pretending. Under MCPPROXY_TESTS=all (CI) nothing is left out: what is missing fails the run.
tests/conftest.py takes the hooks from here. With pytest-xdist the workers collect, and tell the controller what they left out.
"""

import os
import shutil
from collections import Counter
from typing import Any

import pytest

from tests.support.install_real import is_ready

LEFT_OUT = pytest.StashKey[Counter[str]]()


def missing(item: pytest.Item) -> set[str]:
    """What `item` asks for and this machine does not have, in words."""
    programs = {program for mark in item.iter_markers("needs") for program in mark.args if shutil.which(program) is None}
    rooms = {room for mark in item.iter_markers("software") for room in mark.args if not is_ready(room)}
    lacking = {f"{program}, which is not installed" for program in programs} | {f"{room}, which `make real` fetches" for room in rooms}
    return lacking | ({"root"} if os.geteuid() != 0 and item.get_closest_marker("root") else set())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {item: needs for item in items if (needs := missing(item))}
    config.stash[LEFT_OUT] = Counter(need for needs in left_out.values() for need in needs)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["left_out"] = dict(session.config.stash.get(LEFT_OUT, Counter()))
    elif session.config.stash.get(LEFT_OUT, Counter()) and os.environ.get("MCPPROXY_TESTS") == "all":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))  # the same for every worker


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for need, count in sorted(config.stash.get(LEFT_OUT, Counter()).items()):
        terminalreporter.write_line(f"left out: {count} tests need {need}", yellow=True)
    if config.stash.get(LEFT_OUT, Counter()) and os.environ.get("MCPPROXY_TESTS") == "all":
        terminalreporter.write_line("MCPPROXY_TESTS=all: nothing may be left out, so this run failed", red=True)
