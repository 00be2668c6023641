"""JSON with comments and trailing commas."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.migrate import jsonc
from mcpproxy.migrate.found import Unusable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(VALUES)
def test_plain_json_is_itself(value: object) -> None:
    text = json.dumps(value, indent=1)
    assert jsonc.plain(text) == text
    assert jsonc.parse(text) == value


def test_comments_and_trailing_commas_are_blanks() -> None:
    text = '{ // one\n "a": "//x, ]", /* two\n */ "b": [1, 2, /* , */ ], "c": {"d": "\\", }",},\n}'
    assert jsonc.parse(text) == {"a": "//x, ]", "b": [1, 2], "c": {"d": '", }'}}
    assert jsonc.plain(text).count("\n") == text.count("\n")


def test_names_that_come_twice_are_kept() -> None:
    assert jsonc.parse('{"a": 1, "a": 2}').pairs == [("a", 1), ("a", 2)]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, "9" * 10_000, '{"a" 1}', '"', "/*", "//", "", '{"a": "\\'])
def test_what_is_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(Unusable, match=r"not JSON|too deeply"):
        jsonc.parse(text)


def test_the_line_of_a_mistake_is_told() -> None:
    with pytest.raises(Unusable, match="line 3, column"):
        jsonc.parse('{\n// x\n"a" 1}')
