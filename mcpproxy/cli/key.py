"""mcpproxy key: who may come in by an API key.

A key goes to stdout, alone, so that `KEY=$(mcpproxy key add NAME)` works; everything else that `add` and `rotate` have to say goes to stderr. Nothing here
ever shows a key again, or a hash. A running daemon sees the change by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpproxy.cli.options import EXAMPLE, config_option, unchecked
from mcpproxy.errors import StartError

if TYPE_CHECKING:
    from mcpproxy.config.keyfile import Entry
    from mcpproxy.config.policies import Auth

COLUMNS = ("ID", "NAME", "ROLES", "CREATED", "EXPIRES", "STATE")
LONGEST_LIFE = 100 * 366 * 86_400.0  # seconds: a longer one is a wrong unit


class Lifetime(click.ParamType[float]):
    """`90d`, `12h`: seconds."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from mcpproxy.units import duration

        if isinstance(value, float):
            return value
        try:
            seconds = duration(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if seconds > LONGEST_LIFE or (seconds < 1 and not (seconds == 0 and self._zero)):
            self.fail(f"{value!r}: must be between {'0s' if self._zero else '1s'} and 100 years", param, ctx)
        return seconds


def word(ctx: click.Context, parameter: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A name, or roles."""
    from mcpproxy.config.keyfile import is_word

    for each in (value,) if isinstance(value, str) else value:
        if not is_word(each):
            raise click.BadParameter(
                f"{each!r}: 1 to 64 letters, digits and . _ - @ +, the first of them a letter or digit", ctx, parameter
            )
    return value


def where(command: Callable[..., int]) -> Callable[..., int]:
    """The options that say which file is meant."""
    file = click.option(
        "--file",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        default=None,
        help="The file of keys, instead of the one that the configuration names.",
    )
    auth = click.option("--auth", metavar="NAME", default=None, help="Which [auth.NAME] of the configuration, where several have keys.")
    return config_option(auth(file(command)))


expires_option = click.option("--expires", type=Lifetime(), default=None, metavar="DURATION", help='How long it works, like "90d".')


@click.group("key", epilog=EXAMPLE("mcpproxy key add agent-alpha --expires 90d"))
def command() -> None:
    """API keys: add, list, revoke, rotate.

    They are kept (as hashes) in the file that [auth.NAME] with type = "api-key" names. A running daemon picks changes up within two seconds.
    """


@command.command("add", epilog=EXAMPLE("mcpproxy key add agent-alpha", "KEY=$(mcpproxy key add ci --role deploy --expires 90d)"))
@click.argument("name", callback=word)
@expires_option
@click.option("--role", "roles", multiple=True, callback=word, metavar="ROLE", help="A role of this caller; may be repeated.")
@where
def add(name: str, expires: float | None, roles: tuple[str, ...], config: Path, file: Path | None, auth: str | None) -> int:
    """Make a key for NAME and show it, once.

    NAME is what logs and rules call the caller.
    """
    from mcpproxy.policy import keyring

    place, now = _file(config, file, auth), _now()
    with keyring.changing(place) as entries:
        until = None if expires is None else now + expires
        made = keyring.add(entries, name, roles=tuple(dict.fromkeys(roles)), now=now, expires=until)
        entry = entries[-1]
    _show(made.text, entry, place)
    return 0


@command.command("list", epilog=EXAMPLE("mcpproxy key list"))
@where
def list_(config: Path, file: Path | None, auth: str | None) -> int:
    """Every key: id, name, roles, since and until when, state. Never a key, nor its hash."""
    from mcpproxy.policy import keyring

    now = _now()
    rows = [COLUMNS, *(_row(entry, now) for entry in keyring.read(_file(config, file, auth)))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


@command.command("revoke", epilog=EXAMPLE("mcpproxy key revoke agent-alpha", "mcpproxy key revoke 7h3kq9x2ab"))
@click.argument("who", metavar="NAME|ID|KEY")
@where
def revoke(who: str, config: Path, file: Path | None, auth: str | None) -> int:
    """Let no key of this name, or not this one key, work any more. A key that was found somewhere may be given itself.

    The daemon refuses it within two seconds; streams that are open go on. Its line stays in the list.
    """
    from mcpproxy.policy import keyring

    place, who = _existing(config, file, auth), _id_in(who)
    with keyring.changing(place) as entries:
        gone = keyring.revoke(entries, who, now=_now())
    for entry in gone:
        click.echo(f"mcpproxy: key {entry.id} of {entry.name} is revoked", err=True)
    if not gone:
        click.echo(f"mcpproxy: no key of {who} works: nothing to revoke", err=True)
    return 0


@command.command("rotate", epilog=EXAMPLE("mcpproxy key rotate agent-alpha --grace 24h"))
@click.argument("who", metavar="NAME|ID")
@click.option(
    "--grace", type=Lifetime(zero=True), default="0s", show_default=True, metavar="DURATION", help="How long the present key still works."
)
@expires_option
@where
def rotate(who: str, grace: float, expires: float | None, config: Path, file: Path | None, auth: str | None) -> int:
    """Make a key that takes the place of the present one.

    It has the same name and roles, and is shown once.
    Without --expires it works as long as the present one was made for.
    """
    from mcpproxy.policy import keyring

    place, now = _existing(config, file, auth), _now()
    with keyring.changing(place) as entries:
        made, entry = keyring.rotate(entries, who, now=now, grace=grace, expires=None if expires is None else now + expires)
    _show(made.text, entry, place)
    click.echo(
        f"  the key it replaces works until {_time(keyring.moment(now + grace))}" if grace else "  the key it replaces is revoked", err=True
    )
    return 0


# -- where, when, and how it is said ------------------------------------------------------------------------------------------------------------


def _file(config: Path, file: Path | None, auth: str | None) -> str:
    """The file of keys that is meant."""
    if file is not None:
        return str(file)
    auths = _auths(config)
    files = {name: each.file for name, each in auths.items() if each.type == "api-key" and each.file}
    if auth is not None:
        if auth not in files:
            raise StartError(f'{config}: there is no [auth.{auth}] with type = "api-key"', _choices(files), code=2)
        return files[auth]
    if not files:
        hint = 'add to it:\n  [auth.keys]\n  type = "api-key"\n  file = "keys.jsonl"\nand auth = "keys" to the routes; or name the file with --file'
        raise StartError(f"{config}: nobody comes in by an API key there", hint)
    if len(set(files.values())) > 1:
        raise StartError(f"{config}: several files of keys: which one?", _choices(files), code=2)
    return next(iter(files.values()))


def _auths(file: Path) -> dict[str, Auth]:
    """A leaked key is revoked whatever else is wrong with the configuration just now."""
    from mcpproxy.config.load import ConfigErrors, sketch

    try:
        return unchecked(file, "-c CONFIG names another configuration; --file the keys themselves").config.auth
    except ConfigErrors as errors:
        auths = sketch(file).auth
        if not any(auth.type == "api-key" and auth.file for auth in auths.values()):
            raise
        click.echo(f"mcpproxy: warning: {errors.message}; mcpproxy check names {'it' if len(errors.mistakes) == 1 else 'them'}", err=True)
        return auths


def _existing(config: Path, file: Path | None, auth: str | None) -> str:
    """The same, where there must be one."""
    from mcpproxy.policy import keyring

    place = _file(config, file, auth)
    keyring.read(place)
    return place


def _id_in(who: str) -> str:
    """The id of a key; any other text as it is."""
    from mcpproxy.policy.apikey import KEY_BEGINS, id_of

    if not who.startswith(KEY_BEGINS):
        return who
    found = id_of(who)
    if found is None:
        raise StartError("this begins like a key and is none: its checksum is wrong", "give the whole key, its id, or the name")
    return found


def _choices(files: dict[str, str]) -> str:
    return "\n".join(f"--auth {name}  ({file})" for name, file in files.items())


def _now() -> float:
    from mcpproxy.clock import monotonic, wall_offset

    return monotonic() + wall_offset()


def _show(text: str, entry: Entry, place: str) -> None:
    until = "until it is revoked" if entry.expires is None else f"until {_time(entry.expires)}"
    click.echo(f"mcpproxy: key {entry.id} for {entry.name}, good {until}; this is the only time it is shown:", err=True)
    click.echo(text)
    click.echo(f"  its hash is in {place}", err=True)


def _row(entry: Entry, now: float) -> tuple[str, ...]:
    expires = "never" if entry.expires is None else _time(entry.expires)
    return entry.id, entry.name, ",".join(entry.roles) or "-", _time(entry.created), expires, entry.state(now)


def _time(moment: Any) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
