"""The HTTP/2 client of these tests, against a server that is not ours (nginx), and its judgement, against a server that breaks the rules."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hpack import Encoder

from tests.support import h2
from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.h2 import Code, H2Client, RuleBroken, frame
from tests.support.ports import free_port
from tests.support.software import Server
from tests.support.upstream import ScriptedUpstream, answer

NGINX = """
daemon off; master_process off; pid {place}/pid; error_log {place}/error.log;
events {{}}
http {{
    access_log off; client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
    server {{
        listen 127.0.0.1:{{port}} ssl http2; ssl_certificate {cert}; ssl_certificate_key {key};
        location / {{ proxy_pass {url}; proxy_request_buffering off; proxy_buffering off; proxy_http_version 1.1; }}
    }}
}}
"""


@pytest.fixture
def nginx(tmp_path: Path, certificate: Certificate) -> Iterator[Server]:
    with ScriptedUpstream(answer()) as upstream:
        text = NGINX.format(place=tmp_path, cert=certificate.cert, key=certificate.key, url=upstream.url)
        port = free_port()
        file = tmp_path / "nginx.conf"
        file.write_text(text.replace("{port}", str(port)))
        with Server("nginx", "-p", tmp_path, "-c", file, port=port) as server:
            yield server


@pytest.mark.needs("nginx")
def test_calls_bodies_and_windows(nginx: Server, certificate: Certificate) -> None:
    with H2Client(RawClient(nginx.port, tls=certificate.client(alpn=("h2",)))) as client:
        calls = [client.call(body=b"%d" % i) for i in range(10)]
        assert [call.wait().body for call in calls] == [b"%d" % i for i in range(10)]
        big = bytes(range(256)) * 2000
        assert client.call(body=big).wait().body == big
        client.ping()
        assert client.peer[h2.MAX_CONCURRENT_STREAMS] == 128


@pytest.mark.needs("nginx")
def test_nonsense_is_sent_and_the_judgement_heard(nginx: Server, certificate: Certificate) -> None:
    def client() -> H2Client:
        return H2Client(RawClient(nginx.port, tls=certificate.client(alpn=("h2",))))

    with client() as bad:
        bad.send(frame(h2.SETTINGS, 0, 0, b"odd")).read_to_end()
        assert bad.goaway == (0, Code.FRAME_SIZE_ERROR)
    with client() as bad:
        call = bad.open([(":method", "GET"), (":scheme", "https"), (":path", "/")], block=h2.literals([("a", "b")])).wait()
        assert call.status == 400 or call.reset == Code.PROTOCOL_ERROR


def pair() -> tuple[RawClient, socket.socket]:
    """A client, and the socket of a server that does not exist."""
    ours, theirs = socket.socketpair()
    raw = RawClient.__new__(RawClient)
    raw.raw = raw.link = ours
    raw.buffer, raw.how = b"", ""
    return raw, theirs


BLOCK = Encoder().encode([(":status", "200"), ("content-length", "3")])
HEAD = frame(h2.HEADERS, h2.END_HEADERS, 1, BLOCK)


@pytest.mark.parametrize(
    "said",
    [
        frame(h2.PING, 0, 0, b"12345678"),
        h2.settings() + frame(h2.DATA, 0, 1, b"abc"),
        h2.settings() + HEAD + frame(h2.DATA, h2.END_STREAM, 1, b"ab"),
        h2.settings() + HEAD + frame(h2.DATA, h2.END_STREAM, 1, b"abc") + frame(h2.DATA, 0, 1, b"d"),
        h2.settings() + HEAD + h2.rst_stream(1) + frame(h2.DATA, 0, 1, b"d"),
        h2.settings() + HEAD.replace(b"\0\0\0\1", b"\0\0\0\3"),
        h2.settings() + HEAD + b"".join(frame(h2.DATA, 0, 1, b"x" * 16384) for _ in range(5)),
        h2.settings() + frame(h2.HEADERS, h2.END_HEADERS, 1, Encoder().encode([(":status", "200"), ("Upper", "case")])),
        h2.settings() + frame(h2.HEADERS, h2.END_HEADERS, 1, Encoder().encode([(":status", "200"), ("connection", "close")])),
        h2.settings() + frame(h2.HEADERS, 0, 1, BLOCK) + frame(h2.PING, 0, 0, b"12345678"),
        h2.settings() + frame(h2.HEADERS, h2.END_HEADERS, 1, b"\xff\xff\xff"),
        h2.settings() + frame(h2.DATA, 0, 1, b"", length=16385),
        h2.settings() + h2.window_update(1, 0),
        h2.settings() + frame(h2.PUSH_PROMISE, 4, 1, b"\0\0\0\2"),
        h2.settings({h2.MAX_FRAME_SIZE: 1}),
    ],
)
def test_a_server_that_breaks_the_rules_is_told_on(said: bytes) -> None:
    raw, theirs = pair()
    with theirs, H2Client(raw, credit=False) as client:
        theirs.sendall(said)
        client.call("GET")
        with pytest.raises(RuleBroken):
            client.drain(1)


def test_answers_are_taken_apart(certificate: Certificate) -> None:
    """Interim heads, CONTINUATION, padding, trailers, a reset; on one connection."""
    encoder = Encoder()
    block = encoder.encode([(":status", "200"), ("x", "y")])
    said = [
        h2.settings({h2.INITIAL_WINDOW_SIZE: 5}),
        frame(h2.HEADERS, h2.END_HEADERS, 1, encoder.encode([(":status", "103"), ("link", "a")])),
        frame(h2.HEADERS, h2.PADDED, 1, b"\3" + block[:1] + b"\0\0\0") + frame(h2.CONTINUATION, h2.END_HEADERS, 1, block[1:]),
        frame(h2.DATA, h2.PADDED, 1, b"\2abc\0\0"),
        frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, encoder.encode([("sum", "7")])),
        h2.rst_stream(3, Code.REFUSED_STREAM),
        frame(h2.GOAWAY, 0, 0, b"\0\0\0\3\0\0\0\0bye"),
    ]
    raw, theirs = pair()
    with theirs, H2Client(raw) as client:
        first, second = client.call("GET"), client.call("GET")
        for data in said:
            theirs.sendall(data)
        first.wait()
        second.wait()
        assert (first.status, first.body, first.first("x"), first.trailers) == (200, b"abc", b"y", [(b"sum", b"7")])
        assert first.informational == [[(b":status", b"103"), (b"link", b"a")]]
        assert second.reset == Code.REFUSED_STREAM
        assert first.room == 5
        client.until(lambda: client.goaway == (3, 0), "the farewell")
