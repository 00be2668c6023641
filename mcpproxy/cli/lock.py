"""mcpproxy lock: what operators have approved of what servers say about themselves, and what is different now.

The running daemon is asked: its gateway process speaks with the servers, and nothing is started here. The file is written whole or not at all.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpproxy.cli.adminclient import AdminClient, Unsaid, admin_option, find
from mcpproxy.cli.options import EXAMPLE, config_option, unchecked
from mcpproxy.errors import StartError

if TYPE_CHECKING:
    from mcpproxy.config.lockfile import Kinds

WAIT_S = 65.0  # seconds; servers may have to be started
WIDTH = 110  # of a line of a description
ACTIONS = ("check", "approve")
SIGNS = {"new": "+", "gone": "-", "changed": "~"}
WORDS = {"tools": "tool", "prompts": "prompt", "resourceTemplates": "resource template"}


@click.command(
    epilog=EXAMPLE(
        "mcpproxy lock -c mcpproxy.toml files",
        "mcpproxy lock check -c mcpproxy.toml",
        "mcpproxy lock approve -c mcpproxy.toml files/read_file",
    )
)
@click.argument("words", nargs=-1, metavar="[check|approve] [NAME]...")
@config_option
@admin_option
def command(words: Sequence[str], config: Path, admin: str | None) -> int:
    """Lock what servers offer: write the lock file, see what is different, approve it.

    \b
    lock [UPSTREAM]...         lock what is not locked yet; show what is different of what is
    lock check [UPSTREAM]...   the same, but write nothing
    lock approve [NAME]...     take what is different as it is now: all of it, or that of UPSTREAM, or UPSTREAM/NAME

    The running daemon is asked what its servers offer now. Exit status 1: something is different from what is locked, or cannot be asked.
    """
    from mcpproxy.config import lockfile

    action, names = (words[0], list(words[1:])) if words[:1] and words[0] in ACTIONS else ("", list(words))
    upstreams = {
        name: upstream.lock for name, upstream in unchecked(config, "-c FILE names another one").config.upstream.items() if upstream.lock
    }
    if not upstreams:
        raise StartError("no upstream has a lock file", 'lock = "mcp.lock" in [upstream.NAME], then `mcpproxy lock NAME`')
    wanted = _wanted(names, upstreams)
    client = _asking(config, admin)
    different = 0
    for file in dict.fromkeys(upstreams[name] for name in wanted):
        locked = _load(file)
        after: dict[str, Kinds] = dict(locked)
        for name in (each for each in wanted if upstreams[each] == file):
            there = client.get("catalogue", upstream=name)
            known = locked.get(name)
            found = lockfile.differences(known or {}, there)
            if known is None and not action:
                after[name] = there
                click.echo(f"{name}: locked {_counted(there)}")
                continue
            chosen = [each for each in found if not wanted[name] or each[2] in wanted[name]]
            if action == "approve":
                missing = wanted[name] - {own for _, _, own in found}
                if missing:
                    raise StartError(f"{name}: nothing is different about {', '.join(map(lockfile.shown, sorted(missing)))}")
                after[name] = lockfile.taken(known or {}, there, [(kind, own) for _, kind, own in chosen])
            for what, kind, own in chosen:
                _show(name, what, kind, own, (known or {}).get(kind, {}).get(own), there[kind].get(own))
            if action == "approve":
                click.echo(f"{name}: approved {len(chosen)}" if chosen else f"{name}: nothing is different")
            elif chosen:
                different += len(chosen)
            else:
                click.echo(f"{name}: as locked")
        if after != locked:
            try:
                lockfile.write(file, after)
            except OSError as error:
                raise StartError(f"{file}: {error.strerror or error}") from None
            click.echo(f"{file}: written")
    if different:
        click.echo(f"{different} different from what is locked; `mcpproxy lock approve` takes it as it is now", err=True)
    return 1 if different else 0


def _wanted(names: Sequence[str], upstreams: Mapping[str, str]) -> dict[str, set[str]]:
    """Upstream → names in it; an empty set is all of it."""
    found: dict[str, set[str]] = {}
    for each in names:
        name, _, own = each.partition("/")
        if name not in upstreams:
            raise StartError(f"upstream {name!r} has no lock file", f"those that have one: {', '.join(upstreams)}")
        known = found.setdefault(name, set())
        if own:
            known.add(own)
    return found or {name: set() for name in upstreams}


class _Asking:
    """The daemon; what it refuses is an error of ours."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def get(self, path: str, **query: str) -> Any:
        try:
            return self._client.get(path, **query)
        except Unsaid as error:
            raise StartError(error.message) from None


def _asking(config: Path, admin: str | None) -> _Asking:
    from dataclasses import replace

    return _Asking(replace(find(config, admin), wait_s=WAIT_S))


def _load(file: str) -> dict[str, dict[str, dict[str, Any]]]:
    from mcpproxy.config import lockfile

    try:
        return lockfile.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}") from None
    except lockfile.Broken as broken:
        raise StartError(f"{file}: {broken}", "git checkout may have one that is whole") from None


def _counted(kinds: Kinds) -> str:
    from mcpproxy.units import many

    return ", ".join(many(len(kinds[kind]), word) for kind, word in WORDS.items())


# -- what is different ------------------------------------------------------------------------------------------------------------------------


def _show(upstream: str, what: str, kind: str, own: str, before: object, after: object) -> None:
    from mcpproxy.config.lockfile import shown

    click.echo(f"{SIGNS[what]} {upstream}: {WORDS[kind]} {shown(own)}: {what}")
    for line in list(difflib.unified_diff(_lines(before), _lines(after), n=2, lineterm=""))[2:]:
        click.echo(f"    {line}")


def _lines(value: object) -> list[str]:
    """JSON for people, with long texts broken, so that a changed word is a changed line."""
    from mcpproxy.config.lockfile import pretty

    if value is None:
        return []
    return [short for line in pretty(value).splitlines() for short in _broken(line)]


def _broken(line: str) -> Iterator[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 4)
    for number, piece in enumerate(line.replace("\\n", "\\n\n").split("\n")):
        options: dict[str, Any] = {
            "break_long_words": False,
            "break_on_hyphens": False,
            "drop_whitespace": False,
            "replace_whitespace": False,
        }
        yield from textwrap.wrap(piece, WIDTH, initial_indent=indent if number else "", subsequent_indent=indent, **options) or [""]
