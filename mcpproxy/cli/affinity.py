"""mcpproxy affinity: the keys of sealed session ids."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, config_option, state_dir_option, unchecked, with_state_dir


@click.group("affinity", epilog=EXAMPLE("mcpproxy affinity rotate -c mcpproxy.toml"))
def command() -> None:
    """Sessions: change the keys that seal their ids."""


@command.command("rotate", epilog=EXAMPLE("mcpproxy affinity rotate -c mcpproxy.toml"))
@config_option
@state_dir_option
@click.option("--keep", type=click.IntRange(0, 15), default=2, show_default=True, help="Old keys that stay: what they sealed goes on.")
def rotate(config: Path, state_dir: str | None, keep: int) -> None:
    """Put a new key in front: it seals from now on, the old ones open.

    A running daemon sees it within seconds, and no session ends but those of keys that were dropped. Several nodes that share the file: see
    docs/operations.md.
    """
    from mcpproxy.config import sealfile
    from mcpproxy.policy.seal import rotate as put_in_front

    settled = with_state_dir(unchecked(config, "-c FILE names another one").config, state_dir)
    file = settled.affinity.key_file or str(Path(settled.state_dir).expanduser() / sealfile.NAME)
    there = put_in_front(file, keep)
    click.echo(f"{file}: a new key seals; {there} key{'s' if there > 1 else ''} open")
