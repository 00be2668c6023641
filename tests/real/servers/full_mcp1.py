"""A server that offers everything of the older era, built with the Python SDK 1.x: full_mcp2.py tells what.  full_mcp1.py NAME stdio | PORT"""

import base64
import itertools
import sys
from collections import defaultdict

import anyio
import uvicorn
from mcp.server.fastmcp import Context, FastMCP
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import (
    AudioContent,
    Completion,
    EmbeddedResource,
    ImageContent,
    JSONRPCMessage,
    ResourceLink,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel

NAME, MODE = sys.argv[1:3]
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DATA = base64.b64encode(b"\0full\xff").decode()


class Events(EventStore):
    """Streams can be resumed. This SDK names a stream by the JSON-RPC id, and asks one store for all sessions: ids are not used twice here."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[str, JSONRPCMessage | None]] = {}
        self.streams: defaultdict[str, list[str]] = defaultdict(list)
        self.numbers = itertools.count(1)

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        event = str(next(self.numbers))
        if message is None:  # the priming event: a new stream of this name
            self.streams[stream_id] = []
        self.stored[event] = (stream_id, message)
        self.streams[stream_id].append(event)
        return event

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        stream = self.stored[last_event_id][0]
        for event in self.streams[stream]:
            message = self.stored[event][1]
            if int(event) > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, event))
        return stream


server = FastMCP(NAME, log_level="CRITICAL", instructions=f"This is {NAME}.", event_store=Events(), retry_interval=100)
low = server._mcp_server
cancelled_keys: set[str] = set()
levels: dict[object, str] = {}  # by session
subscribed: set[tuple[object, str]] = set()


class Form(BaseModel):
    answer: str


# --- tools that only answer


@server.tool()
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool(structured_output=False)
def pieces() -> list[TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink]:
    return [
        TextContent(type="text", text="words"),
        ImageContent(type="image", data=DATA, mimeType="image/png"),
        AudioContent(type="audio", data=DATA, mimeType="audio/wav"),
        EmbeddedResource(type="resource", resource=TextResourceContents(uri=f"full://{NAME}/embedded", text="inside")),
        ResourceLink(type="resource_link", uri=f"full://{NAME}/text", name="text"),
    ]


@server.tool()
def fail() -> str:
    raise RuntimeError("meant to fail")


# --- tools that talk while they work


@server.tool()
async def steps(count: int, pause: float, context: Context) -> str:
    for step in range(1, count + 1):
        await context.report_progress(step, count, f"step {step}")
        await anyio.sleep(pause)
    return f"{count} steps"


@server.tool()
async def talk(words: str, context: Context) -> str:
    lowest = levels.get(context.session, "debug")
    for level in ("info", "error"):
        if LEVELS.index(level) >= LEVELS.index(lowest):
            await context.log(level, f"{level} {words}", logger_name="full")
    return "talked"


@server.tool()
async def hang(key: str, context: Context) -> str:
    await context.report_progress(1, 2, "begun")
    try:
        await anyio.sleep(20)
    except anyio.get_cancelled_exc_class():
        cancelled_keys.add(key)
        raise
    return "never cancelled"


@server.tool()
def cancelled(key: str) -> str:
    return "yes" if key in cancelled_keys else "no"


@server.tool()
async def drop(context: Context) -> str:
    await context.close_sse_stream()
    await anyio.sleep(0.1)
    return "back"


# --- tools that ask in the midst of the call


async def elicited(context: Context, words: str) -> str:
    answer = await context.elicit(words, Form)
    return answer.data.answer if answer.action == "accept" else answer.action


@server.tool()
async def sample(prompt: str, context: Context) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await context.session.create_message([message], max_tokens=10, related_request_id=context.request_id)
    return f"Sampled: {answer.content.text}"


@server.tool()
async def ask(key: str, context: Context) -> str:
    return "Hello " + await elicited(context, f"Name of {key}?")


@server.tool()
async def interview(key: str, context: Context) -> str:
    return await elicited(context, f"Name of {key}?") + " " + await elicited(context, f"Color of {key}?")


@server.tool()
async def roots(context: Context) -> str:
    return " ".join(str(root.uri) for root in (await context.session.list_roots()).roots)


# --- changes told outside of the call


@server.tool()
async def touch(uri: str, context: Context) -> str:
    if (context.session, uri) in subscribed:
        await context.session.send_resource_updated(uri)
    return "touched"


@server.tool()
async def change(context: Context) -> str:
    await context.session.send_tool_list_changed()
    return "changed"


@low.subscribe_resource()
async def subscribe(uri: object) -> None:
    subscribed.add((low.request_context.session, str(uri)))


@low.unsubscribe_resource()
async def unsubscribe(uri: object) -> None:
    subscribed.discard((low.request_context.session, str(uri)))


@low.set_logging_level()
async def set_level(level: str) -> None:
    levels[low.request_context.session] = level


capabilities = low.get_capabilities


def all_of_them(*options: object) -> object:
    """This SDK never says that it takes subscriptions, nor that it tells of changed lists."""
    said = capabilities(*options)
    said.resources.subscribe = said.tools.listChanged = True
    return said


low.get_capabilities = all_of_them


# --- prompts, resources, completion


@server.prompt()
def greet(name: str) -> str:
    return f"Greet {name}"


@server.resource(f"full://{NAME}/text", mime_type="text/plain")
def text() -> str:
    return f"text of {NAME}"


@server.resource(f"full://{NAME}/blob", mime_type="application/octet-stream")
def blob() -> bytes:
    return base64.b64decode(DATA)


@server.resource(f"full://{NAME}/item/{{id}}", mime_type="text/plain")
def item(id: str) -> str:
    return f"item {id}"


@server.completion()
async def complete(reference: object, argument: object, _context: object) -> Completion:
    words = ("Ada", "Alan", "Bob") if reference.type == "ref/prompt" else ("one", "two")
    found = [word for word in words if word.startswith(argument.value)]
    return Completion(values=found, total=len(found), hasMore=False)


if __name__ == "__main__" and MODE == "stdio":
    server.run("stdio")
elif __name__ == "__main__":
    app = server.streamable_http_app()
    app.router.routes.extend(server.sse_app().routes)
    uvicorn.run(app, port=int(MODE), log_level="error", timeout_graceful_shutdown=1)
