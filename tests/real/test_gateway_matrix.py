"""Every client with every server, through a bridge to each and through a hub of all: all of a round trip that both can do (tests/support/matrix).

One daemon, one process for each kit on each side, one job for a client: its bridges at once, then the hub. It is one test because what it starts is dear;
a failure names client, server, way and check. What a client or server cannot do stands in CANNOT with the reason, and is not asked for.
"""

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import matrix
from tests.support.daemon import Daemon
from tests.support.install_real import HOME, node, npm_package, python
from tests.support.matrix import Check, Names
from tests.support.ports import free_port
from tests.support.software import REAL, REPOSITORY, Driver, Server, everything_server

CLIENTS = {
    "mcp1": ([python("mcp1"), REAL / "clients" / "full_mcp1.py"], REPOSITORY, ["legacy"]),
    "mcp2": ([sys.executable, REAL / "clients" / "full_mcp2.py"], REPOSITORY, ["auto", "legacy"]),
    "fast": ([python("fastmcp"), REAL / "clients" / "full_fast.py"], REPOSITORY, ["auto", "legacy"]),
    "ts1": ([node(), REAL / "clients" / "full.mjs", "sdk1"], HOME / "npm", ["legacy"]),
    "ts2": ([node(), REAL / "clients" / "full.mjs", "sdk2"], HOME / "npm", ["auto", "legacy"]),
}
FULL = ("mcp1", "mcp2", "fast", "ts1", "ts2")  # servers that offer all there is

NOT_IN_ERA = "2026-07-28 has no such thing"
CANNOT: list[tuple[str, str, str, str, str]] = [  # client, era, server, check, why; "" is any
    ("", "auto", "", "ping", NOT_IN_ERA),
    ("", "auto", "", "resumption", NOT_IN_ERA),
    ("", "", "fast", "subscription", "a fastmcp server takes no subscriptions"),
    ("", "auto", "fast", "changed list", "a fastmcp server serves no subscriptions/listen"),
    ("fast", "auto", "", "subscription", "a fastmcp client has no word for subscriptions/listen"),
    ("fast", "auto", "", "changed list", "a fastmcp client has no word for subscriptions/listen"),
]


def can(client: str, era: str, server: str, check: str) -> bool:
    asked = (client, era, server, check)
    return not any(all(not one or one == other for one, other in zip(row, asked, strict=False)) for row in CANNOT)


class House:
    """The servers, and the daemon before them: each behind a bridge at its own path, all of them behind /hub."""

    def __init__(self, stack: ExitStack, place: Path) -> None:
        self.place = place
        files = place / "files"
        files.mkdir()
        mcp1 = stack.enter_context(Server(python("mcp1"), REAL / "servers" / "full_mcp1.py", "mcp1", "{port}"))
        mcp2 = stack.enter_context(Server(sys.executable, REAL / "servers" / "full_mcp2.py", "mcp2", "{port}"))
        ts1 = stack.enter_context(Server(node(), REAL / "servers" / "full_ts1.mjs", "ts1", "{port}", cwd=HOME / "npm"))
        everything = stack.enter_context(everything_server())
        upstreams: dict[str, dict[str, Any]] = {
            "mcp1": {"urls": [mcp1.origin], "bridge": True, "mcp_path": "/sse", "transport": "sse"},
            "mcp2": {"urls": [mcp2.origin], "bridge": True},
            "fast": {"command": [str(python("fastmcp")), str(REAL / "servers" / "full_fast.py"), "fast", "stdio"]},
            "ts1": {"urls": [ts1.origin], "bridge": True},
            "ts2": {  # it looks at what its client can do, and one of many callers is told of no roots: so one for each session
                "command": [str(node()), str(REAL / "servers" / "full_ts2.mjs"), "ts2", "stdio"],
                "env": {"MODULES": str(HOME / "npm")},
                "mode": "per-session",
            },
            "everything": {"urls": [everything.origin], "bridge": True},
            "filesystem": {"command": [str(node()), str(npm_package("server-filesystem") / "dist" / "index.js"), str(files)]},
            "memory": {
                "command": [str(node()), str(npm_package("server-memory") / "dist" / "index.js")],
                "env": {"MEMORY_FILE_PATH": str(place / "memory.jsonl")},
            },
            "time": {"command": [str(python("fastmcp")), "-m", "mcp_server_time"]},
        }
        self.servers = list(upstreams)
        config = {
            "listen": [{"address": f"127.0.0.1:{free_port()}"}],
            "upstream": {**upstreams, "hub": {"members": self.servers}},
            "route": [{"upstream": name, "path": f"/{name}"} for name in (*self.servers, "hub")],
            "drain": "5s",
        }
        self.daemon = stack.enter_context(Daemon(config, place))

    def checks(self, names: Names, key: str) -> Iterator[Check]:
        if names.server in FULL:
            return matrix.full_checks(names, key)
        if names.server == "filesystem":
            return matrix.filesystem_checks(names, key, str(self.place / "files"))
        others = {"everything": matrix.everything_checks, "memory": matrix.memory_checks, "time": matrix.time_checks}
        return others[names.server](names, key)

    def url(self, path: str) -> str:
        return f"http://localhost:{self.daemon.port(0)}/{path}"


class Job:
    """What a client is asked to do at once: visits, each with the checks of some servers."""

    def __init__(self, house: House, client: str, era: str, run: str = "") -> None:
        self.house, self.client, self.era, self.run = house, client, era, run
        self.visits: dict[str, dict[str, list[Check]]] = {}

    def visit(self, way: str, servers: list[str], only: Callable[[str], bool] = lambda check: True) -> "Job":
        parts = {}
        for server in servers:
            names = Names(server, f"{server}_" if way == "hub" else "")
            checks = self.house.checks(names, f"{self.client}-{self.era}-{way}-{server}{self.run}")
            parts[server] = [each for each in checks if can(self.client, self.era, server, each.name) and only(each.name)]
        self.visits[way] = parts
        return self

    def done(self, driver: Driver) -> list[str]:
        """What did not hold."""
        asked = {
            way: {
                "url": self.house.url(way),
                "era": self.era,
                "transport": "http",
                "parts": {server: [(each.name, each.operation, each.arguments) for each in checks] for server, checks in parts.items()},
            }
            for way, parts in self.visits.items()
        }
        answers = driver.ask(asked)
        wrong = []
        for way, parts in self.visits.items():
            who, answer = f"{self.client} ({self.era}) → {way}", answers[way]
            if "wrong" in answer:
                wrong.append(f"{who}: {answer['wrong']}")
            elif answer["protocol"] != ("2026-07-28" if self.era == "auto" else "2025-11-25"):
                wrong.append(f"{who}: speaks {answer['protocol']}")
            for server, checks in parts.items():
                seen = answer["seen"][server]
                wrong += [
                    f"{who}: {server}: {each.name}: {seen.get(each.name)!r}" for each in checks if each.expected != seen.get(each.name)
                ]
        return wrong


@pytest.mark.software("mcp1", "fastmcp", "node", "npm")
def test_every_client_tries_all_of_every_server_bridged_and_in_a_hub(tmp_path: Path) -> None:
    wrong: list[str] = []
    with ExitStack() as stack:
        house = House(stack, tmp_path)
        drivers = {name: stack.enter_context(Driver(*argv, cwd=cwd)) for name, (argv, cwd, _) in CLIENTS.items()}
        for client, (_, _, eras) in CLIENTS.items():
            for era in eras:
                bridges = Job(house, client, era)
                for server in house.servers:
                    bridges.visit(server, [server])
                wrong += bridges.done(drivers[client])
                wrong += Job(house, client, era).visit("hub", house.servers).done(drivers[client])
        # All clients at once, with ids and tokens that are the same: each finds its own. A pipe cannot tell whose a log message or a question is when
        # two call at once, so these servers have a session for each client. What is left out: the SDKs have one event store for all sessions, whose
        # streams are named by the ids of calls, so a server that hangs up may go on with what is another session's.
        at_once = [
            Job(house, client, eras[-1], "-at-once").visit("hub", ["mcp2", "ts1", "mcp1"], lambda check: check != "server hangs up")
            for client, (_, _, eras) in CLIENTS.items()
        ]
        with ThreadPoolExecutor(len(at_once)) as threads:
            wrong += [each for done in threads.map(lambda job: job.done(drivers[job.client]), at_once) for each in done]
    assert not wrong, "\n".join(["these did not hold:", *wrong])
