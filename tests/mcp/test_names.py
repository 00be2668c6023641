"""Names that stay and fit, over any servers there may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.mcp.names import DUPLICATE, SHORTENED, Naming, Table, by_prefix, shortened, unwrapped, word_of, wrapped

words = some.text("ab_.-9é", min_size=1, max_size=90)
prefixes = some.sampled_from(["", "a", "a_b", "fs", "x" * 60])
servers = some.lists(
    some.tuples(some.builds(Naming, prefixes, some.dictionaries(words, words, max_size=2)), some.lists(words, max_size=6)), max_size=5
)


def test_a_name_has_its_prefix_or_is_the_one_the_operator_gave() -> None:
    naming = Naming("files", {"read_file": "read"})
    assert [naming.seen(own) for own in ("list", "read_file")] == ["files_list", "read"]
    assert Naming().seen("list") == "list"


def test_one_that_is_too_long_ends_with_a_hash_of_the_whole() -> None:
    name = "a" * 80
    assert shortened(name, 80) == name
    assert len(shortened(name, 64)) == 64
    assert shortened(name + "b", 64) != shortened(name + "c", 64)
    assert shortened("x" * 65, 64) == "x" * 55 + "_" + shortened("x" * 65, 16)[-8:]


def test_the_hash_is_the_same_on_every_node() -> None:
    assert shortened("files_" + "read_the_whole_file_" * 4, 32) == "files_read_the_whole_fi_mr5faj7e"


@given(servers, some.integers(0, 5), some.tuples(some.builds(Naming, prefixes), some.lists(words, max_size=6)))
def test_a_server_that_is_added_changes_no_name_of_another(
    there: list[tuple[Naming, list[str]]], place: int, new: tuple[Naming, list[str]]
) -> None:
    place = min(place, len(there))
    before, after = Table.of_names(there), Table.of_names([*there[:place], new, *there[place:]])
    for number, (_, names) in enumerate(there):
        for own in names:
            seen = after.seen(number + (number >= place), own)
            assert seen is None or seen == before.seen(number, own)
            if place == len(there):
                assert seen == before.seen(number, own)  # whoever comes last takes nothing


@given(servers)
def test_every_name_leads_back_to_where_it_came_from(there: list[tuple[Naming, list[str]]]) -> None:
    table = Table.of_names(there)
    left_out = {(finding.member, finding.own) for finding in table.findings if finding.kind == DUPLICATE}
    seen_by = set()
    for number, (naming, names) in enumerate(there):
        for own in names:
            seen = table.seen(number, own)
            assert (seen is None) == ((number, own) in left_out)
            if seen is not None:
                assert len(seen) <= naming.limit
                assert table.whose(seen) == (number, own)
                seen_by.add(seen)
    assert len(table) == len(seen_by)


@given(servers)
def test_the_order_of_a_servers_list_means_nothing(there: list[tuple[Naming, list[str]]]) -> None:
    one, other = Table.of_names(there), Table.of_names([(naming, names[::-1]) for naming, names in there])
    assert all(one.seen(number, own) == other.seen(number, own) for number, (_, names) in enumerate(there) for own in names)


def test_of_two_with_one_name_the_later_is_left_out_and_reported() -> None:
    table = Table.of_names([(Naming(), ["read", "list"]), (Naming(), ["read", "write"])])
    assert table.whose("read") == (0, "read")
    assert (table.seen(1, "read"), table.seen(1, "write")) == (None, "write")
    assert [(each.kind, each.member, each.own, each.other) for each in table.findings] == [(DUPLICATE, 1, "read", 0)]


def test_what_is_shortened_is_reported() -> None:
    table = Table.of_names([(Naming("files", limit=16), ["read_many_files"])])
    assert [(each.kind, each.own, len(each.seen)) for each in table.findings] == [(SHORTENED, "read_many_files", 16)]


def test_the_operators_name_goes_before_a_servers() -> None:
    table = Table.of_names([(Naming("", {"z": "a"}), ["a", "z"])])
    assert table.whose("a") == (0, "z")


def test_uris_stay_and_only_the_later_of_two_is_wrapped() -> None:
    table = Table.of_uris([("files", ["file:///a", "file:///b"]), ("more", ["file:///b", "file:///c"]), ("web", ["file:///b"])])
    assert table.whose("file:///b") == (0, "file:///b")
    assert table.whose("more+file:///b") == (1, "file:///b")
    assert table.seen(2, "file:///b") == "web+file:///b"
    assert table.changed(1) == {"file:///b": "more+file:///b"}
    assert table.changed(0) == {}


def test_https_uris_are_never_wrapped() -> None:
    table = Table.of_uris([("a", ["https://x/"]), ("b", ["https://x/"])])
    assert table.seen(1, "https://x/") is None
    assert [each.kind for each in table.findings] == [DUPLICATE]


@given(some.text("aB_.9é", min_size=1), some.sampled_from(["file:///x", "ui://a/b", "file:///{path}"]))
def test_what_is_wrapped_is_unwrapped(member: str, uri: str) -> None:
    word = word_of(member)
    assert unwrapped({word: 3}, wrapped(word, uri)) == (3, uri)
    assert word[0].isalpha() and word.isascii()


def test_what_was_never_wrapped_is_not_unwrapped() -> None:
    assert unwrapped({"git": 0}, "git+x") is None
    assert unwrapped({"files": 0}, "git+ssh://x") is None


def test_a_name_in_no_list_is_found_by_its_prefix() -> None:
    namings = [Naming("a"), Naming("a_b"), Naming("fs", {"read": "load"})]
    assert by_prefix(namings, "fs_write", lambda number, own: True) == [(2, "write")]
    assert by_prefix(namings, "fs_read", lambda number, own: True) == []  # it has another name
    assert by_prefix(namings, "a_b_c", lambda number, own: True) == [(0, "b_c"), (1, "c")]
    assert by_prefix(namings, "a_b_c", lambda number, own: number == 1) == [(1, "c")]
    assert by_prefix(namings, "fs_" + "x" * 64, lambda number, own: True) == []
