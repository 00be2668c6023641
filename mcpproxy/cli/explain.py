"""mcpproxy explain: what the rules of a route say about one call, by the very code that judges it when it comes.

The call is written down as a client would send it, so what is refused before any rule is asked (another Unicode form of a name, a key that is there
twice) is refused here too. The command `policy` asks the same about a table of calls.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from mcpproxy.cli.options import EXAMPLE, config_option, unchecked
from mcpproxy.errors import StartError

if TYPE_CHECKING:
    from mcpproxy.config.load import Loaded
    from mcpproxy.policy.tools import Rules, Verdict
    from mcpproxy.policy.verdict import Principal


@dataclass(frozen=True, slots=True)
class Asked:
    """A call and its caller, in an operator's words."""

    who: str | None
    roles: Sequence[str]
    scopes: Sequence[str]
    method: str
    tool: str | None
    args: str | None  # JSON
    read_only: bool

    def __str__(self) -> str:
        return f"{self.who or 'nobody'}: {self.method}" + (f" {self.tool}" if self.tool is not None else "")

    def body(self) -> bytes:
        """The request, as it would be sent."""
        from mcpproxy.mcp.call import NAMED_BY

        params = []
        if self.tool is not None and self.method == "completion/complete":
            kind, key = ("resource", "uri") if ":" in self.tool else ("prompt", "name")
            params.append(f'"ref":{{"type":"ref/{kind}",{json.dumps(key)}:{json.dumps(self.tool)}}}')
        elif self.tool is not None:
            params.append(f'"{NAMED_BY.get(self.method, "name")}":{json.dumps(self.tool)}')
        if self.args is not None:
            params.append(f'"arguments":{self.args}')
        told = f'{{"jsonrpc":"2.0","id":1,"method":{json.dumps(self.method)},"params":{{{",".join(params)}}}}}'
        return told.encode("utf-8", "surrogatepass")


def _is_json(args: str) -> bool:
    """Meant as an object, whatever the rules will think of it."""
    try:
        return isinstance(json.loads(args), dict)
    except (ValueError, RecursionError):
        return False


def judged(loaded: Loaded, route: int, asked: Asked) -> Verdict:
    """What becomes of the call on this route."""
    from mcpproxy.mcp.call import calls_of
    from mcpproxy.mcp.jsonrpc import CallError
    from mcpproxy.policy.tools import Verdict

    rules = _rules(loaded, route, asked)
    if rules is None:
        return Verdict(True, f"route[{route}]")
    try:
        return rules.seen_by(_principal(asked)).judge_all(calls_of(asked.body()))
    except CallError as error:
        return Verdict(False, f"route[{route}].tools", error.kind)


def nearest(loaded: Loaded, route: int, asked: Asked) -> str:
    """Of a call that no rule allows: which rule comes nearest, and what of it does not fit. "": there is none, or nobody can say."""
    from mcpproxy.mcp.call import calls_of
    from mcpproxy.mcp.jsonrpc import CallError

    rules = _rules(loaded, route, asked)
    try:
        miss = rules.nearest(_principal(asked), calls_of(asked.body())[0]) if rules is not None else None
    except CallError:  # arguments that are there twice are judged only where a rule that fits asks for them
        return ""
    if miss is None:
        return ""
    rule: object = loaded.config.route[route].tools
    for name, number in re.findall(r"\.(allow|deny)\[(\d+)\]", miss.rule):
        rule = getattr(rule, name)[int(number)]
    return f"nearest: {_placed(loaded, miss.rule)}: {'; '.join(_missed(rule, key, asked) for key in miss.keys)}"


def _missed(rule: Any, key: str, asked: Asked) -> str:
    """Why a rule does not fit."""
    if key == "who":
        return f"`who = {_shown(rule.who)}` {'does not name this caller' if asked.who is not None else 'asks for somebody with a name'}"
    if key in ("methods", "tools"):
        return f"`{key} = {_shown(getattr(rule, key))}` does not name {asked.method if key == 'methods' else asked.tool}"
    name, _, condition = key.removeprefix("args.").rpartition(".")
    if name in rule.args:
        return f"argument `{name}` is not certainly `{condition} = {_shown(getattr(rule.args[name], condition))}`"
    return f"argument `{key.removeprefix('args.')}` is missing"


def _shown(value: object) -> str:
    """As it could stand in the file."""
    return json.dumps(value, ensure_ascii=False)


def _principal(asked: Asked) -> Principal | None:
    from mcpproxy.policy.verdict import Principal

    return None if asked.who is None else Principal(asked.who, "explain", frozenset(asked.roles), frozenset(asked.scopes))


def _rules(loaded: Loaded, route: int, asked: Asked) -> Rules | None:
    from mcpproxy.policy.hints import Hints
    from mcpproxy.policy.tools import Rules

    tools = loaded.config.route[route].tools
    hints = Hints()
    if asked.read_only:
        hints.learn(json.dumps({"tools": [{"name": asked.tool, "annotations": {"readOnlyHint": True}}]}).encode())
    return None if tools is None else Rules(tools, f"route[{route}]", hints)


def route_of(loaded: Loaded, given: str | None) -> int:
    """The route that is meant: a number, a URL or path, or the only one with rules. Raises StartError."""
    from mcpproxy.edge.router import Router

    routes = loaded.config.route
    if given is None:
        choices = [number for number, route in enumerate(routes) if route.tools is not None] or list(range(len(routes)))
        if len(choices) == 1:
            return choices[0]
        listed = [f"{number}  {routes[number].path}  {' '.join(routes[number].host)}".rstrip() for number in choices]
        raise StartError("which route?" if listed else "there is no route", "\n".join(listed))
    if given.isascii() and given.isdigit():
        if int(given) < len(routes):
            return int(given)
        raise StartError(f"there is no route {given}", f"the last one is {len(routes) - 1}")
    url = urlsplit(given)
    try:
        host, path = (url.hostname or "").encode("idna"), url.path.encode("ascii")
    except UnicodeError:
        raise StartError(f"{given}: not a URL", "write what is not ASCII as %XX") from None
    found = Router(routes).find(host, path or b"/")
    if found is None:
        raise StartError(f"no route serves {given}", "a path alone (/mcp) stands for any host")
    return found


def told(loaded: Loaded, verdict: Verdict) -> str:
    """A verdict in one line: by which rule, where it stands, and why."""
    from mcpproxy.http.replies import MESSAGES

    place = _placed(loaded, verdict.rule)
    return f"{place}: {MESSAGES[verdict.reason]} [{verdict.reason}]" if verdict.reason else place


def _placed(loaded: Loaded, rule: str) -> str:
    """A rule, and where it stands."""
    line = _line(loaded, rule)
    return f"{rule} (line {line})" if line else rule


def _line(loaded: Loaded, rule: str) -> int | None:
    """The line of the rule in the file, or of the nearest table around it that stands there."""
    from mcpproxy.config.mistakes import show_path

    lines = {show_path(place): line for place, line in loaded.lines.items()}
    while rule and rule not in lines:
        rule = rule.rpartition(".")[0]
    return lines.get(rule)


@click.command(
    epilog=EXAMPLE(
        "mcpproxy explain -c mcpproxy.toml --as agent-alpha --tool search_docs",
        """mcpproxy explain --route /files --as agent-alpha --role ops --tool read --args '{"path": "/srv/a"}'""",
        "mcpproxy explain --route 1 --method resources/read --tool file:///srv/a",
    )
)
@config_option
@click.option(
    "--route", metavar="N|URL", help="The route: its number (the first is 0), a URL or a path. [default: the only one with rules]"
)
@click.option("--as", "who", metavar="NAME", help="The caller's name. Without it nobody is named.")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of the caller; may be repeated.")
@click.option("--scope", "scopes", multiple=True, metavar="SCOPE", help="A scope of the caller; may be repeated.")
@click.option("--method", default="tools/call", show_default=True, help="The JSON-RPC method.")
@click.option("--tool", metavar="NAME", help="The tool (or prompt, URI of a resource, id of a task).")
@click.option("--args", metavar="JSON", help="The arguments of the call.")
@click.option("--read-only", is_flag=True, help="Suppose the tool says of itself that it changes nothing.")
def command(
    config: Path,
    route: str | None,
    who: str | None,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    method: str,
    tool: str | None,
    args: str | None,
    read_only: bool,
) -> int:
    """May this caller make this call, and which rule says so?

    Exit status 0: allowed. 1: denied, or it cannot be said.
    """
    from mcpproxy.mcp.call import NAMED_BY

    if who is None and (roles or scopes):
        raise click.UsageError("--role and --scope belong to a caller: give --as NAME too")
    if tool is None and method in NAMED_BY:
        raise click.UsageError(f"{method} names something: give --tool NAME too")
    if args is not None and not _is_json(args):
        raise click.UsageError("--args is not a JSON object, like '{\"limit\": 5}'")
    loaded = unchecked(config, "-c FILE names another one")
    number = route_of(loaded, route)
    verdict = judged(loaded, number, asked := Asked(who, roles, scopes, method, tool, args, read_only))
    click.echo(f"{'allowed' if verdict.allowed else 'denied'}  {asked}\n  {told(loaded, verdict)}")
    if verdict.reason == "call-not-allowed" and (near := nearest(loaded, number, asked)):
        click.echo(f"  {near}")
    tools = loaded.config.route[number].tools
    if tools is None:
        click.echo("  This route has no [route.tools]: everybody may call everything.")
    elif tools.shadow and not verdict.allowed:
        click.echo("  shadow = true: it would be let through, and written into the audit log.")
    return 0 if verdict.allowed else 1
