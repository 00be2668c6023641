"""mcpproxy audit: has anybody changed the audit log? And the public key that tells.

Problems go to stdout, one per line with file and line number, then one line with the verdict: exit status 0, nothing was changed; 1, something was.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mcpproxy.cli.options import EXAMPLE, config_option, state_dir_option, unchecked, with_state_dir
from mcpproxy.errors import StartError
from mcpproxy.units import many

if TYPE_CHECKING:
    from mcpproxy.config.model import Config
    from mcpproxy.observe.keeping import Head
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

    Without FILE: the configured log with everything beside it that rotation made of it, of each worker that ever wrote one. The order of the files does not
    matter, and each worker's chain is found by its lines; those ending in .gz are read compressed. With --key alone, lines after the last checkpoint may have
    been cut off unseen, or a whole chain; the configuration's state directory knows them.
    """
    from mcpproxy.config.files import audit_file
    from mcpproxy.observe import verify as reading
    from mcpproxy.observe.keeping import PUBLIC, head_file, public_key, read_head, read_heads

    known = None if keys and files else with_state_dir(unchecked(config, HINT).config, state_dir)
    reports: dict[int, Report] = {}
    try:
        if keys or known is None:
            public = [public_key(each.read_bytes(), str(each)) for each in keys]
            for chain, named in _chains(_files(files, known, config), known).items():
                reports[chain] = reading.verify(named, public, chain=chain, part=part)
        else:
            state = _state(known)
            place, heads = state / PUBLIC, read_heads(state)
            if not heads:
                raise StartError(
                    f"{state}: no audit log was ever written with this state",
                    "--state-dir names another; --key PUBLIC.pem needs none" if known.audit else f"there is no [audit] in {config}",
                )
            key = public_key(place.read_bytes(), str(place))
            chains = _chains(_files(files, known, config), known)
            for chain in sorted({*chains, *(() if files else heads)}):
                named, head = chains.get(chain, []), heads.get(chain)
                if not named:
                    kept = head_file(state, chain)
                    gone = f"none of its files is there; when rotation took the last of them, delete {kept}"
                    reports[chain] = reading.Report(problems=[reading.Finding(audit_file(_audit_file(known), chain), 0, gone)])
                    continue
                ends = not part or not files or _has_newest(named, known, chain)

                def moved(chain: int = chain, head: Head | None = head) -> bool:
                    return read_head(state, chain) != head

                reports[chain] = report = reading.verify(named, [key], head, chain=chain, part=part, ends=ends, moved=moved)
                if head is None:
                    report.problems.append(reading.Finding(named[0], 0, f"the state directory knows of no chain {chain}"))
            if files and not part:
                for chain in sorted({*heads} - {*reports}):
                    click.echo(f"note: chain {chain} is not among these files")
    except (OSError, EOFError) as error:
        said = error.strerror or error if isinstance(error, OSError) else error
        raise StartError(f"{getattr(error, 'filename', None) or 'audit log'}: {said}") from None
    for chain, report in reports.items():
        _print(report, f"chain {chain}: " if len(reports) > 1 else "")
    return 1 if any(report.problems for report in reports.values()) else 0


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
    """Those named; else the log of each chain, and what rotation made of it."""
    if files:
        return list(files)
    if config is None or config.audit is None:
        raise StartError(f"{place}: there is no [audit]", "name the files", code=2)
    log = Path(config.audit.file)
    return sorted(str(each) for each in log.parent.iterdir() if _chain_named(each.name, log.name) is not None) or [str(log)]


def _audit_file(config: Config) -> str:
    assert config.audit is not None, "asked for when it was looked for"
    return config.audit.file


def _chain_named(name: str, log: str) -> int | None:
    """Of which chain is a file by its name, when `log` is that of the first? None: of none."""
    stem, suffix = os.path.splitext(log)
    other = re.match(rf"{re.escape(stem)}\.chain([1-9]\d{{0,8}}){re.escape(suffix)}(?=[.-]|$)", name)
    if other is not None:
        return int(other[1])
    return 0 if name == log or name.startswith((f"{log}.", f"{log}-")) else None


def _chains(files: list[str], config: Config | None) -> dict[int, list[str]]:
    """The files by chain."""
    from mcpproxy.observe.verify import by_chain

    log = Path(config.audit.file).name if config is not None and config.audit is not None else ""
    return by_chain(files, lambda file: _chain_named(Path(file).name, log) or 0 if log else 0)


def _has_newest(files: list[str], config: Config, chain: int) -> bool:
    """Is the log that is being written among them? Then the chain must not end before its newest line."""
    from mcpproxy.config.files import audit_file

    return config.audit is not None and any(
        os.path.realpath(each) == os.path.realpath(audit_file(config.audit.file, chain)) for each in files
    )


def _print(found: Report, which: str) -> None:
    for finding in found.problems:
        click.echo(str(finding))
    if found.more_problems:
        click.echo(f"… and {found.more_problems} more")
    for finding in found.notes:
        click.echo(f"note: {finding}")
    lost = f", {many(found.lost, 'call')} lost and told" if found.lost else ""
    what = f"{many(found.calls, 'call')} in {many(found.lines, 'line')} ({found.first} to {found.newest}){lost}"
    if found.problems:
        click.echo(f"{which}changed: {what}; {many(len(found.problems) + found.more_problems, 'problem')}")
        return
    until = f"signed up to line {found.signed}" if found.signed else "no checkpoint among them"
    click.echo(f"{which}unchanged: {what}; {until}; newest hash {found.newest_hash}")
