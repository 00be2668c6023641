"""mcpproxy reload: have the running daemon read its configuration again, and hear how that ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from mcpproxy.cli.adminclient import Unsaid, admin_option, config_option, find
from mcpproxy.cli.options import EXAMPLE
from mcpproxy.errors import StartError

WAIT_S = 65.0  # seconds; the daemon gives all workers together 30 to prepare


@click.command(epilog=EXAMPLE("mcpproxy reload", "mcpproxy reload -c /etc/mcpproxy/mcpproxy.toml"))
@config_option
@admin_option
def command(config: Path | None, admin: str | None) -> int:
    """Have the running daemon read its configuration again, as SIGHUP does, and wait until it did.

    Exit status 0: all workers have the new one. 1: it is refused, with every mistake, or no daemon answers; the one before serves on.
    """
    try:
        said = replace(find(config, admin), wait_s=WAIT_S).post("reload", {})
    except Unsaid as refusal:
        raise StartError(refusal.message) from None
    click.echo(f"mcpproxy: {said['text']}")
    return 0
