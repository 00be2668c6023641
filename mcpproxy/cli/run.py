"""mcpproxy run: the daemon."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, announce, checked, config_option, configured, say, state_dir_option, warnings


@click.command(epilog=EXAMPLE("mcpproxy run -c mcpproxy.toml"))
@config_option
@state_dir_option
def command(config: Path, state_dir: str | None) -> int:
    """Serve what a configuration file says, until told to stop.

    SIGTERM or Ctrl-C: accept no more, let open exchanges and streams end (at most `drain`). The second one: end now.
    SIGHUP: read the configuration again; open connections and streams go on. SIGUSR1: reopen the log files.
    SIGUSR2: execute this command again, with the same sockets; once it serves, drain.
    """
    from mcpproxy.config.model import Config, default_state_dir
    from mcpproxy.ops.privileges import unwise
    from mcpproxy.ops.supervise import run

    file = config.absolute()  # wherever we are by then
    os.environ["STATE_DIRECTORY"] = default_state_dir()  # whoever we are by then

    def again() -> Config:
        loaded = checked(file, state_dir)
        say(loaded.config, "warning", *warnings(loaded))
        return loaded.config

    loaded = configured(config, state_dir)
    say(loaded.config, "warning", *warnings(loaded))

    def ready(urls: list[str]) -> None:
        announce(loaded.config, urls)
        if said := unwise(loaded.config):
            say(loaded.config, "warning", f"mcpproxy: warning: {said}")

    return run(loaded.config, ready=ready, read=again, with_control=True)
