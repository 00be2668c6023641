"""HTTP/1.1 for our own workers."""

import asyncio
import os
from typing import Any

import pytest

from mcpproxy.gateway import web as module
from mcpproxy.gateway.web import Asked, Visit, Web
from tests.support.faces import SECRET, Peer, connected, faces, listening, until

HELLO = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'


class Alone:
    """A Web that tells what it heard, and answers as the test says."""

    def __init__(self, **options: Any) -> None:
        self.heard: list[Asked] = []
        self.visits: list[Visit] = []
        self.options = options
        self.echoes = True

    async def __aenter__(self) -> "Alone":
        self.web = Web(self._hear, SECRET, **self.options)
        sock = listening()
        self.address = sock.getsockname()
        await self.web.start(sock)
        self.peers: list[Peer] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        self.web.stop()

    def _hear(self, visit: Visit, asked: Asked) -> None:
        self.heard.append(asked)
        self.visits.append(visit)
        if self.echoes:
            visit.answer(200, asked.body)

    async def peer(self, limit: int = 1 << 26) -> Peer:
        peer = Peer(*await asyncio.open_unix_connection(sock=connected(self.address), limit=limit))
        self.peers.append(peer)
        return peer


async def test_one_connection_serves_many_requests() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        for number in range(3):
            reply = await peer.ask("POST", b"%d" % number, caller="ada")
            assert (reply.status, reply.body) == (200, b"%d" % number)
        assert [(asked.upstream, asked.route, asked.caller) for asked in alone.heard] == [("files", 0, "ada")] * 3
        assert len(alone.web.visits) == 1


async def test_the_caller_may_be_anything_or_nobody() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        for caller in ("", "ada", "https://issuer|sub;with;semicolons", "grüße"):
            await peer.ask("POST", b"x", caller=caller)
            assert alone.heard[-1].caller == caller


@pytest.mark.parametrize("secret", [b"wrong", b"", SECRET[:-1], SECRET + b"x"])
async def test_without_the_secret_nobody_is_heard(secret: bytes) -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        assert (await peer.ask("POST", HELLO, secret=secret)).status == 403
        assert await peer.gone()
        assert not alone.heard


@pytest.mark.parametrize("value", ["", "%s", "%s;files", "%s;files;x;", "%s;files;0;!", "%s;files;0;;", "%s;files;0;/w"])
async def test_a_field_that_is_not_the_edges_is_refused(value: str) -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        value = value.replace("%s", SECRET.decode())
        assert (await peer.ask("POST", HELLO, fields={"Mcpproxy-Call": value})).status == 403
        assert not alone.heard


async def test_the_edges_field_comes_once() -> None:
    """Two of them: one is the client's."""
    async with Alone() as alone:
        peer = await alone.peer()
        twice = b"Mcpproxy-Call: %b;other;0;\r\n" % SECRET
        assert (await peer.ask("POST", HELLO, raw=twice)).status == 403
        assert not alone.heard


async def test_another_user_is_not_heard() -> None:
    async with Alone(uid=os.geteuid() + 1) as alone:
        peer = await alone.peer()
        assert await peer.gone()
        assert not alone.web.visits


async def test_a_request_may_come_byte_by_byte() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        whole = b"POST /mcp HTTP/1.1\r\nHost: gw\r\nMcpproxy-Call: %b;files;2;\r\nContent-Length: 5\r\n\r\nhello" % SECRET
        for byte in whole:
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.reply()).body == b"hello"
        assert not alone.web.reading and not alone.web.held


async def test_bodies_in_chunks() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        await peer.send("POST", None, fields={"Transfer-Encoding": "chunked"})
        for piece in (b"3\r\nabc\r", b"\n5\r\nde", b"fgh\r\n0\r\n", b"\r\n"):
            peer.writer.write(piece)
            await asyncio.sleep(0.001)
        assert (await peer.reply()).body == b"abcdefgh"
        assert (await peer.ask("POST", b"next")).body == b"next"


@pytest.mark.parametrize("coding", ["length", "chunked", "lying"])
async def test_a_body_that_is_too_large_is_refused_and_not_kept(coding: str) -> None:
    async with Alone(max_body=1000) as alone:
        peer = await alone.peer()
        if coding == "length":
            await peer.send("POST", b"x" * 1001)
        elif coding == "lying":
            await peer.send("POST", None, fields={"Content-Length": "1001"})
        else:
            await peer.send("POST", None, fields={"Transfer-Encoding": "chunked"})
            peer.writer.write(b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        assert (await peer.reply()).status == 413
        assert await peer.gone()
        assert not alone.heard and not alone.web.held


async def test_all_bodies_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODIES", 1000)
    async with Alone() as alone:
        first, second = await alone.peer(), await alone.peer()
        await first.send("POST", None, fields={"Content-Length": "900"})
        first.writer.write(b"x" * 800)
        await until(lambda: alone.web.held == 800)
        await second.send("POST", None, fields={"Content-Length": "900"})
        second.writer.write(b"x" * 300)
        assert (await second.reply()).status == 503
        first.writer.write(b"x" * 100)
        assert (await first.reply()).status == 200
        assert alone.web.held == 0


async def test_half_a_body_is_given_up_after_a_while_or_with_its_sender() -> None:
    async with Alone() as alone:
        slow, gone = await alone.peer(), await alone.peer()
        for peer in (slow, gone):
            await peer.send("POST", None, fields={"Content-Length": "900"})
            peer.writer.write(b"x" * 100)
        await until(lambda: alone.web.held == 200)
        gone.close()
        await until(lambda: alone.web.held == 100)
        alone.web.sweep(max(alone.web.reading.values()) + module.READ_S + 1)
        assert await slow.gone()
        await until(lambda: not alone.web.visits)
        assert alone.web.held == 0 and not alone.web.reading and not alone.heard


@pytest.mark.parametrize(
    "head",
    [
        b"POST /mcp HTTP/1.1\r\nHost: gw\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: gw\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: gw\r\nHost: other\r\n\r\n",
        b"POST /mcp HTTP/1.1\r\nHost: gw\r\nX : y\r\n\r\n",
        b"POST /mcp HTTP/1.1\nHost: gw\n\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
)
async def test_heads_are_judged_as_on_the_edge(head: bytes) -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        peer.writer.write(head)
        assert (await peer.reply()).status == 400
        assert await peer.gone()
        assert not alone.heard


async def test_a_head_without_end_is_refused() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        peer.writer.write(b"POST /mcp HTTP/1.1\r\nX: " + b"x" * (module.LIMITS.head + 1))
        assert (await peer.reply()).status == 431


async def test_bytes_before_the_answer_end_the_connection() -> None:
    """A worker never sends a request before it has the answer: whatever this is, it belongs to nobody."""
    async with Alone() as alone:
        alone.echoes = False
        peer = await alone.peer()
        await peer.send("POST", HELLO)
        await until(lambda: alone.heard)
        gone: list[bool] = []
        alone.visits[0].gone = lambda: gone.append(True)
        await peer.send("POST", HELLO)
        assert await peer.gone()
        assert gone == [True] and len(alone.heard) == 1


async def test_who_left_is_noticed_at_once_and_told_once() -> None:
    async with Alone() as alone:
        alone.echoes = False
        peer = await alone.peer()
        await peer.send("POST", HELLO)
        await until(lambda: alone.heard)
        gone: list[bool] = []
        visit = alone.visits[0]
        visit.gone = lambda: gone.append(True)
        peer.close()
        await until(lambda: gone)
        visit.answer(200, b"{}")  # to nobody: nothing happens
        visit.begin()
        assert visit.event(b"data: x\n\n") is False
        visit.end()
        assert gone == [True]


async def test_a_stream_and_then_the_next_request() -> None:
    async with Alone() as alone:
        alone.echoes = False
        peer = await alone.peer()
        await peer.send("POST", HELLO)
        await until(lambda: alone.heard)
        visit = alone.visits[0]
        visit.begin(b"Mcp-Session-Id: x\r\n")
        reply = await peer.reply()
        assert reply.streams and reply.fields["mcp-session-id"] == "x" and reply.fields["x-accel-buffering"] == "no"
        visit.event(b"data: 1\n\n")
        assert await reply.chunk() == b"data: 1\n\n"
        visit.comment(0.0)
        assert await reply.chunk() == b":\n\n"
        visit.event(b"data: 2\n\n")
        visit.end()
        assert await reply.chunk() == b"data: 2\n\n"
        assert await reply.chunk() == b""
        alone.echoes = True
        assert (await peer.ask("POST", b"more")).body == b"more"
        assert not alone.web.streams


async def test_silent_streams_get_comments_the_longest_silent_first() -> None:
    async with Alone() as alone:
        alone.echoes = False
        replies = []
        for _ in range(3):
            peer = await alone.peer()
            await peer.send("GET")
            await until(lambda: len(alone.visits) == len(alone.peers))
            alone.visits[-1].begin()
            replies.append(await peer.reply())
        now = max(alone.web.streams.values())
        for visit, moment in zip(alone.visits, (now - 30, now - 30, now), strict=True):
            alone.web.streams[visit] = moment
        alone.web.sweep(now)
        assert list(alone.web.streams) == [alone.visits[2], alone.visits[0], alone.visits[1]]
        for reply in replies[:2]:
            assert await reply.chunk() == b":\n\n"
        alone.visits[2].end()
        assert await replies[2].chunk() == b""


async def test_a_reader_who_does_not_read_is_left() -> None:
    """What waits for it is bounded by UNREAD and one event, and by STUCK_S."""
    async with Alone() as alone:
        alone.echoes = False
        peer = await alone.peer(limit=1)
        await peer.send("GET")
        await until(lambda: alone.heard)
        visit, gone = alone.visits[0], list[bool]()
        visit.gone = lambda: gone.append(True)
        visit.begin()
        event, said = b"data: " + b"x" * 65536 + b"\n\n", 0
        while visit.event(event):
            said += 1
            assert said * 65536 < 16 * module.UNREAD
            await asyncio.sleep(0)
        await until(lambda: gone)
        assert not alone.web.stuck and not alone.web.visits


async def test_a_reader_who_takes_nothing_for_long_is_left() -> None:
    async with Alone() as alone:
        alone.echoes = False
        peer = await alone.peer(limit=1)
        await peer.send("GET")
        await until(lambda: alone.heard)
        visit = alone.visits[0]
        visit.begin()
        while not visit.full:
            visit.event(b"data: " + b"x" * 65536 + b"\n\n")
            await asyncio.sleep(0)
        alone.web.sweep(alone.web.stuck[visit] + module.STUCK_S + 1)
        await until(lambda: not alone.web.visits)


async def test_expectations_are_met() -> None:
    async with Alone() as alone:
        peer = await alone.peer()
        await peer.send("POST", None, fields={"Content-Length": "2", "Expect": "100-continue"})
        assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.writer.write(b"ok")
        assert (await peer.reply()).body == b"ok"


async def test_drain_ends_idle_connections_at_once_and_the_others_with_their_answer() -> None:
    async with Alone() as alone:
        idle, busy = await alone.peer(), await alone.peer()
        await idle.ask("POST", b"x")
        alone.echoes = False
        await busy.send("POST", b"x")
        await until(lambda: len(alone.heard) == 2)
        alone.web.drain()
        assert await idle.gone()
        alone.visits[-1].answer(200, b"late")
        assert (await busy.reply()).body == b"late"
        assert await busy.gone()


async def test_the_whole_of_a_large_answer_arrives() -> None:
    async with faces() as rig:
        text = "x" * 3_000_000
        reply = await rig.modern(0, "tools/call", {"name": "echo", "arguments": {"message": text}})
        assert reply.json["result"]["content"][0]["text"] == "Echo: " + text
