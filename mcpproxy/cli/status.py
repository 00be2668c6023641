"""mcpproxy status: how is it? For people a few lines, for scripts JSON and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mcpproxy.cli.adminclient import admin_option, config_option, find, json_option
from mcpproxy.cli.options import EXAMPLE


@click.command(epilog=EXAMPLE("mcpproxy status", "mcpproxy status --json | jq .upstreams"))
@config_option
@admin_option
@json_option
def command(config: Path | None, admin: str | None, as_json: bool) -> int:
    """How the running daemon is: workers, streams, endpoints, certificates.

    Exit status 0: all is well. 1: something needs a look (it is named), or no daemon answers.
    """
    import msgspec

    look = find(config, admin).get("status")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(look), indent=2).decode())
    else:
        for line in lines(look):
            click.echo(line)
    return 0 if look["health"] == "ok" else 1


def lines(look: dict[str, Any]) -> list[str]:
    """What a person wants to know first."""
    from mcpproxy.units import show_duration

    kinds = look["open"]["kinds"]
    streams = kinds.get("stream", 0) + kinds.get("tunnel", 0)
    said = [
        f"mcpproxy {look['version']}: {look['health']}, up {show_duration(float(look['uptime_s']))}, generation {look['generation']}, process {look['pid']}",
        f"  {look['requests']} requests, {look['connections'].get('open', 0)} connections, {streams} streams open",
        "  workers: " + ", ".join(f"{each['number']} (process {each['pid']}) {each['state']}" for each in look["workers"]),
    ]
    gateway = look.get("gateway") or {"members": {}, "upstreams": {}}
    for name, upstream in look["upstreams"].items():
        about = f"{upstream['in_use']} in use, {upstream['waiting']} waiting; "
        states = ", ".join(f"{each['label']} {each['state']}" for each in upstream["endpoints"])
        inside = gateway["upstreams"].get(name)
        if inside is not None:
            about += f"{inside['sessions']} sessions, {inside['streams']} streams; {', '.join(inside['members'])}"
        elif name in gateway["members"] and not any(each["in_use"] or each["idle"] for each in upstream["endpoints"]):
            continue  # nobody asks it but by way of the gateway: it has a line as a member
        else:
            about += states
        said.append(f"  upstream {name}: {about}")
    said += [member_line(name, member) for name, member in gateway["members"].items()]
    for each in look["certificates"]:
        left = "not there yet" if each["days"] is None else f"{each['days']:.0f} days"
        said.append(f"  certificate {', '.join(each['names'][:3])} ({each['source']}): {left}")
    said += [f"  ! {plain(problem)}" for problem in look["problems"]]
    return [plain(line) for line in said]


def member_line(name: str, member: dict[str, Any]) -> str:
    """How a member of the gateway process is."""
    pids = member.get("pids") or ()
    state = str(member.get("state", ""))
    if pids:
        state += f", {'processes' if len(pids) > 1 else 'process'} {', '.join(map(str, pids))}"
    counted = ", ".join(f"{member.get(key, 0)} {key}" for key in ("calls", "errors", "restarts"))
    why = f"; {member['last_error']}" if member.get("last_error") else ""
    return f"  member {name}: {state}; {counted}{why}"


def plain(text: str) -> str:
    """Without what a terminal would obey: names come from clients."""
    return "".join(character if character.isprintable() else "?" for character in text)
