"""What several commands share: the configuration file, the state directory, the line that says we are ready."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from mcpproxy.errors import StartError
from mcpproxy.observe.messages import LEVELS, priority

if TYPE_CHECKING:
    from mcpproxy.config.load import Loaded
    from mcpproxy.config.model import Config

DEFAULT_CONFIG = Path("/etc/mcpproxy/mcpproxy.toml")
TERMINAL_DRAIN_S = 10.0  # of commands without a file: who pressed Ctrl-C does not want to wait for a day

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, readable=False),  # why it cannot be read is said by who reads it
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="MCPPROXY_CONFIG",
    show_envvar=True,
    help="The configuration file.",
)


def directory(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """`--state-dir "$UNSET"` means no directory we know of, surely not this one; in `--state-dir=~/x` shells leave the `~` to us."""
    if value == "":
        raise click.BadParameter("the name is empty", ctx, parameter)
    return value and os.path.expanduser(value)


def state_dir(what: str) -> Callable[[Any], Any]:
    """`--state-dir`, where a command keeps `what`."""
    return click.option("--state-dir", type=click.Path(file_okay=False), default=None, callback=directory, help=what)


state_dir_option = state_dir("Where certificates and keys are kept, instead of the configured place.")


def EXAMPLE(*lines: str) -> str:  # noqa: N802 - reads as a heading where it is used
    """The end of a --help page."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def unchecked(file: Path, hint: str) -> Loaded:
    """The configuration in `file`; the files it names are not looked at. `hint` says what to do when it is not there."""
    from mcpproxy.config.load import read

    try:
        return read(file)
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}", hint) from None


def configured(file: Path, state_dir: str | None = None) -> Loaded:
    """The configuration in `file`, with the files it names looked at too. Raises StartError with every mistake at once."""
    from mcpproxy.config.load import ConfigErrors

    loaded = unchecked(file, "-c FILE names another one; mcpproxy serve URL needs none")
    if mistakes := loaded.check_files():
        raise ConfigErrors(mistakes, str(file))
    return replace(loaded, config=with_state_dir(loaded.config, state_dir))


def checked(file: Path, state_dir: str | None = None) -> Loaded:
    """The same, with the places looked at where something would be made. What passes here can be served, as far as one can tell without doing it."""
    from mcpproxy.pki import devca, store

    loaded = configured(file, state_dir)
    for listen in loaded.config.listen:
        if listen.tls is not None and (listen.tls == "dev" or len(listen.tls.files) < len(listen.tls.identities) or not listen.tls.files):
            store.check_place(loaded.config.state_dir)
        if listen.tls is not None and listen.tls != "dev" and listen.tls.acme is None:
            devca.check_hosts(listen.tls.hosts)
    return loaded


def quick(words: Sequence[str], listen: str | None, no_tls: bool, state_dir: str | None, *, bridge: bool = False) -> Config:
    """The configuration of a command without a file. Its mistakes are mistakes of the command line: status 2."""
    from mcpproxy.config.load import ConfigErrors, serve_config

    try:
        return serve_config(*words, listen=listen, no_tls=no_tls, state_dir=state_dir, bridge=bridge)
    except ConfigErrors as errors:
        raise StartError(errors.message, errors.hint, code=2) from None


def with_state_dir(config: Config, state_dir: str | None) -> Config:
    """`config`, keeping its state where the command line says."""
    return config if state_dir is None else structs.replace(config, state_dir=str(Path(state_dir).absolute()))


def warnings(loaded: Loaded) -> list[str]:
    """What is legal but unwise in the configuration and the files it names, a line each."""
    from mcpproxy.clock import monotonic, wall_offset

    found = [*loaded.warnings, *loaded.file_warnings(monotonic() + wall_offset())]
    return [f"mcpproxy: warning: {warning}" for warning in found]


def say(config: Config, level: str, *lines: str) -> None:
    """Messages of the daemon itself: to stderr, unless `log.level` wants only more important ones."""
    if LEVELS.index(level) >= LEVELS.index(config.log.level):
        for line in lines:
            print(f"{priority(level)}{line}", file=sys.stderr, flush=True)


def announce(config: Config, urls: list[str]) -> None:
    """One line once the listeners accept, and a word to systemd."""
    from mcpproxy.ops.systemd import READY, tell

    tell(READY)
    say(config, "info", f"mcpproxy: serving {', '.join(urls)}")
