"""HPACK blocks, against the library and the examples of RFC 7541."""

import pytest
from hpack import Decoder, Encoder, HPACKError, OversizedHeaderListError
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.http import blocks
from mcpproxy.http.blocks import REMEMBERED, BlockReader, BlockWriter

FIELDS = st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.binary(max_size=400)), max_size=12)
POST = [
    (b":method", b"POST"),
    (b":path", b"/mcp"),
    (b":scheme", b"https"),
    (b":authority", b"a.example"),
    (b"accept", b"text/event-stream"),
]


@given(FIELDS)
def test_what_is_written_reads_the_same_everywhere(fields: list[tuple[bytes, bytes]]) -> None:
    block = blocks.block(fields)
    assert [tuple(field) for field in Decoder(1_000_000).decode(block, raw=True)] == fields
    assert BlockReader(1_000_000).read(block) == fields


def both(library: Decoder, reader: BlockReader, block: bytes) -> bool:
    """Do they read the same, and is their table the same then? False when both refuse."""
    try:
        expected = [tuple(field) for field in library.decode(block, raw=True)]
    except HPACKError:
        with pytest.raises(HPACKError):
            reader.read(block)
        return False
    assert reader.read(block) == expected
    assert list(reader.table.dynamic_entries) == [(bytes(name), bytes(value)) for name, value in library.header_table.dynamic_entries]
    assert reader.table.maxsize == library.header_table.maxsize
    return True


COMMON = st.sampled_from(
    [*POST, (b"content-length", b"5"), (b"x", b"1"), (b"x", b"2"), (b"x-large", b"y" * 1500), (b"x-huge", b"y" * 5000)]
)
ODD = st.tuples(st.binary(max_size=8), st.binary(max_size=40))
LISTS = st.lists(
    st.tuples(st.lists(st.tuples(st.one_of(COMMON, ODD), st.booleans()), max_size=8), st.booleans(), st.integers(0, 4096)), max_size=8
)


@given(LISTS)
def test_blocks_read_as_the_library_reads_them(lists: list[tuple[list[tuple[tuple[bytes, bytes], bool]], bool, int]]) -> None:
    encoder, library, reader = Encoder(), Decoder(), BlockReader(65536)
    for fields, huffman, size in lists:
        if size < 200:
            encoder.header_table_size = size * 20
        block = encoder.encode([(name, value, sensitive) for (name, value), sensitive in fields], huffman=huffman)
        assert both(library, reader, block)


@given(LISTS, st.integers(0, 2**16), st.integers(0, 255))
def test_broken_blocks_are_refused_where_the_library_refuses_them(
    lists: list[tuple[list[tuple[tuple[bytes, bytes], bool]], bool, int]], at: int, byte: int
) -> None:
    encoder, library, reader = Encoder(), Decoder(), BlockReader(65536)
    for fields, huffman, _ in lists:
        block = bytearray(encoder.encode([(name, value, sensitive) for (name, value), sensitive in fields], huffman=huffman))
        if block:
            block[at % len(block)] = byte
        if not both(library, reader, bytes(block)):
            return


@given(st.binary(max_size=60))
def test_noise_is_read_as_the_library_reads_it(block: bytes) -> None:
    both(Decoder(), BlockReader(65536), block)


def test_a_list_that_is_too_large_is_not_read_to_its_end() -> None:
    """Neither one of large fields nor one of many (CVE-2016-6581)."""
    reader = BlockReader(65536)
    reader.read(b"\x40\x01x\x7f\x81\x1e" + b"z" * 3968)
    reader.read(b"\xbe" * 15)
    with pytest.raises(OversizedHeaderListError):
        reader.read(b"\xbe" * 16)
    reader.read(b"\x82" * 240)
    with pytest.raises(OversizedHeaderListError):
        reader.read(b"\x82" * 256)


def test_a_common_answer_is_short() -> None:
    assert blocks.block([(b":status", b"200")]) == b"\x88"
    assert blocks.block([(b":status", b"204"), (b"content-length", b"0")]) == b"\x89\x0f\x0d\x010"


def test_a_block_writes_no_table() -> None:
    reader = BlockReader(65536)
    for number in range(100):
        reader.read(blocks.block([(b":status", b"200"), (b"x-number", b"%d" % number)]))
    assert not reader.table.dynamic_entries


def test_a_block_that_changes_no_table_is_remembered() -> None:
    reader, encoder = BlockReader(65536), Encoder()
    first, second = encoder.encode(POST), encoder.encode(POST)
    reader.read(first)
    reader.remember(first, "first", 100)
    assert not reader.known, "it added to the table: the same bytes would add again"
    reader.read(second)
    reader.remember(second, "second", 100)
    assert reader.known == {second: "second"}
    reader.read(encoder.encode([*POST, (b"x-new", b"1")]))
    assert not reader.known, "the numbers of entries have moved"


def test_a_table_that_was_emptied_and_filled_again_forgets_what_it_meant() -> None:
    """An entry that is larger than the table empties it (RFC 7541 §4.4); a new entry may then have an old one's number and even its address."""
    reader = BlockReader(65536)
    encoder = Encoder()
    for value in (b"a", b"b"):
        encoder.encode([(b"x", value)])
        reader.read(b"\x40\x01x\x01" + value)
        reader.read(b"\xbe")
        reader.remember(b"\xbe", value, 100)
        assert reader.known[b"\xbe"] == value
        reader.read(b"\x40\x01x\x7f\x81\x1f" + b"z" * 4096)
        assert not reader.known


def test_a_change_of_the_table_size_forgets() -> None:
    reader = BlockReader(65536)
    reader.read(b"\x82")
    reader.remember(b"\x82", "get", 100)
    reader.read(b"\x20\x82")
    assert not reader.known


def test_only_so_much_is_remembered() -> None:
    reader = BlockReader(65536)
    for number in range(1000):
        block = b"\x00\x01x\x04%04d" % number
        reader.read(block)
        reader.remember(block, number, 1000)
    assert 10 < len(reader.known) <= REMEMBERED // 1000
    assert block in reader.known
    large = b"\x00\x01x\x04more"
    reader.read(large)
    reader.remember(large, "large", REMEMBERED // 2)
    assert large not in reader.known


def test_the_table_keeps_no_whole_block_alive() -> None:
    reader = BlockReader(65536)
    reader.read(b"\x40\x01x\x01a" + b"\x00\x01y\x7f\x81\x3e" + b"z" * 8064)
    assert all(type(part) is bytes for entry in reader.table.dynamic_entries for part in entry)


@pytest.mark.parametrize(
    "block",
    [b"\x80", b"\xbe", b"\x3f\xe2\x1f", b"\x82\x20", b"\x40\x01x\x85\xff\xff\xff\xff\xff", b"\x40\x05x", b"\xff" * 64],
    ids=["index 0", "no such index", "table too large", "size update too late", "huffman end of string", "cut", "integer too long"],
)
def test_a_broken_block_is_refused(block: bytes) -> None:
    with pytest.raises(HPACKError):
        BlockReader(65536).read(block)


def test_a_client_that_shrinks_its_table_is_told_once_that_we_use_none() -> None:
    writer, client = BlockWriter(), Decoder()
    assert writer.encode([(b":status", b"200")]) == b"\x88"
    writer.header_table_size = 100
    client.max_allowed_table_size = 100
    block = writer.encode([(b":status", b"200")])
    assert block == b"\x20\x88"
    assert [tuple(field) for field in client.decode(block, raw=True)] == [(b":status", b"200")]
    writer.header_table_size = 50
    client.max_allowed_table_size = 50
    client.decode(writer.encode([(b":status", b"200")]), raw=True)
    writer.header_table_size = 4096
    assert writer.encode([(b":status", b"200")]) == b"\x88"
