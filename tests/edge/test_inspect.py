"""What a connection is doing, told without touching it; and ended by its name."""

import socket

from mcpproxy.clock import monotonic
from mcpproxy.edge import inspect
from tests.edge.h2client import H2Client
from tests.edge.test_tunnel import ASK, SWITCH
from tests.support.keys import Keys

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /mcp?secret HTTP/1.1\r\nHost: a.test\r\n\r\n"


def seen(edge):
    """All exchanges that are open, as an operator sees them."""
    names = {pool: name for name, pool in edge.runtime.pools.items()}
    now = monotonic()
    return [inspect.show_exchange(link, number, x, names, now) for link in edge.runtime.links for number, x in inspect.exchanges(link)]


def link_of(edge):
    (link,) = edge.runtime.links
    return link


def test_from_the_first_byte_to_the_last(proxy):
    edge = proxy()
    client = edge.client()
    edge.until(lambda: edge.runtime.links)
    assert seen(edge) == []
    assert inspect.show_link(link_of(edge), monotonic())["open"] == 0
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    (one,) = seen(edge)
    assert (one["kind"], one["client"], one["method"], one["path"], one["route"], one["upstream"]) == (
        "request", "127.0.0.1", "GET", "/mcp", "*/", "u",
    )  # fmt: skip
    assert "secret" not in str(one)
    server.sendall(STREAM)
    edge.read(client)
    (same,) = seen(edge)
    assert (same["kind"], same["id"]) == ("stream", one["id"])
    assert same["endpoint"] == edge.pool.endpoints[0].label
    shown = inspect.show_link(link_of(edge), monotonic())
    assert (shown["protocol"], shown["requests"], shown["open"], shown["idle_s"]) == ("HTTP/1.1", 1, 1, None)
    assert one["id"] == f"{shown['id']}.1"
    server.sendall(b"0\r\n\r\n")
    edge.read(client, b"0\r\n\r\n")
    edge.until(lambda: not seen(edge))
    assert inspect.show_link(link_of(edge), monotonic())["idle_s"] >= 0


def test_a_tunnel(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(ASK)
    server = edge.accept()
    edge.read(server)
    server.sendall(SWITCH)
    edge.read(client)
    assert [each["kind"] for each in seen(edge)] == ["tunnel"]


def test_streams_of_one_connection_have_names_of_their_own_and_end_alone(proxy):
    edge = proxy()
    client = H2Client(edge)
    first, second = client.open(), client.open()
    for server in (edge.accept(), edge.accept()):
        edge.read(server)
        server.sendall(STREAM)
    client.until(lambda: len(client.heads) == 2)
    link = link_of(edge)
    assert sorted(each["id"] for each in seen(edge)) == sorted(f"{inspect.name_of(link)}.{number}" for number in (first, second))
    assert inspect.show_link(link, monotonic())["open"] == 2
    assert inspect.close(link, first)
    client.until(lambda: first in client.resets)
    assert [line["end"] for line in edge.lines(1)] == ["stopped"]
    assert [each["id"] for each in seen(edge)] == [f"{inspect.name_of(link)}.{second}"]
    assert not inspect.close(link, first)
    assert not inspect.close(link, 99)


def test_a_request_that_is_over_is_not_the_next_one(proxy):
    edge = proxy()
    client = edge.client()
    server = None
    for _ in range(2):
        client.sendall(GET)
        server = server or edge.accept()
        edge.read(server)
        link = link_of(edge)
        if link.served == 1:
            server.sendall(OK)
            edge.read(client, b"ok")
    assert not inspect.close(link, 1)
    assert inspect.close(link, 2)
    assert edge.end(client)[1] == "reset"
    assert [line["end"] for line in edge.lines(2)] == ["done", "stopped"]


def test_an_idle_connection_is_closed_by_its_name(proxy):
    edge = proxy()
    client = edge.client()
    edge.until(lambda: edge.runtime.links)
    assert not inspect.close(link_of(edge), 0)
    assert inspect.close(link_of(edge), None)
    assert edge.end(client) == (b"", "fin")
    assert not edge.runtime.links


def test_names_are_never_given_twice(proxy):
    edge = proxy()
    names = set()
    for _ in range(20):
        client = edge.client()
        edge.until(lambda: edge.runtime.links)
        names.add(inspect.name_of(link_of(edge)))
        client.close()
        edge.until(lambda: not edge.runtime.links)
    assert len(names) == 20


def test_who_has_not_said_for_whom_it_speaks(proxy):
    edge = proxy(listen='proxy_protocol = true\ntrusted_proxies = "127.0.0.1"')
    client: socket.socket = edge.client()
    edge.until(lambda: edge.runtime.links)
    link = link_of(edge)
    assert inspect.show_link(link, monotonic())["client"] == "127.0.0.1"
    assert inspect.name_of(link) == ""
    client.close()


def test_who_asks_is_read_as_the_log_will_say_it(proxy, tmp_path):
    keys = Keys(tmp_path)
    name = "agent-alpha"
    secret = keys.add(name)
    edge = proxy(route='auth = "keys"', top="", listen="", limits=f'[auth.keys]\ntype = "api-key"\nfile = "{keys.file}"')
    client = edge.client()
    client.sendall(GET.replace(b"\r\n\r\n", b"\r\nX-API-Key: %b\r\n\r\n" % secret.encode()))
    edge.read(edge.accept())
    assert [each["principal"] for each in seen(edge)] == [name]
