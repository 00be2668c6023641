"""Whose session, and how long."""

import asyncio

from mcpproxy.gateway.parts import NO_ONE_TO_ASK
from mcpproxy.gateway.sessions import YOUNG_S, Session, Sessions
from mcpproxy.gateway.streams import Store
from mcpproxy.mcp import message
from tests.gateway.test_streams import reading
from tests.support.faces import StandIn, until


def made(table: Sessions, principal: str = "", last: float = 0.0) -> Session:
    session = Session(StandIn(), principal, 0, Store())
    table.add(session)
    session.last = last
    return session


def test_ids_are_long_random_and_visible() -> None:
    ids = {made(Sessions()).session for _ in range(100)}
    assert len(ids) == 100 and all(len(id) == 32 and id.isalnum() and id.isascii() for id in ids)


def test_to_others_it_does_not_exist() -> None:
    table = Sessions()
    session = made(table, "ada")
    assert table.find(session.session, "ada") is session
    assert table.find(session.session, "bob") is None and table.find(session.session, "") is None
    assert table.find(session.session[:-1] + "x", "ada") is None


def test_the_one_that_nobody_used_ends() -> None:
    ended: list[Session] = []
    table = Sessions(ttl=100.0, ended=ended.append)
    idle, read, called = made(table, last=0.0), made(table, last=1.0), made(table, last=2.0)
    reading(read.stream)
    called.calls = {b"1": asyncio_free()}
    table.sweep(150.0)
    assert ended == [idle] and idle.over and list(table.table.values()) == [read, called] and read.last == called.last == 150.0
    read.stream._left()
    called.calls = {}
    table.sweep(240.0)
    assert len(table.table) == 2
    table.sweep(260.0)
    assert not table.table


class asyncio_free:  # noqa: N801
    """A call."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_the_one_unused_for_longest_gives_its_place() -> None:
    table = Sessions(limit=2)
    first, second = made(table, last=0.0), made(table, last=10.0)
    assert not table.room(YOUNG_S - 1)  # both are young
    reading(first.stream)
    assert table.room(YOUNG_S + 20)
    assert second.over and not first.over


def test_what_a_session_hears() -> None:
    session = made(Sessions())
    reader = reading(session.stream)
    session.level = "warning"
    session.subscriptions.add("file:///a")
    for method, params in (
        ("notifications/tools/list_changed", None),
        ("notifications/message", b'{"level":"info","data":1}'),
        ("notifications/message", b'{"level":"error","data":2}'),
        ("notifications/resources/updated", b'{"uri":"file:///b"}'),
        ("notifications/resources/updated", b'{"uri":"file:///a"}'),
        ("notifications/resources/updated", b'{"uri":"file:///a/below"}'),
        ("notifications/of/tomorrow", b"{}"),
    ):
        session.hears(method, params)
    told = [message.plain(each.encode()) for each in reader.data]
    assert [each["method"].partition("/")[2] for each in told] == [
        "tools/list_changed",
        "message",
        *["resources/updated"] * 2,
        "of/tomorrow",
    ]
    assert told[1]["params"]["data"] == 2 and [each["params"]["uri"] for each in told[2:4]] == ["file:///a", "file:///a/below"]


async def test_questions_outside_of_calls() -> None:
    session = made(Sessions())
    session.capabilities = {"roots": b"{}"}
    assert message.plain((await session.question("roots/list", None)).error or b"")["code"] == NO_ONE_TO_ASK  # it never read
    assert (await session.question("ping", None)).result == b"{}"
    reader = reading(session.stream)
    asked = asyncio.ensure_future(session.question("roots/list", None))
    await until(lambda: reader.data)
    assert reader.data == ['{"jsonrpc":"2.0","id":1,"method":"roots/list"}']
    session.answered(message.read(b'{"jsonrpc":"2.0","id":"1","result":{}}'))  # "1" is not 1
    session.answered(message.read(b'{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}'))
    session.answered(message.read(b'{"jsonrpc":"2.0","id":1,"error":{}}'))
    assert (await asked).result == b'{"roots":[]}'
    assert (await session.question("sampling/createMessage", None)).error is not None
    assert not session.questions


async def test_a_question_that_is_not_needed_any_more_is_taken_back() -> None:
    session = made(Sessions())
    session.capabilities = {"roots": b"{}"}
    reader = reading(session.stream)
    asked = asyncio.ensure_future(session.question("roots/list", None))
    await until(lambda: reader.data)
    asked.cancel()
    await asyncio.wait({asked})
    assert message.plain(reader.data[-1].encode())["method"] == "notifications/cancelled"


async def test_the_end_answers_everybody() -> None:
    table = Sessions()
    session = made(table)
    session.capabilities = {"roots": b"{}"}
    reader, call = reading(session.stream), asyncio_free()
    session.calls = {b"1": call}
    session.join()
    asked = asyncio.ensure_future(session.question("roots/list", None))
    await until(lambda: reader.data)
    table.end(session)
    assert (await asked).error is not None and call.cancelled and reader.ended
    service = session.service
    assert isinstance(service, StandIn) and service.left == [session]
    session.hears("notifications/tools/list_changed", None)
    assert len(reader.data) == 1
