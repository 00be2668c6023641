"""What the edge answers by itself, and what the log says of heads nobody understood."""

import json

import pytest

from mcpproxy import clock
from mcpproxy.edge.local import describe_refused
from tests.edge.conftest import HEAD_END

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET = b"GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n"
POSTED = b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"


def body(answer):
    return json.loads(answer.partition(HEAD_END)[2])


def test_health_is_answered_and_the_connection_goes_on(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    for _ in range(3):
        client.sendall(HEALTH)
        assert {"status": "ok"} == body(edge.read(client, b"}\n"))
    client.sendall(GET)
    assert edge.read(edge.accept()).startswith(b"GET /mcp ")
    lines = edge.lines(3)
    assert [("local", 200, None, len(HEALTH))] * 3 == [(line["end"], line["status"], line["upstream"], line["bytes_in"]) for line in lines]
    assert 3 == len({line["id"] for line in lines})


def test_an_answer_of_our_own_tells_the_time_of_its_sending(proxy, monkeypatch):
    """The plan is kept, the date is not (RFC 9110 §6.6.1)."""
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    for second in range(3):
        monkeypatch.setattr(clock, "time", lambda second=second: 784111777.0 + second)
        client.sendall(HEALTH)
        answer = edge.read(client, b"}\n")
        assert answer.count(b"\r\nDate: Sun, 06 Nov 1994 08:49:%d GMT\r\n" % (37 + second)) == 1
    assert len(answer) == edge.lines(3)[0]["bytes_out"]


def test_pipelined_requests_behind_one_answered_here_are_served(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(HEALTH + HEALTH + GET)
    assert edge.read(edge.accept()).startswith(b"GET /mcp ")
    assert 2 == edge.read(client, 200).count(b'{"status":"ok"}')
    assert [len(HEALTH)] * 2 == [line["bytes_in"] for line in edge.lines(2)]


@pytest.mark.parametrize("rest", [b"", HEALTH])
def test_a_body_for_nobody_is_never_read_as_a_request(proxy, rest):
    """Of unknown length, it ends the connection."""
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + rest)
    answer, how = edge.end(client)
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert b"\r\nConnection: close\r\n" in answer
    assert "fin" == how
    assert 1 == len(edge.lines(1))


@pytest.mark.parametrize(
    "pieces", [(POSTED + HEALTH,), (POSTED[:-5], POSTED[-5:] + HEALTH), (POSTED[:-3], POSTED[-3:], HEALTH), (POSTED, HEALTH)]
)
def test_a_small_body_for_nobody_is_skipped_and_the_connection_goes_on(proxy, pieces):
    """Clients that send head and body apart would lose the connection with every 401."""
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    for piece in pieces:
        client.sendall(piece)
        edge.steps.turn()
    assert 2 == edge.read(client, 200).count(b'{"status":"ok"}')
    assert [len(POSTED), len(HEALTH)] == [line["bytes_in"] for line in edge.lines(2)]


def test_a_client_that_leaves_inside_such_a_body_is_in_the_log(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(POSTED[:-3])
    edge.steps.turn()
    client.close()
    assert [(499, "client-gone")] == [(line["status"], line["end"]) for line in edge.lines(1)]


def test_a_large_body_for_nobody_ends_the_connection(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\nhello")
    answer, how = edge.end(client)
    assert b"\r\nConnection: close\r\n" in answer
    assert "fin" == how


def test_an_http_1_0_client_is_answered_and_closed(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n")
    answer, how = edge.end(client)
    assert ({"status": "ok"}, "fin") == (body(answer), how)


def test_head_gets_no_body_and_the_connection_goes_on(proxy):
    edge = proxy(route='path = "/mcp"')
    client = edge.client()
    client.sendall(b"HEAD /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert edge.read(client).startswith(b"HTTP/1.1 404 ")
    client.sendall(b"GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "no-route" == body(edge.read(client, b"\n"))["error"]["reason"]


def test_while_draining_it_is_the_last_answer(proxy):
    edge = proxy(top='health = "/healthz"')
    client = edge.client()
    client.sendall(HEALTH)
    edge.read(client, b"}\n")
    edge.runtime.fronts[0].draining.is_set = True
    client.sendall(HEALTH)
    answer, how = edge.end(client)
    assert b"\r\nConnection: close\r\n" in answer
    assert "fin" == how


# -- the log's view ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "method", "path"),
    [
        (b"GET /a HTTP/1.1\r\n", "GET", "/a"),
        (b"GET /a?key=SECRET HTTP/1.1\r\n", "GET", "/a"),
        (b"GET /a#access_token=SECRET HTTP/1.1\r\n", "GET", "/a"),
        (b"GET /a", "GET", "/a"),
        (b"GET http://user:SECRET@a/ HTTP/1.1\r\n", "GET", None),
        (b"GET SECRET HTTP/1.1\r\n", "GET", None),
        (b"SECRET", None, None),
        (b"\x16\x03\x01SECRET", None, None),
        (b"GET /\xff\xfe HTTP/1.1\r\n", "GET", "/"),
        (b'GET /a"b HTTP/1.1\r\n', "GET", '/a"b'),
        (b"GET /" + b"a" * 3000 + b"?SECRET", "GET", "/" + "a" * 255),
        (b"", None, None),
    ],
)
def test_a_refused_head_is_described_without_a_secret(head, method, path):
    text = describe_refused(head)
    assert b"SECRET" not in text
    facts = json.loads(b"{" + text + b"}")
    assert (method, path, None, None) == (facts["method"], facts["path"], facts["host"], facts["protocol"])
