"""The same tours through a route with keys, limits, rules, security headers and an audit log: whoever may do what it does notices nothing of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.real.test_tours import BIG, CLIENTS, MODERN_SERVERS, check, pairs, some
from tests.support.certs import Certificate
from tests.support.daemon import Daemon
from tests.support.keys import Keys
from tests.support.ports import free_port
from tests.support.software import Driver
from tests.support.speakers import Speaker, call
from tests.support.waiting import until

USED = ["echo", "trigger-long-running-operation", "ask", "change"]
ROUTE = {
    "path": "/mcp",
    "auth": ["keys"],
    "rate": "1000/s burst 1000",
    "limits": ["tools", "places"],
    "tools": {"allow": [{"who": "agent", "tools": USED, "args": {"message": {"max_length": 400_000, "optional": True}}}]},
    "security_headers": True,
    "hide_headers": ["Server"],
}
LIMITS = {"tools": {"per": ["principal", "tool"], "rate": "100/s burst 100"}, "places": {"concurrent": 50}}


class Guardians:
    """A daemon with all of it, for each server."""

    def __init__(self, directory: Path, certificate: Certificate, stack: ExitStack) -> None:
        self.directory, self.certificate, self.stack = directory, certificate, stack
        self.keys = Keys(directory)
        self.key = self.keys.add("agent")
        self.daemons: dict[tuple[str, str], tuple[Daemon, Path]] = {}

    def before(self, origin: str, **route: Any) -> tuple[Daemon, Path]:
        named = (origin, json.dumps(route))
        if named not in self.daemons:
            place = self.directory / str(len(self.daemons))
            place.mkdir()
            tls = {"cert": str(self.certificate.cert), "key": str(self.certificate.key)}
            config = {
                "listen": [{"address": f"127.0.0.1:{free_port()}", "tls": tls}],
                "auth": {"keys": self.keys.auth()},
                "limit": LIMITS,
                "upstream": {"u": {"urls": [origin]}},
                "route": [{"upstream": "u", "host": ["localhost", "127.0.0.1"], **ROUTE, **route}],
                "audit": {"file": str(place / "audit.log")},
                "drain": "5s",
            }
            self.daemons[named] = self.stack.enter_context(Daemon(config, place)), place / "audit.log"
        return self.daemons[named]


@pytest.fixture(scope="module")
def guardians(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Guardians]:
    with ExitStack() as stack:
        yield Guardians(tmp_path_factory.mktemp("guardians"), certificate, stack)


def calls_of(file: Path) -> list[dict[str, Any]]:
    """The lines of calls that are whole."""
    lines = file.read_bytes().split(b"\n")[:-1]
    return [line for each in lines if (line := json.loads(each))["type"] == "call"]


@pytest.mark.parametrize(("kind", "era", "server"), some(pairs(CLIENTS, ["sdk2", "sdk1", "fast", "everything"]), 3))
def test_whoever_may_do_it_takes_the_whole_tour(
    kind: str, era: str, server: str, guardians: Guardians, clients: Callable[[str], Driver], request: pytest.FixtureRequest
) -> None:
    daemon, audit = guardians.before(request.getfixturevalue(server).origin)
    past = len(calls_of(audit))
    url = f"https://localhost:{daemon.port()}/mcp"
    seen = clients(kind).ask({"url": url, "era": era, "transport": "http", "big": BIG, "key": guardians.key})
    check(seen, kind)
    expected = "2026-07-28" if era == "auto" and server in MODERN_SERVERS else "2025-11-25"
    assert (seen.get("protocol") or expected) == expected

    def echoed() -> list[dict[str, Any]]:
        found = [line for line in calls_of(audit)[past:] if line.get("tool") == "echo"]
        return found if len(found) == 2 else []

    small, large = until(echoed, "two lines")
    assert (small["principal"], small["verdict"], small["outcome"]) == ("agent", "allowed", "ok")
    assert large["bytes_in"] > BIG
    assert large["outcome"] in ("ok", "unknown")  # an answer of more than 256 KiB is not kept to be read
    assert {line["verdict"] for line in calls_of(audit)[past:]} == {"allowed"}


@pytest.mark.parametrize(
    ("kind", "server"), [pytest.param("sdk2", "sdk2"), pytest.param("ts2", "sdk2", marks=pytest.mark.software("node", "npm"))]
)
def test_a_client_that_is_held_back_stays_in_its_era(
    kind: str, server: str, guardians: Guardians, clients: Callable[[str], Driver], request: pytest.FixtureRequest, certificate: Certificate
) -> None:
    """A 429 to the question which era it is would make it take the server for an old one."""
    daemon, _ = guardians.before(request.getfixturevalue(server).origin, rate="1/h")
    with Speaker(daemon, "tls", certificate) as speaker:
        until(lambda: speaker.ask(call("echo"), {"authorization": f"Bearer {guardians.key}"}).status == 429)
    past = len(daemon.records)
    url = f"https://localhost:{daemon.port()}/mcp"
    seen = clients(kind).ask({"url": url, "era": "auto", "transport": "http", "big": 10, "key": guardians.key})
    assert "error" in seen

    def asked(**fields: Any) -> list[dict[str, Any]]:
        return [each for each in daemon.records[past:] if "agent" in each and fields.items() <= each.items()]

    held_back = until(lambda: asked(status=429), "it was held back")
    assert {each["mcp_version"] for each in held_back} == {"2026-07-28"}
    assert {each["status"] for each in asked(mcp_method="server/discover")} == {200}
    assert asked(mcp_method="initialize") == []
