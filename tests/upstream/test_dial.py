"""A new link is had from one of the addresses in time, or the lessee hears why not, once; nothing is left behind."""

import contextlib
import errno
import os
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mcpproxy.clock import clock, monotonic
from mcpproxy.errors import Side
from mcpproxy.net.resolve import BELIEVED_S, Target
from mcpproxy.net.tls import client_context
from mcpproxy.upstream.dial import CROWDED_S, TELL_S, Dial
from mcpproxy.upstream.endpoint import Endpoint
from mcpproxy.upstream.pool import Pool
from tests.support.certs import Certificate, make_certificate
from tests.support.ports import black_hole, refusing_port
from tests.support.waiting import until
from tests.upstream.test_pool import LIMITS, Lessee


@pytest.fixture
def dial(steps):
    """Dial the first of some URLs; the lessee is returned at once, the outcome comes by turning the loop."""

    def made(*urls, tls=None, **changes):
        clock.tick()
        lessee = Told()
        endpoints = tuple(Endpoint(url, tls) for url in urls)
        pool = Pool(steps.loop, steps.wheel, endpoints, replace(LIMITS, **changes), Dial, lessee.lines.append)
        pool.take(clock.now)
        lessee.dial = pool.acquire(lessee, clock.now)
        lessee.pool = pool
        return lessee

    return made


class Told(Lessee):
    def __init__(self):
        super().__init__()
        self.lines = []

    def not_leased(self, error, endpoint=None):
        assert self.error is None, "told twice"
        self.error = error

    def outcome(self, steps):
        steps.until(lambda: self.link or self.error)
        return self.error.kind if self.error else self.link


@pytest.fixture
def server(steps):
    made = socket.create_server(("127.0.0.1", 0))
    steps.owned(made)
    return made


def url(sock):
    return f"http://127.0.0.1:{sock.getsockname()[1]}"


def discard(lessee):
    lessee.pool.discard(lessee.link)
    assert 0 == lessee.pool.in_use


@contextlib.contextmanager
def no_descriptor_left():
    before = len(os.listdir("/proc/self/fd"))
    yield
    until(lambda: before == len(os.listdir("/proc/self/fd")), "descriptors are back")  # a resolver thread may still hold one


# -- had --------------------------------------------------------------------------------------------------------------------------------------


def test_a_link_comes_from_the_loop_never_from_within_the_call(dial, steps, server):
    lessee = dial(url(server))
    assert (None, None) == (lessee.link, lessee.error)
    link = lessee.outcome(steps)
    assert link.reading
    assert 0 == link.uses
    assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert congestion_control(link.sock) == b"reno", "the server is on this machine"
    discard(lessee)
    assert 0 == len(steps.wheel)


def congestion_control(sock):
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def test_a_server_elsewhere_gets_the_systems_congestion_control(dial, steps, server, monkeypatch):
    """Whether an address is elsewhere, test_resolve asks; here nothing else can be reached."""
    monkeypatch.setattr(Target, "loopback", False)
    lessee = dial(url(server))
    with socket.socket() as fresh:
        assert congestion_control(fresh) == congestion_control(lessee.outcome(steps).sock)
    discard(lessee)


def test_alone_no_other_endpoint_is_tried(dial, steps, server):
    with refusing_port() as port:
        lessee = dial(f"http://127.0.0.1:{port}", url(server))
        lessee.outcome(steps)
        discard(lessee)
        bound = Told()
        pool = lessee.pool
        pool.acquire_at(bound, pool.endpoints[0], clock.now)
        assert "connect-refused" == bound.outcome(steps)
        assert 0 == pool.in_use


def test_a_unix_socket_is_had(dial, steps, tmp_path: Path):
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        lessee = dial(f"unix:{path}")
        assert lessee.link is None
        lessee.outcome(steps)
        discard(lessee)


@pytest.fixture
def crowded(tmp_path: Path):
    """A unix socket whose backlog is full: its server, and the connections that fill it."""
    path = str(tmp_path / "crowded.sock")
    with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as waiting:
        listening.bind(path)
        listening.listen(0)
        while True:
            link = waiting.enter_context(socket.socket(socket.AF_UNIX))
            link.setblocking(False)
            if link.connect_ex(path) == errno.EAGAIN:
                break
        yield path, listening


def test_a_full_backlog_is_waited_for(dial, steps, crowded):
    """TCP asks again by itself; a unix socket says EAGAIN at once, and a burst of calls must not be so many 502."""
    path, listening = crowded
    lessee = dial(f"unix:{path}")
    steps.for_a_while(3 * CROWDED_S)
    assert (None, None) == (lessee.link, lessee.error)
    listening.accept()[0].close()
    assert path == lessee.outcome(steps).sock.getpeername()
    assert lessee.pool.endpoints[0].alive
    discard(lessee)


def test_a_backlog_that_stays_full_is_504_when_its_time_is_over(dial, steps, crowded):
    with no_descriptor_left():
        lessee = dial(f"unix:{crowded[0]}")
        steps.wheel.turn(monotonic() + LIMITS.connect_timeout + 0.6)
        assert "connect-timeout" == lessee.outcome(steps)
        steps.for_a_while(3 * CROWDED_S)
    assert 504 == lessee.error.status
    assert 0 == lessee.pool.in_use


def test_who_leaves_while_a_backlog_is_full_is_not_connected(dial, steps, crowded):
    path, listening = crowded
    with no_descriptor_left():
        lessee = dial(f"unix:{path}")
        lessee.dial.cancel()
        listening.accept()[0].close()
        steps.for_a_while(3 * CROWDED_S)
    assert (None, None, 0) == (lessee.link, lessee.error, lessee.pool.in_use)


def test_a_name_is_looked_up(dial, steps, server):
    lessee = dial(f"http://localhost:{server.getsockname()[1]}")
    assert "localhost" == lessee.outcome(steps).endpoint.hostname
    discard(lessee)


# -- refused ------------------------------------------------------------------------------------------------------------------------------------


def test_nobody_listens_502(dial, steps):
    with no_descriptor_left(), refusing_port() as port:
        lessee = dial(f"http://127.0.0.1:{port}")
        assert lessee.error is None
        assert "connect-refused" == lessee.outcome(steps)
    assert (502, Side.UPSTREAM, 0) == (lessee.error.status, lessee.error.side, lessee.pool.in_use)
    assert not lessee.pool.endpoints[0].alive
    assert lessee.pool.endpoints[0].breaker.hard
    assert [f"127.0.0.1:{port}: Connection refused"] == lessee.lines


def test_the_operator_hears_of_an_endpoint_once_in_a_while(dial, steps):
    with refusing_port() as port:
        lessee = dial(f"http://127.0.0.1:{port}", retry_after=0.0)
        lessee.outcome(steps)
        for wait, lines in [(1, 1), (TELL_S, 2)]:
            lessee.pool.endpoints[0].told -= wait
            lessee.error = None
            lessee.pool.acquire(lessee, clock.now)
            lessee.outcome(steps)
            assert lines == len(lessee.lines)


def test_the_next_address_of_the_same_name_is_tried(dial, steps, server):
    port = server.getsockname()[1]
    with refusing_port() as dead:
        lessee = dial("http://two.example:1")  # its addresses are put in below, before the loop turns
        lessee.dial.cancel()
        endpoint = lessee.pool.endpoints[0]
        endpoint.name.targets = (Target(socket.AF_INET, ("127.0.0.1", dead)), Target(socket.AF_INET, ("127.0.0.1", port)))
        endpoint.name.heard = monotonic()
        again = Told()
        again.pool = lessee.pool
        lessee.pool.acquire(again, clock.now)
        assert ("127.0.0.1", port) == again.outcome(steps).sock.getpeername()
        assert endpoint.alive
        discard(again)


def test_the_next_endpoint_is_tried_and_the_dead_one_is_remembered(dial, steps, server):
    with refusing_port() as dead:
        lessee = dial(f"http://127.0.0.1:{dead}", url(server))
        assert lessee.pool.endpoints[1] is lessee.outcome(steps).endpoint
        assert not lessee.pool.endpoints[0].alive
        discard(lessee)


def test_a_living_endpoint_is_no_longer_dead(dial, steps, server):
    lessee = dial(url(server))
    lessee.pool.group.unreachable(lessee.pool.endpoints[0], "told")
    assert not lessee.pool.endpoints[0].alive
    lessee.outcome(steps)
    assert lessee.pool.endpoints[0].alive
    discard(lessee)


@pytest.mark.parametrize("path", ["/nowhere/a.sock", "/" + "x" * 200])
def test_a_unix_socket_that_is_not_there_502(dial, steps, path):
    lessee = dial(f"unix:{path}")
    assert "connect-failed" == lessee.outcome(steps)
    assert 502 == lessee.error.status


def test_a_name_nobody_knows_502(dial, steps):
    lessee = dial("http://no-such-host.invalid:80")
    assert "name-unknown" == lessee.outcome(steps)
    assert lessee.lines[0].startswith("no-such-host.invalid:80: ")
    assert 502 == lessee.error.status
    assert 0 == lessee.pool.in_use


def test_an_older_answer_serves_while_the_resolver_thinks(dial, steps, server):
    """A resolver that is down must not cost the connection to a server that is not."""
    lessee = dial("http://no-such-host.invalid:80")
    lessee.dial.cancel()
    name = lessee.pool.endpoints[0].name
    name.targets, name.heard = (Target(socket.AF_INET, server.getsockname()),), monotonic() - BELIEVED_S - 1
    again = Told()
    again.pool = lessee.pool
    lessee.pool.acquire(again, clock.now)
    assert again.outcome(steps).fd >= 0
    discard(again)
    steps.until(lambda: name._asking is None)
    assert name.targets


def test_our_own_lack_of_descriptors_is_not_the_endpoints_fault(dial, steps, monkeypatch):
    """(EMFILE cannot be had here without breaking the test's own process.)"""

    class Full(socket.socket):
        def __init__(self, *_, **__):
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("mcpproxy.upstream.dial.socket.socket", Full)
    lessee = dial("http://127.0.0.1:1", "http://127.0.0.1:2")
    monkeypatch.undo()
    assert "out-of-descriptors" == lessee.outcome(steps)
    assert (503, Side.INTERNAL) == (lessee.error.status, lessee.error.side)
    assert all(endpoint.alive for endpoint in lessee.pool.endpoints)


# -- in time --------------------------------------------------------------------------------------------------------------------------------------


def test_a_black_hole_is_504_when_its_time_is_over(dial, steps):
    with black_hole() as port, no_descriptor_left():
        lessee = dial(f"http://127.0.0.1:{port}")
        steps.turn(3)
        steps.wheel.turn(monotonic() + LIMITS.connect_timeout - 0.6)
        assert lessee.error is None
        steps.wheel.turn(monotonic() + LIMITS.connect_timeout + 0.6)
        assert "connect-timeout" == lessee.outcome(steps)
        assert 504 == lessee.error.status
        assert 0 == len(steps.wheel)


def test_after_a_black_hole_the_next_endpoint_has_its_own_time(dial, steps, server):
    with black_hole() as port:
        lessee = dial(f"http://127.0.0.1:{port}", url(server))
        steps.turn(3)
        steps.wheel.turn(monotonic() + LIMITS.connect_timeout + 0.6)
        assert lessee.pool.endpoints[1] is lessee.outcome(steps).endpoint
        discard(lessee)


def test_a_tls_server_that_says_nothing_is_504(dial, steps, server, certificate: Certificate):
    with no_descriptor_left():
        lessee = dial(url(server).replace("http", "https"), tls=client_context(str(certificate.cert), verify=True))
        steps.until(lambda: isinstance(lessee.dial._sock, ssl.SSLSocket))
        steps.turn(3)
        steps.wheel.turn(monotonic() + LIMITS.connect_timeout + 0.6)
        assert "connect-timeout" == lessee.outcome(steps)


# -- cancelled ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["hole", "refused", "name", "tls"])
@pytest.mark.parametrize("turns", [0, 3])
def test_a_cancelled_dial_leaves_nothing_and_says_nothing(dial, steps, server, certificate: Certificate, where, turns):
    with black_hole() as hole, refusing_port() as dead, no_descriptor_left():
        address, tls = {
            "hole": (f"http://127.0.0.1:{hole}", None),
            "refused": (f"http://127.0.0.1:{dead}", None),
            "name": ("http://no-such-host.invalid", None),
            "tls": (url(server).replace("http", "https"), client_context(str(certificate.cert), verify=True)),
        }[where]
        lessee = dial(address, tls=tls)
        steps.turn(turns)
        told = lessee.error
        lessee.dial.cancel()
        lessee.dial.cancel()
        steps.for_a_while(0.02)
        assert (None, told) == (lessee.link, lessee.error)
        assert 0 == lessee.pool.in_use
        assert 0 == len(steps.wheel)


# -- TLS ------------------------------------------------------------------------------------------------------------------------------------------


def serve_tls(server, certificate, data=b""):
    """One TLS handshake on another thread, as a server makes it."""

    def serve():
        sock, _ = server.accept()
        with contextlib.suppress(OSError), certificate.server().wrap_socket(sock, server_side=True) as link:
            link.sendall(data)
            link.recv(1)
        sock.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_tls_link_is_had_and_carries(dial, steps, server, certificate: Certificate):
    thread = serve_tls(server, certificate, b"hello")
    lessee = dial(f"https://localhost:{server.getsockname()[1]}", tls=client_context(str(certificate.cert), verify=True))
    lessee.outcome(steps)
    steps.until(lambda: lessee.data)
    assert [b"hello"] == lessee.data
    discard(lessee)
    thread.join()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("wrong name", "its certificate is not accepted: Hostname mismatch, certificate is not valid for 'localhost'."),
        ("untrusted", "its certificate is not accepted: "),
        ("no tls at all", "TLS failed: "),
    ],
)
def test_a_server_that_cannot_prove_itself_502(dial, steps, server, certificate: Certificate, tmp_path: Path, fault, told):
    shown = make_certificate(tmp_path, "other.example" if fault == "wrong name" else "localhost")
    trusted = shown if fault == "wrong name" else certificate
    if fault == "no tls at all":
        thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        thread.start()
    else:
        thread = serve_tls(server, shown)
    with no_descriptor_left() if fault != "no tls at all" else contextlib.nullcontext():
        lessee = dial(f"https://localhost:{server.getsockname()[1]}", tls=client_context(str(trusted.cert), verify=True))
        assert "upstream-tls" == lessee.outcome(steps)
        assert 502 == lessee.error.status
        thread.join()
    (line,) = lessee.lines
    assert line.startswith(f"localhost:{server.getsockname()[1]}: {told}")


def test_checks_can_be_turned_off(dial, steps, server, tmp_path: Path):
    thread = serve_tls(server, make_certificate(tmp_path, "other.example"))
    lessee = dial(f"https://localhost:{server.getsockname()[1]}", tls=client_context(None, verify=False))
    assert lessee.outcome(steps).tls is not None
    discard(lessee)
    thread.join()
