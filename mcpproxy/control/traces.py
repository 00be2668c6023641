"""Spans of workers, as OpenTelemetry: in batches, by OTLP over HTTP, in a thread of their own.

Attributes are those of the semantic conventions for HTTP servers and for MCP (gen-ai/mcp, in development), where an exchange carries one call and it is known
which; what has no name there is called `mcpproxy.…`. No session id is told, only the hash the log has.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mcpproxy import __version__
from mcpproxy.config.names import shown_url
from mcpproxy.config.secrets import secret
from mcpproxy.config.serving import Otel
from mcpproxy.observe.tally import Sums

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

EVERY_S = 2.0  # between two batches
BATCH = 512
WAITING = 8192  # spans that wait for the collector; beyond it they are dropped and counted
PATIENCE_S = 5.0  # for one batch to be taken
BADLY = ("upstream-error", "upstream-gone", "timeout", "failed", "stopped")  # ends that are errors whatever the status
NAMED = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name", "resources/read": "mcp.resource.uri"}
NANO = 1_000_000_000


class Traces:
    """A part of control."""

    def __init__(self, otel: Otel, hears: dict[str, Callable[[int, Any], None]], sums: Sums, say: Callable[[str, str], None]) -> None:
        self._otel, self._sums, self._say = otel, sums, say
        self._spans: list[dict[str, Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._export: Callable[[list[dict[str, Any]]], bool] = lambda spans: False
        self._failed = False
        hears["spans"] = self.heard

    def heard(self, worker: int, spans: list[dict[str, Any]]) -> None:
        """Of a worker."""
        room = WAITING - len(self._spans)
        self._spans += spans[:room]
        self._sums.count("spans", "dropped", by=max(0, len(spans) - room))

    async def start(self) -> None:
        """Send what comes."""
        try:
            self._export = exporter(self._otel)
        except ImportError:
            self._say("error", "otel: OpenTelemetry is not installed: pip install 'mcpproxy[otel]'; no traces are sent")
            return
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        """What is there is sent, if there is time."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            await self._send()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await self._send()

    async def _send(self) -> None:
        while self._spans:
            batch, self._spans = self._spans[:BATCH], self._spans[BATCH:]
            try:
                taken = await asyncio.to_thread(self._export, batch)
            except Exception as error:
                taken = False
                self._say("debug", f"otel: {type(error).__name__}")  # its text may name the URL, with what its query says
            self._sums.count("spans", "exported" if taken else "dropped", by=len(batch))
            if taken == self._failed:
                self._failed = not taken
                self._say(
                    "info" if taken else "warning",
                    f"otel: {shown_url(self._otel.endpoint)} {'takes' if taken else 'does not take'} our spans",
                )
            if not taken:
                return


def exporter(otel: Otel) -> Callable[[list[dict[str, Any]]], bool]:
    """Sends spans, and says whether they were taken. Raises ImportError where the library is missing."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    headers = {"Authorization": secret(otel.authorization)} if otel.authorization else None
    sends = OTLPSpanExporter(endpoint=otel.endpoint, headers=headers, timeout=PATIENCE_S)
    resource = Resource({"service.name": otel.service_name, "service.version": __version__})
    return lambda spans: sends.export([readable(span, resource) for span in spans]) is SpanExportResult.SUCCESS


def readable(span: dict[str, Any], resource: Resource) -> ReadableSpan:
    """As the library has them."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(identity: str, *, remote: bool = False) -> SpanContext:
        return SpanContext(int(span["trace"], 16), int(identity, 16), remote, TraceFlags(TraceFlags.SAMPLED))

    attributes = attributes_of(span)
    return ReadableSpan(
        name=name_of(span, attributes),
        context=context(span["span"]),
        parent=context(span["parent"], remote=True) if span["parent"] else None,
        resource=resource,
        attributes=attributes,
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if span["status"] >= 500 or span["end"] in BADLY else StatusCode.UNSET),
        start_time=int(span["began"] * NANO),
        end_time=int(span["ended"] * NANO),
    )


def name_of(span: dict[str, Any], attributes: dict[str, str | int]) -> str:
    """`tools/call search`, else `POST /mcp`: by the route, never by what a client may choose freely."""
    method = attributes.get("mcp.method.name")
    if method is None:
        return f"{attributes['http.request.method']} {span['route']}"
    target = attributes.get("gen_ai.tool.name") or attributes.get("gen_ai.prompt.name")
    return f"{method} {target}" if target else str(method)


def attributes_of(span: dict[str, Any]) -> dict[str, str | int]:
    """By the conventions."""
    about = json.loads(span["about"])
    method, name = span["calls"][0] if span["calls"] else (about.get("mcp_method"), about.get("mcp_name"))
    address, _, port = (json.loads(span["endpoint"]) or "").rpartition(":")
    found: dict[str, str | int | None] = {
        "http.request.method": about["method"],
        "http.response.status_code": span["status"],
        "http.route": span["route"],
        "url.path": about["path"],
        "url.scheme": "https" if "tls" in about else "http",
        "network.protocol.name": "http",
        "network.protocol.version": about["protocol"].removeprefix("HTTP/"),
        "network.transport": "tcp",
        "server.address": about["host"],
        "client.address": about.get("client") or about.get("proxy"),
        "user_agent.original": about.get("agent"),
        "mcp.method.name": method,
        "mcp.protocol.version": about.get("mcp_version"),
        NAMED.get(method, "mcpproxy.name"): name,
        "gen_ai.operation.name": "execute_tool" if method == "tools/call" else None,
        "enduser.id": about.get("principal"),
        "network.peer.address": address or None,
        "network.peer.port": int(port) if port.isdigit() else None,
        "mcpproxy.upstream": span["upstream"],
        "mcpproxy.end": span["end"],
        "mcpproxy.request_id": span["id"],
        "mcpproxy.session_hash": about.get("session"),
        "http.request.size": span["in"],
        "http.response.size": span["out"],
    }
    if span["reason"]:
        found["error.type"] = span["reason"]
    elif span["status"] >= 500:
        found["error.type"] = str(span["status"])
    elif span["end"] in BADLY:
        found["error.type"] = span["end"]
    return {key: value for key, value in found.items() if value is not None}
