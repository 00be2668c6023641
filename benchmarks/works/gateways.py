"""Beside other gateways for MCP: one stdio server on HTTP, and five HTTP servers as one. All in front of the same servers, in turns.

calls     wrk, 32 connections, 32 sessions: tools/call as fast as they go; nobody has a core of its own
added     one client, one call after the other: the median, less that of asking the server itself in its own words
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import load, machine
from benchmarks.lab import HERE, Lab, Proxy, free_port, running, wait_for_port
from benchmarks.peers import PEERS, STDIO, Peer, environment
from benchmarks.rpc import Session
from benchmarks.works.base import Alone, Figures, Scale, Target

CLIENTS = 32
MEMBERS = 5
TIMES, ADDED = 5.0, 0.2  # of the best of them


class Gateways(Alone):
    """`kind`: bridge or hub."""

    def __init__(self, kind: str, title: str) -> None:
        self.kind, self.name, self.title = kind, f"gateway_{kind}", title
        self.shown = {
            "calls_s": "calls/s",
            "cpu_us": "CPU µs/call",
            "added_us": "added latency µs",
            "alone_us": "alone",
            "best_calls_s": "best other: calls/s",
            "best_added_us": "best other: added µs",
            "best_alone_us": "alone",
            "inverse": "their calls/s in ours",
            "added_share": "our added latency in theirs",
        }
        self.targets: tuple[Target, ...] = (Target("inverse", 1 / TIMES, None), Target("added_share", ADDED, None))
        self.note = "all contenders in one round, in front of the same servers; CPU of all processes of ours, the stdio server included"
        self._peers: list[Peer] = []

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        self._peers = [peer for peer in PEERS if (peer.hub or self.kind == "bridge") and peer.install()]

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        with servers(lab, MEMBERS, 0) as urls:
            nothing = {"p50_us": 0.0, "alone_us": 0.0}
            direct = self._ask(lab, urls[0], os.getpid(), nothing, scale)
            found: dict[str, Figures] = {}
            with ours(lab, urls) as own:
                path = "/bridge" if self.kind == "bridge" else "/hub"
                found["mcpproxy"] = self._ask(lab, f"http://127.0.0.1:{own.plain}{path}", own.pid, direct, scale)
            for peer in self._peers:
                port, said = free_port(), lab.directory / "peer.out"
                command = peer.command(port, lab.directory, [] if self.kind == "bridge" else urls)
                with said.open("wb") as output, running(command, None, output.fileno(), environment()) as process:
                    wait_for_port(port, process, said)
                    try:
                        found[peer.name] = self._ask(lab, f"http://127.0.0.1:{port}{peer.path}", process.pid, direct, scale)
                    except (load.BadRun, OSError, RuntimeError, EOFError) as error:  # so it does not bear 32 clients; the others count
                        print(f"  {self.name} {peer.name}: no result: {str(error)[-300:]}", file=sys.stderr)
        for name, figures in found.items():
            print(f"  {self.name} {name}: " + ", ".join(f"{key} {value:.0f}" for key, value in figures.items()), file=sys.stderr)
        best = max(each["calls_s"] for name, each in found.items() if name != "mcpproxy")
        quickest, alone = (min(each[key] for name, each in found.items() if name != "mcpproxy") for key in ("added_us", "alone_us"))
        mine = found["mcpproxy"]
        return {
            **mine,
            "best_calls_s": best,
            "best_added_us": quickest,
            "best_alone_us": alone,
            "inverse": best / mine["calls_s"],
            "added_share": max(mine["added_us"], 1.0) / quickest,
        }

    def _ask(self, lab: Lab, url: str, pid: int, direct: Figures, scale: Scale) -> Figures:
        sessions, tool = asyncio.run(Session.several(url, CLIENTS))
        alone_us = asyncio.run(Session(url, tool=tool).latency())
        file = lab.directory / "sessions"
        file.write_text("".join(f"{id}\n" for id in sessions))
        told = {"BENCH_SESSIONS": str(file), "BENCH_TOOL": tool}
        command = ["wrk", "-t1", f"-c{CLIENTS}", "-s", str(HERE / "conf" / "sessions.lua"), url]
        for seconds in (2.0, scale.pick(8, 5)):
            cpu = machine.cpu_ns(pid)
            output = subprocess.run(
                [*command[:3], f"-d{seconds:g}s", *command[3:]],
                env={**machine.environment(), **told},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            cpu = machine.cpu_ns(pid) - cpu
        found = re.search(r"RESULT (\{.*\})", output)
        result = json.loads(found[1]) if found else {}
        if (
            "WRONG" in output
            or not result.get("requests")
            or any(result[kind] for kind in ("connect", "read", "write", "status", "timeout"))
        ):
            raise load.BadRun(f"{url}: {output[-600:]}")
        return {
            "calls_s": result["requests"] * 1e6 / result["duration_us"],
            "cpu_us": cpu / 1000 / result["requests"],
            "p50_us": result["p50_us"],
            "added_us": result["p50_us"] - direct["p50_us"],
            "alone_us": alone_us - direct["alone_us"],
        }

    def command(self) -> str:
        return f"wrk -t1 -c{CLIENTS} -s benchmarks/conf/sessions.lua"


class Lists(Alone):
    """The catalogue of a large hub, and sessions that wait."""

    name = "gateway_lists"
    title = "tools/list of 500 tools of 10 members, kept; and legacy sessions with an open GET stream"
    shown = {"list_ms": "tools/list ms", "list_cpu_ms": "CPU ms", "session_kib": "KiB a session"}
    targets: tuple[Target, ...] = (Target("list_ms", 2.0, None), Target("session_kib", 40.0, None))
    note = "the median of lists one after the other by one client (curl-like, no SDK); memory: growth of the gateway process (unique, PSS) over 1000 sessions"

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        with servers(lab, 10, 49) as urls, ours(lab, urls) as own:
            url = f"http://127.0.0.1:{own.plain}/hub"
            return asyncio.run(self._ask(url, own, round(scale.pick(1000, 200))))

    async def _ask(self, url: str, own: Proxy, count: int) -> Figures:
        session = Session(url)
        await session.open()
        tools = await session.ask("tools/list", {})
        assert len(tools["tools"]) == 500, len(tools["tools"])
        cpu, times = own.cpu_ns(), []
        for _ in range(200):
            began = time.perf_counter()
            await session.raw("tools/list", {})
            times.append(time.perf_counter() - began)
        cpu = own.cpu_ns() - cpu
        gateway = gateway_pid(own.pid)
        sessions = [Session(url) for _ in range(count)]
        for each in sessions[:50]:
            await each.listen()
        before = own_kib(gateway)
        for each in sessions[50:]:
            await each.listen()
        grown = own_kib(gateway) - before
        for each in sessions:
            each.close()
        return {"list_ms": statistics.median(times) * 1000, "list_cpu_ms": cpu / 200 / 1e6, "session_kib": grown / (count - 50)}

    def command(self) -> str:
        return "python -m benchmarks gateway_lists"


@contextmanager
def servers(lab: Lab, count: int, tools: int) -> Iterator[list[str]]:
    """HTTP servers of the members: their URLs."""
    with ExitStack() as stack:
        said, urls = lab.directory / "members.out", []
        output = stack.enter_context(said.open("wb"))
        for _ in range(count):
            port = free_port()
            command = [sys.executable, "-m", "benchmarks.servers", "http", str(port), str(tools)]
            wait_for_port(port, stack.enter_context(running(command, None, output.fileno())), said)
            urls.append(f"http://127.0.0.1:{port}/mcp")
        yield urls


@contextmanager
def ours(lab: Lab, urls: list[str]) -> Iterator[Proxy]:
    """Our daemon with all of them."""
    names = [f"m{number}" for number in range(len(urls))]
    members = "".join(f'[upstream.{name}]\nurls = ["{url.removesuffix("/mcp")}"]\n' for name, url in zip(names, urls, strict=True))
    members += f'[upstream.all]\nmembers = {json.dumps(names)}\ncache = "1h"\n[[route]]\npath = "/hub"\nupstream = "all"\n'
    with lab.variant("gateways-", STDIO=json.dumps(STDIO), MEMBERS=members, everywhere=True) as own:
        yield own


def gateway_pid(supervisor: int) -> int:
    """Of its children the one that knows messages."""
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "mcpproxy:gw":
            return int(pid)
    raise RuntimeError("there is no gateway process")


def own_kib(pid: int) -> int:
    """Memory that no other process has a part of, and its share of the rest."""
    return sum(int(each.split()[1]) for each in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if each.startswith("Pss:"))
