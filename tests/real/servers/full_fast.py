"""A server that offers what fastmcp has of the protocol, both eras: full_mcp2.py tells what.  full_fast.py NAME stdio | PORT

fastmcp has no subscriptions of either era, and tells of changed lists only in the older one.
"""

import asyncio
import base64
import sys

import uvicorn
from fastmcp import Context, FastMCP
from fastmcp.server.event_store import EventStore
from fastmcp.tools import ToolResult
from mcp.types import (
    AudioContent,
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ListRootsRequest,
    ResourceLink,
    SamplingMessage,
    TextContent,
    TextResourceContents,
    ToolListChangedNotification,
)

NAME, MODE = sys.argv[1:3]
DATA = base64.b64encode(b"\0full\xff").decode()
FORM = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}

server = FastMCP(NAME, instructions=f"This is {NAME}.")
cancelled_keys: set[str] = set()


def is_modern(context: Context) -> bool:
    return context._is_modern_protocol()


# --- tools that only answer


@server.tool
def echo(message: str) -> str:
    return f"Echo: {message}"


@server.tool
def add(a: int, b: int) -> int:
    return a + b


@server.tool
def pieces() -> ToolResult:
    return ToolResult(
        content=[
            TextContent(text="words"),
            ImageContent(data=DATA, mime_type="image/png"),
            AudioContent(data=DATA, mime_type="audio/wav"),
            EmbeddedResource(resource=TextResourceContents(uri=f"full://{NAME}/embedded", text="inside")),
            ResourceLink(uri=f"full://{NAME}/text", name="text"),
        ]
    )


@server.tool
def fail() -> str:
    raise RuntimeError("meant to fail")


# --- tools that talk while they work


@server.tool
async def steps(count: int, pause: float, context: Context) -> str:
    for step in range(1, count + 1):
        await context.report_progress(step, count, f"step {step}")
        await asyncio.sleep(pause)
    return f"{count} steps"


@server.tool
async def talk(words: str, context: Context) -> str:
    for level in ("info", "error"):
        await context.log(f"{level} {words}", level, "full")
    return "talked"


@server.tool
async def hang(key: str, context: Context) -> str:
    await context.report_progress(1, 2, "begun")
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        cancelled_keys.add(key)
        raise
    return "never cancelled"


@server.tool
def cancelled(key: str) -> str:
    return "yes" if key in cancelled_keys else "no"


@server.tool
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


@server.tool
async def sample(prompt: str, context: Context) -> str | InputRequiredResult:
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    if not is_modern(context):
        answer = await context.session.create_message([message], max_tokens=10, related_request_id=context.request_id)
        return f"Sampled: {answer.content.text}"
    if not context.input_responses:
        request = CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=10))
        return InputRequiredResult(input_requests={"it": request}, request_state="asked")
    return f"Sampled: {context.input_responses['it'].content.text}"


@server.tool
async def ask(key: str, context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return "Hello " + await elicited(context, f"Name of {key}?")
    if not context.input_responses:
        return InputRequiredResult(input_requests={"it": question(f"Name of {key}?")}, request_state="asked")
    return f"Hello {context.input_responses['it'].content['answer']}"


@server.tool
async def interview(key: str, context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return await elicited(context, f"Name of {key}?") + " " + await elicited(context, f"Color of {key}?")
    if not context.input_responses:
        return InputRequiredResult(input_requests={"name": question(f"Name of {key}?")}, request_state="one")
    if "name" in context.input_responses:
        name = context.input_responses["name"].content["answer"]
        return InputRequiredResult(input_requests={"color": question(f"Color of {key}?")}, request_state=name)
    return f"{context.request_state} {context.input_responses['color'].content['answer']}"


@server.tool
async def roots(context: Context) -> str | InputRequiredResult:
    if not is_modern(context):
        return " ".join(str(root.uri) for root in (await context.session.list_roots()).roots)
    if not context.input_responses:
        return InputRequiredResult(input_requests={"it": ListRootsRequest()}, request_state="asked")
    return " ".join(str(root.uri) for root in context.input_responses["it"].roots)


@server.tool
async def change(context: Context) -> str:
    await context.send_notification(ToolListChangedNotification())
    return "changed"


# --- prompts, resources, completion


@server.prompt
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


@server.completion
async def complete(reference: object, argument: object, _context: object) -> list[str]:
    words = ("Ada", "Alan", "Bob") if reference.type == "ref/prompt" else ("one", "two")
    return [word for word in words if word.startswith(argument.value)]


if __name__ == "__main__" and MODE == "stdio":
    server.run("stdio", show_banner=False, log_level="CRITICAL")
elif __name__ == "__main__":
    app = server.http_app(event_store=EventStore(), retry_interval=100)
    app.router.routes.extend(server.http_app(transport="sse").routes)
    uvicorn.run(app, port=int(MODE), log_level="error", timeout_graceful_shutdown=1)
