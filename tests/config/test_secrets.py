"""Secrets are read from where the configuration says, and shown nowhere."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.config import kinds, secrets
from mcpproxy.config.load import keys_of, read
from mcpproxy.config.model import TABLES, Config
from mcpproxy.config.reference import EXAMPLE
from mcpproxy.errors import StartError
from tests.config.samples import with_upstream

SECRET = "hunter2-hunter2"


def reference(directory: Path, content: bytes) -> str:
    file = directory / "a.secret"
    file.write_bytes(content)
    return f"file:{file}"


def refused(reference: str) -> str:
    with pytest.raises(StartError) as caught:
        secrets.secret(reference)
    assert caught.value.message.startswith(reference)
    assert SECRET not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_file_holds_one_line(end: bytes, tmp_path: Path) -> None:
    assert secrets.secret(reference(tmp_path, b"Bearer a b~!" + end)) == "Bearer a b~!"


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    """As Kubernetes lays them."""
    reference(tmp_path, b"x\n")
    (tmp_path / "link").symlink_to("a.secret")
    assert secrets.secret(f"file:{tmp_path}/link") == "x"


@pytest.mark.parametrize(
    "content",
    [
        *(
            f"{SECRET}\n\n",
            f"{SECRET}\nx",
            f"\n{SECRET}",
            f" {SECRET}",
            f"{SECRET} \n",
            f"{SECRET}\t",
            f"\ufeff{SECRET}",
            f"{SECRET}\0",
            f"{SECRET}é",
        ),
        *(f"{SECRET}\x1b[2J", "\n", "\r\n", " "),
    ],
)
def test_a_secret_that_would_break_a_head_or_was_saved_badly_is_refused(content: str, tmp_path: Path) -> None:
    assert "one line of printable ASCII" in refused(reference(tmp_path, content.encode()))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    assert "one line of printable ASCII" in refused(reference(tmp_path, SECRET.encode() + b"\xff\xfe"))


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "empty, or larger than 64 KiB" in refused(reference(tmp_path, b""))
    assert "empty, or larger than 64 KiB" in refused(reference(tmp_path, b"a" * (secrets.LARGEST + 1)))
    assert "No such file" in refused(f"file:{tmp_path}/none")
    assert "s a directory" in refused(f"file:{tmp_path}") or "is no file" in refused(f"file:{tmp_path}")
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refused(f"file:{tmp_path}/pipe")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    assert secrets.secret("env:A_SECRET") == SECRET
    for value in ("", f"{SECRET}\n", f" {SECRET}"):
        monkeypatch.setenv("A_SECRET", value)
        refused("env:A_SECRET")
    monkeypatch.delenv("A_SECRET")
    assert "no such variable" in refused("env:A_SECRET")


def named_secrets(value: object) -> Iterator[str]:
    """Every value of a key of this kind, wherever it stands."""
    if isinstance(value, msgspec.Struct):
        for name, key in keys_of(type(value)).items():
            inner = getattr(value, name)
            if isinstance(key.kind, kinds.Secret) and inner is not None:
                yield inner
            if isinstance(key.kind, kinds.Pairs) and isinstance(key.kind.item, kinds.Secret):
                yield from (each for each in inner.values() if each.startswith(("env:", "file:")))
            yield from named_secrets(inner)
    elif isinstance(value, dict | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from named_secrets(inner)


def test_no_secret_of_the_model_is_forgotten() -> None:
    """The example uses every key, so it names every secret there can be."""
    config = read(EXAMPLE).config
    every = {(table, name) for table in TABLES for name, key in keys_of(table).items() if isinstance(key.kind, kinds.Secret)}
    found = list(secrets.references(config))
    assert sorted(named_secrets(config)) == sorted(reference for _, reference in found)
    assert {name for _, name in every} == {place[-1] for place, _ in found if "env" not in place}
    for place, reference in found:
        at: object = config
        for part in place:
            at = at[part] if isinstance(at, dict) else getattr(at, str(part))
        assert at == reference


def checked(directory: Path, key: str) -> Path:
    file = directory / "mcpproxy.toml"
    credential = f'credential = {{ type = "sigv4", region = "r", service = "s", access_key = "{key}", secret_key = "file:b.secret" }}'
    file.write_text(f'state_dir = "{directory}"\n' + with_upstream(credential))
    return file


def test_check_names_what_cannot_be_read_and_shows_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", SECRET)
    file, other = checked(tmp_path, "env:A_SECRET"), tmp_path / "b.secret"
    assert status_of(["check", "-c", str(file)]) == 1
    said = capsys.readouterr()
    assert f"line 6: upstream.search.credential.secret_key: file:{other}: No such file or directory" in said.err
    other.write_text(f"{SECRET}\nmore")
    assert status_of(["check", "-c", str(file)]) == 1
    said = capsys.readouterr()
    assert "one line of printable ASCII" in said.err
    other.write_text(SECRET)
    other.chmod(0o644)
    assert status_of(["check", "-c", str(file)]) == 0
    told = capsys.readouterr()
    assert f"{other}: everybody on this machine may read this secret; chmod o-r" in told.err
    other.chmod(0o600)
    assert status_of(["check", "-c", str(file)]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert SECRET not in "".join((*said, *told, *quiet))
    file.write_text(file.read_text().replace("env:A_SECRET", SECRET))
    assert status_of(["check", "-c", str(file)]) == 1
    assert SECRET not in "".join(capsys.readouterr())


def test_what_is_kept_is_the_reference() -> None:
    assert isinstance(Config, type)
    config = read(with_upstream('credential = { type = "header", value = "env:A_SECRET" }')).config
    credential = config.upstream["search"].credential
    assert credential is not None
    assert credential.value == "env:A_SECRET"
