"""The works: each file measures one kind, `ALL` is the order they run in.

A work is asked once to `prepare`, then to `measure` each contender in each round. It returns plain figures; what they are held against is
its `targets`, a table. Rule: a figure that is a ratio to a peer is formed within one round, so both halves come from the same minute.
"""

from __future__ import annotations

from benchmarks.works import (
    abuse,
    bodies,
    counting,
    gateways,
    guard,
    handshakes,
    latency,
    multiplexed,
    post,
    reload,
    start,
    streams,
    workers,
)
from benchmarks.works.base import Target, Work

WORKS: tuple[Work, ...] = (
    post.Post("post_tls", "POST tools/call, TLS 1.3, keep-alive, 64 connections", tls=True),
    post.Post("post_plain", "the same without TLS", tls=False),
    guard.Calls(
        "guard_tls",
        "/mcp/headers",
        "post_tls with an API key, a rate limit and security headers",
        1.0,
        "nginx: a map of keys, limit_req, add_header; HAProxy: a map, a stick table, set-header; all say in the log who it was, and keep the key to themselves",
    ),
    guard.Calls(
        "guard_tools",
        "/mcp/audit",
        "the same with tool rules that look at the body, and the audit log",
        1.5,
        "the peers do what they do in guard_tls: they have neither",
    ),
    guard.Costs(),
    counting.Counting(),
    multiplexed.Calls(16, 8, (Target("cpu_us", 0.65), Target("cpu_us", 1.2, "haproxy"))),
    multiplexed.Calls(64, 1, (Target("cpu_us", 0.9),)),
    multiplexed.Calls(1, 100, (Target("cpu_us", 0.65), Target("cpu_us", 1.2, "haproxy"))),
    streams.Idle("sse_idle", "TLS SSE streams", 0.6),
    streams.Events("sse_events", "TLS SSE streams"),
    streams.Idle("h2_sse_idle", "HTTP/2 connections with one SSE stream each", 1.0, h2=True),
    streams.Events("h2_sse_events", "HTTP/2 connections with one SSE stream", h2=True),
    latency.Latency(),
    streams.Neighbours(),
    bodies.Bodies(),
    multiplexed.Download(),
    post.Misses(),
    handshakes.Handshakes(),
    workers.Workers(),
    workers.Tokens(),
    start.Start(),
    reload.Reload(),
    abuse.Abuse(),
    gateways.Gateways("bridge", "a stdio server on HTTP, 32 sessions: beside other gateways"),
    gateways.Gateways("hub", "five HTTP servers as one, 32 sessions: beside other gateways"),
    gateways.Lists(),
)
ALL = {work.name: work for work in WORKS}
