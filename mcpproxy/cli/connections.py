"""mcpproxy connections: who is connected and what is open; and end one."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.adminclient import admin_option, config_option, find, json_option
from mcpproxy.cli.options import EXAMPLE
from mcpproxy.cli.status import plain


@click.command(
    epilog=EXAMPLE(
        "mcpproxy connections", "mcpproxy connections --streams --principal agent-alpha", "mcpproxy connections --close 1f0a7c22-3d.5"
    )
)
@click.option("--streams", is_flag=True, help="What is open on them instead: requests, streams, tunnels.")
@click.option("--principal", metavar="NAME", help="Only this caller's (with --streams).")
@click.option("--upstream", metavar="NAME", help="Only those of this upstream (with --streams).")
@click.option("--close", "closed", metavar="ID", help="End this connection, or this one exchange of it. Its log line says `stopped`.")
@config_option
@admin_option
@json_option
def command(
    streams: bool, principal: str | None, upstream: str | None, closed: str | None, config: Path | None, admin: str | None, as_json: bool
) -> int:
    """List client connections, or what is open on them.

    One line each: id, client, and what it is doing. Ids are those that request ids in the log begin with.
    """
    import msgspec

    from mcpproxy.units import many

    client = find(config, admin)
    if closed is not None:
        client.post("close", {"id": closed})
        click.echo(f"{closed}: closed")
        return 0
    filters = {name: value for name, value in (("principal", principal), ("upstream", upstream)) if value is not None}
    wide = streams or bool(filters)
    found = False
    for each in client.pages("exchanges" if wide else "connections", **filters):
        found = True
        if as_json:
            click.echo(msgspec.json.encode(each).decode())
        elif wide:
            who = f"{each['principal']} at {each['client']}" if each["principal"] else each["client"]
            to = f"{each['upstream']} ({each['endpoint'] or 'waiting'})"
            click.echo(
                plain(
                    f"{each['id']}  {each['kind']}  {who}  {each['method']} {each['path']}  {to}  {each['age_s']:.0f} s  {each['bytes_out']} B"
                )
            )
        else:
            doing = f"{each['open']} open" if each["open"] else f"idle for {each['idle_s'] or 0:.0f} s"
            click.echo(plain(f"{each['id']}  {each['client']}  {each['protocol']}  {many(each['requests'], 'request')}  {doing}"))
    if not found and not as_json:
        click.echo("nothing is open" if wide else "nobody is connected", err=True)
    return 0
