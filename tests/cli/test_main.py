"""The shape every command has: help with an example, exit status 0, 1 or 2, one line of error before its details."""

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from mcpproxy import __version__
from mcpproxy.cli.main import COMMANDS, mcpproxy, status_of


def every_command(command: click.Command = mcpproxy, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every_command(found, (*path, name))


PATHS = list(every_command())


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
@pytest.mark.parametrize("ask", ["--help", "-h"])
def test_every_help_page_ends_with_an_example(path: tuple[str, ...], ask: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of([*path, ask]) == 0
    page = capsys.readouterr().out
    assert "Example:" in page
    assert "  mcpproxy " in page.partition("Example:")[2].replace("Example: ", "  ") or "mcpproxy serve" in page


ASKING = ("status", "top", "reload", "endpoints", "connections")  # a running daemon


def test_the_commands_are_the_agreed_ones() -> None:
    assert list(COMMANDS) == [
        "run",
        "serve",
        "connect",
        "demo",
        "import",
        "check",
        "explain",
        "policy",
        "cert",
        "key",
        "lock",
        "affinity",
        *ASKING,
        "audit",
        "systemd",
    ]
    assert {("policy", "test"), ("cert", "dev"), ("key", "add"), ("key", "list"), ("key", "revoke"), ("key", "rotate")} <= set(PATHS)


def test_the_one_line_descriptions_stand_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {about}" in page for name, about in COMMANDS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "first", "usage"),
    [
        (["serve"], "Missing argument 'URL | -- COMMAND [ARGUMENT]...'.", "mcpproxy serve"),
        (["run", "--no-such-option"], "No such option '--no-such-option'.", "mcpproxy run"),
        (["fly"], "No such command 'fly'.", "mcpproxy"),
        (["cert", "fly"], "No such command 'fly'.", "mcpproxy cert"),
        (["check", "one", "two"], "Got unexpected extra arguments (one two)", "mcpproxy check"),
    ],
)
def test_a_wrong_command_line_is_status_2_one_line_then_the_usage(
    arguments: list[str], first: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert (out, lines[0]) == ("", f"mcpproxy: {first}")
    assert lines[1].startswith(f"  usage: {usage}")
    assert lines[-1] == f"  try: {usage} --help"


def test_without_a_command_the_help_is_shown() -> None:
    answer = subprocess.run([sys.executable, "-m", "mcpproxy"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.startswith("Usage: mcpproxy ")
    assert answer.stderr.count("Usage: ") == 1
    assert "Commands:" in answer.stderr


def test_the_console_script_and_the_module_are_the_same() -> None:
    answers = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "mcpproxy"], [sys.executable, "-c", "from mcpproxy.__main__ import main; main()"])
    ]
    assert answers[0] == answers[1] == f"mcpproxy, version {__version__}\n"


def test_the_first_thing_that_runs_imports_nothing_of_ours() -> None:
    """Signals must wait before that (tests/cli/test_run)."""
    script = "import sys; import mcpproxy.__main__; print({'click', 'mcpproxy.cli', 'mcpproxy.errors'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_starting_the_daemon_loads_neither_the_demo_nor_the_screen_printer() -> None:
    script = "import sys; from mcpproxy.cli import run; import mcpproxy.ops.supervise; print({'mcp', 'rich', 'uvicorn', 'mcpproxy.demo'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "set()\n"
