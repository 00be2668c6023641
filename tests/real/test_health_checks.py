"""The MCP checks against a real server of the official SDK."""

import os
import socket
import subprocess
import sys

import pytest

from mcpproxy.config.upstreams import Health
from mcpproxy.control.checks import Sick, Watched, check
from mcpproxy.upstream.endpoint import Endpoint


@pytest.mark.asyncio
async def test_a_server_of_the_sdk_is_well_by_every_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.set_inheritable(True)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        command = [sys.executable, "-m", "mcpproxy.demo.server", str(sock.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[sock.fileno()], env=dict(os.environ))
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        for kind, path in (("tcp", None), ("initialize", "/mcp"), ("discover", "/mcp")):
            place = Endpoint(url, None)
            one = Watched("u", url, Health(check=kind, path=path), None, place, place.authority)
            assert await check(one)
        with pytest.raises(Sick, match="status 40"):
            await check(Watched("u", url, Health(path="/mcp"), None, place, place.authority))
    finally:
        process.communicate(timeout=10)
