"""What is told when an exchange is over: places, outcomes, credentials that were refused, and one entry for the audit log."""

import asyncio
import json

import pytest

from mcpproxy.errors import ProxyError, Side
from mcpproxy.observe.audit import AuditLog
from mcpproxy.policy.verdict import Ask, Question
from tests.edge.conftest import HEAD_END
from tests.support.speakers import call
from tests.support.toml import write_toml

RULES = 'tools = { allow = [{ tools = ["add"] }] }'
LISTED = b'{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"add","annotations":{"readOnlyHint":true}}]}}'
READ_ONLY = "tools = { allow = [{}], read_only = true }"
ONE = "[limit.one]\nconcurrent = 1"


def post(body, extra=""):
    return f"POST /mcp HTTP/1.1\r\nHost: a\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def reply(body, extra=b""):
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


def ask(edge, client, body, extra=""):
    """An answer of the proxy's own."""
    client.sendall(post(body, extra))
    head, _, rest = edge.read(client, b"\n").partition(HEAD_END)
    return int(head.split(b" ")[1]), json.loads(rest)


@pytest.fixture
def audited(proxy, tmp_path, monkeypatch):
    """A proxy, and the entries that its audit log was given."""
    entries = []
    monkeypatch.setattr(AuditLog, "add", lambda log, entry: entries.append(entry))

    def make(route=RULES, top=""):
        settings = write_toml({"state_dir": str(tmp_path / "state"), "audit": {"file": str(tmp_path / "audit.log")}})
        edge = proxy(route=route, top=settings + top)
        edge.entries = entries
        return edge

    return make


def test_an_exchange_has_one_only_where_there_is_something_to_tell(proxy):
    edge = proxy(route='rate = "100/s"')
    client = edge.client()
    client.sendall(post(b"{}"))
    server = edge.accept()
    edge.read(server, b"{}")
    (link,) = edge.runtime.links
    assert link.exchange.ledger is None


def test_one_entry_for_a_whole_answer(audited):
    edge = audited()
    client = edge.client()
    client.sendall(post(call("add"), "X-Request-Id: r1\r\nMcp-Session-Id: s\r\n"))
    server = edge.accept()
    edge.read(server, call("add"))
    server.sendall(reply(LISTED))
    got = edge.read(client, LISTED)
    (entry,) = edge.entries
    (line,) = edge.lines(1)
    assert (entry.request_id, entry.status, entry.verdict, entry.outcome.kind) == (b"r1", 200, "allowed", "ok")
    assert (entry.bytes_in, entry.bytes_out) == (line["bytes_in"], line["bytes_out"]) == (line["bytes_in"], len(got))
    assert b'"session":' in entry.where
    assert b'"s"' not in entry.where


def test_the_next_request_of_the_connection_begins_anew(audited):
    edge = audited()
    client = edge.client()
    assert ask(edge, client, call("rm"))[0] == 403
    client.sendall(post(call("add")))
    server = edge.accept()
    edge.read(server, call("add"))
    server.sendall(reply(b"{}"))
    edge.read(client, b"{}")
    client.sendall(b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n")  # calls nothing
    edge.read(server)
    server.sendall(reply(b"ok"))
    edge.read(client, b"ok")
    assert [("denied", 403, "call-not-allowed"), ("allowed", 200, "")] == [
        (each.verdict, each.status, each.reason) for each in edge.entries
    ]
    assert edge.entries[0].outcome is None


@pytest.mark.parametrize(
    ("body", "reason", "calls"),
    [(b"no json", "bad-json", 0), (call("add").replace(b'"name"', b'"Name":"x","name"'), "ambiguous-call", 0)],
)
def test_what_could_not_be_read_is_an_entry_too(audited, body, reason, calls):
    edge = audited()
    assert ask(edge, edge.client(), body)[0] == 400
    (entry,) = edge.entries
    assert (entry.verdict, entry.reason, len(entry.calls)) == ("denied", reason, calls)


def test_a_call_whose_arguments_can_be_read_in_two_ways_was_not_allowed(audited):
    edge = audited(route='tools = { allow = [{ tools = ["add"], args = { a = { equals = 1 } } }] }')
    twice = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":1,"a":2}}}'
    assert ask(edge, edge.client(), twice)[0] == 400
    (entry,) = edge.entries
    assert (entry.verdict, entry.reason, entry.calls[0].name) == ("denied", "ambiguous-call", "add")


def test_what_a_limit_refused_says_which(audited):
    edge = audited(route='limits = "one"\n' + RULES, top=ONE)
    first, second = edge.client(), edge.client()
    first.sendall(post(call("add")))
    edge.read(edge.accept(), call("add"))
    assert ask(edge, second, call("add"))[0] == 429
    (entry,) = edge.entries
    assert (entry.verdict, entry.rule, entry.reason, entry.status) == ("denied", "limits one/concurrent", "too-many-at-once", 429)


def test_each_answer_of_a_batch_is_kept(audited):
    edge = audited()
    client, body = edge.client(), b"[%b,%b]" % (call("add", 1), call("add", "b"))
    client.sendall(post(body))
    server = edge.accept()
    edge.read(server, body)
    answers = b'[{"jsonrpc":"2.0","id":"b","result":{"isError":true}},{"jsonrpc":"2.0","id":1,"result":{}}]'
    server.sendall(reply(answers))
    edge.read(client, answers)
    (entry,) = edge.entries
    assert [(b'"b"', "tool-error"), (b"1", "ok")] == [(id, outcome.kind) for id, outcome in entry.answers]


def test_a_trace_is_told_also_where_one_plan_serves_many(audited):
    edge = audited()
    client, server = edge.client(), None
    traces = [f"{number:032x}" for number in range(1, 6)]
    for trace in traces:
        client.sendall(post(call("add"), f"Traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n"))
        server = server or edge.accept()
        edge.read(server, call("add"))
        server.sendall(reply(b"{}"))
        edge.read(client, b"{}")
    assert traces == [entry.trace.decode() for entry in edge.entries]


@pytest.mark.parametrize("end", ["done", "client", "server"])
def test_a_place_is_given_back_at_every_end(proxy, end):
    edge = proxy(route='limits = "one"', top=ONE)
    for _ in range(3):
        client = edge.client()
        client.sendall(post(b"{}"))
        server = edge.accept()
        edge.read(server, b"{}")
        assert ask(edge, edge.client(), b"{}")[0] == 429
        if end == "done":
            server.sendall(reply(b"ok", b"Connection: close\r\n"))
            edge.read(client, b"ok")
        elif end == "client":
            edge.reset(client)
        else:
            edge.reset(server)
        edge.until(lambda: not edge.pool.in_use)


def test_lists_that_pass_teach_what_changes_nothing(proxy):
    edge = proxy(route=READ_ONLY)
    client = edge.client()
    assert ask(edge, client, call("add"))[1]["error"]["data"]["reason"] == "tool-not-listed"
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    client.sendall(post(body))
    server = edge.accept()
    edge.read(server, body)
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    event = b"data: " + LISTED + b"\n\n"
    server.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event))
    edge.read(client, b"0\r\n\r\n")
    client.sendall(post(call("add")))
    assert edge.read(server, call("add"))


# -- our credential ---------------------------------------------------------------------------------------------------------------------------


class Purse:
    """Stands for policy/outbound: shows what it is told to show."""

    needs_body = False

    def __init__(self, *shows):
        self.shows, self.refused = list(shows), 0

    def lines(self, principal, credentials, now, request):
        return self.shows.pop(0)

    def rejected(self, principal, credentials, now):
        self.refused += 1


def with_purse(edge, purse):
    edge.runtime.fronts[0].judge.routes[0].admission.outbound = purse
    return edge


def test_a_credential_that_the_server_refused_is_told_of(proxy):
    purse = Purse(b"Authorization: Bearer one\r\n", b"Authorization: Bearer two\r\n", b"Authorization: Bearer two\r\n")
    edge = with_purse(proxy(route='limits = "one"', top=ONE), purse)
    client = edge.client()
    server = None
    for status, token, refused in ((b"401 Unauthorized", b"one", 1), (b"200 OK", b"two", 1), (b"401 Unauthorized", b"two", 2)):
        client.sendall(post(b"{}"))
        server = server or edge.accept()
        assert b"\r\nAuthorization: Bearer %b\r\n\r\n{}" % token in edge.read(server, b"{}")
        server.sendall(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status)
        edge.read(client, b"ok")
        assert purse.refused == refused


@pytest.mark.parametrize("end", ["it cannot be had", "the client leaves"])
def test_a_place_is_given_back_when_our_credential_stays_away(proxy, end):
    never = asyncio.Event()

    async def ask():
        await never.wait()

    failed = ProxyError("upstream-credential-unavailable", Side.UPSTREAM, 502)
    shows = [failed, failed] if end == "it cannot be had" else [Ask(Question("token", ask)), failed]
    edge = with_purse(proxy(route='limits = "one"', top=ONE), Purse(*shows))
    client = edge.client()
    if end == "the client leaves":
        client.sendall(post(b"{}"))
        edge.until(lambda: any(link.exchange.waiting for link in edge.runtime.links))
        assert ask_again(edge) == "too-many-at-once"
        edge.reset(client)
        edge.lines(2)
    else:
        assert ask_again(edge) == "upstream-credential-unavailable"
    assert ask_again(edge) == "upstream-credential-unavailable"
    never.set()
    edge.steps.for_a_while(0.01)
    assert edge.no_more_connections()


def ask_again(edge):
    return ask(edge, edge.client(), b"{}")[1]["error"]["data"]["reason"]
