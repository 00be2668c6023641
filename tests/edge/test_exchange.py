"""One request and its response: what is kept, what is cut, what is logged, whatever order things happen in."""

import socket

import pytest

from mcpproxy.edge.exchange import EVENT, INTERIM_LIMIT, LINGER_S, LINGER_SILENT_S, depart, lingers_until, send_requests
from mcpproxy.edge.facts import short_hash
from mcpproxy.upstream.pool import SLICE
from tests.edge.conftest import HEAD_END
from tests.support.certs import Certificate

GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPLOAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def call(edge, client, server=None, request=GET, answer=OK):
    """One exchange, whole; returns the server's socket."""
    client.sendall(request)
    server = server or edge.accept()
    edge.read(server)
    server.sendall(answer)
    edge.read(client, b"ok")
    return server


def test_a_small_call_passes_and_its_link_is_kept(proxy):
    edge = proxy()
    client = edge.client()
    server = call(edge, client)
    call(edge, client, server)
    first, second = edge.lines(2)
    assert [("done", 200, False), ("done", 200, True)] == [(line["end"], line["status"], line["reused"]) for line in (first, second)]
    assert (0, 1) == (edge.pool.in_use, len(edge.pool.endpoints[0].idle))


@pytest.mark.parametrize("taken", [0, 10], ids=["late", "in pieces"])
def test_a_call_that_the_kernel_took_late_is_not_sent_twice(taken, proxy):
    """A server that answered before it had read all of the last call may leave no room for the next one at first."""
    edge = proxy()
    client = edge.client()
    server = call(edge, client)
    (link,) = edge.pool.endpoints[0].idle
    send = link.send

    def full(data):
        link.send = send
        if not taken:
            raise BlockingIOError
        return send(data[:taken])

    link.send = full
    client.sendall(POST)
    assert edge.read(server, b"{}").startswith(b"POST")
    server.close()
    assert edge.read(client, 12).startswith(b"HTTP/1.1 502")
    assert edge.no_more_connections()


# -- the server stops listening ---------------------------------------------------------------------------------------------------------------


def test_a_link_whose_upload_failed_is_not_kept_and_the_next_upload_is_whole(proxy):
    """The server answered early and reset; the client's last bytes met the reset before the answer was read."""
    edge = proxy()
    client = edge.client()
    client.sendall(UPLOAD % 20 + b"0123456789")
    server = edge.accept()
    edge.read(server, b"0123456789")
    link = next(iter(edge.runtime.links)).exchange.link
    link.pause()  # as if the loop looked at the client first
    server.sendall(OK)
    client.sendall(b"01234")
    edge.until(lambda: next(iter(edge.runtime.links)).exchange.bytes_in >= 15)
    edge.reset(server)
    edge.steps.for_a_while(0.01)
    client.sendall(b"56789")
    edge.until(lambda: next(iter(edge.runtime.links)).exchange.request_ended)
    link.resume()
    edge.read(client, b"ok")
    assert [] == edge.pool.endpoints[0].idle
    client.sendall(UPLOAD % 4 + b"ab")
    again = edge.accept()
    edge.read(again, b"ab")
    client.sendall(b"cd")
    assert b"cd" == edge.read(again, b"cd")
    again.sendall(OK)
    edge.read(client, b"ok")


# -- interim responses ------------------------------------------------------------------------------------------------------------------------


def test_interim_answers_of_earlier_exchanges_do_not_count(proxy):
    """HTTP/1.0 clients are not told of them; their number is counted per exchange all the same."""
    edge = proxy()
    client = edge.client()
    request = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    server = None
    for _ in range(INTERIM_LIMIT + 2):
        server = call(edge, client, server, request, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
    assert {"done"} == {line["end"] for line in edge.lines(INTERIM_LIMIT + 2)}


def test_too_many_interim_answers_are_502(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * (INTERIM_LIMIT + 1) + OK)
    edge.until(lambda: edge.lines())
    assert "too-many-interim-responses" == edge.lines()[0]["reason"]


# -- what the log says ------------------------------------------------------------------------------------------------------------------------


def test_an_exchange_that_never_had_a_link_names_none(proxy):
    edge = proxy("max_connections = 1\nqueue = 0")
    first, second = edge.client(), edge.client()
    call(edge, second)
    first.sendall(GET)
    edge.until(lambda: edge.pool.in_use)
    second.sendall(GET)
    edge.read(second, b"\n")
    failed = edge.lines(2)[1]
    assert ("queue-full", None, False) == (failed["reason"], failed["upstream"], failed["reused"])


@pytest.mark.parametrize("request_line", [b"GET /mcp?key=SECRET", b"GET http://user:SECRET@localhost/mcp"])
@pytest.mark.parametrize("fault", [b"", b"Bad Field: SECRET\r\n"], ids=["served", "refused"])
def test_no_secret_reaches_the_log(proxy, request_line, fault):
    edge = proxy()
    client = edge.client()
    client.sendall(
        request_line
        + b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer SECRET\r\nCookie: a=SECRET\r\nMcp-Session-Id: SECRET\r\n"
        + b"X-Api-Key: SECRET\r\nMcp-Param-Token: SECRET\r\nProxy-Authorization: SECRET\r\n"
        + fault
        + b"\r\n"
    )
    if not fault and b"user" not in request_line:
        server = edge.accept()
        edge.read(server)
        server.sendall(
            b"HTTP/1.1 200 OK\r\nMcp-Session-Id: SECRET\r\nSet-Cookie: SECRET\r\nLocation: /?SECRET\r\nContent-Length: 2\r\n\r\nok"
        )
    assert edge.lines(1)
    assert b"SECRET" not in edge.log_text


# -- the client leaves ------------------------------------------------------------------------------------------------------------------------


def stream(edge, client, head=b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"):
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(head)
    edge.read(client)
    return server


@pytest.mark.parametrize("said", [b"", b"Connection: close\r\n"])
def test_a_reset_that_meets_the_last_piece_is_no_failure(proxy, said):
    """SDK clients reset right after the event they waited for; here the proxy learns of it by sending."""
    edge = proxy()
    client = edge.client()
    server = stream(edge, client, b"HTTP/1.1 200 OK\r\n" + said + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    ours = next(iter(edge.runtime.links))
    ours.pause()  # as if the loop looked at the server first
    edge.reset(client)
    server.sendall(b"0\r\n\r\n")
    line = edge.lines(1)[0]
    assert ("done", 200) == (line["end"], line["status"])
    assert (0 if said else 1) == len(edge.pool.endpoints[0].idle)
    assert 0 == edge.pool.in_use


def test_a_reset_before_the_last_piece_was_read_is_no_failure(proxy):
    edge = proxy()
    client = edge.client()
    server = stream(edge, client)
    link = next(iter(edge.runtime.links)).exchange.link
    link.pause()  # as if the loop looked at the client first
    server.sendall(b"0\r\n\r\n")
    edge.reset(client)
    assert "done" == edge.lines(1)[0]["end"]
    assert [link] == edge.pool.endpoints[0].idle
    assert link.reading


def test_a_session_is_told_of_however_its_first_answer_ends(proxy):
    """The client that opened it resets before the last piece was read: its log line is as any other's."""
    edge = proxy()
    client = edge.client()
    server = stream(
        edge,
        client,
        b"HTTP/1.1 200 OK\r\nMcp-Session-Id: one\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    next(iter(edge.runtime.links)).exchange.link.pause()
    server.sendall(b"0\r\n\r\n")
    edge.reset(client)
    line = edge.lines(1)[0]
    assert ("done", short_hash(b"one").decode()) == (line["end"], line.get("new_session"))


def test_a_client_that_leaves_a_stream_stops_the_server(proxy):
    edge = proxy()
    client = edge.client()
    server = stream(edge, client)
    client.close()
    assert edge.end(server)[1] in ("fin", "reset")
    assert "client-gone" == edge.lines(1)[0]["end"]
    assert 0 == edge.pool.in_use


# -- answers of our own -----------------------------------------------------------------------------------------------------------------------


def test_an_http_1_0_client_is_told_of_a_failure_and_of_the_end(proxy):
    edge = proxy(url="http://127.0.0.1:9")
    client = edge.client()
    client.sendall(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")
    answer, how = edge.end(client)
    assert b"connect-refused" in answer
    assert "fin" == how


def test_a_failure_keeps_the_clients_connection(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.close()
    assert b"HTTP/1.1 502 " == edge.read(client, b"\n")[:13]
    call(edge, client)


def test_a_response_deadline_is_504_and_counts_from_the_request(proxy):
    edge = proxy('response_timeout = "30s"')
    client = edge.client()
    client.sendall(POST)
    server = edge.accept()
    edge.read(server, b"{}")
    edge.later(29)
    assert [] == edge.lines()
    edge.later(31)
    assert ("timeout", 504, "response-timeout") == tuple(edge.lines(1)[0][key] for key in ("end", "status", "reason"))
    assert edge.end(server)[1] in ("fin", "reset")


def test_our_words_wait_for_no_place_behind_an_interim_answer(proxy):
    """The client takes nothing: 1xx heads wait in our hands, and the deadline passes. There is nothing to do but cut."""
    edge = proxy('response_timeout = "30s"')
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    ours = next(iter(edge.runtime.links))
    ours.sock.setsockopt(1, 7, 4096)  # SO_SNDBUF
    server.sendall((b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 30_000 + HEAD_END) * 12)
    edge.until(lambda: ours.pending is not None)
    edge.later(31)
    assert ours.fd < 0
    assert "timeout" == edge.lines(1)[0]["end"]
    got, how = edge.end(client)
    assert b"504" not in got
    assert "reset" == how


# -- bodies -----------------------------------------------------------------------------------------------------------------------------------


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\nhalf"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(("answer", "how"), [(LENGTH, "fin"), (CHUNKS, "fin"), (OPEN, "reset")])
def test_a_body_that_was_cut_looks_cut_and_what_came_of_it_arrives(proxy, certificate: Certificate, answer, how, tls):
    """Length and chunks show it by themselves; an until-close body needs a reset. On TLS the missing close_notify tells."""
    edge = proxy(tls=tls)
    client = edge.tls_client(certificate.client()) if tls else edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(answer)
    if answer is OPEN:
        edge.read(client, b"half")
        edge.reset(server)
        assert (b"", "cut" if tls else how) == edge.end(client)
    else:
        server.close()
        got, seen = edge.end(client)
        assert ("cut" if tls else how) == seen
        assert got.endswith((b"half", b"half\r\n"))
    assert ("upstream-gone", 200) == tuple(edge.lines(1)[0][key] for key in ("end", "status"))
    assert (0, []) == (edge.pool.in_use, edge.pool.endpoints[0].idle)


def test_an_until_close_body_ends_with_its_connection(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(OPEN)
    server.close()
    got, how = edge.end(client)
    assert got.endswith(b"\r\n\r\nhalf")
    assert b"\r\nConnection: close\r\n" in got
    assert "fin" == how
    assert "done" == edge.lines(1)[0]["end"]


def test_bytes_after_the_end_go_nowhere_and_the_link_with_them(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert OK == edge.read(client, b"ok")
    edge.until(lambda: edge.pool.in_use == 0)
    assert [] == edge.pool.endpoints[0].idle
    call(edge, client)


def test_a_slow_client_stops_its_server_and_loses_nothing(proxy):
    edge = proxy()
    client = edge.client()
    server = stream(edge, client, b"HTTP/1.1 200 OK\r\nContent-Length: 16000000\r\n\r\n")
    ours = next(iter(edge.runtime.links))
    body = bytes(range(250)) * 64_000
    sent = 0

    def push():
        nonlocal sent
        try:
            sent += server.send(body[sent : sent + 65536])
        except BlockingIOError:
            return True
        return sent == len(body)

    edge.until(push)
    edge.until(lambda: ours.pending is not None)
    assert len(ours.pending) <= 65536
    assert not ours.exchange.link.reading
    got = bytearray()
    while len(got) < len(body):
        push()
        got += edge.read(client, 1)
    assert bytes(got) == body
    edge.until(lambda: edge.lines())
    assert "done" == edge.lines(1)[0]["end"]


# -- events leave at the end of their turn --------------------------------------------------------------------------------------------------------


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_event_whose_client_left_in_the_same_turn_goes_nowhere(proxy):
    """The server's event is read, then the client's end, then the turn ends: nobody is written to."""
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(STREAM + b"5\r\n12345\r\n")
    edge.read(client, b"12345\r\n")
    x = next(iter(edge.runtime.links)).exchange
    x.receive(x, b"3\r\nabc\r\n")
    x.client.lost(ConnectionResetError())
    edge.until(lambda: not x.departures)
    assert edge.lines(1)[0]["end"] == "client-gone"
    assert edge.pool.in_use == 0


def test_a_full_client_stops_the_server_of_an_event_stream(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(STREAM)
    edge.read(client, b"\r\n\r\n")
    event = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    sent = still = 0
    while still < 20:
        edge.steps.turn()
        try:
            sent += server.send(event[sent % len(event) :])
            still = 0
        except BlockingIOError:
            still += 1
            edge.steps.for_a_while(0.002)
    got = b""

    def taken():
        nonlocal got
        try:
            got += client.recv(1 << 20)
        except BlockingIOError:
            pass
        return len(got) == sent

    edge.until(taken)
    assert got == (event * (sent // len(event) + 1))[:sent]


def chunk(payload):
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def streaming(edge, client, event):
    """An event stream whose events are known: from its second one on they pass the short way."""
    server = stream(edge, client)
    for _ in range(2):
        server.sendall(event)
        edge.read(client, len(event))
    link = next(iter(edge.runtime.links)).exchange.link
    assert edge.runtime.loop._readers[link.fd] != link.readable
    return server


def test_a_stream_passes_however_its_chunks_are_cut_and_its_link_serves_again(proxy):
    edge = proxy()
    client = edge.client()
    short, long, full = chunk(b"data: 1\n\n"), chunk(b"x" * 9000), chunk(b"x" * (EVENT - 7))
    assert len(full) == EVENT
    server = streaming(edge, client, short)
    for pieces in ([long], [full + short], [full + full], [short[:4], short[4:]], [short + short], [short[:-1], short[-1:]], [short]):
        for piece in pieces * 2:
            server.sendall(piece)
            assert piece == edge.read(client, len(piece))
    server.sendall(b"0\r\n\r\n")
    assert b"0\r\n\r\n" == edge.read(client, 5)
    assert "done" == edge.lines(1)[0]["end"]
    call(edge, client, server)


def test_a_stream_that_breaks_its_framing_is_cut_there(proxy):
    edge = proxy()
    client = edge.client()
    server = streaming(edge, client, chunk(b"data: 1\n\n"))
    server.sendall(b"9\r\ndata: 1\n\nXX")
    assert b"" == edge.end(client)[0]
    assert "upstream-error" == edge.lines(1)[0]["end"]


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_stream_whose_server_leaves_between_events_is_cut(proxy, how):
    edge = proxy()
    client = edge.client()
    server = streaming(edge, client, chunk(b"data: 1\n\n"))
    server.close() if how == "fin" else edge.reset(server)
    assert b"" == edge.end(client)[0]
    assert "upstream-gone" == edge.lines(1)[0]["end"]


def test_a_stream_goes_the_short_way_again_after_its_client_was_full(proxy):
    edge = proxy()
    client = edge.client()
    event = chunk(b"x" * 0x400)
    server = streaming(edge, client, event)
    ours = next(iter(edge.runtime.links))
    link = ours.exchange.link
    sent = 0
    while ours.pending is None:
        try:
            sent += server.send(event[sent % len(event) :])
        except BlockingIOError:
            pass
        edge.steps.turn()
    assert not link.reading
    got = b""

    def taken():
        nonlocal got
        try:
            got += client.recv(1 << 20)
        except BlockingIOError:
            pass
        return len(got) == sent

    edge.until(taken)
    assert got == (event * (sent // len(event) + 1))[:sent]
    assert edge.runtime.loop._readers[link.fd] == ours.exchange.event


def test_who_was_answered_is_not_read_for_ever():
    """A moment of silence, half a minute in all; less when the process is to end."""
    assert lingers_until(100.0, 100.0, False) == 100.0 + LINGER_SILENT_S
    assert lingers_until(100.0, 110.0, False) == 110.0 + LINGER_SILENT_S
    assert lingers_until(100.0, 129.0, False) == 100.0 + LINGER_S
    assert lingers_until(100.0, 110.0, True) == 100.0 + LINGER_SILENT_S


def test_a_large_event_is_read_as_any_body_is(proxy):
    """Read in pieces that are right for small events it cost three times as much."""
    edge = proxy()
    client = edge.client()
    server = streaming(edge, client, chunk(b"data: 1\n\n"))
    x = next(iter(edge.runtime.links)).exchange
    recv, reads, large = x.recv, [], chunk(b"x" * 30_000)

    def counted(size):
        reads.append(size)
        return recv(size)

    x.recv = x.link.recv = counted
    server.sendall(large)
    while len(recv(SLICE, socket.MSG_PEEK)) < len(large):
        pass  # it is on its way through the kernel
    edge.read(client, len(large))
    assert len(reads) <= 4


# -- whole requests leave at the end of their turn ----------------------------------------------------------------------------------------------


def started(edge, client, server):
    """A call on a warm link, in the turn in which it was read: it has a link, and nothing of it has left."""
    downstream = next(iter(edge.runtime.links))
    downstream.pause()
    client.sendall(POST)
    edge.steps.for_a_while(0.01)
    downstream.reading = True
    downstream.readable()
    assert downstream.exchange.unsent is not None
    return downstream.exchange


@pytest.mark.parametrize("said", [OK, b""], ids=["an answer", "an end"])
def test_what_a_server_says_before_it_was_asked_is_no_answer(proxy, said):
    """The call goes to another link, whole, and once."""
    edge = proxy()
    client = edge.client()
    server = call(edge, client)
    x = started(edge, client, server)
    x.receive(x, said) if said else x.upstream_ended(None)
    other = edge.accept()
    assert edge.read(other, b"{}").startswith(b"POST /mcp ")
    other.sendall(OK)
    edge.read(client, b"ok")
    assert b"" == edge.end(server)[0]
    assert [200, 200] == [line["status"] for line in edge.lines(2)]


def test_a_client_that_leaves_in_the_turn_of_its_request_asks_nothing(proxy):
    edge = proxy()
    client = edge.client()
    server = call(edge, client)
    started(edge, client, server)
    next(iter(edge.runtime.links)).left(ConnectionResetError())
    assert "client-gone" == edge.lines(2)[1]["end"]
    call(edge, edge.client(), server)  # the server heard nothing of it: its link is as good as before
    assert edge.no_more_connections()


def test_a_request_that_fails_to_leave_keeps_no_other_from_leaving(proxy, steps):
    """Were the list not emptied, nothing would ever leave again. Its client does not wait for it."""
    edge = proxy()
    client = edge.client()
    server = call(edge, client)
    x = started(edge, client, server)
    x.link.send = lambda _: 1 / 0
    requests = x.client.requests
    send_requests(requests)
    assert [] == requests
    assert (b"", "reset") == edge.end(client)
    assert [ZeroDivisionError] == [type(each["exception"]) for each in steps.trouble]
    steps.trouble.clear()


def test_an_event_that_fails_to_leave_cuts_its_client_only(proxy, steps):
    """Both came in one turn: what the other was to get is not lost."""
    edge = proxy()
    clients, servers = [edge.client(), edge.client()], []
    for client in clients:
        client.sendall(b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n")
        servers.append(edge.accept())
        edge.read(servers[-1])
        servers[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n")
        edge.read(client, b":\n\n\r\n")
    bad = next(link.exchange for link in edge.runtime.links if link.sock.getpeername() == clients[0].getsockname())
    good = next(link.exchange for link in edge.runtime.links if link.exchange is not bad)
    bad.send = lambda _: 1 / 0
    late = bad.departures
    late += [(bad, bad.recv, b"x"), (good, good.recv, b"3\r\n:\n\n\r\n")]
    depart(late)
    edge.read(clients[1], b":\n\n\r\n")
    assert b"" == edge.end(clients[0])[0]
    assert [] == late
    assert ["failed"] == [line["end"] for line in edge.lines(1)]
    assert steps.trouble
    steps.trouble.clear()
