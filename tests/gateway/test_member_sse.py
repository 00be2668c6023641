"""HTTP+SSE: where messages are posted to, and streams that are lost."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.gateway import member_sse
from mcpproxy.gateway.member_sse import SseConversation, target_of
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, TOO_LARGE, Answer, Unavailable
from tests.gateway.peer import EVENTS
from tests.gateway.room import Room
from tests.support.gateway import SomeClient, SomeHub, call
from tests.support.message import Message
from tests.support.upstream import Link, ScriptedUpstream, response


class Streams:
    """A server of HTTP+SSE. `mute`: methods it takes and never answers; `endpoint`: what it says instead of its own; `only`: where its stream is."""

    def __init__(self, *, mute: frozenset[str] = frozenset(), endpoint: str = "", only: bytes = b"") -> None:
        self.mute, self.endpoint, self.only = mute, endpoint, only
        self.looked: list[bytes] = []  # elsewhere
        self.streams: list[Link] = []
        self.posts: list[Message] = []
        self.lock = threading.Lock()

    def upstream(self) -> ScriptedUpstream:
        return ScriptedUpstream(self.play)

    def said(self, method: str) -> list[Any]:
        with self.lock:
            found = [json.loads(told.body) for told in self.posts if told.body]
        return [each for each in found if each.get("method") == method]

    def play(self, link: Link) -> None:
        while True:
            told = link.read_request()
            if self.only and not told.target.startswith((self.only, b"/messages")):
                self.looked.append(told.target)
                link.send(response(b"no", status="404 Not Found"))
                continue
            if told.method == b"GET":
                with self.lock:
                    self.streams.append(link)
                    number = len(self.streams)
                self.send(link, "endpoint", self.endpoint or f"/messages?session={number}", head=EVENTS)
                link.read_until_closed()
                return
            with self.lock:
                self.posts.append(told)
            number = int(told.target.partition(b"session=")[2] or b"0")
            if number != len(self.streams) or not number:
                link.send(response(b"nobody", status="404 Not Found"))
                continue
            link.send(response(b"Accepted", status="202 Accepted"))
            asked = json.loads(told.body)
            if "id" in asked and "method" in asked and asked["method"] not in self.mute:
                said = {"said": asked["method"]}
                if asked["method"] == "initialize":
                    said = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": {"name": "x"}}
                self.says({"jsonrpc": "2.0", "id": asked["id"], "result": said})

    def cut(self) -> None:
        """The present stream ends in the midst."""
        self.streams[-1].raw.shutdown(socket.SHUT_RDWR)

    def says(self, told: Any) -> None:
        self.send(self.streams[-1], "message", json.dumps(told))

    def send(self, link: Link, kind: str, data: str, head: bytes = b"") -> None:
        text = f"event: {kind}\r\ndata: {data}\r\n\r\n".encode()
        link.send(head + b"%x\r\n%b\r\n" % (len(text), text))


class Talk:
    def __init__(self, room: Room, url: str, **config: Any) -> None:
        self.room, self.hub, self.client = room, SomeHub(), SomeClient("s")
        upstream = Upstream(urls=(url,), mcp_path="/sse", max_message=10_000, **config)

        async def make() -> SseConversation:
            return SseConversation("peer", room.outgoing(url), upstream, self.hub, owner=self.client, greeting=10.0)

        self.conversation = room.run(make())

    def begin(self) -> "Talk":
        self.room.run(self.conversation.begin())
        return self

    def start(self, method: str, params: object = None) -> "asyncio.Task[Answer]":
        return self.room.loop._uv.create_task(self.conversation.ask(call(method, params, client=self.client)))

    def ask(self, method: str, params: object = None) -> Answer:
        return self.room.run(asyncio.wait_for(self.conversation.ask(call(method, params, client=self.client)), 30))


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


def code(answer: Answer) -> int:
    assert answer.error is not None
    return int(json.loads(answer.error)["code"])


TOOL = {"name": "tool"}


def test_calls_are_answered_by_the_stream_and_requests_of_the_server_by_posts(room: Room) -> None:
    streams = Streams()
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert json.loads(talk.ask("tools/call", TOOL).result or b"") == {"said": "tools/call"}
        streams.says({"jsonrpc": "2.0", "id": "r", "method": "roots/list"})
        streams.says({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        room.until(lambda: talk.hub.heard_of and any(b'"r"' in told.body for told in streams.posts))
        assert talk.hub.asked_of[0][2] == "roots/list"
        assert streams.said("notifications/initialized")
        room.run(talk.conversation.close())
        assert streams.streams[0].ended.wait(10)


def test_a_stream_that_is_lost_fails_its_calls_at_once_and_the_next_one_begins_anew(room: Room) -> None:
    streams = Streams(mute=frozenset({"tools/call"}))
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        talk.ask("logging/setLevel", {"level": "info"})
        talk.ask("resources/subscribe", {"uri": "a:1"})
        waiting = [talk.start("tools/call", TOOL) for _ in range(3)]
        room.until(lambda: len(streams.said("tools/call")) == 3)
        streams.cut()
        room.until(lambda: all(task.done() for task in waiting))
        assert {code(task.result()) for task in waiting} == {MEMBER_LOST}
        assert talk.hub.changes == [("peer", False)]
        streams.mute = frozenset()
        answer = talk.ask("tools/call", TOOL)
        assert (answer.recovered, json.loads(answer.result or b"")) == (True, {"said": "tools/call"})
        assert [each["params"] for each in streams.said("logging/setLevel")] == [{"level": "info"}] * 2
        assert [each["params"] for each in streams.said("resources/subscribe")] == [{"uri": "a:1"}] * 2
        assert (talk.conversation.renewals, talk.hub.changes[-1]) == (1, ("peer", True))
        assert not talk.ask("tools/call", TOOL).recovered


def test_what_may_be_done_twice_is_asked_again_in_a_new_stream(room: Room) -> None:
    streams = Streams(mute=frozenset({"tools/list"}))
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        task = talk.start("tools/list")
        room.until(lambda: streams.said("tools/list"))
        streams.mute = frozenset()
        streams.cut()
        room.until(task.done)
        assert task.result().recovered
        assert len(streams.said("tools/list")) == 2


def test_a_session_that_the_server_does_not_know_is_lost(room: Room) -> None:
    streams = Streams()
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        streams.streams.append(streams.streams[0])
        assert talk.ask("tools/list").recovered
        assert len(streams.said("tools/list")) == 2


def test_an_event_beyond_all_bounds_ends_the_stream(room: Room) -> None:
    streams = Streams(mute=frozenset({"tools/call"}))
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        task = talk.start("tools/call", TOOL)
        room.until(lambda: streams.said("tools/call"))
        streams.says({"jsonrpc": "2.0", "id": 2, "result": "a" * 20_000})
        room.until(task.done)
        assert code(task.result()) in (MEMBER_LOST, TOO_LARGE)


@pytest.mark.parametrize(
    "endpoint", ["http://elsewhere.example/messages", "https://127.0.0.1:1/messages", "//elsewhere/x", "/a b", "http://[x"]
)
def test_messages_are_posted_to_no_other_origin(room: Room, endpoint: str) -> None:
    with Streams(endpoint=endpoint).upstream() as upstream:
        with pytest.raises(Unavailable, match="somewhere else"):
            Talk(room, upstream.url).begin()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("/messages?s=1", b"/messages?s=1"),
        ("messages", b"/a/messages"),
        ("?s=1", b"/a/sse?s=1"),
        ("http://host:1/m", b"/m"),
        ("", b"/a/sse"),
    ],
)
def test_the_place_is_told_as_urls_are(said: str, expected: bytes) -> None:
    assert target_of(said, "/a/sse", "host:1", secure=False) == expected


def test_a_server_that_never_says_where_is_unavailable(room: Room) -> None:
    def silent(link: Link) -> None:
        link.read_request()
        link.send(EVENTS)
        link.read_until_closed()

    def closes(link: Link) -> None:
        link.read_request()
        link.send(EVENTS)

    for script in (silent, closes):
        with ScriptedUpstream(script) as upstream:
            talk = Talk(room, upstream.url)
            talk.conversation._greeting = 0.2
            with pytest.raises(Unavailable):
                talk.begin()
            assert script is closes or upstream.links[0].ended.wait(10)


def test_nobody_there_is_told(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_sse, "POST_S", 0.2)
    streams = Streams()
    with streams.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
    room.until(lambda: talk.hub.changes)
    assert code(talk.ask("tools/call", TOOL)) == MEMBER_UNAVAILABLE
