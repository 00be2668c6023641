"""How a server is greeted, and how it wants to be asked: what the eras have in common for every transport.

    server = await greet(ask, tell, era=None, first=Era.MODERN, client=None, within=30.0)     # `ask` sends a request and gives its Answer
    answer = await answered(server, call, send)                             # `send` sends the call with these params

1. Unless the era is known, the one of the client is tried `first`, as tools may ask it in the words of that era alone.
   Modern: `server/discover`. A result that names a version of ours, or the error that does, is the modern era; any other error is the legacy one;
   and after PROBE seconds of silence `initialize` follows, and whichever is answered first decides (MCP 2026-07-28, basic/versioning).
   Legacy: `initialize`, which every older server bears; `server/discover` follows an error alone.
2. What a conversation of many clients declares is SHARED: no roots, which change what a server may touch for all of them. An own one
   declares what its client does. A modern server is told with every request what the client of that request can do.
3. Requests to a modern server carry the envelope (`_meta`); for a legacy one it is taken off again. Whatever else is in `_meta` stays.
4. A modern server's `input_required` is put to a legacy client as requests (`call.question`), and the call is made anew with the answers.
   For a modern client it goes through as it is.
5. A legacy server knows no rounds: a modern client's retry would be the call once more, and is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from mcpproxy import __version__
from mcpproxy.gateway.parking import REFUSED
from mcpproxy.gateway.parts import INTERNAL, LEGACY_VERSIONS, MODERN_VERSIONS, TIMED_OUT, Answer, Call, Client, Era, Server, Unavailable
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import CallError
from mcpproxy.mcp.message import Params

PROBE = 5.0  # seconds of silence after which `initialize` follows
ROUNDS, LEG = 8, 600.0  # rounds of questions in one call, and seconds for the answers of one
REQUESTS = 32  # in one round
UNSUPPORTED = -32022  # UnsupportedProtocolVersion

PREFIX = "io.modelcontextprotocol/"
VERSION, CLIENT, CAPABILITIES, LEVEL = (PREFIX + word for word in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel"))
ENVELOPE = (VERSION, CLIENT, CAPABILITIES, LEVEL)
OURS = message.encode({"name": "mcpproxy", "version": __version__})
SHARED = message.parts(b'{"sampling":{},"elicitation":{}}')

Ask = Callable[[str, bytes | None, float], Awaitable[Answer]]  # method, params, seconds at most
Tell = Callable[[str, bytes | None], Awaitable[None]]


# -- the greeting --


async def greet(ask: Ask, tell: Tell, *, era: Era | None, first: Era = Era.MODERN, client: Client | None, within: float) -> Server:
    """Who is there? `client`: whose conversation this will be, None: everybody's. Raises Unavailable, with a text for clients."""
    try:
        async with asyncio.timeout(within):
            if era is None and first is Era.LEGACY:
                return await _older_first(ask, tell, client, within)
            return await _greet(ask, tell, era, client, within)
    except TimeoutError:
        raise Unavailable(f"the server did not answer the greeting within {within:g} s") from None


async def _greet(ask: Ask, tell: Tell, era: Era | None, client: Client | None, within: float) -> Server:
    if era is Era.LEGACY:
        return await _initialize(await ask("initialize", hello(client), within), tell)
    discovery = asyncio.ensure_future(ask("server/discover", discover(MODERN_VERSIONS[-1]), within))
    initialization: asyncio.Future[Answer] | None = None
    try:
        await asyncio.wait({discovery}, timeout=None if era is Era.MODERN else PROBE)
        if not discovery.done():
            initialization = asyncio.ensure_future(ask("initialize", hello(client), within))
            await asyncio.wait({discovery, initialization}, return_when=asyncio.FIRST_COMPLETED)
            if not discovery.done() and initialization.result().error is not None:  # it may have understood the first one
                await asyncio.wait({discovery})
        if discovery.done():
            found = _discovered(discovery.result())
            version = None if found is not None else _named(discovery.result())
            if version is not None:
                found = _discovered(await ask("server/discover", discover(version), within))
            if found is not None:
                return found
            if era is Era.MODERN:
                raise Unavailable(f"the server does not speak {MODERN_VERSIONS[-1]}: {_error(discovery.result())}")
        answer = await (ask("initialize", hello(client), within) if initialization is None else initialization)
        version = _named(answer)  # modern after all: it woke up late
        if version is not None and (found := _discovered(await ask("server/discover", discover(version), within))) is not None:
            return found
        return await _initialize(answer, tell)
    finally:
        for each in (discovery, initialization):
            if each is not None:
                each.cancel()


async def _older_first(ask: Ask, tell: Tell, client: Client | None, within: float) -> Server:
    answer = await ask("initialize", hello(client), within)
    if answer.result is None:
        if code(answer) in INTERNAL:
            raise Unavailable(_error(answer))
        found = _discovered(await ask("server/discover", discover(_named(answer) or MODERN_VERSIONS[-1]), within))
        if found is not None:
            return found
    return await _initialize(answer, tell)


def hello(client: Client | None) -> bytes:
    """Params of `initialize`."""
    capabilities, info = (SHARED, OURS) if client is None else (client.capabilities, client.info)
    return message.put(
        {"protocolVersion": message.text(LEGACY_VERSIONS[-1]), "capabilities": message.put(capabilities), "clientInfo": info or OURS}
    )


def discover(version: str) -> bytes:
    """Params of a modern request of our own."""
    return message.put({"_meta": message.put(own(version))})


def own(version: str) -> Params:
    """The envelope of a modern request of our own."""
    return {VERSION: message.text(version), CLIENT: OURS, CAPABILITIES: b"{}"}


async def _initialize(answer: Answer, tell: Tell) -> Server:
    if answer.result is None:
        raise Unavailable(_error(answer) if code(answer) in INTERNAL else f"the server refused initialize: {_error(answer)}")
    try:
        found = message.parts(answer.result)
        server = _server(Era.LEGACY, str(message.plain(found["protocolVersion"])), found)
    except (CallError, KeyError):
        raise Unavailable("the server's answer to initialize cannot be read") from None
    await tell("notifications/initialized", None)
    return server


def _server(era: Era, version: str, found: Params) -> Server:
    meta = message.parts(found["_meta"]) if "_meta" in found else {}
    info = found.get("serverInfo") or meta.get(PREFIX + "serverInfo") or b"{}"
    words = message.plain(found.get("instructions", b'""'))
    capabilities = message.parts(found.get("capabilities", b"{}"))
    return Server(era, version, capabilities, info, words if isinstance(words, str) else "")


def _discovered(answer: Answer) -> Server | None:
    """Raises Unavailable where there is no server any more."""
    if answer.result is None:
        if code(answer) in INTERNAL:
            raise Unavailable(_error(answer))
        return None
    try:
        found = message.parts(answer.result)
        offered = message.plain(found["supportedVersions"])
        version = _common(offered)
        return None if version is None else _server(Era.MODERN, version, found)
    except (CallError, KeyError):
        return None


def _common(offered: object) -> str | None:
    """The newest modern version among these."""
    named = [version for version in MODERN_VERSIONS if isinstance(offered, list) and version in offered]
    return named[-1] if named else None


def _named(answer: Answer) -> str | None:
    """The modern version an error names."""
    if answer.error is None or code(answer) != UNSUPPORTED:
        return None
    found = message.plain(answer.error)
    data = found.get("data")
    return _common(data.get("supported")) if isinstance(data, dict) else None


def code(answer: Answer) -> int:
    """Of its error; 0 where there is none."""
    try:
        found = message.plain(answer.error or b"{}")
    except CallError:
        return 0
    number = found.get("code") if isinstance(found, dict) else None
    return number if isinstance(number, int) else 0


def _error(answer: Answer) -> str:
    try:
        found = message.plain(answer.error or b"{}")
    except CallError:
        found = {}
    text = found.get("message") if isinstance(found, dict) else None
    return text[:200] if isinstance(text, str) else "no reason given"


# -- how it wants to be asked --


def suited(server: Server, call: Call) -> Params:
    """The params of a call as the era of the server has them. Raises CallError where `_meta` is no object."""
    params, client = call.params, call.client
    if server.era is Era.LEGACY:
        if client.era is Era.LEGACY or "_meta" not in params:
            return params
        meta = {key: raw for key, raw in message.parts(params["_meta"]).items() if key not in ENVELOPE}
        rest = {key: raw for key, raw in params.items() if key != "_meta"}
        return {**rest, "_meta": message.put(meta)} if meta else rest
    meta = message.parts(params["_meta"]) if "_meta" in params else {}
    version = message.text(server.version)
    if client.era is Era.MODERN and meta.get(VERSION) == version:
        return params
    envelope = {VERSION: version, CLIENT: client.info or OURS, CAPABILITIES: message.put(client.capabilities)}
    if client.level is not None:
        envelope[LEVEL] = message.text(client.level)
    return {**params, "_meta": message.put({**envelope, **meta, VERSION: version})}


async def answered(server: Server, call: Call, send: Callable[[Params], Awaitable[Answer]]) -> Answer:
    """Have it answered, with as many rounds of questions as that takes."""
    if server.era is Era.LEGACY and call.client.era is Era.MODERN and ("requestState" in call.params or "inputResponses" in call.params):
        return REFUSED
    try:
        params = suited(server, call)
        answer = await send(params)
        if server.era is Era.LEGACY or call.client.era is Era.MODERN:
            return answer
        for _ in range(ROUNDS):
            wanted = _wanted(answer)
            if wanted is None:
                return answer
            replies = await _replies(call, wanted)
            if isinstance(replies, Answer):
                return replies
            params = {key: raw for key, raw in params.items() if key not in ("inputResponses", "requestState")}
            if replies:
                params["inputResponses"] = message.put(replies)
            if "requestState" in wanted:
                params["requestState"] = wanted["requestState"]
            answer = replace(await send(params), recovered=answer.recovered)
    except CallError as why:
        return Answer.failure(why.code, "this call, or its answer, cannot be read")
    return answer if _wanted(answer) is None else Answer.failure(message.INTERNAL_ERROR, "the server asks without end")


def _wanted(answer: Answer) -> Params | None:
    """What an `input_required` result holds; None for every other answer."""
    if answer.result is None or b"input_required" not in answer.result:
        return None
    found = message.parts(answer.result)
    return found if found.get("resultType") == b'"input_required"' else None


async def _replies(call: Call, wanted: Params) -> Params | Answer:
    """What the client says to the questions, by their keys; or why the call fails."""
    asked = message.parts(wanted.get("inputRequests", b"{}"))
    if len(asked) > REQUESTS:
        return Answer.failure(message.INTERNAL_ERROR, "the server asks too much at once")
    questions = []
    for raw in asked.values():
        found = message.parts(raw)
        method = message.plain(found.get("method", b"null"))
        if not isinstance(method, str):
            return Answer.failure(message.INTERNAL_ERROR, "the server's question cannot be read")
        questions.append((method, found.get("params")))
    tasks = [asyncio.ensure_future(call.question(method, params)) for method, params in questions]
    try:
        async with asyncio.timeout(LEG):
            answers = await asyncio.gather(*tasks)
    except TimeoutError:
        return Answer.failure(TIMED_OUT, "the client did not answer the server's question")
    finally:
        for task in tasks:
            task.cancel()
    failed = next((answer for answer in answers if answer.result is None), None)
    if failed is not None:
        return failed
    return {key: answer.result or b"{}" for key, answer in zip(asked, answers, strict=True)}
