"""mcpproxy run: the daemon."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, announce, config_option, configured, say, state_dir_option, warnings


@click.command(epilog=EXAMPLE("mcpproxy run -c mcpproxy.toml"))
@config_option
@state_dir_option
def command(config: Path, state_dir: str | None) -> int:
    """Serve what a configuration file says, until told to stop.

    SIGTERM or Ctrl-C: accept no more, let open exchanges and streams end (at most `drain`). The second one: end now.
    SIGUSR1: reopen the log files.
    """
    from mcpproxy.ops.supervise import run

    loaded = configured(config, state_dir)
    say(loaded.config, "warning", *warnings(loaded))
    return run(loaded.config, ready=partial(announce, loaded.config), with_control=True)
