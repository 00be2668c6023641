"""The embedded MCP server: the official SDK, three tools, in a process of its own.

    python -m mcpproxy.demo.server FD       FD: a bound TCP socket that was inherited

It writes one line to stdout when it serves, and ends when its stdin does: so it never outlives the demo, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

from mcpproxy import __version__

MOST_COUNTED = 1000  # ticks one call of `count` may ask for
GRACE_S = 1  # seconds open streams get when the demo ends

server = MCPServer("mcpproxy-demo", version=__version__, instructions="Three small tools to see a proxy at work.", log_level="WARNING")


@server.tool()
def echo(text: str) -> str:
    """Return the text unchanged."""
    return text


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def count(to: int, context: Context, every_ms: int = 200) -> str:
    """Count slowly and report each step as progress: watch the events arrive one by one."""
    to = max(0, min(to, MOST_COUNTED))
    for number in range(1, to + 1):
        await asyncio.sleep(every_ms / 1000)
        await context.report_progress(number, to, f"{number} of {to}")
    return f"counted to {to}"


class Announced(uvicorn.Server):
    """uvicorn that says when it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("serving", flush=True)


def end_with_stdin(end: Callable[[], None]) -> None:
    """Call `end` when whoever holds the other side of our stdin is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()


def serve(listener: socket.socket) -> None:
    """Serve until stdin ends."""
    config = uvicorn.Config(
        server.streamable_http_app(),
        log_level="warning",
        lifespan="on",
        loop="uvloop",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=60,  # longer than the proxy keeps idle links, so no call meets a closing one
    )
    uvicorn_server = Announced(config)

    def end() -> None:
        uvicorn_server.should_exit = True

    end_with_stdin(end)
    uvicorn_server.run(sockets=[listener])


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
