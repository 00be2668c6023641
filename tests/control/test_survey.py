"""One look at all workers: what is added, what is compared, what is left out."""

import asyncio
from typing import Any

import msgspec
import pytest

from mcpproxy.control import survey as module
from mcpproxy.control.survey import Family, Survey, health
from mcpproxy.control.switchboard import GATEWAY
from mcpproxy.control.web import Refusal
from tests.control.visiting import OVERVIEW, REFUSAL, Switchboard


class Time:
    now = 100.0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moment = Time()
    monkeypatch.setattr(module, "monotonic", lambda: moment.now)
    return moment


def survey(board: Switchboard, *, count: int = 2, certificates: Any = ()) -> Survey:
    return Survey(board, lambda: Family(3, {number: peer.pid for number, peer in board.workers.items()}, count), lambda: list(certificates))  # type: ignore[arg-type]


async def test_numbers_are_added(time: Time) -> None:
    look = await survey(Switchboard(2)).look()
    assert look["generation"] == 3
    assert look["requests"] == 80
    assert look["connections"]["open"] == 6
    assert look["open"]["principals"] == [{"name": "agent", "streams": 4}]
    assert look["upstreams"]["search"]["in_use"] == 4
    assert look["upstreams"]["search"]["endpoints"] == [{"label": "127.0.0.1:9000", "state": "up", "in_use": 4, "idle": 2, "said": ""}]
    assert look["latency"]["p50_ms"] == 1.0
    assert look["latency"]["p99_ms"] == 32.0


async def test_a_rate_is_what_came_in_between_and_never_negative(time: Time) -> None:
    board = Switchboard(2)
    served = [10, 20]
    board.answers["overview"] = lambda number, data: {**OVERVIEW, "requests": served[number]}
    looks = survey(board)
    assert (await looks.look())["rate"] is None
    time.now += 2
    served[:] = [14, 26]
    assert (await looks.look())["rate"] == 5.0
    time.now += 1
    board.workers[0].pid = 5000  # it died, another one has its number
    served[:] = [1, 29]
    assert (await looks.look())["rate"] == 3.0


async def test_whoever_asks_twice_in_a_second_gets_the_same_look(time: Time) -> None:
    board = Switchboard(1)
    looks = survey(board)
    first = await looks.look()
    assert await looks.look() is first
    looks.forget()
    assert await looks.look() is not first


async def test_refusals_are_asked_for_once_and_told_newest_first(time: Time) -> None:
    board = Switchboard(2)
    new: dict[int, list[dict[str, Any]]] = {0: [{**REFUSAL, "time": 1.0}], 1: [{**REFUSAL, "time": 3.0}]}
    board.answers["overview"] = lambda number, data: {**OVERVIEW, "refusals": [] if data["after"] else new[number]}
    looks = survey(board)
    assert [(each["time"], each["worker"]) for each in (await looks.look())["refusals"]] == [(3.0, 1), (1.0, 0)]
    time.now += 1
    assert len((await looks.look())["refusals"]) == 2
    board.workers[1].pid = 5001  # its successor counts from the beginning
    time.now += 1
    assert len((await looks.look())["refusals"]) == 3


async def test_who_is_silent_or_missing_is_shown(time: Time) -> None:
    board = Switchboard(2)

    def one_is_silent(number: int, data: Any) -> Any:
        if number:
            raise TimeoutError
        return OVERVIEW

    board.answers["overview"] = one_is_silent
    look = await survey(board, count=3).look()
    assert [each["state"] for each in look["workers"]] == ["serving", "silent", "missing"]
    assert look["health"] == "degraded"
    assert look["problems"] == ["worker 1 is silent", "worker 2 is missing"]


async def test_a_daemon_is_draining_once_all_of_its_workers_are(time: Time) -> None:
    board = Switchboard(2)
    ending = {0}
    board.answers["overview"] = lambda number, data: {**OVERVIEW, "draining": number in ending}
    looks = survey(board)
    assert (await looks.look())["health"] == "ok"
    ending.add(1)
    looks.forget()
    look = await looks.look()
    assert (look["health"], look["problems"]) == ("draining", [])


async def test_an_endpoint_that_one_worker_finds_broken_is_shown_so(time: Time) -> None:
    def second_finds_it_open(number: int, data: Any) -> Any:
        said = msgspec.json.decode(msgspec.json.encode(OVERVIEW))
        if number:
            said["pools"]["search"]["endpoints"][0] |= {"state": "open", "said": "refused"}
        return said

    board = Switchboard(2)
    board.answers["overview"] = second_finds_it_open
    look = await survey(board).look()
    assert look["upstreams"]["search"]["endpoints"][0]["state"] == "open"
    assert look["problems"] == ["upstream search: 1 of 1 endpoints not up"]


async def test_a_member_of_the_gateway_that_is_broken_needs_a_look(time: Time) -> None:
    board = Switchboard(2)
    members = {
        "files": {"state": "failing", "last_error": "exited with status 1; its last words: no token"},
        "web": {"state": "away"},
        "x": {"state": "idle"},
    }
    board.answers["overview"] = lambda number, data: {"members": members, "upstreams": {}} if number == GATEWAY else OVERVIEW
    looks = survey(board)
    board.gateway = True
    look = await looks.look()
    assert look["health"] == "degraded"
    assert look["problems"] == [
        "member files is failing: exited with status 1; its last words: no token",
        "member web is away: no reason known",
    ]


@pytest.mark.parametrize(
    ("days", "said"), [(20.0, []), (13.4, ["certificate a.test expires in 13 days"]), (-1.0, ["certificate a.test has expired"])]
)
async def test_certificates_that_end_soon(days: float, said: list[str], time: Time) -> None:
    look = await survey(Switchboard(2), certificates=[{"names": ["a.test"], "days": days}]).look()
    assert look["problems"] == said
    assert health(look)[0] == ("degraded" if said else "ok")


async def test_a_certificate_that_has_not_come_yet(time: Time) -> None:
    waited = {"names": ["a.test"], "days": None, "error": ""}
    look = await survey(Switchboard(2), certificates=[waited, {**waited, "error": "the authority cannot connect"}]).look()
    assert look["problems"] == [
        "certificate a.test has not come yet",
        "certificate a.test has not come yet: the authority cannot connect",
    ]
    assert look["health"] == "degraded"


async def test_workers_that_are_on_their_way_are_waited_for(time: Time) -> None:
    board, pids = Switchboard(2), {0: 4000, 1: 4001}
    late = board.workers.pop(1)
    looks = Survey(board, lambda: Family(1, pids, 2), list)  # type: ignore[arg-type]
    looking = asyncio.ensure_future(looks.look())
    await asyncio.sleep(0)
    assert not looking.done()
    board.workers[1] = late
    assert [each["state"] for each in (await looking)["workers"]] == ["serving", "serving"]
    assert (await looking)["health"] == "ok"


async def test_nobody_waits_for_long_for_who_does_not_come(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ARRIVE_S", 0.01)
    look = await Survey(Switchboard(1), lambda: Family(1, {0: 4000, 1: 4001}, 2), list).look()  # type: ignore[arg-type]
    assert [each["state"] for each in look["workers"]] == ["serving", "silent"]


async def test_lookers_on_share_looks_and_cost_nothing_when_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY_S", 0.02)
    board = Switchboard(1)
    looks = survey(board, count=1)
    watching = [looks.watch() for _ in range(5)]
    for each in watching:
        assert (await anext(each)).startswith(b"event: history\ndata: [")
    seen = [await anext(each) for each in watching]
    assert all(each.startswith(b"event: look\ndata: {") and each.endswith(b"}\n\n") for each in seen)
    assert len(board.asked) <= 3
    for each in watching:
        await each.aclose()  # type: ignore[attr-defined]
    assert not looks.viewers
    await asyncio.sleep(0.15)
    asked = len(board.asked)
    await asyncio.sleep(0.1)
    assert len(board.asked) == asked
    await looks.stop()


async def test_not_everybody_can_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VIEWERS", 1)
    looks = survey(Switchboard(1))
    first = looks.watch()
    await anext(first)
    with pytest.raises(Refusal):
        looks.watch()
    await first.aclose()  # type: ignore[attr-defined]
    await looks.stop()
