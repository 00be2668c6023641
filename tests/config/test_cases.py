"""A file of cases is read like the configuration: every mistake at once, with its line."""

from pathlib import Path

import pytest

from mcpproxy.config.cases import Cases
from mcpproxy.config.load import read_tables
from mcpproxy.config.mistakes import ConfigErrors


def read(directory: Path, text: str) -> Cases:
    file = directory / "cases.toml"
    file.write_text(text)
    found, _ = read_tables(Cases, file)
    assert isinstance(found, Cases)
    return found


def mistakes(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(directory, text)
    return list(map(str, caught.value.mistakes))


def test_a_case_says_who_calls_what_and_what_shall_become_of_it(tmp_path: Path) -> None:
    (case,) = read(tmp_path, '[[case]]\nwho = "a"\nroles = "r"\ntool = "t"\nargs = { p = [1, "x"] }\nroute = 0\nexpect = "deny"\n').case
    assert (case.who, case.roles, case.tool, case.args, case.route, case.expect) == ("a", ("r",), "t", '{"p": [1, "x"]}', "0", "deny")
    assert (case.method, case.name, case.rule, case.scopes, case.read_only) == ("tools/call", None, None, (), False)


def test_every_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    text = '[[case]]\nexpect = "allow"\nargs = { at = 2026-01-01 }\n[[case]]\ntol = "x"\nargs = 5\nroute = true\n'
    assert [each.partition(": ")[0] + each.partition(":")[2][:18] for each in mistakes(tmp_path, text)] == [
        "line 3 case[0].args: has",
        "line 4 case[1].expect: i",
        "line 5 case[1].tol: ther",
        "line 6 case[1].args: 5: ",
        "line 7 case[1].route: tr",
    ]


@pytest.mark.parametrize("text", ["", "case = 5", "[[case]\n", "x = 1\n"])
def test_a_file_without_cases_is_a_mistake(text: str, tmp_path: Path) -> None:
    assert mistakes(tmp_path, text)
