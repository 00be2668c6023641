"""The MCP checks against a real server of the official SDK."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mcpproxy.config.upstreams import Health
from mcpproxy.control.checks import Sick, Watched, check
from mcpproxy.upstream.endpoint import Endpoint


@pytest.fixture
def server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-m", "mcpproxy.demo.server", str(sock.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[sock.fileno()], env=dict(os.environ))
    assert process.stdout is not None
    assert process.stdout.readline(), "it serves"
    yield url
    process.communicate(timeout=10)


@pytest.mark.asyncio
async def test_a_server_of_the_sdk_is_well_by_every_check(server: str) -> None:
    place = Endpoint(server, None)
    for health in (Health(check="tcp"), Health(check="initialize"), Health(check="discover")):
        assert await check(Watched("u", server, health, None, place, place.authority))
    with pytest.raises(Sick, match="status 40"):
        await check(Watched("u", server, Health(path="/mcp"), None, place, place.authority))
