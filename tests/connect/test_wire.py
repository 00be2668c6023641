"""HTTP to somewhere: warm connections, cut answers, redirects, TLS, proxies."""

import asyncio
from pathlib import Path

import pytest

from mcpproxy.connect.places import WireError
from mcpproxy.connect.wire import Wire
from mcpproxy.net.tls import client_context
from tests.connect.rig import Answer, Seen, far
from tests.support.certs import Certificate


def wire(**environment: str) -> Wire:
    return Wire(environment=environment)


async def ok(seen: Seen, to: Answer) -> None:
    await to.plain(200, b"body")


async def test_connections_are_used_again_while_they_live() -> None:
    async with far(ok) as server:
        one = wire()
        for _ in range(3):
            assert await (await one.send(b"POST", server.url)).body() == b"body"
        assert server.connections == 1
        server.answer = lambda seen, to: to.plain(200, b"", Connection="close")
        (await one.send(b"POST", server.url)).close()
        assert await (await one.send(b"POST", server.url)).body() == b""
        assert server.connections == 2
        one.close()


@pytest.mark.parametrize("hint", ["timeout=1", "timeout=0"])
async def test_what_the_server_will_soon_close_is_not_used_again(hint: str) -> None:
    async with far(lambda seen, to: to.plain(200, b"x", Keep_Alive=hint)) as server:
        one = wire()
        for _ in range(2):
            await (await one.send(b"POST", server.url)).body()
        assert server.connections == 2
        one.close()


async def test_a_cut_answer_says_that_the_request_may_have_been_heard() -> None:
    async def cut(seen: Seen, to: Answer) -> None:
        to.cut()

    async def half(seen: Seen, to: Answer) -> None:
        to.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await to.writer.drain()
        to.cut()

    async with far(cut) as server:
        with pytest.raises(WireError) as caught:
            await wire().send(b"POST", server.url)
        assert caught.value.sent
        assert len(server.seen) == 1
        server.answer = half
        reply = await wire().send(b"POST", server.url)
        with pytest.raises(WireError, match="before its answer was whole"):
            await reply.body()


async def test_a_refused_connection_says_that_nothing_was_heard() -> None:
    async with far(ok) as server:
        await server.down()
        with pytest.raises(WireError) as caught:
            await wire().send(b"POST", server.url)
        assert not caught.value.sent and not caught.value.hopeless


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"]
)
async def test_what_is_no_plain_http_is_refused(answer: bytes) -> None:
    async def odd(seen: Seen, to: Answer) -> None:
        to.writer.write(answer)
        await to.writer.drain()
        to.writer.close()

    async with far(odd) as server:
        with pytest.raises(WireError):
            await wire().send(b"POST", server.url)


async def test_interim_responses_are_passed_over() -> None:
    async def early(seen: Seen, to: Answer) -> None:
        to.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await to.plain(200, b"late")

    async with far(early) as server:
        assert await (await wire().send(b"GET", server.url)).body() == b"late"


async def test_redirects_within_an_origin_are_followed_with_the_body() -> None:
    async def answer(seen: Seen, to: Answer) -> None:
        if seen.target == "/mcp":
            await to.plain(308, Location="/there/mcp?x=1")
        else:
            await to.plain(200, seen.body + seen.target.encode())

    async with far(answer) as server:
        assert await (await wire().send(b"POST", server.url, body=b"{}")).body() == b"{}/there/mcp?x=1"
        server.answer = lambda seen, to: to.plain(307, Location="/mcp")
        with pytest.raises(WireError, match="circles"):
            await wire().send(b"POST", server.url)
        server.answer = lambda seen, to: to.plain(302, Location="/mcp")
        assert (await wire().send(b"POST", server.url)).status == 302


async def test_who_stops_reading_stops_the_server() -> None:
    written = 0

    async def flood(seen: Seen, to: Answer) -> None:
        nonlocal written
        await to.stream()
        while not to.gone.is_set():
            await to.event("x" * 65536)
            written += 1

    async with far(flood) as server:
        reply = await wire().send(b"GET", server.url)
        events = reply.events()
        await anext(events)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.1)
        assert written < 500
        reply.close()
        await events.aclose()


async def test_a_certificate_that_is_not_trusted_is_hopeless(certificate: Certificate) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hello, "127.0.0.1", 0, ssl=certificate.server())
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    with pytest.raises(WireError, match="not trusted") as caught:
        await wire().send(b"GET", url)
    assert caught.value.hopeless
    trusting = Wire(lambda: client_context(str(certificate.cert), verify=True), {})
    assert await (await trusting.send(b"GET", url)).body() == b"hi"
    trusting.close()
    server.close()


async def test_proxies_of_the_environment(certificate: Certificate, tmp_path: Path) -> None:
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head)
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        elif "refused" in head:
            writer.write(b"HTTP/1.1 403 No\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()
            await writer.start_tls(certificate.server())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsafe")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    where = f"http://me:p%40ss@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    one = wire(http_proxy=where, HTTPS_PROXY=where, no_proxy="inside.example")
    assert await (await one.send(b"GET", "http://far.example/x")).body() == b"hi"
    assert asked[-1].startswith("GET http://far.example/x HTTP/1.1\r\nHost: far.example\r\n")
    with pytest.raises(WireError, match="answered 403"):
        await one.send(b"GET", "https://refused.example/x")
    assert "Proxy-Authorization: Basic bWU6cEBzcw==" in asked[-1]
    with pytest.raises(WireError, match="not trusted"):
        await one.send(b"GET", "https://far.example/x")
    assert asked[-1].startswith("CONNECT far.example:443 HTTP/1.1\r\n")
    server.close()


async def test_where_others_send_us_must_be_public() -> None:
    async with far(ok) as server:
        with pytest.raises(WireError, match="no public address"):
            await wire().send(b"GET", server.url, public=True)
        assert not server.seen
