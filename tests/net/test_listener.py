"""A listening socket says in words why it cannot be had, accepts in batches, turns away who is too many, and survives a full table."""

import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcpproxy.errors import StartError
from mcpproxy.net.link import Link
from mcpproxy.net.listener import BATCH, PAUSE, Address, Listener, bind, bind_all
from tests.net.stepping import DEADLINE, read_all
from tests.support.certs import Certificate


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:443", Address("0.0.0.0", 443)),
        ("[::]:443", Address("::", 443)),
        ("127.0.0.1:8000", Address("127.0.0.1", 8000)),
        ("unix:/run/a:b.sock", Address("", 0, "/run/a:b.sock")),
    ],
)
def test_addresses_are_read_and_written_alike(text, address):
    assert address == Address.parse(text)
    assert text == str(address)


# -- bind ----------------------------------------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named(steps):
    taken = bind(Address("127.0.0.1", 0))
    steps.owned(taken)
    port = taken.getsockname()[1]
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port} is in use") as caught:
        bind(Address("127.0.0.1", port))
    assert caught.value.hint


def test_a_socket_without_a_directory_is_named(tmp_path: Path):
    with pytest.raises(StartError, match=r"cannot listen on unix:.*No such file") as caught:
        bind(Address("", 0, str(tmp_path / "none" / "x.sock")))
    assert "directory" in caught.value.hint


def test_a_foreign_address_is_named():
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0"):
        bind(Address("192.0.2.1", 0))


def test_each_worker_has_a_socket_of_its_own(steps):
    sockets = bind_all(Address("127.0.0.1", 0), 3)
    for sock in sockets:
        steps.owned(sock)
    addresses = {sock.getsockname() for sock in sockets}
    assert len(addresses) == 1
    assert len(set(map(id, sockets))) == 3
    with pytest.raises(StartError, match="in use"):  # another family's, which would share the port
        bind_all(Address(*addresses.pop()), 2)


def test_a_unix_socket_is_one_for_all_workers(steps, tmp_path: Path):
    first, second = bind_all(Address("", 0, str(tmp_path / "x.sock")), 2)
    steps.owned(first)
    assert first is second


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_same_port_can_be_had_on_both_families(steps, host):
    first = bind(Address("0.0.0.0", 0))
    second = bind(Address("::", first.getsockname()[1]))
    steps.owned(first, second)
    with socket.create_connection((host, first.getsockname()[1]), timeout=DEADLINE):
        pass


def test_accepted_links_are_fast_and_find_dead_peers(steps):
    """No Nagle (two small events in a row would wait for an ACK), and probes on streams that are silent for hours."""
    listening = bind(Address("127.0.0.1", 0))
    client = socket.create_connection(listening.getsockname(), timeout=DEADLINE)
    listening.setblocking(True)
    accepted, _ = listening.accept()
    steps.owned(listening, client, accepted)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert 120 >= accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)


def test_a_unix_socket_left_behind_is_replaced_and_a_living_one_is_not(tmp_path: Path, steps):
    path = str(tmp_path / "a.sock")
    left = bind(Address("", 0, path))
    left.close()  # as a killed process leaves it
    assert os.path.exists(path)
    living = bind(Address("", 0, path))
    steps.owned(living)
    assert 0o660 == stat.S_IMODE(os.stat(path).st_mode)
    with pytest.raises(StartError, match="in use"):
        bind(Address("", 0, path))


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path):
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(StartError, match="no socket"):
        bind(Address("", 0, str(path)))
    assert "data" == path.read_text()


# -- accept --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def listen(steps):
    made = []

    def make(greet=None, room=lambda: True, full=b"", address=None):
        greeted = []

        def keep(sock, peer):
            steps.owned(sock)
            greeted.append((sock, peer))

        listener = Listener(steps.loop, bind(address or Address("127.0.0.1", 0)), greet or keep, room, full)
        listener.start()
        made.append(listener)
        return listener, greeted

    yield make
    for listener in made:
        listener.stop()


def connect(listener, steps):
    address = listener.address
    client = socket.socket(socket.AF_UNIX) if address.path else socket.socket()
    client.settimeout(DEADLINE)
    client.connect(address.path or (address.host, address.port))
    steps.owned(client)
    return client


def test_a_burst_is_accepted_in_batches(listen, steps):
    """A storm of connections does not hold up the streams that are already there: others get their turn in between."""
    greeted, batches = [], []

    def greet(sock, peer):
        steps.owned(sock)
        if not batches or len(greeted) == batches[-1]:
            steps.loop.call_soon(lambda: batches.append(len(greeted)))
        greeted.append(peer)
        assert not sock.getblocking()

    listener, _ = listen(greet)
    clients = [connect(listener, steps) for _ in range(BATCH + 10)]
    steps.until(lambda: len(greeted) == len(clients))
    assert batches[0] == BATCH
    assert {client.getsockname() for client in clients} == set(greeted)


def test_who_is_too_many_is_told_so_and_closed(listen, steps):
    greeted = []
    listener, _ = listen(
        lambda sock, peer: (steps.owned(sock), greeted.append(sock)), lambda: len(greeted) < 1, b"HTTP/1.1 503 Full\r\n\r\n"
    )
    first, second = connect(listener, steps), connect(listener, steps)
    steps.until(lambda: listener.turned_away)
    assert b"HTTP/1.1 503 Full\r\n\r\n" == read_all(second)
    greeted.clear()
    third = connect(listener, steps)
    steps.until(lambda: greeted)
    third.close()
    first.close()


def test_on_tls_who_is_too_many_is_closed_without_a_word(listen, steps):
    listener, _ = listen(room=lambda: False)
    client = connect(listener, steps)
    steps.until(lambda: listener.turned_away)
    assert b"" == read_all(client)


def test_a_client_that_left_before_it_was_greeted_harms_nobody(listen, steps, certificate: Certificate):
    """It was reset in the accept queue: there is no peer to wrap a TLS connection around."""
    links = []

    def greet(sock, _):
        wrapped = certificate.server().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        links.append(Link(steps.loop, steps.wheel, wrapped))

    listener, _ = listen(greet)
    gone = connect(listener, steps)
    gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.close()
    connect(listener, steps)
    steps.until(lambda: links)
    assert 1 == len(links)
    links[0].close()


def test_a_greeting_that_fails_costs_one_connection_and_not_the_listener(listen, steps):
    greeted = []

    def greet(sock, _):
        greeted.append(sock)
        if len(greeted) == 1:
            raise ValueError("a bug")
        sock.send(b"hello")
        sock.close()

    listener, _ = listen(greet)
    first, second = connect(listener, steps), connect(listener, steps)
    steps.until(lambda: len(greeted) == 2)
    assert (b"", b"hello") == (read_all(first), read_all(second))
    third = connect(listener, steps)
    steps.until(lambda: len(greeted) == 3)
    assert b"hello" == read_all(third)
    assert ["a bug"] == [str(trouble["exception"]) for trouble in steps.trouble], "it is told"
    steps.trouble.clear()


def test_a_paused_listener_leaves_its_clients_to_others_and_goes_on(listen, steps):
    listener, accepted = listen()
    listener.pause()
    listener.pause()
    with socket.create_connection(("127.0.0.1", listener.address.port)):
        steps.turn(5)
        assert not accepted
        listener.start()
        steps.until(lambda: accepted)


def test_only_the_owner_takes_the_path_away(steps, tmp_path: Path):
    path = tmp_path / "x.sock"
    for owner in (False, True):
        Listener(steps.loop, bind(Address("", 0, str(path))), lambda *_: None, lambda: True, b"", owner=owner).stop()
        assert path.exists() != owner


def test_a_stopped_listener_gives_the_address_back(listen, steps, tmp_path: Path):
    path = str(tmp_path / "a.sock")
    unix, _ = listen(address=Address("", 0, path))
    tcp, _ = listen()
    assert path == unix.address.path
    for listener in (unix, tcp):
        listener.stop()
        listener.stop()
    assert not os.path.exists(path)
    bind(tcp.address).close()


# -- a full table --------------------------------------------------------------------------------------------------------------------------

CHILD = """
import resource, socket, sys, time
from mcpproxy.net.listener import Address, Listener, bind, bind_all
from mcpproxy.net.loop import new_loop

loop = new_loop()
accepted = []
listener = Listener(loop, bind(Address("127.0.0.1", 0)), lambda sock, _: accepted.append(sock), lambda: True, b"")
listener.start()
soft = 40
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
print(listener.address.port, flush=True)

def look():
    spent = time.process_time()
    print("accepted", len(accepted), "cpu", round(spent - look.spent, 3), flush=True)
    look.spent = spent
    loop.call_later(0.4, look)
look.spent = time.process_time()

def told():
    for sock in accepted:
        sock.close()
    accepted.clear()
    sys.stdin.readline()
loop.add_reader(0, told)
loop.call_later(0.4, look)
loop.run_forever()
"""


def test_a_full_descriptor_table_neither_spins_nor_loses_the_listener(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            port = int(child.stdout.readline())
            clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(45)]
            spent, full = [], 0
            while len(spent) < 3:
                accepted, cpu = re.match(r"accepted (\d+) cpu ([\d.]+)", child.stdout.readline()).groups()
                if int(accepted) == full:
                    spent.append(float(cpu))
                full = int(accepted)
            assert 10 < full < 40
            assert max(spent) < 0.1, "it spins"
            child.stdin.write("\n")
            child.stdin.flush()
            late = 45 - full
            end = time.monotonic() + DEADLINE
            while f"accepted {late} " not in child.stdout.readline():
                assert time.monotonic() < end
            for client in clients:
                client.close()
        finally:
            child.kill()
    assert PAUSE <= 1
