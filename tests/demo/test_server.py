"""The embedded MCP server, asked by the SDK's own client without a proxy between."""

from collections.abc import Iterator

import pytest
from mcp import Client

from mcpproxy import __version__
from mcpproxy.demo.child import DemoServer
from mcpproxy.demo.server import MOST_COUNTED


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with DemoServer(lambda status: pytest.fail(f"it ended with {status}")) as server:
        yield f"{server.url}/mcp"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_its_tools_in_both_eras(url: str, mode: str) -> None:
    async with Client(url, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo", "add", "count"]
        assert (await client.call_tool("echo", {"text": "ä\n\r 🙂"})).content[0].text == "ä\n\r 🙂"
        assert (await client.call_tool("add", {"a": 2, "b": 3})).content[0].text == "5"
        assert (client.server_info.name, client.server_info.version) == ("mcpproxy-demo", __version__)


async def test_count_reports_each_step_before_it_is_over(url: str) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        seen.append((done, total, message))

    async with Client(url) as client:
        result = await client.call_tool("count", {"to": 3, "every_ms": 1}, progress_callback=progress)
    assert seen == [(1, 3, "1 of 3"), (2, 3, "2 of 3"), (3, 3, "3 of 3")]
    assert result.content[0].text == "counted to 3"


@pytest.mark.parametrize(("asked", "counted"), [(-5, 0), (0, 0), (MOST_COUNTED + 1, MOST_COUNTED)])
async def test_nobody_counts_for_ever(url: str, asked: int, counted: int) -> None:
    async with Client(url) as client:
        result = await client.call_tool("count", {"to": asked, "every_ms": 0})
    assert result.content[0].text == f"counted to {counted}"
