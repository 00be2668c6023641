"""The tour with the Python SDK 2.x client. era: "auto" (asks server/discover first) or "legacy"; transport: "http", "http2",
"sse", or "stdio" with a `command`.

http2 is the same client over an HTTP/2 connection; it tells the protocols it met.
"""

import asyncio
import contextlib
import json
import os
import sys
import traceback

import httpx2
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult


async def answer_question(_context, _params):
    return ElicitResult(action="accept", content={"name": "Ada"})


async def tour(url: str, era: str, transport: str, big: int, key: str = "", command: tuple[str, ...] = ()) -> dict[str, object]:
    notices: asyncio.Queue[str] = asyncio.Queue()
    progress: list[float] = []

    async def on_message(message):
        if (method := getattr(message, "method", None)) == "notifications/tools/list_changed":
            notices.put_nowait(method)

    async def on_progress(step, _total, _text):
        progress.append(step)

    spoken: set[str] = set()

    async def on_response(response):
        spoken.add(response.http_version)

    async with contextlib.AsyncExitStack() as stack:
        where = sse_client(url) if transport == "sse" else url
        if command:
            where = stdio_client(StdioServerParameters(command=command[0], args=command[1:], env={**os.environ}))
        if transport == "http2" or key:
            shown = {"Authorization": f"Bearer {key}"} if key else {}
            http = httpx2.AsyncClient(http2=transport == "http2", headers=shown, timeout=30, event_hooks={"response": [on_response]})
            where = streamable_http_client(url, http_client=await stack.enter_async_context(http))
        options = {"mode": era, "elicitation_callback": answer_question, "message_handler": on_message, "cache": None}
        client = await stack.enter_async_context(Client(where, **options))
        tools = {tool.name for tool in (await client.list_tools()).tools}
        echo = await client.call_tool("echo", {"message": "grüße, 世界"})
        large = await client.call_tool("echo", {"message": "x" * big})
        slow = await client.call_tool("trigger-long-running-operation", {"duration": 0.15, "steps": 3}, progress_callback=on_progress)
        seen = {
            "protocol": client.protocol_version,
            "tools": sorted(tools),
            "echo": echo.content[0].text,
            "large": len(large.content[0].text),
            "slow": slow.content[0].text,
            "progress": progress,
        }
        if spoken:
            seen["spoken"] = sorted(spoken)
        if "ask" in tools:
            seen["ask"] = (await client.call_tool("ask", {})).content[0].text
        if "change" in tools:
            seen["noticed"] = await noticed(client, notices)
    return seen


async def noticed(client: Client, notices: asyncio.Queue[str]) -> bool:
    """Does a change reach us outside of the call: on the listen stream of the modern era, on the GET stream of the older one?"""
    if client.protocol_version >= "2026":
        async with client.listen(tools_list_changed=True) as changes:
            await client.call_tool("change", {})
            return await asyncio.wait_for(anext(aiter(changes)), 5) is not None
    for _ in range(20):  # the GET stream is opened in the background; what is sent before it is open is lost by design
        await client.call_tool("change", {})
        try:
            return bool(await asyncio.wait_for(notices.get(), 0.25))
        except TimeoutError:
            continue
    return False


print('{"ready": true}', flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(asyncio.run(asyncio.wait_for(tour(**json.loads(line)), 30))), flush=True)
    except BaseException:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
