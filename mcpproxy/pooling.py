"""`[upstream.NAME]` → the pool: its endpoints, with what is said of each, and the rules of their health.

To a worker an upstream of the gateway process has one endpoint, that process. Connections to it are always taken, also while it is replaced: they wait in the
backlog of a socket that the supervisor keeps. So nothing it does speaks against it: no breaker, and nobody passes it over.
"""

from __future__ import annotations

import socket
import ssl

from mcpproxy.config import names, upstreams
from mcpproxy.config.model import Upstream
from mcpproxy.errors import StartError
from mcpproxy.net.door import Door
from mcpproxy.net.loop import EdgeLoop
from mcpproxy.net.resolve import Target
from mcpproxy.net.timers import Wheel
from mcpproxy.net.tls import Identity, client_context
from mcpproxy.observe.messages import Messages
from mcpproxy.upstream.breaker import Rules
from mcpproxy.upstream.dial import Dial
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Pool, PoolLimits

GATEWAY = "gateway"  # what its endpoint is called
GATEWAY_IDLE_S = 60.0  # a link to our own process is not closed under us
ORDINARY = upstreams.Endpoint()  # one of which nothing particular is said


def make_context(upstream: Upstream) -> ssl.SSLContext | None:
    """For `https` addresses, if there are any. Raises StartError."""
    if not any(url.startswith("https:") for url in upstream.urls):
        return None
    own = Identity(upstream.cert, upstream.key) if upstream.cert and upstream.key else None
    return client_context(upstream.ca, upstream.verify, own, upstream.min_version)


def make_pool(name: str, upstream: Upstream, loop: EdgeLoop, wheel: Wheel, messages: Messages, door: Door | None = None) -> Pool:
    """The pool of one upstream: of a worker, where `door` leads to the gateway process; of that process itself without. Raises StartError."""
    if door is not None and upstream.gateway:
        return _to_gateway(name, upstream, loop, wheel, messages, door)
    if not upstream.urls:
        raise StartError(f"upstream {name}: there is no gateway process that could serve it")
    tls = make_context(upstream)
    breaker = upstream.breaker
    limits = PoolLimits(
        keepalive=upstream.keepalive,
        keepalive_idle=upstream.keepalive_idle,
        max_connections=upstream.max_connections,
        queue=upstream.queue,
        queue_timeout=upstream.queue_timeout,
        connect_timeout=upstream.connect_timeout,
        response_timeout=upstream.response_timeout,
        retry_after=upstream.retry_after,
        balance=upstream.balance,
        rules=Rules(
            failures=breaker.failures,
            window=breaker.window,
            share=breaker.share / 100,
            statuses=frozenset(breaker.statuses),
            probes=breaker.probes,
            max_ejected=breaker.max_ejected / 100,
            slow_start=upstream.slow_start,
        ),
    )

    def tell(text: str) -> None:
        messages.say("warning", f"upstream {name}: {text}")

    special = {names.url(url): each for url, each in upstream.endpoints.items()}
    endpoints = []
    for url in upstream.urls:
        each = special.get(url, ORDINARY)
        endpoints.append(
            Endpoint(url, tls, weight=each.weight, most=each.max_connections, state=each.state, server_name=upstream.server_name or "")
        )
    return Pool(loop, wheel, tuple(endpoints), limits, Dial, tell)


def _to_gateway(name: str, upstream: Upstream, loop: EdgeLoop, wheel: Wheel, messages: Messages, door: Door) -> Pool:
    limits = PoolLimits(
        keepalive=upstream.keepalive,
        keepalive_idle=GATEWAY_IDLE_S,
        max_connections=upstream.max_connections,
        queue=upstream.queue,
        queue_timeout=upstream.queue_timeout,
        connect_timeout=upstream.connect_timeout,
        response_timeout=upstream.response_timeout,
        retry_after=0.0,
        rules=Rules(failures=0),
    )
    endpoint = Endpoint(GATEWAY, None, target=Target(socket.AF_UNIX, door.address))
    return Pool(loop, wheel, (endpoint,), limits, Dial, lambda text: messages.say("warning", f"upstream {name}: {text}"))
