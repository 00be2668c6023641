import ast
import json

import h11
import pytest

from mcpproxy.http import replies
from mcpproxy.http.head import HeadLimits, parse_response
from mcpproxy.http.replies import CONTINUE, MESSAGES, STATUS_TEXT, dated, health, redirect, reply, rpc_error
from tests.house.tree import MODULES


def split(message: bytes) -> tuple[bytes, bytes]:
    head, _, body = message.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def test_an_answer_is_a_whole_message_with_json_inside() -> None:
    head, body = split(reply(404, "no-route", jsonrpc=False, close=False))
    parsed = parse_response(head, b"GET")
    assert (parsed.status, parsed.reason, parsed.length, parsed.keep_alive) == (404, b"Not Found", len(body), True)
    assert parsed.first(b"content-type") == b"application/json"
    assert parsed.first(b"cache-control") == b"no-store"
    assert json.loads(body) == {"error": {"status": 404, "reason": "no-route", "message": MESSAGES["no-route"]}}


def test_a_json_rpc_client_gets_a_json_rpc_error() -> None:
    head, body = split(reply(503, "queue-full", jsonrpc=True, close=True, retry_after=7, extra=((b"X", b"y"),)))
    parsed = parse_response(head, b"POST")
    assert (parsed.keep_alive, parsed.first(b"retry-after"), parsed.first(b"x")) == (False, b"7", b"y")
    message = MESSAGES["queue-full"]
    assert json.loads(body) == {"jsonrpc": "2.0", "id": None, "error": {"code": 503, "message": message, "data": {"reason": "queue-full"}}}


def test_head_is_answered_without_the_body_but_with_its_length() -> None:
    whole = reply(502, "connect-refused", jsonrpc=False, close=False)
    assert reply(502, "connect-refused", jsonrpc=False, close=False, head_only=True) == split(whole)[0]


@pytest.mark.parametrize("status", [status for status in STATUS_TEXT if status >= 400])
@pytest.mark.parametrize("jsonrpc", [False, True])
def test_every_status_can_be_told(status: int, jsonrpc: bool) -> None:
    head, body = split(reply(status, "some-reason", jsonrpc=jsonrpc, close=False))
    assert parse_response(head, b"GET").status == status
    assert STATUS_TEXT[status] in body.decode()


def test_405_tells_what_is_allowed() -> None:
    head, _ = split(reply(405, "method-not-allowed", jsonrpc=False, close=False))
    allowed = parse_response(head, b"TRACE").first(b"allow")
    assert allowed is not None
    assert b"TRACE" not in allowed
    assert b"POST" in allowed


def test_405_can_tell_better() -> None:
    head, _ = split(reply(405, "method-not-allowed", jsonrpc=False, close=False, extra=((b"Allow", b"GET"),)))
    assert [value for _, name, value in parse_response(head, b"POST").fields if name == b"allow"] == [b"GET"]


def test_a_document_of_our_own() -> None:
    head, body = split(replies.document(b'{"a":1}', ((b"X", b"y"),), close=True))
    parsed = parse_response(head, b"GET")
    assert (parsed.status, parsed.length, parsed.keep_alive, parsed.first(b"x"), body) == (200, 7, False, b"y", b'{"a":1}')
    assert parsed.first(b"content-type") == b"application/json"
    assert replies.document(b'{"a":1}', ((b"X", b"y"),), close=True, head_only=True) == head
    empty, nothing = split(replies.document(b"", (), close=False))
    assert (parse_response(empty, b"OPTIONS").length, nothing) == (0, b"")


def test_a_date_is_put_in_when_an_answer_is_sent() -> None:
    date = b"Sun, 06 Nov 1994 08:49:37 GMT"
    kept = reply(404, "no-route", jsonrpc=False, close=False)
    sent = dated(kept, date)
    assert parse_response(split(kept)[0], b"GET").first(b"date") is None
    assert parse_response(split(sent)[0], b"GET").first(b"date") == date
    assert split(sent)[1] == split(kept)[1]
    assert sent == reply(404, "no-route", jsonrpc=False, close=False, date=date)


def test_redirect_and_health() -> None:
    head, body = split(redirect(b"https://a/b?c", True))
    parsed = parse_response(head, b"POST")
    assert (parsed.status, parsed.first(b"location"), parsed.length, parsed.keep_alive, body) == (308, b"https://a/b?c", 0, False, b"")
    head, body = split(health(close=False))
    assert (parse_response(head, b"GET").status, json.loads(body)) == (200, {"status": "ok"})


def test_continue_is_an_interim_response() -> None:
    assert parse_response(CONTINUE, b"POST").status == 100


def test_h11_reads_our_answers() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(reply(431, "head-too-large", jsonrpc=True, close=False))
    assert isinstance(client.next_event(), h11.Response)
    assert isinstance(client.next_event(), h11.Data)
    assert isinstance(client.next_event(), h11.EndOfMessage)


def kinds() -> set[str]:
    """Every slug that the code may raise or answer with."""
    found = set()
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {
                "ProxyError",
                "HeadError",
                "FramingError",
                "reply",
            }:
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def test_every_reason_has_a_sentence() -> None:
    found = kinds()
    assert {"bad-host", "bad-chunk-size", "connect-timeout", "too-many-connections"} <= found, "the search finds something"
    assert found <= set(MESSAGES)


def test_every_sentence_has_a_use_and_is_one() -> None:
    text = "".join(module.text for module in MODULES if module.name != "http/replies")
    for kind, message in MESSAGES.items():
        assert f'"{kind}"' in text
        assert message.endswith(".")
        assert message[0].isupper()


def test_our_texts_are_plain() -> None:
    assert HeadLimits().fields == 100
    for text in (*STATUS_TEXT.values(), *MESSAGES.values()):
        assert text.isascii()
        assert text.isprintable()
    assert replies.ALLOWED.isascii()


@pytest.mark.parametrize("given", [b"0", b"-7", b'"x"', b'"\\u00e4 \\" /"', b"18446744073709551616", b"null", b""])
def test_the_id_of_the_call_comes_back_as_it_came(given: bytes) -> None:
    head, body = split(rpc_error(403, 403, "no", given, "some-reason", ((b"X", b"y"),), close=True))
    parsed = parse_response(head, b"POST")
    assert (parsed.status, parsed.length, parsed.keep_alive, parsed.first(b"x")) == (403, len(body), False, b"y")
    assert parsed.first(b"content-type") == b"application/json"
    assert b'"id":%b,' % (given or b"null") in body
    assert json.loads(body) == {
        "jsonrpc": "2.0",
        "id": json.loads(given or b"null"),
        "error": {"code": 403, "message": "no", "data": {"reason": "some-reason"}},
    }


def test_a_batch_is_answered_by_the_errors_of_its_ids() -> None:
    told = json.loads(split(rpc_error(403, 403, "", (b"0", b'"a"'), "no-route"))[1])
    assert [each["id"] for each in told] == [0, "a"]
    assert {each["error"]["message"] for each in told} == {MESSAGES["no-route"]}
    assert json.loads(split(rpc_error(400, -32600, "", (), "no-route"))[1])["id"] is None


def test_a_json_rpc_error_is_dated_when_it_is_sent() -> None:
    head, _ = split(rpc_error(429, 429, "", b"1", "some-reason", date=b"Sun, 06 Nov 1994 08:49:37 GMT"))
    assert parse_response(head, b"POST").first(b"date") == b"Sun, 06 Nov 1994 08:49:37 GMT"
