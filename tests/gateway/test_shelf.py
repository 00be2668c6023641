"""What is kept of a member's lists, and for how long its names are known."""

from __future__ import annotations

from mcpproxy.config.gateway import Facet
from mcpproxy.gateway.shelf import HELD, PARTS, Content, Offer, Part, Shelf, Slot
from mcpproxy.mcp.merge import PROMPTS, RESOURCES, TEMPLATES, TOOLS, Item
from tests.gateway.members import SomeMember, SomeServer


def part(*names: str, public: bool = False, until: float = 10.0, server: SomeServer | None = None, size: int = 0) -> Part:
    items = tuple(Item(name, name.encode()) for name in names)
    return Part(Content((" ".join(names).encode(),), items, "", size), until, until, public, server)


def known(shelf: Shelf) -> set[str]:
    return {item.own for item in shelf.known}


def test_a_public_list_is_for_all_and_a_private_one_for_its_own() -> None:
    shelf = Shelf()
    assert shelf.put((1, "ann"), part("a"))
    assert shelf.kept(None, 0.0) is None
    assert shelf.kept((1, "bob"), 0.0) is None
    assert shelf.kept((1, "ann"), 0.0) is not None
    assert shelf.kept((1, "ann"), 11.0) is None
    shelf.put((1, "ann"), part("b", public=True))
    assert shelf.kept(None, 0.0) is not None


def test_equal_lists_are_one_and_change_no_names() -> None:
    shelf = Shelf()
    first = part("a", "b")
    assert shelf.put((1, ""), first)
    again = shelf.same(first.content.pages)
    assert again is first.content
    assert not shelf.put((2, ""), Part(again, 10.0, 10.0, False))
    assert shelf.same((b"x",)) is None


def test_names_stay_known_while_any_list_has_them() -> None:
    shelf = Shelf()
    shelf.put((1, ""), part("a", "b"))
    shelf.put((2, ""), part("b", "c"))
    assert shelf.put((1, ""), part("d"))
    assert known(shelf) == {"b", "c", "d"}
    shelf.expire()
    assert known(shelf) == {"b", "c", "d"}
    assert shelf.generation == 1


def test_the_last_list_of_a_server_that_went_stays_known_until_another_comes() -> None:
    shelf, server = Shelf(), SomeServer({})
    shelf.put((id(server), ""), part("a", server=server))
    shelf.drop(server)
    assert known(shelf) == {"a"}
    assert shelf.kept((0, ""), 0.0) is None
    assert all(each.conversation is None for each in shelf.private.values())
    shelf.put((7, ""), part("b"))
    assert known(shelf) == {"b"}


def test_a_list_that_became_private_is_no_longer_public() -> None:
    shelf = Shelf()
    shelf.put((1, ""), part("a", public=True))
    shelf.expire()
    shelf.put((1, ""), part("b"))
    assert known(shelf) == {"b"}


def test_there_is_an_end_to_what_is_kept() -> None:
    shelf = Shelf()
    for number in range(PARTS + 10):
        shelf.put((number, ""), part("a"))
    assert len(shelf.private) == PARTS
    shelf = Shelf()
    for number in range(10):
        shelf.put((number, ""), part(str(number), size=HELD // 3))
    assert len(shelf.private) == 3
    assert known(shelf) == {"7", "8", "9"}


def test_what_is_not_offered_is_not_known() -> None:
    offer = Offer("fs", tools=("read_*",), resources=("file:///pub/*",), hide=("read_secret", "file:///pub/x"))
    slot = Slot(0, SomeMember("files", SomeServer({})), offer, 64)
    assert [name for name in ("read_file", "read_secret", "write") if slot.offers(TOOLS, name)] == ["read_file"]
    assert slot.offers(PROMPTS, "anything")
    assert [uri for uri in ("file:///pub/a", "file:///pub/x", "file:///b") if slot.offers(RESOURCES, uri)] == ["file:///pub/a"]
    assert slot.offers(TEMPLATES, "file:///pub/{name}")
    tools = Part(Content((b"",), (Item("read_file", b"", ("ui://a",)), Item("write", b""))), 1.0, 1.0, False)
    slot.shelves[TOOLS].put((1, ""), tools)
    assert slot.known(TOOLS) == {"read_file"}
    assert slot.known(RESOURCES) == {"ui://a"}
    assert not offer.everything
    assert Offer().everything


def test_the_configuration_says_what_is_offered() -> None:
    assert Offer.of("files", None, "member") == Offer("files")
    assert Offer.of("files", Facet(prefix=""), "member").everything
    assert Offer.of("files", Facet(hide=("x",)), "none") == Offer("", hide=("x",))
    assert Offer.of("files", Facet(prefix="fs", tools=("a",), rename={"a": "b"}), "none") == Offer("fs", ("a",), rename={"a": "b"})
