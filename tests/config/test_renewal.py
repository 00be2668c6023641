"""Secrets in files that are replaced: read again once they rest, and never replaced by nothing."""

from pathlib import Path

import pytest

from mcpproxy.config.renewal import Secrets
from tests.config.test_secrets import SECRET, reference


def test_a_file_that_changed_is_read_again_once_it_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    held, file, other = Secrets(), reference(tmp_path, b"old"), f"file:{tmp_path / 'b.secret'}"
    (tmp_path / "b.secret").write_bytes(b"same")
    assert (held(file), held(other), held("env:A_SECRET")) == ("old", "same", SECRET)
    monkeypatch.setenv("A_SECRET", "another")
    assert not held.changed()
    reference(tmp_path, b"new, and longer")
    assert (held.changed(), held(file)) == (False, "old"), "somebody may still be writing"
    assert held.changed()
    assert held.reload() == ([file], [])
    assert (held(file), held(other), held("env:A_SECRET")) == ("new, and longer", "same", SECRET)
    assert not held.changed()


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As secrets of containers are replaced."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_bytes(name.encode())
    (tmp_path / "now").symlink_to("one")
    held, file = Secrets(), f"file:{tmp_path}/now/token"
    assert held(file) == "one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "now")
    assert (held.changed(), held.changed()) == (False, True)
    assert (held.reload(), held(file)) == (([file], []), "two")


@pytest.mark.parametrize("content", [b"", b"two\nlines", None])
def test_a_file_that_cannot_be_used_any_more_changes_nothing(content: bytes | None, tmp_path: Path) -> None:
    held, file = Secrets(), reference(tmp_path, b"old secret")
    assert held(file) == "old secret"
    if content is None:
        (tmp_path / "a.secret").unlink()
    else:
        reference(tmp_path, content)
    assert (held.changed(), held.changed()) == (False, True)
    renewed, [said] = held.reload()
    assert (renewed, held(file), held.changed()) == ([], "old secret", False), "said once"
    assert said.startswith(file)
    assert "old" not in said
    reference(tmp_path, b"new")
    assert (held.changed(), held.changed()) == (False, True)
    assert (held.reload(), held(file)) == (([file], []), "new")
