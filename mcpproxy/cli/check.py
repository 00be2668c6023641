"""mcpproxy check: would it start? The very code that boots reads the file, its certificates and its keys."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, checked, config_option, warnings


@click.command(epilog=EXAMPLE("mcpproxy check -c mcpproxy.toml"))
@config_option
def command(config: Path) -> int:
    """Read a configuration and name every mistake in it, with its line and what would be right.

    Warnings name what is legal but probably not meant. Nothing is bound, dialled or written.

    Exit status 0: it can be served. 1: it cannot.
    """
    loaded = checked(config)
    for line in warnings(loaded):
        click.echo(line, err=True)
    click.echo(f"{config}: fine")
    return 0
