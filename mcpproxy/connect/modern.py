"""Requests of 2026-07-28: each for itself, with what it says repeated in its head (mirrored).

1. To cancel is to close the answer's stream: whoever cancels the task does.
2. `subscriptions/listen` that is lost is asked again, with the same id, for as long as the client wants it; that it is acknowledged anew is not told.
3. -32020 to a call of a tool whose schema we have not seen: the tools are listed, and it is asked once more. It was not done.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mcpproxy.connect import envelope as envelopes
from mcpproxy.connect import mirrored
from mcpproxy.connect.envelope import Envelope, Params
from mcpproxy.connect.places import WireError
from mcpproxy.connect.remote import pauses
from mcpproxy.connect.session import ACCEPT, Call
from mcpproxy.connect.wire import Reply
from mcpproxy.mcp import message
from mcpproxy.mcp.jsonrpc import HEADER_MISMATCH
from mcpproxy.mcp.message import METHOD_NOT_FOUND

if TYPE_CHECKING:
    from mcpproxy.connect.bridge import Bridge

LINGER_S = 1.0
PAGES = 50  # of a list of tools
LISTEN, ACKNOWLEDGED = "subscriptions/listen", "notifications/subscriptions/acknowledged"


async def ask(bridge: Bridge, call: Call, version: str, params: Params) -> None:
    """A request, until it is answered. Raises WireError."""
    if call.envelope.method == "tools/list":
        call.peek = lambda envelope: bridge.schemas.learn(bytes(envelope.result))
    if call.envelope.method == LISTEN:
        await _listen(bridge, call, version, params)
        return
    for again in (False, True):
        reply = await _send(bridge, call, version, params)
        if reply.streams:
            await _events(bridge, call, reply)
            return
        body = (await reply.body()).strip()
        if reply.status < 400:
            if body:
                await bridge.deliver(body, 0, call)
            return
        if not again and reply.status == 400 and call.envelope.method == "tools/call" and _code(body) == HEADER_MISMATCH:
            await _learn(bridge, version, params)
            continue
        if call.envelope.method == "server/discover" and reply.status in (400, 404, 405):
            bridge.say(f"{bridge.remote.url} does not know {version}: an older server; clients that know `initialize` go on with it")
            if _code(body) is None:
                await bridge.fail(call, METHOD_NOT_FOUND, "Method not found")
        await bridge.failed(call, reply.status, body)
        return


async def tell(bridge: Bridge, raw: bytes, envelope: Envelope, version: str, params: Params) -> None:
    """A notification."""
    reply = await bridge.remote.send(b"POST", ACCEPT + mirrored.fields(version, envelope, params, bridge.schemas), raw)
    reply.close()


async def _send(bridge: Bridge, call: Call, version: str, params: Params) -> Reply:
    return await bridge.remote.send(b"POST", ACCEPT + mirrored.fields(version, call.envelope, params, bridge.schemas), call.raw)


async def _events(bridge: Bridge, call: Call, reply: Reply) -> None:
    try:
        async with asyncio.timeout(None) as limit:
            async for event in reply.events():
                if event.data:
                    await bridge.deliver(event.data, 0, call)
                    if not call.waiting:
                        limit.reschedule(asyncio.get_running_loop().time() + LINGER_S)
    except TimeoutError:
        pass
    finally:
        reply.close()


async def _listen(bridge: Bridge, call: Call, version: str, params: Params) -> None:
    """Rule 2."""
    acknowledged = False

    def drops(envelope: Envelope) -> bool:
        nonlocal acknowledged
        if envelope.method != ACKNOWLEDGED:
            return False
        again, acknowledged = acknowledged, True
        return again

    call.drops = drops
    pause = pauses()
    while call.waiting:
        try:
            reply = await _send(bridge, call, version, params)
            if not reply.streams:
                body = (await reply.body()).strip()
                if reply.status < 400:
                    await bridge.deliver(body, 0, call)
                    return
                if not acknowledged or reply.status < 500:
                    await bridge.failed(call, reply.status, body)
                    return
            else:
                if acknowledged:
                    pause = pauses()
                await _events(bridge, call, reply)
        except WireError as error:
            if not acknowledged or error.hopeless:
                raise
        if call.waiting:
            await asyncio.sleep(pause())


async def _learn(bridge: Bridge, version: str, params: Params) -> None:
    """Rule 3."""
    meta = {key: raw for key, raw in message.parts(bytes(params.meta)).items() if key != "progressToken"}
    cursor = b""
    for _ in range(PAGES):
        given = {"_meta": message.put(meta), **({"cursor": cursor} if cursor else {})}
        call, answer = bridge.own("tools/list", message.put(given))
        try:
            reply = await _send(bridge, call, version, envelopes.params(call.envelope))
            if reply.streams:
                await _events(bridge, call, reply)
            else:
                await bridge.deliver((await reply.body()).strip(), 0, call)
        finally:
            for key in call.waiting:
                bridge.calls.pop(key, None)
        if not answer.done():
            return
        result = bytes(answer.result().result)
        bridge.schemas.learn(result)
        found = envelopes.plain(result)
        following = found.get("nextCursor") if isinstance(found, dict) else None
        if not isinstance(following, str):
            return
        cursor = message.text(following)


def _code(body: bytes) -> int | None:
    """Of a JSON-RPC error."""
    found = envelopes.read(body)
    error = envelopes.plain(found[0].error) if found and len(found) == 1 else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else None
