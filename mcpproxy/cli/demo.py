"""mcpproxy demo: everything on one machine, in one command."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import click
from msgspec import structs

from mcpproxy.cli.options import EXAMPLE, TERMINAL_DRAIN_S, quick, state_dir_option
from mcpproxy.errors import StartError

PLACEHOLDER = "http://127.0.0.1:1"  # stands for the server while only the address is looked at


@click.command(epilog=EXAMPLE("mcpproxy demo", "mcpproxy demo --listen 127.0.0.1:9443"))
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="ADDRESS", help="Where to serve HTTPS.")
@state_dir_option
def command(listen: str, state_dir: str | None) -> int:
    """An embedded MCP server behind HTTPS with a development certificate; prints lines to try.

    Needs the MCP SDK: pip install '.[demo]' in a checkout (`make demo` does it by itself).
    """
    from mcpproxy.demo.child import DemoServer
    from mcpproxy.demo.screen import Scene, show
    from mcpproxy.ops.supervise import run
    from mcpproxy.pki import devca

    if find_spec("mcp") is None or find_spec("uvicorn") is None:
        raise StartError("the demo needs the MCP SDK, which is not installed", "in a checkout: pip install '.[demo]', or make demo")
    refuse_taken(quick([PLACEHOLDER], listen, no_tls=False, state_dir=state_dir).listen[0].address)

    deaths: list[int] = []

    def died(status: int) -> None:
        deaths.append(status)
        click.echo(f"mcpproxy: the demo's MCP server ended by itself (status {status})", err=True)
        os.kill(os.getpid(), signal.SIGTERM)

    with DemoServer(died) as server:
        config = structs.replace(quick([server.url], listen, no_tls=False, state_dir=state_dir), workers=1)

        def ready(urls: list[str]) -> None:
            show(Scene(url=f"{urls[0]}/mcp", ca=devca.files(config.state_dir).ca, upstream=server.url))

        status = run(config, drain=TERMINAL_DRAIN_S, ready=ready, say_counts=False)
    return 1 if deaths else status


def refuse_taken(listen: str) -> None:
    """Say at once, and with the way out, that the address is taken: the proxy itself would find out only after the server started."""
    from mcpproxy.net.listener import Address, bind

    try:
        bind(Address.parse(listen)).close()
    except StartError as error:
        raise StartError(error.message, f"{error.hint}\nmcpproxy demo --listen 127.0.0.1:9443 (make demo LISTEN=127.0.0.1:9443)") from None
