"""mcpproxy reload: have the running daemon read its configuration again, and hear how that ended."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import click

from mcpproxy.cli.adminclient import Unsaid, admin_option, config_option, find
from mcpproxy.cli.options import DEFAULT_CONFIG, EXAMPLE, checked
from mcpproxy.errors import StartError

WAIT_S = 65.0  # seconds; the daemon gives all workers together 30 to prepare
REFUSED = 409  # the daemon read it, and goes on with the one before


@click.command(epilog=EXAMPLE("mcpproxy reload", "mcpproxy reload -c /etc/mcpproxy/mcpproxy.toml"))
@config_option
@admin_option
@click.option(
    "--pid",
    type=click.IntRange(2),
    help="The daemon, where its admin listener cannot be asked: the file is checked here, then it gets SIGHUP; its messages say how that ended.",
)
def command(config: Path | None, admin: str | None, pid: int | None) -> int:
    """Have the running daemon read its configuration again, as SIGHUP does, and wait until it did.

    Exit status 0: all workers have the new one. 1: it is refused, with every mistake, or no daemon answers; the one before serves on.
    """
    try:
        said = replace(find(config, admin), wait_s=WAIT_S).post("reload", {})
    except StartError as error:
        refusal = error.status if isinstance(error, Unsaid) else 0
        if pid is not None and refusal != REFUSED:
            return _by_signal(config or DEFAULT_CONFIG, pid)
        raise (StartError(error.message) if refusal else error) from None
    click.echo(f"mcpproxy: {said['text']}")
    return 0


def _by_signal(config: Path, pid: int) -> int:
    """Where nobody can be asked: off, at another address in the new file, behind a token that cannot be read here, or gone."""
    checked(config)
    try:
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        raise StartError(f"process {pid}: {error.strerror}") from None
    click.echo(f"mcpproxy: process {pid} was told to read its configuration again; its messages say how that ended")
    return 0
