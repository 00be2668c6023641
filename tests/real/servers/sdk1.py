"""A server built with the Python SDK 1.x: Streamable HTTP on /mcp, HTTP+SSE on /sse and /messages/.  sdk1.py PORT | stdio

Tools as in sdk2.py.
"""

import asyncio
import sys

import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP("sdk1", log_level="WARNING")


class Person(BaseModel):
    name: str


@server.tool()
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool("trigger-long-running-operation")
async def long_running(duration: float, steps: int, context: Context) -> str:
    for step in range(1, steps + 1):
        await asyncio.sleep(duration / steps)
        await context.report_progress(step, steps)
    return f"Long running operation completed. Duration: {duration} seconds, Steps: {steps}."


@server.tool()
async def ask(context: Context) -> str:
    answer = await context.elicit("Who are you?", Person)
    return f"Hello {answer.data.name}" if answer.action == "accept" else answer.action


@server.tool()
async def change(context: Context) -> str:
    await context.session.send_tool_list_changed()
    return "changed"


app = server.streamable_http_app()
app.router.routes.extend(server.sse_app().routes)

if sys.argv[1] == "stdio":
    server.run("stdio")
elif __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", timeout_graceful_shutdown=1)
