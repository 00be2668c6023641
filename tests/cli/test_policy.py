"""mcpproxy policy test: a line for each case, and a status for CI."""

from pathlib import Path

import pytest

from mcpproxy.cli.main import status_of
from tests.cli.test_explain import RULES
from tests.cli.test_options import written

FINE = """
[[case]]
who = "agent-alpha"
tool = "search_docs"
expect = "allow"
rule = "route[0].tools.allow[0]"
[[case]]
name = "nobody deletes # anything"
who = "root"
roles = ["ops"]
tool = "delete_all"
args = { path = "/srv/a" }
expect = "deny"
[[case]]
route = "https://open.example.com/"
tool = "anything"
expect = "allow"
"""


def told_by(directory: Path, capsys: pytest.CaptureFixture[str], cases: str) -> tuple[int, list[str], list[str]]:
    file = directory / "cases.toml"
    file.write_text(cases)
    status = status_of(["policy", "test", str(file), "-c", str(written(directory, RULES))])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def test_all_as_expected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told_by(tmp_path, capsys, FINE) == (
        0,
        [
            "TAP version 13",
            "1..3",
            "ok 1 - agent-alpha: tools/call search_docs",
            "ok 2 - nobody deletes   anything",
            "ok 3 - nobody: tools/call anything",
        ],
        [],
    )


def test_what_is_not_as_expected_is_told_with_its_line_and_the_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = FINE.replace('expect = "deny"', 'expect = "allow"').replace('allow[0]"', 'allow[1]"')
    status, out, err = told_by(tmp_path, capsys, wrong)
    assert (status, err) == (1, [])
    assert out[2:] == [
        "not ok 1 - agent-alpha: tools/call search_docs",
        "  # line 2: expected allow by route[0].tools.allow[1]",
        "  # got allow by route[0].tools.allow[0] (line 11)",
        "not ok 2 - nobody deletes   anything",
        "  # line 7: expected allow",
        "  # got deny by route[0].tools.deny[0] (line 10): A rule of this route denies this call. [call-denied]",
        "ok 3 - nobody: tools/call anything",
        "# 2 of 3 not as expected",
    ]


def test_mistakes_are_named_before_anything_is_told_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = told_by(
        tmp_path, capsys, FINE + '[[case]]\nroute = "/other"\nexpect = "deny"\n[[case]]\nroles = "x"\nroute = 0\nexpect = "deny"\n'
    )
    assert (status, out) == (1, [])
    assert err == [
        f"mcpproxy: {tmp_path / 'cases.toml'}: 2 mistakes",
        "  line 19: case[3].route: no route serves /other: a path alone (/mcp) stands for any host",
        "  line 21: case[4]: roles and scopes belong to a caller: give `who` too",
    ]
    status, out, err = told_by(tmp_path, capsys, '[[case]]\nexpect = "maybe"\n')
    assert (status, out, err[1]) == (1, [], '  line 2: case[0].expect: "maybe": not a valid choice (choices: "allow", "deny")')


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = written(tmp_path, RULES)
    assert status_of(["policy", "test", str(tmp_path / "none.toml"), "-c", str(config)]) == 1
    assert "No such file" in capsys.readouterr().err
