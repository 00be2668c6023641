"""A conversation over Streamable HTTP on bad days: sessions that are lost, answers that are none, and what is told to a server."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.gateway import streamable
from mcpproxy.gateway.parts import MEMBER_LOST, MEMBER_UNAVAILABLE, TIMED_OUT, TOO_LARGE, Answer, Call, Era, Unavailable
from mcpproxy.gateway.streamable import HttpConversation
from tests.gateway.peer import EVENTS, LAST, Peer, Told, event, modern, plain, result, sse
from tests.gateway.room import Room
from tests.support.gateway import SomeCall, SomeClient, SomeHub, call
from tests.support.ports import free_port
from tests.support.upstream import Link, response

TOOL = {"name": "tool", "arguments": {"n": 1}}


class Talk:
    """A conversation with a peer."""

    def __init__(self, room: Room, url: str, *others: str, **config: Any) -> None:
        self.room, self.hub, self.client = room, SomeHub(), SomeClient("s")
        config = {"max_message": 100_000, "call_timeout": 30.0, **config}
        upstream = Upstream(urls=(url,), **config)

        async def make() -> HttpConversation:
            return HttpConversation("peer", room.outgoing(url, *others), upstream, self.hub, owner=self.client, greeting=10.0)

        self.conversation = room.run(make())

    def begin(self) -> "Talk":
        self.room.run(self.conversation.begin())
        return self

    def ask(self, method: str, params: object = None, **more: Any) -> Answer:
        made = call(method, params, client=self.client, **more)
        return self.asks(made)

    def asks(self, made: Call) -> Answer:
        return self.room.run(asyncio.wait_for(self.conversation.ask(made), 30))

    def close(self) -> None:
        self.room.run(self.conversation.close())


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(streamable, "RESTART_S", 1.0)
    made = Room()
    yield made
    made.close()


def code(answer: Answer) -> int:
    assert answer.error is not None, answer.result
    return int(json.loads(answer.error)["code"])


def lists(*tools: dict[str, Any]) -> Any:
    return lambda link, told: link.send(plain(result(told, {"tools": list(tools)})))


# -- how it begins and ends


def test_a_session_is_begun_used_and_ended(room: Room) -> None:
    peer = Peer()
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert (talk.conversation.server.era, talk.conversation.server.version) == (Era.LEGACY, "2025-11-25")
        assert talk.ask("tools/call", TOOL) == Answer(result=b'{"said":"tools/call"}')
        room.run(talk.conversation.tell("notifications/roots/list_changed", None))
        room.until(lambda: peer.of("GET"))
        talk.close()
    asked = {told.method: told for told in peer.told}
    assert list(dict.fromkeys(told.method for told in peer.told if told.method != "GET")) == [
        *("server/discover", "initialize", "notifications/initialized", "tools/call", "notifications/roots/list_changed", "DELETE")
    ]
    assert asked["initialize"].field("mcp-protocol-version") is None
    for method in ("notifications/initialized", "tools/call", "GET", "DELETE", "notifications/roots/list_changed"):
        assert asked[method].field("mcp-session-id") == "session-0"
        assert asked[method].field("mcp-protocol-version") == "2025-11-25"
    assert asked["tools/call"].field("accept") == "application/json, text/event-stream"
    assert asked["GET"].field("accept") == "text/event-stream"


def test_a_server_without_get_stream_is_asked_for_it_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "EAR_S", (0.01, 0.01))
    peer = Peer()
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        room.until(lambda: peer.of("GET"))
        room.for_a_while(0.2)
        assert len(peer.of("GET")) == 1
        talk.close()


def refuses(status: str, body: bytes = b"<html>no</html>") -> Any:
    return lambda link, told: link.send(response(body, status=status, content_type="text/html"))


@pytest.mark.parametrize(
    ("status", "no_streamable"), [("404 Not Found", True), ("405 No", True), ("200 OK", False), ("503 Busy", False), ("401 Who", False)]
)
def test_who_is_no_mcp_server_is_unavailable_and_asked_no_more(room: Room, status: str, no_streamable: bool) -> None:
    peer = Peer({"*": refuses(status)})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url)
        with pytest.raises(Unavailable):
            talk.begin()
        assert talk.conversation.no_streamable is no_streamable
        assert len(peer.told) <= 2


@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"])
def test_a_server_that_breaks_at_what_it_does_not_know_is_a_legacy_one(room: Room, broken: bytes) -> None:
    def breaks(link: Link, told: Told) -> None:
        link.send(broken)
        link.close()
        link.read_request()

    peer = Peer({"server/discover": breaks})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert talk.conversation.server.era is Era.LEGACY
        talk.close()


@pytest.mark.parametrize("said", [1, [], {}, {"protocolVersion": "2025-11-25", "capabilities": 1}])
def test_a_greeting_that_cannot_be_read_is_no_server(room: Room, said: Any) -> None:
    with Peer({"initialize": lambda link, told: link.send(plain(result(told, said)))}).upstream() as upstream:
        with pytest.raises(Unavailable):
            Talk(room, upstream.url).begin()


# -- answers that are none


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda told: response(b"<html>", content_type="text/html"), MEMBER_LOST),
        (lambda told: response(b"", status="202 Accepted"), MEMBER_LOST),
        (lambda told: response(b"{}"), MEMBER_LOST),
        (lambda told: plain({"jsonrpc": "2.0", "id": 9999, "result": {}}), MEMBER_LOST),
        (lambda told: sse({"jsonrpc": "2.0", "id": 9999, "result": {}}), MEMBER_LOST),
        (lambda told: sse(), MEMBER_LOST),
        (lambda told: EVENTS + b'20\r\ndata: {"jsonrpc":"2.0","id":1,\r\n', MEMBER_LOST),
        (lambda told: response(b"", status="302 Found"), MEMBER_LOST),
        (lambda told: response(b"gone", status="503 Busy"), MEMBER_UNAVAILABLE),
        (lambda told: response(b"no", status="403 No"), MEMBER_UNAVAILABLE),
        (lambda told: plain(result(told, "a" * 100_000)), TOO_LARGE),
        (lambda told: sse(result(told, "a" * 100_000)), TOO_LARGE),
        (lambda told: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 52428800\r\n\r\n", TOO_LARGE),
        (lambda told: b"", MEMBER_LOST),
        (lambda told: b"not http at all\r\n\r\n", MEMBER_LOST),
    ],
)
def test_what_is_no_answer_is_an_error_and_the_next_call_is_well(room: Room, reply: Any, expected: int) -> None:
    def once(link: Link, told: Told) -> None:
        if len(peer.of("tools/call")) == 1:
            link.send(reply(told))
            link.close()
            closed.set()
            link.read_request()
        peer.well(link, told)

    closed = threading.Event()
    peer = Peer({"tools/call": once})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert code(talk.ask("tools/call", TOOL)) == expected
        room.until(closed.is_set)  # what is sent on a link that is being closed may have been carried out: that is another test
        room.for_a_while(0.0)
        assert talk.ask("tools/call", TOOL).result is not None
        assert len(peer.of("tools/call")) == 2
        talk.close()


def test_fifty_megabytes_are_not_kept(room: Room) -> None:
    def pours(link: Link, told: Told) -> None:
        link.send(EVENTS)
        for _ in range(800):
            link.send(b"10000\r\n%b\r\n" % (b"data:" + b"a" * 65_531))

    peer = Peer({"tools/call": pours})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert code(talk.ask("tools/call", TOOL)) == TOO_LARGE
        talk.close()


def test_the_first_of_two_answers_counts_and_errors_are_the_servers_own(room: Room) -> None:
    peer = Peer({"tools/call": lambda link, told: link.send(sse(result(told, 1), result(told, 2)))})
    peer.on["prompts/get"] = lambda link, told: link.send(
        plain({"jsonrpc": "2.0", "id": told.body["id"], "error": {"code": -32602, "message": "no"}}, status="400 Bad Request")
    )
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert talk.ask("tools/call", TOOL).result == b"1"
        assert code(talk.ask("prompts/get", {"name": "p"})) == -32602
        assert talk.conversation.renewals == 0
        talk.close()


# -- time


def test_a_slow_call_is_given_up_and_the_server_is_told(room: Room) -> None:
    peer = Peer({"tools/call": lambda link, told: link.read_until_closed()})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url, call_timeout=0.2).begin()
        assert code(talk.ask("tools/call", TOOL)) == TIMED_OUT
        (asked,) = peer.of("tools/call")
        room.until(lambda: peer.of("notifications/cancelled"))
        assert peer.of("notifications/cancelled")[0].body["params"]["requestId"] == asked.body["id"]
        talk.close()


def progress(told: Told, n: int) -> Any:
    token = told.body["params"]["_meta"]["progressToken"]
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": n}}


@pytest.mark.parametrize(("ceiling", "is_late"), [(30.0, False), (0.5, True)])
def test_progress_gives_more_time_up_to_the_ceiling(room: Room, ceiling: float, is_late: bool) -> None:
    steps: list[Any] = []

    def works(link: Link, told: Told) -> None:
        link.send(EVENTS)
        for n in range(8):
            link.send(event(progress(told, n)))
            link.owner.closing.wait(0.1)
        steps.append(told)
        link.send(event(result(told, 1)) + LAST)

    peer = Peer({"tools/call": works})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url, call_timeout=0.4, call_ceiling=ceiling).begin()
        made = call("tools/call", TOOL, client=talk.client, token=b"7")
        answer = talk.asks(made)
        assert (answer.error is not None) is is_late
        assert made.notes[0] == ("notifications/progress", {"progress": b"0"})
        talk.close()


@pytest.mark.parametrize("era", list(Era))
def test_to_cancel_is_told_in_the_words_of_the_era(room: Room, era: Era) -> None:
    closed: list[Any] = []

    def waits(link: Link, told: Told) -> None:
        link.send(EVENTS)
        link.read_until_closed()
        closed.append(told)

    peer = Peer({"tools/call": waits})
    with (peer if era is Era.LEGACY else modern(peer)).upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        task = room.loop._uv.create_task(talk.conversation.ask(call("tools/call", TOOL, client=talk.client)))
        room.until(lambda: peer.of("tools/call"))
        task.cancel()
        room.until(lambda: closed)
        assert task.cancelled()
        if era is Era.LEGACY:
            room.until(lambda: peer.of("notifications/cancelled"))
        else:
            room.for_a_while(0.05)
            assert not peer.of("notifications/cancelled")
        talk.close()


# -- sessions that are lost


@pytest.mark.parametrize("status", ["404 Not Found", "400 Bad Request"])
def test_a_lost_session_is_replaced_once_for_all_and_told_what_it_knew(room: Room, status: str) -> None:
    peer = Peer()

    def judge(link: Link, told: Told) -> None:
        if told.method not in ("initialize", "server/discover") and told.field("mcp-session-id") not in peer.sessions:
            error = {"jsonrpc": "2.0", "id": told.body.get("id"), "error": {"code": -32000, "message": "No valid session"}}
            link.send(plain(error, status=status))
        else:
            peer.well(link, told)

    peer.on["*"] = judge
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        talk.ask("logging/setLevel", {"level": "info"})
        for uri in ("a:1", "a:2"):
            talk.ask("resources/subscribe", {"uri": uri})
        talk.ask("resources/unsubscribe", {"uri": "a:1"})
        before = len(peer.told)
        peer.forget()
        made = [call("tools/call", TOOL, client=talk.client) for _ in range(4)]

        async def all_at_once() -> list[Answer]:
            return await asyncio.gather(*map(talk.conversation.ask, made))

        answers = room.run(all_at_once())
        assert all(answer.result is not None for answer in answers)
        assert any(answer.recovered for answer in answers)
        assert {each.labels.get("recovered") for each in made} <= {"true", None}
        told = peer.told[before:]
        assert [each.method for each in told].count("initialize") == 1
        assert [(each.method, each.body["params"]) for each in told if "/s" in each.method and each.method != "server/discover"] == [
            ("logging/setLevel", {"level": "info"}),
            ("resources/subscribe", {"uri": "a:2"}),
        ]
        assert talk.hub.changes == [("peer", True)]
        assert talk.ask("tools/call", TOOL).recovered is False
        talk.close()


def test_a_server_that_knows_no_session_of_ours_is_not_asked_for_ever(room: Room) -> None:
    peer = Peer({"tools/call": lambda link, told: link.send(plain({"no": 1}, status="404 Not Found"))})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert talk.ask("tools/call", TOOL).error is not None
        assert len(peer.of("tools/call")) <= streamable.RENEWALS + 1
        talk.close()


@pytest.mark.parametrize(("annotations", "again"), [({"idempotentHint": True}, True), ({"readOnlyHint": True}, True), ({}, False)])
@pytest.mark.parametrize("answered", [b"", EVENTS, EVENTS + b'10\r\ndata: {"jso'])
def test_a_call_that_may_have_been_carried_out_is_made_again_only_where_the_server_says_that_does_no_harm(
    room: Room, annotations: dict[str, Any], again: bool, answered: bytes
) -> None:
    def dies_once(link: Link, told: Told) -> None:
        if len(peer.of("tools/call")) == 1:
            link.send(answered)
            link.reset()
            link.read_request()
        peer.well(link, told)

    peer = Peer({"tools/call": dies_once, "tools/list": lists({"name": "tool", "annotations": annotations})})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        talk.ask("tools/list")
        answer = talk.ask("tools/call", TOOL)
        assert (answer.result is not None, len(peer.of("tools/call"))) == (again, 1 + again)
        assert answer.recovered is (again and bool(answered))  # a warm link that was dead is replaced without a word
        if not again:
            assert code(answer) == MEMBER_LOST
        talk.close()


def test_a_server_that_is_away_for_a_moment_is_waited_for(room: Room) -> None:
    port, peer = free_port(), Peer()
    with peer.upstream(port=port) as upstream:
        talk = Talk(room, upstream.url).begin()
        assert talk.ask("tools/call", TOOL).result is not None
    room.until(lambda: not talk.conversation._outgoing.pool.snapshot()["idle"])
    task = room.loop._uv.create_task(talk.conversation.ask(call("tools/call", TOOL, client=talk.client)))
    room.for_a_while(0.2)
    peer.forget()
    with peer.upstream(port=port):
        room.until(task.done)
        assert task.result().recovered
        assert task.result().result is not None
        talk.close()


def test_who_stays_away_is_waited_for_once_and_comes_back(room: Room) -> None:
    port, peer = free_port(), Peer()
    with peer.upstream(port=port) as upstream:
        talk = Talk(room, upstream.url).begin()
    room.until(lambda: not talk.conversation._outgoing.pool.snapshot()["idle"])
    assert code(talk.ask("tools/call", TOOL)) == MEMBER_UNAVAILABLE
    began = room.loop.time()
    assert code(talk.ask("tools/call", TOOL)) == MEMBER_UNAVAILABLE
    assert room.loop.time() - began < streamable.RESTART_S
    assert talk.hub.changes == [("peer", False)]
    with peer.upstream(port=port):
        room.until(lambda: talk.ask("tools/call", TOOL).result)
        assert talk.hub.changes == [("peer", False), ("peer", True)]
        talk.close()


def test_nobody_there_from_the_beginning_is_unavailable(room: Room) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # its port is nobody else's, and takes no connections
        with pytest.raises(Unavailable):
            Talk(room, f"http://127.0.0.1:{nobody.getsockname()[1]}").begin()


def test_a_session_whose_server_is_gone_begins_anew_at_another(room: Room) -> None:
    first, second = Peer(), Peer()
    with second.upstream() as other:
        with first.upstream() as upstream:
            talk = Talk(room, upstream.url, other.url).begin()
            home = first if first.sessions else second
            assert talk.ask("tools/call", TOOL).result is not None
            assert len(home.of("tools/call")) == 1
            if home is second:
                talk.close()
                return
        answer = talk.ask("tools/call", TOOL)
        assert (answer.recovered, len(second.of("tools/call"))) == (True, 1)
        talk.close()


# -- what a server says


def test_notes_and_questions_in_the_stream_of_a_call_are_its_own(room: Room) -> None:
    replied: list[Told] = []

    def asks(link: Link, told: Told) -> None:
        link.send(EVENTS + event({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": {"message": "?"}}))
        while not replied:
            link.owner.closing.wait(0.005)
        link.send(
            event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}})
            + event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            + event(result(told, 1))
            + LAST
        )

    def response_of(link: Link, told: Told) -> None:
        replied.append(told)
        peer.well(link, told)

    peer = Peer({"tools/call": asks, "POST": response_of})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        made = call("tools/call", TOOL, client=talk.client)
        assert talk.asks(made).result == b"1"
        assert isinstance(made, SomeCall)
        assert made.questions == [("elicitation/create", b'{"message":"?"}')]
        assert replied[0].body == {"jsonrpc": "2.0", "id": "q", "result": {"mine": True}}
        assert replied[0].field("mcp-session-id") == "session-0"
        assert made.notes == [("notifications/message", {"level": b'"info"', "data": b"1"})]
        assert [method for _, _, method, _ in talk.hub.heard_of] == ["notifications/tools/list_changed"]
        talk.close()


def test_an_answer_whose_stream_was_cut_goes_on_where_it_was(room: Room) -> None:
    asked: list[Told] = []

    def cut(link: Link, told: Told) -> None:
        asked.append(told)
        link.send(EVENTS + event(None, id="e1", retry=10) + event(progress(told, 1), id="e2") + LAST)

    def goes_on(link: Link, told: Told) -> None:
        if told.field("last-event-id") == "e2":
            link.send(sse(progress(asked[0], 2), result(asked[0], 1)))
        else:
            peer.well(link, told)

    peer = Peer({"tools/call": cut, "GET": goes_on})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        made = call("tools/call", TOOL, client=talk.client, token=b"1")
        assert talk.asks(made).result == b"1"
        assert [params["progress"] for _, params in made.notes] == [b"1", b"2"]
        assert len(peer.of("tools/call")) == 1
        talk.close()


def test_the_get_stream_is_kept_open_from_where_it_was(room: Room) -> None:
    def stream(link: Link, told: Told) -> None:
        n = len(peer.of("GET"))
        link.send(
            EVENTS
            + event({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": f"a:{n}"}}, id=f"e{n}", retry=5)
        )
        link.send(event({"jsonrpc": "2.0", "id": n, "method": "roots/list"}))
        if n < 3:
            link.reset()
            link.read_request()
        link.read_until_closed()

    peer = Peer({"GET": stream})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        room.until(lambda: len(talk.hub.heard_of) == 3 and len(peer.of("POST")) == 3)
        assert [params["uri"] for _, _, _, params in talk.hub.heard_of] == [b'"a:1"', b'"a:2"', b'"a:3"']
        assert [told.field("last-event-id") for told in peer.of("GET")] == [None, "e1", "e2"]
        assert all(client is talk.client for _, client, _, _ in talk.hub.heard_of)
        assert peer.of("POST")[0].body["result"] == {"hub": True}
        talk.close()


def test_get_streams_leave_room_for_calls(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "EAR_S", (0.01, 0.01))

    def stream(link: Link, told: Told) -> None:
        link.send(EVENTS)
        link.read_until_closed()

    peer = Peer({"GET": stream})
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url)
        monkeypatch.setattr(streamable, "EARS", -1.0)
        talk.begin()
        room.for_a_while(0.1)
        assert not peer.of("GET")
        monkeypatch.setattr(streamable, "EARS", 0.75)
        room.until(lambda: peer.of("GET"))
        talk.close()


# -- the modern era


def test_a_modern_server_is_told_everything_with_each_request(room: Room) -> None:
    tool = {"name": "tool", "inputSchema": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}}}
    peer = modern(Peer({"tools/list": lists(tool)}))
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        talk.client.level = "info"
        talk.ask("tools/list")
        talk.ask("tools/call", TOOL, token=b"1")
        assert talk.ask("logging/setLevel", {"level": "info"}).result == b"{}"
        (told,) = peer.of("tools/call")
        fields = ("mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-n", "mcp-session-id")
        assert [told.field(name) for name in fields] == ["2026-07-28", "tools/call", "tool", "1", None]
        meta = told.body["params"]["_meta"]
        assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
        assert meta["io.modelcontextprotocol/logLevel"] == "info"
        assert meta["progressToken"] == told.body["id"]
        talk.close()
    assert not {"initialize", "GET", "DELETE", "logging/setLevel"} & {each.method for each in peer.told}


def test_a_tool_that_has_other_headers_than_we_know_is_looked_up_and_called_again(room: Room) -> None:
    tool = {"name": "tool", "inputSchema": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}}}

    def judge(link: Link, told: Told) -> None:
        if told.field("mcp-param-n") is None:
            error = {"code": -32020, "message": "Header mismatch"}
            link.send(plain({"jsonrpc": "2.0", "id": told.body["id"], "error": error}, status="400 Bad Request"))
        else:
            peer.well(link, told)

    peer = modern(Peer({"tools/list": lists(tool), "tools/call": judge}))
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        assert talk.ask("tools/call", TOOL).result is not None
        peer.on["tools/list"] = lists()
        peer.on["tools/call"] = lambda link, told: link.send(
            plain({"jsonrpc": "2.0", "id": told.body["id"], "error": {"code": -32020, "message": "no"}}, status="400 Bad Request")
        )
        assert code(talk.ask("tools/call", TOOL)) == -32020
        assert len(peer.of("tools/call")) == 4
        talk.close()


@pytest.mark.parametrize(
    "refusal",
    [
        refuses("404 Not Found"),
        lambda link, told: link.send(
            plain(
                {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Missing session ID"}},
                status="400 Bad Request",
            )
        ),
    ],
)
def test_a_server_that_became_a_legacy_one_is_greeted_anew(room: Room, refusal: Any) -> None:
    peer = modern(Peer())
    with peer.upstream() as upstream:
        talk = Talk(room, upstream.url).begin()
        del peer.on["server/discover"]
        peer.on["tools/call"] = lambda link, told: refusal(link, told) if told.field("mcp-method") else link.send(plain(result(told, 1)))
        assert talk.ask("tools/call", TOOL) == Answer(result=b"1", recovered=True)
        assert talk.conversation.server.era is Era.LEGACY
        talk.close()
