"""A WebSocket client and a WebSocket server of the `websockets` package talk through the daemon, over TLS and plain, none the wiser.

Both are the asyncio ones: the threaded client of that package reads and writes one TLS connection from two threads, and on Python 3.11 now
and then loses its own handshake, with or without a proxy.
"""

import asyncio
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.real.conftest import Origin, Proxies
from tests.support.certs import Certificate
from tests.support.software import Server

MIB = 1024 * 1024
DEADLINE_S = 10.0
Dial = Callable[..., connect]


async def echo(link: ServerConnection) -> None:
    async for message in link:
        if message == "leave":
            await link.close(4001, "as asked")
            return
        await link.send(message)


def choose(_link: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("mcp") if "mcp" in offered else None


@pytest.fixture(scope="module")
def echo_server() -> Iterator[str]:
    """Its origin; it runs in a thread of its own."""
    loop, ready, origins = asyncio.new_event_loop(), threading.Event(), []
    over = asyncio.Event()

    async def run() -> None:
        async with serve(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=8 * MIB) as server:
            origins.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            ready.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(DEADLINE_S)
    yield origins[0]
    loop.call_soon_threadsafe(over.set)
    thread.join(DEADLINE_S)


def dialler(origin: str, certificate: Certificate) -> Dial:
    """`dial()`: a connection to this origin."""
    tls: ssl.SSLContext | None = certificate.client() if origin.startswith("https") else None

    def dial(**options: object) -> connect:
        fixed = {"ssl": tls, "max_size": 8 * MIB, "proxy": None, "open_timeout": DEADLINE_S}
        return connect(origin.replace("http", "ws", 1) + "/socket", **fixed, **options)  # type: ignore[arg-type]

    return dial


@pytest.fixture(params=["direct", "plain", "tls"])
def dial(request: pytest.FixtureRequest, echo_server: str, proxies: Proxies, certificate: Certificate) -> Dial:
    way = request.param
    return dialler(echo_server if way == "direct" else proxies.url(echo_server, tls=way == "tls"), certificate)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_messages_of_every_size_come_back(dial: Dial, compression: str | None) -> None:
    messages: list[str | bytes] = ["", "grüße, 世界", "x" * 65536, bytes(125), os.urandom(126), os.urandom(65535), os.urandom(4 * MIB)]
    async with asyncio.timeout(DEADLINE_S), dial(compression=compression) as link:
        for message in messages:
            await link.send(message)
            assert await link.recv() == message
        await link.send(["one", " message", " in", " pieces"])
        assert await link.recv() == "one message in pieces"


async def test_many_sockets_at_once(dial: Dial) -> None:
    async def talk(number: int) -> None:
        async with dial() as link:
            for turn in range(20):
                await link.send(f"{number}/{turn}")
                assert await link.recv() == f"{number}/{turn}"

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(talk(number))


async def test_pings_are_answered_by_the_far_end(dial: Dial) -> None:
    async with asyncio.timeout(DEADLINE_S), dial() as link:
        assert await (await link.ping(b"hello")) > 0


async def test_a_subprotocol_is_agreed_on(dial: Dial) -> None:
    async with dial(subprotocols=["none", "mcp"]) as link:
        assert link.subprotocol == "mcp"


async def test_the_close_code_of_the_server_arrives(dial: Dial) -> None:
    async with asyncio.timeout(DEADLINE_S), dial() as link:
        await link.send("leave")
        with pytest.raises(ConnectionClosed) as closed:
            await link.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


async def test_a_refused_handshake_is_an_ordinary_answer(plain_uvicorn: Server, through: Origin, certificate: Certificate) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await dialler(through(plain_uvicorn.origin), certificate)()
    assert refused.value.response.status_code == 403
