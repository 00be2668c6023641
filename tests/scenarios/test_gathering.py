"""A request whose body must be seen before it may go on: what happens while it comes (docs/request.md, step 3)."""

import json
import signal
from contextlib import ExitStack

import pytest

from tests.scenarios.conftest import Guarded
from tests.support.certs import Certificate
from tests.support.client import RawClient
from tests.support.h2 import Code
from tests.support.speakers import SPOKEN, Speaker, call, listener
from tests.support.upstream import answer, once, response
from tests.support.waiting import stays, until

HEAD = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
MIB = 1 << 20
BODY = call("add", 1, {"text": "x" * 1000})


def test_nothing_reaches_the_server_before_the_whole_body_is_here(guarded: Guarded) -> None:
    speaker, upstream = guarded("plain")
    client = speaker.connection_h1()
    client.send(HEAD % len(BODY) + BODY[:500])
    stays(lambda: not upstream.links, 0.2, "nobody was called")
    client.send(BODY[500:])
    assert client.response(b"POST").body == BODY


@pytest.mark.parametrize("spoken", SPOKEN)
def test_several_heads_of_one_client_may_come_before_their_bodies(spoken: str, guarded: Guarded) -> None:
    """As the Python SDK sends them when it makes calls at once."""
    speaker, _ = guarded(spoken)
    if speaker.is_h2:
        client = speaker.connection_h2()
        asked = [client.call(body=b"", ended=False) for _ in range(3)]
        client.ping()
        for each in asked:
            each.send(BODY).end()
            assert each.wait().body == BODY
    else:
        with ExitStack() as stack:
            secured = speaker.certificate.client() if spoken == "tls" else None
            several = [stack.enter_context(speaker.daemon.client(tls=secured)) for _ in range(3)]
            for one in several:
                one.send(HEAD % len(BODY))
            stays(lambda: not any(one.how for one in several), 0.2, "they are waited for")
            for one in several:
                one.send(BODY)
                assert one.response(b"POST").body == BODY


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_client_that_leaves_meanwhile_was_never_there(spoken: str, how: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    if speaker.is_h2:
        asked = speaker.connection_h2().call(body=BODY[:500], ended=False)
        speaker.connection_h2().ping()
        if how == "reset":
            asked.cancel()
            assert speaker.ask(BODY).body == BODY
        else:
            speaker.close()
    else:
        client = speaker.connection_h1()
        client.send(HEAD % len(BODY) + BODY[:500])
        getattr(client, how)()
    record = speaker.daemon.record(end="client-gone")
    assert (record["status"], record["upstream"]) == (499, None)
    assert len(upstream.requests()) == (1 if speaker.is_h2 and how == "reset" else 0)


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_client_that_says_no_more_is_told_so(spoken: str, guarded: Guarded) -> None:
    """By the time that holds for bodies, not that for answers."""
    speaker, upstream = guarded(spoken, limits={"body_stall": "1s"})
    if speaker.is_h2:
        asked = speaker.connection_h2().call(body=BODY[:500], ended=False).wait()
        status, told = asked.status, json.loads(asked.body)
    else:
        client = speaker.connection_h1()
        client.send(HEAD % len(BODY) + BODY[:500])
        found = client.response(b"POST")
        status, told = found.status, json.loads(found.body)
    assert (status, told["error"]["data"]["reason"]) == (408, "body-timeout")
    assert upstream.links == []


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_body_that_comes_slowly_is_no_stall(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken, limits={"body_stall": "1s"}, upstream={"response_timeout": "1s"})
    pieces = [BODY[at : at + 200] for at in range(0, len(BODY), 200)]
    if speaker.is_h2:
        client = speaker.connection_h2()
        asked = client.call(body=b"", ended=False)
        for piece in pieces:
            asked.send(piece)
            stays(lambda: not upstream.links, 0.4, "nobody was called")
        asked.end().wait()
        assert (asked.status, asked.body) == (200, BODY)
    else:
        plain = speaker.connection_h1()
        plain.send(HEAD % len(BODY))
        for piece in pieces:
            plain.send(piece)
            stays(lambda: not plain.how, 0.4, "it is patient")
        assert plain.response(b"POST").body == BODY


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_drain_lets_it_come_to_its_end(spoken: str, guarded: Guarded) -> None:
    speaker, _ = guarded(spoken)
    daemon = speaker.daemon
    if speaker.is_h2:
        client = speaker.connection_h2()
        asked = client.call(body=BODY[:500], ended=False)
        client.ping()
        daemon.signal(signal.SIGTERM)
        client.until(lambda: client.goaway, "GOAWAY")
        assert asked.send(BODY[500:], ended=True).wait().body == BODY
    else:
        plain = speaker.connection_h1()
        plain.send(HEAD % len(BODY) + BODY[:500])
        stays(lambda: not plain.how, 0.1, "it waits")
        daemon.signal(signal.SIGTERM)
        stays(lambda: not plain.how, 0.3, "it waits")
        plain.send(BODY[500:])
        found = plain.response(b"POST")
        assert (found.body, found.first("connection")) == (BODY, b"close")
    assert daemon.wait() == 0


@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_a_stop_cuts_has_its_line(spoken: str, guarded: Guarded) -> None:
    speaker, _ = guarded(spoken, drain="300ms")
    daemon = speaker.daemon
    if speaker.is_h2:
        speaker.connection_h2().call(body=BODY[:500], ended=False)
        speaker.connection_h2().ping()
    else:
        speaker.connection_h1().send(HEAD % len(BODY) + BODY[:500])
        stays(lambda: not speaker.connection_h1().how, 0.1, "it waits")
    daemon.signal(signal.SIGTERM)
    daemon.wait()
    assert [(each["end"], each["status"]) for each in daemon.records] == [("stopped", 499)]


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_server_that_dies_on_a_used_link_is_asked_again(spoken: str, guarded: Guarded) -> None:
    """Our own 100 is no word of that server."""

    speaker, upstream = guarded(spoken, once(response(b"{}"), end="close"), answer())
    assert speaker.ask(BODY).body == b"{}"
    until(lambda: upstream.links[0].raw.fileno() < 0)
    if speaker.is_h2:
        asked = speaker.connection_h2().call(fields=[("expect", "100-continue")], ended=False)
        speaker.connection_h2().ping()
        asked.send(BODY, ended=True).wait()
        assert (asked.status, asked.body) == (200, BODY)
    else:
        client = speaker.connection_h1()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        client.read_until(b"\r\n\r\n")
        client.send(BODY)
        assert client.response(b"POST").body == BODY


def test_a_server_that_says_nothing_is_not_said_to_have_begun(guarded: Guarded) -> None:
    speaker, _ = guarded("plain", once(end="close"))
    client = speaker.connection_h1()
    client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    client.read_until(b"\r\n\r\n")
    client.send(BODY)
    assert json.loads(client.response(b"POST").body)["error"]["data"]["reason"] == "upstream-closed"


def test_a_client_that_leaves_before_our_100_harms_nobody(guarded: Guarded) -> None:
    speaker, _ = guarded("plain")
    for _ in range(20):
        client = speaker.daemon.client()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
        client.reset()
    assert speaker.ask(BODY).body == BODY
    assert {each["end"] for each in speaker.daemon.wait_records(21)} == {"client-gone", "done"}


@pytest.mark.parametrize("spoken", SPOKEN)
def test_who_fills_the_room_for_bodies_leaves_the_others_theirs(spoken: str, guarded: Guarded, certificate: Certificate) -> None:
    """40 MiB that will never be whole, of one address behind a proxy; its neighbour calls with as large a body."""
    trusts = listener(spoken, certificate) | {"trusted_proxies": ["127.0.0.1"]}
    speaker, _ = guarded(spoken, listen=trusts)
    most = MIB - 1
    held: list[RawClient] = []
    if speaker.is_h2:
        client = speaker.connection_h2()
        asked = [
            client.call(body=b"", fields=[("x-forwarded-for", "192.0.2.1"), ("content-length", str(MIB))], ended=False) for _ in range(40)
        ]
        for each in asked:
            each.send(b"x" * most)
        client.until(lambda: sum(each.over for each in asked) >= 8, "answers to what found no room")
        statuses = [each.status for each in asked if each.over]
    else:
        head = b"POST /mcp HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: %d\r\n\r\n" % MIB
        for _ in range(40):
            held.append(speaker.daemon.client(tls=certificate.client() if spoken == "tls" else None))
            held[-1].try_send(head + b"x" * most)
        refused = speaker.daemon.wait_records(8, reason="too-much-to-judge")
        statuses = [record["status"] for record in refused]
    assert statuses == [503] * 8
    body = call("add", 1, {"x": "y" * 900_000})
    with Speaker(speaker.daemon, spoken, certificate) as neighbour:
        assert neighbour.ask(body, {"x-forwarded-for": "192.0.2.2"}).body == body
    for each in held:
        each.close()


# --- HTTP/2


@pytest.mark.parametrize("spoken", ["h2c", "h2"])
def test_many_streams_may_be_gathered_at_once(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    client = speaker.connection_h2()
    bodies = [call("add", number, {"text": f"{number}" * 40_000}) for number in range(10)]
    asked = [client.call(body=b"", ended=False) for _ in bodies]
    step = 16_000
    for at in range(0, max(map(len, bodies)), step):
        for each, body in zip(asked, bodies, strict=True):
            if body[at : at + step]:
                each.send(body[at : at + step])
    for each in asked:
        each.end()
    for each, body in zip(asked, bodies, strict=True):
        assert (each.wait().status, each.body) == (200, body)
    assert sorted(request.body for request in upstream.requests()) == sorted(bodies)


@pytest.mark.parametrize("spoken", ["h2c", "h2"])
def test_streams_that_are_denied_or_left_give_back_the_window_of_the_connection(spoken: str, guarded: Guarded) -> None:
    speaker, _ = guarded(spoken)
    client = speaker.connection_h2()
    large = {"text": "x" * 500_000}
    for number in range(3):
        left = client.call(body=call("add", 1, large)[:400_000], ended=False)
        left.cancel()
        assert speaker.ask(call("rm", number, large)).status == 403
        too_large = client.call(body=call("add", 1, {"text": "x" * 1_500_000}), ended=False).wait()
        assert too_large.status == 413
        assert too_large.wait_reset() == Code.NO_ERROR
    body = call("add", 1, large)
    assert speaker.ask(body).body == body


@pytest.mark.parametrize("spoken", ["h2c", "h2"])
def test_an_empty_last_frame_and_trailers_end_a_body(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    client = speaker.connection_h2()
    for body, status in ((BODY, 200), (call("rm"), 403)):
        assert client.call(body=body, ended=False).end().wait().status == status
        assert client.call(body=body, ended=False).end([("x-trailer", "1")]).wait().status == status
        assert (
            client.call(body=body, fields=[("content-length", str(len(body)))], ended=False).end([("x-trailer", "1")]).wait().status
            == status
        )
    assert [request.body for request in upstream.requests()] == [BODY] * 3
    assert [request.trailers for request in upstream.requests()] == [[], [(b"x-trailer", b"1")], []]


@pytest.mark.parametrize("spoken", ["h2c", "h2"])
def test_a_body_of_another_length_than_promised_goes_nowhere(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    client = speaker.connection_h2()
    for length in (len(BODY) - 1, len(BODY) + 1):
        asked = client.call(body=BODY, fields=[("content-length", str(length))], ended=False)
        if length > len(BODY):
            asked.end()
        assert asked.wait_reset() == Code.PROTOCOL_ERROR
    client.ping()
    assert upstream.requests() == []
