"""The first bytes of a proxy: whose connection this is."""

import pytest

from mcpproxy.edge.doorstep import Doorstep

HEADER = b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 443\r\n"
GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
TRUSTED = 'proxy_protocol = true\ntrusted_proxies = "127.0.0.1"'


@pytest.fixture
def edge(proxy):
    return proxy(listen=TRUSTED, limits='handshake_timeout = "5s"')


def doorsteps(edge):
    return [link for link in edge.runtime.links if isinstance(link, Doorstep)]


def gone(edge, client):
    return edge.end(client)[0] == b"" and not edge.runtime.links


@pytest.mark.parametrize("cuts", [(), (3,), (len(HEADER) - 1,), range(1, len(HEADER) + 5)])
def test_the_header_is_taken_exactly_wherever_it_is_cut(edge, cuts):
    client, data = edge.client(), HEADER + GET
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        client.sendall(data[start:end])
        edge.steps.turn(2)
    head = edge.read(edge.accept())
    assert head.startswith(b"GET /mcp ") and b"\r\nX-Real-IP: 192.0.2.7\r\n" in head
    assert not doorsteps(edge)


def test_being_called_for_nothing_is_no_end(edge):
    """Two segments may be told by two calls, the first of which saw both."""
    client = edge.client()
    client.sendall(HEADER[:10])
    edge.until(lambda: doorsteps(edge))
    [step] = doorsteps(edge)
    for _ in range(3):
        step.readable()
    client.sendall(HEADER[10:] + GET)
    assert edge.read(edge.accept()).startswith(b"GET /mcp ")


@pytest.mark.parametrize("said", [b"", HEADER[:10], b"\r\n\r\n"])
def test_who_leaves_within_the_header_is_gone(edge, said):
    client = edge.client()
    client.sendall(said)
    edge.until(lambda: doorsteps(edge))
    client.shutdown(1)
    assert gone(edge, client)
    again = edge.client()
    again.sendall(said)
    again.shutdown(1)  # with its last bytes
    assert gone(edge, again)


def test_a_reset_within_the_header(edge):
    client = edge.client()
    client.sendall(HEADER[:10])
    edge.until(lambda: doorsteps(edge))
    edge.reset(client)
    edge.until(lambda: not edge.runtime.links)


@pytest.mark.parametrize("bad", [GET, b"PROXY nonsense\r\n", b"\x16\x03\x01", b"P" * 200])
def test_what_is_no_header_ends_it_at_once(edge, bad):
    client = edge.client()
    client.sendall(bad)
    assert edge.end(client)[0] == b""
    assert not edge.runtime.links and edge.no_more_connections()


def test_a_header_that_is_late_ends_it(edge):
    client = edge.client()
    client.sendall(HEADER[:-1])
    edge.until(lambda: doorsteps(edge))
    edge.later(4.0)
    assert doorsteps(edge)
    edge.later(6.0)
    assert gone(edge, client)


def test_the_end_of_the_process_is_its_end(edge):
    client = edge.client()
    edge.until(lambda: doorsteps(edge))
    [step] = doorsteps(edge)
    step.drain()
    assert gone(edge, client)


def test_who_has_left_before_tls_begins_is_no_trouble(proxy):
    edge = proxy(listen=TRUSTED, tls=True)
    client = edge.client()
    client.sendall(HEADER)
    edge.reset(client)
    edge.steps.for_a_while(0.05)
    assert not edge.runtime.links


def test_others_are_closed_unheard(proxy):
    edge = proxy(listen='proxy_protocol = true\ntrusted_proxies = "192.0.2.1"')
    client = edge.client()
    assert edge.end(client)[0] == b""
    assert not edge.runtime.links
