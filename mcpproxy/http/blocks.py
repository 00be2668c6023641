"""HOT. Field blocks (HPACK, RFC 7541) from and to the fields they mean, each distinct block read or written once.

Reading: a block that left the dynamic table alone means the same thing until the table changes, so what was made of it is remembered that long.
The library keeps the table and knows Huffman's code; its own decoder takes twice the time, and its table views of whole blocks.

Writing: nothing of ours goes into the client's table. A block is then the same bytes on every connection and is made once for all of them, no
secret can be guessed by its length (RFC 7541 §7.1), and no connection holds a table. What an index would save in bytes, it costs in work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hpack import HPACKDecodingError, InvalidTableSizeError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

REMEMBERED = 64 * 1024  # bytes of blocks and their meanings per connection: some fifty ordinary heads; an agent has a handful
FIELD_COST = (
    256  # bytes that a field counts for beside its own, so that a list within 64 KiB has no more than 256 (RFC 9113 §6.5.2 would count 32)
)
TABLE_SIZE = 4096  # bytes of a client's table: the protocol's default
STATIC_FIELDS = ((b"", b""), *HeaderTable.STATIC_TABLE)  # they count from 1
LINES, LINE_SIZE = 4096, 512  # encoded fields of responses remembered by all connections together, and how long one may be

Fields = list[tuple[bytes, bytes]]


def number(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """§5.1: the integer at `at`, whose prefix has the bits of `mask`, and where it ends."""
    value = block[at] & mask
    at += 1
    if value == mask:
        for shift in range(0, 35, 7):
            byte = block[at]
            at += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise HPACKDecodingError
    return value, at


def string(block: bytes, at: int) -> tuple[bytes, int]:
    """§5.2: the string at `at`, and where it ends."""
    coded = block[at] & 0x80
    size, at = number(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise HPACKDecodingError
    return (decode_huffman(block[at:end]) if coded else block[at:end]), end


class Table(HeaderTable):
    """A dynamic table that counts its additions."""

    __slots__ = ("additions",)

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        """Add a field; what is too old falls out."""
        self.additions += 1
        super().add(name, value)


class BlockReader:
    """The client's blocks."""

    __slots__ = ("_limit", "_size", "_steady", "known", "table")

    def __init__(self, list_limit: int) -> None:
        self.table = Table()
        self.known: dict[bytes, Any] = {}  # block → whatever the caller made of it; emptied by every change of the table
        self._limit = list_limit  # bytes of names and values, and FIELD_COST for each field
        self._size = 0
        self._steady = False  # the last block changed nothing

    def read(self, block: bytes) -> Fields:
        """The fields of a block. Raises hpack.HPACKError; the connection is lost then."""
        table = self.table
        before = table.additions, len(table.dynamic_entries), table.maxsize
        try:
            return self._fields(block)
        finally:
            self._steady = before == (table.additions, len(table.dynamic_entries), table.maxsize)
            if not self._steady:
                self.known.clear()

    def _fields(self, block: bytes) -> Fields:
        entries = self.table.dynamic_entries
        fields: Fields = []
        at, end, left = 0, len(block), self._limit
        try:
            while at < end:
                first = block[at]
                if first == 0x80:
                    raise HPACKDecodingError
                if first > 0x80:  # §6.1: indexed
                    index, at = (first & 0x7F, at + 1) if first != 0xFF else number(block, at, 0x7F)
                    field = STATIC_FIELDS[index] if index <= 61 else entries[index - 62]
                elif first & 0xE0 == 0x20:  # §6.3: a new size of the table
                    size, at = number(block, at, 0x1F)
                    if fields or size > TABLE_SIZE:
                        raise InvalidTableSizeError
                    self.table.maxsize = size
                    continue
                else:  # §6.2: literal, with incremental indexing or without
                    index, at = number(block, at, 0x3F if first >= 0x40 else 0x0F)
                    if index:
                        name = STATIC_FIELDS[index][0] if index <= 61 else entries[index - 62][0]
                    else:
                        name, at = string(block, at)
                    value, at = string(block, at)
                    field = name, value
                    if first >= 0x40:
                        self.table.add(name, value)
                fields.append(field)
                left -= FIELD_COST + len(field[0]) + len(field[1])
                if left < 0:
                    raise OversizedHeaderListError
        except IndexError:  # behind the end of the block or of the table
            raise HPACKDecodingError from None
        return fields

    def remember(self, block: bytes, meaning: Any, size: int) -> None:
        """Of the block that was read last; `size` is about what it takes."""
        size += len(block)
        if self._steady and size <= REMEMBERED >> 2:
            if not self.known or self._size + size > REMEMBERED:
                self.known.clear()
                self._size = 0
            self._size += size
            self.known[block] = meaning


# -- writing ------------------------------------------------------------------------------------------------------------------------------------

STATIC = {field: number for number, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
STATIC_NAMES = {field[0]: number for number, field in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
TABLE_SIZE_0 = b"\x20"  # §6.3

lines: dict[tuple[bytes, bytes], bytes] = {}


def integer(value: int, bits: int, first: int) -> bytes:
    """§5.1: an integer after `first`, in a prefix of so many bits."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    encoded = bytearray((first | most,))
    value -= most
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def line(field: tuple[bytes, bytes]) -> bytes:
    """One field: indexed if the static table has it (§6.1), otherwise literal without indexing (§6.2.2)."""
    known = lines.get(field)
    if known is not None:
        return known
    number = STATIC.get(field)
    if number is not None:
        return bytes((0x80 | number,))
    name, value = field
    number = STATIC_NAMES.get(name)
    start = b"\0%b%b" % (integer(len(name), 7, 0), name) if number is None else integer(number, 4, 0)
    encoded = b"%b%b%b" % (start, integer(len(value), 7, 0), value)
    if len(encoded) <= LINE_SIZE:
        if len(lines) >= LINES:
            lines.clear()
        lines[field] = encoded
    return encoded


def block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The block that means these fields, on any connection."""
    return b"".join(map(line, fields))


class BlockWriter:
    """The encoder of one connection, in the shape that the h2 library expects."""

    __slots__ = ("_limit", "_told", "owed")

    def __init__(self) -> None:
        self._limit = 4096
        self.owed = b""  # what the next block begins with
        self._told = False

    @property
    def header_table_size(self) -> int:
        """What the client allows."""
        return self._limit

    @header_table_size.setter
    def header_table_size(self, size: int) -> None:
        """A client that shrinks its table must be told that we follow (§4.2, RFC 9113 §4.3.1): once to nothing, then never again."""
        if size < self._limit and not self._told:
            self._told = True
            self.owed = TABLE_SIZE_0
        self._limit = size

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The next block of this connection."""
        return self.framed(block(fields))

    def framed(self, known: bytes) -> bytes:
        """A block that was made before, as the next one of this connection."""
        if self.owed:
            known, self.owed = self.owed + known, b""
        return known
