"""The word to systemd arrives, and its absence harms nobody."""

import os
import secrets
import socket
from pathlib import Path

import pytest

from mcpproxy.ops.systemd import READY, tell


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_that_we_are_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@mcpproxy-{secrets.token_hex(8)}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0", 1) if abstract else name)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert tell(READY)
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("place", [None, "", "nonsense", "/no/such/socket", "@nobody-listens-here", "vsock:2:1234"])
def test_nobody_to_tell_is_no_error(monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if place is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
    assert not tell(READY)
    assert os.environ.get("NOTIFY_SOCKET") == place
