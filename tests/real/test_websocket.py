"""A WebSocket client and a WebSocket server of the `websockets` package talk through the daemon, over TLS and plain, none the wiser."""

import os
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from tests.real.conftest import Origin, Proxies
from tests.support import software
from tests.support.certs import Certificate

MIB = 1024 * 1024
DEADLINE_S = 10.0


def echo(link: ServerConnection) -> None:
    for message in link:
        if message == "leave":
            link.close(4001, "as asked")
            return
        link.send(message)


def choose(_link: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("mcp") if "mcp" in offered else None


@pytest.fixture(scope="module")
def echo_server() -> Iterator[Server]:
    with serve(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=8 * MIB) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@pytest.fixture(params=["direct", "plain", "tls"])
def dial(request: pytest.FixtureRequest, echo_server: Server, proxies: Proxies, certificate: Certificate) -> "Dial":
    origin = f"http://127.0.0.1:{echo_server.socket.getsockname()[1]}"
    if request.param == "direct":
        return Dial(origin, None)
    tls = request.param == "tls"
    return Dial(proxies.url(origin, tls=tls), certificate.client() if tls else None)


class Dial:
    """`dial()`: a connection the way this test goes."""

    def __init__(self, origin: str, context: ssl.SSLContext | None) -> None:
        self.url = origin.replace("http", "ws", 1) + "/socket"
        self.context = context

    def __call__(self, **options: object) -> ClientConnection:
        return connect(self.url, ssl=self.context, max_size=8 * MIB, proxy=None, open_timeout=DEADLINE_S, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_every_size_come_back(dial: Dial, compression: str | None) -> None:
    with dial(compression=compression) as link:
        for message in ["", "grüße, 世界", "x" * 65536, b"\x00" * 125, os.urandom(126), os.urandom(65535), os.urandom(4 * MIB)]:
            link.send(message)
            assert link.recv(DEADLINE_S) == message
        fragments = ["one", " message", " in", " pieces"]
        link.send(fragments)
        assert link.recv(DEADLINE_S) == "".join(fragments)


def test_many_sockets_at_once(dial: Dial) -> None:
    def talk(number: int) -> bool:
        with dial() as link:
            for turn in range(20):
                link.send(f"{number}/{turn}")
                if link.recv(DEADLINE_S) != f"{number}/{turn}":
                    return False
        return True

    with ThreadPoolExecutor(10) as threads:
        assert all(threads.map(talk, range(20)))


def test_pings_are_answered_by_the_far_end(dial: Dial) -> None:
    with dial() as link:
        assert link.ping(b"hello").wait(DEADLINE_S)


def test_a_subprotocol_is_agreed_on(dial: Dial) -> None:
    with dial(subprotocols=["none", "mcp"]) as link:
        assert link.subprotocol == "mcp"


def test_the_close_code_of_the_server_arrives(dial: Dial) -> None:
    with dial() as link:
        link.send("leave")
        with pytest.raises(ConnectionClosed) as closed:
            link.recv(DEADLINE_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


def test_a_refused_handshake_is_an_ordinary_answer(plain_uvicorn: software.Server, through: Origin, certificate: Certificate) -> None:
    origin = through(plain_uvicorn.origin)
    with pytest.raises(InvalidStatus) as refused:
        Dial(origin, certificate.client() if origin.startswith("https") else None)()
    assert refused.value.response.status_code == 403
