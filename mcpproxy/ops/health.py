"""What is known about endpoints, between this worker's pools and the control process (`control/checks` says what the messages look like)."""

from __future__ import annotations

from functools import partial
from typing import Any

from mcpproxy.assemble import Runtime
from mcpproxy.ops.line import Line
from mcpproxy.upstream.group import Group, no_one


class Health:
    """Made once in each worker; `tick` finds the pools that a reload made."""

    def __init__(self, runtime: Runtime, line: Line) -> None:
        self._runtime, self._line = runtime, line
        line.hears["health"] = self.heard
        line.hears["breaker"] = self.breaker
        line.joined.append(self.joined)
        runtime.ticker.add(self.tick)
        self.tick(0.0)

    def tick(self, now: float) -> None:
        """Breakers of all pools speak to us."""
        for name, pool in self._runtime.pools.items():
            if pool.group.say is no_one:
                pool.group.say = partial(self._say, name)

    def _say(self, upstream: str, said: dict[str, Any]) -> None:
        self._line.say("breaker", {"upstream": upstream, **said})  # lost without a control process: each worker finds out for itself

    def joined(self) -> None:
        """A control process is there, perhaps a new one that knows nothing."""
        known = [
            {"upstream": name, "endpoint": endpoint.label, "up": endpoint.up, "why": endpoint.checked}
            for name, pool in self._runtime.pools.items()
            for endpoint in pool.endpoints
            if endpoint.up is not None
        ]
        if known:
            self._line.say("health", known)

    def heard(self, said: list[dict[str, Any]]) -> None:
        """What checks found."""
        for row in said:
            group = self._group(row)
            if group is not None:
                group.set_checked(row["endpoint"], row["up"], row["why"])

    def breaker(self, said: dict[str, Any]) -> None:
        """Another worker's breaker."""
        group = self._group(said)
        if group is not None:
            group.hear(said)

    def _group(self, said: dict[str, Any]) -> Group | None:
        pool = self._runtime.pools.get(said["upstream"])
        return None if pool is None else pool.group
