"""mcpproxy endpoints: which servers are behind it, and take one out or back."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.adminclient import admin_option, config_option, find, json_option
from mcpproxy.cli.options import EXAMPLE
from mcpproxy.cli.status import plain

STATES = ("drain", "enable", "disable")


@click.command(
    epilog=EXAMPLE(
        "mcpproxy endpoints", "mcpproxy endpoints drain search 127.0.0.1:8001", "mcpproxy endpoints enable search http://127.0.0.1:8001"
    )
)
@click.argument("state", required=False, type=click.Choice(STATES))
@click.argument("upstream", required=False)
@click.argument("endpoint", required=False)
@config_option
@admin_option
@json_option
def command(state: str | None, upstream: str | None, endpoint: str | None, config: Path | None, admin: str | None, as_json: bool) -> int:
    """List the endpoints of all upstreams; or change one.

    drain: no new calls but those of sessions that live there. disable: none at all. enable: back again. What is open goes on. It holds until the daemon
    ends, or somebody says otherwise.
    """
    import msgspec

    client = find(config, admin)
    if state is not None:
        if upstream is None or endpoint is None:
            raise click.UsageError(f"which one? mcpproxy endpoints {state} UPSTREAM ENDPOINT")
        client.post("endpoint", {"upstream": upstream, "endpoint": label(endpoint), "state": state})
        click.echo(f"upstream {upstream}: {endpoint}: {state}")
        return 0
    found = client.get("upstreams")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return 0
    for name, pool in found.items():
        for each in pool["endpoints"]:
            click.echo(plain(f"{name}  {each['label']}  {each['state']}"))
    return 0


def label(endpoint: str) -> str:
    """An endpoint may be given by its URL."""
    from mcpproxy.upstream.endpoint import Endpoint

    if endpoint.startswith(("http://", "https://")):
        return Endpoint(endpoint.rstrip("/"), None).label
    return endpoint
