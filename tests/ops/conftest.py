"""The stepped proxy of tests/edge, for what is counted in it."""

from tests.edge.conftest import proxy, steps

__all__ = ["proxy", "steps"]
