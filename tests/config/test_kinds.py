"""Each kind of value: what it takes, what it says when it refuses."""

from typing import Any

import pytest

from mcpproxy.config import kinds, names
from mcpproxy.config.mistakes import Wrong
from mcpproxy.units import Rate

WORDS = kinds.Choice("word", ("stdout", "stderr"))
LOG = kinds.File("file", ("stdout", "off"))


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (kinds.Duration(), "1.5s", 1.5),
        (kinds.Duration(zero=True), "0s", 0.0),
        (kinds.Duration(), "366d", 366 * 86400.0),
        (kinds.Size(), "10MiB", 10 << 20),
        (kinds.Size(least=0), "0B", 0),
        (kinds.Count(), 1, 1),
        (kinds.Count(least=0), 0, 0),
        (kinds.Processes(), 2, 2),
        (kinds.Processes(), "auto", kinds.AUTO),
        (kinds.Flag(), False, False),
        (WORDS, "stderr", "stderr"),
        (kinds.Text("path", names.path), "/mcp", "/mcp"),
        (kinds.File(), "a.pem", "/etc/m/a.pem"),
        (kinds.File(), "/a.pem", "/a.pem"),
        (kinds.Secret(), "env:TOKENS_SECRET", "env:TOKENS_SECRET"),
        (kinds.Secret(), "file:a.secret", "file:/etc/m/a.secret"),
        (kinds.Secret(), "file:/run/a.secret", "file:/run/a.secret"),
        (kinds.Frequency(), "30/m", Rate(30, 60.0)),
        (kinds.Frequency(), "5/s burst 20", Rate(5, 1.0, 20)),
        (kinds.Number(), -1.5, -1.5),
        (kinds.Number(), 0, 0),
        (kinds.Number(), (1 << 63) - 1, (1 << 63) - 1),
        (kinds.Scalar(), "", ""),
        (kinds.Scalar(), True, True),
        (kinds.Scalar(), 1, 1),
        (kinds.Scalar(), 1.0, 1.0),
        (LOG, "off", "off"),
        (LOG, "access.log", "/etc/m/access.log"),
        (LOG, "./log", "/etc/m/./log"),
    ],
)
def test_taken(kind: kinds.Kind, value: object, read: object) -> None:
    found = kind.read(value, "/etc/m")
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (kinds.Duration(), "0s", '"0s": must be longer than zero'),
        (kinds.Duration(), 30, '30: a duration needs a unit: "30s"'),
        (kinds.Duration(), "367d", "longer than a year"),
        (kinds.Duration(), "-1s", "a duration is a number"),
        (kinds.Duration(), True, "true: a duration is"),
        (kinds.Duration(), {"a": 1}, "a table: a duration is"),
        (kinds.Size(), "0B", "at least 1B"),
        (kinds.Size(least=1024), "1023B", "at least 1KiB"),
        (kinds.Size(), "2000000GiB", "is the unit right"),
        (kinds.Size(), 1024, '"1024B"'),
        (kinds.Count(), 0, "0: must be at least 1"),
        (kinds.Count(), -1, "at least 1"),
        (kinds.Count(), 1 << 40, "at most"),
        (kinds.Count(), "32", "without quotes: 32"),
        (kinds.Count(), 1.0, "whole number"),
        (kinds.Count(), True, "whole number"),
        (kinds.Processes(), 0, "at least 1"),
        (kinds.Processes(), 65, "at most 64"),
        (kinds.Processes(), "Auto", 'must be a whole number, or "auto"'),
        (kinds.Flag(), "true", "without quotes"),
        (kinds.Flag(), 1, "true or false"),
        (WORDS, "stdour", 'did you mean "stdout"'),
        (WORDS, 1, "not a valid choice"),
        (WORDS, ["stdout"], "not a valid choice"),
        (kinds.Text("path", names.path), "mcp", '"mcp": a path starts'),
        (kinds.Text("path", names.path), 1, "a text in quotes"),
        (kinds.File(), "", "name of a file"),
        (kinds.File(), "a\0b", "name of a file"),
        (kinds.File(), "~/a.pem", "give the whole path"),
        (LOG, "~/access.log", "give the whole path"),
        (kinds.File(), 1, "name of a file"),
        (kinds.Frequency(), "30", '"30": a rate is'),
        (kinds.Frequency(), "30/m burst", "a rate is"),
        (kinds.Frequency(), "0/m", "a rate is"),
        (kinds.Frequency(), "30/y", "a rate is"),
        (kinds.Frequency(), 30, "30: a rate is"),
        (kinds.Number(), "1", '"1": must be a number'),
        (kinds.Number(), True, "must be a number"),
        (kinds.Number(), float("inf"), "must be a number"),
        (kinds.Number(), float("nan"), "must be a number"),
        (kinds.Number(), 1 << 63, "must be a number"),
        (kinds.Scalar(), [1], "must be a text, a number, true or false"),
        (kinds.Scalar(), {"a": 1}, "a table: must be"),
        (kinds.Scalar(), float("nan"), "must be a text"),
        (kinds.Scalar(), -(1 << 63) - 1, "must be a text"),
        (LOG, "sdtout", 'did you mean "stdout"'),
        (LOG, "stdot", 'or the name of a file, like "./stdot"; did you mean "stdout"?'),
        (LOG, "std.out", 'did you mean "stdout"?'),
        (LOG, "journal", 'or the name of a file, like "./journal"'),
    ],
)
def test_refused(kind: kinds.Kind, value: object, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        kind.read(value, "/etc/m")
    assert said in caught.value.message


def test_numbers_too_long_to_print_are_refused_too() -> None:
    for kind in (
        kinds.Count(),
        kinds.Duration(),
        kinds.Size(),
        kinds.Flag(),
        kinds.Number(),
        kinds.Scalar(),
        kinds.Frequency(),
        kinds.Secret(),
        WORDS,
        LOG,
    ):
        with pytest.raises(Wrong):
            kind.read(1 << 100_000, "")


def test_choices_are_listed_as_they_are_written() -> None:
    with pytest.raises(Wrong) as caught:
        WORDS.read("x", "")
    assert caught.value.choices == ('"stdout"', '"stderr"')


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(Wrong) as caught:
        kinds.Text("URL", names.url).read("http://me:secret@127.0.0.1", "")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        "",
        "env:",
        "env:hunter 2",
        "env:2hunter",
        "file:",
        "file:~/hunter2",
        "file:hunter2\0",
        "ENV:hunter2",
        5,
        True,
        ["hunter2"],
    ],
)
def test_what_stands_for_a_secret_is_never_repeated(value: object) -> None:
    with pytest.raises(Wrong) as caught:
        kinds.Secret().read(value, "/etc/m")
    assert caught.value.choices == ('"env:NAME"', '"file:path"')
    assert "hunter" not in caught.value.message
    assert "not shown" in caught.value.message


def test_without_a_directory_relative_names_stay() -> None:
    assert kinds.File().read("a.pem", "") == "a.pem"


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (kinds.Duration(), 86400.0, '"24h"'),
        (kinds.Duration(), None, "not set"),
        (kinds.Size(), 10 << 20, '"10MiB"'),
        (kinds.Count(), 32, "32"),
        (kinds.Flag(), True, "true"),
        (WORDS, "stdout", '"stdout"'),
        (kinds.Frequency(), Rate(30, 60.0, 10), '"30/m burst 10"'),
        (kinds.Frequency(), None, "not set"),
        (kinds.Secret(), None, "not set"),
        (kinds.File(), None, "not set"),
        (kinds.Words("list", WORDS), (), "not set"),
        (kinds.Words("list", WORDS), ("a", "b"), '["a", "b"]'),
    ],
)
def test_values_are_shown_as_toml(kind: kinds.Kind, value: Any, text: str) -> None:
    assert text == kind.show(value)
