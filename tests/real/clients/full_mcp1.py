"""The matrix with the Python SDK 1.x client: full.py tells what. It knows the older era only."""

import asyncio
import contextlib
import json

import httpx
from full import CUT, ROOT, Kit, elicited, sampled, serve
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client


class Breaking(httpx.AsyncHTTPTransport):
    """Breaks the response that CUT is set for."""

    async def handle_async_request(self, request):
        response = await super().handle_async_request(request)
        if request.method == "POST" and (what := CUT.takes(str(request.url), request.content)):
            response.stream = Broken(what, response.stream)
        return response


class Broken(httpx.AsyncByteStream):
    def __init__(self, what, stream):
        self.what, self.stream = what, stream

    def __aiter__(self):
        return CUT.body(self.what, self.stream)

    async def aclose(self):
        await self.stream.aclose()


def wire(model):
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


class Mcp1(Kit):
    session: ClientSession

    def __init__(self):
        super().__init__()
        self.numbers = {}  # of the latest request to each tool

    async def page(self, what, cursor):
        lists = {
            "tools": "list_tools",
            "prompts": "list_prompts",
            "resources": "list_resources",
            "resourceTemplates": "list_resource_templates",
        }
        params = types.PaginatedRequestParams(cursor=cursor)
        return wire(await getattr(self.session, lists[what])(params=params))

    async def call(self, name, arguments, progress=None, level=None):
        self.numbers[name] = self.session._request_id  # which this request gets: nothing else runs in between
        return wire(await self.session.call_tool(name, arguments, progress_callback=progress))

    async def cancel(self, name, arguments, begun):
        async def notify():
            await begun.wait()
            params = types.CancelledNotificationParams(requestId=self.numbers[name], reason="tried")
            await self.session.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))

        notifier = asyncio.ensure_future(notify())  # this SDK has no word for cancelling
        await super().cancel(name, arguments, begun)
        await notifier

    async def prompt(self, name, arguments):
        return wire(await self.session.get_prompt(name, arguments))

    async def read(self, uri):
        return wire(await self.session.read_resource(uri))

    async def complete(self, ref, argument, context):
        kind = types.PromptReference if ref["type"] == "ref/prompt" else types.ResourceTemplateReference
        return wire(await self.session.complete(kind(**ref), argument, context))

    async def ping(self):
        await self.session.send_ping()

    async def set_level(self, level):
        await self.session.set_logging_level(level)

    @contextlib.asynccontextmanager
    async def _listening(self, uri):
        if uri:
            await self.session.subscribe_resource(uri)
        yield
        if uri:
            await self.session.unsubscribe_resource(uri)


def callbacks(kit):
    async def on_sampling(_context, params):
        text = sampled(params.messages[0].content.text)
        return types.CreateMessageResult(role="assistant", model="full", content=types.TextContent(type="text", text=text))

    async def on_elicitation(_context, params):
        return types.ElicitResult(action="accept", content=elicited(params.message))

    async def on_roots(_context):
        return types.ListRootsResult(roots=[types.Root(uri=ROOT, name="root")])

    async def on_log(params):
        kit.logs(params.level, params.data)

    async def on_message(message):
        if isinstance(message, types.ServerNotification):
            kit.told(wire(message.root))

    return {
        "sampling_callback": on_sampling,
        "elicitation_callback": on_elicitation,
        "list_roots_callback": on_roots,
        "logging_callback": on_log,
        "message_handler": on_message,
    }


@contextlib.asynccontextmanager
async def connect(url, era, transport):
    kit = Mcp1()
    async with contextlib.AsyncExitStack() as stack:
        if transport == "stdio":
            command = json.loads(url)
            streams = stdio_client(StdioServerParameters(command=command[0], args=command[1:]))
        elif transport == "sse":
            streams = sse_client(url)
        else:
            http = httpx.AsyncClient(transport=Breaking(), timeout=30)
            streams = streamable_http_client(url, http_client=await stack.enter_async_context(http))
        read, write, *_ = await stack.enter_async_context(streams)
        kit.session = await stack.enter_async_context(ClientSession(read, write, **callbacks(kit)))
        kit.protocol = str((await kit.session.initialize()).protocolVersion)
        yield kit


if __name__ == "__main__":
    serve(connect)
