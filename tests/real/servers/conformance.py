"""A server that passes the official conformance suite: what that suite must find, it offers.  conformance.py PORT

Built with the Python SDK 2.x, both eras. Names, arguments and answers are the suite's ("Server Implementation Requirements" in its own
descriptions). How many checks pass directly does not matter much; it must be most, because only a check that passes can become worse.
Questions to the client (`test_input_required_…`) are the table ASKING: rounds of requests, then an answer.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.shared.exceptions import MCPError
from mcp.types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
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
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
SILENCE = base64.b64encode(b"RIFF&\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0\x80>\0\0\2\0\x10\0data\2\0\0\0\0\0").decode()

server = MCPServer("conformance", version="1", log_level="ERROR")


def tool(function: Callable[..., Any]) -> Callable[..., Any]:
    return server.tool(description=f"For the scenario of {function.__name__}")(function)


def prompt(function: Callable[..., Any]) -> Callable[..., Any]:
    return server.prompt(description=f"For the scenario of {function.__name__}")(function)


def text(words: str) -> TextContent:
    return TextContent(text=words)


def image() -> ImageContent:
    return ImageContent(data=PIXEL, mime_type="image/png")


def embedded(uri: str, mime_type: str, words: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words))


# --- tools that only answer


@tool
def test_simple_text() -> str:
    return "This is a simple text response for testing."


@tool
def test_image_content() -> list[ImageContent]:
    return [image()]


@tool
def test_audio_content() -> list[AudioContent]:
    return [AudioContent(data=SILENCE, mime_type="audio/wav")]


@tool
def test_embedded_resource() -> list[EmbeddedResource]:
    return [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")]


@tool
def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
    mixed = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return [text("Multiple content types test:"), image(), mixed]


@tool
def test_error_handling() -> str:
    raise RuntimeError("This tool intentionally returns an error for testing")


# --- tools that talk while they work


@tool
async def test_tool_with_logging(context: Context) -> str:
    for words in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await context.info(words)
        await asyncio.sleep(0.05)
    return "done"


@tool
async def test_tool_with_progress(context: Context) -> str:
    for percent in (0, 50, 100):
        await context.report_progress(percent, 100)
        await asyncio.sleep(0.05)
    return "done"


@tool
async def test_reconnection(context: Context) -> str:
    """Hang up in the middle of the call; the client comes back for the answer."""
    await context.close_sse_stream()
    await asyncio.sleep(0.2)
    return "Reconnection test completed"


@tool
async def test_sampling(prompt: str, context: Context) -> str:
    message = SamplingMessage(role="user", content=text(prompt))
    answer = await context.session.create_message([message], max_tokens=100, related_request_id=context.request_id)
    return f"LLM response: {answer.content.text}"


def form(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


async def elicit(context: Context, message: str, schema: dict[str, Any]) -> str:
    answer = await context.session.elicit_form(message, schema, related_request_id=context.request_id)
    return f"action={answer.action}, content={json.dumps(answer.content)}"


@tool
async def test_elicitation(message: str, context: Context) -> str:
    schema = form(username={"type": "string", "description": "User's response"}, email={"type": "string", "format": "email"})
    return "User response: " + await elicit(context, message, schema)


@tool
async def test_elicitation_sep1034_defaults(context: Context) -> str:
    schema = form(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    return "Elicitation completed: " + await elicit(context, "Please review", schema)


@tool
async def test_elicitation_sep1330_enums(context: Context) -> str:
    options = ["option1", "option2", "option3"]
    titled = [{"const": f"value{number}", "title": title} for number, title in enumerate(("First", "Second", "Third"), 1)]
    schema = form(
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": titled},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["One", "Two", "Three"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": titled}},
    )
    return "Elicitation completed: " + await elicit(context, "Please choose", schema)


# --- what only the modern era knows: fields mirrored in Mcp-Param-*, capabilities per request, changes told on the listen stream


@tool
def test_custom_headers(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
    query: str,
) -> str:
    return f"{query} in {region}"


@tool
async def test_missing_capability(context: Context) -> str:
    if getattr(context.client_capabilities, "sampling", None) is None:
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is needed", {"requiredCapabilities": {"sampling": {}}})
    return "the client can sample"


@tool
async def test_streaming_elicitation(context: Context) -> InputRequiredResult:
    await context.report_progress(1, 2)
    return InputRequiredResult(input_requests={"user_name": NAME})


@tool
async def test_trigger_tool_change(context: Context) -> str:
    await context.notify_tools_changed()
    return "changed"


@tool
async def test_trigger_prompt_change(context: Context) -> str:
    await context.notify_prompts_changed()
    return "changed"


# --- questions of the modern era: each tool is rounds of requests, and then an answer


def asked(message: str, **properties: str) -> ElicitRequest:
    schema = form(**{name: {"type": kind} for name, kind in properties.items()})
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampled(prompt: str, most: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=text(prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=most))


NAME = asked("What is your name?", name="string")
CAPABILITIES = {"user_name": "elicitation", "greeting": "sampling"}
ASKING: dict[str, list[dict[str, Any]]] = {
    "elicitation": [{"user_name": NAME}],
    "sampling": [{"capital_question": sampled("What is the capital of France?", 100)}],
    "list_roots": [{"client_roots": ListRootsRequest()}],
    "request_state": [{"confirm": asked("Please confirm", ok="boolean")}],
    "tampered_state": [{"confirm": asked("Please confirm", ok="boolean")}],
    "multiple_inputs": [{"user_name": NAME, "greeting": sampled("Generate a greeting", 50), "client_roots": ListRootsRequest()}],
    "multi_round": [
        {"step1": asked("Step 1: What is your name?", name="string")},
        {"step2": asked("Step 2: What is your favorite color?", color="string")},
    ],
    "capabilities": [{"user_name": NAME, "greeting": sampled("Generate a greeting", 50)}],
}


def next_round(name: str, rounds: Sequence[dict[str, Any]], context: Context) -> InputRequiredResult | dict[str, Any]:
    """What to ask now, or the answers when nothing is left. The state (sealed by the SDK) tells how many rounds are over."""
    over = int(context.request_state.rpartition(" ")[2]) if context.request_state else 0
    answers = context.input_responses or {}
    if over < len(rounds) and all(key in answers for key in rounds[over]):
        over += 1
    if over >= len(rounds):
        return dict(answers)
    requests = rounds[over]
    if name == "capabilities":
        known = context.client_capabilities
        requests = {key: request for key, request in requests.items() if getattr(known, CAPABILITIES[key], None) is not None}
    stateless = name in ("elicitation", "sampling", "list_roots", "capabilities")
    return InputRequiredResult(input_requests=requests, request_state=None if stateless else f"{name} {over}")


def add_asking_tool(name: str, rounds: list[dict[str, Any]]) -> None:
    async def asking(context: Context) -> str | InputRequiredResult:
        answers = next_round(name, rounds, context)
        if isinstance(answers, InputRequiredResult):
            return answers
        told = {key: answer if isinstance(answer, dict) else answer.model_dump(mode="json") for key, answer in answers.items()}
        who = told.get("user_name", {}).get("content") or {}
        return f"Hello, {who.get('name')}! state-ok {json.dumps(told)}"

    server.add_tool(asking, f"test_input_required_result_{name}", description=f"Asks for input: {name}")


for each, its_rounds in ASKING.items():
    add_asking_tool(each, its_rounds)


@prompt
async def test_input_required_result_prompt(context: Context) -> list[UserMessage] | InputRequiredResult:
    answers = next_round("elicitation", [{"user_context": asked("What context should the prompt use?", context="string")}], context)
    return answers if isinstance(answers, InputRequiredResult) else [UserMessage(content=text(f"With context: {sorted(answers)}"))]


# --- resources and prompts


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    return base64.b64decode(PIXEL)


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    return "Watched resource content"


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@prompt
def test_simple_prompt() -> list[UserMessage]:
    return [UserMessage(content=text("This is a simple prompt for testing."))]


@prompt
def test_prompt_with_arguments(arg1: str, arg2: str) -> list[UserMessage]:
    return [UserMessage(content=text(f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"))]


@prompt
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    resource = embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
    return [UserMessage(content=resource), UserMessage(content=text("Please process the embedded resource above."))]


@prompt
def test_prompt_with_image() -> list[UserMessage]:
    return [UserMessage(content=image()), UserMessage(content=text("Please analyze the image above."))]


@server.completion()
async def complete(_reference: Any, argument: Any, _context: Any) -> Completion:
    return Completion(values=[word for word in ("paris", "park", "party") if word.startswith(argument.value)], total=3, has_more=False)


async def acknowledge(_context: Any, _params: Any) -> EmptyResult:
    return EmptyResult()


for method, params in {
    "logging/setLevel": SetLevelRequestParams,
    "resources/subscribe": SubscribeRequestParams,
    "resources/unsubscribe": UnsubscribeRequestParams,
}.items():
    server._lowlevel_server.add_request_handler(method, params, acknowledge)


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


if __name__ == "__main__":
    app = server.streamable_http_app(event_store=Events(), retry_interval=500)
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", timeout_graceful_shutdown=1)
