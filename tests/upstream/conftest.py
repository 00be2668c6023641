"""Fixtures of the rooms below the edge: a loop that is driven by small steps."""

from collections.abc import Iterator

import pytest

from tests.net.stepping import Steps


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.close()
