"""mcpproxy check: would it start? The very code that boots reads the file, its certificates and its keys."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, config_option, configured, warnings


@click.command(epilog=EXAMPLE("mcpproxy check -c mcpproxy.toml"))
@config_option
def command(config: Path) -> int:
    """Read a configuration and name every mistake in it, with its line and what would be right.

    Warnings name what is legal but probably not meant. Nothing is bound, dialled or written.

    Exit status 0: it can be served. 1: it cannot.
    """
    from mcpproxy.pki import devca, store

    loaded = configured(config)
    for listen in loaded.config.listen:
        if listen.tls is not None and (listen.tls == "dev" or not listen.tls.files):
            store.check_place(loaded.config.state_dir)
        if listen.tls is not None and listen.tls != "dev":
            devca.check_hosts(listen.tls.hosts)
    for line in warnings(loaded):
        click.echo(line, err=True)
    click.echo(f"{config}: fine")
    return 0
