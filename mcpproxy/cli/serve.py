"""mcpproxy serve: one MCP server, no file."""

from __future__ import annotations

import click

from mcpproxy.cli.options import EXAMPLE, TERMINAL_DRAIN_S, announce, quick, say, state_dir_option


@click.command(
    epilog=EXAMPLE(
        "mcpproxy serve http://127.0.0.1:8000",
        "mcpproxy serve -- npx -y @modelcontextprotocol/server-filesystem /srv/data",
        "mcpproxy serve unix:/run/server.sock --listen 127.0.0.1:9443",
        "mcpproxy serve http://127.0.0.1:8000 --listen 127.0.0.1:8080 --no-tls",
    )
)
@click.argument("words", nargs=-1, required=True, metavar="URL | -- COMMAND [ARGUMENT]...")
@click.option("--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH.  [default: 127.0.0.1:8443; with --no-tls 127.0.0.1:8080]")
@click.option("--no-tls", is_flag=True, help="Plain HTTP, for a listener that only this machine can reach.")
@click.option(
    "--bridge", is_flag=True, help="Speak MCP ourselves: clients of every kind (old, new, HTTP+SSE), whatever the server at URL speaks."
)
@state_dir_option
def command(words: tuple[str, ...], listen: str | None, no_tls: bool, bridge: bool, state_dir: str | None) -> int:
    """Put HTTPS in front of an MCP server, with a development certificate: one at URL, or a COMMAND that is started and spoken to over stdin and stdout.

    Requests keep their path: a server at URL/mcp is found at /mcp here. A command works in this directory, with this environment, and ends
    with us. Ctrl-C lets open streams end for 10 s, the second one ends at once. `mcpproxy run` with a file can change everything else.
    """
    from mcpproxy.config.check import unwise
    from mcpproxy.config.load import is_command
    from mcpproxy.ops.supervise import run
    from mcpproxy.pki import devca

    config = quick(words, listen, no_tls, state_dir, bridge=bridge)
    for finding in unwise(config):
        say(config, "warning", f"mcpproxy: warning: {'--listen' if finding.place[0] == 'listen' else 'URL'}: {finding.message}")

    def ready(urls: list[str]) -> None:
        announce(config, urls)
        what = f"in front of {words[0]}; the server's /mcp is /mcp here"
        if config.upstream["server"].gateway:
            what = f"{' '.join(words) if is_command(words) else words[0]} is at {', '.join(f'{url}/mcp' for url in urls)}"
        click.echo(f"  {what}", err=True)
        if not no_tls:
            click.echo(f"  clients must trust {devca.files(config.state_dir).ca}   (how: mcpproxy cert dev)", err=True)

    return run(config, drain=TERMINAL_DRAIN_S, ready=ready)
