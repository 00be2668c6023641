"""Every module has its test file, in the same place, with the same name."""

import pytest

from tests.house.tree import MODULES, ROOT, Module

# module: the file that tests it, and so a reason why there is no mirror. Keep it short.
TESTED_ELSEWHERE: dict[str, str] = {}


def mirrored() -> list[Module]:
    """All modules that hold something: not the empty rooms' __init__, not __main__."""
    return [module for module in MODULES if not module.name.endswith("__init__") and module.name != "__main__"]


@pytest.mark.parametrize("module", mirrored(), ids=lambda module: module.name)
def test_every_module_has_its_test_file(module: Module) -> None:
    folder, _, name = module.name.rpartition("/")
    mirror = ROOT / "tests" / folder / f"test_{name}.py"
    place = ROOT / TESTED_ELSEWHERE[module.name] if module.name in TESTED_ELSEWHERE else mirror
    assert place.is_file(), f"{module.name} has no {place.relative_to(ROOT)}"
    assert "def test_" in place.read_text(), f"{place.relative_to(ROOT)} tests nothing"


def test_the_list_of_exceptions_is_true() -> None:
    assert set(TESTED_ELSEWHERE) <= {module.name for module in MODULES}


def test_initials_hold_nothing() -> None:
    """A room's __init__ says what the room is; code lives in files with names."""
    for module in MODULES:
        if module.name.endswith("/__init__"):
            assert len(module.tree.body) == 1, f"{module.name} holds more than its docstring"
