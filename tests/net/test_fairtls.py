"""A peer whose TLS records carry no data gets one record's worth of attention at a time."""

import _ssl
import contextlib
import ctypes
import socket
import ssl

import pytest

from mcpproxy.net import fairtls
from mcpproxy.net.link import READ, Link
from mcpproxy.net.tls import Identity, client_context, server_context
from tests.support.certs import Certificate

UPDATES = 100
UPDATE_NOT_REQUESTED, UPDATE_REQUESTED = 0, 1

libssl = ctypes.CDLL(_ssl.__file__)


def update_keys(link, kind):
    """A KeyUpdate of `link` (the ssl module has no word for it)."""
    pointer = fairtls.Fields.from_address(id(link._sslobj) + fairtls.HEADER)[1]
    assert 1 == libssl.SSL_key_update(ctypes.c_void_p(pointer), kind)
    assert 1 == libssl.SSL_do_handshake(ctypes.c_void_p(pointer))


@pytest.fixture
def pair(certificate: Certificate):
    """A listener's and an upstream link's end of one TLS 1.3 connection, both as our contexts make them."""
    near, far = socket.socketpair()
    server = server_context([Identity(str(certificate.cert), str(certificate.key))], "1.3", ["http/1.1"])
    client = client_context(None, verify=False)
    ends = (
        server.wrap_socket(near, server_side=True, do_handshake_on_connect=False),
        client.wrap_socket(far, server_hostname="localhost", do_handshake_on_connect=False),
    )
    for end in ends:
        end.setblocking(False)
    for _ in range(4):  # there and back, and the tickets
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    for end in ends:
        turns(end)
    yield ends
    for end in ends:
        end.close()


def turns(link):
    """Read until nothing is there: how many reads ended without data, and what was read."""
    empty, data, waiting = 0, b"", b"?"
    while waiting:
        try:
            data += link._sslobj.read(100)
        except ssl.SSLWantReadError:
            empty += 1
        link.setblocking(False)
        raw = socket.socket(fileno=link.fileno())
        try:
            waiting = raw.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            waiting = b""
        finally:
            raw.detach()
    return empty, data


@pytest.mark.parametrize("kind", [UPDATE_NOT_REQUESTED, UPDATE_REQUESTED])
@pytest.mark.parametrize("reader", [0, 1], ids=["a client's", "a server's"])
def test_a_read_ends_after_one_record_that_carries_no_data(pair, kind, reader):
    """One SSL_read that swallows them all holds up every other connection for as long as they come."""
    link, peer = pair[reader], pair[1 - reader]
    for _ in range(UPDATES):
        update_keys(peer, kind)
    peer.send(b"data")
    empty, data = turns(link)
    assert data == b"data"
    assert empty >= UPDATES


class Counting(Link):
    """Counts how often the loop calls it."""

    __slots__ = ("calls", "got")

    def __init__(self, steps, sock):
        super().__init__(steps.loop, steps.wheel, sock)
        self.calls, self.got = 0, b""

    def readable(self):
        self.calls += 1
        try:
            self.got += self.recv(READ)
        except OSError as error:
            self.read_failed(error)


def test_a_read_that_must_write_first_waits_and_does_not_spin(pair, steps):
    """The peer asks for our new keys and does not take them: what it sent beside must not call us again and again."""
    ours, peer = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link = Counting(steps, ours)
    link.resume()
    for _ in range(UPDATES):
        update_keys(peer, UPDATE_REQUESTED)
    steps.turn(1000)
    link.calls = 0
    steps.turn(100)
    assert link.calls == 0
    assert link.reading

    text = b"data"

    def goes_on():
        nonlocal text
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            peer.recv(READ)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            text = text[peer.send(text) :] if text else b""
        return link.got == b"data"

    steps.until(goes_on, "the peer took them, and its data arrived")
    link.close()


def test_it_was_possible_here(pair):
    assert all(fairtls.take_turns(end._sslobj) for end in pair)


def test_an_object_that_is_not_as_expected_is_left_alone():
    class Odd:
        context = None

    odd = Odd()
    odd.fields = (1, 2, 3)
    assert not fairtls.take_turns(odd)


def test_a_libssl_that_cannot_be_asked_is_left_alone(pair, monkeypatch):
    monkeypatch.setattr(fairtls, "control", None)
    assert not fairtls.take_turns(pair[0]._sslobj)


def test_a_module_without_a_libssl_is_no_trouble(monkeypatch):
    monkeypatch.setattr(fairtls._ssl, "__file__", "/nowhere/_ssl.so")
    assert fairtls._libssl_control() is None
