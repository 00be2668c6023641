"""Links are leased to one exchange at a time, idle within bounds, or gone; who waits is served in order or told why not."""

import socket
import ssl
from dataclasses import replace

import pytest

from mcpproxy.errors import ProxyError
from mcpproxy.net.resolve import Target
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import HINT_MARGIN, RESTED, Pool, PoolLimits, UpstreamLink
from tests.net.stepping import tcp_pair
from tests.support.certs import Certificate

LIMITS = PoolLimits(
    keepalive=4,
    keepalive_idle=4.0,
    max_connections=3,
    queue=2,
    queue_timeout=5.0,
    connect_timeout=5.0,
    response_timeout=10.0,
    retry_after=5.0,
)


class Lessee:
    """Writes down what the pool tells it."""

    def __init__(self):
        self.link = None
        self.error = None
        self.ended = []
        self.data = []

    def leased(self, link):
        link.lessee = self
        self.link = link

    def not_leased(self, error, endpoint):
        self.error = error

    def upstream_ended(self, error):
        self.ended.append(error)

    def receive(self, _, data):
        self.data.append(data)


class Dialled:
    """A dial that ends when the test says so."""

    made: list["Dialled"] = []

    def __init__(self, pool, endpoint, lessee, alone=False):
        self.pool, self.endpoint, self.lessee, self.alone = pool, endpoint, lessee, alone
        Dialled.made.append(self)

    def succeed(self, steps):
        ours, theirs = tcp_pair(steps)
        link = UpstreamLink(self.pool, self.endpoint, ours)
        link.resume()
        self.lessee.leased(link)
        return link, theirs

    def cancel(self):
        self.pool.lease_ended(self.endpoint)


@pytest.fixture(autouse=True)
def dialled():
    Dialled.made = []
    return Dialled.made


@pytest.fixture
def make(steps):
    def made(endpoints=1, **changes):
        group = tuple(Endpoint(f"http://127.0.0.1:{8000 + number}", None) for number in range(endpoints))
        return Pool(steps.loop, steps.wheel, group, replace(LIMITS, **changes), Dialled)

    return made


def lease(pool, steps, now=100.0):
    """What an exchange does: take, or acquire and be given a fresh link. Returns link, the server's socket (None when warm)."""
    lessee = Lessee()
    link = pool.take(now)
    if link is not None:
        lessee.leased(link)
        return link, None
    pool.acquire(lessee, now)
    return Dialled.made[-1].succeed(steps)


# -- leases --------------------------------------------------------------------------------------------------------------------------------


def test_a_kept_link_is_leased_again_and_counts_its_uses(make, steps):
    pool = make()
    link, _ = lease(pool, steps)
    assert (1, 0) == (pool.in_use, link.uses)
    pool.keep(link, 100.0)
    assert (0, [link]) == (pool.in_use, pool.endpoints[0].idle)
    again, _ = lease(pool, steps)
    assert again is link
    assert (1, 1) == (pool.in_use, link.uses)


def test_the_warmest_link_goes_first(make, steps):
    pool = make()
    cold, warm = lease(pool, steps)[0], lease(pool, steps)[0]
    pool.keep(cold, 100.0)
    pool.keep(warm, 101.0)
    assert pool.take(101.0) is warm


def test_a_discarded_link_is_closed_and_its_place_free(make, steps):
    pool = make()
    link, server = lease(pool, steps)
    pool.discard(link)
    assert 0 == pool.in_use
    assert link.fd < 0
    assert b"" == server.recv(1)


def test_leases_are_bounded_whatever_is_idle(make, steps):
    pool = make(max_connections=2)
    links = [lease(pool, steps)[0] for _ in range(2)]
    assert pool.take(100.0) is None
    pool.keep(links[0], 100.0)
    assert pool.take(100.0) is links[0]
    assert 2 == pool.in_use


def test_idle_links_are_bounded_and_the_surplus_is_closed(make, steps):
    pool = make(keepalive=2, max_connections=10)
    links = [lease(pool, steps)[0] for _ in range(5)]
    for link in links:
        pool.keep(link, 100.0)
    assert links[:2] == pool.endpoints[0].idle
    assert [True, True, False, False, False] == [link.fd >= 0 for link in links]
    assert 0 == pool.in_use


def test_no_keepalive_keeps_nothing(make, steps):
    pool = make(keepalive=0)
    link, server = lease(pool, steps)
    pool.keep(link, 100.0)
    assert b"" == server.recv(1)
    assert pool.take(100.0) is None


# -- rest ----------------------------------------------------------------------------------------------------------------------------------


def test_a_link_that_rested_too_long_is_not_leased(make, steps):
    pool = make()
    link, server = lease(pool, steps)
    pool.keep(link, 100.0)
    assert pool.take(100.0 + LIMITS.keepalive_idle) is None
    assert b"" == server.recv(1)
    assert 0 == pool.in_use


def test_a_link_that_rested_not_quite_so_long_is(make, steps):
    pool = make()
    link, _ = lease(pool, steps)
    pool.keep(link, 100.0)
    assert pool.take(99.9 + LIMITS.keepalive_idle) is link


def test_the_tick_closes_what_is_too_old_and_nothing_else(make, steps):
    pool = make()
    (old, server), (young, _) = lease(pool, steps), lease(pool, steps)
    pool.keep(old, 100.0)
    pool.keep(young, 102.0)
    pool.tick(103.9)
    assert [old, young] == pool.endpoints[0].idle
    pool.tick(104.0)
    assert [young] == pool.endpoints[0].idle
    assert b"" == server.recv(1)


@pytest.mark.parametrize(("timeout", "rests"), [(2, 2 - HINT_MARGIN), (60, 4.0), (1, 0.0), (0, 0.0)])
def test_the_servers_hint_counts_when_it_is_shorter(make, steps, timeout, rests):
    pool = make()
    link, _ = lease(pool, steps)
    link.hint(timeout)
    assert rests == link.idle_s
    pool.keep(link, 100.0)
    pool.tick(100.0 + rests)
    assert [] == pool.endpoints[0].idle


def test_a_link_closed_while_idle_is_forgotten(make, steps):
    pool = make()
    link, server = lease(pool, steps)
    pool.keep(link, 100.0)
    server.close()
    steps.until(lambda: not pool.endpoints[0].idle)
    assert link.fd < 0
    assert 0 == pool.in_use


def test_a_link_that_talks_out_of_turn_is_forgotten(make, steps):
    pool = make()
    link, server = lease(pool, steps)
    pool.keep(link, 100.0)
    server.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    steps.until(lambda: not pool.endpoints[0].idle)
    assert b"" == server.recv(1)
    assert link.fd < 0


@pytest.mark.parametrize("act", ["close", "speak"])
def test_a_rested_link_is_asked_for_news_before_it_is_leased(make, steps, act):
    """The loop had no turn to notice it."""
    pool = make()
    link, server = lease(pool, steps)
    pool.keep(link, 100.0)
    if act == "close":
        server.close()
    else:
        server.sendall(b"x")
    assert pool.take(100.0 + RESTED) is None
    assert link.fd < 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_session_tickets_do_not_disturb_the_rest(make, steps, certificate: Certificate, version):
    pool = make()
    link, server = tls_link(pool, steps, certificate, version)
    assert link.quiet()
    server.sendall(b"x")
    steps.until(lambda: not link.quiet())


def test_a_tls_link_with_a_close_notify_waiting_is_not_quiet(make, steps, certificate: Certificate):
    link, server = tls_link(make(), steps, certificate, ssl.TLSVersion.TLSv1_3)
    server.close()
    steps.until(lambda: not link.quiet())


def tls_link(pool, steps, certificate, version):
    ours, theirs = tcp_pair(steps)
    context = certificate.client()
    context.minimum_version = context.maximum_version = version
    client = context.wrap_socket(ours, server_hostname="localhost", do_handshake_on_connect=False)
    theirs.setblocking(False)
    server = certificate.server().wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
    steps.owned(client, server)
    waiting = [client, server]
    while waiting:
        for sock in tuple(waiting):
            try:
                sock.do_handshake()
                waiting.remove(sock)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
    server.setblocking(True)
    return UpstreamLink(pool, pool.endpoints[0], client), server


def test_idle_links_end_with_the_process(make, steps):
    pool = make()
    links = [lease(pool, steps)[0] for _ in range(3)]
    for link in links:
        pool.keep(link, 100.0)
    pool.close_idle()
    assert all(link.fd < 0 for link in links)


# -- a leased link tells its lessee ------------------------------------------------------------------------------------------------------------


def test_bytes_and_then_the_end_reach_the_lessee_once(make, steps):
    pool = make()
    link, server = lease(pool, steps)
    server.sendall(b"answer")
    server.shutdown(socket.SHUT_WR)
    lessee = link.lessee
    steps.until(lambda: lessee.ended)
    steps.turn(5)
    assert ([b"answer"], [None]) == (lessee.data, lessee.ended)


def test_a_reset_reaches_the_lessee_as_an_error(make, steps):
    link, server = lease(make(), steps)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.close()
    lessee = link.lessee
    steps.until(lambda: lessee.ended)
    assert isinstance(lessee.ended[0], ConnectionResetError)


# -- the queue -----------------------------------------------------------------------------------------------------------------------------


def full(pool, steps):
    return [lease(pool, steps) for _ in range(pool.max_in_use)]


def test_who_waits_gets_the_link_that_is_kept_in_order(make, steps):
    pool = make()
    held = full(pool, steps)
    first, second = Lessee(), Lessee()
    pool.acquire(first, 100.0)
    pool.acquire(second, 100.0)
    pool.keep(held[0][0], 100.0)
    assert (held[0][0], None) == (first.link, second.link)
    assert 1 == first.link.uses
    pool.keep(held[1][0], 100.0)
    assert held[1][0] is second.link
    assert pool.max_in_use == pool.in_use


def test_a_discard_lets_the_next_one_dial(make, steps, dialled):
    pool = make()
    held = full(pool, steps)
    waiting = Lessee()
    pool.acquire(waiting, 100.0)
    before = len(dialled)
    pool.discard(held[0][0])
    assert (before + 1, waiting) == (len(dialled), dialled[-1].lessee)
    assert pool.max_in_use == pool.in_use


def test_a_full_queue_is_503(make, steps):
    pool = make(queue=1)
    full(pool, steps)
    pool.acquire(Lessee(), 100.0)
    with pytest.raises(ProxyError, match="queue-full") as caught:
        pool.acquire(Lessee(), 100.0)
    assert 503 == caught.value.status
    assert 1 == len(pool.waiting)


def test_who_waited_too_long_is_told_503_and_those_behind_wait_on(make, steps):
    pool = make()
    held = full(pool, steps)
    early, late = Lessee(), Lessee()
    pool.acquire(early, 100.0)
    pool.acquire(late, 101.0)
    pool.tick(104.9)
    assert early.error is None
    pool.tick(105.0)
    assert ("queue-timeout", 503) == (early.error.kind, early.error.status)
    assert late.error is None
    pool.keep(held[0][0], 105.0)
    assert held[0][0] is late.link


def test_who_leaves_the_queue_is_passed_over(make, steps):
    pool = make()
    held = full(pool, steps)
    gone, stays = Lessee(), Lessee()
    ticket = pool.acquire(gone, 100.0)
    pool.acquire(stays, 100.0)
    ticket.cancel()
    ticket.cancel()
    pool.keep(held[0][0], 100.0)
    assert (None, held[0][0]) == (gone.link, stays.link)


def test_who_leaves_while_the_dial_after_the_queue_runs_frees_the_place(make, steps):
    pool = make()
    held = full(pool, steps)
    ticket = pool.acquire(Lessee(), 100.0)
    pool.discard(held[0][0])
    ticket.cancel()
    assert pool.max_in_use - 1 == pool.in_use


# -- endpoints -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_endpoint_gets_its_turn_cold_and_warm(make, steps, dialled, count):
    pool = make(endpoints=count, max_connections=20, keepalive=20)
    first, second = [], []
    for labels in (first, second):
        for _ in range(count):
            link, _ = lease(pool, steps)
            labels.append(link.endpoint.label)
            pool.keep(link, 100.0)
    assert [endpoint.label for endpoint in pool.endpoints] == first == second
    assert count == len(dialled), "the second round is warm"


def test_a_dead_endpoint_is_left_out_for_a_while(make, steps, monkeypatch):
    pool = make(endpoints=2, max_connections=20)
    a, b = pool.endpoints
    monkeypatch.setattr("mcpproxy.upstream.group.monotonic", lambda: 100.0)
    pool.group.unreachable(a, "nobody there")
    assert [b, b, b] == [lease(pool, steps, 100.0)[0].endpoint for _ in range(3)]
    assert a is lease(pool, steps, 107.0)[0].endpoint, "one call finds out"
    assert [b, b] == [lease(pool, steps, 107.0)[0].endpoint for _ in range(2)], "the others go where somebody lives"
    pool.group.reached(a)
    assert {a, b} == {lease(pool, steps, 120.0)[0].endpoint for _ in range(2)}


def test_idle_links_are_shared_out_among_endpoints(make):
    assert [32, 16, 11] == [make(endpoints=count, keepalive=32).idle_each for count in (1, 2, 3)]


def test_endpoints_of_one_authority_share_a_head(steps):
    urls = ("http://a:1", "http://b:1", "http://a:1", "unix:/run/x")
    pool = Pool(steps.loop, steps.wheel, tuple(Endpoint(url, None) for url in urls), LIMITS, Dialled)
    assert [0, 1, 0, 2] == [endpoint.index for endpoint in pool.endpoints]
    assert [b"a:1", b"b:1", b"localhost"] == pool.authorities


# -- this endpoint and no other ----------------------------------------------------------------------------------------------------------------


def test_who_must_go_to_one_endpoint_gets_its_links_and_no_others(make, steps):
    pool = make(2)
    a, b = pool.endpoints
    first, _ = lease(pool, steps)
    pool.keep(first, 100.0)
    assert first.endpoint is a
    assert pool.take_at(b, 100.0) is None
    pool.acquire_at(Lessee(), b, 100.0)
    assert (b, True) == (Dialled.made[-1].endpoint, Dialled.made[-1].alone)
    assert pool.take_at(a, 100.0) is first
    assert 2 == pool.in_use


def test_who_waits_for_one_endpoint_gets_no_link_to_another(make, steps):
    pool = make(2, max_connections=1)
    a, b = pool.endpoints
    link, _ = lease(pool, steps)
    assert link.endpoint is a
    assert pool.take_at(b, 100.0) is None
    bound, free = Lessee(), Lessee()
    pool.acquire_at(bound, b, 100.0)
    pool.acquire(free, 100.0)
    pool.keep(link, 100.0)
    assert (None, [link]) == (bound.link, a.idle)
    assert (b, True, bound) == (Dialled.made[-1].endpoint, Dialled.made[-1].alone, Dialled.made[-1].lessee)
    own, _ = Dialled.made[-1].succeed(steps)
    pool.keep(own, 100.0)
    assert free.link is own, "who takes any endpoint takes this one"
    assert 1 == pool.in_use


# -- names and hands --------------------------------------------------------------------------------------------------------------------------


def test_links_to_where_a_name_no_longer_leads_go(steps):
    endpoint = Endpoint("http://moved.example:80", None)
    pool = Pool(steps.loop, steps.wheel, (endpoint,), LIMITS, Dialled)
    here, there = Target(socket.AF_INET, ("192.0.2.1", 80)), Target(socket.AF_INET, ("192.0.2.2", 80))
    endpoint.name.targets, endpoint.name.heard = (here, there), 100.0
    links = [lease(pool, steps)[0] for _ in range(2)]
    links[0].target, links[1].target = here, there
    for link in links:
        pool.keep(link, 100.0)
    pool.tick(100.5)
    assert links == endpoint.idle
    endpoint.name.targets = (there,)
    pool.tick(101.0)
    assert [links[1]] == endpoint.idle
    assert links[0].fd < 0


def test_streams_on_a_drained_endpoint_live_on_and_affinity_still_reaches_it(make, steps):
    pool = make(2)
    a, b = pool.endpoints
    stream, _ = lease(pool, steps)
    pool.set_state(a.label, "drain")
    assert stream.fd >= 0
    assert stream.endpoint is a
    assert {b} == {lease(pool, steps)[0].endpoint for _ in range(2)}
    pool.keep(stream, 100.0)
    assert pool.take_at(a, 100.0) is stream
    pool.keep(stream, 100.0)
    pool.set_state(a.label, "disabled")
    assert [] == a.idle
    assert pool.take_at(a, 100.0) is None
    with pytest.raises(ProxyError) as refused:
        pool.acquire_at(Lessee(), a, 100.0)
    assert ("endpoint-disabled", 503) == (refused.value.kind, refused.value.status)


def test_who_waits_for_any_does_not_get_a_drained_one(make, steps):
    pool = make(2, max_connections=1)
    a, b = pool.endpoints
    link, _ = lease(pool, steps)
    waiting = Lessee()
    pool.acquire(waiting, 100.0)
    pool.set_state(a.label, "drain")
    pool.keep(link, 100.0)
    assert waiting.link is None
    assert b is Dialled.made[-1].endpoint


def test_with_nobody_there_it_is_said_at_once(make, steps):
    pool = make(2)
    for endpoint in pool.endpoints:
        pool.set_state(endpoint.label, "disabled")
    assert pool.take(100.0) is None
    with pytest.raises(ProxyError) as refused:
        pool.acquire(Lessee(), 100.0)
    assert ("upstream-down", 503, 0) == (refused.value.kind, refused.value.status, pool.in_use)


def test_who_waits_when_the_last_one_goes_hears_of_it(make, steps):
    pool = make(1, max_connections=1)
    (a,) = pool.endpoints
    link, _ = lease(pool, steps)
    waiting = [Lessee(), Lessee()]
    for each in waiting:
        pool.acquire(each, 100.0)
    pool.set_state(a.label, "drain")
    pool.discard(link)
    assert ["upstream-down"] * 2 == [each.error.kind for each in waiting]
    assert 0 == pool.in_use


def test_an_endpoint_that_is_full_is_waited_for(steps):
    a, b = Endpoint("http://127.0.0.1:8000", None, most=1), Endpoint("http://127.0.0.1:8001", None, most=1)
    pool = Pool(steps.loop, steps.wheel, (a, b), LIMITS, Dialled)
    links = [lease(pool, steps)[0] for _ in range(2)]
    assert {a, b} == {link.endpoint for link in links}
    assert pool.take(100.0) is None
    anyone, bound = Lessee(), Lessee()
    pool.acquire_at(bound, b, 100.0)
    pool.acquire(anyone, 100.0)
    mine = next(link for link in links if link.endpoint is a)
    pool.discard(mine)
    assert (anyone, a) == (Dialled.made[-1].lessee, Dialled.made[-1].endpoint), "who waits for b is passed over"
    pool.keep(next(link for link in links if link.endpoint is b), 100.0)
    assert bound.link.endpoint is b
    assert [1, 1] == [endpoint.in_use for endpoint in (a, b)]


def test_a_snapshot(make, steps):
    pool = make(2)
    lease(pool, steps)
    found = pool.snapshot()
    assert (1, 3, 0, 0) == (found["in_use"], found["max_in_use"], found["idle"], found["queue"])
    assert [1, 0] == [row["in_use"] for row in found["endpoints"]]
