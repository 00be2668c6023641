"""One HTTP/2 stream: bodies both ways, windows as back-pressure, ends that say what happened."""

import socket

import pytest

from mcpproxy.edge.exchange import EVENT, LINGER_SILENT_S
from mcpproxy.edge.multiplex import UNSENT, UNSENT_ALONE
from mcpproxy.http.upgrade import ACCEPT
from mcpproxy.upstream.pool import BULK_SLICE, SLICE
from tests.edge.h2client import H2Client, upload_on

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def asked(edge, client, *args, **more):
    """A request that has reached the server: its stream, the server's end, what the server read."""
    stream = client.open(*args, **more)
    server = edge.accept()
    return stream, server, edge.read(server)


def test_a_body_of_unknown_length_goes_on_in_chunks(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open(body=b"one", ended=False)
    server = edge.accept()
    assert edge.read(server, b"\r\n3\r\none\r\n").count(b"transfer-encoding: chunked\r\n") == 1
    client.send(stream, b"three")
    edge.read(server, b"5\r\nthree\r\n")
    client.send(stream, b"", ended=True)
    edge.read(server, b"0\r\n\r\n")
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    assert edge.lines(1)[0]["end"] == "done"
    assert len(edge.pool.endpoints[0].idle) == 1


def test_a_body_of_known_length_goes_on_as_it_is(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open({"content-length": "6"}, b"one", ended=False)
    server = edge.accept()
    assert b"content-length: 6\r\n" in edge.read(server, b"\r\n\r\none")
    client.send(stream, b"two", ended=True)
    edge.read(server, b"two")
    server.sendall(OK)
    client.until(lambda: stream in client.ends)


@pytest.mark.parametrize(
    ("answer", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", b"world"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"world"),
    ],
    ids=["length", "chunked", "until-close"],
)
def test_every_framing_becomes_data_frames_at_once(proxy, answer, then):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(answer)
    client.until(lambda: client.bodies.get(stream) == b"hello")
    assert stream not in client.ends
    server.sendall(then)
    if b"\r\n\r\nhello" in answer and b"Length" not in answer:
        server.close()
    client.until(lambda: stream in client.ends)
    assert client.bodies[stream] == b"helloworld"
    assert not {b"transfer-encoding", b"connection"} & set(client.heads[stream][0])


def test_interim_responses_pass(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    client.until(lambda: stream in client.ends)
    assert [head[b":status"] for head in client.heads[stream]] == [b"103", b"200"]
    assert client.heads[stream][0][b"link"] == b"</a>"


def test_a_cut_answer_is_a_reset_never_an_end(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
    client.until(lambda: client.bodies.get(stream) == b"hello")
    server.close()
    client.until(lambda: stream in client.resets)
    assert stream not in client.ends
    assert edge.lines(1)[0]["end"] == "upstream-gone"


def test_an_early_answer_lets_the_upload_come_to_its_end(proxy):
    """A reset behind the answer, even one without an error, makes curl forget it; and who reads only after writing needs room to write."""
    edge = proxy()
    client = H2Client(edge)
    stream = client.open({"content-length": "3000100"}, b"x" * 100, ended=False)
    server = edge.accept()
    edge.read(server, b"x" * 100)
    server.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
    client.until(lambda: stream in client.ends)
    assert (client.status(stream), client.bodies[stream]) == (401, b"no")
    assert edge.pool.endpoints[0].idle == []
    upload_on(client, stream, 3_000_000)
    again, server, _ = asked(edge, client)
    server.sendall(OK)
    client.until(lambda: again in client.ends)
    assert (client.resets, client.goodbye) == ({}, None)
    (link,) = edge.runtime.links
    assert (link.streams, link.h2.open) == ({}, 0)


def test_an_upload_that_filled_its_window_gets_room_when_it_is_answered(proxy):
    """Its server took nothing: what waited for it is forgotten, or the client would wait for ever."""
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client, body=b"", ended=False)
    sent = 0
    for _ in range(50_000):  # turns, of which many find nothing where the machine has other work
        room = min(client.h2.local_flow_control_window(stream), 16384)
        if room:
            client.send(stream, bytes(room))
            sent += room
        edge.steps.turn()
        client.pump()
        if not room and not edge.runtime.links.copy().pop().streams[stream].reading:
            break
    assert client.h2.local_flow_control_window(stream) == 0
    server.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
    client.until(lambda: stream in client.ends)
    upload_on(client, stream, 1_000_000)
    assert client.resets == {}
    edge.until(lambda: not edge.runtime.links.copy().pop().streams)


def test_an_upload_behind_its_answer_that_falls_silent_is_reset_without_an_error(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client, body=b"", ended=False)
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    edge.later(LINGER_SILENT_S - 1)
    edge.steps.for_a_while(0.02)
    client.pump()
    assert client.resets == {}
    edge.later(LINGER_SILENT_S + 1)
    client.until(lambda: stream in client.resets)
    assert client.resets == {stream: 0}
    assert client.goodbye is None
    assert [line["end"] for line in edge.lines(1)] == ["done"]


def test_an_answer_that_waits_for_room_outlives_the_upload_before_it(proxy):
    edge = proxy()
    client = H2Client(edge, window=10)
    stream, server, _ = asked(edge, client, body=b"", ended=False)
    client.credits = False
    server.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 20\r\n\r\n" + b"n" * 20)
    client.until(lambda: len(client.bodies.get(stream, b"")) == 10)
    upload_on(client, stream, 200_000)
    edge.steps.for_a_while(0.02)
    client.h2.increment_flow_control_window(100, stream)
    client.flush()
    client.until(lambda: stream in client.ends)
    assert (client.bodies[stream], client.resets) == (b"n" * 20, {})
    assert not edge.runtime.links.copy().pop().streams


def test_a_closed_window_stops_its_own_server_and_no_other_stream(proxy):
    edge = proxy()
    client = H2Client(edge)
    client.credits = False
    client.h2.increment_flow_control_window(1 << 24)
    client.flush()
    stuck, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    sent = fill(edge, server, client)
    assert len(client.bodies[stuck]) == 65535, "all the window there was"
    assert sent < 9_000_000
    free, other, _ = asked(edge, client)
    other.sendall(OK)
    client.until(lambda: free in client.ends)
    client.h2.increment_flow_control_window(1 << 24, stuck)
    client.credits = True
    client.flush()
    rest = 10_000_000 - sent

    def all_there():
        nonlocal rest
        try:
            rest -= server.send(b"x" * min(rest, 65536)) if rest else 0
        except BlockingIOError:
            pass
        return stuck in client.ends

    client.until(all_there)
    assert len(client.bodies[stuck]) == 10_000_000


@pytest.mark.parametrize("size", [60_000, 20_000, 1_000])
def test_a_large_chunked_body_arrives_whole_however_its_chunks_are_cut(proxy, size):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    body = bytes(range(256)) * 3000
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size]) for at in range(0, len(body), size))
    left = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    def all_there():
        nonlocal left
        try:
            left = left[server.send(left[:50_000]) :] if left else left
        except BlockingIOError:
            pass
        return stream in client.ends

    client.until(all_there)
    assert client.bodies[stream] == body
    assert edge.lines(1)[0]["bytes_out"] == len(body)
    assert edge.pool.in_use == 0


def test_a_large_chunked_body_that_breaks_its_framing_is_a_reset(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    client.until(lambda: client.bodies.get(stream) == b"hello")
    server.sendall(b"8000\r\n" + b"x" * 0x8000 + b"no line end")
    client.until(lambda: stream in client.resets)
    assert edge.lines(1)[0]["end"] == "upstream-error"


def fill(edge, server, client):
    """Send until nobody takes more for a while."""
    sent = still = 0
    while still < 20:
        edge.steps.turn()
        client.pump()
        try:
            sent += server.send(b"x" * 65536)
            still = 0
        except BlockingIOError:
            still += 1
            edge.steps.for_a_while(0.002)
    return sent


def test_the_clients_window_opens_as_the_server_takes_its_bytes(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open(body=b"", ended=False)
    server = edge.accept()
    edge.read(server)
    sent = got = 0
    idle = 0
    while idle < 20:  # the server reads nothing
        room = min(client.h2.local_flow_control_window(stream), 16384)
        if room:
            client.send(stream, b"x" * room)
            sent += room
            idle = 0
        else:
            idle += 1
            edge.steps.for_a_while(0.002)
        client.pump()
    assert sent < 20_000_000, "somebody takes bytes for ever"
    seen = b""

    def taken():
        nonlocal seen
        try:
            seen += server.recv(1 << 20)
        except BlockingIOError:
            pass
        return seen.count(b"x") == sent

    client.until(taken)
    assert client.h2.local_flow_control_window(stream) > 0
    client.send(stream, b"end", ended=True)
    edge.read(server, b"0\r\n\r\n")
    assert got == 0


def test_trailers_of_a_request_arrive_behind_its_last_chunk(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream = client.open(body=b"one", ended=False)
    server = edge.accept()
    edge.read(server, b"3\r\none\r\n")
    client.h2.send_headers(stream, [("digest", "abc")], end_stream=True)
    client.flush()
    edge.read(server, b"0\r\ndigest: abc\r\n\r\n")
    server.sendall(OK)
    client.until(lambda: stream in client.ends)


def test_a_body_beyond_the_limit_is_413(proxy):
    edge = proxy(route="max_body = '1KiB'")
    client = H2Client(edge)
    stream = client.open(body=b"x" * 600, ended=False)
    server = edge.accept()
    edge.read(server, b"x" * 600 + b"\r\n")
    client.send(stream, b"x" * 600)
    client.until(lambda: stream in client.heads)
    assert client.status(stream) == 413


def test_a_server_that_fails_is_told_as_502_on_the_stream(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client, body=b"{}")
    server.close()
    client.until(lambda: stream in client.ends)
    assert client.status(stream) == 502
    assert b"connection" not in client.heads[stream][0]


def test_trailers_of_a_response_end_its_stream(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n")
    client.until(lambda: stream in client.ends)
    assert (client.bodies[stream], client.trailers[stream]) == (b"abc", {b"x-sum": b"9"})


@pytest.mark.parametrize("framing", [b"Content-Length: 10\r\n", b""], ids=["length", "until-close"])
def test_events_of_every_framing_pass(proxy, framing):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + framing + b"\r\nhello")
    client.until(lambda: client.bodies.get(stream) == b"hello")
    server.sendall(b"world")
    client.until(lambda: client.bodies.get(stream) == b"helloworld")
    server.close()
    client.until(lambda: stream in client.ends)


def test_a_tunnel_loses_nothing_when_its_server_is_slow(proxy):
    edge = proxy()
    client = H2Client(edge)
    client.until(lambda: 8 in client.h2.remote_settings)
    stream = client.h2.get_next_available_stream_id()
    pairs = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "localhost"), (":path", "/mcp")]
    client.h2.send_headers(stream, [*pairs, ("sec-websocket-version", "13")])
    client.flush()
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n")
    client.until(lambda: stream in client.heads)
    assert client.status(stream) == 200
    sent = b""
    number = idle = 0
    while idle < 20:  # the server reads nothing
        room = min(client.h2.local_flow_control_window(stream), 16384)
        if room >= 8:
            piece = (b"%08d" % number) * (room // 8)
            client.send(stream, piece)
            sent += piece
            number += 1
            idle = 0
        else:
            idle += 1
            edge.steps.for_a_while(0.002)
        client.pump()
    got = b""

    def taken():
        nonlocal got
        try:
            got += server.recv(1 << 20)
        except BlockingIOError:
            pass
        return len(got) >= len(sent)

    client.until(taken)
    assert got == sent
    client.send(stream, b"", ended=True)
    assert edge.end(server) == (b"", "fin")


# -- bulk ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_download_reads_more_at_once_while_it_has_the_connection_for_itself(framing, proxy):
    edge = proxy()
    client = H2Client(edge, window=1 << 30)
    client.h2.increment_flow_control_window(1 << 30)
    client.flush()
    stream, server, _ = asked(edge, client)
    fields = b"Transfer-Encoding: chunked" if framing == "chunked" else b"Content-Length: 100000000"
    server.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % fields)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    connection = next(iter(edge.runtime.links))
    piece = b"z" * 65536
    sent = 0

    def more_until(condition):
        nonlocal sent
        data = chunk(piece) if framing == "chunked" else piece
        while not condition():
            server.setblocking(True)
            server.sendall(data * 4)
            sent += 4 * len(piece)
            client.until(lambda expected=sent: len(client.bodies.get(stream, b"")) == expected)

    link = connection.streams[stream].exchange.link
    more_until(lambda: link.slice == BULK_SLICE)
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_ALONE
    _, second = streaming(edge, client)
    more_until(lambda: link.slice == SLICE)
    assert connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT
    second.close()
    assert set(client.bodies[stream]) == {ord("z")}


# -- events leave the short way ---------------------------------------------------------------------------------------------------------------


EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(payload):
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def streaming(edge, client):
    stream, server, _ = asked(edge, client)
    server.sendall(EVENTS)
    client.until(lambda: stream in client.heads)
    return stream, server


def test_events_pass_however_their_chunks_are_cut(proxy):
    edge = proxy()
    client = H2Client(edge)
    stream, server = streaming(edge, client)
    connection = next(iter(edge.runtime.links))
    x = connection.streams[stream].exchange
    assert edge.runtime.loop._readers[x.link.fd] == x.event
    full = b"y" * (EVENT - 7)
    assert len(chunk(full)) == EVENT
    sent = b""
    for payloads in ([b"one"], [b"one", b"two"], [b"x" * 9000], [full], [full, b"one"], [full, full], [b"two"]):
        for cut in (3, -1, 1 << 20):
            whole = b"".join(map(chunk, payloads))
            for piece in (whole[:cut], whole[cut:]):
                server.sendall(piece)
                edge.steps.turn(3)
            sent += b"".join(payloads)
            client.until(lambda expected=sent: client.bodies.get(stream) == expected)
    server.sendall(b"0\r\n\r\n")
    client.until(lambda: stream in client.ends)
    assert edge.lines(1)[0]["end"] == "done"
    again = client.open()
    edge.read(server)
    server.sendall(OK)
    client.until(lambda: client.bodies.get(again) == b"ok")


def test_events_of_two_streams_pass(proxy):
    edge = proxy()
    client = H2Client(edge)
    (one, first), (two, second) = streaming(edge, client), streaming(edge, client)
    for _ in range(3):
        first.sendall(chunk(b"data: 1\n\n"))
        second.sendall(chunk(b"data: 2\n\n"))
    client.until(lambda: client.bodies.get(one) == b"data: 1\n\n" * 3 and client.bodies.get(two) == b"data: 2\n\n" * 3)


@pytest.mark.parametrize("full", ["window", "socket"])
def test_events_wait_for_room_and_none_is_lost(proxy, full):
    edge = proxy()
    client = H2Client(edge)
    client.credits = False
    if full == "socket":
        client.h2.increment_flow_control_window(1 << 28)
    stream, server = streaming(edge, client)
    if full == "socket":
        client.h2.increment_flow_control_window(1 << 28, stream)
    client.flush()
    x = next(iter(edge.runtime.links)).streams[stream].exchange
    link = x.link
    event = chunk(b"x" * 1000)
    sent = 0
    while link.reading:
        try:
            sent += server.send(event[sent % len(event) :])
        except BlockingIOError:
            pass
        edge.steps.turn()
        if full == "window":
            client.pump()
    server.setblocking(True)
    if sent % len(event):
        server.sendall(event[sent % len(event) :])
        sent += len(event) - sent % len(event)
    if full == "window":
        client.credits = True
        client.h2.increment_flow_control_window(1 << 28)
        client.h2.increment_flow_control_window(1 << 28, stream)
        client.flush()
    client.until(lambda: len(client.bodies[stream]) == sent // len(event) * 1000)
    assert set(client.bodies[stream]) == {ord("x")}
    assert edge.runtime.loop._readers[link.fd] == x.event


@pytest.mark.parametrize("whole", [b"", b"0\r\n\r\n"], ids=["goes on", "ended"])
def test_a_stream_that_was_alone_gives_back_the_room_it_did_not_use(whole, proxy):
    """The connection's window, to the byte: less would starve the others, more is a protocol error (RFC 9113 §6.9)."""
    edge = proxy()
    client = H2Client(edge)
    client.credits = False
    stream, server = streaming(edge, client)
    for _ in range(5):
        server.sendall(chunk(b"x" * 1000))
        edge.steps.turn(3)
    client.until(lambda: len(client.bodies.get(stream, b"")) == 5000)
    connection = next(iter(edge.runtime.links))
    assert connection.alone is not None
    server.sendall(whole)
    edge.until(lambda: not whole or not connection.streams)
    other = client.open()
    second = server if whole else edge.accept()
    edge.read(second)
    second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"y" * 50_000)
    second.setblocking(True)
    second.sendall(b"y" * 50_000)
    client.until(lambda: len(client.bodies.get(other, b"")) == 65535 - 5000)
    client.credits = True
    client.h2.increment_flow_control_window(1 << 20)
    client.h2.increment_flow_control_window(1 << 20, other)
    client.flush()
    client.until(lambda: other in client.ends)
    assert len(client.bodies[other]) == 100_000


def test_a_client_that_is_gone_when_an_event_comes_stops_the_server(proxy):
    edge = proxy()
    client = H2Client(edge)
    _, server = streaming(edge, client)
    for _ in range(2):
        server.sendall(chunk(b"data: 1\n\n"))
        edge.steps.turn(3)
    connection = next(iter(edge.runtime.links))
    connection.pause()  # as if the loop looked at the server first
    edge.reset(client.sock)
    server.sendall(chunk(b"data: 1\n\n"))
    assert edge.end(server)[1] in ("fin", "reset")
    assert edge.lines(1)[0]["end"] == "client-gone"


def test_a_client_that_is_gone_when_the_last_event_comes_breaks_nothing(proxy):
    edge = proxy()
    client = H2Client(edge)
    _, server = streaming(edge, client)
    server.sendall(chunk(b"data: 1\n\n"))
    edge.steps.turn(3)
    server.sendall(chunk(b"data: 2\n\n") + b"0\r\n\r\n")  # the loop hears of this first
    edge.reset(client.sock)
    assert len(edge.lines(1)) == 1
    edge.until(lambda: not edge.runtime.links)


def test_an_answer_of_ours_waits_for_room_as_long_as_any_other(proxy):
    """However long the request took before it failed."""
    edge = proxy()
    client = H2Client(edge, window=0)
    stream, server, _ = asked(edge, client)
    asking = next(iter(edge.runtime.links)).streams[stream]
    asking.since -= 100.0  # it took its time
    server.close()
    client.until(lambda: stream in client.heads)
    edge.later(40)
    client.h2.increment_flow_control_window(1000, stream)
    client.flush()
    client.until(lambda: stream in client.ends or stream in client.resets)
    assert client.resets == {}
    assert client.status(stream) == 502


def test_an_unexpected_exception_while_a_server_is_heard_ends_that_stream_only(proxy, steps, monkeypatch):
    edge = proxy()
    client = H2Client(edge)
    stream, server, _ = asked(edge, client)

    def raises(*_):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("mcpproxy.edge.exchange.Exchange.judge_response", raises)
        server.sendall(OK)
        client.until(lambda: stream in client.ends or stream in client.resets)
    assert client.resets[stream] == 2  # INTERNAL_ERROR
    assert edge.lines(1)[0]["end"] == "failed"
    assert edge.pool.in_use == 0
    assert steps.trouble
    steps.trouble.clear()
    again, server, _ = asked(edge, client)
    server.sendall(OK)
    client.until(lambda: again in client.ends)


def test_an_unexpected_exception_in_a_judgement_ends_the_connection_with_all_its_streams(proxy, steps, monkeypatch):
    edge = proxy()
    client = H2Client(edge)
    _, server, _ = asked(edge, client)

    def raises(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr("mcpproxy.edge.shelf.Shelf.plan_for", raises)
    client.open({"x-other": "1"})
    edge.end(server)
    edge.until(lambda: not edge.runtime.links)
    assert [line["end"] for line in edge.lines(1)] == ["failed"]
    assert edge.pool.in_use == 0
    assert steps.trouble
    steps.trouble.clear()
