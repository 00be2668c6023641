"""mcpproxy policy test: do the rules say what they are meant to? A table of calls and verdicts, for CI."""

from __future__ import annotations

from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE, config_option, unchecked
from mcpproxy.errors import StartError

CASES = """\
\b
CASES is a TOML file:
  [[case]]
  who = "agent-alpha"            # and roles, scopes; without it nobody is named
  tool = "read_file"             # and method, unless it is "tools/call"
  args = { path = "/srv/a" }
  expect = "allow"               # or "deny"
  rule = "route[0].tools.allow[0]"   # the rule that shall decide, if it matters
  route = "/files"               # where more than one route has rules

"""


@click.group("policy", epilog=EXAMPLE("mcpproxy policy test cases.toml -c mcpproxy.toml"))
def command() -> None:
    """Policies: test what the rules say."""


@command.command("test", epilog=CASES + EXAMPLE("mcpproxy policy test cases.toml -c mcpproxy.toml"))
@click.argument("cases", type=click.Path(path_type=Path, readable=False))
@config_option
def test(cases: Path, config: Path) -> int:
    """Do the rules say what CASES expects?

    The output is TAP: a line for each case, "ok" or "not ok".

    Exit status 0: all as expected. 1: not all, or a file has mistakes.
    """
    from mcpproxy.cli.explain import Asked, judged, route_of, told
    from mcpproxy.config.cases import Cases
    from mcpproxy.config.load import read_tables
    from mcpproxy.config.mistakes import ConfigErrors, Mistake

    loaded = unchecked(config, "-c FILE names another one")
    try:
        expected, lines = read_tables(Cases, cases)
    except OSError as error:
        raise StartError(f"{cases}: {error.strerror or error}") from None
    routes: list[int] = []
    mistakes: list[Mistake] = []
    for number, case in enumerate(expected.case):
        try:
            routes.append(route_of(loaded, case.route))
        except StartError as error:
            message = ": ".join([error.message, *error.hint.split("\n")]) if error.hint else error.message
            place = ("case", number, "route")
            mistakes.append(Mistake(f"case[{number}].route", lines.get(place) or lines.get(place[:2]), message))
        if case.who is None and (case.roles or case.scopes):
            mistakes.append(Mistake(f"case[{number}]", lines.get(("case", number)), "roles and scopes belong to a caller: give `who` too"))
    if mistakes:
        raise ConfigErrors(mistakes, str(cases))
    click.echo(f"TAP version 13\n1..{len(expected.case)}")
    failed = 0
    for number, (case, route) in enumerate(zip(expected.case, routes, strict=True)):
        asked = Asked(case.who, case.roles, case.scopes, case.method, case.tool, case.args, case.read_only)
        verdict = judged(loaded, route, asked)
        fine = verdict.allowed is (case.expect == "allow") and case.rule in (None, verdict.rule)
        failed += not fine
        click.echo(f"{'ok' if fine else 'not ok'} {number + 1} - {(case.name or str(asked)).replace('#', ' ')}")
        if not fine:
            wanted = case.expect + (f" by {case.rule}" if case.rule else "")
            line = lines.get(("case", number))
            click.echo(f"  # line {line}: expected {wanted}\n  # got {'allow' if verdict.allowed else 'deny'} by {told(loaded, verdict)}")
    if failed:
        click.echo(f"# {failed} of {len(expected.case)} not as expected")
    return 1 if failed else 0
