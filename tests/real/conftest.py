"""The ways to a server (direct, and through the daemon over TLS), and the servers themselves.

Servers and the daemons before them live as long as the session: they are expensive to start, and a daemon that has carried every other
client as well is the better witness. A test that looks at the access log selects its own records by path or request id.

Tests marked `software("mcp1", …)` need those rooms of tests/support/install_real.py; tests/needs.py leaves them out, by name, where they are
not filled.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import software
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.ports import free_port

Origin = Callable[[str], str]


# --- the ways


class Proxies:
    """One daemon for every origin asked for, with a TLS listener and a plain one."""

    def __init__(self, directory: Path, certificate: Certificate) -> None:
        self.directory, self.certificate = directory, certificate
        self.daemons: dict[str, Daemon] = {}
        self.stack = ExitStack()

    def before(self, origin: str) -> Daemon:
        if origin not in self.daemons:
            place = self.directory / str(len(self.daemons))
            place.mkdir()
            tls = {"cert": str(self.certificate.cert), "key": str(self.certificate.key)}
            config = {
                "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}, {"address": f"127.0.0.1:{free_port()}"}],
                "upstream": {"u": {"urls": [origin]}},
                "route": [{"upstream": "u", "host": ["localhost", "127.0.0.1"]}],
                "drain": "5s",
            }
            self.daemons[origin] = self.stack.enter_context(Daemon(config, place))
        return self.daemons[origin]

    def url(self, origin: str, *, tls: bool = True) -> str:
        port = self.before(origin).port(0 if tls else 1)
        return f"{'https' if tls else 'http'}://localhost:{port}"


@pytest.fixture(scope="session")
def proxies(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Proxies]:
    made = Proxies(tmp_path_factory.mktemp("proxies"), certificate)
    with made.stack:
        yield made


ALL_PAIRS = (
    os.environ.get("MCPPROXY_PAIRS") == "all"
)  # every client with every server, and without the daemon, too: an hour's work for a small machine


@pytest.fixture(params=["direct", "proxied"] if ALL_PAIRS else ["proxied"])
def through(request: pytest.FixtureRequest, proxies: Proxies) -> Origin:
    """`through(server.origin)`: the origin a client is to use; with the direct one the test proves itself."""
    return proxies.url if request.param == "proxied" else str


# --- servers, each started when first asked for


def _lasting(start: Callable[[], software.Server]) -> Callable[[], Iterator[software.Server]]:
    @pytest.fixture(scope="session")
    def server() -> Iterator[software.Server]:
        with start() as started:
            yield started

    return server


sdk2 = _lasting(software.sdk2_server)
sdk1 = _lasting(software.sdk1_server)
fast = _lasting(software.fast_server)
everything = _lasting(software.everything_server)
everything_sse = _lasting(lambda: software.everything_server("sse"))
conformance = _lasting(software.conformance_server)
plain_uvicorn = _lasting(lambda: software.uvicorn_server(5))
plain_node = _lasting(lambda: software.node_server(5))


@pytest.fixture(scope="session")
def clients(certificate: Certificate) -> Iterator[Callable[[str], software.Driver]]:
    """`clients("ts1")`: that client program, started once."""
    started: dict[str, software.Driver] = {}
    with ExitStack() as stack:

        def client(kind: str) -> software.Driver:
            if kind not in started or started[kind].is_lost:
                started[kind] = stack.enter_context(software.client_program(kind, certificate.cert))
            return started[kind]

        yield client
