"""What checks and other workers found reaches the pools; what our breakers found reaches the others."""

from types import SimpleNamespace
from typing import Any

import pytest

from mcpproxy.ops.health import Health
from mcpproxy.upstream.breaker import OPEN, Rules
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.group import Group


class Wire:
    """A line that writes down what is said."""

    def __init__(self) -> None:
        self.hears: dict[str, Any] = {}
        self.joined: list[Any] = []
        self.said: list[tuple[str, Any]] = []

    def say(self, topic: str, data: Any) -> bool:
        self.said.append((topic, data))
        return True


def pool() -> Any:
    endpoints = (Endpoint("http://a:1", None), Endpoint("http://b:1", None))
    return SimpleNamespace(endpoints=endpoints, group=Group(endpoints, Rules(), 5.0, "round-robin", lambda only: None, lambda text: None))


@pytest.fixture
def town() -> Any:
    line, chores = Wire(), []
    runtime: Any = SimpleNamespace(pools={"u": pool()}, ticker=SimpleNamespace(add=chores.append))
    Health(runtime, line)  # type: ignore[arg-type]
    return SimpleNamespace(line=line, runtime=runtime, tick=chores[0], group=runtime.pools["u"].group)


def test_what_checks_found(town: Any) -> None:
    a, b = town.group.endpoints
    rows = [
        {"upstream": "u", "endpoint": "a:1", "up": False, "why": "status 500"},
        {"upstream": "gone", "endpoint": "a:1", "up": False, "why": ""},
    ]
    town.line.hears["health"](rows)
    assert (a.up, b.up, town.group.living) == (False, None, (b,))
    town.line.joined[0]()
    assert town.line.said == [("health", rows[:1])]


def test_who_knows_nothing_says_nothing(town: Any) -> None:
    town.line.joined[0]()
    assert town.line.said == []


def test_breakers_speak_to_the_others_and_are_spoken_to(town: Any) -> None:
    a, b = town.group.endpoints
    town.group.unreachable(a, "refused")
    ((topic, said),) = town.line.said
    assert (topic, said["upstream"], said["endpoint"], said["hard"]) == ("breaker", "u", "a:1", True)
    town.line.hears["breaker"]({**said, "endpoint": "b:1"})
    assert b.breaker.state == OPEN
    town.line.hears["breaker"]({**said, "upstream": "gone"})
    assert len(town.line.said) == 1, "what was heard is not said again"


def test_pools_that_a_reload_made_speak_too(town: Any) -> None:
    town.runtime.pools["new"] = made = pool()
    town.tick(1.0)
    made.group.unreachable(made.endpoints[0], "refused")
    assert town.line.said[0][1]["upstream"] == "new"
