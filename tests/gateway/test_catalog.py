"""Lists of members: all at once, kept, forgotten, late, too large."""

from __future__ import annotations

import asyncio

from mcpproxy.gateway.catalog import BYTES, HOLD_S, ITEMS, PAGES, Catalog
from mcpproxy.gateway.parts import Answer, Client, Conversation, Era
from mcpproxy.gateway.shelf import Offer, Slot
from mcpproxy.mcp.merge import RESOURCES, TEMPLATES, TOOLS, Kind
from tests.gateway.members import SomeMember, SomeServer, tool, turns
from tests.support.gateway import SomeClient


class Room:
    """A catalog, its clock, and what it told."""

    def __init__(self, *members: SomeMember, keep: float | None = None, offers: dict[str, Offer] | None = None) -> None:
        self.now = 1000.0
        self.back: list[tuple[str, Kind]] = []
        self.missed: list[str] = []
        self.said: list[str] = []
        given = [(member, (offers or {}).get(member.name, Offer(member.name))) for member in members]
        self.catalog = Catalog(
            given,
            self.converse,
            lambda slot, kind: self.back.append((slot.name, kind)),
            lambda slot: self.missed.append(slot.name),
            deadline=0.05,
            keep=keep,
            now=lambda: self.now,
            say=lambda level, text: self.said.append(text),
        )

    async def converse(self, slot: Slot, client: Client) -> Conversation:
        return await slot.member.conversation(client)

    async def names(self, client: Client | None = None, kind: Kind = TOOLS) -> dict[str, list[str]]:
        gathered = await self.catalog.gather(kind, client or SomeClient())
        return {slot.name: [item.own for item in part.content.items] for slot, part in gathered.parts}


def server(*names: str, **kwargs: object) -> SomeServer:
    return SomeServer({"tools": [tool(name) for name in names]}, **kwargs)  # type: ignore[arg-type]


async def test_all_members_are_asked_and_all_their_pages() -> None:
    a, b = server("x", "y", "z", page=2), server("x")
    room = Room(SomeMember("a", a), SomeMember("b", b))
    assert await room.names() == {"a": ["x", "y", "z"], "b": ["x"]}
    assert a.asked == [("tools/list", {}), ("tools/list", {"cursor": "2"})]


async def test_a_member_that_fails_is_a_gap_and_nothing_else() -> None:
    away, html, old = SomeMember("away", server("x")), server("x"), server("x")
    away.away = "starts in 3 s"
    html.answers["tools/list"] = lambda call, params: Answer(b"<html>")
    old.answers["tools/list"] = lambda call, params: Answer.failure(-32603, "broken\nhere")
    room = Room(away, SomeMember("html", html), SomeMember("old", old), SomeMember("well", server("x")))
    gathered = await room.catalog.gather(TOOLS, SomeClient())
    assert [slot.name for slot, _ in gathered.parts] == ["well"]
    assert [(gap.member, gap.reason) for gap in gathered.gaps] == [
        ("away", "starts in 3 s"),
        ("html", "its answer to tools/list is none"),
        ("old", "broken here"),
    ]
    assert room.missed == ["away", "html", "old"]


async def test_a_member_that_has_no_such_list_is_no_gap() -> None:
    none = server("x", capabilities={"prompts": {}})
    plain = SomeServer({"resources": []})
    room = Room(SomeMember("a", none), SomeMember("b", plain))
    gathered = await room.catalog.gather(TEMPLATES, SomeClient())
    assert gathered.gaps == []
    assert [part.content.items for _, part in gathered.parts] == [(), ()]
    assert none.asked == []


async def test_a_late_member_is_left_out_then_there_and_its_list_is_held() -> None:
    slow = server("x")
    slow.slow = asyncio.Event()
    room = Room(SomeMember("slow", slow), SomeMember("well", server("x")))
    gathered = await room.catalog.gather(TOOLS, SomeClient())
    assert [slot.name for slot, _ in gathered.parts] == ["well"]
    assert [gap.reason for gap in gathered.gaps] == ["did not answer within 0.05 s"]
    slow.slow.set()
    await turns(lambda: room.back)
    assert room.back == [("slow", TOOLS)]
    slow.slow.clear()  # as late as before
    assert await room.names() == {"slow": ["x"], "well": ["x"]}
    room.now += HOLD_S + 1
    assert await room.names() == {"well": ["x"]}
    await room.catalog.stop()


async def test_clients_that_ask_at_once_are_one_request() -> None:
    a = server("x")
    a.slow = asyncio.Event()
    room = Room(SomeMember("a", a))
    asked = [asyncio.create_task(room.names(SomeClient(str(number)))) for number in range(5)]
    await turns(lambda: a.asked)
    asked[0].cancel()  # the others go on
    await asyncio.sleep(0)
    a.slow.set()
    assert await asyncio.gather(*asked[1:]) == [{"a": ["x"]}] * 4
    assert a.count("tools/list") == 1


async def test_what_is_public_is_kept_for_all_and_what_is_private_for_its_caller() -> None:
    public, private = server("x", era=Era.MODERN, ttl=60_000, scope="public"), server("y", era=Era.MODERN, ttl=60_000)
    room = Room(SomeMember("a", public), SomeMember("b", private))
    for principal in ("ann", "bob", "ann"):
        await room.names(SomeClient("", principal=principal, era=Era.MODERN))
    assert (public.count("tools/list"), private.count("tools/list")) == (1, 2)
    room.now += 61
    await room.names(SomeClient("", principal="ann", era=Era.MODERN))
    assert (public.count("tools/list"), private.count("tools/list")) == (2, 3)


async def test_lists_of_servers_that_say_nothing_are_kept_only_if_told_to() -> None:
    a = server("x")
    room = Room(SomeMember("a", a))
    await room.names()
    await room.names()
    assert a.count("tools/list") == 2
    room = Room(SomeMember("a", a), keep=60.0)
    await room.names()
    await room.names(SomeClient("other"))  # the same conversation
    assert a.count("tools/list") == 3
    gathered = await room.catalog.gather(TOOLS, SomeClient())
    assert gathered.parts[0][1].fresh == room.now  # clients are told nothing else than the server said
    room.catalog.changed(room.catalog.slots[0], (TOOLS,))
    await room.names()
    assert a.count("tools/list") == 4


async def test_sessions_with_servers_of_their_own_have_their_own_lists() -> None:
    member = SomeMember("a", server(), own=lambda: server(f"x{len(member.owned)}", ttl=60_000))
    room = Room(member)
    one, other = SomeClient("1"), SomeClient("2")
    assert await room.names(one) == {"a": ["x0"]}
    assert await room.names(other) == {"a": ["x1"]}
    assert await room.names(one) == {"a": ["x0"]}
    assert len(room.catalog.table(TOOLS)) == 2


async def test_a_list_that_changes_while_it_is_asked_for_is_not_kept() -> None:
    a = server("x", ttl=60_000)
    a.slow = asyncio.Event()
    room = Room(SomeMember("a", a))
    asked = asyncio.create_task(room.names())
    await turns(lambda: a.asked)
    room.catalog.changed(room.catalog.slots[0])
    a.slow.set()
    await asked
    await room.names()
    assert a.count("tools/list") == 2


async def test_pages_without_end_have_one() -> None:
    loop, turning, large = server("x"), server("x"), server(*(str(n) for n in range(ITEMS + 1)), page=ITEMS // 2)
    loop.answers["tools/list"] = lambda call, params: {"tools": [tool(f"t{len(loop.asked)}")], "nextCursor": str(len(loop.asked))}
    turning.answers["tools/list"] = lambda call, params: {"tools": [tool("t")], "nextCursor": "same"}
    heavy = server(*"abcde", page=1)
    heavy.answers["tools/list"] = lambda call, params: {
        "tools": [tool(f"t{len(heavy.asked)}", x="x" * (BYTES // 2 - 9999))],
        "nextCursor": "n" * len(heavy.asked),
    }
    room = Room(*(SomeMember(name, each) for name, each in (("loop", loop), ("turning", turning), ("large", large), ("heavy", heavy))))
    room.catalog._deadline = 60.0
    gathered = await room.catalog.gather(TOOLS, SomeClient())
    assert {slot.name: len(part.content.items) for slot, part in gathered.parts} == {
        "loop": PAGES,
        "turning": 2,
        "large": ITEMS,
        "heavy": 2,
    }
    assert [gap.reason.partition(":")[2] for gap in gathered.gaps] == [
        " its pages do not end",
        " its pages do not end",
        " more than 10000 of them, or more than 16 MiB",
        " more than 10000 of them, or more than 16 MiB",
    ]


async def test_names_of_a_member_that_is_away_stay_its_own() -> None:
    a, b = SomeMember("a", server("read")), SomeMember("b", server("read"))
    room = Room(a, b, offers={"a": Offer(), "b": Offer()})
    await room.names()
    assert room.catalog.table(TOOLS).whose("read") == (0, "read")
    a.away = "gone"
    room.catalog.changed(room.catalog.slots[0])
    assert await room.names() == {"b": ["read"]}
    assert room.catalog.table(TOOLS).whose("read") == (0, "read")


async def test_findings_are_said_once() -> None:
    long = "read_a_file_whose_name_is_very_long_indeed" * 2
    room = Room(SomeMember("a", server("read", long)), SomeMember("b", server("read")), offers={"a": Offer(), "b": Offer()})
    await room.names()
    room.catalog._tables.clear()
    assert len(room.catalog.findings()) == len(room.said) == 2
    assert room.said[0].startswith(f"a: name {long} is too long")
    assert room.said[1] == "b: name read is left out: a has it, too; give one of them a prefix or another name"


async def test_a_gap_that_is_closed_is_told() -> None:
    a = SomeMember("a", server("x"))
    a.away = "gone"
    room = Room(a)
    slot = room.catalog.slots[0]
    await room.names()
    assert not await room.catalog.again(slot, TOOLS, SomeClient())
    a.away = ""
    assert await room.catalog.again(slot, TOOLS, SomeClient())
    assert room.back == [("a", TOOLS)]
    assert await room.names(kind=RESOURCES) == {"a": []}
