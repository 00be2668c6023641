"""The matrix with the fastmcp client: full.py tells what. era: "auto" (asks server/discover first) or "legacy"."""

import contextlib
import json

import httpx2
from fastmcp import Client
from fastmcp.client.transports import SSETransport, StdioTransport, StreamableHttpTransport
from full import ROOT, Kit, elicited, sampled, serve
from full_mcp2 import LEVEL, Breaking, reference, wire


class Fast(Kit):
    client: Client

    async def page(self, what, cursor):
        lists = {
            "tools": "list_tools",
            "prompts": "list_prompts",
            "resources": "list_resources",
            "resourceTemplates": "list_resource_templates",
        }
        return wire(await getattr(self.client, lists[what] + "_mcp")(cursor=cursor))

    async def call(self, name, arguments, progress=None, level=None):
        meta = {LEVEL: level} if level and self.protocol >= "2026" else None
        return wire(await self.client.call_tool_mcp(name, arguments, progress_handler=progress, meta=meta))

    async def prompt(self, name, arguments):
        return wire(await self.client.get_prompt_mcp(name, arguments))

    async def read(self, uri):
        return wire(await self.client.read_resource_mcp(uri))

    async def complete(self, ref, argument, context):
        return wire(await self.client.complete_mcp(reference(ref), argument, context))

    async def ping(self):
        await self.client.ping()

    async def set_level(self, level):
        await self.client.set_logging_level(level)

    @contextlib.asynccontextmanager
    async def _listening(self, uri):
        if uri:
            await self.client.session.subscribe_resource(uri)  # fastmcp has no word for it
        yield
        if uri:
            await self.client.session.unsubscribe_resource(uri)


def handlers(kit):
    async def on_sampling(messages, _params, _context):
        return sampled(messages[0].content.text)

    async def on_elicitation(message, _type, _params, _context):
        return elicited(message)

    async def on_log(params):
        kit.logs(params.level, params.data)

    async def on_message(message):
        if getattr(message, "method", "").startswith("notifications/"):
            kit.told(wire(message))

    return {
        "sampling_handler": on_sampling,
        "elicitation_handler": on_elicitation,
        "roots": [ROOT],
        "log_handler": on_log,
        "message_handler": on_message,
        "cache": False,
    }


def breaking(**options):
    return httpx2.AsyncClient(**{**options, "transport": Breaking()})


@contextlib.asynccontextmanager
async def connect(url, era, transport):
    kit = Fast()
    if transport == "stdio":
        command = json.loads(url)
        where = StdioTransport(command=command[0], args=command[1:])
    elif transport == "sse":
        where = SSETransport(url)
    else:
        where = StreamableHttpTransport(url, httpx_client_factory=breaking)
    async with Client(where, mode=era, **handlers(kit)) as kit.client:
        kit.protocol = kit.client.protocol_version or "2025-11-25"
        yield kit


if __name__ == "__main__":
    serve(connect)
