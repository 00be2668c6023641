"""What can be pasted is whole and right (tests/cli/test_demo.py runs it)."""

import io
import shlex
from pathlib import Path

from rich.console import Console

from mcpproxy.demo.screen import Scene, show

SCENE = Scene(url="https://127.0.0.1:8443/mcp", ca=Path("/home/a user/certs/it's ca.pem"), upstream="http://127.0.0.1:40001")


def shown(width: int) -> str:
    file = io.StringIO()
    show(SCENE, Console(file=file, width=width, highlight=False))
    return file.getvalue()


def test_a_narrow_terminal_does_not_break_the_lines() -> None:
    for width in (20, 80, 400):
        assert SCENE.curl() in shown(width).splitlines()
        assert SCENE.snippet() in shown(width)


def test_colours_stand_around_a_line_never_in_it() -> None:
    file = io.StringIO()
    show(SCENE, Console(file=file, width=80, force_terminal=True, color_system="standard", highlight=False))
    assert SCENE.curl() in file.getvalue()


def test_any_path_survives_the_shell() -> None:
    assert str(SCENE.ca) in shlex.split(SCENE.curl())
    assert f"SSL_CERT_FILE={SCENE.ca}" in shlex.split(SCENE.snippet().splitlines()[0])


def test_the_address_the_tools_and_the_root_are_shown() -> None:
    text = shown(80)
    assert all(word in text for word in (SCENE.url, SCENE.upstream, "echo, add, count", str(SCENE.ca), "Ctrl-C"))
