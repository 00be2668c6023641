"""After 101 two directions of opaque bytes, each with its own pace and its own end."""

import contextlib

import pytest

from mcpproxy.net.link import READ, WOULD_BLOCK
from tests.edge.conftest import HEAD_END
from tests.support.certs import Certificate

ASK = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


@pytest.fixture
def opened(proxy, certificate: Certificate):
    """Open a tunnel: the proxy, the client's end, the server's end."""

    def made(tls=False):
        edge = proxy(tls=tls, route='idle_timeout = "10m"')
        client = edge.tls_client(certificate.client()) if tls else edge.client()
        client.sendall(ASK)
        server = edge.accept()
        edge.read(server)
        server.sendall(SWITCH)
        assert edge.read(client).startswith(b"HTTP/1.1 101 ")
        return edge, client, server

    return made


@pytest.fixture(params=["plain", "TLS"])
def tunnel(request, opened):
    return opened(request.param == "TLS")


def flood(edge, source, target, size):
    """Push `size` bytes through while the other end reads slowly; returns what arrived."""
    data = bytes(range(256)) * (size // 256)
    sent, got = 0, bytearray()
    while len(got) < size:
        if sent < size:
            with contextlib.suppress(*WOULD_BLOCK):
                sent += source.send(data[sent : sent + 65536])
        edge.steps.turn()
        for link in edge.runtime.links:
            assert link.pending is None or len(link.pending) <= READ
        with contextlib.suppress(*WOULD_BLOCK):
            got += target.recv(30_000)
    return bytes(got) == data


def test_bytes_pass_both_ways_untouched(tunnel):
    edge, client, server = tunnel
    client.sendall(b"\x81\x85\r\n\r\nGET")
    assert b"\x81\x85\r\n\r\nGET" == edge.read(server, b"GET")
    server.sendall(b"\0" * 10)
    assert b"\0" * 10 == edge.read(client, 10)


def test_the_line_is_written_at_the_end_and_counts_everything(tunnel):
    edge, client, server = tunnel
    client.sendall(b"x" * 100)
    edge.read(server, 100)
    assert [] == edge.lines()
    server.close()
    client.close()
    line = edge.lines(1)[0]
    assert (101, len(ASK) + 100) == (line["status"], line["bytes_in"])
    assert 0 == edge.pool.in_use
    edge.until(lambda: not edge.runtime.links)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_slow_end_slows_the_other_and_no_byte_is_lost(tunnel, way):
    edge, client, server = tunnel
    source, target = (client, server) if way == "up" else (server, client)
    assert flood(edge, source, target, 8 * 1024 * 1024)


def test_the_server_may_end_first_and_the_client_still_talk(opened):
    edge, client, server = opened()
    server.sendall(b"bye")
    server.shutdown(1)
    assert (b"bye", "fin") == edge.end(client)
    client.sendall(b"you too")
    assert b"you too" == edge.read(server, b"too")
    assert [] == edge.lines()
    client.close()
    edge.end(server)
    edge.until(lambda: not edge.runtime.links)
    assert 1 == len(edge.lines(1))


@pytest.mark.parametrize("last", [b"", b"bye"])
def test_a_tls_tunnel_ends_whole_and_cleanly_with_its_server(opened, last):
    """TLS cannot be half-closed without losing what is on its way to us."""
    edge, client, server = opened(tls=True)
    server.sendall(last)
    server.shutdown(1)
    assert (last, "fin") == edge.end(client)
    assert (b"", "fin") == edge.end(server)
    assert ("done", 101) == tuple(edge.lines(1)[0][key] for key in ("end", "status"))
    edge.until(lambda: not edge.runtime.links)


def test_a_half_closed_tunnel_is_not_kept_for_a_day(opened):
    edge, client, server = opened()
    server.shutdown(1)
    edge.end(client)
    edge.later(30)
    assert [] == edge.lines()
    edge.later(100)
    assert "timeout" == edge.lines(1)[0]["end"]
    assert 0 == edge.pool.in_use


def test_a_silent_tunnel_ends_after_the_routes_idle_timeout(tunnel):
    edge, _, _ = tunnel
    edge.later(590)
    assert [] == edge.lines()
    edge.later(610)
    assert "timeout" == edge.lines(1)[0]["end"]


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_of_one_end_reaches_the_other(tunnel, who):
    edge, client, server = tunnel
    gone, left = (client, server) if who == "client" else (server, client)
    edge.reset(gone)
    assert edge.end(left)[1] in ("reset", "fin", "cut")
    assert f"{'client' if who == 'client' else 'upstream'}-gone" == edge.lines(1)[0]["end"]
    assert (0, []) == (edge.pool.in_use, edge.pool.endpoints[0].idle)


def test_a_client_may_end_first_on_a_plain_connection(opened):
    edge, client, server = opened()
    client.sendall(b"last")
    client.shutdown(1)
    assert (b"last", "fin") == edge.end(server)
    server.sendall(b"answer")
    assert b"answer" == edge.read(client, b"answer")
    server.close()
    assert (b"", "fin") == edge.end(client)
    assert ("done", 101) == tuple(edge.lines(1)[0][key] for key in ("end", "status"))


def test_bytes_that_came_with_either_head_belong_to_the_tunnel(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(ASK + b"early")
    server = edge.accept()
    edge.read(server)
    server.sendall(SWITCH + b"first")
    assert edge.read(client, HEAD_END + b"first")
    assert b"early" == edge.read(server, b"early")


def test_a_server_that_agrees_before_it_has_read_agrees_to_nothing(proxy):
    """Part of our request is still in our hands: what the client says now would overtake it."""
    edge = proxy()
    client = edge.client()
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    edge.read(client, b"ok")
    (link,) = edge.pool.endpoints[0].idle
    real, taken = link.send, []

    def send(data):
        """The kernel takes no more than 100 bytes. (A socket's buffer cannot be made that small.)"""
        if taken:
            raise BlockingIOError
        taken.append(real(data[:100]))
        return taken[0]

    link.send = send
    client.sendall(ASK)
    edge.until(lambda: link.pending is not None)
    server.sendall(SWITCH)
    assert b"unasked-101" in edge.read(client, b"\n")
    assert 0 == edge.pool.in_use
