"""Bytes go out at once or wait once; ends are said cleanly or cut visibly; the same over TLS 1.2 and 1.3."""

import contextlib
import random
import socket
import ssl
import threading
import time

import pytest

from mcpproxy.net.link import READ, RECORD, WOULD_BLOCK, Link, prepare, unpace
from tests.net.stepping import DEADLINE, read_all, tcp_pair
from tests.support.certs import Certificate

BIG = random.Random(7).randbytes(8 * 1024 * 1024)


class Noting(Link):
    """A link that writes down what happens to it, as its owners do it: an end is read once."""

    def __init__(self, steps, sock):
        super().__init__(steps.loop, steps.wheel, sock)
        self.data = []
        self.error = None
        self.ends = 0
        self.drains = 0

    def readable(self):
        try:
            data = self.recv(READ)
        except OSError as error:
            if not self.read_failed(error):
                return
            data = b""
        if data:
            if len(data) == READ:
                self.loop.again(self.fd)
            self.data.append(data)
        else:
            self.ends += 1
            self.pause()

    def drained(self):
        self.drains += 1

    def lost(self, error):
        self.pause()
        self.error = error

    def due(self, now):
        return None


KINDS = ["tcp", "unix", "TLSv1_2", "TLSv1_3"]
TLS = KINDS[2:]


@pytest.fixture
def pair(steps, certificate: Certificate):
    """A link and its peer, by kind. The link is the server's side of a TLS connection unless told otherwise."""

    def made(kind, client=False):
        if kind == "tcp":
            ours, theirs = tcp_pair(steps)
        elif kind == "unix":
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            steps.owned(ours, theirs)
        else:
            ours, theirs = tcp_pair(steps)
            trusting = certificate.client()
            trusting.minimum_version = trusting.maximum_version = ssl.TLSVersion[kind]
            ours.settimeout(DEADLINE)
            sides = {}

            def server(sock):
                sides["server"] = certificate.server().wrap_socket(sock, server_side=True, suppress_ragged_eofs=False)

            thread = threading.Thread(target=server, args=(theirs if client else ours,))
            thread.start()
            sides["client"] = trusting.wrap_socket(ours if client else theirs, server_hostname="localhost", suppress_ragged_eofs=False)
            thread.join()
            ours, theirs = (sides["client"], sides["server"]) if client else (sides["server"], sides["client"])
            ours.setblocking(False)
            steps.owned(ours, theirs)
        theirs.settimeout(DEADLINE)
        return Noting(steps, ours), theirs

    return made


# -- writing -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernel_takes_is_gone_at_once(pair, kind):
    link, peer = pair(kind)
    assert link.write(b"hello")
    assert link.pending is None
    assert b"hello" == peer.recv(100)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_refuses_waits_and_is_told_when_it_is_gone(pair, steps, kind):
    link, peer = pair(kind)
    sent = fill(link)
    assert link.pending is not None
    steps.turn(3)
    assert 0 == link.drains
    got = b""
    while link.pending is not None or len(got) < sent:
        got += peer.recv(READ)
        steps.turn()
    assert 1 == link.drains
    assert sent == len(got)
    assert link.write(b"and on")


def fill(link):
    """Write until something is pending; returns how many bytes were handed over."""
    total = 0
    while link.pending is None:
        link.write(BIG[total : total + READ])
        total += READ
    return total


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("kind", KINDS)
def test_eight_mebibytes_reach_a_slow_reader_unharmed(pair, steps, kind, client):
    """Writes are cut at every odd place: pieces of any size, a reader with a small buffer that rests after each read."""
    link, peer = pair(kind, client)
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    got = []

    def read_slowly():
        number = 0
        while piece := peer.recv(50_000):
            got.append(piece)
            number += 1
            if number % 16 == 0:
                time.sleep(0.001)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    dice = random.Random(11)
    at = stops = 0
    while at < len(BIG):
        piece = BIG[at : at + dice.randint(1, READ)]
        if dice.random() < 0.5:
            taken = link.write(piece)
        else:  # as the hot path does it
            try:
                count = link.send(piece)
            except WOULD_BLOCK:
                count = 0
            taken = count == len(piece)
            if not taken:
                link.hold(memoryview(piece)[count:])
        at += len(piece)
        if not taken:
            stops += 1
            assert len(link.pending) <= READ
            steps.until(lambda: link.pending is None)
    link.close()
    reader.join(DEADLINE)
    assert b"".join(got) == BIG
    assert stops == link.drains > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_peer_that_is_gone_is_an_error_of_write(pair, steps, kind):
    link, peer = pair(kind)
    cut(peer)

    def write_on():
        for _ in range(200):
            link.write(b"x" * READ)

    with pytest.raises(OSError):
        write_on()


@pytest.mark.parametrize("kind", ["tcp", *TLS])
def test_a_peer_that_goes_while_bytes_wait_is_lost(pair, steps, kind):
    link, peer = pair(kind)
    fill(link)
    cut(peer)
    steps.until(lambda: link.error)
    assert link.pending is None
    assert 0 == link.drains


def cut(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


# -- reading -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_paused_link_reads_nothing_and_a_resumed_one_everything(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    peer.sendall(b"one")
    steps.until(lambda: link.data)
    link.pause()
    link.pause()
    peer.sendall(b"two")
    steps.for_a_while(0.02)
    assert [b"one"] == link.data
    link.resume()
    link.resume()
    steps.until(lambda: b"onetwo" == b"".join(link.data))


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_hides_from_the_loop(pair, steps, kind):
    """Several TLS records come in one packet; each is read in its turn."""
    link, peer = pair(kind)
    for number in range(20):
        peer.sendall(b"%02d" % number)
    link.resume()
    steps.until(lambda: b"".join(b"%02d" % number for number in range(20)) == b"".join(link.data))


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_more_than_one_read_is_read_on(pair, steps, kind):
    link, peer = pair(kind)
    sender = threading.Thread(target=peer.sendall, args=(BIG[: 40 * READ],))
    sender.start()
    link.resume()
    steps.until(lambda: sum(map(len, link.data)) == 40 * READ)
    sender.join()
    assert b"".join(link.data) == BIG[: 40 * READ]


@pytest.mark.parametrize("kind", TLS)
@pytest.mark.parametrize("sent", [1, RECORD, RECORD + 1, READ, READ + 9, READ + RECORD, READ + 2 * RECORD, 5 * READ])
def test_reading_on_takes_what_is_there_up_to_its_bound(pair, steps, kind, sent):
    link, peer = pair(kind)
    sender = threading.Thread(target=peer.sendall, args=(BIG[:sent],))
    sender.start()
    got = []

    def read():
        data = link.recv(READ)
        got.append(link.read_on(data) if len(data) == RECORD else data)

    steps.loop.add_reader(link.fd, read)
    steps.until(lambda: sum(map(len, got)) == sent)
    sender.join()
    steps.loop.remove_reader(link.fd)
    assert b"".join(got) == BIG[:sent]
    assert max(map(len, got)) <= READ + RECORD


@pytest.mark.parametrize("kind", TLS)
def test_reading_on_leaves_an_end_and_an_error_to_the_next_read(pair, steps, kind):
    link, peer = pair(kind)
    peer.sendall(BIG[: 2 * RECORD])
    peer.close()
    data = b""

    def read():
        nonlocal data
        data = link.read_on(link.recv(READ))
        steps.loop.remove_reader(link.fd)

    steps.loop.add_reader(link.fd, read)
    steps.until(lambda: data)
    assert data == BIG[: 2 * RECORD]
    link.resume()
    steps.until(lambda: link.ends or link.error)


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_is_read_as_nothing(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    peer.sendall(b"bye")
    if kind in TLS:
        threading.Thread(target=say_goodbye, args=(peer,)).start()
    else:
        peer.shutdown(socket.SHUT_WR)
    steps.until(lambda: link.ends)
    assert [b"bye"] == link.data
    assert link.error is None
    link.close()


def say_goodbye(peer):
    """close_notify; waits for ours."""
    with contextlib.suppress(OSError):
        peer.unwrap()


@pytest.mark.parametrize("kind", TLS)
def test_an_end_without_close_notify_is_an_error(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    peer.sendall(b"half a mess")
    socket.socket.shutdown(peer, socket.SHUT_WR)
    steps.until(lambda: link.error)
    assert 0 == link.ends


@pytest.mark.parametrize("kind", ["tcp", *TLS])
def test_a_reset_is_an_error(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    cut(peer)
    steps.until(lambda: link.error)
    assert 0 == link.ends


def test_tls_that_must_write_before_it_reads_goes_on_when_it_may(pair, steps):
    """A key update met by a full send buffer; OpenSSL then wants to write. (Python cannot send a key update, so the refusal is played.)"""
    link, peer = pair("tcp")
    real, refusals = link.recv, [ssl.SSLWantWriteError()]

    def recv(size):
        if refusals:
            raise refusals.pop()
        return real(size)

    link.recv = recv
    peer.sendall(b"data")
    link.resume()
    steps.until(lambda: link.data)
    assert [b"data"] == link.data


def test_a_link_that_was_paused_meanwhile_is_left_alone(pair, steps):
    link, peer = pair("tcp")
    peer.sendall(b"data")
    link.read_failed(ssl.SSLWantWriteError())
    link.pause()
    steps.turn(5)
    assert [] == link.data


# -- ends ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_close_is_a_clean_end(pair, kind):
    """With TLS a missing close_notify would raise in the reader."""
    link, peer = pair(kind)
    link.write(b"all")
    link.close()
    link.close()
    assert b"all" == read_all(peer)
    assert -1 == link.fd == link.sock.fileno()


@pytest.mark.parametrize("kind", ["tcp", *TLS])
def test_abort_is_a_reset(pair, kind):
    link, peer = pair(kind)
    link.write(b"half")
    link.abort()
    link.abort()
    with pytest.raises(ConnectionResetError if kind == "tcp" else OSError):  # OpenSSL may tell a reset as an end in violation of protocol
        read_all(peer)


@pytest.mark.parametrize("kind", TLS)
def test_a_close_with_bytes_waiting_says_no_close_notify(pair, kind):
    """The peer must not take what it has for the whole."""
    link, peer = pair(kind)
    fill(link)
    link.close()
    with pytest.raises(OSError):
        read_all(peer)


@pytest.mark.parametrize("kind", KINDS)
def test_after_finish_writing_the_peer_may_still_talk(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    link.write(b"last words")
    link.finish_writing()
    assert b"last words" == read_all(peer)
    peer.sendall(b"one more thing")
    steps.until(lambda: link.data)
    if kind in TLS:
        say_goodbye(peer)
    else:
        peer.shutdown(socket.SHUT_WR)
    steps.until(lambda: link.ends or link.error)
    assert ([b"one more thing"], 1, None) == (link.data, link.ends, link.error)


@pytest.mark.parametrize("kind", ["tcp", "unix"])  # OpenSSL, as Python calls it, cannot do this
def test_finish_writing_eats_nothing_that_was_on_its_way(pair, steps, kind):
    link, peer = pair(kind)
    peer.sendall(b"crossing")
    peer.sendall(b" letters")
    link.finish_writing()
    link.resume()
    steps.until(lambda: link.error or b"crossing letters" == b"".join(link.data))
    assert link.error is None


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_after_the_last_words_can_be_thrown_away(pair, steps, kind):
    """A client that is still sending must not be reset while our answer is on its way."""
    link, peer = pair(kind)
    link.write(b"413")
    for _ in range(3):
        peer.sendall(b"upload" * 100)
    link.finish_writing()
    link.read_raw()
    link.resume()
    peer.sendall(b"upload" * 1000)
    steps.until(lambda: sum(map(len, link.data)) >= 7200)
    assert b"413" == read_all(peer)
    peer.close()
    steps.until(lambda: link.ends)
    assert link.error is None


@pytest.mark.parametrize("kind", KINDS)
def test_both_ends_in_either_order_are_clean(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    goodbye = threading.Thread(target=say_goodbye, args=(peer,)) if kind in TLS else None
    if goodbye:
        goodbye.start()
    else:
        peer.shutdown(socket.SHUT_WR)
    steps.until(lambda: link.ends)
    link.finish_writing()
    if goodbye:
        goodbye.join(DEADLINE)
    link.close()
    assert link.error is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_link_leaves_nothing_in_the_loop_or_the_wheel(pair, steps, kind):
    link, peer = pair(kind)
    link.resume()
    fill(link)
    steps.wheel.arm(link, 1e9)
    link.abort()
    assert 0 == len(steps.wheel)
    peer.close()
    steps.for_a_while(0.02)
    assert (0, 0, None, []) == (link.drains, link.ends, link.error, link.data)
    with pytest.raises(OSError):
        link.recv(1)
    with pytest.raises(OSError):
        link.send(b"x")


def test_links_are_fast_and_find_dead_peers(steps):
    """No Nagle, and probes: silent streams of 24 hours are common here."""
    ours, _ = tcp_pair(steps)
    prepare(ours)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    idle, every, count = (ours.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT))
    assert idle + every * count <= 300
    left, right = socket.socketpair()
    steps.owned(left, right)
    prepare(left)


def test_a_congestion_control_that_cannot_be_had_is_no_trouble(steps):
    left, right = socket.socketpair()
    steps.owned(left, right)
    unpace(left)  # a unix socket has none
