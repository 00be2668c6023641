"""Globs mean what fnmatch means, and are never slow."""

from fnmatch import fnmatchcase
from sys import setrecursionlimit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.policy.globs import glob, globs

TEXTS = st.text("ab-]!^\n", max_size=8)
PATTERNS = st.text("ab*?[]!-^\n", max_size=10)


@given(PATTERNS, TEXTS)
@example("*a*b", "aab")
@example("[!]a]*", "b")
@example("[*]", "*")
@example("a**b", "ab")
@example("*[b-a]*", "ab")
@example("a*a", "a")
def test_a_glob_means_what_fnmatch_means(pattern: str, text: str) -> None:
    assert glob(pattern)(text) is fnmatchcase(text, pattern)


@given(st.lists(PATTERNS, max_size=4), TEXTS)
def test_one_of_several_is_enough(patterns: list[str], text: str) -> None:
    assert globs(patterns)(text) is any(fnmatchcase(text, pattern) for pattern in patterns)


@pytest.mark.parametrize("pattern", ["*a" * 60 + "*b", "*?" * 60 + "b", "*[ab]a" * 40 + "c"])
def test_no_text_makes_it_slow(pattern: str) -> None:
    """A backtracking matcher would not come back from this."""
    setrecursionlimit(1000)
    assert glob(pattern)("a" * 20_000) is False


def test_case_counts() -> None:
    assert not glob("Search_*")("search_docs")
    assert not globs(["a", "b"])("A")
