"""What the demo shows: lines that work when they are pasted into a shell, on any terminal, and nothing that breaks them.

1. What can be pasted is printed as it is, never wrapped or boxed; a terminal may wrap it on the screen, the clipboard stays whole.
2. Paths are absolute, so the other terminal may stand anywhere.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}},
}
PROGRAM = """\
import asyncio
from mcp import Client

async def main():
    async with Client("{url}") as client:
        print("tools:", [tool.name for tool in (await client.list_tools()).tools])
        print("2 + 3 =", (await client.call_tool("add", {{"a": 2, "b": 3}})).content[0].text)

        async def progress(done, total, message):
            print("progress:", message)

        await client.call_tool("count", {{"to": 5}}, progress_callback=progress)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """What runs where."""

    url: str
    ca: Path
    upstream: str

    def curl(self) -> str:
        """One command: says `initialize`, prints the answer event."""
        body = shlex.quote(json.dumps(INITIALIZE, separators=(",", ":")))
        headers = "-H 'content-type: application/json' -H 'accept: application/json, text/event-stream'"
        return f"curl -sS --cacert {shlex.quote(str(self.ca))} {self.url} {headers} -d {body}"

    def snippet(self) -> str:
        """One command: an SDK client lists the tools, calls one, and watches another count."""
        environment = f"SSL_CERT_FILE={shlex.quote(str(self.ca))}"
        return f"{environment} {shlex.quote(sys.executable)} - <<'END'\n{PROGRAM.format(url=self.url)}END"


def show(scene: Scene, console: Console | None = None) -> None:
    """Print the scene."""
    console = console or Console(highlight=False)

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    say("")
    say(f"  {scene.url}", "bold green")
    say(f"  HTTPS by mcpproxy, in front of an MCP server at {scene.upstream}/mcp (tools: echo, add, count)")
    say("")
    say("From another terminal, with curl:", "bold")
    say("")
    say(scene.curl(), "cyan")
    say("")
    say("With the MCP SDK (paste all of it):", "bold")
    say("")
    say(scene.snippet(), "cyan")
    say("")
    say(f"Browsers and clients that should trust it need this root once: {scene.ca}")
    say("Every request appears below as one JSON line. Ctrl-C ends the demo.", "dim")
    say("")
    console.file.flush()
