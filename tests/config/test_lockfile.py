"""A lock file says what was approved, to people and to us."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcpproxy.config import lockfile
from mcpproxy.config.lockfile import (
    Broken,
    broken,
    differences,
    digest,
    entry,
    is_plain,
    load,
    parse,
    pretty,
    render,
    taken,
    unwise,
    visible,
    write,
)
from mcpproxy.config.model import Config, Upstream

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
kinds = st.fixed_dictionaries({kind: st.dictionaries(st.text(min_size=1), plain, max_size=3) for kind in lockfile.KINDS})


def shuffled(value: Any) -> Any:
    """The same with every object's keys the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@given(plain, st.sampled_from([None, 1, 7]), st.booleans())
def test_the_order_of_keys_and_spaces_never_matter(value: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(shuffled(value), indent=indent, ensure_ascii=ascii)
    assert digest(entry(text.encode())) == digest(value)


@given(plain, plain)
def test_every_other_value_does(one: Any, other: Any) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert digest(one) != digest(other)


@given(st.dictionaries(st.text(), st.text(), min_size=1), st.data())
def test_a_text_that_is_changed_anywhere_does(tool: dict[str, str], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(tool)))
    changed = {**tool, key: tool[key] + data.draw(st.text(min_size=1))}
    assert digest(entry(json.dumps(tool).encode())) != digest(entry(json.dumps(changed).encode()))


@pytest.mark.parametrize("raw", [b'{"a":1,"a":2}', b'{"a":1e999}', b'{"a":"\\ud800"}', b'{"a":18446744073709551616}'])
def test_what_readers_understand_differently_is_told_apart(raw: bytes) -> None:
    found = entry(raw)
    assert not is_plain(found)
    assert digest(found) not in (digest({"a": 1}), digest({"a": 2}), digest(entry(raw.replace(b"a", b"b"))))
    assert parse(render({"u": {"tools": {"x": found}}}))["u"]["tools"]["x"] == found


def test_what_is_plain_is() -> None:
    assert is_plain(entry(b'{"name":"x","n":1.5}'))
    assert not is_plain(None)


@given(st.dictionaries(st.text(min_size=1), kinds, max_size=3))
def test_what_is_written_is_read(upstreams: dict[str, Any]) -> None:
    text = render(upstreams)
    assert parse(text) == upstreams
    assert text == render(shuffled(upstreams)), "it is sorted"
    assert visible(text) == text, "nothing in it is invisible"


def test_what_nobody_sees_is_seen() -> None:
    assert pretty({"a": "x\u200by\u202ez\U000e0041\ufe0f é 漢\n"}) == '{\n  "a": "x\\u200by\\u202ez\\udb40\\udc41\\ufe0f é 漢\\n"\n}'
    assert visible("\x7f\x1b") == "\\u007f\\u001b"
    assert lockfile.shown("a\nb") == "a\\nb"


TOOL = {"hash": digest({"name": "x"}), "is": {"name": "x"}}


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ("[", "is not JSON"),
        ("[]", "is no lock file of version 1"),
        ({"version": 2, "upstreams": {}}, "is no lock file of version 1"),
        ({"version": 1, "upstreams": {"u": {"tool": {}}}}, "u: there are tools, prompts, resourceTemplates"),
        ({"version": 1, "upstreams": {"u": {"tools": []}}}, "u: tools: is no table"),
        ({"version": 1, "upstreams": {"u": {"tools": {"x": {"hash": ""}}}}}, "u: tools: x: an entry has"),
        ({"version": 1, "upstreams": {"u": {"tools": {"x": {**TOOL, "is": {"name": "y"}}}}}}, "the hash is not that of the entry"),
    ],
)
def test_what_cannot_be_used(whole: Any, said: str) -> None:
    with pytest.raises(Broken, match=said):
        parse(whole if isinstance(whole, str) else json.dumps(whole))
    assert parse(json.dumps({"version": 1, "upstreams": {"u": {"tools": {"x": TOOL}}}}))["u"]["tools"] == {"x": {"name": "x"}}


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockfile, "LARGEST", 10)
    with pytest.raises(Broken, match="larger"):
        parse(" " * 11)


def test_differences_and_what_is_taken() -> None:
    old = {"tools": {"a": 1, "b": 1, "c": 1}}
    new = {"tools": {"a": 1, "b": 2, "d": 1}, "prompts": {"p": 1}}
    assert differences(old, new) == [("changed", "tools", "b"), ("gone", "tools", "c"), ("new", "tools", "d"), ("new", "prompts", "p")]
    assert taken(old, new, [("tools", "b"), ("tools", "c")]) == {"tools": {"a": 1, "b": 2}, "prompts": {}, "resourceTemplates": {}}
    assert not differences(taken(old, new, [each[1:] for each in differences(old, new)]), new)


def test_it_is_written_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file, link = tmp_path / "real.lock", tmp_path / "mcp.lock"
    link.symlink_to(file)
    write(str(link), {"u": {"tools": {"x": {"name": "x"}}}})
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    file.chmod(0o640)
    write(str(link), {"u": {}})
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert load(str(link)) == {"u": {kind: {} for kind in lockfile.KINDS}}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mcp.lock", "real.lock"]


def test_one_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: str) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        write(str(tmp_path / "mcp.lock"), {})
    assert not list(tmp_path.iterdir())


def test_one_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff")
    with pytest.raises(Broken, match="UTF-8"):
        load(str(tmp_path / "x"))


def test_what_check_says_of_it(tmp_path: Path) -> None:
    file = tmp_path / "mcp.lock"
    config = Config(listen=(), upstream={"u": Upstream(command=("x",), lock=str(file), drift="hide"), "v": Upstream(command=("x",))})

    def said() -> tuple[list[str], list[str]]:
        return [each.message for each in broken(config)], [each.message for each in unwise(config)]

    nothing = f"{file}: has nothing of u yet, so nothing of it is callable: mcpproxy lock u"
    assert said() == ([], [nothing])
    write(str(file), {})
    assert said() == ([], [nothing])
    write(str(file), {"u": {}})
    assert said() == ([], [])
    file.write_text("[]")
    assert said() == ([f"{file}: is no lock file of version 1; `mcpproxy lock` writes one"], [])
    file.unlink()
    file.mkdir()
    assert said() == ([f"{file}: Is a directory"], [])
