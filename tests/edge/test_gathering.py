"""Bodies that wait to be judged: what they hold, whose share that is, and how long they may take to come."""

import json
import random

import pytest

from mcpproxy.edge import gathering as module
from mcpproxy.edge.gathering import GATHERED, HURRY_S, MIB, SHARE, Gathering, Hold
from tests.edge.conftest import HEAD_END
from tests.edge.h2client import H2Client
from tests.support.speakers import call

RULES = 'tools = { allow = [{ tools = ["add"] }] }'
HOME, NEIGHBOUR, UNIX = b"\x7f\0\0\1", b"\x7f\0\0\2", b""


# -- who holds what -------------------------------------------------------------------------------------------------------------------------------


def full(it: Gathering, address: bytes, body: int = MIB) -> list[Hold]:
    """Bodies of this size from there, until there is no room."""
    holds: list[Hold] = []
    while True:
        hold = Hold(address, 0.0)
        grown = it.grow(hold, body)
        if not grown:
            it.end(hold)
            return holds
        holds.append(hold)


def test_an_address_has_its_share_and_leaves_the_others_theirs() -> None:
    it = Gathering()
    assert len(full(it, HOME)) == SHARE // MIB
    assert len(full(it, NEIGHBOUR)) == SHARE // MIB
    assert it.size == 2 * SHARE


def test_all_together_have_no_more_than_so_much() -> None:
    it = Gathering()
    held = sum(len(full(it, number.to_bytes(4))) for number in range(100))
    assert held * MIB == it.size == GATHERED
    assert len(full(it, UNIX)) == 0


def test_nobody_knows_whose_a_unix_socket_is() -> None:
    it = Gathering()
    assert len(full(it, UNIX)) == GATHERED // MIB
    assert it.shares == {}


def test_one_body_alone_may_be_larger_than_a_share() -> None:
    it = Gathering()
    large = Hold(HOME, 0.0)
    assert it.grow(large, 2 * SHARE)
    assert not it.grow(Hold(HOME, 0.0), 1)


def test_bodies_of_which_nothing_came_yet_are_ended_like_others() -> None:
    """Clients that write their head and their body apart (the Python SDK), several at once: one that holds nothing may end before another one does."""
    it = Gathering()
    nothing, more, last = (Hold(HOME, 0.0) for _ in range(3))
    assert it.grow(nothing, 0) and it.grow(more, 10) and it.grow(last, 0)
    for hold in (more, nothing, last):
        it.end(hold)
    assert (it.size, it.shares) == (0, {})


def test_what_ended_is_given_back() -> None:
    it, chance = Gathering(), random.Random(5)
    holds: list[Hold] = []
    for _ in range(5000):
        if holds and chance.random() < 0.3:
            it.end(holds.pop(chance.randrange(len(holds))))
        elif holds and chance.random() < 0.5:
            grows = chance.choice(holds)
            it.grow(grows, grows.size + chance.randrange(MIB))
        else:
            holds.append(Hold(chance.choice((HOME, NEIGHBOUR, UNIX)), 0.0))
            it.grow(holds[-1], chance.randrange(MIB))
        assert it.size == sum(hold.size for hold in holds)
        assert sum(it.shares.values()) == sum(hold.size for hold in holds if hold.address)
    for hold in holds:
        it.end(hold)
    assert (it.size, it.shares) == (0, {})


def test_who_fills_the_room_must_hurry() -> None:
    it = Gathering()
    hold = Hold(HOME, 100.0)
    it.grow(hold, MIB)
    assert it.deadline(hold, MIB) == 100 + 60 + 64
    assert it.deadline(hold, 1000) < 100 + 61
    holds = [Hold(HOME, 0.0) for _ in range(SHARE // MIB // 2)]
    for each in holds:
        it.grow(each, MIB)
    assert it.deadline(hold, MIB) == 100 + 10 + 16, "half of the share is taken"
    neighbour = Hold(NEIGHBOUR, 0.0)
    assert it.deadline(neighbour, MIB) == 60 + 64
    for number in range(5):
        full(it, bytes([number]))
    assert it.deadline(neighbour, MIB) == 10 + 16, "half of all is taken"


# -- on the way -----------------------------------------------------------------------------------------------------------------------------------


def trickle(edge, h2, length):
    """Half a body of a client that will say the rest some day; and how to read its answer."""
    body = b"x" * (length // 2)
    if h2:
        client = H2Client(edge)
        stream = client.open({"content-length": str(length)}, body, ended=False)

        def answer():
            edge.until(lambda: (client.pump(), stream in client.ends)[1])
            return int(client.heads[stream][-1][b":status"]), json.loads(client.bodies[stream])
    else:
        plain = edge.client()
        plain.sendall(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + body)

        def answer():
            head, _, told = edge.read(plain, b"\n").partition(HEAD_END)
            return int(head.split(b" ")[1]), json.loads(told)

    return answer


def holds(edge):
    """Of all bodies that wait, in the order they came."""
    found = []
    for link in edge.runtime.links:
        found += [stream.exchange.hold for stream in getattr(link, "streams", {}).values()]
        found += [link.exchange.hold] if hasattr(link, "exchange") else []
    return [hold for hold in found if hold is not None]


@pytest.mark.parametrize("h2", [False, True])
def test_a_body_that_trickles_comes_to_its_end(proxy, h2):
    """Something of it came just now, and still."""
    edge = proxy(route=RULES)
    answer = trickle(edge, h2, 32_768)
    edge.until(lambda: edge.runtime.fronts[0].gathering.size == 16_384)
    [hold] = holds(edge)
    hold.since -= 50
    edge.later(11)
    assert edge.lines() == []
    edge.later(13)
    status, told = answer()
    assert (status, told["error"]["data"]["reason"]) == (408, "body-timeout")
    assert edge.runtime.fronts[0].gathering.size == 0


@pytest.mark.parametrize("h2", [False, True])
def test_bodies_that_trickle_free_the_room_they_fill(proxy, h2, monkeypatch):
    monkeypatch.setattr(module, "SHARE", 60_000)
    edge = proxy(route=RULES)
    gathering = edge.runtime.fronts[0].gathering
    for _ in range(3):
        trickle(edge, h2, 32_000)
    edge.until(lambda: gathering.size == 48_000)
    assert trickle(edge, h2, 32_000)()[0] == 503
    for hold in holds(edge):
        hold.since -= HURRY_S
    edge.later(0)
    assert gathering.size == 48_000
    edge.later(20)
    assert gathering.size == 16_000, "then the last one need not hurry"
    assert [line["reason"] for line in edge.lines(3)] == ["too-much-to-judge", "body-timeout", "body-timeout"]
    client = edge.client()
    body = call("rm", 1, {"x": "y" * 30_000})
    client.sendall(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert edge.read(client, b"\n").startswith(b"HTTP/1.1 403")
