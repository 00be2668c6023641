"""What the Python clients of the matrix have in common; each of them is started with its own kit's interpreter, and this file knows none.

A line in: {visit: {"url", "era", "transport", "parts": {part: [[check, operation, arguments], …], …}}, …}. A line out: {visit: {"protocol", "seen":
{part: {check: value}}}}. A visit is a connection, all of them at once; so are the parts of each (a part is a server), and its checks go one by one. What goes
wrong is a value, too: {"wrong": text}. The operations are the functions of OPERATIONS; a Kit does them with its SDK, in plain JSON values as on the wire.
"""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

MODERN = "2026"
ENOUGH_S = 4.0  # for what comes by itself; only a check that fails waits so long


class Kit:
    """A connection. Subclasses give it an SDK; requests take and give wire objects (dicts)."""

    protocol: str
    url: str

    def __init__(self) -> None:
        self.logged: list[tuple[str, str]] = []  # level, words
        self.heard: list[tuple[str, str]] = []  # method of a notification, URI in it
        self.news = asyncio.Event()
        self.level = asyncio.Lock()

    def told(self, notification: dict[str, Any]) -> None:
        params = notification.get("params") or {}
        self.heard.append((notification["method"], str(params.get("uri", ""))))
        self.news.set()

    def logs(self, level: str, data: Any) -> None:
        self.logged.append((level, data["msg"] if isinstance(data, dict) and "msg" in data else str(data)))
        self.news.set()

    async def until(self, found: Callable[[], Any], deadline_s: float = ENOUGH_S) -> Any:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while not found():
                    self.news.clear()
                    await self.news.wait()
        return found()

    async def page(self, what: str, cursor: str | None) -> dict[str, Any]:
        raise NotImplementedError

    async def call(self, name: str, arguments: dict[str, Any], progress: Any = None, level: str | None = None) -> dict[str, Any]:
        raise NotImplementedError

    async def cancel(self, name: str, arguments: dict[str, Any], begun: asyncio.Event) -> None:
        """Start a call, and cancel it when it has begun: by cancelling the task where the SDK takes that as the wish."""

        async def on_progress(*_: Any) -> None:
            begun.set()

        task = asyncio.ensure_future(self.call(name, arguments, on_progress))
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        with contextlib.suppress(BaseException):
            await task

    async def prompt(self, name: str, arguments: dict[str, str]) -> dict[str, Any]:
        raise NotImplementedError

    async def read(self, uri: str) -> dict[str, Any]:
        raise NotImplementedError

    async def complete(self, reference: dict[str, str], argument: dict[str, str], context: dict[str, str] | None) -> dict[str, Any]:
        raise NotImplementedError

    async def ping(self) -> None:
        raise NotImplementedError

    async def set_level(self, level: str) -> None:
        raise NotImplementedError

    def listening(self, uri: str | None) -> Any:
        """While inside, changes of that resource (of the list of tools, if None) are told to `told`."""
        return self._listening(uri)

    @contextlib.asynccontextmanager
    async def _listening(self, uri: str | None) -> AsyncIterator[None]:
        raise NotImplementedError
        yield

    async def resume(self, name: str, arguments: dict[str, Any], progress: Any) -> dict[str, Any]:
        """The call, whose stream breaks after its first progress."""
        CUT.armed.add((self.url, name))
        return await self.call(name, arguments, progress)


class Cut:
    """Breaks the event stream of a call after its first progress, as a network would: `wrap` the response body of each POST with it."""

    def __init__(self) -> None:
        self.armed: set[tuple[str, str]] = set()  # URL and name of the tool
        self.cuts: Counter[tuple[str, str]] = Counter()

    def takes(self, url: str, request_body: bytes) -> tuple[str, str] | None:
        found = next((each for each in self.armed if each[0] == url and f'"{each[1]}"'.encode() in request_body), None)
        if found is not None:
            self.armed.discard(found)
        return found

    async def body(self, what: tuple[str, str], stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in stream:
            yield piece
            if b"notifications/progress" in piece:
                self.cuts[what] += 1
                return


CUT = Cut()


# --- operations


def shown(result: dict[str, Any]) -> dict[str, Any]:
    content = result.get("content") or []
    seen: dict[str, Any] = {"texts": [piece["text"] for piece in content if piece["type"] == "text"]}
    if len(content) != len(seen["texts"]):
        seen["kinds"] = [piece["type"] for piece in content]
        seen["uris"] = [piece.get("uri") or piece["resource"]["uri"] for piece in content if "resource" in piece["type"]]
    if result.get("structuredContent") is not None:
        seen["structured"] = result["structuredContent"]
    if result.get("isError"):
        seen["failed"] = True
    return seen


async def names(kit: Kit, what: str) -> list[str]:
    found, cursor = [], None
    for _ in range(50):
        page = await kit.page(what, cursor)
        found += [each.get("uriTemplate") or each.get("uri") or each["name"] for each in page[what]]
        if (cursor := page.get("nextCursor")) is None:
            break
    return sorted(found)


async def call(kit: Kit, name: str, arguments: dict[str, Any]) -> Any:
    return shown(await kit.call(name, arguments))


async def size(kit: Kit, name: str, argument: str, count: int) -> int:
    return len(shown(await kit.call(name, {argument: "x" * count}))["texts"][0])


async def progress(kit: Kit, name: str, arguments: dict[str, Any], how: str = "call") -> Any:
    steps: list[Any] = []

    async def on_progress(step: float, total: float | None, words: str | None) -> None:
        steps.append([step, total, words])

    cuts = CUT.cuts[kit.url, name]
    result = await getattr(kit, how)(name, arguments, on_progress)
    return {"texts": shown(result)["texts"], "steps": steps, **({"cuts": CUT.cuts[kit.url, name] - cuts} if how == "resume" else {})}


async def logged(kit: Kit, name: str, arguments: dict[str, Any], level: str, words: str, count: int) -> list[list[str]]:
    async with kit.level:  # it is the whole session's
        return await _logged(kit, name, arguments, level, words, count)


async def _logged(kit: Kit, name: str, arguments: dict[str, Any], level: str, words: str, count: int) -> list[list[str]]:
    if kit.protocol < MODERN:
        await kit.set_level(level)
    past = len(kit.logged)
    await kit.call(name, arguments, None, level)

    def found() -> list[list[str]]:
        return [[at, said] for at, said in kit.logged[past:] if words in said]

    await kit.until(lambda: len(found()) >= count)
    return found()


async def cancelled(kit: Kit, name: str, arguments: dict[str, Any], asked: str) -> str:
    await kit.cancel(name, arguments, asyncio.Event())
    for _ in range(60):
        if shown(await kit.call(asked, arguments))["texts"] == ["yes"]:
            return "yes"
        await asyncio.sleep(0.05)
    return "no"


async def prompt(kit: Kit, name: str, arguments: dict[str, str]) -> list[str]:
    return [message["content"]["text"] for message in (await kit.prompt(name, arguments))["messages"]]


async def read(kit: Kit, uri: str) -> list[str]:
    content = (await kit.read(uri))["contents"][0]
    return [content["uri"], content["text"] if "text" in content else "blob " + content["blob"]]


async def complete(kit: Kit, reference: dict[str, str], name: str, value: str, context: dict[str, str] | None = None) -> list[str]:
    return list((await kit.complete(reference, {"name": name, "value": value}, context))["completion"]["values"])


async def ping(kit: Kit) -> str:
    await kit.ping()
    return "pong"


async def updates(kit: Kit, uri: str, name: str, arguments: dict[str, Any], again: bool = True) -> bool:
    """Is a change of the resource told to one who wants to know?"""
    async with kit.listening(uri):
        return await _told(kit, ("notifications/resources/updated", uri), name, arguments, again)


async def changes(kit: Kit, name: str, arguments: dict[str, Any]) -> bool:
    """Is it told that the list of tools is another now?"""
    async with kit.listening(None):
        return await _told(kit, ("notifications/tools/list_changed", ""), name, arguments, True)


async def _told(kit: Kit, what: tuple[str, str], name: str, arguments: dict[str, Any], again: bool) -> bool:
    past = len(kit.heard)
    for _ in range(20 if again else 1):  # the GET stream is opened in the background; what is sent before it is open is lost by design
        await kit.call(name, arguments)
        if await kit.until(lambda: what in kit.heard[past:], 0.25 if again else ENOUGH_S):
            return True
    return False


OPERATIONS = {
    each.__name__: each for each in (names, call, size, progress, logged, cancelled, prompt, read, complete, ping, updates, changes)
}


# --- the answers of the user behind the client; what is asked is in the answer, so an answer to another's question shows


def sampled(prompt: str) -> str:
    return prompt + "!"


def elicited(message: str) -> dict[str, str]:
    return {"answer": "A " + message, "name": "Ada"}


ROOT = "file:///srv/root"


# --- the loop


def wrong(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:300]


async def part(kit: Kit, checks: list[list[Any]], seen: dict[str, Any]) -> None:
    for check, operation, arguments in checks:
        try:
            seen[check] = await asyncio.wait_for(OPERATIONS[operation](kit, *arguments), 10)
        except Exception as error:
            seen[check] = {"wrong": wrong(error)}


async def visit(connect: Callable[..., Any], url: str, era: str, transport: str, parts: dict[str, list[list[Any]]]) -> dict[str, Any]:
    seen: dict[str, dict[str, Any]] = {name: {} for name in parts}
    found: dict[str, Any] = {"seen": seen}
    try:
        async with connect(url, era, transport) as kit:
            found["protocol"], kit.url = kit.protocol, url
            await asyncio.gather(*(part(kit, checks, seen[name]) for name, checks in parts.items()))
    except BaseException as error:
        found["wrong"] = wrong(error)
    return found


def serve(connect: Callable[..., Any]) -> None:
    async def answer(line: str) -> dict[str, Any]:
        asked = json.loads(line)
        return dict(zip(asked, await asyncio.gather(*(visit(connect, **each) for each in asked.values())), strict=True))

    run: Callable[[Awaitable[Any]], Any] = asyncio.run
    print('{"ready": true}', flush=True)
    for line in sys.stdin:
        print(json.dumps(run(answer(line))), flush=True)
