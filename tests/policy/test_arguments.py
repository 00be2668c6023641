"""An argument is what the rule says, is not, or that cannot be said."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy.config.policies import Constraint
from mcpproxy.policy.arguments import Answer, Constraints

MISSING = object()


def said(constraint: Constraint, value: object = MISSING) -> Answer:
    return Constraints({"a": constraint}).hold({} if value is MISSING else {"a": value})


@pytest.mark.parametrize(
    ("wanted", "value", "answer"),
    [
        ("x", "x", True),
        ("x", "X", False),
        ("é", "e\u0301", False),
        (42, 42, True),
        (42, 42.0, True),
        (42.0, 42, True),
        (42, 43, False),
        (1, True, None),
        (0, False, None),
        (2, True, False),
        (True, True, True),
        (True, False, False),
        (True, 1, None),
        (True, "true", None),
        (True, " YES ", None),
        (True, "no", False),
        (True, 0, False),
        (5, "5", None),
        (5, "5.0", None),
        (5, "6", False),
        ("5", 5, None),
        ("5", 6, False),
        ("true", True, None),
        ("x", ["x"], None),
        ("x", {"x": 1}, None),
        (9007199254740992, 9007199254740993, None),
        (9007199254740993, 9007199254740993, True),
        ("nan", "nan", True),
    ],
)
def test_equals(wanted: str | float | bool, value: object, answer: Answer) -> None:
    assert said(Constraint(equals=wanted), value) is answer
    assert said(Constraint(one_of=(wanted,)), value) is answer
    assert said(Constraint(one_of=("another", wanted)), value) is answer


@pytest.mark.parametrize(
    ("constraint", "value", "answer"),
    [
        (Constraint(min=1), 1, True),
        (Constraint(min=1), 0.999, False),
        (Constraint(max=10), 10.0, True),
        (Constraint(max=10), 11, False),
        (Constraint(max=10), "5", None),
        (Constraint(max=10), True, None),
        (Constraint(max=10), [1], None),
        (Constraint(max=9007199254740992), 9007199254740993, None),
        (Constraint(min=9007199254740993), 9007199254740993, None),
        (Constraint(min=1, max=3), 2, True),
        (Constraint(min=1, max=3), 4, False),
        (Constraint(max_length=2), "ab", True),
        (Constraint(max_length=2), "abc", False),
        (Constraint(max_length=2), [1, 2], True),
        (Constraint(max_length=2), {"a": 1, "b": 2, "c": 3}, False),
        (Constraint(max_length=2), 7, None),
        (Constraint(max_length=0), "", True),
        (Constraint(matches="[a-z]+"), "abc", True),
        (Constraint(matches="[a-z]+"), "abc\n", False),
        (Constraint(matches="[a-z]+$"), "abc\n", False),
        (Constraint(matches="[a-z]+"), "abcD", False),
        (Constraint(matches="[a-z]+"), "a" * 4096, True),
        (Constraint(matches="[a-z]+"), "a" * 4097, None),
        (Constraint(matches="[0-9]+"), 7, None),
        (Constraint(matches="x", max_length=1), "xx", False),
        (Constraint(matches="(a+)+b"), "a" * 4096, False),
        (Constraint(matches="(a+)+b"), "a" * 4095 + "b", True),
    ],
)
def test_numbers_lengths_and_patterns(constraint: Constraint, value: object, answer: Answer) -> None:
    assert said(constraint, value) is answer


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/srv/data", True),
        ("/srv/data/", True),
        ("/srv/data/a/b.txt", True),
        ("/srv/data/..a", True),
        ("/srv/database", False),
        ("/srv", False),
        ("/etc/passwd", False),
        ("/srv/data/../etc", None),
        ("/srv/data/./a", None),
        ("/srv/data//a", None),
        ("//srv/data", None),
        ("/srv/data/a//", None),
        ("/srv/data/a\\..\\b", None),
        ("/srv/data/a\0", None),
        ("srv/data", None),
        ("~/x", None),
        ("file:///srv/data", None),
        ("", None),
        ("/", False),
        (5, None),
        (["/srv/data"], None),
    ],
)
def test_inside_a_folder(path: object, answer: Answer) -> None:
    assert said(Constraint(inside="/srv/data"), path) is answer


def test_everything_clean_is_inside_the_root() -> None:
    assert said(Constraint(inside="/"), "/") is True
    assert said(Constraint(inside="/"), "/etc") is True
    assert said(Constraint(inside="/"), "/a/../b") is None


def test_an_argument_that_is_not_there_holds_nothing_unless_it_is_optional() -> None:
    for value in (MISSING, None):
        assert said(Constraint(equals="x"), value) is False
        assert said(Constraint(), value) is False
        assert said(Constraint(equals="x", optional=True), value) is True
    assert said(Constraint(), "anything") is True


def test_all_of_them_must_hold_and_one_no_is_a_no() -> None:
    rule = Constraints({"a": Constraint(max=1), "b": Constraint(equals="x")})
    assert rule.hold({"a": 1, "b": "x"}) is True
    assert rule.hold({"a": "1", "b": "x"}) is None
    assert rule.hold({"a": "1", "b": "y"}) is False
    assert rule.hold({"a": 1}) is False


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=2), each, max_size=3),
)
SCALARS = st.text(max_size=3) | st.integers(-5, 5) | st.booleans() | st.sampled_from([1.5, 2.0, "5", "true"])


@given(JSON, SCALARS)
def test_a_yes_is_never_said_of_another_value(value: object, wanted: str | float | bool) -> None:
    if said(Constraint(equals=wanted), value) is True:
        assert json.loads(json.dumps(value)) == wanted
        assert isinstance(value, bool) is isinstance(wanted, bool)


@given(JSON, st.integers(-10, 10), st.integers(-10, 10))
def test_bounds_agree_with_plain_comparison(value: object, low: int, high: int) -> None:
    answer = said(Constraint(min=low, max=high), value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert answer is (low <= value <= high)
    else:
        assert answer is (False if value is None else None)


def test_what_does_not_hold_is_named_for_people() -> None:
    table = {"path": Constraint(inside="/srv", max_length=9), "n": Constraint(min=1, max=3, optional=True)}
    asked: list[tuple[dict[str, object], str]] = [
        ({}, "path"),
        ({"path": "/srv/a"}, ""),
        ({"path": "/srv/a", "n": 4}, "n.max"),
        ({"path": "/srv/a", "n": "2"}, "n.min"),
        ({"path": "/etc"}, "path.inside"),
        ({"path": "/srv/aaaaaa"}, "path.max_length"),
    ]
    for arguments, key in asked:
        assert Constraints(table).failing(arguments) == key
        assert (Constraints(table).hold(arguments) is True) is (key == "")
