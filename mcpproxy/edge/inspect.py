"""What a connection is doing right now, for operators who ask; and how they end it. Nothing here is on a request's way.

An exchange is called by its connection and a number in it: `1f0a7c22-3d.5`. The name of a connection is never given twice while the process lives, so
whoever closes by name never closes somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from mcpproxy.edge import tunnel
from mcpproxy.edge.affinity import Home
from mcpproxy.edge.doorstep import Doorstep
from mcpproxy.edge.downstream import IN_EXCHANGE, Downstream, ahead_bytes
from mcpproxy.edge.exchange import NO_UPSTREAM, Exchange
from mcpproxy.edge.multiplex import Multiplex
from mcpproxy.upstream.pool import Pool

AnyLink = Downstream | Multiplex | Doorstep
principal_in = re.compile(
    rb',"principal":("(?:[^"\\]|\\.)*")'
).search  # a plan whose guard has nothing to ask has none, and says it only here
ABOUT = ("method", "host", "path", "principal")  # members of an exchange's log line that are told here


def name_of(link: AnyLink) -> str:
    """The connection's."""
    return "" if isinstance(link, Doorstep) else link.id_prefix[:-1].decode()


def exchanges(link: AnyLink) -> Iterator[tuple[int, Exchange]]:
    """Those that are open on it, each with its number."""
    if isinstance(link, Multiplex):
        for number, stream in link.streams.items():
            if stream.started and not stream.ending:
                yield number, stream.exchange
    elif isinstance(link, Downstream) and in_exchange(link):
        yield link.served, link.exchange


def in_exchange(link: Downstream) -> bool:
    """Is a request of this HTTP/1.1 connection being served?"""
    state = link.input
    return state in IN_EXCHANGE and not link.flushing and not (state is ahead_bytes and link.between_requests())


def kind_of(x: Exchange) -> str:
    """request (nothing of the answer came), response, stream (events), tunnel."""
    if x.receive is tunnel.from_server:
        return "tunnel"
    if x.rplan is None:
        return "request"
    return "stream" if x.rplan.events else "response"


def principal_of(x: Exchange) -> str:
    """Who asks, as the log line will say; empty where nobody is named."""
    found = principal_in(x.plan.about)
    if found is not None:
        return str(msgspec.json.decode(found[1]))
    guard = x.plan.guard
    return guard.principal.name if guard is not None and guard.principal is not None else ""


def pool_of(x: Exchange) -> Pool:
    """Where it goes; also where its session lives at one of the pool's endpoints."""
    pool = x.plan.pool
    return pool.pool if isinstance(pool, Home) else pool


def show_link(link: AnyLink, now: float) -> dict[str, Any]:
    """A connection."""
    if isinstance(link, Doorstep):
        return {"id": "", "client": link.host, "protocol": "", "requests": 0, "open": 0, "idle_s": None}
    h2 = isinstance(link, Multiplex)
    count = sum(1 for _ in exchanges(link))
    return {
        "id": name_of(link),
        "client": link.peer.decode("latin-1"),
        "protocol": "HTTP/2" if h2 else "HTTP/1.1",
        "requests": link.served,
        "open": count,
        "idle_s": None if count else round(max(0.0, now - link.since), 1),
    }


def show_exchange(link: AnyLink, number: int, x: Exchange, pools: dict[Pool, str], now: float) -> dict[str, Any]:
    """An exchange that is open. `pools`: their names."""
    about = msgspec.json.decode(b"{%b}" % x.plan.about)
    assert not isinstance(link, Doorstep)
    route = x.plan.route
    return {
        "id": f"{name_of(link)}.{number}",
        "client": (x.plan.address or link.peer).decode("latin-1"),
        **{name: about.get(name) for name in ABOUT},
        "principal": principal_of(x),
        "route": f"{','.join(route.host) or '*'}{route.path}" if route is not None else "",
        "upstream": pools.get(pool_of(x), "") if route is not None else "",
        "endpoint": msgspec.json.decode(x.upstream) if x.upstream != NO_UPSTREAM else "",
        "kind": kind_of(x),
        "age_s": round(max(0.0, now - x.began), 3),
        "idle_s": round(max(0.0, now - max(x.touched, x.began)), 3),
        "bytes_in": x.bytes_in,
        "bytes_out": x.bytes_out,
    }


def close(link: AnyLink, number: int | None) -> bool:
    """End a connection (None), or an exchange of it. Was it there? Its log line says `stopped`."""
    if number is None:
        link.end_now()
        return True
    if isinstance(link, Multiplex):
        stream = link.streams.get(number)
        if stream is None or stream.ending or not stream.started:
            return False
        stream.exchange.client_left(b"stopped")
        stream.drop()
        return True
    if isinstance(link, Downstream) and in_exchange(link) and link.served == number:
        link.end_now()
        return True
    return False
