"""Lines of values: every scalar in these texts is the number of the line its key (or the item itself) stands on."""

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcpproxy.config.mistakes import Path
from mcpproxy.config.places import places

TEXTS = {
    "tables": """\
top = 1
[a]
b = 3

c = 5
[a.d]
e.f = 7
"g h"."i.j" = 8
""",
    "lists of tables": """\
[[route]]
x = 2
[[route]]
x = 4
[route.tools]
y = 6
[[route.tools.allow]]
z = 8
[[route]]
[route.tools]
y = 11
""",
    "lists over lines": """\
a = [1, 1,
  2, # ] " '
  3,
]
b = [[5], [
 6,
 [7, 7],
], { c = 8, d = [8,
 9] } ]
e = 10
""",
    "texts that look like more": '''\
# [x]
s = ["""
[[y]]
z = 4
""", \'\'\'
' = "
\'\'\', "]", '}', """a\\"""b""""]
"quoted \\u0061 key" = 8
'single = "' = 9
n = { "}" = 10, ']' = { k = 10 } }
''',
    "odd values": """\
a = -1.5e3
b = 1979-05-27 07:32:00.5Z
c = inf
d = 0xff_ff
e = 5
""",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_values_are_found_on_their_lines(text: str) -> None:
    agree(text)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_tables_are_found_where_they_begin(text: str) -> None:
    found = places(text)
    for path, line in found.items():
        assert all(found[path[:length]] <= line for length in range(1, len(path)))


def agree(text: str) -> None:
    """Integers that are line numbers of this text are all found there."""
    found = places(text)
    numbers = [(path, value) for path, value in scalars(tomllib.loads(text)) if type(value) is int and value <= text.count("\n")]
    assert dict(numbers) == {path: found.get(path) for path, _ in numbers}
    assert numbers


def scalars(value: Any, path: Path = ()) -> list[tuple[Path, object]]:
    if isinstance(value, dict):
        return [pair for name, inner in value.items() for pair in scalars(inner, (*path, name))]
    if isinstance(value, list):
        return [pair for number, inner in enumerate(value) for pair in scalars(inner, (*path, number))]
    return [(path, value)]


KEYS = st.one_of(st.sampled_from(["a", "b", "long-key", "x_1"]), st.text(max_size=4))
ODD = st.sampled_from(['"#"', "'['", '"""\n[[no]]\n"""', "'''\n\"\n'''", "true", "1.5", "[]", "{}", "[ # ]\n]", '"\\""', "1979-05-27"])


@given(st.lists(st.tuples(KEYS, ODD, st.booleans(), st.integers(0, 2)), min_size=1, max_size=12))
def test_any_mix_of_values_is_followed(entries: list[tuple[str, str, bool, int]]) -> None:
    """[[t]] tables with odd values in them; after each stands `line`, whose value is its line."""
    lines: list[str] = []
    for key, odd, new, blank in entries:
        if new or not lines:
            lines += [""] * blank + ["[[t]]", "[t.inner]"]
        else:
            continue
        quoted = tomllib_key("k" + key)
        lines += f"{quoted} = {odd}".split("\n")
        lines.append(f"mixed = [ {odd.replace(chr(10), ' ') if odd.count(chr(10)) == 0 else 1}, {{ line = {len(lines) + 1} }} ]")
        lines.append(f"line = {len(lines) + 1}")
    text = "\n".join(lines) + "\n"
    found = places(text)
    for path, value in scalars(tomllib.loads(text)):
        if path[-1] == "line":
            assert value == found[path]


def tomllib_key(name: str) -> str:
    """A quoted key."""
    return (
        '"' + "".join(character if character.isalnum() and character.isascii() else f"\\U{ord(character):08x}" for character in name) + '"'
    )


@given(st.text(alphabet="ab=[]{}.,\"'#\n\\ 1\t", max_size=60))
@example('"\\1"')
def test_nothing_is_ever_raised(text: str) -> None:
    places(text)


@given(st.text(alphabet="ab=[]{}.,\"'#\n\\ 1", max_size=30))
def test_what_tomllib_takes_is_followed_to_its_end(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    found = places(text)
    assert all(path[:8] in found for path, _ in scalars(data))


def test_deep_texts_are_left_alone() -> None:
    assert places("a = " + "[" * 50_000) == {("a",): 1} or places("a = " + "[" * 50_000)[("a",)] == 1
    assert len(places(".".join(["a"] * 100_000) + " = 1")) == 8
