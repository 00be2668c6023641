"""A regular expression means what Python means by it, and no text makes it slow."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mcpproxy.config import regular as module
from mcpproxy.config.mistakes import Wrong
from mcpproxy.config.regular import Machine, _parser, is_quick, regular

ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\w", r"\d", r"\s", "(?i:A)", r"\b", r"\B", "^", "$", "", r"\Z", "é", r"\.", "[a-c_]", "(?s:.)"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda each: f"(?:{'|'.join(each)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,}", "{0}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


@given(PATTERNS, st.text("ab1 _é.A", max_size=7))
@example("(?:a|ab)(?:c|bcd)*", "abcd")
@example(r".*\bab\b.*", "a ab b")
@example("(?:(?:a*)*)*b", "aab")
def test_a_pattern_means_what_python_means(pattern: str, text: str) -> None:
    assume(text or "B" not in pattern)  # whether \\B is in an empty text is another question in each version of Python
    compiled = re.compile(pattern)
    expected = compiled.fullmatch(text) is not None
    assert Machine(_parser.parse(pattern), compiled.flags).matches(text) is expected
    assert bool(regular(pattern)(text)) is expected


@pytest.mark.parametrize(
    ("pattern", "unkind"),
    [
        ("(a+)+b", "a" * 4096),
        ("(a|a)*b", "a" * 4096),
        ("(.*a){20}", "a" * 19 + "b" * 4000),
        (".*.*.*.*.*=", "x" * 4096),
        ("a?" * 60 + "a" * 60, "a" * 59),
        ("(a|aa|aaa){1,60}b", "a" * 4096),
        (r"(\w+\s?)*!", "word " * 800),
        (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 4096),
        ("(x+x+)+y", "".join(map(chr, range(0x100, 0x1100)))),
    ],
)
def test_no_text_makes_it_slow(pattern: str, unkind: str) -> None:
    """`re` would not come back from most of these."""
    assert not regular(pattern)(unkind)


@pytest.mark.parametrize("pattern", ["[a-z]+", "/srv/.*", "a|b|cd", r"\d{4}-\d{2}", "(?:jpg|png)", "a*(b|c)?", "", r"[^/]+\.txt"])
def test_simple_patterns_are_left_to_re(pattern: str) -> None:
    assert regular(pattern) == re.compile(pattern).fullmatch


@pytest.mark.parametrize(
    "pattern",
    [
        "(a)\\1",
        "(?=a)a",
        "(?!a).",
        "(?<=a)b",
        "(?<!a)b",
        "(?>a)b",
        "a*+",
        "(a)?(?(1)b|c)",
        "(?m)a",
        "a{3000}",
        "(a{50}){50}",
        "(",
        "a{1000000}*",
        "[a",
    ],
)
def test_what_cannot_be_followed_is_refused(pattern: str) -> None:
    with pytest.raises(Wrong):
        regular(pattern)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 5)
    matches = regular("(.*a.*)*b")
    for text in ("xyzab", "qwertzuiopa", "ab", "b", "abab" * 9):
        assert bool(matches(text)) is (re.fullmatch("(.*a.*)*b", text) is not None)


def test_flags_inside_count() -> None:
    for text in ("ab", "AB", "aB", "Ab"):
        for pattern in ("(?i)(a*b*)*", "((?i:a)*b*)*", "(?i:(a(?-i:b))*)*"):
            assert bool(regular(pattern)(text)) is (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(("pattern", "quick"), [("project [a-z]+", True), ("(?i)a|b", True), ("(a+)+b", False), ("a*a*b", False)])
def test_whether_re_may_look_for_a_pattern(pattern: str, quick: bool) -> None:
    assert is_quick(pattern) is quick
