"""How often, on the wire: what is counted for whom, what a refusal looks like, and that a place is given back however its exchange ended."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.conftest import Guarded, Run
from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.h2 import Call
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.speakers import MODERN, SPOKEN, Speaker, call, listener
from tests.support.upstream import Link, Script, ScriptedUpstream, answer, response
from tests.support.waiting import until

SLOW = "1/h"  # nothing comes back while a test runs


def limited(*names: str, **limits: Any) -> dict[str, Any]:
    """Changes of a configuration whose route has these limits."""
    return {"tools": None, "route": {"limits": list(names or limits)}, "limit": limits}


@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_is_too_much_is_told_in_full(spoken: str, guarded: Guarded) -> None:
    """With the id, when to come again, and in the draft's words."""
    speaker, upstream = guarded(spoken, **limited(calls={"rate": "1/h burst 3"}))
    for _ in range(4):
        assert speaker.ask(call("add", 0)).status == 200
    for id in (0, "x"):
        found = speaker.ask(call("add", id))
        assert (found.status, found.reason, found.json["id"], found.error["code"]) == (429, "rate-limited", id, 429)
        wait = int(found.first("retry-after") or b"0")
        assert 3500 < wait <= 3600
        assert str(wait) in found.error["message"]
        assert found.first("ratelimit-policy") == b'"calls/rate";q=1;w=3600'
        assert (found.first("ratelimit") or b"").startswith(b'"calls/rate";r=0;t=')
    assert speaker.ask(call("add", "c"), sized=False).json["id"] in ("c", None)  # of an unknown length: as far as it is here
    batch = b"[%b,%b]" % (call("add", 1), call("add", 2))
    assert [each["id"] for each in speaker.ask(batch).json] == [1, 2]
    assert len(upstream.requests()) == 4
    told = speaker.daemon.wait_records(4, status=429)
    assert {(each["reason"], each["end"], each["upstream"], each["reused"]) for each in told} == {("rate-limited", "refused", None, False)}


@pytest.mark.parametrize("tool", ["add", "x" * 30_000])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_refused_call_whose_body_comes_a_little_later_is_named_as_well(spoken: str, tool: str, guarded: Guarded) -> None:
    """Many clients write head and body apart. Their connection goes on."""
    speaker, _ = guarded(spoken, tools=None, route={"rate": SLOW})
    body = call(tool, "late")
    assert speaker.ask(body).status == 200
    for _ in range(3):
        if speaker.is_h2:
            asked = speaker.connection_h2().call(body=b"", fields=[("content-length", str(len(body)))], ended=False)
            speaker.connection_h2().ping()
            asked.send(body, ended=True).wait()
            status, told = asked.status, json.loads(asked.body)
        else:
            client = speaker.connection_h1()
            client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            client.send(body[:10]).send(body[10:])
            found = client.response(b"POST")
            status, told = found.status, json.loads(found.body)
            assert found.first("connection") is None
        assert (status, told["id"]) == (429, "late")


def test_what_is_put_on_every_answer_is_on_this_one_too(guarded: Guarded) -> None:
    route = {"rate": SLOW, "allow_origins": ["https://app.example.com"], "cors": True, "security_headers": True}
    speaker, _ = guarded("tls", tools=None, route=route)
    for status in (200, 429):
        found = speaker.ask(call(), [("origin", "https://app.example.com")])
        assert found.status == status
        assert found.first("access-control-allow-origin") == b"https://app.example.com"
        assert found.first("x-content-type-options") == b"nosniff"
        assert found.first("strict-transport-security")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_without_a_body_is_counted_too(method: str, guarded: Guarded) -> None:
    speaker, _ = guarded("plain", tools=None, route={"rate": SLOW})
    assert speaker.ask(None, method=method).status == 200
    found = speaker.ask(None, method=method)
    assert found.status == 429
    assert found.first("retry-after")


@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_is_exempt_is_not_counted_and_counts_nothing(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken, tools=None, route={"rate": SLOW})
    discover = b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}'
    claim = [("mcp-protocol-version", MODERN), ("mcp-method", "server/discover")]

    def exempt() -> list[int]:
        return [
            speaker.ask(discover, claim).status,
            speaker.ask(discover, claim, sized=False).status,
            speaker.ask(None, method="DELETE").status,
            speaker.ask(None, method="GET", path="/.well-known/oauth-authorization-server").status,
        ]

    assert exempt() == [200] * 4
    assert speaker.ask(call()).status == 200
    assert speaker.ask(call()).status == 429
    for _ in range(3):
        assert exempt() == [200] * 4
    before = len(upstream.requests())
    assert speaker.ask(discover).status == 429  # no claim
    assert speaker.ask(call(), claim).status == 400  # another body
    assert speaker.ask(b"[%b,%b]" % (discover, call()), claim).status == 400
    padded = discover.replace(b'"id"', b'"params":{"x":"%b"},"id"' % (b"x" * 20_000))
    assert speaker.ask(padded, claim).status == 429
    assert len(upstream.requests()) == before


def test_each_tool_is_counted_apart_and_a_batch_message_by_message(guarded: Guarded) -> None:
    speaker, _ = guarded("plain", **limited(tools={"per": ["tool"], "rate": "1/h burst 2"}))
    for tool in ("add", "rm"):
        assert [speaker.ask(call(tool)).status for _ in range(4)] == [200, 200, 200, 429]
    assert speaker.ask(b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}').status == 200
    assert speaker.ask(b"[%b,%b]" % (call("new"), call("new"))).status == 200
    assert speaker.ask(b"[%b,%b]" % (call("new"), call("new"))).status == 429
    assert speaker.ask(call("new")).status == 200
    assert speaker.ask(b"no json").status == 400  # nobody knows what it calls


def test_quotas_of_a_day_count_down_and_say_until_when(guarded: Guarded) -> None:
    speaker, _ = guarded("plain", **limited(day={"daily": 2}))
    assert [speaker.ask(call()).status for _ in range(3)] == [200, 200, 429]
    found = speaker.ask(call())
    assert found.reason == "quota-used-up"
    assert 0 < int(found.first("retry-after") or b"0") <= 86_400


def test_all_limits_must_agree_and_what_one_refuses_costs_the_others_nothing(guarded: Guarded) -> None:
    limits = {"tools": {"per": ["principal", "tool"], "rate": "1/h burst 1"}, "all": {"per": [], "rate": "1/h burst 5"}}
    speaker, _ = guarded("plain", **limited(**limits))
    assert [speaker.ask(call("a")).status for _ in range(6)] == [200, 200, 429, 429, 429, 429]
    assert [speaker.ask(call("b")).status for _ in range(3)] == [200, 200, 429]
    assert [speaker.ask(call(name)).status for name in "cdef"] == [200, 200, 429, 429]


def test_addresses_are_counted_apart(run: Run) -> None:
    """IPv4 whole, IPv6 by its /64, as a trusted proxy tells them."""
    with ScriptedUpstream(answer()) as upstream:
        daemon = run(
            upstream.url,
            listen={"trusted_proxies": ["127.0.0.0/8"]},
            route={"limits": ["a"]},
            limit={"a": {"per": ["address"], "rate": SLOW}},
        )

        def ask(address: str) -> int:
            with daemon.client() as client:
                body = call()
                head = f"POST /mcp HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
                return client.exchange(head.encode() + body).status

        assert [ask("192.0.2.1"), ask("192.0.2.2"), ask("192.0.2.1")] == [200, 200, 429]
        assert [ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:0:1::1")] == [200, 429, 200]
        assert [ask("::ffff:192.0.2.1"), ask("2001:db8::1, 192.0.2.3")] == [429, 200]
        assert ask("192.0.2.2, 192.0.2.1") == 429  # the last one that nobody of ours added


@pytest.mark.parametrize("spoken", SPOKEN)
def test_callers_are_counted_apart_also_where_they_share_a_connection(spoken: str, guarded: Guarded, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    anna, bert = [("authorization", f"Bearer {keys.add('anna')}")], [("x-api-key", keys.add("bert"))]
    changes = limited(calls={"per": ["principal", "tool"], "rate": "1/h burst 1"}, places={"per": ["principal"], "concurrent": 5})
    changes["route"]["auth"] = ["keys"]
    speaker, _ = guarded(spoken, auth={"keys": keys.auth()}, **changes)
    for who in (anna, bert, anna, bert):
        assert speaker.ask(call("a"), who).status == 200
    for who in (anna, bert):
        assert speaker.ask(call("a"), who).status == 429
        assert speaker.ask(call("b"), who).status == 200
    assert speaker.ask(call("a")).status == 401
    assert {each["principal"] for each in speaker.daemon.wait_records(2, status=429)} == {"anna", "bert"}


# --- places


def stream_of(events: threading.Event) -> Script:
    """Answers with a stream that ends when the event is set, or the client goes."""

    def script(link: Link) -> None:
        while True:
            request = link.read_request()
            if b'"stream"' not in request.body:
                link.send(response(request.body))
                continue
            link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            link.send(b"7\r\ndata: 1\r\n")
            link.wait(events)
            link.send(b"2\r\n\n\n\r\n0\r\n\r\n")

    return script


ONE = limited(one={"concurrent": 1})
Asked = RawClient | Call


def begin(speaker: Speaker, body: bytes) -> Asked:
    """A request whose answer begins; it goes over a connection of its own, or a stream."""
    if speaker.is_h2:
        asked = speaker.connection_h2().call(body=body)
        asked.read_until(b"data: 1")
        return asked
    client = speaker.daemon.client(tls=speaker.certificate.client() if speaker.spoken == "tls" else None)
    client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    client.read_until(b"data: 1")
    return client


def leave(asked: Asked) -> None:
    """The client goes."""
    asked.close() if isinstance(asked, RawClient) else asked.cancel()


def free_again(speaker: Speaker, body: bytes | None = None) -> bool:
    """Is there a place? (It is given back when the daemon has noticed the end.)"""
    until(lambda: speaker.ask(body or call()).status != 429, "a place")
    return True


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_place_is_taken_while_a_stream_is_open(spoken: str, guarded: Guarded) -> None:
    done = threading.Event()
    speaker, _ = guarded(spoken, stream_of(done), **ONE)
    for _ in range(3):
        asked = begin(speaker, call("stream"))
        found = speaker.ask(call())
        assert (found.status, found.reason, found.first("retry-after")) == (429, "too-many-at-once", b"1")
        assert found.first("ratelimit-policy") == b'"one/concurrent";q=1;qu="concurrent-requests"'
        leave(asked)
        assert free_again(speaker)
    asked = begin(speaker, call("stream"))
    done.set()
    if isinstance(asked, Call):
        asked.wait()
    else:
        asked.read_until(b"0\r\n\r\n")
        asked.close()
    assert free_again(speaker)


def dies(link: Link) -> None:
    link.read_request()
    link.reset()


def cut(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    link.reset()


def broken(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")


def garbage(link: Link) -> None:
    link.read_request()
    link.send(b"SSH-2.0\r\n\r\n")


def no_body(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 204 No Content\r\n\r\n")


def refuses(link: Link) -> None:
    link.read_request()
    link.send(response(b"{}", status="401 Unauthorized"))


def interim(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response())


def until_close(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")


ENDS = [dies, cut, broken, garbage, no_body, refuses, interim, until_close]


@pytest.mark.parametrize("script", ENDS)
@pytest.mark.parametrize("spoken", ["plain", "tls", "h2"])
def test_a_place_is_given_back_however_the_server_ended_it(spoken: str, script: Script, guarded: Guarded) -> None:
    speaker, _ = guarded(spoken, script, answer(), **ONE)
    if speaker.is_h2:
        speaker.connection_h2().call(body=call()).wait()
    else:
        client = speaker.connection_h1()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(call()) + call())
        client.receive()
    speaker.close()
    assert free_again(speaker)
    assert [speaker.ask(call()).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_place_is_given_back_when_nobody_answers_the_dial(spoken: str, run: Run, certificate: Certificate) -> None:
    daemon = run(f"http://127.0.0.1:{free_port()}", listen=listener(spoken, certificate), route={"limits": ["one"]}, limit=ONE["limit"])
    with Speaker(daemon, spoken, certificate) as speaker:
        assert {speaker.ask(call()).reason for _ in range(5)} <= {"connect-refused", "upstream-down"}


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_place_is_given_back_while_the_queue_is_full(spoken: str, guarded: Guarded) -> None:
    done = threading.Event()
    changes = limited(two={"concurrent": 2})
    speaker, _ = guarded(spoken, stream_of(done), upstream={"max_connections": 1, "queue": 0}, **changes)
    asked = begin(speaker, call("stream"))
    for _ in range(4):
        assert speaker.ask(call()).reason == "queue-full"
    leave(asked)
    done.set()
    until(lambda: speaker.ask(call()).status == 200)


@pytest.mark.parametrize("spoken", ["h2c", "h2"])
def test_a_client_that_leaves_the_queue_gives_its_place_back(spoken: str, guarded: Guarded) -> None:
    done = threading.Event()
    changes = limited(two={"concurrent": 2})
    speaker, _ = guarded(spoken, stream_of(done), upstream={"max_connections": 1, "queue": 5}, **changes)
    asked = begin(speaker, call("stream"))
    for _ in range(3):
        waiting = speaker.connection_h2().call(body=call())
        speaker.connection_h2().ping()
        assert speaker.ask(call()).reason == "too-many-at-once"
        waiting.cancel()
    leave(asked)
    done.set()
    until(lambda: speaker.ask(call()).status == 200)


def test_a_tunnel_has_a_place_until_it_ends(guarded: Guarded) -> None:
    def tunnel(link: Link) -> None:
        request = link.read_request()
        if not request.all("upgrade"):
            link.send(response())
            return
        link.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        link.read_until_closed()

    speaker, _ = guarded("plain", tunnel, **ONE)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    for _ in range(2):
        client = speaker.daemon.client()
        client.send(b"GET /mcp HTTP/1.1\r\nHost: a\r\n%b\r\n" % upgrade)
        client.read_until(b"\r\n\r\n")
        assert speaker.ask(call()).status == 429
        client.close()
        assert free_again(speaker)


def test_an_answer_that_comes_before_the_body_was_sent_gives_the_place_back(guarded: Guarded) -> None:
    def early(link: Link) -> None:
        link.read_head()
        link.send(response(b"{}", status="413 Content Too Large"))

    speaker, _ = guarded("plain", early, answer(), **ONE)
    client = speaker.daemon.client()
    client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nx")
    assert client.response(b"POST").status == 413
    assert free_again(speaker)


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_call_that_the_rules_refuse_takes_no_place_and_no_rate(spoken: str, guarded: Guarded) -> None:
    changes = limited(one={"concurrent": 1, "rate": "1/h burst 1"})
    changes["tools"] = {"allow": [{"tools": ["add"]}]}
    speaker, _ = guarded(spoken, **changes)
    assert [speaker.ask(call(tool)).status for tool in ("rm", "rm", "rm", "add", "rm", "add", "add")] == [403, 403, 403, 200, 403, 200, 429]
