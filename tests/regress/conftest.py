"""Regressions use the fixtures of the scenarios and of the edge."""

from tests.edge.conftest import proxy, steps
from tests.scenarios.conftest import run, tls_listen

__all__ = ["proxy", "run", "steps", "tls_listen"]
