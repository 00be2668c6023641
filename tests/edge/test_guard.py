"""What is asked every time: in which order, what is gathered for it, and what is left behind when a request is over or waits."""

import asyncio
import json

import pytest

from mcpproxy.edge import gathering as gathering_module
from mcpproxy.edge.downstream import Downstream
from mcpproxy.edge.exchange import ASIDE
from mcpproxy.edge.guard import ASKED, Guard
from mcpproxy.policy.exempt import Exemption
from mcpproxy.policy.verdict import Accepted, Ask, Principal, Question, Refused
from tests.edge.conftest import HEAD_END
from tests.edge.h2client import H2Client
from tests.support.speakers import MODERN, call
from tests.support.toml import write_toml

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RULES = 'tools = { allow = [{ tools = ["add"] }] }'
KEY = "Authorization: Bearer some-token\r\n"


def post(body, extra="", length=None):
    return f"POST /mcp HTTP/1.1\r\nHost: a\r\n{extra}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def read_answer(edge, client):
    """As `answered`, for one that comes in one read."""
    got = edge.read(client, b"\n")
    head, _, body = got.partition(HEAD_END)
    return int(head.split(b" ")[1]), json.loads(body)


def guard_of(edge, request):
    """The guard behind this head."""
    head = request[: request.index(HEAD_END) + 4]
    return edge.runtime.fronts[0].shelves.anybody.plan_for(head).guard


class Oracle:
    """Knows callers after it was asked about them, and then as often as it is told."""

    name = "oracle"

    def __init__(self, *, knows=1, verdict=None):
        self.knows, self.left, self.asked = knows, 0, 0
        self.verdict = verdict or Accepted(Principal("anna", "oracle"))
        self.open = asyncio.Event()
        self.open.set()

    def judge(self, credential, now, payer):
        if self.left:
            self.left -= 1
            return self.verdict
        return Ask(Question("who", self.ask))

    async def ask(self):
        self.asked += 1
        await self.open.wait()
        self.left = self.knows


@pytest.fixture
def asked(proxy, tmp_path):
    """`asked(oracle)`: a proxy whose callers only the oracle knows."""

    def make(oracle, **more):
        (tmp_path / "keys.jsonl").write_bytes(b"")
        (tmp_path / "keys.jsonl").chmod(0o600)
        top = write_toml({"auth": {"k": {"type": "api-key", "file": str(tmp_path / "keys.jsonl")}}})
        edge = proxy(top=top, route='auth = "k"\n' + more.pop("route", ""), **more)
        edge.runtime.fronts[0].judge.routes[0].admission.authenticators = (oracle,)
        return edge

    return make


# -- what is looked at ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "looks"),
    [
        (RULES, True),
        ('tools = { allow = [{ methods = "*" }] }', False),
        ('tools = { allow = [{ tools = ["add"] }], trust_headers = true }', True),
        ("tools = { allow = [{}], read_only = true }", True),
        ('rate = "1/s"', False),
    ],
)
def test_a_body_is_gathered_only_where_something_depends_on_it(proxy, route, looks):
    assert guard_of(proxy(route=route), post(b"{}")).reads is looks


def test_a_head_that_is_believed_spares_the_look(proxy):
    edge = proxy(route='tools = { allow = [{ tools = ["add"] }], trust_headers = true }')
    modern = f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\n"
    assert guard_of(edge, post(b"{}", modern)).peek == 0
    assert guard_of(edge, post(b"{}", modern.replace("Mcp-Name: add\r\n", ""))).peek
    assert guard_of(edge, post(b"{}", modern.replace(MODERN, "2025-11-25"))).peek


def test_what_has_no_body_is_not_waited_for(proxy):
    edge = proxy(route=RULES)
    assert guard_of(edge, b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n").peek == 0
    assert guard_of(edge, b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").peek  # a template serves other lengths, too


def test_rules_that_only_watch_refuse_no_body(proxy):
    shadow = 'tools = { allow = [{ tools = ["add"] }], shadow = true }'
    assert guard_of(proxy(route=RULES), post(b"{}")).names_calls
    assert not guard_of(proxy(route=shadow), post(b"{}")).names_calls


def test_a_claim_is_looked_at_only_where_something_is_counted(proxy):
    claim = f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: server/discover\r\n"
    guard = guard_of(proxy(route='rate = "1/s"'), post(b"{}", claim))
    assert (guard.exemption, bool(guard.peek), guard.names_calls) == (Exemption.IF_BODY_SAYS, True, True)


# -- while the body comes ----------------------------------------------------------------------------------------------------------------------


def test_nobody_is_called_before_the_body_is_whole(proxy):
    edge = proxy(route=RULES)
    client, body = edge.client(), call("add")
    client.sendall(post(body)[:-5])
    assert edge.no_more_connections()
    client.sendall(body[-5:])
    server = edge.accept()
    assert edge.read(server, body).endswith(body)
    server.sendall(OK)
    edge.read(client, b"ok")
    assert [(200, "done")] == [(line["status"], line["end"]) for line in edge.lines(1)]


def test_a_body_whose_length_is_too_much_is_not_waited_for(proxy):
    edge = proxy(route='tools = { allow = [{ tools = ["add"] }], peek = "1KiB" }')
    client = edge.client()
    client.sendall(post(b"", length=1025))
    status, told = read_answer(edge, client)
    assert (status, told["error"]["data"]["reason"]) == (413, "body-too-large-to-judge")


# -- what nobody must judge ---------------------------------------------------------------------------------------------------------------------

WATCHED = 'tools = { allow = [{ tools = ["add"] }], shadow = true, peek = "1KiB" }'
LARGE = b"x" * 5000


def pieces_of(body, how):
    """A request with this body: known to be too large by its head, or found out as it comes."""
    if how == "sized":
        return [post(b"", length=len(body)), *[body[at : at + 500] for at in range(0, len(body), 500)]]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[at : at + 500] for at in range(0, len(body), 500))]
    return [b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]


@pytest.mark.parametrize("how", ["sized", "chunked"])
def test_a_body_that_nobody_must_judge_goes_on_as_it_comes(proxy, how):
    edge = proxy(route=WATCHED)
    client = edge.client()
    wire = pieces_of(LARGE, how)
    for piece in wire[:5]:
        client.sendall(piece)
        edge.steps.for_a_while(0.005)
    server = edge.accept()
    got = edge.read(server, 2000 if how == "sized" else wire[4])
    for piece in wire[5:]:
        client.sendall(piece)
        edge.steps.for_a_while(0.005)
    got += edge.read(server, wire[-1])
    assert b"".join(wire[1:]) in got
    server.sendall(OK)
    edge.read(client, b"ok")
    assert [(200, "done")] == [(line["status"], line["end"]) for line in edge.lines(1)]
    assert edge.runtime.fronts[0].gathering.size == 0 == edge.pool.in_use


def test_where_there_is_no_room_to_gather_what_nobody_must_judge_goes_on(proxy, monkeypatch):
    monkeypatch.setattr(gathering_module, "GATHERED", 600)
    edge = proxy(route=WATCHED)
    other, client = edge.client(), edge.client()
    other.sendall(post(b"x" * 500, length=1000))
    edge.until(lambda: edge.runtime.fronts[0].gathering.size)
    client.sendall(post(b"x" * 500, length=1000))
    server = edge.accept()
    edge.read(server, b"x" * 500)
    client.sendall(b"y" * 500)
    edge.read(server, b"y" * 500)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_call_that_its_head_names_is_judged_by_it_where_the_body_is_too_large(proxy, trusted, tmp_path):
    top = write_toml({"state_dir": str(tmp_path / "state"), "audit": {"file": str(tmp_path / "audit.log")}})
    edge = proxy(route=f'tools = {{ allow = [{{ tools = ["add"] }}], trust_headers = {str(trusted).lower()}, peek = "1KiB" }}', top=top)
    for name, status in (("rm", 403 if trusted else 413), ("add", 200 if trusted else 413)):
        client = edge.client()
        modern = f"MCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: {name}\r\n"
        client.sendall(post(LARGE, modern))
        if status == 200:
            server = edge.accept()
            edge.read(server, LARGE)
            server.sendall(OK)
            edge.read(client, b"ok")
        else:
            assert read_answer(edge, client)[0] == status


# -- batches ------------------------------------------------------------------------------------------------------------------------------------

LIMITED = 'rate = "1/h burst 5"'
BATCH = b"[" + b",".join(call("add", number) for number in range(4)) + b"]"


@pytest.mark.parametrize("spelled", ["", " \r\n", "pieces", "chunked", "late"])
@pytest.mark.parametrize("route", [LIMITED, LIMITED + '\ntools = { allow = [{ methods = "*" }] }'], ids=["", "rules that allow everything"])
def test_each_call_of_a_batch_counts(proxy, route, spelled):
    edge = proxy(route=route)
    client, server = edge.client(), None
    body = spelled.encode() + BATCH if not spelled.isalpha() else BATCH
    wire = {"pieces": [post(body)[:-100], body[-100:]], "chunked": pieces_of(body, "chunked"), "late": [post(b"", length=len(body)), body]}
    for status in (200, 429):
        for piece in wire.get(spelled, [post(body)]):
            client.sendall(piece)
            edge.steps.for_a_while(0.005)
        if status == 200:
            server = server or edge.accept()
            edge.read(server, b"0\r\n\r\n" if spelled == "chunked" else BATCH[-20:])
            server.sendall(OK)
            edge.read(client, b"ok")
        else:
            status, told = read_answer(edge, client)
            assert (status, [each["id"] for each in told]) == (429, [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[" + b",".join([call()] * 1000) + b"]", "batch-too-large", 400),
        (BATCH.decode().encode("utf-16"), "bad-json", 400),
        (BATCH.decode().encode("utf-16-be"), "bad-json", 400),
        (b"\xef\xbb\xbf" + BATCH, "bad-json", 400),
        (b" " * 300, "bad-json", 400),
        (b"[" + b" " * (1 << 20), "body-too-large-to-judge", 413),
    ],
)
def test_what_may_be_a_batch_and_cannot_be_counted_is_refused(proxy, body, kind, status):
    edge = proxy(route='rate = "1000/s burst 5000"')
    client = edge.client()
    for at in range(0, len(body), 30_000):
        client.sendall((post(b"", length=len(body)) if not at else b"") + body[at : at + 30_000])
        edge.steps.for_a_while(0.002)
    found, told = read_answer(edge, client)
    assert (found, told["error"]["data"]["reason"]) == (status, kind)


@pytest.mark.parametrize("start", [b"{", b"-", b"\xff\xd8\xff", b"\n{", b"\xff\xfe{\0"])
def test_what_is_no_batch_is_not_gathered_for_a_limit(proxy, start):
    edge = proxy(route=LIMITED)
    client = edge.client()
    client.sendall(post(b"", length=5000))
    edge.steps.for_a_while(0.005)
    client.sendall(start)
    server = edge.accept()
    edge.read(server, start)
    client.sendall(b"x" * (5000 - len(start)))
    edge.read(server, 5000 - len(start))
    server.sendall(OK)
    edge.read(client, b"ok")


def test_a_batch_on_a_stream_counts_too(proxy):
    edge = proxy(route=LIMITED)
    client, server = H2Client(edge), None
    for status in (b"200", b"429"):
        stream = client.open({"content-length": str(len(BATCH))}, BATCH)
        if status == b"200":
            server = edge.accept()
            edge.read(server, BATCH)
            server.sendall(OK)
        client.until(lambda stream=stream: stream in client.ends)
        assert client.heads[stream][0][b":status"] == status


def test_a_stop_while_a_body_comes_has_its_line(proxy):
    edge = proxy(route=RULES)
    client = edge.client()
    client.sendall(post(b"{", length=100))
    edge.until(lambda: any(link.exchange.gathered for link in edge.runtime.links))
    for link in tuple(edge.runtime.links):
        link.end_now()
    assert [("stopped", 499)] == [(line["end"], line["status"]) for line in edge.lines(1)]


def test_our_100_to_a_client_that_is_gone_is_its_end(proxy, monkeypatch):
    edge = proxy(route=RULES)
    client = edge.client()

    def gone(self, head):
        raise ConnectionResetError

    monkeypatch.setattr(Downstream, "inform", gone)
    client.sendall(post(b"", "Expect: 100-continue\r\n", length=100))
    assert [("client-gone", 499)] == [(line["end"], line["status"]) for line in edge.lines(1)]
    assert not edge.runtime.links


def test_a_call_that_is_too_much_is_read_as_far_as_its_id(proxy):
    edge = proxy(route='rate = "1/h"')
    client = edge.client()
    client.sendall(post(call("add", 1)))
    server = edge.accept()
    edge.read(server, call("add", 1))
    server.sendall(OK)
    edge.read(client, b"ok")
    body = call("add", "late")
    client.sendall(post(b"", length=len(body)))
    edge.until(lambda: any(link.exchange.gathered is not None for link in edge.runtime.links))
    client.sendall(body)
    status, told = read_answer(edge, client)
    assert (status, told["id"]) == (429, "late")
    client.sendall(post(b"{", length=ASIDE + 1))  # nobody reads so much to say no
    status, told = read_answer(edge, client)
    assert (status, told["id"]) == (429, None)


def test_a_refusal_names_no_server_of_an_earlier_request(proxy):
    edge = proxy(route=RULES)
    client = edge.client()
    client.sendall(post(call("add")))
    server = edge.accept()
    edge.read(server, call("add"))
    server.sendall(OK)
    edge.read(client, b"ok")
    client.sendall(post(call("rm")))
    assert read_answer(edge, client)[0] == 403
    served, refused = edge.lines(2)
    assert (served["upstream"] is None, refused["upstream"], refused["reused"]) == (False, None, False)


@pytest.mark.parametrize("tls", [False, True])
def test_unfinished_bodies_hold_no_more_than_so_much_together(proxy, monkeypatch, certificate, tls):
    monkeypatch.setattr(gathering_module, "GATHERED", 5000)
    edge = proxy(route=RULES, tls=tls)
    gathering = edge.runtime.fronts[0].gathering

    def client():
        return edge.tls_client(certificate.client()) if tls else edge.client()

    held = [client() for _ in range(4)]
    for one in held:
        one.sendall(post(b"x" * 1000, length=1100))
    edge.until(lambda: gathering.size == 4000)
    late = client()
    late.sendall(post(b"x" * 2000, length=2100))
    status, told = read_answer(edge, late)
    assert (status, told["error"]["data"]["reason"]) == (503, "too-much-to-judge")
    assert gathering.size == 4000
    whole = client()
    whole.sendall(post(call("rm")))  # nothing to wait for
    assert read_answer(edge, whole)[0] == 403
    held[0].sendall(b"x" * 100)
    assert read_answer(edge, held[0])[0] == 400
    edge.reset(held[1])
    edge.until(lambda: gathering.size == 2000)
    large = client()
    large.sendall(post(call("rm", 1, {"x": "y" * 2500})))
    assert read_answer(edge, large)[0] == 403
    edge.later(100)
    edge.until(lambda: gathering.size == 0)


def test_a_large_body_that_the_server_has_is_not_kept(proxy):
    edge = proxy(route=RULES)
    client, body = edge.client(), call("add", 1, {"x": "y" * 100_000})
    sent = 0
    wire = post(body)
    while sent < len(wire):
        sent += client.send(wire[sent : sent + 30_000])
        edge.steps.for_a_while(0.005)
    server = edge.accept()
    assert edge.read(server, body).endswith(body)
    exchanges = [link.exchange for link in edge.runtime.links]
    assert [(each.rest, each.gathered) for each in exchanges] == [(None, None)]
    server.sendall(OK)
    edge.read(client, b"ok")


# -- questions --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["", RULES, 'rate = "1000/s burst 1000"'])
def test_a_connection_may_ask_again_and_again(asked, route):
    """The bound is for one request."""
    oracle = Oracle()
    edge = asked(oracle, route=route)
    client, server, body = edge.client(), None, call("add")
    for _ in range(ASKED * 3):
        edge.runtime.offices.forget()
        client.sendall(post(body, KEY))
        server = server or edge.accept()
        edge.read(server, body)
        server.sendall(OK)
        edge.read(client, b"ok")
    assert oracle.asked == ASKED * 3


def test_an_issuer_that_never_gets_to_the_point_is_asked_so_often_and_no_more(asked):
    oracle = Oracle(knows=0)
    edge = asked(oracle)
    client = edge.client()
    client.sendall(post(b"{}", KEY))
    status, told = read_answer(edge, client)
    assert (status, told["error"]["data"]["reason"], oracle.asked) == (503, "no-answer-to-a-question", ASKED)


def test_a_client_that_leaves_as_the_answer_comes_is_not_served(asked):
    oracle = Oracle(knows=5)
    oracle.open.clear()
    edge = asked(oracle, route=RULES)
    client = edge.client()
    client.sendall(post(call("add"), KEY))
    edge.until(lambda: oracle.asked)
    oracle.open.set()
    for link in tuple(edge.runtime.links):
        edge.steps.loop.call_soon(link.lost, ConnectionResetError())
    assert edge.no_more_connections()
    assert [("client-gone", 499)] == [(line["end"], line["status"]) for line in edge.lines(1)]
    assert edge.pool.in_use == 0


def test_the_body_that_came_meanwhile_is_judged(asked):
    oracle = Oracle()
    oracle.open.clear()
    edge = asked(oracle, route=RULES)
    client, body = edge.client(), call("rm", "m")
    client.sendall(post(body)[:-30].replace(b"Host: a\r\n", b"Host: a\r\n" + KEY.encode()))
    edge.until(lambda: oracle.asked)
    client.sendall(body[-30:])
    edge.steps.for_a_while(0.01)
    oracle.open.set()
    status, told = read_answer(edge, client)
    assert (status, told["id"], told["error"]["data"]["reason"]) == (403, "m", "call-not-allowed")


def test_who_is_refused_after_all_is_told_so(asked):
    edge = asked(Oracle(knows=5, verdict=Refused("token-inactive")))
    client = edge.client()
    client.sendall(post(call("add"), KEY))
    status, told = read_answer(edge, client)
    assert (status, told["error"]["data"]["reason"]) == (401, "token-inactive")


def test_who_is_known_for_no_time_is_known_for_this_request(asked):
    oracle = Oracle(knows=2, verdict=Accepted(Principal("anna", "oracle"), 0.0))
    edge = asked(oracle)
    client = edge.client()
    client.sendall(post(b"{}", KEY))
    server = edge.accept()
    edge.read(server, b"{}")
    assert oracle.asked == 1


# -- over HTTP/2 ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [RULES, ""], ids=["rules", ""])
@pytest.mark.parametrize("when", ["whole", "in pieces", "after the answer", "without an end of its own"])
def test_a_streams_body_waits_for_the_answer_and_goes_on(asked, when, rules):
    oracle = Oracle(knows=2)
    oracle.open.clear()
    edge = asked(oracle, route=rules)
    client, body = H2Client(edge), call("add", 1, {"x": "y" * 12_000})
    shown = {"authorization": "Bearer some-token", "content-length": str(len(body))}
    stream = client.open(shown, body if when == "whole" else body[:4_000], ended=when == "whole")
    edge.until(lambda: client.pump() and oracle.asked)
    if when == "in pieces":
        client.send(stream, body[4_000:], ended=True)
        edge.steps.for_a_while(0.01)
    oracle.open.set()
    if when == "after the answer":
        edge.steps.for_a_while(0.01)
    if when in ("after the answer", "without an end of its own"):
        client.send(stream, body[4_000:], ended=when == "after the answer")
        if when != "after the answer":
            edge.steps.for_a_while(0.01)
            client.send(stream, b"", ended=True)
    server = edge.accept()
    assert edge.read(server, body).endswith(body)
    server.sendall(OK)
    client.until(lambda: stream in client.ends)
    assert client.bodies[stream] == b"ok"
    assert edge.pool.in_use == 0


@pytest.mark.parametrize("ended", [True, False])
def test_a_stream_that_is_reset_while_somebody_is_asked_is_over(asked, ended):
    oracle = Oracle(knows=5)
    oracle.open.clear()
    edge = asked(oracle, route=RULES)
    client = H2Client(edge)
    stream = client.open({"authorization": "Bearer some-token"}, call("add")[: None if ended else 10], ended=ended)
    edge.until(lambda: client.pump() and oracle.asked)
    client.reset(stream)
    assert [("client-gone", 499)] == [(line["end"], line["status"]) for line in edge.lines(1)]
    oracle.open.set()
    assert edge.no_more_connections()
    again = client.open({"authorization": "Bearer some-token"}, call("rm"))
    client.until(lambda: again in client.ends)
    assert client.heads[again][0][b":status"] == b"403"


def test_a_known_head_over_http_2_asks_its_guard_every_time(proxy):
    edge = proxy(route=RULES)
    client = H2Client(edge)
    for _ in range(6):
        body = call("rm")
        stream = client.open({"content-length": str(len(body))}, body)
        client.until(lambda stream=stream: stream in client.ends)
        assert client.heads[stream][0][b":status"] == b"403"
    assert edge.no_more_connections()


def test_an_unexpected_exception_behind_an_answer_ends_the_connection(asked, steps, monkeypatch):
    """The judgement that is made once the caller is known: nobody waits for it a day long."""
    oracle = Oracle(knows=5)
    edge = asked(oracle, route=RULES)
    client = edge.client()

    def raises(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Guard, "_judge_anew", raises)
    client.sendall(post(call("add"), KEY))
    assert edge.end(client)[0] == b""
    assert [(line["end"], line["status"]) for line in edge.lines(1)] == [("failed", 500)]
    assert steps.trouble
    steps.trouble.clear()
