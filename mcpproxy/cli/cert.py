"""mcpproxy cert: certificates."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpproxy.cli.options import EXAMPLE, config_option, state_dir_option, unchecked, with_state_dir

if TYPE_CHECKING:
    from mcpproxy.control.certificates import Expiry

TRUST = """\
trust the root for one program:
  curl --cacert {ca} …
  SSL_CERT_FILE={ca} python …
  NODE_EXTRA_CA_CERTS={ca} node …
or once for this machine (Debian); Node and many Python programs bring their own roots and still need the lines above:
  sudo cp {ca} /usr/local/share/ca-certificates/mcpproxy-dev.crt && sudo update-ca-certificates"""


@click.group("cert", epilog=EXAMPLE("mcpproxy cert list", "mcpproxy cert dev"))
def command() -> None:
    """Certificates: see when they end, make the development ones."""


@command.command(
    "list", epilog=EXAMPLE("mcpproxy cert list -c mcpproxy.toml", "mcpproxy cert list --json | jq '.[] | select(.days_left < 14)'")
)
@config_option
@state_dir_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(config: Path, state_dir: str | None, as_json: bool) -> int:
    """Every certificate of a configuration, and when it ends.

    Also where it comes from, its names, when it is renewed, and what went wrong the last time. Reads what lies on the disk; whether the daemon runs does
    not matter.
    """
    from mcpproxy.clock import unix
    from mcpproxy.control.certificates import expiries

    now = unix()
    found = [(each, _row(each, now)) for each in expiries(with_state_dir(unchecked(config, "-c FILE names another one").config, state_dir))]
    if as_json:
        click.echo(json.dumps([row for _, row in found], indent=2))
        return 0
    for each, row in found:
        click.echo(f"{row['name']}  ({', '.join(row['hosts']) or 'no names'})")
        missing = {"file": "cannot be read", "dev": "is made at the start", "acme": "not there yet: clients see a self-made one"}
        ends = f"ends {row['not_after']}, {row['days_left']} days left" if row["not_after"] else missing[row["source"]]
        if each.end and each.end <= now:
            ends = f"ENDED {row['not_after']}: clients refuse it"
        renewal = f"; by ACME, {'asked for' if not row['not_after'] else 'renewed'} from {row['renewal']} on" if row["renewal"] else ""
        click.echo(f"  {ends}{renewal}")
        if row["last_error"]:
            again = f" ({row['failures']} times in a row)" if row["failures"] > 1 else ""
            click.echo(f"  the last time: {row['last_error']}{again}")
    if not found:
        click.echo("no certificates: no listener has tls")
    return 0


def _row(each: Expiry, now: float) -> dict[str, Any]:
    return {
        "name": each.name,
        "source": each.source,
        "hosts": list(each.hosts),
        "not_before": _date(each.begin),
        "not_after": _date(each.end),
        "days_left": round((each.end - now) / 86_400, 1) if each.end else None,
        "renewal": _date(max(each.renewal, now)) if each.source == "acme" else None,
        "last_error": each.error or None,
        "failures": each.failures,
    }


def _date(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


@command.command("dev", epilog=EXAMPLE("mcpproxy cert dev", "mcpproxy cert dev --host mcp.test --host 192.168.1.20"))
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Another name or address to be good for; may be repeated.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path, readable=False),
    default=None,
    envvar="MCPPROXY_CONFIG",
    show_envvar=True,
    help="The configuration file whose state directory is meant.",
)
@state_dir_option
def dev(hosts: tuple[str, ...], config: Path | None, state_dir: str | None) -> int:
    """Make a development root and a certificate for this machine, or renew what is close to its end.

    Good for localhost, 127.0.0.1, ::1, this machine's name, and every --host of this call and earlier ones.
    """
    from mcpproxy.config.model import default_state_dir
    from mcpproxy.pki import devca

    if state_dir is None and config is not None:
        state_dir = unchecked(config, "-c FILE names another one").config.state_dir
    files = devca.ensure(state_dir or default_state_dir(), hosts)
    click.echo(f"root         {files.ca}\ncertificate  {files.cert}\nkey          {files.key}\n")
    click.echo(TRUST.format(ca=files.ca))
    return 0
