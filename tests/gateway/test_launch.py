"""Command lines and environments; nothing is started."""

from __future__ import annotations

import os
import pwd
import resource
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.config.gateway import Command
from mcpproxy.config.secrets import secret
from mcpproxy.gateway import launch
from mcpproxy.gateway.launch import Launch, prepare
from mcpproxy.gateway.parts import Unavailable

ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": "/root", "SECRET": "x", "LANG": "C.UTF-8", "TERM": "() { :; }"}


def made(*words: str, place: Path, **keys: Any) -> Launch:
    return prepare(Command(command=words or ("sh", "-c", "true"), **keys), ENVIRON, secret, str(place))


def test_words_stay_and_the_environment_is_small(tmp_path: Path) -> None:
    found = made("sh", "a b", "$HOME", place=tmp_path)
    assert found.words[0].endswith("/sh")
    assert found.words[1:] == ("a b", "$HOME")
    assert found.env == {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    assert found.cwd == str(tmp_path)
    assert made(place=tmp_path, inherit=("SECRET", "NOT_THERE")).env["SECRET"] == "x"


def test_secrets_are_read_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    found = made(place=tmp_path, env={"KEY": f"file:{tmp_path}/key", "PATH": "/bin"})
    assert (found.env["KEY"], found.env["PATH"]) == ("s3cret", "/bin")
    assert "s3cret" not in repr(found)
    with pytest.raises(Unavailable, match="no such variable"):
        made(place=tmp_path, env={"KEY": "env:NOT_THERE_AT_ALL"})


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    for word, why in (("no-such", "no directory of PATH"), ("./plain", "cannot be executed"), ("./no", "not there"), ("./", "cannot be")):
        with pytest.raises(Unavailable, match=why):
            made(word, place=tmp_path)
    with pytest.raises(Unavailable, match="is no directory"):
        made(place=tmp_path, cwd=str(tmp_path / "no"))
    with pytest.raises(Unavailable, match="no user"):
        made(place=tmp_path, user="nobody-of-this-name")


def test_a_program_may_lie_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    assert made("./tool", place=tmp_path).words == (f"{tmp_path}/./tool",)


def test_limits(tmp_path: Path) -> None:
    found = made(place=tmp_path, memory=1 << 30, processes=9)
    assert found.limits == ((resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_NPROC, 9))


def test_another_user_is_somebody_elses_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_tool", lambda name, package: name)
    who = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = made(place=tmp_path, user="nobody")
    assert found.words[:4] == ("setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}", "--init-groups")
    assert (found.env["USER"], found.env["HOME"]) == ("nobody", who.pw_dir)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(Unavailable, match="only root"):
        made(place=tmp_path, user="nobody")
    monkeypatch.setattr(os, "geteuid", lambda: who.pw_uid)
    assert made(place=tmp_path, user="nobody").words[1:] == ("-c", "true")


def test_sandboxes_are_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="bwrap is not installed"):
        made(place=tmp_path, sandbox="bwrap")
    monkeypatch.setattr(launch, "_tool", lambda name, package: name)
    found = made("sh", "-c", "true", place=tmp_path, sandbox="bwrap").words
    assert found[:4] == ("bwrap", "--ro-bind", "/", "/")
    assert found[-4] == "--" and found[-2:] == ("-c", "true")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = made(place=tmp_path, sandbox="systemd", memory=1 << 20, processes=5).words
    assert found[:7] == (
        *("systemd-run", "--user", "--scope", "--quiet", "--collect"),
        *("--property=MemoryMax=1048576", "--property=TasksMax=5"),
    )
