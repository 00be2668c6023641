"""The works: each file measures one kind, `ALL` is the order they run in.

A work is asked once to `prepare`, then to `measure` each contender in each round. It returns plain figures; what they are held against is
its `targets`, a table. Rule: a figure that is a ratio to a peer is formed within one round, so both halves come from the same minute.
"""

from __future__ import annotations

from benchmarks.works import bodies, handshakes, latency, post, streams
from benchmarks.works.base import Work

WORKS: tuple[Work, ...] = (
    post.Post("post_tls", "POST tools/call, TLS 1.3, keep-alive, 64 connections", tls=True),
    post.Post("post_plain", "the same without TLS", tls=False),
    streams.Idle(),
    streams.Events(),
    latency.Latency(),
    streams.Neighbours(),
    bodies.Bodies(),
    post.Misses(),
    handshakes.Handshakes(),
)
ALL = {work.name: work for work in WORKS}
