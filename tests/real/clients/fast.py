"""The tour with the fastmcp client."""

import asyncio
import json
import sys
import traceback

from fastmcp import Client


async def answer_question(_message, response_type, _params, _context):
    return response_type(name="Ada")


async def tour(url: str, era: str, transport: str, big: int, key: str = "") -> dict[str, object]:
    progress: list[float] = []

    async def on_progress(step, _total, _text):
        progress.append(step)

    async with Client(url, elicitation_handler=answer_question, auth=key or None) as client:
        tools = {tool.name for tool in await client.list_tools()}
        echo = await client.call_tool("echo", {"message": "grüße, 世界"})
        large = await client.call_tool("echo", {"message": "x" * big})
        slow = await client.call_tool("trigger-long-running-operation", {"duration": 0.15, "steps": 3}, progress_handler=on_progress)
        seen = {
            "tools": sorted(tools),
            "echo": echo.content[0].text,
            "large": len(large.content[0].text),
            "slow": slow.content[0].text,
            "progress": progress,
        }
        if "ask" in tools:
            seen["ask"] = (await client.call_tool("ask", {})).content[0].text
    return seen


print('{"ready": true}', flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(asyncio.run(asyncio.wait_for(tour(**json.loads(line)), 30))), flush=True)
    except BaseException:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
