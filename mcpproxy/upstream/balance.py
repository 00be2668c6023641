"""Which endpoint is next? Round robin over the living; when none lives, over all, because trying beats refusing.

Pure: `order` returns the endpoints in the order they are to be tried, each once.
"""

from __future__ import annotations

from mcpproxy.upstream.endpoint import Endpoint


class RoundRobin:
    """A turn counter over a fixed tuple of endpoints."""

    __slots__ = ("_endpoints", "_turn")

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._endpoints = endpoints
        self._turn = -1

    def next(self, now: float) -> Endpoint:
        """Whose turn it is."""
        endpoints = self._endpoints
        count = len(endpoints)
        for _ in range(count):
            self._turn = (self._turn + 1) % count
            endpoint = endpoints[self._turn]
            if endpoint.dead_until <= now:
                return endpoint
        self._turn = (self._turn + 1) % count
        return endpoints[self._turn]

    def current(self) -> Endpoint:
        """Whose turn it was last."""
        return self._endpoints[self._turn]

    def order(self, first: Endpoint, now: float) -> list[Endpoint]:
        """`first`, then the other living ones in turn, then the dead ones."""
        at = self._endpoints.index(first)
        others = self._endpoints[at + 1 :] + self._endpoints[:at]
        return [first, *(e for e in others if e.alive(now)), *(e for e in others if not e.alive(now))]
