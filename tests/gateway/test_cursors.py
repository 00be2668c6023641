"""Cursors that only we make."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from mcpproxy.gateway.cursors import Cursors

CURSORS = Cursors("all", b"k" * 64)
DIGEST = b"d" * 16


@given(some.text(max_size=20), some.binary(min_size=16, max_size=16), some.integers(0, 2**32 - 1))
def test_a_cursor_opens_for_whom_it_was_made(caller: str, digest: bytes, offset: int) -> None:
    assert CURSORS.open(caller, "tools/list", CURSORS.seal(caller, "tools/list", digest, offset)) == (digest, offset)


def test_not_for_another_caller_list_hub_or_key() -> None:
    text = CURSORS.seal("ann", "tools/list", DIGEST, 1)
    assert CURSORS.open("bob", "tools/list", text) is None
    assert CURSORS.open("ann", "prompts/list", text) is None
    assert Cursors("other", b"k" * 64).open("ann", "tools/list", text) is None
    assert Cursors("all").open("ann", "tools/list", text) is None


@given(some.integers(0, 47), some.characters(codec="ascii"))
def test_a_character_that_is_another_one_opens_nothing(place: int, character: str) -> None:
    text = CURSORS.seal("ann", "tools/list", DIGEST, 1)
    other = text[:place] + character + text[place + 1 :]
    assert (CURSORS.open("ann", "tools/list", other) is None) == (other != text)


@given(some.text(max_size=60))
def test_made_up_ones_open_nothing(text: str) -> None:
    assert CURSORS.open("", "tools/list", text) is None
