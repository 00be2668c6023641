"""Names become addresses; an older answer serves while a newer one is on its way or the resolver is down."""

import asyncio
import socket

import pytest

from mcpproxy.clock import monotonic
from mcpproxy.net.resolve import ASKED_S, BELIEVED_S, Name, Target, literal


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("localhost", None), ("1.2.3", None), ("", None)]
)
def test_literal_addresses_need_no_resolver(host, family):
    assert (Target(family, (host, 80)) if family else None) == literal(host, 80)


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        (Target(socket.AF_INET, ("127.0.0.1", 80)), True),
        (Target(socket.AF_INET, ("127.1.2.3", 80)), True),
        (Target(socket.AF_INET6, ("::1", 80)), True),
        (Target(socket.AF_INET6, ("::1", 80, 0, 0)), True),
        (Target(socket.AF_INET, ("192.0.2.127", 80)), False),
        (Target(socket.AF_INET6, ("2001:db8::1", 80, 0, 0)), False),
        (Target(socket.AF_UNIX, "127.0.0.1"), False),
        (Target(socket.AF_UNIX, ""), False),
    ],
)
def test_loopback_is_told_by_the_address(target, loopback):
    assert loopback == target.loopback


class Resolver:
    """A loop's resolver that answers what the test says. (A real one cannot be made to fail, or to answer late.)"""

    def __init__(self, loop):
        self._loop = loop
        self.questions = 0
        self.answer = ["127.0.0.1"]
        self.gate = None

    def create_task(self, coroutine):
        return self._loop.create_task(coroutine)

    async def getaddrinfo(self, host, port, *, type):
        self.questions += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.answer is None:
            raise socket.gaierror(socket.EAI_AGAIN, "resolver is down")
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in self.answer]


def addresses(targets):
    return [target.address[0] for target in targets]


async def test_the_real_resolver_knows_localhost():
    name = Name("localhost", 80)
    assert not name.fresh(monotonic())
    assert ("127.0.0.1" in addresses(found := await name.ask(asyncio.get_running_loop()))) or ("::1" in addresses(found))
    assert name.fresh(monotonic())
    assert not name.fresh(monotonic() + BELIEVED_S)


async def test_an_unknown_name_is_an_error():
    with pytest.raises(OSError):
        await Name("no-such-host.invalid", 80).ask(asyncio.get_running_loop())


async def test_the_older_answer_serves_when_the_resolver_fails():
    resolver = Resolver(asyncio.get_running_loop())
    name = Name("a.example", 80)
    await name.ask(resolver)
    heard = name.heard
    resolver.answer = None
    assert ["127.0.0.1"] == addresses(await name.ask(resolver))
    assert heard == name.heard, "it is asked again soon"


async def test_the_same_address_twice_is_one():
    resolver = Resolver(asyncio.get_running_loop())
    resolver.answer = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    assert ["127.0.0.1", "127.0.0.2"] == addresses(await Name("a.example", 80).ask(resolver))


async def test_a_refresh_asks_once_however_many_want_it():
    resolver = Resolver(asyncio.get_running_loop())
    name = Name("a.example", 80)
    await name.ask(resolver)
    resolver.gate = asyncio.Event()
    resolver.answer = ["127.0.0.9"]
    for _ in range(5):
        name.refresh(resolver)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 2 == resolver.questions
    assert ["127.0.0.1"] == addresses(name.targets)
    resolver.gate.set()
    await name._asking
    assert ["127.0.0.9"] == addresses(name.targets)
    name.asked -= ASKED_S
    name.refresh(resolver)
    await name._asking
    assert 3 == resolver.questions


async def test_who_waits_for_the_same_name_waits_together_and_may_leave():
    resolver = Resolver(asyncio.get_running_loop())
    resolver.gate = asyncio.Event()
    name = Name("a.example", 80)
    first, second = (asyncio.ensure_future(name.ask(resolver)) for _ in range(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    resolver.gate.set()
    assert ["127.0.0.1"] == addresses(await second)
    assert 1 == resolver.questions
    resolver.answer = None
    await name.ask(resolver)
    assert 2 == resolver.questions


async def test_while_dns_is_gone_it_is_asked_now_and_then():
    resolver = Resolver(asyncio.get_running_loop())
    name = Name("a.example", 80)
    await name.ask(resolver)
    resolver.answer = None
    for _ in range(20):
        name.refresh(resolver)
        if name._asking is not None:
            await name._asking
    assert 2 == resolver.questions
    name.asked -= ASKED_S
    name.refresh(resolver)
    await name._asking
    assert 3 == resolver.questions


def test_connections_are_spread_over_the_addresses_of_the_first_family():
    name = Name("a.example", 80)
    a, b = (Target(socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)) for number in (1, 2))
    c, d = (Target(socket.AF_INET, (f"192.0.2.{number}", 80)) for number in (1, 2))
    name.targets = (a, b, c, d)
    assert [[a, b, c, d], [b, a, c, d], [a, b, c, d]] == [name.in_turn() for _ in range(3)]
