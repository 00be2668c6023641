"""Active health checks: one prober for all workers, which are told what it finds; and the word of one worker's breaker for the others.

    control → worker   health    [{"upstream": "search", "endpoint": "127.0.0.1:8000", "up": false, "why": "status 503"}, …]     `ops/health` hears
    worker → control   health    the same list, when it joins: what it knew before this process was made. So a new one flips nothing.
    either way         breaker   {"upstream": "search", "endpoint": …, "for": 4.2, "hard": true, "why": "Connection refused"}

An endpoint is asked at the first of its addresses that takes a connection, over a connection of its own, with the upstream's TLS, and everything together is
bounded in time. Checks of one endpoint never overlap, and those of many are spread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcpproxy import __version__
from mcpproxy.clock import monotonic, unix
from mcpproxy.config.model import Config, Upstream
from mcpproxy.config.upstreams import DISCOVER, HTTP, TCP, Health
from mcpproxy.control.switchboard import Switchboard
from mcpproxy.errors import StartError
from mcpproxy.net.fetch import Bounds, FetchError, Response, ask
from mcpproxy.net.tls import Identity, client_context
from mcpproxy.observe.messages import Messages
from mcpproxy.upstream.endpoint import Endpoint

MODERN, LEGACY = "2026-07-28", "2025-11-25"  # the revisions of MCP that are spoken
SPREAD = 0.2  # of the time between checks, by which each is early at random
FIRST_S = 0.5  # within which the first checks begin
META = "io.modelcontextprotocol"
ACCEPT = "application/json, text/event-stream"
FAREWELL_S = 0.5  # for the session that a check opened to be deleted
ASKS_FOR_A_CREDENTIAL = (401, 403)
OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)  # what is missing here, whatever it is asked of


class Sick(Exception):
    """It is not well; the text says why."""


@dataclass(slots=True, eq=False)
class Watched:
    """One endpoint that is asked."""

    upstream: str
    url: str
    health: Health
    tls: ssl.SSLContext | None
    place: Endpoint  # only for what its URL means
    host: str
    up: bool | None = None  # as the workers know it
    why: str = ""
    row: int = 0  # checks in a row that said otherwise
    checked_at: float = 0.0  # Unix time
    took_ms: float = 0.0
    task: asyncio.Task[None] | None = field(default=None, repr=False)

    def told(self) -> dict[str, Any]:
        """For the workers."""
        return {"upstream": self.upstream, "endpoint": self.place.label, "up": self.up, "why": self.why}


class Checks:
    """A part of the control process (`control/run`)."""

    def __init__(self, config: Config, switchboard: Switchboard, messages: Messages) -> None:
        self._config, self._board, self._messages = config, switchboard, messages
        self.watched: list[Watched] = []

    async def start(self) -> None:
        """Begin to ask."""
        self._board.hears["health"] = self._known
        self._board.hears["breaker"] = self._breaker
        self._board.joined.append(self._joined)
        self._begin(self._config)

    async def stop(self) -> None:
        """Ask no more."""
        await self._end(self.watched)
        self.watched = []

    def snapshot(self) -> list[dict[str, Any]]:
        """For status: each endpoint that is asked, with its last check."""
        return [
            {**one.told(), "check": one.health.check, "checked_at": round(one.checked_at, 3), "took_ms": round(one.took_ms, 1)}
            for one in self.watched
        ]

    def _begin(self, config: Config) -> None:
        self.watched = []
        for name, upstream in config.upstream.items():
            if upstream.health is None:
                continue
            try:
                tls = _context(upstream)
            except StartError as error:  # a file that is gone since the workers read it
                self._messages.say("error", f"upstream {name}: no health checks: {error.message}")
                continue
            for url in upstream.urls:
                place = Endpoint(url, tls, server_name=upstream.server_name or "")
                host = place.authority if upstream.host in ("upstream", "keep") else upstream.host
                one = Watched(name, url, upstream.health, place.tls, place, host)
                one.task = asyncio.create_task(self._watch(one))
                self.watched.append(one)

    @staticmethod
    async def _end(watched: list[Watched]) -> None:
        tasks = [one.task for one in watched if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the line ----------------------------------------------------------------------------------------------------------------------------

    def _joined(self, worker: int) -> None:
        known = [one.told() for one in self.watched if one.up is not None]
        if known:
            self._board.tell(worker, "health", known)

    def _known(self, worker: int, said: list[dict[str, Any]]) -> None:
        """A worker joined and says what it knows; it counts where this process knows nothing yet."""
        known = {(row["upstream"], row["endpoint"]): row for row in said}
        for one in self.watched:
            row = known.get((one.upstream, one.place.label))
            if row is not None and one.up is None and row["up"] is not None:
                one.up, one.why = row["up"], row["why"]
        self._joined(worker)

    def _breaker(self, worker: int, said: dict[str, Any]) -> None:
        for other in tuple(self._board.workers):
            if other != worker:
                self._board.tell(other, "breaker", said)

    # -- one endpoint ------------------------------------------------------------------------------------------------------------------------

    async def _watch(self, one: Watched) -> None:
        every = one.health.every
        await asyncio.sleep(random.random() * min(FIRST_S, every))
        while True:
            began = monotonic()
            try:
                async with asyncio.timeout(one.health.patience):
                    said = await check(one)
                well = True
            except Sick as sick:
                well, said = False, str(sick)
            except TimeoutError:
                well, said = False, f"no answer within {one.health.patience:g} s"
            except Exception as error:  # of ours: it says nothing about the endpoint, and must not end its checks
                self._messages.say("error", f"upstream {one.upstream}: {one.place.label}: the health check itself failed: {error!r}")
                await asyncio.sleep(every)
                continue
            took = monotonic() - began
            one.checked_at, one.took_ms = unix(), took * 1000
            self.judge(one, well, said)
            await asyncio.sleep(max(0.0, every * (1 - SPREAD * random.random()) - took))

    def judge(self, one: Watched, well: bool, said: str) -> None:
        """After one check: is it another state now?"""
        if well is one.up:
            one.row, one.why = 0, said
            return
        one.row += 1
        if one.row < (one.health.fall if not well else one.health.rise if one.up is False else 1):
            return
        first = one.up is None
        one.up, one.why, one.row = well, said, 0
        self._board.tell_all("health", [one.told()])
        if not well:
            self._messages.say("warning", f"upstream {one.upstream}: {one.place.label}: fails its health check: {said}")
        elif not first:
            self._messages.say("warning", f"upstream {one.upstream}: {one.place.label}: passes its health check again: {said}")


# -- the checks ----------------------------------------------------------------------------------------------------------------------------------


def _context(upstream: Upstream) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in upstream.urls):
        return None
    own = Identity(upstream.cert, upstream.key) if upstream.cert and upstream.key else None
    return client_context(upstream.ca, upstream.verify, own, upstream.min_version)


async def check(one: Watched) -> str:
    """Ask once: what it said. Raises Sick; TimeoutError is its caller's."""
    health = one.health
    try:
        if health.check == TCP:
            async with _connection(one):
                return "connected"
        if health.check == HTTP:
            response = await _ask(one, "GET", health.knocks_at)
            if response.status in health.expect or (not health.expect and 200 <= response.status < 300):
                return f"status {response.status}"
            raise Sick(f"status {response.status}")
        if health.check == DISCOVER:
            return await _discover(one)
        return await _initialize(one)
    except FetchError as error:
        raise Sick(error.detail) from None
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno in OURS:
            raise
        raise Sick(_said(error)) from None


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return error.strerror or str(error) or type(error).__name__


@contextlib.asynccontextmanager
async def _connection(one: Watched) -> Any:
    parts = urlsplit(one.url)
    name = one.place.hostname if one.tls is not None else None
    if one.url.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(one.url[5:])
    else:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=one.tls, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _ask(one: Watched, method: str, path: str, body: bytes | None = None, fields: tuple[tuple[str, str], ...] = ()) -> Response:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {one.host}", f"User-Agent: mcpproxy/{__version__} (health check)", "Connection: close"]
    lines += ["Accept-Encoding: identity", *(f"{name}: {value}" for name, value in fields)]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    request = "\r\n".join([*lines, "", ""]).encode() + (body or b"")
    async with _connection(one) as (reader, writer):
        return await ask(reader, writer, request, one.place.label, Bounds())


async def _call(one: Watched, method: str, params: dict[str, Any], *fields: tuple[str, str]) -> Response:
    """An MCP call with a result; or one to a server that first wants to know who asks."""
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    response = await _ask(one, "POST", one.health.knocks_at, body, (("Accept", ACCEPT), *fields))
    if response.status not in ASKS_FOR_A_CREDENTIAL and not has_result(response):
        raise Sick(f"{method}: status {response.status}{'' if response.status != 200 else ' without a result'}")
    return response


async def _discover(one: Watched) -> str:
    meta = {
        f"{META}/protocolVersion": MODERN,
        f"{META}/clientCapabilities": {},
        f"{META}/clientInfo": {"name": "mcpproxy", "version": __version__},
    }
    response = await _call(one, "server/discover", {"_meta": meta}, ("MCP-Protocol-Version", MODERN), ("Mcp-Method", "server/discover"))
    return f"server/discover: status {response.status}"


async def _initialize(one: Watched) -> str:
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "mcpproxy", "version": __version__}}
    response = await _call(one, "initialize", params)
    if response.status in ASKS_FOR_A_CREDENTIAL:
        return f"initialize: status {response.status}"
    session = response.fields.get("mcp-session-id")
    fields = (("MCP-Protocol-Version", LEGACY), *((("Mcp-Session-Id", session),) if session else ()))
    try:
        await _call(one, "ping", {}, *fields)
    finally:
        if session:  # also when our time is up: this takes time of its own, which nobody else ends
            with contextlib.suppress(OSError, FetchError):  # whatever it says to that: some do not know how
                async with asyncio.timeout(FAREWELL_S):
                    await _ask(one, "DELETE", one.health.knocks_at, None, fields)
    return "initialize and ping: status 200"


def has_result(response: Response) -> bool:
    """Is there a JSON-RPC result in it, alone or in an event?"""
    if response.status != 200:
        return False
    texts = [response.body]
    if response.fields.get("content-type", "").lower().startswith("text/event-stream"):
        texts = [line[5:] for line in response.body.splitlines() if line.startswith(b"data:")]
    for text in texts:
        try:
            message = msgspec.json.decode(text)
        except (ValueError, RecursionError):  # no JSON, no UTF-8, nested to break us
            continue
        if isinstance(message, dict) and "result" in message:
            return True
    return False
