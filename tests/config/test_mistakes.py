"""How a mistake reads."""

import pytest

from mcpproxy.config.mistakes import ConfigErrors, Finding, Mistake, nearest, show_path, show_value
from mcpproxy.config.mistakes import Path as Place
from mcpproxy.errors import StartError


def test_a_mistake_says_line_path_message_and_choices() -> None:
    assert str(Mistake("route[0].path", 7, "is wrong", ("a", "b"))) == "line 7: route[0].path: is wrong (choices: a, b)"
    assert str(Mistake("", None, "not TOML")) == "not TOML"


def test_a_long_list_of_choices_is_not_printed() -> None:
    assert str(Mistake("x", None, "unknown", tuple(map(str, range(25))))) == "x: unknown"


def test_errors_come_in_the_order_of_the_file_and_know_how_to_end_a_start() -> None:
    errors = ConfigErrors([Mistake("c", None, "third"), Mistake("b", 9, "second"), Mistake("a", 2, "first")], "x.toml")
    assert [mistake.path for mistake in errors.mistakes] == ["a", "b", "c"]
    assert isinstance(errors, StartError)
    assert (errors.message, errors.hint) == ("x.toml: 3 mistakes", "line 2: a: first\nline 9: b: second\nc: third")
    assert ConfigErrors([Mistake("a", 1, "x")]).message == "the configuration: 1 mistake"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("route", 0, "idle_timeout"), "route[0].idle_timeout"),
        (("upstream", "a b", "urls", 1), 'upstream."a b".urls[1]'),
        (("a.b",), '"a.b"'),
        (("",), '""'),
    ],
)
def test_paths_are_shown_as_toml_writes_them(path: Place, text: str) -> None:
    assert text == show_path(path)


def test_a_file_cannot_steer_the_terminal() -> None:
    shown = str(Mistake("a", 1, 'health: "\x9b31m\x1b[2J\u202eevil" is ä'))
    assert shown == r'line 1: a: health: "\u009b31m\u001b[2J\u202eevil" is ä'


def test_values_are_shown_short() -> None:
    assert show_value("a") == '"a"'
    assert show_value(True) == "true"
    assert show_value({"a": 1}) == "a table"
    assert len(show_value("x" * 1000)) == 60
    assert show_value(1 << 100_000) == "this value"


def test_did_you_mean() -> None:
    assert nearest("idle_timout", ["idle_timeout", "path"]) == '; did you mean "idle_timeout"?'
    assert nearest("HTTPS", ["https"]) == '; did you mean "https"?'
    assert nearest("zzz", ["idle_timeout"]) == ""


def test_a_finding_gets_the_line_of_the_nearest_thing_around_it() -> None:
    lines: dict[Place, int] = {("route",): 1, ("route", 0): 2, ("route", 0, "path"): 3}
    assert Finding(("route", 0, "path"), "").located(lines).line == 3
    assert Finding(("route", 0, "upstream"), "").located(lines).line == 2
    assert Finding(("listen",), "").located(lines).line is None


def test_a_finding_about_what_is_already_wrong_is_recognised() -> None:
    wrong: set[Place] = {("listen", 0, "tls"), ("upstream",)}
    assert Finding(("listen", 0, "tls", "cert"), "").touches(wrong)
    assert Finding(("listen", 0), "").touches(wrong)
    assert Finding(("route", 0, "upstream"), "", given=("upstream",)).touches(wrong)
    assert not Finding(("listen", 1), "").touches(wrong)
    assert Finding(("a",), "", given=("b",)).touches({("b", 1)}), "an item of a list"
    assert not Finding(("a",), "", given=("b",)).touches({("b", "c")}), "another table of that name"
