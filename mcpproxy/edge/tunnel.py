"""After 101 Switching Protocols: two directions of opaque bytes, each with its own back-pressure and its own end.

A tunnel opens only when the client asked and the server's 101 answers exactly that (http/upgrade); an unasked 101 is a 502. Bytes that came with
either head already belong to the tunnel. When one side ends its direction the other is told (FIN) and may still talk; a TLS side takes the whole
tunnel with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcpproxy.clock import clock, monotonic
from mcpproxy.errors import ProxyError, Side

if TYPE_CHECKING:
    from mcpproxy.edge.downstream import Downstream
    from mcpproxy.edge.exchange import Exchange
    from mcpproxy.edge.plan import ResponsePlan


def open_tunnel(x: Exchange, plan: ResponsePlan, data: bytes, end: int) -> None:
    """The server said 101."""
    client, link = x.client, x.link
    assert link is not None
    asked = x.request_ended and link.pending is None  # a server that agrees to what it has not read agrees to nothing
    if x.plan.upgrade is None or plan.upgrade != x.plan.upgrade or not asked:
        x.fail(ProxyError("unasked-101", Side.UPSTREAM, 502))
        return
    x.first = monotonic()
    x.rplan = plan
    x.touched = clock.now
    x.rest = None
    x.receive = from_server
    client.keep = False
    client.input = from_client
    x.begin_tunnel(plan.head, data[end:])
    if x.link is link and client.ahead:
        early, client.ahead = client.ahead, b""
        from_client(client, early)
    if x.link is link and client.input_ended:
        client_ended(x)
    elif x.link is link and not client.reading and link.pending is None:
        client.resume()


def from_server(x: Exchange, data: bytes) -> None:
    """Server → client."""
    x.touched = clock.now
    x.bytes_out += len(data)
    try:
        if not x.client.write(data) and x.link is not None:
            x.link.pause()
    except OSError as error:
        x.client.lost(error)


def from_client(client: Downstream, data: bytes) -> None:
    """Client → server."""
    x = client.exchange
    link = x.link
    assert link is not None
    x.touched = clock.now
    x.bytes_in += len(data)
    try:
        if not link.write(data):
            client.pause()
    except OSError as error:
        server_ended(x, error)


def client_ended(x: Exchange) -> None:
    """The client sends no more."""
    link = x.link
    assert link is not None
    x.client.input_ended = True
    if x.server_done:
        x.tunnel_over(b"done")
    elif link.pending is None:
        _tell_server(x)


def server_ended(x: Exchange, error: OSError | None) -> None:
    """The server sends no more, or is gone."""
    x.server_done = True
    if error is not None:
        x.cut(b"upstream-gone")
    elif x.client.input_ended:
        x.tunnel_over(b"done")
    elif x.client.pending is None:
        _tell_client(x)


def _tell_server(x: Exchange) -> None:
    """Half-close towards the server. TLS cannot be half-closed without losing what is on its way here: such a tunnel ends whole."""
    assert x.link is not None
    if x.link.tls is not None:
        x.tunnel_over(b"done")
    else:
        x.link.finish_writing()


def _tell_client(x: Exchange) -> None:
    """Half-close towards the client, under the same rule."""
    if x.client.tls is not None:
        x.tunnel_over(b"done")
    else:
        x.client.finish_writing()


def server_drained(x: Exchange) -> None:
    """What was pending towards the server is gone."""
    if x.client.input_ended:
        _tell_server(x)
    else:
        x.client.resume()


def client_drained(x: Exchange) -> None:
    """What was pending towards the client is gone."""
    if x.server_done:
        _tell_client(x)
    elif x.link is not None:
        x.link.resume()
