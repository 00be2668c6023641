"""docs/config.md says what the model is."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mcpproxy.config import reference
from mcpproxy.config.kinds import Words
from mcpproxy.config.load import keys_of, read
from mcpproxy.config.model import TABLES, Config

DOCS = Path(__file__).parents[2] / "docs" / "config.md"
ADVICE = "write it again: python -m mcpproxy.config.reference docs/config.md"


def test_the_page_is_what_the_model_says() -> None:
    assert DOCS.read_text() == reference.reference(), ADVICE


def test_the_examples_load_and_are_wise() -> None:
    assert read(reference.SMALLEST).warnings == ()
    assert [warning.path for warning in read(reference.EXAMPLE).warnings] == []


def test_the_example_uses_every_key() -> None:
    used: dict[type, set[str]] = {table: set() for table in TABLES}
    collect(read(reference.EXAMPLE).config, tomllib.loads(reference.EXAMPLE), used)
    assert used == {table: set(table.__struct_fields__) for table in TABLES}  # type: ignore[attr-defined]


def collect(loaded: Any, data: Any, used: dict[type, set[str]]) -> None:
    """Which keys of which table does this data set?"""
    if isinstance(loaded, msgspec.Struct):
        used[type(loaded)] |= set(data)
        for name in data:
            collect(getattr(loaded, name), data[name], used)
    elif isinstance(loaded, dict):
        for name in loaded:
            collect(loaded[name], data[name], used)
    elif isinstance(loaded, tuple) and isinstance(data, list):
        for item, given in zip(loaded, data, strict=True):
            collect(item, given, used)


def test_lines_marked_as_default_are_the_default() -> None:
    """`key = value   # default` in the example."""
    marked = [line for line in reference.EXAMPLE.splitlines() if "# default" in line]
    assert len(marked) > 10
    for line in marked:
        ((name, value),) = tomllib.loads(line).items()
        fields = [
            (keys_of(table)[name].kind, field.default) for table in TABLES for field in msgspec.structs.fields(table) if field.name == name
        ]
        assert any(is_default(kind, value, default) for kind, default in fields), line


def is_default(kind: Any, value: Any, default: object) -> bool:
    try:
        read = tuple(kind.item.read(each, "") for each in value) if isinstance(kind, Words) else kind.read(value, "")
    except (ValueError, NotImplementedError):
        return False
    return bool(read == default)


def test_every_table_and_key_has_its_row() -> None:
    page = reference.reference()
    for table, title in TABLES.items():
        assert table is Config or f"## `{title}`" in page
        for name in keys_of(table):
            assert f"\n| `{name}` | " in page


def test_the_command_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reference", str(tmp_path / "config.md")])
    reference.main()
    assert (tmp_path / "config.md").read_text() == reference.reference()
    monkeypatch.setattr(sys, "argv", ["reference"])
    reference.main()
    assert capsys.readouterr().out == reference.reference()
