"""A plain HTTP service on uvicorn, no MCP.  plain.py PORT KEEP_ALIVE_SECONDS   (plain.mjs is the same on Node)

POST /echo      the body it got
POST /idle      how long this connection had been idle before this request: {"idle": seconds | null}
GET  /events    five events at intervals of 50 ms
GET  /endless   an event every 50 ms until the client is gone
GET  /gone      how many clients have left /endless: {"gone": number}
"""

import asyncio
import json
import sys
import time
from typing import Any

import uvicorn

last_used: dict[Any, float] = {}  # by client address
gone = 0


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


async def answer(send: Any, body: bytes, content_type: bytes = b"application/json") -> None:
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def stream(send: Any, receive: Any, most: int | None) -> None:
    global gone
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    leaving = asyncio.ensure_future(receive())
    number = 0
    while number != most and not leaving.done():
        number += 1
        await send({"type": "http.response.body", "body": b"id: %d\r\ndata: event %d\r\n\r\n" % (number, number), "more_body": True})
        await asyncio.wait([leaving], timeout=0.05)
    gone += leaving.done()
    leaving.cancel()
    await send({"type": "http.response.body", "body": b""})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close"})  # uvicorn answers 403
        return
    client, now = tuple(scope["client"]), time.monotonic()
    path = scope["path"]
    if path == "/events":
        await read_body(receive)
        await stream(send, receive, 5)
    elif path == "/endless":
        await read_body(receive)
        await stream(send, receive, None)
    elif path == "/gone":
        await answer(send, json.dumps({"gone": gone}).encode())
    elif path.startswith("/idle"):
        await read_body(receive)
        idle = now - last_used[client] if client in last_used else None
        await answer(send, json.dumps({"idle": idle}).encode())
    else:
        body = await read_body(receive)
        await answer(send, body, b"application/octet-stream")
    last_used[client] = time.monotonic()


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        timeout_keep_alive=float(sys.argv[2]),  # type: ignore[arg-type]
        log_level="warning",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
