"""Durations and sizes: what is taken, what is refused and with which advice, and that writing and reading agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpproxy import units
from mcpproxy.units import many


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1.5s", 1.5),
        ("90s", 90),
        ("1m30s", 90),
        ("24h", 86400),
        ("7d", 604800),
        ("1d2h3m4s5ms", 93784.005),
        ("0s", 0),
        ("0.001s", 0.001),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds == units.duration(text)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0B", 0), ("512B", 512), ("1KiB", 1024), ("10MiB", 10 << 20), ("1.5KiB", 1536), ("2GiB", 2 << 30), ("9007199254740993B", 2**53 + 1)],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert count == units.size(text)


REFUSED = [
    "",
    " ",
    "s",
    "MiB",
    "1 s",
    "1 KiB",
    "-1s",
    "-1B",
    "+1s",
    "1e3s",
    "1_0s",
    "1,5s",
    ".5s",
    "5.s",
    "1s1m",
    "1s1s",
    "1x",
    "٣s",
    "inf",
    "nan",
    "1s\n",
]


@pytest.mark.parametrize("value", [*REFUSED, "9" * 100 + "s", True, None, [], {}, -5, float("nan"), float("inf")])
def test_anything_else_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="a duration is a number with a unit"):
        units.duration(value)


@pytest.mark.parametrize("value", [*REFUSED, "9" * 100 + "B", True, None, [], {}, -5, float("nan"), float("inf")])
def test_anything_else_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="size"):
        units.size(value)


@pytest.mark.parametrize(("value", "advice"), [(30, '"30s"'), (1.5, '"1.5s"'), ("30", '"30s"'), (1234567, '"1234567s"')])
def test_a_bare_number_is_refused_with_the_text_to_write(value: object, advice: str) -> None:
    with pytest.raises(ValueError, match=f"needs a unit: {advice}"):
        units.duration(value)


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (1024, '"1024B"'),
        ("1024", '"1024B"'),
        ("10MB", '"10MiB"'),
        ("10m", '"10MiB"'),
        ("4k", '"4KiB"'),
        ("1 gb", '"1GiB"'),
        ("8kib", '"8KiB"'),
    ],
)
def test_other_spellings_of_sizes_are_refused_with_the_text_to_write(value: object, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        units.size(value)


def test_half_a_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        units.size("0.3KiB")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (86400, "24h"),
        (172800, "2d"),
        (75, "75s"),
        (60, "60s"),
        (120, "2m"),
        (3600, "1h"),
        (90000, "25h"),
        (1.5, "1.5s"),
        (0.5, "500ms"),
        (0, "0s"),
    ],
)
def test_durations_are_shown_as_people_write_them(seconds: float, text: str) -> None:
    assert text == units.show_duration(seconds)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_shown_duration_reads_as_itself(milliseconds: int) -> None:
    assert milliseconds / 1000 == units.duration(units.show_duration(milliseconds / 1000))


@given(st.integers(min_value=0, max_value=1 << 80))
def test_a_shown_size_reads_as_itself(count: int) -> None:
    assert count == units.size(units.show_size(count))


@given(st.one_of(st.text(), st.integers(), st.floats(), st.from_regex(r"[0-9.]{1,12}(ms|s|m|h|d|B|KiB|MB|k)*")))
def test_nothing_but_a_value_error_is_ever_raised(value: object) -> None:
    for read in (units.duration, units.size):
        try:
            assert read(value) >= 0
        except ValueError:
            pass


@pytest.mark.parametrize(("count", "said"), [(0, "0 lines"), (1, "1 line"), (2, "2 lines")])
def test_one_is_one(count: int, said: str) -> None:
    assert many(count, "line") == said
