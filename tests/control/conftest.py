"""The real daemon, for what only shows in it."""

from tests.scenarios.conftest import run

__all__ = ["run"]
