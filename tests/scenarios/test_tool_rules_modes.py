"""The other ways to use tool rules: watching only, believing the head, tools that change nothing, rules for some callers, arguments."""

import gzip
import json
from typing import Any

import pytest

from tests.scenarios.conftest import TOOLS, Guarded
from tests.support.message import Message
from tests.support.speakers import MODERN, SPOKEN, call, chunked
from tests.support.upstream import answer, response
from tests.support.waiting import until

MODERN_CALL = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call")]


# --- shadow


@pytest.mark.parametrize("spoken", SPOKEN)
def test_shadow_denies_nothing(spoken: str, guarded: Guarded) -> None:
    speaker, upstream = guarded(spoken, tools={**TOOLS, "shadow": True})
    asked: list[tuple[bytes, list[tuple[str, str]]]] = [
        (call("rm"), []),
        (call("add"), []),
        (call("search_secret"), []),
        (call(" rm"), []),
        (call("rm"), [*MODERN_CALL, ("mcp-name", "add")]),
        (call("rm"), [*MODERN_CALL, ("mcp-name", "add"), ("mcp-name", "rm")]),
        (call("rm"), [("content-type", "application/json; charset=iso-8859-1")]),
        (gzip.compress(call("rm")), [("content-encoding", "gzip")]),
        (b"[%b,%b]" % (call("rm"), call("add")), []),
        (b"[%b]" % b",".join([call("rm")] * 1000), []),
        (b'{"method":"tools/call","method":"x"}', []),
        (b"no json", []),
        (b"", []),
    ]
    for body, fields in asked:
        for sized in (True, False):
            assert speaker.ask(body, fields, sized=sized).status == 200, body[:100]
    assert [request.body for request in upstream.requests()] == [body for body, _ in asked for _ in range(2)]


# --- trust_headers


@pytest.mark.parametrize("audited", [False, True], ids=["unaudited", "audited"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_head_that_is_believed_denies_without_a_look_at_the_body(spoken: str, audited: bool, guarded: Guarded, tmp_path: Any) -> None:
    audit = {"audit": {"file": str(tmp_path / "audit.log")}} if audited else {}
    speaker, upstream = guarded(spoken, tools={**TOOLS, "trust_headers": True}, **audit)
    assert speaker.ask(call("add"), [*MODERN_CALL, ("mcp-name", "add")]).status == 200
    assert speaker.ask(call("rm"), [*MODERN_CALL, ("mcp-name", "rm")]).status == 403
    assert speaker.ask(call("add"), [*MODERN_CALL, ("mcp-name", "rm")]).status == (400 if audited else 403)
    for unreadable in (b"no json", b'{"method":"tools/call","method":"x"}', b"[%b,%b]" % (call("add"), call("rm"))):
        assert speaker.ask(unreadable, [*MODERN_CALL, ("mcp-name", "rm")]).status == (400 if audited else 403)
    assert speaker.ask(call("rm")).status == 403  # of an older revision: nothing to believe
    assert speaker.ask(call("rm"), [("mcp-protocol-version", "2025-11-25"), ("mcp-method", "ping")]).status == 403
    assert speaker.ask(call("rm"), MODERN_CALL).status == 403  # no name in the head
    assert {request.body for request in upstream.requests()} == {call("add")}


def test_a_head_that_is_believed_goes_on_while_its_body_comes(guarded: Guarded) -> None:
    """Nothing is gathered: what is larger than anybody would look at passes, too."""
    speaker, upstream = guarded("plain", tools={**TOOLS, "trust_headers": True})
    client = speaker.connection_h1()
    body = call("add", 1, {"text": "x" * 3_000_000})
    head = f"POST /mcp HTTP/1.1\r\nHost: a\r\nMCP-Protocol-Version: {MODERN}\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\n"
    client.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
    upstream.wait_for(1)
    client.send(body[10:])
    assert client.response(b"POST").body == body


# --- read_only

LIST = {"tools": [{"name": "add", "annotations": {"readOnlyHint": True}}, {"name": "rm"}]}
LISTED = json.dumps({"jsonrpc": "2.0", "id": 1, "result": LIST}).encode()
ASK_FOR_LIST = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
EVENT = b"event: message\ndata: " + LISTED + b"\n\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIPPED = gzip.compress(LISTED)

LISTS = {
    "json": response(LISTED),
    "json in chunks": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(LISTED, 7),
    "json until the end": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + LISTED,
    "events": STREAM + chunked(EVENT),
    "events in pieces": STREAM + chunked(b": hello\n\n" + EVENT, 5),
    "events of known length": response(EVENT, content_type="text/event-stream"),
}


def lists(reply: bytes) -> Any:
    """A server that answers a list with this, a call with itself."""
    return answer(lambda request: reply if b"tools/list" in request.body else response(request.body))


@pytest.mark.parametrize("keepalive", [0, 5])
@pytest.mark.parametrize("form", LISTS)
@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_tool_may_be_called_once_a_list_said_that_it_changes_nothing(spoken: str, form: str, keepalive: int, guarded: Guarded) -> None:
    route = {"sse_keepalive": f"{keepalive}s"} if keepalive else {}
    reply = LISTS[form]

    def by_body(request: Message) -> bytes:
        return reply if b"tools/list" in request.body else response(request.body)

    script = answer(by_body)
    if "until" in form:

        def script(link: Any) -> None:
            link.send(by_body(link.read_request()))

    speaker, _ = guarded(spoken, script, tools={"allow": [{"tools": ["*"]}], "read_only": True}, route=route)
    assert speaker.ask(call("add")).reason == "tool-not-listed"
    assert LISTED in speaker.ask(ASK_FOR_LIST).body
    assert speaker.ask(call("add")).status == 200
    assert speaker.ask(call("rm")).reason == "tool-not-read-only"
    assert speaker.ask(call("other")).reason == "tool-not-listed"
    assert speaker.ask(b"[%b,%b]" % (call("add"), call("rm"))).reason == "tool-not-read-only"


@pytest.mark.parametrize(
    "reply",
    [
        response(GZIPPED, extra="Content-Encoding: gzip\r\n"),
        response(GZIPPED, extra="Content-Encoding: gzip\r\n", content_type="text/event-stream"),
        response(LISTED.replace(b"result", b"error")),
        response(LISTED[:-1]),
    ],
    ids=["gzip", "gzipped events", "an error", "no json"],
)
def test_what_is_no_list_teaches_nothing_and_passes(reply: bytes, guarded: Guarded) -> None:
    speaker, _ = guarded("plain", lists(reply), tools={"allow": [{"tools": ["*"]}], "read_only": True})
    assert speaker.ask(ASK_FOR_LIST).body in reply
    assert speaker.ask(call("add")).reason == "tool-not-listed"


def test_the_result_of_a_call_is_no_list(guarded: Guarded) -> None:
    """A tool could answer with what looks like one."""
    tools = {"allow": [{"tools": ["*"]}, {"methods": ["*"]}], "read_only": True}
    speaker, _ = guarded("plain", answer(response(LISTED)), tools=tools)
    for asked in (
        b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"tools/list"}}',
        b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"prompts/list"}]',
    ):
        assert speaker.ask(asked).status == 200
        assert speaker.ask(call("rm")).reason == "tool-not-listed"


# --- arguments


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_arguments_are_judged_as_they_came(spoken: str, guarded: Guarded) -> None:
    allow = [{"tools": ["read"], "args": {"path": {"inside": "/data"}, "lines": {"max": 100, "optional": True}}}]
    speaker, upstream = guarded(spoken, tools={"allow": allow})
    good = [{"path": "/data/a"}, {"path": "/data/a/b.txt", "lines": 100, "other": [1, 2]}]
    bad: list[dict[str, Any]] = [
        {},
        {"path": "/data/../etc"},
        {"path": "/etc"},
        {"path": 1},
        {"path": "/data/a", "lines": 101},
        {"lines": 1},
    ]
    for arguments in good:
        assert speaker.ask(call("read", 1, arguments)).status == 200
    for arguments in bad:
        found = speaker.ask(call("read", 1, arguments))
        assert (found.status, found.reason, found.json["id"]) == (403, "call-not-allowed", 1)
    twice = b'{"jsonrpc":"2.0","id":"t","method":"tools/call","params":{"name":"read","arguments":{"path":"/data/a","path":"/etc"}}}'
    found = speaker.ask(twice)
    assert (found.status, found.reason, found.json["id"]) == (400, "ambiguous-call", "t")
    assert [json.loads(request.body)["params"]["arguments"] for request in upstream.requests()] == good


def test_a_limit_alone_reads_no_body(guarded: Guarded) -> None:
    """What cannot be read by rules is no matter where there are none."""
    speaker, upstream = guarded("plain", tools=None, route={"rate": "1000/s burst 1000"})
    for body, fields in (
        (gzip.compress(call()), [("content-encoding", "gzip")]),
        (call(), [("content-type", "application/json; charset=latin1")]),
        (b"no json", []),
        (call(), [*MODERN_CALL, ("mcp-name", "other"), ("mcp-name", "third")]),
    ):
        assert speaker.ask(body, fields).status == 200
    until(lambda: len(upstream.requests()) == 4)


@pytest.mark.parametrize("kept", ["mcp-protocol-version", "mcp-method, mcp-name, mcp-protocol-version"])
def test_the_head_that_was_trusted_reaches_the_server(kept: str, guarded: Guarded) -> None:
    """Named in Connection they would end here, and a server that takes them for those of an older revision compares nothing."""
    speaker, upstream = guarded("plain", tools={**TOOLS, "trust_headers": True})
    fields = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "add", "connection": kept}
    assert speaker.ask(call("rm", 7), fields).status == 400
    assert upstream.requests() == []
