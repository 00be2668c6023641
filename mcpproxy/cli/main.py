"""The command `mcpproxy`: finds the subcommand, and gives every failure the same shape.

1. Exit status 0: done. 1: it could not be done. 2: the command line was wrong.
2. An error goes to stderr: one line first (`mcpproxy: what happened`), details and advice after it, indented.
3. A subcommand's file is imported only when it is asked for, so `mcpproxy run` never loads the demo or the screen printer.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence

import click

from mcpproxy import __version__
from mcpproxy.errors import StartError
from mcpproxy.observe.messages import priority

COMMANDS = {
    "run": "Serve what a configuration file says.",
    "serve": "Put HTTPS in front of one MCP server, without a file.",
    "connect": "A remote MCP server as a program on stdin and stdout.",
    "demo": "An embedded MCP server behind HTTPS, with lines to try.",
    "import": "Print another program's configuration as ours.",
    "check": "Read a configuration and name every mistake in it.",
    "explain": "May this caller make this call, and which rule says so?",
    "policy": "Policies: test what the rules say.",
    "cert": "Certificates: see when they end, make the development ones.",
    "key": "API keys: add, list, revoke, rotate.",
    "lock": "What servers offer: lock it, see what changed, approve it.",
    "affinity": "Sessions: change the keys that seal their ids.",
    "status": "How the running daemon is; for scripts, too.",
    "top": "Requests, streams and endpoints, live.",
    "reload": "Have the running daemon read its configuration again.",
    "endpoints": "List upstreams' endpoints; drain, disable or enable one.",
    "connections": "List who is connected and what is open; close one.",
    "audit": "The audit log: verify it, print its key.",
    "systemd": "Print a hardened systemd unit.",
}


class Commands(click.Group):
    """The subcommands of the table, each loaded from the file of its name when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        file = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command = importlib.import_module(f"mcpproxy.cli.{file}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: mcpproxy serve http://127.0.0.1:8000",
)
@click.version_option(__version__, prog_name="mcpproxy")
def mcpproxy() -> None:
    """One daemon in front of Model Context Protocol servers."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(status_of(arguments))


def status_of(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    try:
        status = mcpproxy.main(arguments, prog_name="mcpproxy", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # `mcpproxy`, `mcpproxy cert`: not a mistake, a question
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        return fail(error.format_message(), usage_of(error), 2)
    except click.ClickException as error:
        return fail(error.format_message(), "", 1)
    except StartError as error:
        return fail(error.message, error.hint, error.code)
    except (click.Abort, KeyboardInterrupt):
        return fail("interrupted", "", 1)
    return status if isinstance(status, int) else 0


def fail(message: str, details: str, status: int) -> int:
    """Rule 2."""
    lines = [f"mcpproxy: {message}", *(f"  {line}" for line in details.splitlines())]
    print("\n".join(f"{priority('error')}{line}" for line in lines), file=sys.stderr)
    return status


def usage_of(error: click.UsageError) -> str:
    """How the command is called, and where to read more."""
    if error.ctx is None:
        return "try: mcpproxy --help"
    usage = error.ctx.get_usage().removeprefix("Usage: ")
    return f"usage: {usage}\ntry: {error.ctx.command_path} --help"
