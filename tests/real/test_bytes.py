"""Byte identity: what one side sends, framing included, is what the other side receives.

A scripted upstream plays the answer and keeps every byte of the request. Bodies are compared as they were on the wire (`wire`: chunk sizes
and all), heads by their fields. Small bodies are cut at random by hypothesis, in chunks and in TCP segments; 64 MiB ones are hashed.
"""

import hashlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.daemon import Daemon
from tests.support.duplex import Duplex
from tests.support.message import Message
from tests.support.ports import free_port
from tests.support.upstream import Link, ScriptedUpstream

MIB = 1024 * 1024
LARGE = 64 * MIB
BOM = b"\xef\xbb\xbf"
BODIES = {
    "json": b'{ "jsonrpc":"2.0" ,"id": 0,\t"result":{"a":"\\u00fc\\/","b":1.0e+2,"a":"twice"}}\r\n\n',
    "json-with-bom": BOM + b'{"id":"\xe4\xb8\x96","jsonrpc":"2.0"}',
    "no-json": bytes(range(256)) * 3,
    "looks-like-http": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nGET / HTTP/1.1\r\n\r\n0\r\n\r\n",
    "sse-crlf": b"event: message\r\nid: 1\r\nretry: 100\r\ndata: {}\r\n\r\n: ping\r\n\r\ndata: [DONE]\r\n\r\n",
    "sse-lf": b"event: message\nid: a_1\ndata: one\ndata: two\n\n: keepalive\n\nretry: 5\n\n",
    "sse-cr": b"data: old\r\rdata\r\r:\r\r",
    "sse-bom-and-priming": BOM + b"id: 0\ndata: \n\nid: 1\ndata:\n\n",
    "sse-unfinished": b"data: {}\n\ndata: {",
    "empty": b"",
}
FRAMINGS = ["length", "chunked", "close"]


@dataclass
class Play:
    """One exchange: the pieces the upstream sends, and the request it got."""

    pieces: list[bytes]
    close: bool = False
    got: Queue[Message] = field(default_factory=Queue)


@dataclass
class Stage:
    """A daemon between a test and an upstream that plays what the test put into `plays`."""

    plays: Queue[Play]
    clients: Callable[[], RawClient]

    def exchange(self, request: list[bytes], response: list[bytes], *, close: bool = False) -> tuple[Message, Message]:
        """The request as it arrived upstream, the response as it arrived at the client."""
        play = Play(response, close)
        self.plays.put(play)
        with self.clients() as client:
            for piece in request:
                client.send(piece)
            message = client.response(b"POST")
        return play.got.get(timeout=10), message


@pytest.fixture(scope="module", params=["plain", "tls"])
def stage(request: pytest.FixtureRequest, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    plays: Queue[Play] = Queue()

    def script(link: Link) -> None:
        while True:
            got = link.read_request()
            play = plays.get(timeout=10)
            play.got.put(got)
            for piece in play.pieces:
                link.send(piece)
            if play.close:
                return

    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream(script))
        daemon = stack.enter_context(Daemon(configuration(upstream, certificate), tmp_path_factory.mktemp("bytes")))
        tls = certificate.client() if request.param == "tls" else None
        yield Stage(plays, lambda: daemon.client(1 if tls else 0, tls=tls))


def configuration(upstream: ScriptedUpstream, certificate: Certificate) -> dict[str, object]:
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    return {
        "listen": [{"address": f"127.0.0.1:{free_port()}"}, {"address": f"127.0.0.1:{free_port()}", "tls": tls}],
        "upstream": {"u": {"urls": [upstream.url]}},
        "route": [{"upstream": "u", "max_body": "65MiB"}],
        "drain": "5s",
    }


def framed(body: list[bytes], framing: str) -> tuple[bytes, bytes]:
    """The framing field, and the body as it goes over the wire; every element becomes a chunk of its own."""
    if framing == "chunked":
        return b"Transfer-Encoding: chunked\r\n", b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data in body if data) + b"0\r\n\r\n"
    whole = b"".join(body)
    return (b"Content-Length: %d\r\n" % len(whole) if framing == "length" else b""), whole


def request_of(fields: bytes, wire: bytes) -> bytes:
    return b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + fields + b"\r\n" + wire


def response_of(fields: bytes, wire: bytes, content_type: bytes = b"text/event-stream") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\n" + fields + b"\r\n" + wire


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_arrives_as_it_was_sent(name: str, framing: str, stage: Stage) -> None:
    body = BODIES[name]
    fields, wire = framed([body[:7], body[7:]], framing)
    own_fields, own_wire = framed([body[:3], body[3:]], "length" if framing == "close" else framing)
    got, seen = stage.exchange([request_of(own_fields, own_wire)], [response_of(fields, wire)], close=framing == "close")
    assert (got.wire, got.body) == (own_wire, body)
    assert (seen.wire, seen.body, seen.ended) == (wire, body, True)


def segments(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=6) | st.lists(st.binary(min_size=3000, max_size=20000), max_size=3)
CUTS = st.lists(st.integers(0, 60000), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large])
@given(
    sent=CHUNKS,
    answered=CHUNKS,
    sent_cuts=CUTS,
    answer_cuts=CUTS,
    framings=st.tuples(st.sampled_from(FRAMINGS[:2]), st.sampled_from(FRAMINGS)),
)
def test_random_chunks_in_random_segments_arrive_as_they_were_sent(
    sent: list[bytes], answered: list[bytes], sent_cuts: list[int], answer_cuts: list[int], framings: tuple[str, str], stage: Stage
) -> None:
    own_fields, own_wire = framed(sent, framings[0])
    fields, wire = framed(answered, framings[1])
    request = segments(request_of(own_fields, own_wire), sent_cuts)
    response = segments(response_of(fields, wire), answer_cuts)
    got, seen = stage.exchange(request, response, close=framings[1] == "close")
    assert got.wire == own_wire
    assert (seen.wire, seen.ended) == (wire, True)


def test_fields_an_mcp_server_lives_on_arrive_as_they_were_sent(stage: Stage) -> None:
    fields = [
        (b"MCP-Protocol-Version", b"2026-07-28"),
        (b"mcp-method", b"tools/call"),
        (b"Mcp-Name", b"=?base64?5LiW55WM?="),
        (b"Mcp-Param-Region", b"eu  west"),
        (b"Mcp-Param-Unknown", b"\xc3\xbc"),
        (b"MCP-Session-Id", b"!~visible~ascii!"),
        (b"Last-Event-ID", b"stream_1"),
        (b"Accept", b"application/json, text/event-stream"),
        (b"Accept-Encoding", b"gzip, deflate"),
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        (b"tracestate", b"a=1,b=2"),
        (b"baggage", b"k=v"),
        (b"DPoP", b"eyJ0eXAiOiJkcG9wK2p3dCJ9"),
        (b"Origin", b"https://example.org"),
        (b"Authorization", b"Bearer token"),
    ]
    answered = [
        (b"mcp-session-id", b"1868a90c"),
        (b"WWW-Authenticate", b'Bearer resource_metadata="https://example.org/.well-known/oauth-protected-resource/mcp"'),
        (b"Cache-Control", b"no-cache, no-transform"),
        (b"X-Accel-Buffering", b"no"),
        (b"Retry-After", b"7"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
    ]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in fields)
    reply = b"HTTP/1.1 401 Nope\r\n" + b"".join(b"%b: %b\r\n" % pair for pair in answered) + b"Content-Length: 2\r\n\r\n{}"
    got, seen = stage.exchange([request_of(lines + b"Content-Length: 2\r\n", b"{}")], [reply])
    assert [pair for pair in got.fields if pair in fields] == fields
    assert [pair for pair in seen.fields if pair in answered] == answered
    assert seen.start == b"HTTP/1.1 401 Nope"


# --- 64 MiB


def blocks() -> Iterator[bytes]:
    """64 MiB that do not repeat."""
    block = bytearray(b"\r\n0\r\n\r\n" + bytes(range(256)) * 4096)[:MIB]
    for number in range(LARGE // MIB):
        block[100:104] = number.to_bytes(4, "big")
        yield bytes(block)


def large_hash() -> str:
    digest = hashlib.sha256()
    for block in blocks():
        digest.update(block)
    return digest.hexdigest()


def send_large(link: socket.socket, head: bytes, chunked: bool, gate: threading.Event | None = None) -> None:
    """`gate`: the last MiB waits for it. (An answer that ends before its request has been sent ends the connection.)"""
    link.sendall(head)
    for number, block in enumerate(blocks()):
        if gate is not None and number == LARGE // MIB - 1:
            assert gate.wait(30)
        link.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
    if chunked:
        link.sendall(b"0\r\n\r\n")


def hash_large(receive: Callable[[int], bytes], chunked: bool) -> str:
    """The body that comes now, unframed and hashed; `receive(n)` gives exactly n bytes."""
    digest = hashlib.sha256()
    for _ in range(LARGE // MIB):
        if chunked:
            assert receive(len(b"100000\r\n")) == b"100000\r\n"
        digest.update(receive(MIB))
        if chunked:
            assert receive(2) == b"\r\n"
    if chunked:
        assert receive(5) == b"0\r\n\r\n"
    return digest.hexdigest()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_64_mib_arrive_as_they_were_sent_both_ways_at_once(chunked: bool, tls: bool, certificate: Certificate, tmp_path: Path) -> None:
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % LARGE
    hashes: Queue[str] = Queue()

    def script(link: Link) -> None:
        link.read_head()
        gate = threading.Event()
        sender = threading.Thread(target=send_large, args=(link.raw, response_of(framing, b""), chunked, gate))
        sender.start()
        hashes.put(hash_large(link.read_exact, chunked))
        gate.set()
        sender.join()
        link.read_until_closed()

    with ScriptedUpstream(script, keep_bytes=False) as upstream, Daemon(configuration(upstream, certificate), tmp_path) as daemon:
        before = daemon.rss()
        with daemon.client(1 if tls else 0, tls=certificate.client() if tls else None) as client:
            if isinstance(client.link, ssl.SSLSocket):
                client.link = Duplex(client.link)  # type: ignore[assignment]
            sender = threading.Thread(target=send_large, args=(client.link, request_of(framing, b""), chunked))
            sender.start()
            client.read_until(b"\r\n\r\n")
            down = hash_large(client.read_exact, chunked)
            sender.join()
        assert (hashes.get(timeout=10), down) == (large_hash(), large_hash())
        assert daemon.peak_rss() - before < 4 * MIB  # nothing gathers
        assert daemon.record(path="/mcp")["end"] == "done"
