"""A whole proxy inside the test's own process, driven by small steps: the test is the client, the server and the clock.

    edge = proxy("keepalive = 4")            # lines of [upstream.u]; also route=, limits=, listen=
    client = edge.client()                    # a connected socket towards the proxy
    client.sendall(request)
    server = edge.accept()                    # the connection the proxy made
    assert edge.read(server, HEAD_END).startswith(b"POST")

Nothing happens in the proxy but while the test waits for something (`read`, `accept`, `until`), so every order of events can be had.
`later(seconds)` asks every connection what is overdue by then: no test waits for a timeout.
"""

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcpproxy.assemble import Runtime, assemble
from mcpproxy.clock import clock
from mcpproxy.config import load as config_load
from mcpproxy.net.listener import Address
from mcpproxy.upstream.pool import Pool
from tests.net.stepping import Steps
from tests.support.certs import Certificate

HEAD_END = b"\r\n\r\n"


class Lines:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.text = b""

    def put(self, batch: list[bytes]) -> None:
        self.text += b"".join(batch)


class Edge:
    """The proxy, a server behind it that the test plays, and what both did."""

    def __init__(self, steps: Steps, runtime: Runtime, server: socket.socket) -> None:
        self.steps, self.runtime, self.server = steps, runtime, server
        self._lines = Lines()
        runtime.log._sink = self._lines  # type: ignore[assignment]
        runtime.ticker.start()
        for listener in runtime.listeners:
            listener.start()

    @property
    def pool(self) -> Pool:
        return self.runtime.pools["u"]

    def client(self, number: int = 0) -> socket.socket:
        """A new connection to the proxy's listener."""
        address: Address = self.runtime.listeners[number].address
        made = socket.socket(socket.AF_UNIX if address.path else socket.AF_INET)
        made.settimeout(10)
        made.connect(address.path or (address.host, address.port))
        made.setblocking(False)
        self.steps.owned(made)
        return made

    def tls_client(self, context: ssl.SSLContext, number: int = 0) -> ssl.SSLSocket:
        """A new TLS connection, its handshake done."""
        made = context.wrap_socket(
            self.client(number), server_hostname="localhost", do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        self.steps.owned(made)

        def shaken() -> bool:
            try:
                made.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            return True

        self.steps.until(shaken, "the handshake")
        return made

    def accept(self) -> socket.socket:
        """The next connection that the proxy makes to the server."""

        def accepted() -> socket.socket | None:
            try:
                return self.server.accept()[0]
            except BlockingIOError:
                return None

        made: socket.socket = self.steps.until(accepted, "a connection to the server")
        made.setblocking(False)
        self.steps.owned(made)
        return made

    def no_more_connections(self) -> bool:
        """Did the proxy make no connection that was not accepted yet?"""
        self.steps.for_a_while(0.02)
        try:
            self.server.accept()
        except BlockingIOError:
            return True
        return False

    def read(self, sock: socket.socket, enough: bytes | int = HEAD_END) -> bytes:
        """Read until the bytes end with (or number) `enough`."""
        got = b""

        def done() -> bool:
            nonlocal got
            try:
                piece = sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            assert piece, f"it ended after {got!r}"
            got += piece
            return len(got) >= enough if isinstance(enough, int) else got.endswith(enough)

        self.steps.until(done, f"{enough!r}, so far {got!r}")
        return got

    def end(self, sock: socket.socket) -> tuple[bytes, str]:
        """Read to the end: what came, and "fin", "reset" or (TLS) "cut"."""
        got: list[bytes] = []
        how: list[str] = []

        def done() -> bool:
            try:
                piece = sock.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            except ssl.SSLError as error:  # SSLEOFError only from Python 3.11.3 on
                how.append("cut" if "EOF" in str(error.reason) or isinstance(error, ssl.SSLEOFError) else f"broken: {error}")
            except ConnectionError:
                how.append("reset")
            else:
                got.append(piece)
                if not piece:
                    how.append("fin")
            return bool(how)

        self.steps.until(done, "the end")
        return b"".join(got), how[0]

    def until(self, question: Callable[[], Any], what: str = "") -> Any:
        return self.steps.until(question, what)

    def lines(self, count: int = 0) -> list[dict[str, Any]]:
        """The access log so far, at least `count` lines of it."""

        def enough() -> bool:
            self.runtime.log.tick()
            return self._lines.text.count(b"\n") >= count

        self.steps.until(enough, f"{count} log lines")
        return [json.loads(line) for line in self._lines.text.splitlines()]

    @property
    def log_text(self) -> bytes:
        self.runtime.log.tick()
        return self._lines.text

    def later(self, seconds: float) -> None:
        """Ask every connection, dial and pool what is overdue by then."""
        now = clock.tick() + seconds
        self.runtime.wheel.turn(now)
        for pool in self.runtime.pools.values():
            pool.tick(now)

    def reset(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()

    def stop(self) -> None:
        for listener in self.runtime.listeners:
            listener.stop()
        for link in tuple(self.runtime.links):
            link.end_now()
        for pool in self.runtime.pools.values():
            pool.close_idle()
        self.runtime.ticker.stop()


Proxy = Callable[..., Edge]


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.close()


@pytest.fixture
def proxy(steps: Steps, certificate: Certificate) -> Iterator[Proxy]:
    """Make an Edge. `upstream`, `route`, `limits`, `listen`, `top` are lines of TOML; `tls` puts the certificate on the listener."""
    made: list[Edge] = []

    def make(
        upstream: str = "", *, route: str = "", limits: str = "", top: str = "", listen: str = "", tls: bool = False, url: str = ""
    ) -> Edge:
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        steps.owned(server)
        url = url or f"http://127.0.0.1:{server.getsockname()[1]}"
        secure = f'tls = {{ cert = "{certificate.cert}", key = "{certificate.key}" }}' if tls else ""
        text = "\n".join(
            [
                top,
                "[[listen]]",
                'address = "127.0.0.1:0"',
                secure,
                listen,
                "[upstream.u]",
                f'urls = ["{url}"]',
                upstream,
                "[[route]]",
                'upstream = "u"',
                route,
                "[limits]",
                limits,
                "[log]",
                'access = "off"',
            ]
        )
        edge = Edge(steps, assemble(config_load.load(text), steps.loop), server)
        made.append(edge)
        return edge

    yield make
    for edge in made:
        edge.stop()
