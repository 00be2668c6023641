"""Which tests this machine can run, and which it must leave out, by name.

    pytestmark = pytest.mark.needs("node", "npm")

A marked test runs where all its programs are installed. Elsewhere it is deselected, and the summary says how many wait for which program,
so a bare machine passes `make test` without pretending. Under MCPPROXY_TESTS=all (CI) nothing is left out: a missing program fails the run.
tests/conftest.py takes the hooks from here.
"""

import os
import shutil
from collections import Counter

import pytest

LEFT_OUT = pytest.StashKey[Counter[str]]()


def missing_programs(item: pytest.Item) -> list[str]:
    """The programs `item` asks for that are not on the PATH."""
    return [program for mark in item.iter_markers("needs") for program in mark.args if shutil.which(program) is None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {item: missing for item in items if (missing := missing_programs(item))}
    counts = config.stash[LEFT_OUT] = Counter(program for missing in left_out.values() for program in missing)
    if left_out and os.environ.get("MCPPROXY_TESTS") == "all":
        raise pytest.UsageError(f"MCPPROXY_TESTS=all, but not installed: {', '.join(sorted(counts))}")
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for program, count in sorted(config.stash.get(LEFT_OUT, Counter()).items()):
        terminalreporter.write_line(f"left out: {count} tests need {program}, which is not installed", yellow=True)
