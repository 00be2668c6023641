"""mcpproxy audit: has anybody changed the audit log? And the public key that tells.

Problems go to stdout, one per line with file and line number, then one line with the verdict: exit status 0, nothing was changed; 1, something was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcpproxy.cli.options import EXAMPLE, config_option, state_dir_option, unchecked, with_state_dir
from mcpproxy.errors import StartError
from mcpproxy.units import many

if TYPE_CHECKING:
    from mcpproxy.config.model import Config
    from mcpproxy.observe.verify import Report

HINT = "-c CONFIG names another configuration; --key PUBLIC.pem and the files need none"


@click.group("audit", epilog=EXAMPLE("mcpproxy audit verify", "mcpproxy audit key > audit.pub.pem"))
def command() -> None:
    """The audit log: verify it, print the key it is signed with."""


@command.command(
    "verify", epilog=EXAMPLE("mcpproxy audit verify", "mcpproxy audit verify --key audit.pub.pem audit.log.2.gz audit.log.1 audit.log")
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    metavar="PUBLIC.pem",
    help="Check signatures with this key alone; no state directory is read. May be repeated where the key was changed.",
)
@click.option(
    "--part", is_flag=True, help="These files are only a part: older ones are gone; newer ones, too, unless the log itself is among them."
)
@config_option
@state_dir_option
def verify(files: tuple[str, ...], keys: tuple[Path, ...], part: bool, config: Path, state_dir: str | None) -> int:
    """Find every line that was changed, taken out, put in or moved.

    Without FILE: the configured log, with everything beside it that rotation made of it. The order of the files does not matter; those ending in .gz are
    read compressed. With --key alone, lines after the last checkpoint may have been cut off unseen; the configuration's state directory knows the newest line.
    """
    from mcpproxy.observe import verify as reading
    from mcpproxy.observe.keeping import PUBLIC, public_key, read_head

    known = None if keys and files else with_state_dir(unchecked(config, HINT).config, state_dir)
    try:
        if keys or known is None:
            found = reading.verify(_files(files, known, config), [public_key(each.read_bytes(), str(each)) for each in keys], part=part)
        else:
            state = _state(known)
            place, head = state / PUBLIC, read_head(state)
            if head is None:
                raise StartError(
                    f"{state}: no audit log was ever written with this state",
                    "--state-dir names another; --key PUBLIC.pem needs none" if known.audit else f"there is no [audit] in {config}",
                )
            key = public_key(place.read_bytes(), str(place))
            named = _files(files, known, config)
            ends = not part or not files or _has_newest(named, known)
            found = reading.verify(named, [key], head, part=part, ends=ends, moved=lambda: read_head(state) != head)
    except (OSError, EOFError) as error:
        said = error.strerror or error if isinstance(error, OSError) else error
        raise StartError(f"{getattr(error, 'filename', None) or 'audit log'}: {said}") from None
    _print(found)
    return 1 if found.problems else 0


@command.command("key", epilog=EXAMPLE("mcpproxy audit key > audit.pub.pem"))
@config_option
@state_dir_option
def key(config: Path, state_dir: str | None) -> int:
    """Print the public key of the checkpoints. Keep it on another machine, and verify there."""
    from mcpproxy.observe.keeping import PUBLIC

    place = _state(with_state_dir(unchecked(config, HINT).config, state_dir)) / PUBLIC
    try:
        click.echo(place.read_text(), nl=False)
    except FileNotFoundError:
        raise StartError(f"{place}: there is no key yet", "the first start with [audit] makes it") from None
    except OSError as error:
        raise StartError(f"{place}: {error.strerror}") from None
    return 0


def _state(config: Config) -> Path:
    return Path(config.state_dir).expanduser()


def _files(files: tuple[str, ...], config: Config | None, place: Path) -> list[str]:
    """Those named; else the log and what rotation made of it."""
    if files:
        return list(files)
    if config is None or config.audit is None:
        raise StartError(f"{place}: there is no [audit]", "name the files", code=2)
    log = Path(config.audit.file)
    return [str(each) for each in log.parent.iterdir() if each == log or each.name.startswith((f"{log.name}.", f"{log.name}-"))] or [
        str(log)
    ]


def _has_newest(files: list[str], config: Config) -> bool:
    """Is the log that is being written among them? Then the chain must not end before its newest line."""
    return config.audit is not None and any(os.path.realpath(each) == os.path.realpath(config.audit.file) for each in files)


def _print(found: Report) -> None:
    for finding in found.problems:
        click.echo(str(finding))
    if found.more_problems:
        click.echo(f"… and {found.more_problems} more")
    for finding in found.notes:
        click.echo(f"note: {finding}")
    lost = f", {many(found.lost, 'call')} lost and told" if found.lost else ""
    what = f"{many(found.calls, 'call')} in {many(found.lines, 'line')} ({found.first} to {found.newest}){lost}"
    if found.problems:
        click.echo(f"changed: {what}; {many(len(found.problems) + found.more_problems, 'problem')}")
        return
    until = f"signed up to line {found.signed}" if found.signed else "no checkpoint among them"
    click.echo(f"unchanged: {what}; {until}; newest hash {found.newest_hash}")
