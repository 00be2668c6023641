"""One client connection: heads in any pieces, pipelining, pauses, deadlines, ends."""

import gc
import os
import ssl

import pytest

from mcpproxy.clock import monotonic
from mcpproxy.edge.downstream import Downstream
from mcpproxy.edge.exchange import LINGER_SILENT_S, Exchange
from mcpproxy.net.link import READ
from tests.edge.conftest import HEAD_END
from tests.support.certs import Certificate

GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPLOAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def only(edge):
    (link,) = edge.runtime.links
    return link


def send_all(edge, sock, data):
    """Send while the proxy works, so that it may be more than the kernel keeps."""
    sent = 0

    def done():
        nonlocal sent
        try:
            sent += sock.send(data[sent : sent + 65536])
        except BlockingIOError:
            pass
        return sent == len(data)

    edge.until(done, "everything sent")


# -- heads ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(1, len(GET)))
def test_a_head_cut_anywhere_is_one_head(proxy, at):
    edge = proxy()
    client = edge.client()
    client.sendall(GET[:at])
    edge.until(lambda: edge.runtime.links and only(edge).held)
    client.sendall(GET[at:])
    head = edge.read(edge.accept())
    assert head.startswith(b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n"])
def test_a_little_crlf_before_a_request_is_forgiven(proxy, before):
    edge = proxy()
    client = edge.client()
    client.sendall(before + GET)
    edge.read(edge.accept())


@pytest.mark.parametrize("start", [b"\n", b"GET /mcp HTTP/1.1\n", b"\x16\x03\x01", b"GET \0", b"{}", b"GET / HTTP/1.1\r\nA : b\r\n"])
def test_garbage_is_answered_at_once_and_nobody_waits_for_the_rest(proxy, start):
    edge = proxy()
    client = edge.client()
    client.sendall(start)
    answer, how = edge.end(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert "fin" == how
    assert ("refused", 400) == tuple(edge.lines(1)[0][key] for key in ("end", "status"))


def test_the_same_head_is_judged_until_it_has_earned_its_place(proxy):
    edge = proxy()
    judge = edge.runtime.fronts[0].judge
    server = None
    for client in (edge.client(), edge.client()):
        for _ in range(3):
            client.sendall(GET)
            server = server or edge.accept()
            edge.read(server)
            server.sendall(OK)
            edge.read(client, b"ok")
    assert 2 == judge.compiled


def test_heads_that_differ_in_lengths_and_traces_are_judged_twice_at_most(proxy):
    edge = proxy()
    client = edge.client()
    server = None
    for number in range(20):
        body = b"x" * number
        client.sendall(
            b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nX-Request-Id: id-%d\r\n\r\n%b" % (number, number, body)
        )
        server = server or edge.accept()
        head = edge.read(server, HEAD_END + body)
        assert b"Content-Length: %d\r\n" % number in head
        assert b"X-Request-Id: id-%d\r\n" % number in head
        server.sendall(OK)
        edge.read(client, b"ok")
    assert [f"id-{number}" for number in range(20)] == [line["id"] for line in edge.lines(20)]
    assert 2 == edge.runtime.fronts[0].judge.compiled


def test_a_body_too_large_is_413_through_a_template_too(proxy):
    edge = proxy(route='max_body = "1KiB"')
    for length, refused in [(1025, True), (1024, False), (1023, False), (1025, True), (10**14, True)]:
        client = edge.client()
        client.sendall(UPLOAD % length)
        if refused:
            assert b"HTTP/1.1 413 " == edge.end(client)[0][:13]
            assert "body-too-large" == edge.lines()[-1]["reason"]
        else:
            edge.read(edge.accept())
    assert 2 == edge.runtime.fronts[0].judge.compiled - 1  # the last two were refused by the template


def test_a_chunked_body_is_measured_as_it_comes(proxy):
    edge = proxy(route='max_body = "64KiB"')
    client = edge.client()
    client.sendall(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    server = edge.accept()
    edge.read(server)
    send_all(edge, client, b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
    edge.read(server, 0x4000)
    send_all(edge, client, (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 4)
    assert b"HTTP/1.1 413 " in edge.end(client)[0]
    assert edge.end(server)[1] in ("fin", "reset")


# -- pipelining and pauses --------------------------------------------------------------------------------------------------------------------


def test_a_large_upload_behind_another_request_is_read(proxy):
    """What waits behind the first request fills our hands, and reading stops: it must go on when the turn has come."""
    edge = proxy()
    client = edge.client()
    size = 1_000_000
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    head = UPLOAD % size
    client.sendall(head + b"u" * (READ - len(head)))
    edge.until(lambda: len(only(edge).ahead) >= READ)
    assert not only(edge).reading
    server.sendall(OK)
    edge.read(client, b"ok")
    edge.read(server, b"u" * (READ - len(head)))
    rest = b"u" * (size - READ + len(head))
    got = 0
    sent = 0
    while got < len(rest):
        try:
            sent += client.send(rest[sent : sent + 65536])
        except BlockingIOError:
            pass
        got += len(edge.read(server, 1)) if sent > got else 0
    server.sendall(OK)
    edge.read(client, b"ok")


def test_what_waits_behind_a_request_is_bounded(proxy):
    """However long the queue of a client: two reads at most are kept, whatever is served meanwhile."""
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    many = GET * 20_000
    sent = client.send(many)
    assert sent > 3 * READ
    for _ in range(50):
        server.sendall(OK)
        edge.read(client, b"ok")
        edge.read(server)
        assert len(only(edge).ahead) < 2 * READ
    assert len(only(edge).ahead) >= READ / 2


def test_a_server_that_does_not_read_stops_the_client(proxy):
    edge = proxy(route='max_body = "100MiB"')
    client = edge.client()
    client.sendall(UPLOAD % 50_000_000)
    server = edge.accept()
    edge.until(lambda: only(edge).exchange.link)
    sent = 0

    def stuck():
        nonlocal sent
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            return not only(edge).reading
        return False

    edge.until(stuck)
    link = only(edge).exchange.link
    assert len(link.pending) <= READ
    body = edge.read(server, sent).partition(HEAD_END)[2]
    while len(body) < sent:
        body += edge.read(server, 1)
    assert body == b"x" * sent
    assert only(edge).reading


def test_a_pause_of_ours_is_not_the_clients_stall(proxy):
    """The server took nothing for longer than body_stall; then the client has all its time again."""
    edge = proxy(limits='body_stall = "60s"', route='max_body = "100MiB"')
    client = edge.client()
    client.sendall(UPLOAD % 50_000_000)
    server = edge.accept()
    edge.until(lambda: only(edge).exchange.link)

    def stuck():
        try:
            client.send(b"x" * 65536)
        except BlockingIOError:
            return not only(edge).reading
        return False

    edge.until(stuck)
    ours = only(edge)
    ours.since -= 100  # the server was deaf for so long
    edge.later(1)
    assert [] == edge.lines()
    client_side = ours.recv
    ours.recv = lambda size: (_ for _ in ()).throw(BlockingIOError())  # the client's next bytes are still on their way
    edge.read(server, 2_000_000)
    edge.until(lambda: ours.reading)
    ours.due(monotonic() + 1)
    assert [] == edge.lines(), "not 408 yet"
    ours.due(monotonic() + 61)
    assert ("body-timeout", 408) == tuple(edge.lines(1)[0][key] for key in ("reason", "status"))
    ours.recv = client_side


def test_a_client_that_waits_for_100_is_not_blamed_for_the_servers_silence(proxy):
    """RFC 9110 §10.1.1: it is the server's turn. Once the 100 has passed it is the client's."""
    edge = proxy(limits='body_stall = "60s"')
    client = edge.client()
    client.sendall(UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % 10)
    server = edge.accept()
    edge.read(server)
    ours = only(edge)
    ours.due(monotonic() + 100)
    assert [] == edge.lines()
    server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    edge.read(client)
    ours.due(monotonic() + 59)
    assert [] == edge.lines()
    ours.due(monotonic() + 61)
    assert "body-timeout" == edge.lines(1)[0]["reason"]


def test_a_client_that_did_not_wait_for_100_has_the_usual_deadline(proxy):
    edge = proxy(limits='body_stall = "60s"')
    client = edge.client()
    client.sendall(UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") % 10 + b"half")
    edge.read(edge.accept(), b"half")
    only(edge).due(monotonic() + 61)
    assert "body-timeout" == edge.lines(1)[0]["reason"]


# -- deadlines --------------------------------------------------------------------------------------------------------------------------------


def test_an_unfinished_head_is_408_and_later_than_that_never(proxy):
    edge = proxy(limits='head_timeout = "10s"')
    client = edge.client()
    client.sendall(b"GET /mcp")
    edge.until(lambda: edge.runtime.links and only(edge).held)
    edge.later(9)
    assert [] == edge.lines()
    edge.later(11)
    assert b"HTTP/1.1 408 " in edge.end(client)[0]
    assert ("head-timeout", "/mcp") == tuple(edge.lines(1)[0][key] for key in ("reason", "path"))


def test_a_dripping_head_does_not_move_its_deadline(proxy):
    edge = proxy(limits='head_timeout = "10s"')
    client = edge.client()
    client.sendall(b"GET /m")
    edge.until(lambda: edge.runtime.links and only(edge).held)
    only(edge).head_began = monotonic() - 9
    client.sendall(b"cp")
    edge.until(lambda: only(edge).held.endswith(b"cp"))
    only(edge).due(monotonic() + 2)
    assert b"HTTP/1.1 408 " in edge.end(client)[0]


@pytest.mark.parametrize(("served", "seconds"), [(False, 10), (True, 75)])
def test_an_idle_connection_is_closed_without_a_word(proxy, served, seconds):
    edge = proxy(limits='head_timeout = "10s"\nkeepalive = "75s"')
    client = edge.client()
    if served:
        client.sendall(GET)
        server = edge.accept()
        edge.read(server)
        server.sendall(OK)
        edge.read(client, b"ok")
    edge.until(lambda: edge.runtime.links)
    edge.later(seconds - 1)
    assert edge.runtime.links
    edge.later(seconds + 1)
    assert (b"", "fin") == edge.end(client)
    assert (1 if served else 0) == len(edge.lines())


def test_a_silent_stream_is_cut_after_the_routes_idle_timeout(proxy):
    edge = proxy(route='idle_timeout = "60s"')
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    edge.read(client)
    edge.later(59)
    assert [] == edge.lines()
    edge.later(62)
    assert (b"", "fin") == edge.end(client), "no last chunk"
    assert "timeout" == edge.lines(1)[0]["end"]


# -- ends -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_is_still_sending_gets_its_answer_whole(proxy, certificate: Certificate, tls):
    """413 while the upload runs: a reset would eat the answer, so we read on for a moment and forget what we read."""
    edge = proxy(route='max_body = "1KiB"', tls=tls is not None)
    if tls is None:
        client = edge.client()
    else:
        context = certificate.client()
        context.minimum_version = context.maximum_version = tls
        client = edge.tls_client(context)
    client.sendall(UPLOAD % 100_000)
    for _ in range(4):
        client.sendall(b"x" * 1000)
    edge.until(lambda: edge.lines())
    for _ in range(8):
        client.sendall(b"x" * 1000)
    edge.steps.for_a_while(0.02)
    answer, how = edge.end(client)
    assert b"413" in answer
    assert b"body-too-large" in answer
    assert "fin" == how
    client.close()
    edge.until(lambda: not edge.runtime.links)


@pytest.mark.parametrize("tls", [False, True])
def test_a_client_that_reads_only_when_all_is_sent_gets_its_answer(proxy, certificate: Certificate, tls):
    edge = proxy(route='max_body = "1KiB"', tls=tls)
    client = edge.tls_client(certificate.client()) if tls else edge.client()
    client.sendall(UPLOAD % 20_000_000)
    edge.until(lambda: edge.lines())
    sent = 0

    def all_sent():
        nonlocal sent
        try:
            sent += client.send(bytes(min(65536, 20_000_000 - sent)))
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        return sent == 20_000_000

    edge.until(all_sent)
    answer, how = edge.end(client)
    assert b"413" in answer
    assert "fin" == how


def test_lingering_has_an_end(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(b"garbage\r\n")
    edge.until(lambda: edge.lines())
    edge.later(LINGER_SILENT_S - 1)
    assert edge.runtime.links
    edge.later(LINGER_SILENT_S + 1)
    assert not edge.runtime.links


def test_a_connection_whose_stream_ends_while_draining_is_closed(proxy):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    edge.read(client)
    edge.runtime.fronts[0].draining.is_set = True
    only(edge).drain()
    edge.steps.for_a_while(0.01)
    assert edge.runtime.links, "its stream runs to its end"
    server.sendall(b"0\r\n\r\n")
    edge.read(client, b"0\r\n\r\n")
    assert (b"", "fin") == edge.end(client)


def test_a_tls_client_reset_in_the_accept_queue_leaves_nothing(proxy):
    edge = proxy(tls=True)
    edge.reset(edge.client())
    edge.steps.for_a_while(0.02)
    assert not edge.runtime.links


# -- many -------------------------------------------------------------------------------------------------------------------------------------

GARBAGE = 500  # objects of ten thousand requests: odds and ends of the loop, and of other tests' threads in this process


@pytest.mark.parametrize("tls", [False, True])
def test_ten_thousand_requests_leave_nothing_for_the_collector(proxy, certificate: Certificate, tls):
    """No reference cycle on the way of a request: memory comes back at once, and the collector never has to walk."""
    edge = proxy(tls=tls)
    client = edge.tls_client(certificate.client()) if tls else edge.client()
    server = None

    def call():
        nonlocal server
        client.sendall(GET)
        server = server or edge.accept()
        take(edge, server)
        server.sendall(OK)
        take(edge, client)

    call()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10_000):
            call()
        assert gc.collect() <= GARBAGE
    finally:
        gc.enable()
    assert 10_001 == len(edge.lines(10_001))


def take(edge, sock):
    """Read something, as fast as the loop can."""
    while True:
        try:
            return sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            edge.steps.turn()


def make_and_break(edge, context):
    """One connection with one call, one that is refused, one that leaves its stream."""
    for ending in ("close", "refused", "leave", "upstream"):
        client = edge.tls_client(context) if context else edge.client()
        if ending == "refused":
            client.sendall(b"garbage\r\n")
            edge.end(client)
        else:
            client.sendall(GET.replace(b"GET", b"PUT"))
            edge.until(lambda: edge.pool.in_use)
            link = edge.until(lambda: next((each.exchange.link for each in edge.runtime.links if each.exchange.link), None))
            server = edge.servers.get(link) or edge.servers.setdefault(link, edge.accept())
            edge.read(server)
            if ending == "upstream":
                edge.reset(server)
                edge.read(client, b"\n")
            elif ending == "close":
                server.sendall(OK)
                edge.read(client, b"ok")
        client.close()
        edge.until(lambda: not edge.runtime.links)
    edge.servers.clear()
    edge.pool.close_idle()


@pytest.mark.parametrize("tls", [False, True])
def test_connections_leave_neither_garbage_nor_descriptors(proxy, certificate: Certificate, tls):
    edge = proxy(tls=tls)
    edge.servers = {}
    context = certificate.client() if tls else None
    make_and_break(edge, context)
    edge.steps._closing.clear()
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(50):
            make_and_break(edge, context)
            edge.steps._closing.clear()
        found = gc.collect()
    finally:
        gc.enable()
    assert found <= GARBAGE
    assert descriptors == len(os.listdir("/proc/self/fd"))
    assert (0, []) == (edge.pool.in_use, edge.pool.endpoints[0].idle)
    assert 0 == len(edge.runtime.wheel)


# -- bugs of ours -----------------------------------------------------------------------------------------------------------------------------


def raises(*_: object) -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("times", [1, 2], ids=["alone", "pipelined"])
def test_an_unexpected_exception_in_a_judgement_ends_the_connection_and_leaves_no_place_taken(proxy, steps, monkeypatch, times):
    """Nobody waits for a day, and who was counted in is counted out."""
    edge = proxy(route='limits = ["one"]', top="[limit.one]\nconcurrent = 1")
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr("mcpproxy.upstream.pool.Pool.take", raises)
            client = edge.client()
            client.sendall(GET * times)
            assert edge.end(client)[0] == b""
    assert [line["end"] for line in edge.lines(3)] == ["failed"] * 3
    assert len(steps.trouble) == 3
    steps.trouble.clear()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    server.sendall(OK)
    assert edge.read(client, b"ok").startswith(b"HTTP/1.1 200")


def test_an_unexpected_exception_while_a_server_is_heard_ends_its_client_and_its_link(proxy, steps, monkeypatch):
    edge = proxy()
    client = edge.client()
    client.sendall(GET)
    server = edge.accept()
    edge.read(server)
    monkeypatch.setattr("mcpproxy.edge.exchange.Exchange.judge_response", raises)
    server.sendall(OK)
    assert edge.end(client)[0] == b""
    edge.end(server)
    assert edge.pool.in_use == 0
    assert [line["end"] for line in edge.lines(1)] == ["failed"]
    steps.trouble.clear()


def test_an_unexpected_exception_in_a_pipelined_request_ends_the_connection(proxy, steps, monkeypatch):
    edge = proxy()
    client = edge.client()
    client.sendall(GET + GET.replace(b"/mcp", b"/other"))
    server = edge.accept()
    edge.read(server)
    monkeypatch.setattr("mcpproxy.edge.shelf.Shelf.plan_for", raises)
    server.sendall(OK)
    assert edge.end(client)[0] == OK
    assert steps.trouble
    steps.trouble.clear()


def test_an_unexpected_exception_in_one_request_that_leaves_late_ends_that_one_only(proxy, steps, monkeypatch):
    edge = proxy()
    leased = Exchange.leased

    def sometimes(self, link):
        leased(self, link)
        if self.unsent and b"/bad" in self.unsent:
            link.send = raises

    monkeypatch.setattr(Exchange, "leased", sometimes)
    bad, good = edge.client(), edge.client()
    edge.until(lambda: len(edge.runtime.links) == 2)
    warm_up = GET.replace(b"/mcp", b"/warm")
    for client in (bad, good):
        client.sendall(warm_up)
    servers = [edge.accept(), edge.accept()]
    for server in servers:
        edge.read(server)
        server.sendall(OK)
    for client in (bad, good):
        edge.read(client, b"ok")
    bad.sendall(GET.replace(b"/mcp", b"/bad"))
    good.sendall(GET)
    assert edge.end(bad)[0] == b""
    edge.until(lambda: edge.pool.in_use == 1)
    assert steps.trouble
    steps.trouble.clear()


def test_an_unexpected_exception_in_a_deadline_ends_that_connection_and_no_other_deadline(proxy, steps, monkeypatch):
    edge = proxy(limits='head_timeout = "1s"')
    first, second = edge.client(), edge.client()
    for client in (first, second):
        client.sendall(GET[:20])
    edge.until(lambda: len(edge.runtime.links) == 2 and all(link.held for link in edge.runtime.links))
    left = [raises]
    refuse = Downstream.refuse

    def once(self, *more):
        if left:
            left.pop()()
        refuse(self, *more)

    monkeypatch.setattr(Downstream, "refuse", once)
    edge.later(2)
    answers = sorted(edge.end(client)[0] for client in (first, second))
    assert answers[0] == b""
    assert answers[1].startswith(b"HTTP/1.1 408")
    assert steps.trouble
    steps.trouble.clear()
