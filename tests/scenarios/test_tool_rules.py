"""Who may call what, on the wire: over HTTP/1.1 and HTTP/2, what is denied never reaches the server, however it is dressed, and what is allowed arrives
as it was sent."""

import json

import pytest

from tests.scenarios.conftest import Guarded
from tests.support.speakers import MODERN, SPOKEN, call, chunked


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_is_allowed_arrives_as_it_was_sent_and_what_is_denied_never(spoken: str, sized: bool, guarded: Guarded) -> None:
    """Again and again: the first time a head is judged, later it is known."""
    speaker, upstream = guarded(spoken)
    good = call("search_docs", 0)
    for _ in range(5):
        assert speaker.ask(good, sized=sized).body == good
    for id in (0, "x", 5, -1, "é"):
        for tool in ("rm", "search_secret", "ADD", "add ", ""):
            found = speaker.ask(call(tool, id), sized=sized)
            assert (found.status, found.json["id"]) == (403, id), found
            assert found.reason in ("call-denied", "call-not-allowed", "odd-name")
    assert {request.body for request in upstream.requests()} == {good}


# --- what is denied, dressed up

MODERN_CALL = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call")]
RM = call("rm", 7)
BOTH = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"%b","name":"%b","arguments":{}}}'
META = {"io.modelcontextprotocol/protocolVersion": MODERN}

DISGUISES: dict[str, tuple[bytes, list[tuple[str, str]], int, str]] = {
    "another name in its field": (RM, [*MODERN_CALL, ("mcp-name", "add")], 400, "header-mismatch"),
    "its own name in its field": (RM, [*MODERN_CALL, ("mcp-name", "rm")], 403, "call-not-allowed"),
    "another name, wrapped": (RM, [*MODERN_CALL, ("mcp-name", "=?base64?YWRk?=")], 400, "header-mismatch"),
    "its own name, wrapped": (RM, [*MODERN_CALL, ("mcp-name", "=?base64?cm0=?=")], 403, "call-not-allowed"),
    "a wrapping that can be read in two ways": (RM, [*MODERN_CALL, ("mcp-name", "=?base64?cm1=?=")], 400, "header-mismatch"),
    "its field twice": (call("add", 7), [*MODERN_CALL, ("mcp-name", "add"), ("mcp-name", "rm")], 400, "header-mismatch"),
    "another method in its field": (RM, [(MODERN_CALL[0]), ("mcp-method", "tools/list")], 400, "header-mismatch"),
    "fields that nobody looks at in older revisions": (
        RM,
        [("mcp-protocol-version", "2025-11-25"), ("mcp-method", "ping"), ("mcp-name", "add")],
        403,
        "call-not-allowed",
    ),
    "fields without a revision": (RM, [("mcp-method", "ping"), ("mcp-name", "add")], 403, "call-not-allowed"),
    "a revision of its own in the body": (
        json.dumps({"jsonrpc": "2.0", "id": 7, "method": "ping", "params": {"_meta": META}}).encode(),
        [("mcp-protocol-version", "2025-11-25")],
        400,
        "header-mismatch",
    ),
    "in a batch": (b"[%b,%b]" % (call("add", 8), RM), [], 403, "call-not-allowed"),
    "in a batch of the revision that has none": (b"[%b,%b]" % (call("add", 8), RM), MODERN_CALL, 400, "bad-call"),
    "in a batch in a batch": (b"[[%b]]" % RM, [], 400, "bad-call"),
    "in a batch of a thousand": (b"[%b,%b]" % (b",".join([call("add", 8)] * 999), RM), [], 400, "batch-too-large"),
    "wide letters": (call("\uff52\uff4d", 7), [], 403, "odd-name"),
    "an invisible letter": (call("add\u200b", 7), [], 403, "odd-name"),
    "a space": (call(" add", 7), [], 403, "odd-name"),
    "escapes": (RM.replace(b'"rm"', b'"\\u0072m"'), [], 403, "call-not-allowed"),
    "a key twice, the good one last": (BOTH % (b"rm", b"add"), [], 400, "ambiguous-call"),
    "a key twice, the good one first": (BOTH % (b"add", b"rm"), [], 400, "ambiguous-call"),
    "a key in capitals beside it": (
        call("add", 7).replace(b'"name":"add"', b'"name":"add","Name":"rm"'),
        [],
        400,
        "ambiguous-call",
    ),
    "an escaped key beside it": (call("add", 7).replace(b'"name":"add"', b'"name":"add","\\u006eame":"rm"'), [], 400, "ambiguous-call"),
    "params twice": (call("add", 7)[:-1] + b',"params":{"name":"rm"}}', [], 400, "ambiguous-call"),
    "a byte order mark": (b"\xef\xbb\xbf" + RM, [], 400, "bad-json"),
    "UTF-16": (RM.decode().encode("utf-16-le"), [], 400, "bad-json"),
    "a charset": (RM, [("content-type", "application/json; charset=utf-7")], 415, "unreadable-body"),
    "compressed": (b"\x1f\x8b\x08\x00", [("content-encoding", "gzip")], 415, "unreadable-body"),
    "invalid UTF-8": (call("add", 7, {"x": "Y"}).replace(b"Y", b"\xc0\xaf"), [], 400, "bad-json"),
    "behind another value": (call("add", 7) + RM, [], 400, "bad-json"),
    "deep": (call("add", 7).replace(b"{}", b"[" * 100_000 + b"]" * 100_000), [], 400, "bad-json"),
    "nothing": (b"", [], 400, "bad-json"),
    "spaces": (b" " * 2000, [], 400, "bad-json"),
    "no object": (b'"tools/call"', [], 400, "bad-call"),
    "no name": (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}', [], 400, "bad-call"),
    "a name that is no text": (call(["rm"], 7), [], 400, "bad-call"),
    "another method for it": (call("rm", 7).replace(b"tools/call", b"Tools/Call"), [], 403, "odd-name"),
    "a method nobody knows": (call("rm", 7).replace(b"tools/call", b"tools/run"), [], 403, "call-not-allowed"),
    "as a notification": (b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"rm"}}', [], 403, "call-not-allowed"),
}


@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_is_denied_stays_denied_however_it_is_dressed(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    wrong = {}
    for name, (body, fields, status, reason) in DISGUISES.items():
        for sized in (True, False, True):
            try:
                found = speaker.ask(body, fields, sized=sized)
                if (found.status, found.reason) != (status, reason):
                    wrong[name] = found
            except Exception as error:  # all of them are to be seen
                wrong[name] = error
                speaker.close()
    assert wrong == {}
    assert upstream.requests() == []


def test_the_id_of_the_call_comes_back_as_it_was_sent(guarded: Guarded) -> None:
    speaker, _ = guarded("plain")
    for id in (b"0", b'"x"', b"-7", b"1.50", b'"\\u00e9"', b"12345678901234567890123", b"null"):
        found = speaker.ask(call("rm", "ID").replace(b'"ID"', id))
        assert b'"id":%b,"error"' % id in found.body
    found = speaker.ask(call("rm", "ID").replace(b'"id":"ID",', b""))
    assert found.json["id"] is None
    batch = b"[%b,%b,%b]" % (call("add", 0), call("rm", "x"), b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    assert [each["id"] for each in speaker.ask(batch).json] == [0, "x"]
    mismatch = speaker.ask(call("add", "m"), [*MODERN_CALL, ("mcp-name", "other")])
    assert (mismatch.error["code"], mismatch.json["id"]) == (-32020, "m")


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_field_that_is_there_twice_has_the_code_of_its_revision(spoken: str, guarded: Guarded) -> None:
    speaker, _ = guarded(spoken)
    found = speaker.ask(call(), [*MODERN_CALL, ("mcp-name", "add"), ("mcp-name", "add")])
    assert (found.status, found.error["code"], found.reason) == (400, -32020, "header-mismatch")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_the_method_of_the_request_changes_nothing(spoken: str, method: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    for _ in range(3):
        assert speaker.ask(RM, method=method).status == 403
        assert speaker.ask(call(), method=method).status == 200
    assert {request.body for request in upstream.requests()} == {call()}


def test_a_request_without_a_body_calls_nothing_and_passes(guarded: Guarded) -> None:
    """The stream of a session, its end."""
    speaker, upstream = guarded("plain")
    for method in ("GET", "DELETE", "HEAD"):
        assert speaker.ask(None, [("mcp-session-id", "s"), ("mcp-method", "tools/call"), ("mcp-name", "rm")], method=method).status == 200
    assert len(upstream.requests()) == 3


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_head_that_promised_no_body_says_nothing_about_the_next(spoken: str, guarded: Guarded) -> None:
    """One template serves heads that differ only in their length."""
    speaker, upstream = guarded(spoken)
    for _ in range(4):
        assert speaker.ask(b"").status == 400
    for size in range(4):
        assert speaker.ask(call("rm", "x" * size)).status == 403
    assert upstream.requests() == []


def test_requests_in_a_row_are_judged_one_by_one(guarded: Guarded) -> None:
    speaker, upstream = guarded("plain")
    client = speaker.connection_h1()
    head = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    bodies = [call("add", 1), call("rm", 2), call("search_x", 3), call("search_secret", 4), call("add", 5)]
    client.send(b"".join(head % len(body) + body for body in bodies))
    assert [client.response(b"POST").status for _ in bodies] == [200, 403, 200, 403, 200]
    assert [request.body for request in upstream.requests()] == [bodies[0], bodies[2], bodies[4]]


@pytest.mark.parametrize("keep", ["", "Connection: keep-alive\r\n"])
def test_http_1_0_is_judged_as_well(keep: str, guarded: Guarded) -> None:
    speaker, upstream = guarded("plain")
    for tool, status in (("rm", 403), ("add", 200)):
        body = call(tool)
        with speaker.daemon.client() as client:
            client.send(f"POST /mcp HTTP/1.0\r\nHost: a\r\n{keep}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert client.response(b"POST").status == status
    assert [request.body for request in upstream.requests()] == [call()]


@pytest.mark.parametrize("spoken", ["plain", "tls"])
def test_a_second_length_is_no_way_around(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken)
    good, bad = call("add"), call("rm")
    for lines in (
        f"Content-Length: {len(good)}\r\nContent-Length: {len(bad)}\r\n",
        f"Content-Length: {len(good)}, {len(bad)}\r\n",
        f"Content-Length: {len(good)}\r\nTransfer-Encoding: chunked\r\n",
        f"Content-Length: +{len(good)}\r\n",
    ):
        client = speaker.daemon.client(tls=speaker.certificate.client() if spoken == "tls" else None)
        client.send(f"POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode() + good + bad)
        assert client.response(b"POST").status == 400
        client.close()
    assert upstream.requests() == []


def test_a_websocket_is_not_opened_where_calls_are_judged(guarded: Guarded) -> None:
    """Nobody would see what passes in it."""
    speaker, upstream = guarded("plain")
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with speaker.daemon.client() as client:
        client.send(f"GET /mcp HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n".encode())
        assert client.response().status == 200
    assert upstream.requests()[0].all("upgrade") == []


# --- bytes on their way


@pytest.mark.parametrize("tool", ["add", "rm"])
def test_a_body_may_come_byte_by_byte(tool: str, guarded: Guarded) -> None:
    speaker, upstream = guarded("plain")
    body = call(tool, 3, {"text": "grüße"})
    for wire in (f"Content-Length: {len(body)}\r\n\r\n".encode() + body, b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, 7)):
        with speaker.daemon.client() as client:
            client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\n")
            for at in range(len(wire)):
                client.send(wire[at : at + 1])
            assert client.response(b"POST").status == (200 if tool == "add" else 403)
    assert [request.body for request in upstream.requests()] == ([body, body] if tool == "add" else [])


def test_a_chunked_body_passes_with_its_framing_and_trailers(guarded: Guarded) -> None:
    speaker, upstream = guarded("plain")
    wire = chunked(call("add", 1, {"a": "b" * 40}), 9)[:-2] + b"X-Trailer: 1\r\n\r\n"
    for cut in (1, 30, len(wire) - 3, len(wire)):
        with speaker.daemon.client() as client:
            client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire[:cut])
            client.send(wire[cut:])
            assert client.response(b"POST").status == 200
    assert {request.wire for request in upstream.requests()} == {wire}


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("size", [16_000, 65_535, 65_536, 300_000, 1_000_000])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_large_arguments_arrive_as_they_were_sent(spoken: str, size: int, sized: bool, guarded: Guarded) -> None:
    """Over HTTP/2 the windows open while the body is gathered."""
    speaker, upstream = guarded(spoken)
    body = call("add", 1, {"text": "x" * size})
    for _ in range(3):
        assert speaker.ask(body, sized=sized).body == body
    assert [request.body for request in upstream.requests()] == [body] * 3


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_arguments_that_nobody_would_look_at_are_refused_with_a_reason(spoken: str, sized: bool, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken, route={"max_body": "20MiB"})
    for _ in range(3):
        found = speaker.ask(call("add", 1, {"text": "x" * (10 << 20)}), sized=sized)
        assert (found.status, found.reason) == (413, "body-too-large-to-judge")
    assert speaker.ask(call()).status == 200
    assert [request.body for request in upstream.requests()] == [call()]


def test_a_body_that_is_too_large_is_refused_by_its_length(guarded: Guarded) -> None:
    """Before it is sent, by a client that asks."""
    speaker, _ = guarded("plain")
    client = speaker.connection_h1()
    client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")
    found = client.response(b"POST")
    assert (found.status, found.informational) == (413, [])


@pytest.mark.parametrize("tool", ["add", "rm"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_client_that_waits_for_100_gets_it_from_us(spoken: str, tool: str, guarded: Guarded) -> None:
    """Twice: where the server says nothing of its own, the link is not used again, and that is all."""
    speaker, upstream = guarded(spoken)
    body = call(tool)
    for _ in range(3):
        if speaker.is_h2:
            asked = speaker.connection_h2().call(fields=[("expect", "100-continue"), ("content-length", str(len(body)))], ended=False)
            asked.client.ping()
            asked.client.ping()  # the first may have been read together with the head, and is answered before it then
            assert [fields[0] for fields in asked.informational] == [(b":status", b"100")]
            asked.send(body, ended=True).wait()
            assert asked.status == (200 if tool == "add" else 403)
            continue
        client = speaker.connection_h1()
        client.send(b"POST /mcp HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(body)
        assert client.response(b"POST").status == (200 if tool == "add" else 403)
    assert len(upstream.requests()) == (3 if tool == "add" else 0)


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_refusal_of_head_has_no_body_that_could_be_taken_for_the_next_answer(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken, route={"max_body": "2KiB"})
    bodies = [RM, b"{", call("add", 7, {"x": "y" * 3000})]
    for body in bodies:
        found = speaker.ask(body, method="HEAD")
        assert found.status in (400, 403, 413)
        assert found.body == b""
        assert speaker.ask(call("add")).status == 200
    if spoken == "plain":
        client = speaker.connection_h1()
        client.send(b"HEAD /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(RM), RM))
        client.send(b"GET /mcp HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response(b"HEAD").status == 403
        assert client.response().status == 200
    assert RM not in {request.body for request in upstream.requests()}
