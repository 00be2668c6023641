"""HTTP/2 under attack: what a single connection can make the daemon do is bounded, and nobody else waits for it.

Floods are frames that cost the sender nothing. Each is poured out until the server hangs up, with ENHANCE_YOUR_CALM
(RFC 9113 §10.5), or with NO_ERROR where no stream was open any more when the first warning came. The bounds, for one connection:
 - MEMORY bytes more at the peak, whatever was sent and whether or not the answers were read;
 - CPU_S seconds of processor time until it hangs up;
 - FORWARDED requests that reached the server behind, of thousands that were opened and taken back.
A neighbour on a connection of its own makes calls all the while.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.scenarios.conftest import Run
from tests.scenarios.test_slow import IN_TIME
from tests.support import h2
from tests.support.daemon import Daemon
from tests.support.h2 import Call, Code, H2Client, frame, literals, request_fields, rst_stream, settings, speak, window_update
from tests.support.recorder import Recorder
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

MIB = 1024 * 1024
MEMORY = 3 * MIB  # twice the largest read and write, and what the allocator does not give back
CPU_S = 0.5  # measured: 0.04 s for the dearest of them, WINDOW_UPDATEs that each allow a byte
FORWARDED = 250  # measured: 80; 200 cancelled requests use up the budget, and most are cancelled before they go on
MOST = 60_000  # frames; whoever takes as many of one kind is flooded
BURST = 50  # frames of one write

Flood = Callable[[H2Client], Iterator[bytes]]


def head(client: H2Client, *fields: tuple[str, str], ended: bool = True, path: str = "/flood") -> bytes:
    """HEADERS of the next stream."""
    number, client.next = client.next, client.next + 2
    client.calls[number] = h2.Call(client, number, b"GET")
    flags = h2.END_HEADERS | (h2.END_STREAM if ended else 0)
    return frame(h2.HEADERS, flags, number, client.encoder.encode(request_fields("GET", path, fields=fields)))


def again(data: bytes) -> Flood:
    """The same frames for ever, on a connection with one open stream, number 1."""

    def flood(client: H2Client) -> Iterator[bytes]:
        yield head(client, ended=False, path="/held")
        while True:
            yield data

    return flood


def streams(*after: Callable[[int], bytes], ended: bool = True, fields: tuple[tuple[str, str], ...] = ()) -> Flood:
    """A request, and what follows on its stream; for ever."""

    def flood(client: H2Client) -> Iterator[bytes]:
        while True:
            number = client.next
            yield head(client, *fields, ended=ended) + b"".join(each(number) for each in after)

    return flood


def opened_again(client: H2Client) -> Iterator[bytes]:
    """HEADERS, HEADERS on one stream: the second ends nothing."""
    while True:
        number = client.next
        yield head(client, ended=False) + frame(h2.HEADERS, h2.END_HEADERS, number, client.encoder.encode([("x", "y")]))


def too_many(client: H2Client) -> Iterator[bytes]:
    """A hundred and more that stay open, then ever more."""
    while True:
        yield head(client, ended=False, path="/held")


def moving_windows(client: H2Client) -> Iterator[bytes]:
    """Each SETTINGS changes the windows of a hundred open streams (§6.9.2)."""
    for _ in range(100):
        yield head(client, ended=False, path="/held")
    while True:
        yield settings({h2.INITIAL_WINDOW_SIZE: 1000}) + settings({h2.INITIAL_WINDOW_SIZE: 70_000})


def tiny_windows(client: H2Client) -> Iterator[bytes]:
    """An answer byte by byte: each WINDOW_UPDATE makes us write a frame (CVE-2019-9511)."""
    client.settings[h2.INITIAL_WINDOW_SIZE] = 0
    number = client.next
    yield settings({h2.INITIAL_WINDOW_SIZE: 0}) + head(client, path="/big")
    while True:
        client.calls[number].window += 1
        yield window_update(number, 1)


def continuations(size: int) -> Flood:
    def flood(client: H2Client) -> Iterator[bytes]:
        yield frame(h2.HEADERS, 0, 1, b"")
        client.calls[1] = h2.Call(client, 1, b"GET")
        while True:
            yield frame(h2.CONTINUATION, 0, 1, literals([("x", "y" * (size - 4))]) if size else b"")

    return flood


FLOODS: dict[str, Flood] = {
    "rapid reset, CVE-2023-44487": streams(rst_stream),
    "rapid reset with NO_ERROR": streams(lambda number: rst_stream(number, Code.NO_ERROR)),
    "rapid reset of uploads": streams(lambda number: frame(h2.DATA, 0, number, b"x" * 100), rst_stream, ended=False),
    "MadeYouReset by a window update of zero, CVE-2025-8671": streams(lambda number: frame(h2.WINDOW_UPDATE, 0, number, bytes(4))),
    "MadeYouReset by an overflow of the window, CVE-2025-8671": streams(lambda number: window_update(number, h2.LARGEST)),
    "MadeYouReset by data after the end, CVE-2025-8671": streams(lambda number: frame(h2.DATA, 0, number, b"x")),
    "MadeYouReset by a head after the end, CVE-2025-8671": streams(lambda number: frame(h2.HEADERS, h2.END_HEADERS, number, b"\x88")),
    "MadeYouReset by a priority of the wrong size, CVE-2025-8671": streams(lambda number: frame(h2.PRIORITY, 0, number, bytes(4))),
    "MadeYouReset by depending on itself, CVE-2025-8671": streams(lambda number: frame(h2.PRIORITY, 0, number, number.to_bytes(4) + b"\0")),
    "MadeYouReset by a false length": streams(
        lambda number: frame(h2.DATA, h2.END_STREAM, number, b"four"), ended=False, fields=(("content-length", "3"),)
    ),
    "malformed requests": streams(fields=(("Upper", "case"),)),
    "trailers that end nothing": opened_again,
    "more streams than allowed": too_many,
    "SETTINGS": again(settings({h2.INITIAL_WINDOW_SIZE: 70_000})),
    "empty SETTINGS": again(settings()),
    "SETTINGS of two thousand entries": again(settings([(0x1000 + i, i) for i in range(2000)])),
    "SETTINGS that resize the table": again(settings({h2.HEADER_TABLE_SIZE: 0}) + settings({h2.HEADER_TABLE_SIZE: 4096})),
    "SETTINGS that move windows": moving_windows,
    "acknowledgements of nothing": again(settings(ack=True)),
    "PING, CVE-2019-9512": again(frame(h2.PING, 0, 0, b"12345678")),
    "PRIORITY, CVE-2019-9513": again(frame(h2.PRIORITY, 0, 3, b"\0\0\0\5\x10") + frame(h2.PRIORITY, 0, 5, b"\0\0\0\3\x10")),
    "PRIORITY of streams that never were": again(frame(h2.PRIORITY, 0, 0x7FFFFFF1, b"\0\0\0\1\xff")),
    "empty DATA, CVE-2019-9518": again(frame(h2.DATA, 0, 1)),
    "DATA of padding": again(frame(h2.DATA, h2.PADDED, 1, b"\0")),
    "WINDOW_UPDATE of the connection": again(window_update(0, 1)),
    "WINDOW_UPDATE of a stream": again(window_update(1, 1)),
    "windows of one byte, CVE-2019-9511": tiny_windows,
    "empty CONTINUATION": continuations(0),
    "CONTINUATION, CVE-2024-27316": continuations(100),
    "CONTINUATION of the largest size": continuations(16_000),
    "unknown frames": again(frame(0xEE, 0, 0)),
    "unknown frames of the largest size": again(frame(0xEE, 0, 1, bytes(16384))),
    "RST_STREAM of a stream that is gone": lambda client: (head(client) + rst_stream(1) if i == 0 else rst_stream(1) for i in range(MOST)),
    "DATA on a stream that is gone": lambda client: (
        head(client, ended=False) + rst_stream(1) if i == 0 else frame(h2.DATA, 0, 1, b"x") for i in range(MOST)
    ),
    "WINDOW_UPDATE of a stream that is gone": lambda client: (
        head(client) + rst_stream(1) if i == 0 else window_update(1, 1) for i in range(MOST)
    ),
}


def hold(link: Link) -> None:
    """/held is read for ever, /big is a megabyte, all else an x."""
    while True:
        start = link.read_head().split(b"\r\n")[0]
        if b" /held " in start:
            link.read_until_closed()
            return
        link.send(response(bytes(MIB) if b" /big " in start else b"x"))


class Neighbour:
    """Calls on a connection of its own, one after the other, in a thread; none may fail."""

    def __init__(self, daemon: Daemon) -> None:
        self.client = speak(daemon)
        self.served, self.failure = 0, ""
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.over.wait(0.01):
                assert self.client.call("GET", "/neighbour").wait(5).status == 200
                self.served += 1
        except Exception as error:  # told by check()
            self.failure = repr(error)

    def check(self) -> None:
        self.over.set()
        self.thread.join(10)
        assert self.failure == ""
        assert self.served > 0
        self.client.close()


def pour(client: H2Client, flood: Flood, *, reads: bool) -> int:
    """Until the server hangs up, or MOST frames; how many it took."""
    frames, burst = 0, b""
    for data in flood(client):
        burst += data
        frames += 1
        if frames % BURST == 0:
            if not client.try_send(burst):
                break
            burst = b""
            if reads:
                client.drain(0.002)
                if client.how:
                    break
        if frames >= MOST:
            break
    return frames


@pytest.mark.parametrize("reads", [True, False], ids=["reading", "deaf"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_its_connection_and_costs_little(name: str, reads: bool, run: Run) -> None:
    with ScriptedUpstream(hold, keep_bytes=False) as upstream:
        daemon = run(upstream.url, log={"access": "off"})
        neighbour = Neighbour(daemon)
        until(lambda: neighbour.served > 20, "the neighbour is served")
        quiet, before, used = neighbour.served, daemon.rss(), daemon.cpu_s()
        with speak(daemon, polite=reads) as client:
            frames = pour(client, FLOODS[name], reads=reads)
            client.read_to_end()
            assert client.goaway is not None
            assert client.goaway[1] in (Code.ENHANCE_YOUR_CALM, Code.NO_ERROR), client.goaway
            assert frames < MOST or not reads, f"{frames} frames were taken"
        cost = daemon.cpu_s() - used
        assert cost < CPU_S, f"{cost:.2f} s for {frames} frames"
        assert daemon.rss() - before < MEMORY, f"{daemon.rss() - before} bytes for {frames} frames"
        until(lambda: neighbour.served > quiet + 20, "the neighbour is served")
        neighbour.check()
        assert len(upstream.links) <= FORWARDED


# --- heads that are larger than they look


def served(daemon: Daemon) -> bool:
    with speak(daemon) as client:
        return client.call("GET", "/after").wait().status == 200


def refused(client: H2Client, call: Call) -> None:
    client.until(lambda: call.over or client.goaway, "a judgement")
    assert call.status == 431 or call.reset is not None or client.goaway, repr(call)


@pytest.mark.parametrize("references", [16, 1000, 16_000])
def test_a_field_block_that_unfolds_is_refused_before_it_is_large(references: int, run: Run) -> None:
    """The HPACK bomb (CVE-2016-6581): a field of 4 000 bytes, then references of one byte to it."""
    with Recorder() as upstream:
        daemon = run(upstream.url, log={"access": "off"})
        assert served(daemon)
        before, used = daemon.rss(), daemon.cpu_s()
        for _ in range(5):
            with speak(daemon) as client:
                bomb = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000  # with indexing: the name x, 4 000 bytes (RFC 7541 §6.2.1)
                block = client.encoder.encode(request_fields("GET"))
                call = client.stream(b"GET")
                client.send_block(call.number, block + bomb + b"\xbe" * references, h2.END_STREAM)
                refused(client, call)
        assert daemon.rss() - before < MEMORY
        assert daemon.cpu_s() - used < CPU_S
        assert served(daemon)
        assert {request.target for request in upstream.complete} == {b"/after"}


@pytest.mark.parametrize(("count", "size"), [(10_000, 1), (10_000, 20), (60, 4000), (1, 250_000), (3, 100_000), (100_000, 0)])
def test_a_list_of_fields_that_is_too_long_reaches_nobody(count: int, size: int, run: Run) -> None:
    """§10.5.1: 431 or the end of the connection, however it is spread over CONTINUATIONs. Names without a character as well (CVE-2019-9516)."""
    with Recorder() as upstream:
        daemon = run(upstream.url, log={"access": "off"})
        assert served(daemon)
        before, used = daemon.rss(), daemon.cpu_s()
        with speak(daemon) as client:
            call = client.stream(b"GET")
            block = literals(request_fields("GET")) + literals([("x" if size else "", "y" * size)]) * count
            pieces = [block[at : at + h2.FRAME] for at in range(0, len(block), h2.FRAME)]
            for i, piece in enumerate(pieces):
                kind, flags = (h2.CONTINUATION, 0) if i else (h2.HEADERS, h2.END_STREAM)
                if not client.try_send(frame(kind, flags | (h2.END_HEADERS if piece is pieces[-1] else 0), call.number, piece)):
                    break
            refused(client, call)
        assert daemon.rss() - before < MEMORY
        assert daemon.cpu_s() - used < CPU_S
        assert served(daemon)
        assert {request.target for request in upstream.complete} == {b"/after"}


# --- who keeps things open


class Deaf:
    """A server that accepts and never reads."""

    def __init__(self) -> None:
        self.links: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                self.links.append(self.listener.accept()[0])
        except OSError:
            return

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for link in self.links:
            link.close()


def test_a_thousand_half_open_uploads_cost_little_and_have_an_end(run: Run) -> None:
    """Ten connections with a hundred requests each that promise a body and send half: at most 24 KiB each, and 408 when they stall."""
    upstream = Deaf()
    daemon = run(upstream.url, limits={"body_stall": "3s"}, log={"access": "off"})
    baseline, before = daemon.resting(), daemon.rss()
    clients = [speak(daemon) for _ in range(10)]
    try:
        for client in clients:
            fields, half = request_fields(length=2000), bytes(1000)
            for _ in range(100):
                client.open(fields, ended=False).send(half)
        until(lambda: len(upstream.links) == 1000, lambda: f"{len(upstream.links)} uploads under way")
        assert daemon.rss() - before < 1000 * 24 * 1024
        for client in clients:
            for call in client.calls.values():
                assert call.wait().status == 408
            client.ping()
        for client in clients:
            client.close()
        until(lambda: daemon.descriptors() <= baseline, "nothing stays open")
    finally:
        upstream.close()


@pytest.mark.parametrize(
    ("path", "config"),
    [("/small", {"limits": {"body_stall": "1s"}}), ("/big", {"route": {"idle_timeout": "1s"}})],
    ids=["an end that is not taken", "a middle that is not taken"],
)
def test_streams_with_a_window_of_zero_are_given_up(path: str, config: dict[str, Any], run: Run) -> None:
    """Answers nobody takes: no memory but one read each, and an end; a stream that is read goes on beside them."""
    with ScriptedUpstream(hold, keep_bytes=False) as upstream:
        daemon = run(upstream.url, **config)
        before = daemon.rss()
        with speak(daemon, settings={h2.INITIAL_WINDOW_SIZE: 0}) as client:
            stalled = [client.call("GET", path) for _ in range(50)]
            read = client.call("GET", "/read").wait_head()
            assert daemon.rss() - before < 50 * 65536 + MEMORY
            read.credit(10)
            assert read.wait().body == b"x"
            for call in stalled:
                call.wait_reset(IN_TIME)
                assert (call.status, call.body) == (200, b"")
            client.ping()
            assert client.goaway is None
        records = daemon.wait_records(50, path=path)
        assert len(records) == 50
        if path == "/big":
            assert {record["end"] for record in records} == {"timeout"}
            until(lambda: sum(link.ended.is_set() for link in upstream.links) == 50, "so does it upstream")
