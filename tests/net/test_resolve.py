"""Names to addresses: literals at once, names from a resolver that may be slow, wrong or away."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from mcpproxy.net import resolve
from mcpproxy.net.resolve import BELIEVED_S, Name, Target, literal

ROWS = [(socket.AF_INET, 1, 6, "", ("192.0.2.1", 80)), (socket.AF_INET6, 1, 6, "", ("2001:db8::1", 80, 0, 0))]


class Resolver:
    """Stands for the loop: answers what it was told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    async def getaddrinfo(self, host: str, port: int, *, type: int) -> Any:
        self.asked.append((host, port))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ask(name: Name, resolver: Any) -> tuple[Target, ...]:
    return asyncio.run(name.ask(resolver))


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def set_time(now: float) -> None:
        monkeypatch.setattr(resolve, "monotonic", lambda: now)

    set_time(0.0)
    return set_time


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("127.0.0.1", Target(socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", Target(socket.AF_INET6, ("::1", 80))),
        ("localhost", None),
        ("127.1", None),
        ("", None),
    ],
)
def test_addresses_are_known_at_once(host: str, target: Target | None) -> None:
    assert literal(host, 80) == target


def test_all_addresses_of_a_name_in_the_resolvers_order_each_once(at: Callable[[float], None]) -> None:
    name = Name("svc", 80)
    found = ask(name, Resolver([*ROWS, ROWS[0]]))
    assert found == name.targets == (Target(socket.AF_INET, ("192.0.2.1", 80)), Target(socket.AF_INET6, ("2001:db8::1", 80, 0, 0)))


def test_an_answer_is_believed_for_a_while(at: Callable[[float], None]) -> None:
    name = Name("svc", 80)
    assert not name.fresh(0.0)
    at(100.0)
    ask(name, Resolver(ROWS))
    assert name.fresh(100.0)
    assert name.fresh(100.0 + BELIEVED_S - 0.1)
    assert not name.fresh(100.0 + BELIEVED_S)


def test_an_older_answer_serves_while_the_resolver_is_away(at: Callable[[float], None]) -> None:
    name = Name("svc", 80)
    resolver = Resolver(ROWS, socket.gaierror(-3, "Temporary failure in name resolution"), ROWS[:1])
    first = ask(name, resolver)
    at(1000.0)
    assert ask(name, resolver) == first
    assert not name.fresh(1000.0)  # the next dial asks again
    assert ask(name, resolver) == first[:1]


def test_a_name_nobody_ever_knew_is_an_error() -> None:
    with pytest.raises(OSError, match="not known"):
        ask(Name("no-such", 80), Resolver(socket.gaierror(-2, "Name or service not known")))


def test_the_real_resolver_knows_this_machine() -> None:
    async def real() -> tuple[Target, ...]:
        return await Name("localhost", 8000).ask(asyncio.get_running_loop())

    assert Target(socket.AF_INET, ("127.0.0.1", 8000)) in asyncio.run(real())
