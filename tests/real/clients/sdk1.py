"""The tour with the Python SDK 1.x client. transport: "http", "sse", or "stdio" with a `command`."""

import asyncio
import json
import os
import sys
import traceback

from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import ElicitResult, ServerNotification, ToolListChangedNotification


async def answer_question(_context, _params):
    return ElicitResult(action="accept", content={"name": "Ada"})


async def tour(url: str, era: str, transport: str, big: int, key: str = "", command: tuple[str, ...] = ()) -> dict[str, object]:
    notices: asyncio.Queue[str] = asyncio.Queue()
    progress: list[float] = []

    async def on_message(message):
        if isinstance(message, ServerNotification) and isinstance(message.root, ToolListChangedNotification):
            notices.put_nowait(message.root.method)

    async def on_progress(step, _total, _text):
        progress.append(step)

    shown = {"Authorization": f"Bearer {key}"} if key else None
    connect = sse_client(url, shown) if transport == "sse" else streamablehttp_client(url, shown)
    if command:
        connect = stdio_client(StdioServerParameters(command=command[0], args=command[1:], env={**os.environ}))
    kit = {"elicitation_callback": answer_question, "message_handler": on_message}
    async with connect as (read, write, *_), ClientSession(read, write, **kit) as session:
        start = await session.initialize()
        tools = {tool.name for tool in (await session.list_tools()).tools}
        echo = await session.call_tool("echo", {"message": "grüße, 世界"})
        large = await session.call_tool("echo", {"message": "x" * big})
        slow = await session.call_tool("trigger-long-running-operation", {"duration": 0.15, "steps": 3}, progress_callback=on_progress)
        seen = {
            "protocol": start.protocolVersion,
            "tools": sorted(tools),
            "echo": echo.content[0].text,
            "large": len(large.content[0].text),
            "slow": slow.content[0].text,
            "progress": progress,
        }
        if "ask" in tools:
            seen["ask"] = (await session.call_tool("ask", {})).content[0].text
        if "change" in tools:
            seen["noticed"] = await noticed(session, notices)
    return seen


async def noticed(session: ClientSession, notices: asyncio.Queue[str]) -> bool:
    for _ in range(20):  # the GET stream is opened in the background; what is sent before it is open is lost by design
        await session.call_tool("change", {})
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
