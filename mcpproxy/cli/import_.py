"""mcpproxy import: another program's configuration, as ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from mcpproxy.cli.options import EXAMPLE
from mcpproxy.errors import StartError
from mcpproxy.migrate.found import Found, Unusable
from mcpproxy.units import many

LARGEST = 4 << 20  # bytes, as of our own configuration
FORMATS = ("clients", "named-servers", "litellm", "nginx", "caddy", "mcp-proxy", "mcp-proxy-pypi", "mcp-proxy-npm")


@click.command(
    "import",
    epilog=EXAMPLE(
        "mcpproxy import ~/.config/Claude/claude_desktop_config.json > mcpproxy.toml",
        "mcpproxy import /etc/nginx/sites-enabled/mcp.conf > mcpproxy.toml",
        "echo 'mcp-proxy --port 8096 -- uvx mcp-server-fetch' | mcpproxy import -",
    ),
)
@click.argument("file")
@click.option("--from", "source", type=click.Choice(FORMATS), help="What FILE is.  [default: told from its content]")
def command(file: str, source: str | None) -> int:
    """Print the configuration that does what FILE does: mcpServers JSON (Claude Desktop, Cursor, VS Code), LiteLLM, nginx, a Caddyfile, or a command line
    of one of the two programs called mcp-proxy. `-` reads stdin.

    Secrets are not taken over: they become references, and the variables to set are listed on stderr, with everything that has no equivalent.

    Exit status 0: read it, then run it. 1: nothing in FILE could be used.
    """
    from mcpproxy.config.load import ConfigErrors, load
    from mcpproxy.migrate.recognise import READERS, format_of
    from mcpproxy.migrate.toml import settled

    text = text_of(file)
    try:
        found = READERS[source or format_of(text)](text)
    except Unusable as error:
        raise StartError(f"{file}: {error}") from None
    if not found.routes:
        tell(found)
        raise StartError(f"{file}: nothing in it could be used")
    written = settled(found, found.source)
    click.echo(written, nl=False)
    tell(found)
    try:
        load(written)
    except ConfigErrors as errors:
        raise StartError("what was printed is no whole configuration yet", "\n".join(str(each) for each in errors.mistakes)) from None
    return 0


def text_of(file: str) -> str:
    """The text of a file, or of stdin. Raises StartError."""
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(file).open("rb") as stream:
                raw = stream.read(LARGEST + 1)
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}") from None
    if len(raw) > LARGEST:
        raise StartError(f"{file}: larger than {LARGEST >> 20} MiB: this is no configuration")
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise StartError(f"{file}: is no text in UTF-8") from None
    return text.replace("\r\n", "\n").replace("\0", "\N{REPLACEMENT CHARACTER}")


def tell(found: Found) -> None:
    """What the operator has to do, and what was lost."""
    for line in told(found):
        click.echo(line, err=True)


def told(found: Found) -> Iterator[str]:
    """Line by line."""
    served = sum("members" not in part.keys for part in found.upstreams)
    yield f"mcpproxy: read as {found.source}: {many(served, 'upstream')}, {many(len(found.routes), 'route')}"
    if found.variables:
        yield "  to be set in the environment of the daemon (no value was taken over):"
        yield from (f"    {name}: {about}" for name, about in sorted(found.variables.items()))
    if found.notes:
        yield "  no equivalent, or yours to decide:"
        yield from (f"    {note.place}: {note.text}" if note.place else f"    {note.text}" for note in found.notes)
