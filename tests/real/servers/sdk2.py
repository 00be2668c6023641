"""A server built with the Python SDK 2.x: both eras on /mcp, HTTP+SSE on /sse and /messages/.  sdk2.py PORT | stdio

The tools have the names and answers of server-everything, so every client can take the same tour through every server; `ask` and
`change` are our own: a question to the client's user, and a notification outside of any request.
"""

import asyncio
import sys

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ElicitRequest, ElicitRequestFormParams, InputRequiredResult
from pydantic import BaseModel

server = MCPServer("sdk2", version="1", log_level="WARNING")


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
async def ask(context: Context) -> str | InputRequiredResult:
    if (context.protocol_version or "") < "2026":
        answer = await context.elicit("Who are you?", Person)
        return f"Hello {answer.data.name}" if answer.action == "accept" else answer.action
    if not context.input_responses:
        question = ElicitRequestFormParams(message="Who are you?", requested_schema=Person.model_json_schema())
        return InputRequiredResult(input_requests={"who": ElicitRequest(params=question)}, request_state="asked")
    return f"Hello {context.input_responses['who'].content['name']}"


@server.tool()
async def change(context: Context) -> str:
    await context.session.send_tool_list_changed()
    await context.notify_tools_changed()
    return "changed"


app = server.streamable_http_app()
app.router.routes.extend(server.sse_app().routes)

if sys.argv[1] == "stdio":
    server.run("stdio")
elif __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", timeout_graceful_shutdown=1)
