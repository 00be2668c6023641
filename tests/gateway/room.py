"""A loop, its wheel and ways out, for tests of what asks upstreams: driven by small steps (tests/net/stepping), with a clock that goes on."""

import ssl
from collections.abc import Coroutine
from typing import Any, TypeVar

from mcpproxy.clock import clock, monotonic
from mcpproxy.edge.questions import Questions
from mcpproxy.gateway.outgoing import Outgoing
from mcpproxy.upstream.dial import Dial
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Pool, PoolLimits
from tests.net.stepping import Steps

T = TypeVar("T")
LIMITS = PoolLimits(
    keepalive=8,
    keepalive_idle=60.0,
    max_connections=64,
    queue=8,
    queue_timeout=5.0,
    connect_timeout=10.0,
    response_timeout=60.0,
    retry_after=0.05,
)


class Room(Steps):
    """Steps whose wheel turns by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: list[Pool] = []
        self._tick()

    def _tick(self) -> None:
        clock.tick()
        self.wheel.turn(monotonic())
        self._ticking = self.loop.call_later(0.05, self._tick)

    def outgoing(self, *urls: str, outbound: Any = None, tls: ssl.SSLContext | None = None, limits: PoolLimits = LIMITS) -> Outgoing:
        """The way to these."""
        endpoints = tuple(Endpoint(url, tls) for url in urls)
        pool = Pool(self.loop, self.wheel, endpoints, limits, Dial)
        self.pools.append(pool)
        return Outgoing(pool, Questions(self.loop), outbound)

    def run(self, asked: Coroutine[Any, Any, T]) -> T:
        """To its end."""
        found: T = self.loop.run_until_complete(asked)
        return found

    def close(self) -> None:
        self._ticking.cancel()
        for pool in self.pools:
            pool.close_idle()
        super().close()
