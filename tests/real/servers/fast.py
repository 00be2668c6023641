"""A server built with fastmcp, started as its manual says.  fast.py PORT

Tools as in sdk2.py, without `ask` and `change`.
"""

import asyncio
import sys

from fastmcp import Context, FastMCP

server = FastMCP("fast")


@server.tool
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool("trigger-long-running-operation")
async def long_running(duration: float, steps: int, context: Context) -> str:
    for step in range(1, steps + 1):
        await asyncio.sleep(duration / steps)
        await context.report_progress(step, steps)
    return f"Long running operation completed. Duration: {duration} seconds, Steps: {steps}."


if __name__ == "__main__":
    server.run(transport="http", port=int(sys.argv[1]), show_banner=False, log_level="warning")
