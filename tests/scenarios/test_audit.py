"""The audit log of a real run: one line for each call, however it ended, with the truth about it and nothing secret in it; and its chain holds."""

import gzip
import hashlib
import io
import json
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.cli.main import status_of
from mcpproxy.observe.habits import FILE as HABITS
from mcpproxy.observe.habits import KNOWN, LEAST, MINUTES
from tests.scenarios.conftest import TOOLS
from tests.support.certs import Certificate
from tests.support.daemon import Daemon, simple_config
from tests.support.keys import Keys
from tests.support.speakers import MODERN, SPOKEN, Speaker, call, chunked, listener
from tests.support.upstream import Link, Script, ScriptedUpstream, answer, response
from tests.support.waiting import until

Line = dict[str, Any]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRETS = ("session-secret", "argument-secret", "query-secret", "cookie-secret")


class Audited:
    """A daemon with keys, rules and an audit log before a server that the test plays."""

    def __init__(self, directory: Path, certificate: Certificate, stack: ExitStack) -> None:
        self.directory, self.certificate, self.stack = directory, certificate, stack
        self.file = directory / "audit.log"
        self.keys = Keys(directory)
        self.key = self.keys.add("agent-alpha")
        self.upstream: ScriptedUpstream
        self.daemon: Daemon
        self.config: dict[str, Any]

    def start(self, spoken: str, *scripts: Script, tools: Any = TOOLS, audit: Any = None, route: Any = None, **changes: Any) -> Speaker:
        self.upstream = self.stack.enter_context(ScriptedUpstream(*(scripts or (answer(),))))
        rules = {"tools": tools} if tools else {}
        self.config = simple_config(
            self.upstream.url,
            listen=listener(spoken, self.certificate),
            route={**rules, "auth": ["keys"], **(route or {})},
            auth={"keys": self.keys.auth()},
            audit={"file": str(self.file), **(audit or {})},
            **changes,
        )
        self.daemon = self.stack.enter_context(Daemon(self.config, self.directory))
        return self.stack.enter_context(Speaker(self.daemon, spoken, self.certificate))

    def again(self, spoken: str) -> Speaker:
        """The same daemon, started again."""
        self.daemon.stop()
        self.daemon = self.stack.enter_context(Daemon(self.config, self.directory))
        return self.stack.enter_context(Speaker(self.daemon, spoken, self.certificate))

    def fields(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        return [
            ("authorization", f"Bearer {self.key}"),
            ("mcp-session-id", "session-secret"),
            ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),
            ("cookie", "a=cookie-secret"),
            *more,
        ]

    def lines(self, count: int, **members: Any) -> list[Line]:
        """At least so many lines of calls."""

        def enough() -> list[Line]:
            text = self.file.read_bytes() if self.file.exists() else b""
            found = [json.loads(line) for line in text.splitlines() if line.endswith(b"}")]
            calls = [each for each in found if each.get("type") == "call" and all(each.get(key) == value for key, value in members.items())]
            return calls if len(calls) >= count else []

        return until(enough, lambda: f"{count} lines with {members} in {self.file.read_text()}")

    def warnings(self) -> list[Line]:
        """What is told to be unusual."""
        return [line for line in map(json.loads, self.file.read_bytes().splitlines()) if line["type"] == "warning"]

    def verify(self, status: int = 0) -> str:
        """What `mcpproxy audit verify` says; it must be content."""
        said = io.StringIO()
        with redirect_stdout(said):
            found = status_of(["audit", "verify", "-c", str(self.daemon.file), "--state-dir", str(self.directory / "state")])
        assert found == status, said.getvalue()
        return said.getvalue()


@pytest.fixture
def audited(tmp_path: Path, certificate: Certificate) -> Iterator[Audited]:
    with ExitStack() as stack:
        yield Audited(tmp_path, certificate, stack)


def result(request: Any = None, **members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, **(members or {"result": {"content": []}})}).encode()


OK, TOOL_ERROR, ERROR = result(), result(result={"content": [], "isError": True}), result(error={"code": -32602, "message": "no"})


def shapes(body: bytes) -> dict[str, bytes]:
    """An answer in every framing there is."""
    event = b": hello\n\nevent: message\ndata: " + body + b"\n\n"
    progress = b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    return {
        "json": response(body),
        "json in chunks": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 10),
        "events in chunks": stream + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(progress * 3 + event, 11),
        "an event a chunk": stream + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(progress, 1000)[:-5] + chunked(event, 1000),
        "events of known length": response(progress + event, content_type="text/event-stream"),
        "events with CRLF": stream + b"Transfer-Encoding: chunked\r\n\r\n" + chunked((progress + event).replace(b"\n", b"\r\n"), 13),
    }


@pytest.mark.parametrize("keepalive", [False, True], ids=["", "comments"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_the_outcome_is_known_whatever_the_answer_looks_like(spoken: str, keepalive: bool, audited: Audited) -> None:
    expected = {OK: ("ok", None), TOOL_ERROR: ("tool-error", None), ERROR: ("error", -32602)}
    replies = {(shape, body): wire for body in expected for shape, wire in shapes(body).items()}
    wires = iter(replies.values())
    speaker = audited.start(spoken, answer(lambda request: next(wires)), route={"sse_keepalive": "5s"} if keepalive else {})
    for shape, _ in replies:
        found = speaker.ask(call(), audited.fields(("x-request-id", shape.replace(" ", "-"))))
        assert found.status == 200
    lines = audited.lines(len(replies))
    assert len(lines) == len(replies)
    for (shape, body), line in zip(replies, lines, strict=True):
        assert (line["id"], line["outcome"], line.get("code")) == (shape.replace(" ", "-"), *expected[body])
        assert (line["principal"], line["tool"], line["verdict"]) == ("agent-alpha", "add", "allowed")
    audited.verify()


@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_line_tells_who_what_where_and_how_it_ended(spoken: str, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)))
    body = call("add", 1, {"path": "argument-secret"})
    for _ in range(4):  # judged, then known
        speaker.ask(body, audited.fields(), path="/mcp?k=query-secret")
    lines = audited.lines(4)
    records = audited.daemon.wait_records(4)
    for line, record in zip(lines, records, strict=True):
        assert (line["id"], line["client"], line["bytes_in"], line["bytes_out"]) == tuple(
            record[name] for name in ("id", "client", "bytes_in", "bytes_out")
        )
        assert (line["principal"], line["auth"], line["method"], line["tool"]) == ("agent-alpha", "keys", "tools/call", "add")
        assert (line["route"], line["upstream"], line["trace"]) == ("route[0]", "u", TRACE)
        assert line["session"] == record["session"] == hashlib.sha256(b"session-secret").hexdigest()[:12]
        assert (line["verdict"], line["rule"], line["status"], line["outcome"]) == ("allowed", "route[0].tools.allow[0]", 200, "ok")
        assert list(line["args"]) == ["path"]
        assert "ms" in line
    text = audited.file.read_text()
    assert [secret for secret in (*SECRETS, audited.key) if secret in text] == []


@pytest.mark.parametrize("spoken", SPOKEN)
def test_every_refusal_of_a_call_has_its_line_and_its_reason(spoken: str, audited: Audited) -> None:
    modern = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "add")]
    speaker = audited.start(spoken, answer(response(OK)), route={"limits": ["calls"]}, limit={"calls": {"rate": "1/h burst 1"}})
    asked: list[tuple[bytes, list[tuple[str, str]], tuple[Any, ...]]] = [
        (call("rm"), [], (403, "denied", "call-not-allowed", "route[0].tools", "rm")),
        (call("search_secret"), [], (403, "denied", "call-denied", "route[0].tools.deny[0]", "search_secret")),
        (call("rm"), modern, (400, "denied", "header-mismatch", None, "rm")),
        (b"no json", [], (400, "denied", "bad-json", None, None)),
        (b'{"method":"tools/call","method":"x"}', [], (400, "denied", "ambiguous-call", None, None)),
        (call("add"), [], (200, "allowed", None, "route[0].tools.allow[0]", "add")),
        (call("add"), [], (200, "allowed", None, "route[0].tools.allow[0]", "add")),
        (call("add"), [], (429, "denied", "rate-limited", "limits calls/rate", "add")),
    ]
    for body, fields, (status, *_) in asked:
        assert speaker.ask(body, audited.fields(*fields)).status == status
    lines = audited.lines(len(asked))
    told = [(line["status"], line["verdict"], line.get("reason"), line.get("rule"), line.get("tool")) for line in lines]
    assert told == [expected for _, _, expected in asked]
    assert [line.get("outcome") for line in lines if line["status"] != 200] == [None] * 6
    assert lines[3]["unread"] is True
    audited.verify()


@pytest.mark.parametrize("spoken", SPOKEN)
def test_every_request_that_is_refused_by_its_head_has_its_line(spoken: str, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)), route={"max_body": "1KiB", "allow_origins": "https://a.example", "cors": True})
    key, twice = ("x-api-key", audited.key), [("mcp-protocol-version", MODERN), ("mcp-method", "a"), ("mcp-method", "b")]
    asked: list[tuple[list[tuple[str, str]], bytes | None, int, str, str | None]] = [
        ([], call(), 401, "no-credential", None),
        ([("x-api-key", "wrong")], call(), 401, "key-unknown", None),
        ([key, key], call(), 400, "several-credentials", None),
        ([key, ("origin", "https://b.example")], call(), 403, "origin-denied", None),
        ([key, *twice], call(), 400, "header-mismatch", "agent-alpha"),
        ([key, ("content-encoding", "gzip")], call(), 415, "unreadable-body", "agent-alpha"),
        ([key], b"x" * 1025, 413, "body-too-large", "agent-alpha"),
        ([key], b"y" * 1026, 413, "body-too-large", "agent-alpha"),
        ([key], b"z" * 1027, 413, "body-too-large", "agent-alpha"),
        ([], None, 401, "no-credential", None),
    ]
    for fields, body, status, _, _ in asked:
        found = speaker.ask(body, fields) if body is not None else speaker.ask(None, fields, method="GET")
        assert found.status == status
    told = [(line["status"], line["reason"], line.get("principal"), line["verdict"], line["unread"]) for line in audited.lines(len(asked))]
    assert told == [(status, reason, who, "denied", True) for _, _, status, reason, who in asked]
    for line in audited.lines(len(asked)):
        record = audited.daemon.record(id=line["id"])
        assert (record["reason"], record.get("principal"), record["bytes_out"]) == (
            line["reason"],
            line.get("principal"),
            line["bytes_out"],
        )
        assert line["route"] == "route[0]"
    audited.verify()


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_an_audit_breaks_no_upload(spoken: str, sized: bool, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)), tools=None)
    large = call("add", 1, {"text": "x" * (3 << 20)})
    assert [speaker.ask(body, audited.fields(), sized=sized).status for body in (large, call(), large)] == [200, 200, 200]
    assert [request.body for request in audited.upstream.requests()] == [large, call(), large]
    told = [(line.get("unread"), line.get("reason"), line["verdict"], line.get("tool"), line["outcome"]) for line in audited.lines(3)]
    unread = (True, "body-too-large-to-judge", "allowed", None, "ok")
    assert told == [unread, (None, None, "allowed", "add", "ok"), unread]
    audited.verify()


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_body_too_large_for_the_rules_has_a_line(spoken: str, sized: bool, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)))
    assert speaker.ask(call("add", 1, {"text": "x" * (2 << 20)}), audited.fields(), sized=sized).status == 413
    (line,) = audited.lines(1)
    assert (line["unread"], line["reason"], line["verdict"], line["principal"]) == (
        True,
        "body-too-large-to-judge",
        "denied",
        "agent-alpha",
    )


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_shadow_writes_down_what_would_have_been_denied(spoken: str, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)), tools={**TOOLS, "shadow": True})
    for body in (call("rm"), call("add"), b"no json", call(" add")):
        assert speaker.ask(body, audited.fields()).status == 200
    told = [(line["verdict"], line.get("reason"), line.get("outcome")) for line in audited.lines(4)]
    assert told == [
        ("shadow-denied", "call-not-allowed", "ok"),
        ("allowed", None, "ok"),
        ("shadow-denied", "bad-json", "ok"),
        ("shadow-denied", "odd-name", "ok"),
    ]


def test_a_route_without_rules_is_audited_too(audited: Audited) -> None:
    """What is no JSON passes, and is told."""
    speaker = audited.start("plain", answer(response(OK)), tools=None)
    zipped = gzip.compress(call())
    for body, fields in ((call(), []), (b"no json", []), (zipped, [("content-encoding", "gzip")]), (b"", [])):
        assert speaker.ask(body, audited.fields(*fields)).status == 200
    assert speaker.ask(None, audited.fields(), method="GET").status == 200
    assert speaker.ask(call("last"), audited.fields()).status == 200
    assert [(line.get("tool"), line.get("unread"), line["verdict"]) for line in audited.lines(4)] == [
        ("add", None, "allowed"),
        (None, True, "allowed"),
        (None, True, "allowed"),
        ("last", None, "allowed"),
    ]


def test_no_websocket_is_opened_where_calls_are_audited(audited: Audited) -> None:
    """Its calls would be in no line."""
    audited.start("plain", tools=None)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    with audited.daemon.client() as client:
        client.send(f"GET /mcp HTTP/1.1\r\nHost: a\r\nX-API-Key: {audited.key}\r\n{upgrade}\r\n".encode())
        assert client.response().status == 200
    assert audited.upstream.requests()[0].all("upgrade") == []


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_each_call_of_a_batch_has_a_line_with_its_own_outcome(spoken: str, audited: Audited) -> None:
    reply = b'[%b,{"jsonrpc":"2.0","id":"b","result":{"isError":true}}]' % ERROR
    speaker = audited.start(spoken, answer(response(reply)))
    notice = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    assert speaker.ask(b"[%b,%b,%b]" % (call("add", 1), call("search_x", "b"), notice), audited.fields()).status == 200
    told = [(line.get("tool"), line["batch"], line.get("outcome"), line.get("code")) for line in audited.lines(3)]
    assert told == [("add", 3, "error", -32602), ("search_x", 3, "tool-error", None), (None, 3, None, None)]


# --- ends


def dies(link: Link) -> None:
    link.read_request()
    link.reset()


def cut_early(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
    link.reset()


def cut_after_the_answer(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    event = b"data: " + OK + b"\n\n"
    link.send(b"%x\r\n%b\r\n" % (len(event), event))
    link.reset()


def server_error(link: Link) -> None:
    link.read_request()
    link.send(response(b"oops", status="500 Internal Server Error", content_type="text/plain"))


def accepted(link: Link) -> None:
    link.read_request()
    link.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")


def zipped(link: Link) -> None:
    link.read_request()
    link.send(response(gzip.compress(OK), extra="Content-Encoding: gzip\r\n"))


ENDS: list[tuple[Script, int, str | None]] = [
    (dies, 502, None),
    (cut_early, 200, "unknown"),
    (cut_after_the_answer, 200, "ok"),
    (server_error, 500, "unknown"),
    (accepted, 202, "none"),
    (zipped, 200, "unknown"),
]


@pytest.mark.parametrize(("script", "status", "outcome"), ENDS, ids=[each[0].__name__ for each in ENDS])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_what_the_server_did_is_told_once(spoken: str, script: Script, status: int, outcome: str | None, audited: Audited) -> None:
    speaker = audited.start(spoken, script)
    if speaker.is_h2:
        speaker.connection_h2().call(body=call(), fields=audited.fields()).wait()
    else:
        client = speaker.connection_h1()
        lines = "".join(f"{name}: {value}\r\n" for name, value in audited.fields())
        client.send(f"POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: {len(call())}\r\n\r\n".encode() + call())
        client.receive()
    audited.daemon.wait_records(1)
    speaker.close()
    audited.daemon.stop()
    (line,) = audited.lines(1)
    assert (line["status"], line["verdict"], line.get("outcome")) == (status, "allowed", outcome)
    audited.verify()


@pytest.mark.parametrize("answered", [False, True], ids=["before the head", "while it streams"])
@pytest.mark.parametrize("spoken", SPOKEN)
def test_a_client_that_left_is_told_once(spoken: str, answered: bool, audited: Audited) -> None:
    asked_for, gone = threading.Event(), threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        asked_for.set()
        if answered:
            link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        link.wait(gone)

    speaker = audited.start(spoken, script)
    if speaker.is_h2:
        asked = speaker.connection_h2().call(body=call(), fields=audited.fields())
        until(asked_for.is_set)
        if answered:
            asked.read_until(b"data: 1")
        asked.cancel()
    else:
        client = speaker.connection_h1()
        lines = "".join(f"{name}: {value}\r\n" for name, value in audited.fields())
        client.send(f"POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: {len(call())}\r\n\r\n".encode() + call())
        until(asked_for.is_set)
        if answered:
            client.read_until(b"data: 1")
        client.close()
    audited.daemon.record(end="client-gone")
    gone.set()
    audited.daemon.stop()
    (line,) = audited.lines(1)
    assert (line["status"], line.get("outcome")) == ((200, "none") if answered else (499, None))


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_stream_that_a_stop_cuts_is_told_and_signed(spoken: str, audited: Audited) -> None:
    def script(link: Link) -> None:
        link.read_request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n")
        link.hang()

    speaker = audited.start(spoken, script, drain="200ms")
    if speaker.is_h2:
        speaker.connection_h2().call(body=call(), fields=audited.fields()).read_until(b"data: 1")
    else:
        client = speaker.connection_h1()
        lines = "".join(f"{name}: {value}\r\n" for name, value in audited.fields())
        client.send(f"POST /mcp HTTP/1.1\r\nHost: a\r\n{lines}Content-Length: {len(call())}\r\n\r\n".encode() + call())
        client.read_until(b"data: 1")
    audited.daemon.signal(signal.SIGTERM)
    audited.daemon.wait()
    (line,) = audited.lines(1)
    assert line["status"] == 200
    assert "signed up to line" in audited.verify()


# --- the chain


def test_the_chain_holds_over_rotation_and_restart(audited: Audited) -> None:
    speaker = audited.start("plain", answer(response(OK)))
    for _ in range(5):
        speaker.ask(call(), audited.fields())
    audited.lines(5)
    audited.file.rename(f"{audited.file}.1")
    audited.daemon.signal(signal.SIGUSR1)
    until(audited.file.exists, "a new file")
    for _ in range(3):
        speaker.ask(call(), audited.fields())
    audited.lines(3)
    speaker.close()
    speaker = audited.again("plain")
    for _ in range(2):
        speaker.ask(call(), audited.fields())
    audited.lines(5)
    audited.daemon.stop()
    assert "10 calls" in audited.verify()
    changed = audited.file.read_bytes().replace(b'"tool":"add"', b'"tool":"rm"', 1)
    audited.file.write_bytes(changed)
    audited.verify(status=1)


def allow_files_of(daemon: Daemon, size: int | None) -> None:
    """What a full disk is like for a process: no file grows beyond `size`."""
    _, hard = resource.prlimit(daemon.worker, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.worker, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_full_disk_blocks_calls_and_then_they_go_on(spoken: str, audited: Audited) -> None:
    speaker = audited.start(spoken, answer(response(OK)), audit={"when_full": "block"})
    fields = audited.fields()
    assert speaker.ask(call(), fields).status == 200
    audited.lines(1)
    allow_files_of(audited.daemon, audited.file.stat().st_size)
    until(lambda: speaker.ask(call("add", "b"), fields).status == 503, "calls are refused")
    found = speaker.ask(call("add", "b"), fields)
    assert (found.reason, found.json["id"]) == ("audit-unavailable", "b")
    assert speaker.ask(None, fields, method="GET").status == 200  # calls nothing
    reached = len(audited.upstream.requests())
    assert speaker.ask(call(), fields).status == 503
    assert speaker.ask(b"no json", fields).status == 503
    assert len(audited.upstream.requests()) == reached
    allow_files_of(audited.daemon, None)
    until(lambda: speaker.ask(call(), fields).status == 200, "calls go on")
    audited.daemon.stop()
    calls = sum(request.method == b"POST" for request in audited.upstream.requests())
    assert len(audited.lines(calls)) == calls
    audited.verify()


def test_a_full_disk_is_counted_and_told(audited: Audited) -> None:
    speaker = audited.start("plain", answer(response(OK)))
    fields = audited.fields()
    assert speaker.ask(call(), fields).status == 200
    audited.lines(1)
    allow_files_of(audited.daemon, audited.file.stat().st_size)
    for _ in range(5):
        assert speaker.ask(call(), fields).status == 200
    until(lambda: [message for message in audited.daemon.messages if "lines are lost" in message], "it says so")
    for _ in range(5):
        assert speaker.ask(call(), fields).status == 200
    until(lambda: audited.daemon.signal(signal.SIGUSR1) or [each for each in audited.daemon.messages if '"lost":5' in each], "it counts")
    allow_files_of(audited.daemon, None)
    until(lambda: speaker.ask(call(), fields).status == 200 and any("can be written again" in each for each in audited.daemon.messages))
    audited.daemon.stop()
    told = [json.loads(line) for line in audited.file.read_bytes().splitlines()]
    lost = sum(line["count"] for line in told if line["type"] == "lost")
    assert lost
    assert lost + sum(line["type"] == "call" for line in told) == len(audited.upstream.requests())
    audited.verify()


# --- what is unusual


def counted(daemon: Daemon) -> Line:
    """What it counted of its audit log, as it says when asked."""
    before = len(daemon.messages)

    def told() -> list[str]:
        return [message for message in daemon.messages[before:] if " counts " in message]

    daemon.signal(signal.SIGUSR1)
    (said,) = until(told, "counts")
    found: Line = json.loads(said.partition(" counts ")[2])["audit"]
    return found


@pytest.mark.parametrize("spoken", ["plain", "h2"])
def test_a_tool_a_caller_never_called_is_told_and_counted_and_nobody_is_stopped(spoken: str, audited: Audited) -> None:
    other = audited.keys.add("agent-beta")
    speaker = audited.start(spoken, answer(response(OK)), audit={"anomalies": True})
    for _ in range(KNOWN):
        assert speaker.ask(call("add"), audited.fields()).status == 200
    assert speaker.ask(call("search_new"), {"x-api-key": other}).status == 200  # of whom nothing is known
    assert speaker.ask(call("rm"), audited.fields()).status == 403  # which was no call
    assert audited.lines(KNOWN + 2) and counted(audited.daemon) == {"lost": 0, "warnings": 0, "blocked": False}
    for _ in range(3):
        assert speaker.ask(call("search_new"), audited.fields()).status == 200
    audited.lines(KNOWN + 5)
    assert counted(audited.daemon)["warnings"] == 1
    (line,) = audited.warnings()
    (first, *_) = audited.lines(3, tool="search_new", principal="agent-alpha")
    assert (line["kind"], line["principal"], line["tool"], line["calls"]) == ("new-tool", "agent-alpha", "search_new", KNOWN)
    assert (line["id"], line["key"], line["auth"]) == (first["id"], first["key"], "keys")
    audited.verify()
    speaker.close()
    speaker = audited.again(spoken)  # which remembers
    assert [speaker.ask(call(tool), audited.fields()).status for tool in ("search_new", "search_old")] == [200, 200]
    audited.daemon.stop()
    assert [line["tool"] for line in audited.warnings()] == ["search_new", "search_old"]
    audited.verify()


def test_ten_times_as_many_calls_as_usual_are_told_and_counted_and_nobody_is_stopped(audited: Audited) -> None:
    """A caller of whom ten quiet minutes are remembered."""
    state = audited.directory / "state"
    state.mkdir(mode=0o700)
    usual = {"calls": KNOWN, "tools": {"add": 1.0}, "minutes": MINUTES, "usual": 1.0}
    (state / HABITS).write_text(json.dumps({"agent-alpha": usual}))
    speaker = audited.start("plain", answer(response(OK)), audit={"anomalies": True})
    for _ in range(4 * LEAST):  # a minute may end meanwhile
        assert speaker.ask(call("add"), audited.fields()).status == 200
    audited.lines(4 * LEAST)
    assert counted(audited.daemon)["warnings"] == 1
    (line,) = audited.warnings()
    assert (line["kind"], line["principal"]) == ("many-calls", "agent-alpha")
    assert line["calls_per_minute"] >= LEAST
    audited.verify()


def test_without_anomalies_nothing_is_told(audited: Audited) -> None:
    speaker = audited.start("plain", answer(response(OK)))
    for tool in (*["add"] * KNOWN, "search_new"):
        assert speaker.ask(call(tool), audited.fields()).status == 200
    audited.lines(KNOWN + 1)
    assert counted(audited.daemon)["warnings"] == 0
    audited.daemon.stop()
    assert audited.warnings() == []
