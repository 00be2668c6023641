"""What happens with the servers of an upstream that fail, and how their health is known: the tables below `[upstream.NAME]`.

`model` hangs these tables into the whole, as those of `policies`; how a table is written, read and documented is told there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct

from mcpproxy.config import names
from mcpproxy.config.kinds import Choice, Count, Duration, Key, Text, Words

HTTP, TCP, DISCOVER, INITIALIZE = "http", "tcp", "discover", "initialize"
PATHS = {HTTP: "/health", DISCOVER: "/mcp", INITIALIZE: "/mcp"}  # where a check knocks unless `path` says otherwise


class Endpoint(Struct, frozen=True, kw_only=True):
    """What is particular about one of the `urls`, by that URL: `[upstream.search.endpoints."http://127.0.0.1:8001"]`."""

    weight: Annotated[int, Key(Count(most=100), "Its share of the calls, compared with the others'.")] = 1
    state: Annotated[
        Literal["enabled", "drain", "disabled"],
        Key(
            Choice('"enabled", "drain" or "disabled"', ("enabled", "drain", "disabled")),
            '`"drain"`: no new calls but those whose session lives there; what is open goes on to its end. `"disabled"`: no new calls at all. An operator '
            "can change it while the daemon runs.",
        ),
    ] = "enabled"
    max_connections: Annotated[
        int | None,
        Key(
            Count(),
            "Connections in use at once there, beside that of the upstream as a whole. When all of its servers are full, calls wait in the queue.",
            "none",
        ),
    ] = None


class Breaker(Struct, frozen=True, kw_only=True):
    """When one of several servers is passed over for a while because of how it answers, and how it comes back.

    A server that cannot be connected to is passed over at once (`upstream.retry_after`); this is about one that takes connections and answers badly: with one
    of `statuses`, with a reset before its response begins, with nothing in time, with what is no HTTP. What clients cause never counts. Never more than
    `max_ejected` are out for such reasons, and never the last one. Then one call at a time finds out whether it is well again; whenever it is not, it is
    passed over for twice as long (at most a minute).
    """

    failures: Annotated[int, Key(Count(least=0), "So many within `window` take a server out. 0: how it answers is not looked at.")] = 5
    window: Annotated[float, Key(Duration(), "The time in which they count.")] = 10.0
    share: Annotated[int, Key(Count(most=100), "And so many percent of the calls begun there within `window` must have failed.")] = 50
    statuses: Annotated[
        tuple[int, ...],
        Key(
            Words("list of statuses", Count(least=500, most=599)),
            "Statuses that count. 4xx cannot be among them: 400, 404, 405 and their kin are normal for MCP.",
        ),
    ] = (500, 502, 503, 504)
    probes: Annotated[int, Key(Count(most=100), "Calls that may try at once whether a server is well again.")] = 1
    max_ejected: Annotated[
        int, Key(Count(most=100), "Percent of the servers that may be out at once for how they answer; of two, one.")
    ] = 50


class Health(Struct, frozen=True, kw_only=True):
    """Ask each server regularly whether it is well; who is not gets no calls until it is. One process asks for all workers.

    It asks at the address itself, with the TLS of the upstream, without any credential, and follows no redirect.
    """

    check: Annotated[
        Literal["http", "tcp", "discover", "initialize"],
        Key(
            Choice('"http", "tcp", "discover" or "initialize"', (HTTP, TCP, DISCOVER, INITIALIZE)),
            '`"http"`: GET `path` is answered as expected. `"tcp"`: a connection is taken (with its TLS handshake). `"discover"`: the MCP call '
            '`server/discover` (2026-07-28 and later) has a result. `"initialize"`: the MCP calls `initialize` and `ping` (older servers) have one; the '
            "session that opens is deleted again. A server that asks MCP checks for a credential (401, 403) counts as well.",
        ),
    ] = "http"
    path: Annotated[
        str | None,
        Key(Text("path", names.path), "Where it knocks. Not for `tcp`.", '`"/health"`; `"/mcp"` for `discover` and `initialize`'),
    ] = None
    every: Annotated[float, Key(Duration(), "The time between two checks of one server, a little more or less each time.")] = 5.0
    timeout: Annotated[
        float | None,
        Key(Duration(), "How long one may take, all in all; not longer than `every`.", '`"2s"`, or `every` where that is shorter'),
    ] = None
    rise: Annotated[int, Key(Count(most=100), "So many checks in a row must pass until a server that failed gets calls again.")] = 1
    fall: Annotated[int, Key(Count(most=100), "So many in a row must fail until it gets none.")] = 2
    expect: Annotated[
        tuple[int, ...],
        Key(Words("list of statuses", Count(least=100, most=599)), "Statuses that are well, for `http`.", "200 to 299"),
    ] = ()

    @property
    def knocks_at(self) -> str:
        """The path."""
        return self.path or PATHS.get(self.check, "/")

    @property
    def patience(self) -> float:
        """Seconds until a check that has no answer has failed."""
        return min(2.0, self.every) if self.timeout is None else self.timeout


TABLES: dict[type, str] = {
    Endpoint: '[upstream.NAME.endpoints."URL"]',
    Breaker: "[upstream.NAME.breaker]",
    Health: "[upstream.NAME.health]",
}
