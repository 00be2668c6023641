"""mcpproxy connect: a remote MCP server, for a client that only starts programs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcpproxy.cli.options import EXAMPLE, state_dir
from mcpproxy.errors import StartError

if TYPE_CHECKING:
    import ssl
    from asyncio import Event

    from mcpproxy.connect.bridge import Bridge
    from mcpproxy.connect.login import Login
    from mcpproxy.connect.remote import Credential, Remote
    from mcpproxy.connect.wire import Wire

OURS = re.compile(  # fields that the transport says itself
    r"host|content-length|content-type|content-encoding|transfer-encoding|connection|accept|accept-encoding|te|upgrade|expect|last-event-id|mcp-.*",
    re.IGNORECASE,
)
HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~]*)")
REFERENCE = re.compile(r"(?:([A-Za-z]+) )?((?:env|file):\S.*)")


def fields_of(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`Name: value`, `Name: env:VARIABLE`, `Authorization: Bearer file:PATH`."""
    from mcpproxy.config.secrets import secret

    found = []
    for each in value:
        match = HEADER.fullmatch(each)
        if match is None:
            raise click.BadParameter("must be 'Name: value', in printable ASCII", ctx, parameter)
        name, said = match[1], match[2].strip()
        if OURS.fullmatch(name):
            raise click.BadParameter(f"{name} is said by mcpproxy itself", ctx, parameter)
        reference = REFERENCE.fullmatch(said)
        if reference is not None:
            said = (f"{reference[1]} " if reference[1] else "") + secret(reference[2])
        found.append((name, said))
    return tuple(found)


def secret_of(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """A reference; a secret itself on the command line is one that every user of this machine can read."""
    from mcpproxy.config.secrets import secret

    if value is None:
        return ""
    if not value.startswith(("env:", "file:")):
        raise click.BadParameter("must be env:VARIABLE or file:PATH", ctx, parameter)
    return secret(value)


def size_of(ctx: click.Context, parameter: click.Parameter, value: str) -> int:
    """`16MiB`."""
    from mcpproxy.units import size

    try:
        found = size(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}", ctx, parameter) from None
    if not 64 << 10 <= found <= 1 << 30:
        raise click.BadParameter(f"{value!r}: must be between 64KiB and 1GiB", ctx, parameter)
    return found


@click.command(
    epilog=EXAMPLE(
        "mcpproxy connect https://mcp.example.com/mcp --oauth",
        "mcpproxy connect https://mcp.example.com/mcp -H 'X-API-Key: env:MCP_KEY'",
        "mcpproxy connect https://bedrock.us-east-1.amazonaws.com/mcp --aws-sigv4 us-east-1/bedrock-agentcore",
        "mcpproxy connect https://127.0.0.1:8443/mcp --cacert ~/.local/state/mcpproxy/ca.pem",
        "mcpproxy connect https://mcp.example.com/mcp --logout",
    )
)
@click.argument("url")
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    callback=fields_of,
    metavar="'NAME: VALUE'",
    help="Sent with every request. VALUE may be env:NAME or file:PATH, also after a word like Bearer; may be repeated.",
)
@click.option("--oauth", is_flag=True, help="Log in with a browser when the server asks for it, and stay logged in.")
@click.option(
    "--client-id", metavar="ID", default="", help="With --oauth: who we are there, where clients are not registered by themselves."
)
@click.option("--client-secret", metavar="REF", callback=secret_of, help="Its secret, if it has one: env:NAME or file:PATH.")
@click.option("--client-metadata", metavar="URL", default="", help="An https URL with a client id metadata document that describes us.")
@click.option("--redirect", metavar="URL", default="", help="Where the browser comes back to.  [default: http://127.0.0.1:PORT/callback]")
@click.option("--scope", metavar="SCOPES", default="", help="What to ask for, instead of what the server says.")
@click.option("--logout", is_flag=True, help="Forget the login for this URL, and end.")
@click.option("--aws-sigv4", metavar="REGION/SERVICE", default="", help="Sign requests for AWS with the credentials of the environment.")
@click.option("--cacert", type=click.Path(dir_okay=False), default=None, help="Authorities to trust instead of the system's (PEM).")
@click.option(
    "--transport", type=click.Choice(["auto", "streamable", "sse"]), default="auto", show_default=True, help="How to speak with the server."
)
@click.option("--max-message", metavar="SIZE", default="16MiB", show_default=True, callback=size_of, help="No message may be larger.")
@state_dir("Where logins are kept (in connect/ there), instead of ~/.local/state/mcpproxy.")
def command(url: str, **given: Any) -> int:
    """The MCP server at URL as a program that speaks MCP on stdin and stdout.

    For clients that only start programs. Messages go through as they are, in every revision of MCP; what there is to say to people is on stderr.
    A network that goes and comes back, and a server that lost the session, are dealt with.
    """
    import asyncio

    if given["aws_sigv4"] and given["oauth"]:
        raise click.UsageError("--oauth and --aws-sigv4: one of them")
    if given["oauth"] and any(name.lower() == "authorization" for name, _ in given["headers"]):
        raise click.UsageError("--oauth says Authorization itself: leave it out of -H")
    return asyncio.run(work(url, given))


async def work(url: str, given: dict[str, Any]) -> int:
    """What the command does, once the command line is understood."""
    from mcpproxy.connect.places import WireError, is_loopback
    from mcpproxy.connect.remote import Remote
    from mcpproxy.connect.wire import Wire

    wire = Wire(lambda: trust(given["cacert"]))
    try:
        credential = credential_of(wire, url, given)
        if given["logout"]:
            return await log_out(wire, url, given)
        lines = "".join(f"{name}: {value}\r\n" for name, value in given["headers"]).encode()
        remote = Remote(wire, url, lines, credential, say, most=given["max_message"])
    except WireError as error:
        raise StartError(error.text, code=2) from None
    if not remote.place.secure and not is_loopback(remote.place.name):
        say(f"warning: {url} is plain http: everybody on the way can read and change what is said")
    trust(given["cacert"])  # a mistake in it is one of the command line
    await talk(remote, given)
    return 0


async def talk(remote: Remote, given: dict[str, Any]) -> None:
    """Between our own stdin and stdout and the server."""
    import asyncio
    import signal

    from mcpproxy.connect.bridge import Bridge, run
    from mcpproxy.connect.lines import Out
    from mcpproxy.connect.older import Older
    from mcpproxy.connect.streamable import Streamable

    stdin, stdout = keep_apart()
    out = Out(stdout)
    transport = given["transport"]
    bridge: Bridge = Bridge(
        remote, out.put, first=Older if transport == "sse" else Streamable, older=Older if transport == "auto" else None
    )
    stop: Event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(bridge, out, stop, stdin=stdin, most=given["max_message"])


def keep_apart() -> tuple[int, int]:
    """stdin and stdout for messages alone: whatever else reads or writes them in this process, or in a browser that it starts, gets nothing and stderr."""
    sys.stdout.flush()
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stdout


def credential_of(wire: Wire, url: str, given: dict[str, Any]) -> Credential:
    """What shows the server who asks."""
    from mcpproxy.connect.remote import Nobody

    if given["aws_sigv4"]:
        from mcpproxy.connect.signed import Signed

        return Signed(given["aws_sigv4"], os.environ)
    if given["oauth"] or given["logout"]:
        return login_of(wire, url, given)
    return Nobody()


def login_of(wire: Wire, url: str, given: dict[str, Any]) -> Login:
    """The login for this URL and client."""
    from mcpproxy.config.model import default_state_dir
    from mcpproxy.connect.documents import safe
    from mcpproxy.connect.login import Login, Wishes
    from mcpproxy.connect.tokens import Store

    metadata, redirect = given["client_metadata"], given["redirect"]
    if metadata:
        safe(metadata)
    if redirect and not re.fullmatch(r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?/\S*", redirect):
        raise StartError(f"--redirect {redirect}: must be http://127.0.0.1:PORT/… or the same with localhost or [::1]", code=2)
    directory = Path(given["state_dir"] or default_state_dir()) / "connect"
    wishes = Wishes(given["client_id"], given["client_secret"], metadata, redirect, given["scope"])
    return Login(wire, url, Store(directory, url, given["client_id"] or metadata), say, wishes)


async def log_out(wire: Wire, url: str, given: dict[str, Any]) -> int:
    """`--logout`."""
    gone = await login_of(wire, url, given).log_out()
    wire.close()
    say(f"logged out of {url}" if gone else f"there is no login for {url}: nothing to forget")
    return 0


def trust(cacert: str | None) -> ssl.SSLContext:
    """Whose certificates are believed."""
    from mcpproxy.net.tls import client_context

    return client_context(cacert, verify=True)


def say(text: str) -> None:
    """For people. Never waits for somebody to read it."""
    from mcpproxy.observe.messages import Messages

    Messages("info").say("info", text)
