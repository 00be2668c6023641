"""What several commands share: the configuration file, the state directory, the line that says we are ready."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcpproxy.errors import StartError

if TYPE_CHECKING:
    from mcpproxy.config.model import Config

DEFAULT_CONFIG = Path("/etc/mcpproxy/mcpproxy.toml")

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="MCPPROXY_CONFIG",
    show_envvar=True,
    help="The configuration file.",
)
state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    default=None,
    help="Where certificates and keys are kept, instead of the configured place.",
)


def EXAMPLE(*lines: str) -> str:  # noqa: N802 - reads as a heading where it is used
    """The end of a --help page."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def configured(file: Path, state_dir: str | None = None) -> Config:
    """The configuration in `file`. Raises StartError with every mistake in it."""
    from mcpproxy.config.load import load

    try:
        return with_state_dir(load(file), state_dir)
    except OSError as error:
        hint = "mcpproxy run -c FILE reads another one; mcpproxy serve URL needs none"
        raise StartError(f"{file}: {error.strerror or error}", hint) from None


def with_state_dir(config: Config, state_dir: str | None) -> Config:
    """`config`, keeping its state where the command line says."""
    import msgspec

    return config if state_dir is None else msgspec.structs.replace(config, state_dir=state_dir)


def announce(urls: list[str]) -> None:
    """One line on stderr once the listeners accept."""
    print(f"mcpproxy: serving {', '.join(urls)}", file=sys.stderr, flush=True)
