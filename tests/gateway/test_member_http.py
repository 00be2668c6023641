"""Who has which conversation with a server over HTTP, and what transport it is."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcpproxy.config.model import Upstream
from mcpproxy.gateway import member_http
from mcpproxy.gateway.member_http import HttpMember, key_of
from mcpproxy.gateway.member_sse import SseConversation
from mcpproxy.gateway.parts import Client, Conversation, Era, Unavailable
from tests.gateway.peer import Peer, modern, plain
from tests.gateway.room import Room
from tests.gateway.test_member_sse import Streams
from tests.support.gateway import SomeClient, SomeHub, call
from tests.support.ports import free_port


@pytest.fixture
def room() -> Iterator[Room]:
    made = Room()
    yield made
    made.close()


Make = Callable[..., HttpMember]


@pytest.fixture
def member(room: Room) -> Iterator[Make]:
    made: list[HttpMember] = []

    def make(url: str, **config: Any) -> HttpMember:
        made.append(HttpMember("peer", room.outgoing(url), Upstream(urls=(url,), **config), SomeHub(), greeting=10.0))
        return made[-1]

    yield make
    for each in made:
        room.run(each.stop())


def guest(principal: str = "", **capabilities: bytes) -> SomeClient:
    return SomeClient("", principal=principal, era=Era.MODERN, capabilities=capabilities)


def talks(room: Room, member: HttpMember, *clients: Client) -> list[Conversation]:
    async def all_at_once() -> list[Conversation]:
        return list(await asyncio.gather(*map(member.conversation, clients)))

    return room.run(all_at_once())


def leaves(room: Room, member: HttpMember, client: Client) -> None:
    async def leave() -> None:
        member.leave(client)

    room.run(leave())


def test_sessions_have_their_own_with_a_legacy_server_and_callers_without_one_share(room: Room, member: Make) -> None:
    peer = Peer()
    with peer.upstream() as upstream:
        made = member(upstream.url)
        one, two = SomeClient("1"), SomeClient("2")
        found = talks(room, made, one, two, guest("a"), guest("a"), guest("b"), guest("a", sampling=b"{}"), one)
        assert found[0] is found[-1]
        assert found[2] is found[3]
        assert len({id(each) for each in found}) == 5
        assert len(peer.of("initialize")) == 5
        assert made.state()["conversations"] == 5
        leaves(room, made, one)
        room.until(lambda: len(peer.of("DELETE")) == 1)
        assert made.state()["conversations"] == 4
        leaves(room, made, guest("a"))
        assert made.state()["conversations"] == 4
        room.run(made.stop())
        assert len(peer.of("DELETE")) == 5
        with pytest.raises(Unavailable):
            talks(room, made, one)


def modern_alone() -> Peer:
    """It knows no `initialize`."""
    peer = modern(Peer())
    peer.on["initialize"] = lambda link, told: link.send(
        plain({"jsonrpc": "2.0", "id": told.body["id"], "error": {"code": -32601, "message": "no"}}, status="404 Not Found")
    )
    return peer


@pytest.mark.parametrize("first", list(Era))
def test_clients_have_their_own_era_with_a_server_that_speaks_both(room: Room, member: Make, first: Era) -> None:
    peer = modern(Peer())
    with peer.upstream() as upstream:
        made = member(upstream.url)
        clients = [SomeClient("1"), guest("a"), SomeClient("2"), guest("b")]
        if first is Era.MODERN:
            clients.reverse()
        found = dict(zip(clients, [each for client in clients for each in talks(room, made, client)], strict=True))
        assert all(talk.server.era is client.era for client, talk in found.items())
        assert len({id(talk) for client, talk in found.items() if client.era is Era.MODERN}) == 1
        assert len({id(talk) for client, talk in found.items() if client.era is Era.LEGACY}) == 2
        assert made.state()["era"] == "legacy, modern"


def test_a_session_that_is_lost_begins_anew_in_its_era(room: Room, member: Make) -> None:
    peer = modern(Peer())
    peer.keeps_sessions = True
    with peer.upstream() as upstream:
        made = member(upstream.url)
        (talk,) = talks(room, made, SomeClient("1"))
        peer.forget()
        assert room.run(talk.ask(call("tools/call", {"name": "x"}))).recovered
        assert (talk.server.era, len(peer.of("server/discover"))) == (Era.LEGACY, 0)


def test_a_modern_server_has_one_for_all(room: Room, member: Make) -> None:
    peer = modern_alone()
    with peer.upstream() as upstream:
        made = member(upstream.url)
        assert made.state()["state"] == "idle"
        found = talks(room, made, SomeClient("1"), guest("a"), SomeClient("2")) + talks(room, made, guest("b"))
        assert len({id(each) for each in found}) == 1
        assert made.state() == {
            **made.state(),
            "state": "there",
            "era": "modern",
            "version": "2026-07-28",
            "conversations": 1,
            "transport": "streamable",
        }


def test_one_that_was_modern_and_is_not_any_more_is_shared_no_more(room: Room, member: Make) -> None:
    peer = modern_alone()
    with peer.upstream() as upstream:
        made = member(upstream.url)
        (shared,) = talks(room, made, SomeClient("1"))
        del peer.on["server/discover"], peer.on["initialize"]
        peer.keeps_sessions = True
        peer.on["tools/call"] = lambda link, told: (
            peer.well(link, told) if told.field("mcp-session-id") else link.send(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
        )
        answer = room.run(shared.ask(call("tools/call", {"name": "x"})))
        assert answer.recovered
        one, two = talks(room, made, SomeClient("1"), SomeClient("2"))
        assert shared not in (one, two)
        assert one is not two


def test_who_is_away_is_unavailable_and_found_when_it_comes(room: Room, member: Make) -> None:
    port = free_port()
    made = member(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable) as away:
        talks(room, made, SomeClient("1"))
    assert str(port) not in away.value.text
    assert made.state()["state"] == "away"
    with Peer().upstream(port=port):
        room.until(lambda: _there(room, made))
        assert made.state()["last_error"] == ""


def _there(room: Room, made: HttpMember) -> bool:
    try:
        talks(room, made, SomeClient("1"))
    except Unavailable:
        return False
    return True


def test_one_that_nobody_uses_is_ended(room: Room, member: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_http, "SWEEP_S", 0.02)
    monkeypatch.setattr(member_http, "IDLE_S", 0.05)
    peer = Peer()
    with peer.upstream() as upstream:
        made = member(upstream.url)
        talks(room, made, guest("a"), SomeClient("1"))
        room.until(lambda: peer.of("DELETE"))
        assert made.state()["conversations"] == 1


def test_an_event_stream_is_looked_for_at_its_usual_place(room: Room, member: Make) -> None:
    streams = Streams(only=b"/sse")
    with streams.upstream() as upstream:
        made = member(upstream.url)
        (talk,) = talks(room, made, SomeClient("1"))
        assert isinstance(talk, SseConversation)
        looked = len(streams.looked)
        talks(room, made, SomeClient("2"))
        assert looked == len(streams.looked), "it is known now"


def test_where_there_is_neither_the_reason_says_what_to_look_at(room: Room, member: Make) -> None:
    with Streams(only=b"/elsewhere").upstream() as upstream:
        made = member(upstream.url)
        with pytest.raises(Unavailable) as why:
            talks(room, made, SomeClient("1"))
        assert why.value.text == "peer has no event stream there (404): is its mcp_path right?"
        assert made.state()["last_error"] == "has no event stream there (404): is its mcp_path right?"


@pytest.mark.parametrize("transport", ["auto", "sse", "streamable"])
def test_where_nobody_knows_streamable_http_the_other_transport_is_tried(room: Room, member: Make, transport: str) -> None:
    streams = Streams()
    with streams.upstream() as upstream:
        made = member(upstream.url, mcp_path="/sse", transport=transport)
        if transport == "streamable":
            with pytest.raises(Unavailable):
                talks(room, made, SomeClient("1"))
            return
        (talk,) = talks(room, made, SomeClient("1"))
        assert isinstance(talk, SseConversation)
        answer = room.run(talk.ask(call("tools/call", {"name": "x"})))
        assert json.loads(answer.result or b"") == {"said": "tools/call"}
        asked = len(streams.posts)
        talks(room, made, SomeClient("2"))
        assert not any(told.target == b"/sse" and told.method == b"POST" for told in streams.posts[asked:])
        assert made.state()["transport"] == "sse"


def test_keys_are_of_sessions_or_of_callers() -> None:
    assert key_of(SomeClient("1", principal="a")) == ("1",)
    assert key_of(guest("a", x=b"1", y=b"2")) == key_of(guest("a", y=b"2", x=b"1"))
    assert key_of(guest("a")) != key_of(guest("b"))
