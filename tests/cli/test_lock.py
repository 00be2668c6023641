"""mcpproxy lock: what it says without a daemon, and how it shows what is different. tests/real/test_lock.py has it with one."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli import lock
from mcpproxy.cli.adminclient import AdminClient, Unsaid
from mcpproxy.cli.main import status_of
from mcpproxy.config import lockfile

CONFIG = """
[[listen]]
address = "127.0.0.1:18080"
[upstream.a]
command = ["a"]
lock = "mcp.lock"
[upstream.b]
command = ["b"]
lock = "mcp.lock"
[upstream.c]
command = ["c"]
[[route]]
upstream = "a"
"""
LONG = "One. " * 60
Catalogues = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "mcpproxy.toml"
    found.write_text(CONFIG)
    return found


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Catalogues:
    """What the daemon says its servers have."""
    found: Catalogues = {
        name: {"tools": {"x": {"name": "x", "description": LONG}}, "prompts": {}, "resourceTemplates": {}} for name in "ab"
    }

    def get(self: AdminClient, path: str, **query: str) -> Any:
        if query["upstream"] not in found:
            raise Unsaid("it is away", 409)
        return json.loads(json.dumps(found[query["upstream"]]))

    monkeypatch.setattr(AdminClient, "get", get)
    return found


def run(file: Path, *words: str) -> int:
    return status_of(["lock", *words, "-c", str(file)])


def locked(file: Path) -> Any:
    return lockfile.load(str(file.parent / "mcp.lock"))


def test_first_everything_is_locked_then_what_is_different_is_shown(
    file: Path, there: Catalogues, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file, "a") == 0
    assert capsys.readouterr().out.startswith("a: locked 1 tool, 0 prompts, 0 resource templates\n")
    assert list(locked(file)) == ["a"]
    assert run(file) == 0
    assert capsys.readouterr().out.startswith("a: as locked\nb: locked 1 tool")
    there["a"]["tools"] = {"x": {"name": "x", "description": LONG.replace("One", "Two", 1)}, "y": {"name": "y\u202e"}}
    there["b"]["tools"] = {}
    before = (file.parent / "mcp.lock").read_text()
    assert run(file) == 1
    out, err = capsys.readouterr()
    assert "~ a: tool x: changed\n" in out
    changed = [line.strip() for line in out.splitlines() if line.strip().startswith(("-  ", "+  "))]
    assert changed[0].startswith('-  "description": "One. One.')
    assert changed[1].startswith('+  "description": "Two. One.')
    assert "+ a: tool y: new\n" in out
    assert 'y\\u202e"' in out
    assert "- b: tool x: gone\n" in out
    assert err.startswith("3 different")
    assert (file.parent / "mcp.lock").read_text() == before
    assert run(file, "check", "b") == 1


def test_what_is_approved_is_locked(file: Path, there: Catalogues, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file) == 0
    there["a"]["tools"] = {"x": {"name": "x"}, "y": {"name": "y"}}
    there["b"]["tools"] = {}
    assert run(file, "approve", "a/y") == 0
    assert set(locked(file)["a"]["tools"]) == {"x", "y"}
    assert locked(file)["a"]["tools"]["x"]["description"] == LONG
    assert run(file, "approve", "a") == 0
    assert locked(file)["a"]["tools"]["x"] == {"name": "x"}
    assert locked(file)["b"]["tools"]
    assert run(file, "approve") == 0
    assert not locked(file)["b"]["tools"]
    assert "a: nothing is different" in capsys.readouterr().out
    assert run(file, "check") == 0


def test_what_was_never_locked_is_different(file: Path, there: Catalogues) -> None:
    assert run(file, "check") == 1
    assert not (file.parent / "mcp.lock").exists()
    assert run(file, "approve", "a/x") == 0
    assert set(locked(file)) == {"a"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("c",), "upstream 'c' has no lock file"),
        (("approve", "a/nothing"), "a: nothing is different about nothing"),
    ],
)
def test_names_that_mean_nothing(
    file: Path, there: Catalogues, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(file) == 0
    assert run(file, *words) == 1
    assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_used(file: Path, there: Catalogues, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "mcp.lock").write_text("{")
    assert run(file) == 1
    assert "is not JSON" in capsys.readouterr().err
    (file.parent / "mcp.lock").unlink()
    (file.parent / "mcp.lock").mkdir()
    assert run(file) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_one_that_cannot_be_written(
    file: Path, there: Catalogues, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(name: str, upstreams: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lockfile, "write", full)
    assert run(file) == 1
    assert "No space left" in capsys.readouterr().err


def test_a_server_that_cannot_be_asked(file: Path, there: Catalogues, capsys: pytest.CaptureFixture[str]) -> None:
    del there["b"]
    assert run(file, "b") == 1
    assert "it is away" in capsys.readouterr().err
    assert not (file.parent / "mcp.lock").exists()


def test_a_configuration_without_any(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(CONFIG.replace('lock = "mcp.lock"', ""))
    assert run(file) == 1
    assert "no upstream has a lock file" in capsys.readouterr().err


def test_lines_of_long_texts() -> None:
    assert lock._lines(None) == []
    assert max(map(len, lock._lines({"a": "word " * 100}))) <= lock.WIDTH + 10
    assert len(lock._lines({"a": "one\ntwo"})) == 4
