"""Sessions stay with the replica that opened them, for the caller that opened them: over every way to ask, on every worker, and on every node with the keys."""

import hashlib
import itertools
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mcpproxy.config.sealfile import new_file, parse, rotated
from mcpproxy.policy.apikey import new_key
from tests.scenarios.conftest import Run
from tests.support.certs import Certificate
from tests.support.client import RawClient, get, post
from tests.support.daemon import Daemon, simple_config
from tests.support.message import Message, read_response
from tests.support.talk import WAYS, Answer, Talk, listen
from tests.support.upstream import Link, ScriptedUpstream, response
from tests.support.waiting import until

INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"whoami"}}'
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Replica:
    """A server with sessions of its own, as the SDKs' are: Streamable HTTP at any path, HTTP+SSE at /sse and /messages/."""

    def __init__(self, name: str, port: int = 0) -> None:
        self.name = name
        self.sessions: set[bytes] = set()
        self.streams: dict[bytes, Link] = {}
        self.heads: list[Message] = []
        self.numbers = itertools.count()
        self.cut: Callable[[bytes], list[bytes]] = lambda data: [data]  # how an endpoint event is sent
        self.sse_head = SSE_HEAD + CHUNKED
        self.origin = b""
        self.server = ScriptedUpstream(self.play, port=port)
        self.url = self.server.url

    def play(self, link: Link) -> None:
        while True:
            request = link.read_request()
            self.heads.append(request)
            if request.target.startswith(b"/sse"):
                self.stream(link)
            elif request.target.startswith(b"/messages/"):
                link.send(self.message(request))
            else:
                link.send(self.reply(request))

    def fresh(self) -> bytes:
        return hashlib.md5(f"{self.name}{next(self.numbers)}".encode()).hexdigest().encode()

    def reply(self, request: Message) -> bytes:
        session = request.first("mcp-session-id")
        if session is None and b'"initialize"' in request.body:
            session = self.fresh()
            self.sessions.add(session)
        elif session is None:
            return response(b"{}", status="400 Bad Request", extra=f"Mcp-Session-Id: {self.fresh().decode()}\r\n")  # as mcp 2.x does
        elif session not in self.sessions:
            return response(b"{}", status="404 Not Found")
        if request.method == b"DELETE":
            self.sessions.discard(session)
        said = json.dumps({"server": self.name, "after": (request.first("last-event-id") or b"").decode()}).encode()
        return response(said, extra=f"mcp-session-id: {session.decode()}\r\n")  # as mcp 1.x does, on every answer

    def stream(self, link: Link) -> None:
        session = self.fresh()
        self.streams[session] = link
        data = b"event: endpoint\r\ndata: " + self.origin + b"/messages/?session_id=" + session + b"\r\n\r\n"
        bare = b"chunked" not in self.sse_head
        link.send(self.sse_head + b"\r\n")
        for piece in self.cut(data):
            link.send(piece if bare else chunk(piece))

    def message(self, request: Message) -> bytes:
        session = re.search(rb"\?session_id=([0-9a-f]+)\Z", request.target)
        link = self.streams.get(session[1]) if session else None
        if link is None:
            return response(b"{}", status="404 Not Found")
        event = b"event: message\r\ndata: " + json.dumps({"server": self.name}).encode() + b"\r\n\r\n"
        link.send(event if b"chunked" not in self.sse_head else chunk(event))
        return response(b"Accepted", status="202 Accepted", content_type="text/plain")


@pytest.fixture
def three() -> Iterator[list[Replica]]:
    replicas = [Replica(name) for name in "abc"]
    with ExitStack() as stack:
        for replica in replicas:
            stack.enter_context(replica.server)
        yield replicas


Sealed = list[tuple[str, str]]


def opened(talk: Talk, fields: Sealed | None = None) -> tuple[str, str]:
    """A new session: its id, and which replica has it."""
    answer = talk.ask(fields or [], body=INITIALIZE)
    assert answer.status == 200
    sealed = answer.first("mcp-session-id")
    assert sealed is not None
    return sealed.decode(), json.loads(answer.body)["server"]


def asked(talk: Talk, session: str, *more: tuple[str, str], **changes: Any) -> Answer:
    return talk.ask([("Mcp-Session-Id", session), *more], **({"body": CALL} | changes))


def reason(answer: Answer) -> str:
    told = json.loads(answer.body)
    assert told["jsonrpc"] == "2.0"
    found: str = told["error"]["data"]["reason"]
    return found


def urls(replicas: list[Replica]) -> list[str]:
    return [replica.url for replica in replicas]


@pytest.mark.parametrize("way", WAYS)
def test_a_session_stays_where_it_was_opened(run: Run, three: list[Replica], way: str, certificate: Certificate) -> None:
    daemon = run(*urls(three), listen=listen(way, certificate))
    with Talk(daemon, way, certificate) as talk:
        sessions = [opened(talk) for _ in range(6)]
        assert len({name for _, name in sessions}) > 1
        for _ in range(4):
            for session, name in sessions:
                answer = asked(talk, session)
                assert json.loads(answer.body)["server"] == name
                assert answer.first("mcp-session-id") is None, "it is named once, in the answer that opens it"
        session, name = sessions[0]
        assert json.loads(asked(talk, session, ("Last-Event-ID", "7"), method="GET").body) == {"server": name, "after": "7"}
        assert asked(talk, session, method="DELETE").status == 200
        assert asked(talk, session).status == 404, "says the server itself"
    seen = [each for replica in three for head in replica.heads for each in head.all("mcp-session-id")]
    assert seen
    assert all(len(each) == 32 for each in seen), "a server sees its own ids alone"


@pytest.mark.parametrize("way", WAYS)
def test_a_fresh_id_on_a_refusal_is_no_session(run: Run, three: list[Replica], way: str, certificate: Certificate) -> None:
    daemon = run(*urls(three), listen=listen(way, certificate))
    with Talk(daemon, way, certificate) as talk:
        answer = talk.ask(body=CALL)
        assert answer.status == 400
        assert answer.first("mcp-session-id") is None


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_seal_of_ours_is_404(run: Run, three: list[Replica], way: str, certificate: Certificate) -> None:
    daemon = run(*urls(three), listen=listen(way, certificate))
    with Talk(daemon, way, certificate) as talk:
        session, _ = opened(talk)
        before = [len(replica.heads) for replica in three]
        raw = next(iter(set.union(*(replica.sessions for replica in three)))).decode()
        changed = session[:-2] + ("A" if session[-2] != "A" else "B") + session[-1]
        for each in (raw, changed, session[:-1], session + "A", "x"):
            answer = asked(talk, each)
            assert (answer.status, reason(answer)) == (404, "session-unknown")
        assert [len(replica.heads) for replica in three] == before, "no server was asked"
        twice = talk.ask([("Mcp-Session-Id", session), ("mcp-session-id", session)], body=CALL)
        assert (twice.status, reason(twice)) == (400, "header-mismatch")
        assert asked(talk, session).status == 200


def test_it_is_the_callers_alone(run: Run, three: list[Replica], certificate: Certificate, tmp_path: Path) -> None:
    keys, lines = {}, []
    for name in ("agent-a", "agent-b"):
        made = new_key()
        keys[name] = made.text
        lines.append(json.dumps({"id": made.id, "name": name, "created": "2026-11-21T00:00:00Z", "hash": made.hash}))
    (tmp_path / "keys").write_text("\n".join(lines) + "\n")
    (tmp_path / "keys").chmod(0o600)
    daemon = run(*urls(three), route={"auth": "k"}, auth={"k": {"type": "api-key", "file": str(tmp_path / "keys")}})
    ours, theirs = [("X-API-Key", keys["agent-a"])], [("X-API-Key", keys["agent-b"])]
    with Talk(daemon, "plain", certificate) as talk:
        session, name = opened(talk, ours)
        assert json.loads(asked(talk, session, *ours).body)["server"] == name
        for _ in range(3):
            answer = asked(talk, session, *theirs)
            assert (answer.status, reason(answer)) == (404, "session-unknown")
        assert asked(talk, session).status == 401
        assert json.loads(asked(talk, session, *ours).body)["server"] == name


def test_a_replica_that_is_gone_takes_its_sessions_with_it(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three))
    with Talk(daemon, "plain", certificate) as talk:
        sessions = {name: session for session, name in (opened(talk) for _ in range(3))}
        three[1].server.listener.shutdown(socket.SHUT_RDWR)
        three[1].server.close()
        until(lambda: all(link.raw.fileno() < 0 for link in three[1].server.links), "its links are closed")
        before = len(three[0].heads) + len(three[2].heads)
        answer = asked(talk, sessions["b"])
        assert (answer.status, reason(answer)) == (404, "session-lost")
        assert len(three[0].heads) + len(three[2].heads) == before, "it was not tried elsewhere"
        assert daemon.record(reason="session-lost")["status"] == 404
        for name in ("a", "c"):
            assert json.loads(asked(talk, sessions[name]).body)["server"] == name
        assert opened(talk)[1] in ("a", "c"), "and a new one is opened elsewhere"


def test_replicas_may_be_reordered_and_taken_out(three: list[Replica], certificate: Certificate, tmp_path: Path) -> None:
    def node(replicas: list[Replica]) -> Daemon:
        return Daemon(simple_config(*urls(replicas), upstream={"affinity": "on"}), tmp_path)

    with node(three) as daemon, Talk(daemon, "plain", certificate) as talk:
        sessions = {name: session for session, name in (opened(talk) for _ in range(3))}
    with node([three[2], three[0]]) as daemon, Talk(daemon, "plain", certificate) as talk:
        for name in ("a", "c"):
            assert json.loads(asked(talk, sessions[name]).body)["server"] == name
        answer = asked(talk, sessions["b"])
        assert (answer.status, reason(answer)) == (404, "session-lost")
    with node(three[:1]) as daemon, Talk(daemon, "plain", certificate) as talk:
        assert json.loads(asked(talk, sessions["a"]).body)["server"] == "a"


@pytest.mark.parametrize(("state", "served"), [("drain", True), ("disabled", False)])
def test_a_drained_replica_keeps_its_sessions_and_a_disabled_one_none(
    three: list[Replica], certificate: Certificate, tmp_path: Path, state: str, served: bool
) -> None:
    with Daemon(simple_config(*urls(three)), tmp_path) as daemon, Talk(daemon, "plain", certificate) as talk:
        sessions = {name: session for session, name in (opened(talk) for _ in range(3))}
    out = {"endpoints": {three[1].url: {"state": state}}}
    with Daemon(simple_config(*urls(three), upstream=out), tmp_path) as daemon, Talk(daemon, "plain", certificate) as talk:
        assert {opened(talk)[1] for _ in range(6)} == {"a", "c"}
        answer = asked(talk, sessions["b"])
        if served:
            assert json.loads(answer.body)["server"] == "b"
        else:
            assert (answer.status, reason(answer)) == (404, "session-lost")


def test_an_id_expires(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three), affinity={"ttl": "2s"})
    with Talk(daemon, "plain", certificate) as talk:
        session, name = opened(talk)
        answers: list[Answer] = []

        def expired() -> bool:
            answers.append(asked(talk, session))
            return answers[-1].status != 200

        until(expired, "it expires")
        assert (answers[-1].status, reason(answers[-1])) == (404, "session-expired")
        assert all(json.loads(answer.body)["server"] == name for answer in answers[:-1])


def test_every_worker_knows_every_session(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three), workers=2)
    until(lambda: any("serving" in message for message in daemon.messages), "all serve")
    workers: set[bytes] = set()
    with Talk(daemon, "plain", certificate) as talk:
        sessions = [opened(talk) for _ in range(3)]

    def both() -> bool:
        with Talk(daemon, "plain", certificate) as talk:
            for session, name in sessions:
                assert json.loads(asked(talk, session).body)["server"] == name
        workers.update((head.first("x-request-id") or b"").partition(b"-")[0] for replica in three for head in list(replica.heads))
        return len(workers) == 2

    until(both, "both workers were met")
    assert (Path(daemon.file).parent / "state" / "session.keys").stat().st_mode & 0o777 == 0o600


def test_nodes_with_the_same_keys_know_each_others_sessions_while_keys_change(
    three: list[Replica], certificate: Certificate, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(new_file())
    keys.chmod(0o600)
    with ExitStack() as stack:
        talks = []
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            daemon = stack.enter_context(Daemon(simple_config(*urls(three), affinity={"key_file": str(keys)}), tmp_path / str(number)))
            talks.append(stack.enter_context(Talk(daemon, "plain", certificate)))
        session, name = opened(talks[0])
        for talk in talks:
            assert json.loads(asked(talk, session).body)["server"] == name

        def change(data: bytes) -> None:
            for talk in talks:
                talk.daemon.messages.clear()
            beside = tmp_path / "keys.new"
            beside.write_bytes(data)
            beside.chmod(0o600)
            beside.replace(keys)
            for talk in talks:
                until(lambda talk=talk: any("keys of sessions were read again" in each for each in talk.daemon.messages), "it noticed")

        change(rotated(keys.read_bytes(), 3))
        assert len(parse(keys.read_bytes())) == 2
        newer, other = opened(talks[1])
        for talk in talks:
            assert json.loads(asked(talk, session).body)["server"] == name
            assert json.loads(asked(talk, newer).body)["server"] == other
        change(rotated(keys.read_bytes(), 1))
        for talk in talks:
            assert reason(asked(talk, session)) == "session-unknown", "its key is gone, and with it what was remembered"
            assert json.loads(asked(talk, newer).body)["server"] == other


def test_without_affinity_ids_pass_as_they_are(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three), upstream={"affinity": "off"})
    with Talk(daemon, "plain", certificate) as talk:
        session, _ = opened(talk)
        assert session.encode() in set.union(*(replica.sessions for replica in three))
        assert 404 in [asked(talk, session).status for _ in range(3)], "that is what affinity is for"


def test_one_address_is_transparent_unless_told_otherwise(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(three[0].url)
    with Talk(daemon, "plain", certificate) as talk:
        session, _ = opened(talk)
        assert session.encode() in three[0].sessions
        assert asked(talk, session).first("mcp-session-id") == session.encode()
    assert not (Path(daemon.file).parent / "state" / "session.keys").exists()


def test_the_modern_era_has_no_sessions(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three))
    with Talk(daemon, "plain", certificate) as talk:
        session, _ = opened(talk)
        before = sum(len(replica.heads) for replica in three)
        for each in (session, "left-over"):
            assert asked(talk, each, ("MCP-Protocol-Version", "2026-07-28")).status == 400, "the server's word: it named none"
        assert sum(len(replica.heads) for replica in three) == before + 2
        assert asked(talk, session, ("MCP-Protocol-Version", "2025-11-25")).status == 200


def test_logs_show_one_name_for_a_session(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three))
    with Talk(daemon, "plain", certificate) as talk:
        session, _ = opened(talk)
        asked(talk, session)
        talk.ask(body=CALL)
    short = hashlib.sha256(session.encode()).hexdigest()[:12]
    first, second, third = daemon.wait_records(3)
    assert first["new_session"] == second["session"] == short
    assert "new_session" not in {**second, **third}
    assert session not in json.dumps(daemon.records)


# -- HTTP+SSE


def cuts(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def sse(talk: Talk, path: str = "/sse") -> tuple[bytes, Callable[[bytes], bytes]]:
    """A stream: where to post, and how to read on."""
    reads = talk.h2.call("GET", path) if talk.h2 is not None else talk.raw.send(get(path))
    begin = reads.read_until(b"session_id=").rpartition(b"data: ")[2]
    return begin + reads.read_until(b"\r\n").removesuffix(b"\r\n"), reads.read_until


@pytest.mark.parametrize("cut", [lambda data: [data], cuts, lambda data: [b": hi\r\n\r\n", data[:20], data[20:] + b": on\r\n\r\n"]])
@pytest.mark.parametrize("head", [SSE_HEAD + CHUNKED, SSE_HEAD + b"Connection: close\r\n"])
@pytest.mark.parametrize("way", WAYS)
def test_messages_go_to_the_replica_that_has_the_stream(
    run: Run, three: list[Replica], way: str, certificate: Certificate, head: bytes, cut: Callable[[bytes], list[bytes]]
) -> None:
    for replica in three:
        replica.sse_head, replica.cut = head, cut
    daemon = run(*urls(three), listen=listen(way, certificate))
    with ExitStack() as stack:
        for _ in range(3):
            reader = stack.enter_context(Talk(daemon, way, certificate))
            url, read_until = sse(reader)
            assert url.startswith(b"/messages/?session_id=")
            assert not any(session in url for replica in three for session in replica.streams)
            with Talk(daemon, way, certificate) as talk:
                for _ in range(4):
                    answer = talk.ask(path=url.decode(), body=CALL)
                    assert (answer.status, answer.body) == (202, b"Accepted")
                    assert b'"server"' in read_until(b"}\r\n\r\n")
                changed = url[:-2] + (b"A" if url[-2:-1] != b"A" else b"B") + url[-1:]
                answer = talk.ask(path=changed.decode(), body=CALL)
                assert (answer.status, reason(answer)) == (404, "session-unknown")
                raw = next(iter(next(replica for replica in three if replica.streams).streams)).decode()
                assert talk.ask(path=f"/messages/?session_id={raw}", body=CALL).status == 404
    assert sorted(len(replica.streams) for replica in three) == [1, 1, 1]
    for replica in three:
        targets = [head.target for head in replica.heads if head.method == b"POST"]
        assert targets == [b"/messages/?session_id=" + next(iter(replica.streams))] * 4


def test_a_url_with_the_servers_own_origin_becomes_a_path(run: Run, three: list[Replica], certificate: Certificate) -> None:
    for replica in three:
        replica.origin = replica.url.encode()
    daemon = run(*urls(three))
    with Talk(daemon, "plain", certificate) as reader, Talk(daemon, "plain", certificate) as talk:
        url, read_until = sse(reader)
        assert url.startswith(b"/messages/?session_id=")
        assert talk.ask(path=url.decode(), body=CALL).status == 202
        assert b'"server"' in read_until(b"}\r\n\r\n")
    opening = daemon.record(path="/sse")
    assert opening["new_session"] == daemon.record(path="/messages/")["session"]


def test_a_stream_without_an_endpoint_event_is_passed_on_as_it_is(run: Run, certificate: Certificate) -> None:
    go_on = threading.Event()
    events = [b"data: one\n\n", b": ping\n\n", b"event: endpoint\ndata: /messages/?session_id=ab\n\n"]

    def script(link: Link) -> None:
        request = link.read_request()
        assert request.first("accept-encoding") is None
        link.send(SSE_HEAD + CHUNKED + b"\r\n" + chunk(events[0]))
        link.wait(go_on)
        for each in events[1:]:
            link.send(chunk(each))
        link.send(b"0\r\nx-sum: 1\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"affinity": "on"})
        with daemon.client() as client:
            client.send(get("/sse", extra="Accept-Encoding: gzip\r\n"))
            client.read_until(b"one\n\n")
            go_on.set()
            assert client.read_until(b"0\r\nx-sum: 1\r\n\r\n").endswith(b"".join(map(chunk, events[1:])) + b"0\r\nx-sum: 1\r\n\r\n")


@pytest.mark.parametrize(
    "sent", [b"", b"event: endpoint\n", b"event: endpoint\ndata: /m\n\n", b": x\n\n", b"event: endpoint\ndata: /m\n\ndata: 1\n\n"]
)
def test_a_stream_that_ends_early_ends_well(run: Run, sent: bytes, certificate: Certificate) -> None:
    def script(link: Link) -> None:
        while True:
            link.read_request()
            link.send(SSE_HEAD + CHUNKED + b"\r\n" + (chunk(sent) if sent else b"") + b"0\r\nx-sum: 1\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"affinity": "on"}, listen=listen("h2", certificate))
        for way in ("tls", "h2"):
            with Talk(daemon, way, certificate) as talk:
                body = talk.ask(method="GET", path="/sse").body
                assert re.sub(rb"\?session_id=[A-Za-z0-9_-]+", b"", body) == sent
        assert all(record["end"] == "done" for record in daemon.wait_records(2))


@pytest.mark.parametrize("at", range(0, 130, 3))
def test_wherever_a_segment_ends(run: Run, at: int) -> None:
    """The framing, too, is cut: one chunk with two events, in two segments."""
    data = b"event: endpoint\r\ndata: /messages/?session_id=ab\r\n\r\nevent: message\r\ndata: {}\r\n\r\n"
    wire = chunk(data) + chunk(b"data: 2\r\n\r\n") + b"0\r\n\r\n"
    held = threading.Event()

    def script(link: Link) -> None:
        link.read_request()
        link.send(SSE_HEAD + CHUNKED + b"\r\n" + wire[:at])
        link.wait(held)
        link.send(wire[at:])
        link.read_until_closed()

    with ScriptedUpstream(script) as upstream:
        daemon = run(upstream.url, upstream={"affinity": "on"})
        with daemon.client() as client:
            head = client.send(get("/sse")).read_until(b"\r\n\r\n")
            held.set()
            answer, _ = read_response(head + client.read_until(b"\r\n0\r\n\r\n"))
        assert answer is not None
        sealed = re.search(rb"session_id=([A-Za-z0-9_-]+)", answer.body)
        assert sealed is not None
        assert answer.body.replace(sealed[1], b"ab") == data + b"data: 2\r\n\r\n"


def test_keys_that_cannot_be_used_are_said_at_the_start(three: list[Replica], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("words\n")
    os.chmod(tmp_path / "keys", 0o600)
    daemon = Daemon(simple_config(*urls(three), affinity={"key_file": str(tmp_path / "keys")}), tmp_path, ready=False)
    assert daemon.wait() == 1
    assert "affinity.key_file" in "\n".join(daemon.messages)
    assert "words" not in "\n".join(daemon.messages).replace("passwords", "")


def test_pipelined_requests_of_several_sessions(run: Run, three: list[Replica], certificate: Certificate) -> None:
    daemon = run(*urls(three))
    with Talk(daemon, "plain", certificate) as talk:
        sessions = [opened(talk) for _ in range(3)]
    with RawClient(("127.0.0.1", daemon.port())) as client:
        client.send(b"".join(post(CALL, extra=f"Mcp-Session-Id: {session}\r\n") for session, _ in sessions))
        assert [json.loads(client.response().body)["server"] for _ in sessions] == [name for _, name in sessions]
