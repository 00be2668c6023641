"""The matrix with the Python SDK 2.x client: full.py tells what. era: "auto" (asks server/discover first) or "legacy"."""

import asyncio
import contextlib
import json

import httpx2
from full import CUT, ROOT, Kit, elicited, sampled, serve
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
)

LEVEL = "io.modelcontextprotocol/logLevel"


class Breaking(httpx2.AsyncHTTPTransport):
    """Breaks the response that CUT is set for."""

    async def handle_async_request(self, request):
        response = await super().handle_async_request(request)
        if request.method == "POST" and (what := CUT.takes(str(request.url), request.content)):
            response.stream = Broken(what, response.stream)
        return response


class Broken(httpx2.AsyncByteStream):
    def __init__(self, what, stream):
        self.what, self.stream = what, stream

    def __aiter__(self):
        return CUT.body(self.what, self.stream)

    async def aclose(self):
        await self.stream.aclose()


def wire(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def reference(ref):
    return PromptReference(name=ref["name"]) if ref["type"] == "ref/prompt" else ResourceTemplateReference(uri=ref["uri"])


class Mcp2(Kit):
    client: Client

    async def page(self, what, cursor):
        lists = {
            "tools": "list_tools",
            "prompts": "list_prompts",
            "resources": "list_resources",
            "resourceTemplates": "list_resource_templates",
        }
        return wire(await getattr(self.client, lists[what])(cursor=cursor))

    async def call(self, name, arguments, progress=None, level=None):
        meta = {LEVEL: level} if level and self.protocol >= "2026" else None
        return wire(await self.client.call_tool(name, arguments, progress_callback=progress, meta=meta))

    async def prompt(self, name, arguments):
        return wire(await self.client.get_prompt(name, arguments))

    async def read(self, uri):
        return wire(await self.client.read_resource(uri))

    async def complete(self, ref, argument, context):
        return wire(await self.client.complete(reference(ref), argument, context))

    async def ping(self):
        await self.client.send_ping()

    async def set_level(self, level):
        await self.client.set_logging_level(level)

    @contextlib.asynccontextmanager
    async def _listening(self, uri):
        if self.protocol < "2026":
            if uri:
                await self.client.subscribe_resource(uri)
            yield
            if uri:
                await self.client.unsubscribe_resource(uri)
            return
        wanted = {"resource_subscriptions": [uri]} if uri else {"tools_list_changed": True}
        async with self.client.listen(**wanted) as events:
            watcher = asyncio.ensure_future(self._watch(events))
            yield
            watcher.cancel()

    async def _watch(self, events):
        async for event in events:
            uri = getattr(event, "uri", "")
            self.told({"method": f"notifications/{'resources/updated' if uri else 'tools/list_changed'}", "params": {"uri": uri}})


def callbacks(kit):
    async def on_sampling(_context, params):
        text = sampled(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", model="full", content=TextContent(text=text))

    async def on_elicitation(_context, params):
        return ElicitResult(action="accept", content=elicited(params.message))

    async def on_roots(_context):
        return ListRootsResult(roots=[Root(uri=ROOT, name="root")])

    async def on_log(params):
        kit.logs(params.level, params.data)

    async def on_message(message):
        if getattr(message, "method", "").startswith("notifications/"):
            kit.told(wire(message))

    return {
        "sampling_callback": on_sampling,
        "elicitation_callback": on_elicitation,
        "list_roots_callback": on_roots,
        "logging_callback": on_log,
        "message_handler": on_message,
    }


@contextlib.asynccontextmanager
async def connect(url, era, transport):
    kit = Mcp2()
    async with contextlib.AsyncExitStack() as stack:
        if transport == "stdio":
            command = json.loads(url)
            where = StdioServerParameters(command=command[0], args=command[1:])
        elif transport == "sse":
            where = sse_client(url)
        else:
            http = httpx2.AsyncClient(transport=Breaking(), timeout=30)
            where = streamable_http_client(url, http_client=await stack.enter_async_context(http))
        kit.client = await stack.enter_async_context(Client(where, mode=era, cache=None, **callbacks(kit)))
        kit.protocol = kit.client.protocol_version
        yield kit


if __name__ == "__main__":
    serve(connect)
