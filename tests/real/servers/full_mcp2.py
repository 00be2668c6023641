"""A server that offers everything the protocol has, built with the Python SDK 2.x.  full_mcp2.py NAME stdio | PORT

Streamable HTTP of both eras on /mcp, HTTP+SSE on /sse and /messages/. Its siblings full_*.py and full_*.mjs offer the same with other kits, so a
client can try the same things on each of them. NAME is in the URIs of its resources: several of these may lie behind one hub.

    tools      echo  add  pieces  fail  steps (progress)  talk (log messages)  hang (and `cancelled`, which tells whether it was)
               sample  ask  interview (two questions)  roots  touch (a resource has changed)  change (a list has)  drop (hangs up in the midst)
    prompts    greet(name)            resources   full://NAME/text  full://NAME/blob  full://NAME/item/{id}
    completion of greet's name and of the template's id
"""

import asyncio
import base64
import sys

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import (
    AudioContent,
    Completion,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequiredResult,
    JSONRPCMessage,
    ListRootsRequest,
    ResourceLink,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

NAME, MODE = sys.argv[1:3]
LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
DATA = base64.b64encode(b"\0full\xff").decode()
FORM = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}

server = MCPServer(NAME, version="1", log_level="CRITICAL", instructions=f"This is {NAME}.")
cancelled_keys: set[str] = set()
levels: dict[object, str] = {}  # by connection
subscribed: set[tuple[object, str]] = set()


def is_modern(context: Context) -> bool:
    return (context.protocol_version or "") >= "2026"


# --- tools that only answer


@server.tool()
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool()
def add(a: int, b: int) -> int:
    return a + b


@server.tool()
def pieces() -> list[TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink]:
    return [
        TextContent(text="words"),
        ImageContent(data=DATA, mime_type="image/png"),
        AudioContent(data=DATA, mime_type="audio/wav"),
        EmbeddedResource(resource=TextResourceContents(uri=f"full://{NAME}/embedded", text="inside")),
        ResourceLink(uri=f"full://{NAME}/text", name="text"),
    ]


@server.tool()
def fail() -> str:
    raise RuntimeError("meant to fail")


# --- tools that talk while they work


@server.tool()
async def steps(count: int, pause: float, context: Context) -> str:
    for step in range(1, count + 1):
        await context.report_progress(step, count, f"step {step}")
        await asyncio.sleep(pause)
    return f"{count} steps"


@server.tool()
async def talk(words: str, context: Context) -> str:
    lowest = "debug" if is_modern(context) else levels.get(context.session._connection, "debug")
    for level in ("info", "error"):
        if LEVELS.index(level) >= LEVELS.index(lowest):
            await context.log(level, f"{level} {words}", logger_name="full")
    return "talked"


@server.tool()
async def hang(key: str, context: Context) -> str:
    await context.report_progress(1, 2, "begun")
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        cancelled_keys.add(key)
        raise
    return "never cancelled"


@server.tool()
def cancelled(key: str) -> str:
    return "yes" if key in cancelled_keys else "no"


@server.tool()
async def drop(context: Context) -> str:
    await context.close_sse_stream()
    await asyncio.sleep(0.1)
    return "back"


# --- tools that ask: in the newer era by an answer that requires input, in the older one in the midst of the call


def question(words: str) -> ElicitRequest:
    return ElicitRequest(params=ElicitRequestFormParams(message=words, requested_schema=FORM))


async def elicited(context: Context, words: str) -> str:
    answer = await context.session.elicit_form(words, FORM, related_request_id=context.request_id)
    return str(answer.content["answer"]) if answer.content else answer.action


@server.tool()
async def sample(prompt: str, context: Context) -> str | InputRequiredResult:
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    if not is_modern(context):
        answer = await context.session.create_message([message], max_tokens=10, related_request_id=context.request_id)
        return f"Sampled: {answer.content.text}"
    if not context.input_responses:
        request = CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=10))
        return InputRequiredResult(input_requests={"it": request}, request_state="asked")
    return f"Sampled: {context.input_responses['it'].content.text}"


@server.tool()
async def ask(key: str, context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return "Hello " + await elicited(context, f"Name of {key}?")
    if not context.input_responses:
        return InputRequiredResult(input_requests={"it": question(f"Name of {key}?")}, request_state="asked")
    return f"Hello {context.input_responses['it'].content['answer']}"


@server.tool()
async def interview(key: str, context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return await elicited(context, f"Name of {key}?") + " " + await elicited(context, f"Color of {key}?")
    if not context.input_responses:
        return InputRequiredResult(input_requests={"name": question(f"Name of {key}?")}, request_state="one")
    if "name" in context.input_responses:
        name = context.input_responses["name"].content["answer"]
        return InputRequiredResult(input_requests={"color": question(f"Color of {key}?")}, request_state=name)
    return f"{context.request_state} {context.input_responses['color'].content['answer']}"


@server.tool()
async def roots(context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return " ".join(str(root.uri) for root in (await context.session.list_roots()).roots)
    if not context.input_responses:
        return InputRequiredResult(input_requests={"it": ListRootsRequest()}, request_state="asked")
    return " ".join(str(root.uri) for root in context.input_responses["it"].roots)


# --- changes told outside of the call


@server.tool()
async def touch(uri: str, context: Context) -> str:
    await context.notify_resource_updated(uri)
    if (context.session._connection, uri) in subscribed:
        await context.session.send_resource_updated(uri)
    return "touched"


@server.tool()
async def change(context: Context) -> str:
    if not is_modern(context):
        await context.session.send_tool_list_changed()
    await context.notify_tools_changed()
    return "changed"


async def subscribe(context: object, params: SubscribeRequestParams) -> EmptyResult:
    subscribed.add((context.session._connection, str(params.uri)))
    return EmptyResult()


async def unsubscribe(context: object, params: UnsubscribeRequestParams) -> EmptyResult:
    subscribed.discard((context.session._connection, str(params.uri)))
    return EmptyResult()


async def set_level(context: object, params: SetLevelRequestParams) -> EmptyResult:
    levels[context.session._connection] = params.level
    return EmptyResult()


for method, its_params, handler in (
    ("resources/subscribe", SubscribeRequestParams, subscribe),
    ("resources/unsubscribe", UnsubscribeRequestParams, unsubscribe),
    ("logging/setLevel", SetLevelRequestParams, set_level),
):
    server._lowlevel_server.add_request_handler(method, its_params, handler)


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
    return Completion(values=found, total=len(found), has_more=False)


class Events(EventStore):
    """Enough of an event store: streams can be resumed."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.stored.append((stream_id, message))
        return str(len(self.stored))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        after = int(last_event_id)
        stream = self.stored[after - 1][0]
        for number, (where, message) in enumerate(self.stored[after:], after + 1):
            if where == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


if __name__ == "__main__" and MODE == "stdio":
    server.run("stdio")
elif __name__ == "__main__":
    app = server.streamable_http_app(event_store=Events(), retry_interval=100)
    app.router.routes.extend(server.sse_app().routes)
    uvicorn.run(app, port=int(MODE), log_level="error", timeout_graceful_shutdown=1)
