"""One HTTP/2 connection: many requests, one write a turn, one client's trouble is nobody else's."""

import socket

import pytest

from mcpproxy.clock import monotonic
from mcpproxy.edge.debts import ABANDONED, CREDIT_S, POINT_S, TOO_MUCH_S
from mcpproxy.edge.exchange import LINGER_SILENT_S
from mcpproxy.edge.multiplex import PING_AFTER_S, PONG_WITHIN_S, Multiplex
from mcpproxy.edge.stream import Stream
from mcpproxy.http import budget as prices
from tests.edge.conftest import HEAD_END
from tests.edge.h2client import H2Client, upload_on

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_requests_pass_side_by_side_and_answers_in_any_order(proxy):
    edge = proxy()
    client = H2Client(edge)
    first, second = client.open(), client.open(body=b"{}")
    one, two = edge.accept(), edge.accept()
    heads = {server: edge.read(server, 100) for server in (one, two)}
    post = one if heads[one].startswith(b"POST") else two
    get = two if post is one else one
    post.sendall(OK)
    client.until(lambda: second in client.ends)
    assert first not in client.heads
    get.sendall(OK)
    client.until(lambda: first in client.ends)
    assert [client.status(stream) for stream in (first, second)] == [200, 200]
    assert client.bodies == {first: b"ok", second: b"ok"}
    assert [(line["protocol"], line["end"], line["bytes_out"]) for line in edge.lines(2)] == [("HTTP/2", "done", 2)] * 2
    assert edge.pool.in_use == 0


def test_a_request_that_is_cancelled_in_the_same_breath_goes_nowhere(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.h2.get_next_available_stream_id()
    pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/mcp")]
    client.h2.send_headers(stream, pairs, end_stream=True)
    client.h2.reset_stream(stream, 8)
    client.flush()
    edge.until(lambda: client.pump() and edge._lines.text == b"" and edge.runtime.log.rows)
    assert edge.no_more_connections()
    assert edge.lines(1)[0]["end"] == "client-gone"


def test_a_reset_stops_the_servers_work_and_no_other_stream(proxy):
    edge = proxy()
    client = H2Client(edge)
    streams = [client.open(), client.open()]
    servers = [edge.accept(), edge.accept()]
    for server in servers:
        edge.read(server)
        server.sendall(STREAM)
    client.until(lambda: len(client.heads) == 2)
    client.reset(streams[0])
    ended = []
    edge.until(lambda: client.pump() and any(gone(server, ended) for server in servers))
    alive = next(server for server in servers if server not in ended)
    alive.sendall(b"5\r\nhello\r\n0\r\n\r\n")
    client.until(lambda: streams[1] in client.ends)
    assert client.bodies == {streams[1]: b"hello"}


def gone(server, ended):
    try:
        if not server.recv(100):
            ended.append(server)
            return True
    except BlockingIOError:
        pass
    except ConnectionError:
        ended.append(server)
        return True
    return False


def test_the_end_of_the_connection_ends_every_exchange(proxy):
    edge = proxy()
    client = H2Client(edge)
    for _ in range(3):
        client.open()
    for server in (edge.accept(), edge.accept(), edge.accept()):
        edge.read(server)
    client.sock.close()
    assert [line["end"] for line in edge.lines(3)] == ["client-gone"] * 3
    edge.until(lambda: not edge.runtime.links)
    assert edge.pool.in_use == 0


def test_a_draining_connection_says_goodbye_and_lets_streams_end(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open()
    server = edge.accept()
    edge.read(server)
    server.sendall(STREAM)
    client.until(lambda: client.heads)
    edge.runtime.fronts[0].draining.is_set = True
    next(iter(edge.runtime.links)).drain()
    client.until(lambda: client.goodbye == 0)
    server.sendall(b"3\r\nbye\r\n0\r\n\r\n")
    client.until(lambda: client.ended)
    assert (client.bodies[stream], stream in client.ends) == (b"bye", True)


def test_an_idle_connection_is_told_to_go(proxy):
    edge = proxy(limits="keepalive = '75s'")
    client = H2Client(edge)
    client.open()
    server = edge.accept()
    edge.read(server)
    server.sendall(OK)
    client.until(lambda: client.ends)
    edge.later(74)
    client.pump()
    assert client.goodbye is None
    edge.later(76)
    client.until(lambda: client.goodbye == 0 and client.ended)


def test_a_silent_client_with_a_stream_is_asked_for_a_sign_of_life(proxy):
    edge = proxy()
    client = H2Client(edge)
    client.open()
    server = edge.accept()
    edge.read(server)
    server.sendall(STREAM)
    client.until(lambda: client.heads)
    edge.later(PING_AFTER_S + 1)
    edge.later(PING_AFTER_S + PONG_WITHIN_S + 3)
    assert edge.lines(1)[0]["end"] == "client-gone"
    edge.until(lambda: not edge.runtime.links)


def test_a_connection_that_never_asks_is_closed_like_one_that_never_sends_a_head(proxy):
    edge = proxy(limits="head_timeout = '10s'")
    client = H2Client(edge)
    edge.until(lambda: client.pump() and [link for link in edge.runtime.links if isinstance(link, Multiplex)])
    edge.later(11)
    client.until(lambda: client.ended)


def test_a_refused_head_is_answered_on_its_stream_alone(proxy):
    edge = proxy(route="path = '/mcp'\nmax_body = '1KiB'")
    client = H2Client(edge)
    large = client.open({"content-length": "2000"}, b"x" * 100, ended=False)
    client.until(lambda: large in client.ends)
    assert client.status(large) == 413
    upload_on(client, large, 1900)
    stream = client.open()
    server = edge.accept()
    edge.read(server, HEAD_END)
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    assert [line["status"] for line in edge.lines(2)] == [413, 200]
    assert client.resets == {}
    assert not h2_link(edge).streams


@pytest.mark.parametrize("ended", [False, True])
def test_a_refusal_waits_for_room(proxy, ended):
    edge = proxy(route="path = '/mcp'\nmax_body = '1KiB'")
    client = H2Client(edge, window=10)
    client.credits = False
    stream = client.open({"content-length": "2000"}, bytes(100), ended=False)
    if ended:
        upload_on(client, stream, 1900)
    client.until(lambda: stream in client.bodies)
    assert stream not in client.ends
    client.h2.increment_flow_control_window(1000, stream)
    client.flush()
    client.until(lambda: stream in client.ends)
    assert (client.status(stream), client.resets) == (413, {})
    assert len(h2_link(edge).streams) == (not ended)


@pytest.mark.parametrize("path", ["/mcp", "/nowhere"])
def test_an_upload_that_is_refused_here_comes_to_its_end(proxy, path):
    """413 and 404: with the whole body still to come."""
    edge = proxy(route="path = '/mcp'\nmax_body = '1KiB'")
    client = H2Client(edge)
    stream = client.h2.get_next_available_stream_id()
    pairs = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path), ("content-length", "2000000")]
    client.h2.send_headers(stream, pairs)
    client.flush()
    client.until(lambda: stream in client.ends)
    assert client.status(stream) == (413 if path == "/mcp" else 404)
    upload_on(client, stream, 2_000_000)
    edge.until(lambda: client.pump() and not h2_link(edge).streams)
    assert (client.resets, client.goodbye) == ({}, None)


def test_uploads_behind_their_answers_hold_a_drain_for_seconds_only(proxy):
    edge = proxy(route="path = '/mcp'")
    client = H2Client(edge)
    stream = client.open({"content-length": "2000"}, bytes(100), ended=False)
    server = edge.accept()
    edge.read(server, 100)
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    edge.runtime.fronts[0].draining.is_set = True
    h2_link(edge).drain()
    client.until(lambda: client.goodbye is not None)
    edge.later(LINGER_SILENT_S + 1)
    client.until(lambda: client.ended)
    assert client.resets == {stream: 0}


def test_the_body_of_a_call_that_was_answered_here_never_goes_upstream(proxy):
    """Its stream is used again: what follows must not carry its bytes behind the next head."""
    edge = proxy(route="path = '/mcp'")
    client = H2Client(edge)
    for _ in range(5):  # by then block and plan are known: the call comes whole, in one step
        stream = client.h2.get_next_available_stream_id()
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        pairs = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "localhost"),
            (":path", "/nowhere"),
            ("content-length", str(len(smuggled))),
        ]
        client.h2.send_headers(stream, pairs)
        client.h2.send_data(stream, smuggled, end_stream=True)
        client.flush()
        client.until(lambda stream=stream: stream in client.ends)
        assert client.status(stream) == 404
    stream = client.open()
    server = edge.accept()
    assert edge.read(server).count(b"HTTP/1.1") == 1
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    edge.steps.for_a_while(0.02)
    try:
        assert not server.recv(100)
    except BlockingIOError:
        pass


def h2_link(edge):
    return next((link for link in edge.runtime.links if isinstance(link, Multiplex)), None)


def frame(kind, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + stream.to_bytes(4, "big") + payload


RESET = (8).to_bytes(4, "big")


def test_a_connection_that_breaks_as_it_asks_stops_what_it_began(proxy):
    """The credit for a waiting answer and the next request come in one breath, then the client is gone: the write fails."""
    edge = proxy()
    client = H2Client(edge)
    client.credits = False
    stream = client.open()
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000))
    client.until(lambda: len(client.bodies.get(stream, b"")) == 65535)
    edge.until(lambda: h2_link(edge).waiting)
    client.h2.increment_flow_control_window(40_000, stream)
    client.h2.increment_flow_control_window(40_000)
    pairs = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/never")]
    client.h2.send_headers(client.h2.get_next_available_stream_id(), pairs, end_stream=True)
    client.flush()
    edge.reset(client.sock)
    edge.until(lambda: not edge.runtime.links)
    assert [(line["path"], line["end"]) for line in edge.lines(2)] == [("/mcp", "client-gone"), ("/never", "client-gone")]
    assert edge.pool.in_use == 0


def test_settings_without_end_are_answered_in_one_write(proxy):
    """What waits for room is looked at after each of them; what is to be said leaves once a turn."""
    edge = proxy()
    client = H2Client(edge)
    client.open()
    edge.read(edge.accept())
    client.until(lambda: client.h2.remote_settings.max_concurrent_streams < 1000)
    link, writes = h2_link(edge), []
    send = link.send
    link.send = lambda data: writes.append(1) or send(data)
    client.sock.sendall(frame(4, 0, b"\0\4\0\0\xff\xff") * 20)
    edge.until(lambda: writes)
    edge.steps.for_a_while(0.02)
    assert len(writes) == 1


PRIORITIES = frame(2, 9, bytes(5)) * 100


def test_who_makes_trouble_is_not_read_for_a_while_and_its_neighbour_is(proxy):
    edge = proxy()
    noisy = H2Client(edge)
    noisy.open()
    first = edge.accept()
    edge.read(first)
    link = h2_link(edge)
    quiet = H2Client(edge)
    edge.until(lambda: len(edge.runtime.links) == 2)
    link.debt.charge(round(5 / POINT_S), monotonic())
    noisy.sock.sendall(PRIORITIES)
    edge.until(lambda: link.resting)
    assert not link.reading
    stream = quiet.open()  # the same address; but it makes no trouble
    server = edge.accept()
    edge.read(server)
    server.sendall(OK)
    quiet.until(lambda: stream in quiet.ends)
    first.sendall(OK)
    noisy.until(lambda: noisy.ends)  # what it had asked for goes on
    assert not link.reading
    link.rested()
    noisy.open()
    edge.until(lambda: link.served == 2)


def test_who_made_trouble_is_read_again(proxy):
    edge = proxy()
    client = H2Client(edge)
    edge.until(lambda: h2_link(edge))
    h2_link(edge).debt.charge(round(CREDIT_S / POINT_S), monotonic())
    client.sock.sendall(PRIORITIES * 3)
    client.open()
    edge.read(edge.accept())


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_new_connection_of_who_made_trouble_waits(proxy, tls, certificate):
    edge = proxy(tls=tls)

    def link():
        return edge.tls_client(certificate.client(alpn=("h2",))) if tls else edge.client()

    H2Client(edge, link())
    edge.until(lambda: h2_link(edge))
    debt = h2_link(edge).debt
    debt.charge(round(0.1 / POINT_S), monotonic())
    H2Client(edge, link())  # within the credit
    debt.charge(round((CREDIT_S + 0.1) / POINT_S), monotonic())
    paid = debt.until - CREDIT_S
    client = H2Client(edge, link())
    client.open()
    edge.read(edge.accept())
    assert monotonic() >= paid


def test_a_new_connection_of_who_made_much_trouble_is_closed(proxy):
    edge = proxy()
    client = edge.client()
    edge.until(lambda: edge.runtime.links)
    next(iter(edge.runtime.links)).debt.charge(round((TOO_MUCH_S + CREDIT_S + 1) / POINT_S), monotonic())
    assert edge.end(edge.client()) == (b"", "fin")
    client.sendall(b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n")  # who is here stays
    edge.read(edge.accept())


def test_a_connection_that_waits_when_the_process_ends_is_closed(proxy):
    edge = proxy()
    edge.client()
    edge.until(lambda: edge.runtime.links)
    next(iter(edge.runtime.links)).debt.charge(round((CREDIT_S + 0.05) / POINT_S), monotonic())
    waiting = edge.client()
    edge.until(lambda: len(edge.runtime.links) == 2)
    for link in tuple(edge.runtime.links):
        link.end_now()
    assert edge.end(waiting) == (b"", "fin")
    edge.steps.for_a_while(0.1)
    assert not edge.runtime.links


@pytest.mark.parametrize(
    ("nuisance", "least"),
    [
        (lambda client: client.sock.close(), 3 * ABANDONED),
        (lambda client: client.sock.sendall(b"".join(frame(3, stream, RESET) for stream in (1, 3, 5))), 3 * prices.CANCEL),
        (lambda client: client.sock.sendall(frame(6, 1, bytes(8))), prices.ERROR),
        (lambda client: client.open({f"x-{i}": "y" for i in range(120)}), prices.REFUSAL),
        (lambda client: client.open({"x-large": "y" * 20_000}), 150),
    ],
    ids=["leaves", "takes back", "breaks the rules", "asks too much", "has much to say"],
)
def test_trouble_is_charged_to_the_address(proxy, nuisance, least):
    edge = proxy()
    client = H2Client(edge)
    for _ in range(3):
        client.open()
        edge.read(edge.accept())
    debt, before = h2_link(edge).debt, monotonic()
    h2_link(edge).h2.spent = 0  # the greeting is over
    assert debt.until == 0
    nuisance(client)
    edge.until(lambda: debt.until >= before + least * POINT_S)


def test_a_connection_that_never_asked_is_charged(proxy):
    edge = proxy()
    client = H2Client(edge)
    edge.until(lambda: client.pump() and h2_link(edge))
    debt = h2_link(edge).debt
    client.sock.close()
    edge.until(lambda: debt.until)


def test_the_streams_that_wait_have_their_turns_once_for_all_that_was_read(proxy, monkeypatch):
    """Once for each WINDOW_UPDATE made a frame of one point cost 40 µs: ten times what it pays for."""
    edge = proxy()
    client = H2Client(edge, window=0)
    client.open()
    server = edge.accept()
    for count in range(1, 6):
        edge.read(server)
        server.sendall(OK)
        client.until(lambda count=count: len(h2_link(edge).waiting) == count)
        if count < 5:
            client.open()
    turns = []
    go_on = Stream.go_on
    monkeypatch.setattr(Stream, "go_on", lambda stream, most: turns.append(stream) or go_on(stream, most))
    for _ in range(100):
        client.h2.increment_flow_control_window(1)
    client.flush()
    edge.steps.turn(5)
    assert 5 <= len(turns) <= 25
    for stream in (1, 3, 5, 7, 9):
        client.h2.increment_flow_control_window(2, stream)
    client.flush()
    client.until(lambda: client.ends == {1, 3, 5, 7, 9})


def test_a_client_that_said_goodbye_is_closed_with_its_last_answer(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open()
    server = edge.accept()
    edge.read(server)
    client.sock.sendall(frame(7, 0, bytes(8)))
    edge.steps.turn(5)
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    client.until(lambda: client.ended)


# -- whole calls --------------------------------------------------------------------------------------------------------------------------------


def frames_of(client: H2Client, count: int) -> list[bytes]:
    """So many calls with bodies: HEADERS and DATA of each, not yet sent."""
    made = []
    for _ in range(count):
        stream = client.h2.get_next_available_stream_id()
        pairs = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", "/mcp"), ("content-length", "2")]
        client.h2.send_headers(stream, pairs)
        made.append(client.h2.data_to_send())
        client.h2.send_data(stream, b"{}", end_stream=True)
        made.append(client.h2.data_to_send())
    return made


def warm(edge, client):
    """A link that rests, and a head that is known; the server's side of the link."""
    server = None
    for _ in range(3):
        client.sock.sendall(b"".join(frames_of(client, 1)))
        stream = client.h2.get_next_available_stream_id() - 2
        server = server or edge.accept()
        edge.read(server, b"{}")
        server.sendall(OK)
        client.until(lambda stream=stream: stream in client.ends)
    return server


def test_a_whole_call_that_is_cancelled_in_the_same_breath_leaves_its_link_as_it_was(proxy):
    edge = proxy()
    client = H2Client(edge)
    server = warm(edge, client)
    pieces = frames_of(client, 1)
    client.h2.reset_stream(client.h2.get_next_available_stream_id() - 2, 8)
    client.sock.sendall(b"".join(pieces) + client.h2.data_to_send())
    assert edge.lines(4)[3]["end"] == "client-gone"
    client.sock.sendall(b"".join(frames_of(client, 1)))
    assert edge.read(server, b"{}").count(b"POST") == 1
    assert edge.no_more_connections()


def test_a_link_whose_call_was_cancelled_in_the_same_breath_has_rested_all_the_time(proxy):
    """Its server counts from the last byte that came: were the rest to begin anew, the link would be used beyond the server's patience."""
    edge = proxy()
    client = H2Client(edge)
    warm(edge, client)
    (link,) = edge.pool.endpoints[0].idle
    link.rested -= 1.0
    rested = link.rested
    pieces = frames_of(client, 1)
    client.h2.reset_stream(client.h2.get_next_available_stream_id() - 2, 8)
    client.sock.sendall(b"".join(pieces) + client.h2.data_to_send())
    assert edge.lines(4)[3]["end"] == "client-gone"
    assert edge.pool.endpoints[0].idle == [link]
    assert link.rested == rested


def test_calls_behind_which_the_protocol_is_broken_go_nowhere(proxy):
    """The first has the only link, the second waits for it: neither is sent."""
    edge = proxy("max_connections = 1")
    client = H2Client(edge)
    server = warm(edge, client)
    client.sock.sendall(b"".join(frames_of(client, 2)) + frame(9, 1, b""))
    client.until(lambda: client.ended)
    assert client.goodbye == 1
    assert [line["end"] for line in edge.lines(5)][3:5] == ["refused", "refused"]
    edge.steps.for_a_while(0.02)
    with pytest.raises(BlockingIOError):
        server.recv(1)
    assert (edge.pool.in_use, len(edge.pool.endpoints[0].idle)) == (0, 1)


def test_what_a_cancelled_call_owed_is_not_given_back_by_the_next_one(proxy):
    """The client's window would open for bytes that never came."""
    edge = proxy("max_connections = 1")
    client = H2Client(edge)
    server = warm(edge, client)
    first = client.h2.get_next_available_stream_id()
    client.sock.sendall(b"".join(frames_of(client, 2)))
    edge.read(server, b"{}")
    client.reset(first + 2)
    edge.lines(4)
    server.sendall(OK)
    client.until(lambda: first in client.ends)
    connection = next(iter(edge.runtime.links))
    assert [stream.owed for stream in connection.spare] == [0, 0]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [0, 2, 3, 1]], ids=["one by one", "heads first", "bodies turned"])
def test_calls_that_come_together_are_answered_each(order, proxy):
    edge = proxy()
    client = H2Client(edge)
    first = warm(edge, client)
    pieces = frames_of(client, 2)
    client.sock.sendall(b"".join(pieces[at] for at in order))
    for server in (first, edge.accept()):
        edge.read(server, b"{}")
        server.sendall(OK)
    last = client.h2.get_next_available_stream_id() - 2
    client.until(lambda: {last, last - 2} <= client.ends)
    assert client.bodies[last] == client.bodies[last - 2] == b"ok"
    assert [line["bytes_in"] for line in edge.lines(5)][-2:] == [edge.lines()[-1]["bytes_in"]] * 2


def test_a_head_and_a_body_in_two_records_go_on_in_one_piece(proxy, certificate):
    """Most clients send them apart; a server that reads both at once is woken once."""
    edge = proxy(tls=True)
    client = H2Client(edge, edge.tls_client(certificate.client(alpn=("h2",))))
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = warm(edge, client)
    (link,) = edge.pool.endpoints[0].idle
    sent, send = [], link.send
    link.send = lambda data: sent.append(bytes(data)) or send(data)
    head, body = frames_of(client, 1)
    client.sock.send(head)
    client.sock.send(body)
    edge.read(server, b"{}")
    assert len(sent) == 1
