"""Who is sampled, what the server is told, and what is written down."""

import json
import re

import pytest

from mcpproxy.edge import tracing
from tests.edge.conftest import HEAD_END
from tests.edge.h2client import H2Client

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
TRACE, SPAN = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"
SAMPLED, NOT = b"00-%b-%b-01" % (TRACE, SPAN), b"00-%b-%b-00" % (TRACE, SPAN)


@pytest.fixture
def edge(proxy):
    return proxy("", top='otel = { endpoint = "http://127.0.0.1:1/v1/traces", sample = 0 }')


class Talk:
    def __init__(self, edge):
        self.edge, self.client, self.server = edge, edge.client(), None

    def ask(self, *fields):
        """The head that the server got."""
        lines = b"".join(b"%b\r\n" % field for field in fields)
        self.client.sendall(b"GET /x HTTP/1.1\r\nHost: a.test\r\n%b\r\n" % lines)
        self.server = self.server or self.edge.accept()
        head = self.edge.read(self.server, HEAD_END)
        self.server.sendall(ANSWER)
        self.edge.read(self.client, b"ok")
        return head


def parents(head):
    return re.findall(rb"\r\ntraceparent: ([^\r]*)", head, re.IGNORECASE)


def test_a_sampled_client_is_followed(edge):
    talk, tracer = Talk(edge), edge.runtime.offices.tracer
    for number in range(1, 5):  # judged, judged, template, template: all the same
        (told,) = parents(talk.ask(b"traceparent: " + SAMPLED, b"tracestate: a=b"))
        assert told.startswith(b"00-" + TRACE)
        assert told.endswith(b"-01")
        assert told != SAMPLED
        span = tracer.spans[-1]
        assert len(tracer.spans) == number
        assert (span["trace"], span["parent"]) == (TRACE.decode(), SPAN.decode())
        assert told.split(b"-")[2].decode() == span["span"]
        assert (span["status"], span["end"], span["route"], span["upstream"]) == (200, "done", "/", "u")
        assert span["ended"] >= span["began"] > 1_600_000_000
        assert json.loads(span["about"])["path"] == "/x"
        assert json.loads(span["endpoint"]) == edge.pool.endpoints[0].label
    assert len({span["span"] for span in tracer.spans}) == 4


@pytest.mark.parametrize("fields", [(b"traceparent: " + NOT,), (b"traceparent: nonsense",), ()])
def test_who_is_not_sampled_goes_on_as_it_came(edge, fields):
    talk = Talk(edge)
    for _ in range(3):
        assert parents(talk.ask(*fields)) == [field.partition(b": ")[2] for field in fields]
    assert edge.runtime.offices.tracer.spans == []


@pytest.mark.parametrize("said", [b"00-%b-%b-01" % (b"0" * 32, SPAN), b"00-%b-%b-01" % (TRACE, b"0" * 16), b"nonsense"])
def test_by_chance_a_trace_begins(edge, said):
    edge.runtime.offices.tracer.sample = 1.0
    talk = Talk(edge)
    (told,) = parents(talk.ask(b"traceparent: " + said))
    (also,) = parents(talk.ask())
    assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", told)
    assert told.split(b"-")[1] != also.split(b"-")[1]
    assert [span["parent"] for span in edge.runtime.offices.tracer.spans] == ["", ""]


def test_an_exchange_that_is_cut_has_its_span(edge):
    edge.runtime.offices.tracer.sample = 1.0
    client = edge.client()
    client.sendall(b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
    edge.read(edge.accept(), HEAD_END)
    client.close()
    edge.until(lambda: edge.runtime.offices.tracer.spans)
    assert [(span["status"], span["end"]) for span in edge.runtime.offices.tracer.spans] == [(499, "client-gone")]


@pytest.mark.parametrize(("method", "name"), [("resources/read", "x:" + "a" * 100_000), ("b" * 100_000, None)])
def test_what_a_client_names_is_cut(proxy, tmp_path, method, name):
    top = f'state_dir = "{tmp_path}"\notel = {{ endpoint = "http://127.0.0.1:1/v1/traces", sample = 1 }}\naudit = {{ file = "{tmp_path}/audit.log" }}'
    edge = proxy("", top=top, route="audit = true")
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method} | ({"params": {"uri": name}} if name else {})).encode()
    client = edge.client()
    client.sendall(b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    server = edge.accept()
    edge.read(server, body[-3:])
    server.sendall(ANSWER)
    edge.read(client, b"ok")
    ((told, named),) = edge.runtime.offices.tracer.spans[0]["calls"]
    assert (told, named) == (method[:256], name and name[:256])


def test_what_nobody_takes_is_dropped_and_counted(edge, monkeypatch):
    monkeypatch.setattr(tracing, "WAITING", 2)
    tracer, talk = edge.runtime.offices.tracer, Talk(edge)
    tracer.sample = 1.0
    for _ in range(5):
        talk.ask()
    assert (len(tracer.spans), tracer.dropped) == (2, 3)


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"rm"}}'
RULES = 'tools = { allow = [{ tools = ["add"] }] }'
REFUSALS = {
    "address-denied": ('deny_from = "127.0.0.0/8"', b"{}"),
    "call-not-allowed": (RULES, CALL),
    "body-too-large": ('max_body = "1KiB"', b"x" * 1025),
    "rate": ('rate = "1/h burst 1"', b"{}"),
}


@pytest.mark.parametrize("h2", [False, True])
@pytest.mark.parametrize("kind", REFUSALS)
def test_what_is_refused_has_one_span_with_the_reason(proxy, kind, h2):
    route, body = REFUSALS[kind]
    edge = proxy("", top='otel = { endpoint = "http://127.0.0.1:1/v1/traces", sample = 0 }', route=route)
    tracer = edge.runtime.offices.tracer
    if kind == "rate":
        spent(edge)
    tracer.spans.clear()
    for number in range(1, 4):  # judged, and as often as it takes to be remembered
        refused(edge, body, b"traceparent: " + SAMPLED, h2=h2)
        assert len(tracer.spans) == number
        span = tracer.spans[-1]
        assert (span["trace"], span["parent"], span["end"]) == (TRACE.decode(), SPAN.decode(), "refused")
        assert kind in span["reason"]
        assert span["status"] in (403, 413, 429)
    refused(edge, body, b"traceparent: " + NOT, h2=h2)
    assert len(tracer.spans) == 3


def spent(edge):
    """What the limit allows."""
    client, link = edge.client(), None
    for _ in range(2):
        client.sendall(b"POST /x HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}")
        link = link or edge.accept()
        edge.read(link, b"{}")
        link.sendall(ANSWER)
        edge.read(client, b"ok")


def refused(edge, body, field, *, h2):
    """A POST that is answered by us."""
    if h2:
        client = H2Client(edge)
        stream = client.open({"traceparent": field.partition(b": ")[2].decode()}, body)
        client.until(lambda: stream in client.ends)
        return
    client = edge.client()
    client.sendall(b"POST /x HTTP/1.1\r\nHost: a.test\r\n%b\r\nContent-Length: %d\r\n\r\n" % (field, len(body)) + body)
    edge.read(client, b"}\n")


def test_without_it_there_is_no_guard(proxy):
    edge = proxy("")
    assert edge.runtime.offices.tracer is None
    assert edge.runtime.fronts[0].judge.routes[0].admission is None
