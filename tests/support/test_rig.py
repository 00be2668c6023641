"""The rig itself: the judge of messages is strict, scripts and clients do what they say."""

import threading
import tomllib

import pytest

from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.message import MessageError, read_requests, read_response
from tests.support.toml import write_toml
from tests.support.upstream import Link, ScriptedUpstream, answer, once, response


def test_pipelined_requests_are_told_apart() -> None:
    found, rest = read_requests(post(b"one") + get() + b"GET /half")
    assert [request.body for request in found] == [b"one", b""]
    assert rest == b"GET /half"


@pytest.mark.parametrize(
    "wire",
    [
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\na : b\r\n\r\n",
        b"GET / HTTP/1.1\r\na: b\n\r\n\r\n",
        b"GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
    ],
)
def test_the_judge_refuses_what_is_not_strict_http(wire: bytes) -> None:
    with pytest.raises(MessageError):
        read_requests(wire)


def test_a_cut_body_is_not_ended() -> None:
    message, _ = read_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", eof=True)
    assert message is not None
    assert (message.body, message.ended) == (b"abc", False)


def test_trailers_belong_to_the_message() -> None:
    wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nrest"
    message, rest = read_response(wire)
    assert message is not None
    assert (message.body, message.trailers, message.ended, rest) == (b"abc", [(b"x", b"y")], True, b"rest")
    assert [each.status for each in message.informational] == [100]


def test_scripts_meet_the_test_at_events() -> None:
    go = threading.Event()

    def script(link: Link) -> None:
        link.read_head()
        link.wait(go)
        link.send_bytewise(response(b"hello"))

    with ScriptedUpstream(script) as upstream, RawClient(upstream.port) as client:
        client.send(get())
        upstream.wait_for(1)
        go.set()
        assert client.response().body == b"hello"
        assert upstream.requests()[0].target == b"/mcp"


def test_each_link_plays_its_own_script(certificate: Certificate) -> None:
    with ScriptedUpstream(once(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), answer(), tls=certificate.server()) as upstream:
        with RawClient(upstream.port, tls=certificate.client()) as client:
            cut = client.exchange(post(b"x"))
            assert (cut.ended, client.how) == (False, "cut")
        with RawClient(upstream.port, tls=certificate.client()) as client:
            assert client.exchange(post(b"x")).body == b"x"
            assert client.exchange(post(b"y")).body == b"y"


def test_configuration_is_written_as_toml() -> None:
    config = {
        "drain": "5s",
        "listen": [{"address": "a", "tls": {"cert": "c"}}],
        "upstream": {"u": {"urls": ["x"]}},
        "limits": {"fields": 3},
    }
    assert tomllib.loads(write_toml(config)) == config
