"""mcpproxy serve: one MCP server, no file."""

from __future__ import annotations

import click

from mcpproxy.cli.options import EXAMPLE, TERMINAL_DRAIN_S, announce, quick, say, state_dir_option


@click.command(
    epilog=EXAMPLE(
        "mcpproxy serve http://127.0.0.1:8000",
        "mcpproxy serve unix:/run/server.sock --listen 127.0.0.1:9443",
        "mcpproxy serve http://127.0.0.1:8000 --listen 127.0.0.1:8080 --no-tls",
    )
)
@click.argument("url")
@click.option("--listen", metavar="ADDRESS", help="HOST:PORT or unix:PATH.  [default: 127.0.0.1:8443; with --no-tls 127.0.0.1:8080]")
@click.option("--no-tls", is_flag=True, help="Plain HTTP, for a listener that only this machine can reach.")
@state_dir_option
def command(url: str, listen: str | None, no_tls: bool, state_dir: str | None) -> int:
    """Put HTTPS in front of the MCP server at URL, with a development certificate.

    Requests keep their path: a server at URL/mcp is found at /mcp here. Ctrl-C lets open streams end for 10 s, the second one ends
    at once. `mcpproxy run` with a file can change everything else.
    """
    from mcpproxy.config.check import unwise
    from mcpproxy.ops.supervise import run
    from mcpproxy.pki import devca

    config = quick(url, listen, no_tls, state_dir)
    for finding in unwise(config):
        say(config, "warning", f"mcpproxy: warning: {'--listen' if finding.place[0] == 'listen' else 'URL'}: {finding.message}")

    def ready(urls: list[str]) -> None:
        announce(config, urls)
        click.echo(f"  in front of {url}; the server's /mcp is /mcp here", err=True)
        if not no_tls:
            click.echo(f"  clients must trust {devca.files(config.state_dir).ca}   (how: mcpproxy cert dev)", err=True)

    return run(config, drain=TERMINAL_DRAIN_S, ready=ready)
