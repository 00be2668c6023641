"""What is tried in the matrix of real clients and servers, and what must come of it.

A Check is an operation of the client programs (tests/real/clients/full.py tells which there are) and the value it must give. `full_checks` are
for the servers full_*, the others for the servers of other people. What a client or server cannot do is told where the checks are asked for
(tests/real/test_gateway_matrix).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

BIG = 100_000
TOOLS = ("echo", "add", "pieces", "fail", "steps", "talk", "hang", "cancelled", "sample", "ask", "interview", "roots", "change", "drop")


@dataclass(frozen=True)
class Check:
    name: str
    operation: str
    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Names:
    """How a server's things are called behind a bridge (as the server calls them) or a hub (with its prefix)."""

    server: str
    prefix: str = ""

    def __call__(self, name: str) -> str:
        return self.prefix + name


class Holds:
    """A list must have these among others."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = set(items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and self.items <= set(other)

    __hash__ = None  # type: ignore[assignment]


class Parts:
    """An object must have these members among others."""

    def __init__(self, members: dict[str, Any]) -> None:
        self.members = members

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and self.members == {key: other.get(key) for key in self.members}

    __hash__ = None  # type: ignore[assignment]


class Says:
    """Texts must say this."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and self.words in "\n".join(other)

    __hash__ = None  # type: ignore[assignment]


def full_checks(names: Names, key: str) -> Iterator[Check]:
    """`key` is in what is sent, so what belongs to another client or part would show."""
    home = f"full://{names.server}"
    yield Check("ping", "ping", (), "pong")
    yield Check("tools", "names", ("tools",), Holds(names(tool) for tool in TOOLS))
    yield Check("prompts", "names", ("prompts",), Holds([names("greet")]))
    yield Check("resources", "names", ("resources",), Holds([f"{home}/text", f"{home}/blob"]))
    yield Check("templates", "names", ("resourceTemplates",), Holds([f"{home}/item/{{id}}"]))
    yield Check("call", "call", (names("echo"), {"message": f"grüße 世界 {key}"}), Parts({"texts": [f"Echo: grüße 世界 {key}"]}))
    yield Check("large", "size", (names("echo"), "message", BIG), BIG + len("Echo: "))
    yield Check("structured", "call", (names("add"), {"a": 2, "b": 3}), Parts({"structured": {"result": 5}}))
    kinds = ["text", "image", "audio", "resource", "resource_link"]
    yield Check("pieces", "call", (names("pieces"), {}), Parts({"kinds": kinds, "uris": [f"{home}/embedded", f"{home}/text"]}))
    yield Check("tool error", "call", (names("fail"), {}), Parts({"failed": True}))
    steps = [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]]
    yield Check("progress", "progress", (names("steps"), {"count": 3, "pause": 0.02}), {"texts": ["3 steps"], "steps": steps})
    logged = [["info", f"info {key}"], ["error", f"error {key}"]]
    yield Check("logging", "logged", (names("talk"), {"words": key}, "info", key, 2), logged)
    yield Check("log level", "logged", (names("talk"), {"words": key + "!"}, "error", key + "!", 1), [["error", f"error {key}!"]])
    yield Check("cancellation", "cancelled", (names("hang"), {"key": key}, names("cancelled")), "yes")
    yield Check("prompt", "prompt", (names("greet"), {"name": key}), [f"Greet {key}"])
    yield Check("resource", "read", (f"{home}/text",), [f"{home}/text", f"text of {names.server}"])
    yield Check("blob", "read", (f"{home}/blob",), [f"{home}/blob", "blob AGZ1bGz/"])
    yield Check("template", "read", (f"{home}/item/{key}",), [f"{home}/item/{key}", f"item {key}"])
    yield Check("completion", "complete", ({"type": "ref/prompt", "name": names("greet")}, "name", "A"), ["Ada", "Alan"])
    yield Check("completion of a template", "complete", ({"type": "ref/resource", "uri": f"{home}/item/{{id}}"}, "id", "o"), ["one"])
    yield Check("sampling", "call", (names("sample"), {"prompt": key}), Parts({"texts": [f"Sampled: {key}!"]}))
    yield Check("elicitation", "call", (names("ask"), {"key": key}), Parts({"texts": [f"Hello A Name of {key}?"]}))
    yield Check("two questions", "call", (names("interview"), {"key": key}), Parts({"texts": [f"A Name of {key}? A Color of {key}?"]}))
    yield Check("roots", "call", (names("roots"), {}), Parts({"texts": ["file:///srv/root"]}))
    touch = (names("touch"), {"uri": f"{home}/text"})
    yield Check("subscription", "updates", (f"{home}/text", *touch), True)
    yield Check("changed list", "changes", (names("change"), {}), True)
    resumed = {"texts": ["3 steps"], "steps": steps, "cuts": 1}
    yield Check("resumption", "progress", (names("steps"), {"count": 3, "pause": 0.1}, "resume"), resumed)
    yield Check("server hangs up", "call", (names("drop"), {}), Parts({"texts": ["back"]}))


def everything_checks(names: Names, key: str) -> Iterator[Check]:
    """server-everything: the reference server. It asks for roots by itself soon after it began, amid what is done then: what that disturbs comes last."""
    yield Check("tools", "names", ("tools",), Holds(names(tool) for tool in ("echo", "get-sum", "trigger-long-running-operation")))
    yield Check("call", "call", (names("echo"), {"message": key}), Parts({"texts": [f"Echo: {key}"]}))
    weather = {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}
    yield Check("structured", "call", (names("get-structured-content"), {"location": "Chicago"}), Parts({"structured": weather}))
    links = ["demo://resource/dynamic/blob/1", "demo://resource/dynamic/text/2"]
    yield Check("pieces", "call", (names("get-resource-links"), {"count": 2}), Parts({"uris": links}))
    yield Check("prompt", "prompt", (names("args-prompt"), {"city": key}), [f"What's weather in {key}?"])
    yield Check("template", "read", ("demo://resource/dynamic/text/7",), Says("Resource 7"))
    reference = {"type": "ref/prompt", "name": names("completable-prompt")}
    yield Check("completion", "complete", (reference, "name", "A", {"department": "Engineering"}), ["Alice"])
    template = {"type": "ref/resource", "uri": "demo://resource/dynamic/text/{resourceId}"}
    yield Check("completion of a template", "complete", (template, "resourceId", "7"), ["7"])
    yield Check("sampling", "call", (names("trigger-sampling-request"), {"prompt": key}), Parts({"texts": Says(f"{key}!")}))
    yield Check("elicitation", "call", (names("trigger-elicitation-request"), {}), Parts({"texts": Says("- Name: Ada")}))
    yield Check("roots", "call", (names("get-roots-list"), {}), Parts({"texts": Says("file:///srv/root")}))
    long = {"duration": 0.1, "steps": 2}
    done = {"texts": Says("completed"), "steps": [[1, 2, None], [2, 2, None]]}
    yield Check("progress", "progress", (names("trigger-long-running-operation"), long), done)
    uri = "demo://resource/dynamic/text/1"
    yield Check("subscription", "updates", (uri, names("toggle-subscriber-updates"), {}), True)


def filesystem_checks(names: Names, key: str, place: str) -> Iterator[Check]:
    """@modelcontextprotocol/server-filesystem, over `place`."""
    path = f"{place}/{key}.txt"
    yield Check("tools", "names", ("tools",), Holds(names(tool) for tool in ("read_text_file", "write_file", "list_directory")))
    yield Check("write", "call", (names("write_file"), {"path": path, "content": f"größe {key}"}), Parts({"texts": Says("wrote")}))
    yield Check("call", "call", (names("read_text_file"), {"path": path}), Parts({"texts": [f"größe {key}"]}))
    yield Check("structured", "call", (names("list_directory"), {"path": place}), Parts({"texts": Says(f"[FILE] {key}.txt")}))
    yield Check("tool error", "call", (names("read_text_file"), {"path": "/etc/hostname"}), Parts({"failed": True}))


def memory_checks(names: Names, key: str) -> Iterator[Check]:
    """@modelcontextprotocol/server-memory."""
    entity = {"name": key, "entityType": "try", "observations": [f"about {key}"]}
    yield Check("tools", "names", ("tools",), Holds(names(tool) for tool in ("create_entities", "read_graph", "search_nodes")))
    yield Check("write", "call", (names("create_entities"), {"entities": [entity]}), Parts({"structured": {"entities": [entity]}}))
    found = {"entities": [entity], "relations": []}
    yield Check("call", "call", (names("open_nodes"), {"names": [key]}), Parts({"structured": found}))


def time_checks(names: Names, key: str) -> Iterator[Check]:
    """mcp-server-time."""
    asked = {"source_timezone": "Europe/Warsaw", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    yield Check("tools", "names", ("tools",), Holds(names(tool) for tool in ("get_current_time", "convert_time")))
    yield Check("call", "call", (names("convert_time"), asked), Parts({"texts": Says("Asia/Tokyo")}))
    yield Check("tool error", "call", (names("get_current_time"), {"timezone": key}), Parts({"failed": True}))
