"""How a file looks: it opens with its theory, and it is short."""

import ast
import re
import subprocess
from statistics import median

import pytest

from tests.house.tree import MODULES, ROOT, Module

MEDIAN_LINES = 180
LONG_LINES = 400  # above this the docstring says why
REASON = re.compile(r"\b(one file|long because|this long)\b", re.IGNORECASE)


def lines(module: Module) -> int:
    return module.text.count("\n")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_a_file_opens_with_its_theory(module: Module) -> None:
    assert module.theory, f"{module.name} has no docstring"
    assert module.theory.splitlines()[0].strip()[-1] in ".?!:;…)", f"{module.name}: the first line is a sentence"


def test_a_long_file_says_why() -> None:
    for module in MODULES:
        if lines(module) > LONG_LINES:
            assert REASON.search(module.theory), (
                f"{module.name} has {lines(module)} lines: split it, or say in its docstring why it is one file"
            )


def test_most_files_are_short() -> None:
    sizes = [lines(module) for module in MODULES if not module.name.endswith("__init__")]
    assert median(sizes) <= MEDIAN_LINES


def slotted(found: ast.ClassDef) -> bool:
    """Do its objects come without a dictionary? (Protocols, named tuples, enums and errors have nothing to slot, or are rare.)"""
    text = " ".join(ast.unparse(part) for part in (*found.bases, *found.decorator_list))
    if re.search(r"NamedTuple|Protocol|Enum|Error|Exception|Struct|slots=True", text):
        return True
    return any(isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__slots__" for line in found.body)


def test_hot_files_keep_cool() -> None:
    """No logging, and no object with a dictionary."""
    hot = [module for module in MODULES if module.theory.startswith("HOT")]
    assert hot
    for module in hot:
        assert "logging" not in set(module.imports())
        for found in module.tree.body:
            assert not isinstance(found, ast.ClassDef) or slotted(found), f"{module.name}: {found.name} has no __slots__"


def test_the_top_level_is_the_agreed_one() -> None:
    agreed = {
        *("pyproject.toml", "mcpproxy", "benchmarks", "tests", "certs", "README.md", "LICENSE", "CHANGELOG.md"),
        *("Makefile", "docs", "deploy", ".ci", ".gitignore"),
    }
    tracked = (ROOT / ".git").exists()
    if tracked:
        names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        assert {name.partition("/")[0] for name in names} <= agreed
    assert all((ROOT / name).exists() for name in agreed - {".gitignore"})


def test_no_pattern_uses_possessive_quantifiers() -> None:
    """Python before 3.11.5 (Debian 12 has 3.11.2) matches some of them wrongly, and only now and then (cpython issues 100061, 106052)."""
    possessive = re.compile(r"""re\.compile\(.*(?:\+\+|[\])]\*\+|[\])]\?\+|\}\+)""")
    for module in MODULES:
        for number, line in enumerate(module.path.read_text().splitlines(), 1):
            plain = line.replace("'*+", "").replace("()*+", "")
            assert possessive.search(plain) is None, f"{module.name}:{number}"
