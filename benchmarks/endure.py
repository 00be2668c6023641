"""All bad days at once, for as long as you like: constant calls and event streams while servers, workers and files misbehave.

    python -m benchmarks.endure --minutes 20 [--seed 1] [--workers 2]

One daemon with several workers in front of four servers that answer slowly, with 500, with half an answer, with a reset, not at all, or are gone; beside them
one that only streams. Meanwhile workers are killed and frozen, the control process is killed, the configuration is reloaded, its certificate replaced (by
garbage, too), logs are rotated, clients hang up, stall and talk nonsense. At the end:

 1. no wrong answer: every 200 is the answer to its own call, every stream's events are there, in order;
 2. every error of ours is JSON and has a reason;
 3. every lost exchange has a log line that says how it ended, or was in a worker that was killed at that moment;
 4. no leak: processes that lived through it have not grown, descriptors are back;
 5. the daemon ends with 0 when told, and nobody is left.

Exit status 0 if all of it held. What was seen is printed as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.lab import free_port, make_certificate

CALLERS = 24
STREAMS = 100
EVENT_S = 0.5
ANSWER_S = 20.0  # no call may take longer: the daemon's own timeouts are far below
WATCHDOG_S = 5
GROWTH_MIB = 8.0
OLD_S = 120.0  # processes that lived for less have nothing to say about leaks
MODES = ("ok", "ok", "ok", "slow", "500", "reset", "half", "silent", "gone")
Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


@dataclass
class Seen:
    """What happened."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[tuple[float, str, str]] = field(default_factory=list)  # when, the exchange's id, how
    deaths: list[float] = field(default_factory=list)  # when we ended a worker
    done: Counter[str] = field(default_factory=Counter)  # bad things we did
    events: int = 0


class Server:
    """One endpoint; `mode` says how it behaves from now on."""

    def __init__(self) -> None:
        self.port, self.mode = free_port(), "ok"
        self._server: asyncio.Server | None = None
        self._writers: set[Writer] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def become(self, mode: str) -> None:
        if mode == "gone" and self._server is not None:
            self._server.close()
            self._server = None
            for writer in tuple(self._writers):
                writer.transport.abort()
        elif mode != "gone" and self._server is None:
            await self.open()
        self.mode = mode

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
                body = await reader.readexactly(size)
                if not await self._answer(head, body, writer):
                    break
        self._writers.discard(writer)
        writer.transport.abort()

    async def _answer(self, head: bytes, body: bytes, writer: Writer) -> bool:
        mode = self.mode
        if mode == "slow":
            await asyncio.sleep(1.5)
        elif mode == "reset":
            return False
        elif mode == "silent":
            await asyncio.sleep(30)
            return False
        answer = b'{"echo":%b}' % body if body else b"{}"
        status = b"500 Internal Server Error" if mode == "500" else b"200 OK"
        if mode == "half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(answer), answer))
        await writer.drain()
        return True


class Streamer(Server):
    """Event streams that number their events."""

    async def _answer(self, head: bytes, body: bytes, writer: Writer) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in count():
            event = b"data: %d\n\n" % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(EVENT_S)
        return False


class Endurance:
    def __init__(self, directory: Path, seconds: float, seed: int, workers: int) -> None:
        self.directory, self.seconds, self.workers = directory, seconds, workers
        self.chance = random.Random(seed)
        self.seen = Seen()
        self.servers = [Server() for _ in range(4)]
        self.streamer = Streamer()
        self.tls, self.plain = free_port(), free_port()
        self.config = directory / "mcpproxy.toml"
        self.log, self.said = directory / "access.log", directory / "stderr"
        make_certificate(directory)
        for name in ("cert.pem", "key.pem"):
            shutil.copy(directory / name, directory / f"good-{name}")
        self.turn = count(1)
        self.over = False
        self.sizes: dict[int, list[tuple[float, int, int, str]]] = {}

    def write_config(self) -> None:
        urls = ", ".join(f'"http://127.0.0.1:{server.port}"' for server in self.servers)
        text = f"""
workers = {self.workers}
watchdog = "{WATCHDOG_S}s"
drain = "10s"
[[listen]]
address = "127.0.0.1:{self.tls}"
tls = {{ cert = "{self.directory}/cert.pem", key = "{self.directory}/key.pem" }}
[[listen]]
address = "127.0.0.1:{self.plain}"
[upstream.calls]
urls = [{urls}]
connect_timeout = "2s"
response_timeout = "5s"
retry_after = "1s"
[upstream.streams]
urls = ["http://127.0.0.1:{self.streamer.port}"]
max_connections = 4000
[[route]]
path = "/mcp"
upstream = "calls"
rate = "100000/s burst {1000 + next(self.turn)}"
[[route]]
path = "/sse"
upstream = "streams"
[limits]
body_stall = "5s"
head_timeout = "5s"
[log]
access = "{self.log}"
"""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.rename(self.config)

    # -- who asks ----------------------------------------------------------------------------------------------------------------------------

    async def connect(self, secure: bool) -> tuple[Reader, Writer]:
        if not secure:
            return await asyncio.open_connection("127.0.0.1", self.plain, limit=1 << 20)
        context = ssl.create_default_context(cafile=str(self.directory / "good-cert.pem"))
        context.check_hostname = False
        return await asyncio.open_connection("127.0.0.1", self.tls, ssl=context, limit=1 << 20)

    async def caller(self, number: int) -> None:
        """Calls on one connection until it ends, then on the next."""
        chance = random.Random(f"{number}")
        name = ""
        while not self.over:
            try:
                reader, writer = await asyncio.wait_for(self.connect(number % 2 == 0), ANSWER_S)
            except (OSError, TimeoutError):
                self.lost("connect")
                await asyncio.sleep(0.1)
                continue
            try:
                while not self.over:
                    name = f"call-{next(self.turn)}"
                    if not await asyncio.wait_for(self.call(reader, writer, name, chance), ANSWER_S):
                        break
                    await asyncio.sleep(chance.uniform(0, 0.1))
            except TimeoutError:
                self.seen.wrong.append(f"{name}: no answer within {ANSWER_S:g} s")
            except (OSError, asyncio.IncompleteReadError) as error:
                self.lost(name, type(error).__name__)
            writer.transport.abort()

    async def call(self, reader: Reader, writer: Writer, name: str, chance: random.Random) -> bool:
        body = json.dumps(
            {"jsonrpc": "2.0", "id": name, "method": "tools/call", "params": {"pad": "x" * chance.choice((10, 300, 20_000))}}
        ).encode()
        head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (name.encode(), len(body)) + body)
        status, fields, answer = await self.read(reader)
        self.seen.statuses[str(status)] += 1
        if status == 200 and answer != b'{"echo":%b}' % body:
            self.seen.wrong.append(f"{name}: {answer[:100]!r}")
        if status != 200:
            try:
                json.loads(answer)
            except ValueError:
                self.seen.wrong.append(f"{name}: {status} without JSON: {answer[:100]!r}")
        return b"\r\nconnection: close" not in fields

    async def read(self, reader: Reader) -> tuple[int, bytes, bytes]:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        return int(head[9:12]), head, await reader.readexactly(size)

    async def listener(self, number: int) -> None:
        """One stream after the other; its events have no gap."""
        while not self.over:
            name = f"stream-{next(self.turn)}"
            try:
                reader, writer = await self.connect(number % 2 == 0)
            except OSError:
                self.lost("connect")
                await asyncio.sleep(0.2)
                continue
            try:
                writer.write(
                    b"GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nX-Request-Id: %b\r\n\r\n" % name.encode()
                )
                await reader.readuntil(b"\r\n\r\n")
                for expected in count():
                    size = int(await asyncio.wait_for(reader.readuntil(b"\r\n"), ANSWER_S), 16)
                    event = (await reader.readexactly(size + 2))[:-2]
                    if event != b"data: %d\n\n" % expected:
                        self.seen.wrong.append(f"{name}: {event!r} instead of {expected}")
                    self.seen.events += 1
            except TimeoutError:
                self.seen.wrong.append(f"{name}: silent for {ANSWER_S:g} s")
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                if not self.over:
                    self.lost(name, type(error).__name__)
            writer.transport.abort()

    def lost(self, name: str, how: str = "") -> None:
        self.seen.lost.append((time.time(), name, how))

    async def rude(self) -> None:
        """Clients one would rather not have."""
        while not self.over:
            await asyncio.sleep(self.chance.uniform(0.05, 0.5))
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await self.connect(self.chance.random() < 0.5)
                kind = self.chance.choice(("leaves", "garbage", "half a head", "half a body", "silent"))
                self.seen.done[f"client: {kind}"] += 1
                name = b"rude-%d" % next(self.turn)
                head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %b\r\nContent-Length: 200\r\n" % name
                said = {
                    "leaves": head + b"\r\n" + b"x" * 200,
                    "garbage": self.chance.randbytes(300),
                    "half a head": head,
                    "half a body": head + b"\r\nx",
                    "silent": b"",
                }[kind]
                writer.write(said)
                await writer.drain()
                if kind in ("garbage", "half a head", "half a body", "silent"):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(), self.chance.uniform(0.1, 8))
                writer.transport.abort()

    # -- what goes wrong ---------------------------------------------------------------------------------------------------------------------

    def children(self) -> dict[str, int]:
        found = {}
        pid = self.process.pid
        with contextlib.suppress(OSError):
            for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    found[Path(f"/proc/{each}/comm").read_text().strip()] = int(each)
        return found

    def some_worker(self) -> int:
        return self.chance.choice([pid for name, pid in self.children().items() if name.removeprefix("mcpproxy:").isdecimal()] or [0])

    async def servers_change(self) -> None:
        while not self.over:
            await asyncio.sleep(self.chance.uniform(0.5, 4))
            everywhere = self.chance.random() < 0.1
            mode = self.chance.choice(MODES)
            self.seen.done[f"server: {mode}{' (all)' if everywhere else ''}"] += 1
            for server in self.servers if everywhere else [self.chance.choice(self.servers)]:
                await server.become(mode)

    async def bad_days(self) -> None:
        days: list[Callable[[], Awaitable[None]]] = [
            self.kill,
            self.kill,
            self.freeze,
            self.kill_control,
            self.reload,
            self.reload,
            self.bad_reload,
            self.rotate,
            self.certificate,
        ]
        while not self.over:
            await asyncio.sleep(self.chance.uniform(2, 8))
            day = self.chance.choice(days)
            self.seen.done[day.__name__] += 1
            await day()

    async def kill(self) -> None:
        if pid := self.some_worker():
            self.seen.deaths.append(time.time())
            os.kill(pid, signal.SIGKILL)

    async def freeze(self) -> None:
        if pid := self.some_worker():
            os.kill(pid, signal.SIGSTOP)
            until = time.time() + WATCHDOG_S + 10
            while pid in self.children().values() and time.time() < until:
                self.seen.deaths.append(time.time())
                await asyncio.sleep(0.5)
            if pid in self.children().values():
                self.seen.wrong.append("a frozen worker was not replaced")
            self.seen.deaths.append(time.time())

    async def kill_control(self) -> None:
        if pid := self.children().get("mcpproxy:ctl"):
            os.kill(pid, signal.SIGKILL)

    async def reload(self) -> None:
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    async def bad_reload(self) -> None:
        """Refused; the old one goes on."""
        good = self.config.read_text()
        self.config.write_text(good + "\nnonsense = 1\n")
        self.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(1)
        self.config.write_text(good)

    async def rotate(self) -> None:
        """The log goes on in another file; what was in the old one is looked at, too."""
        self.log.rename(self.directory / f"access.{next(self.turn)}.log")
        self.process.send_signal(signal.SIGUSR1)

    async def certificate(self) -> None:
        for name in ("cert.pem", "key.pem"):
            if self.chance.random() < 0.5:
                (self.directory / name).write_bytes(self.chance.randbytes(500))
        await asyncio.sleep(self.chance.uniform(0, 4))
        for name in ("cert.pem", "key.pem"):
            shutil.copy(self.directory / f"good-{name}", self.directory / name)

    async def watch(self) -> None:
        while not self.over:
            for name, pid in {"supervisor": self.process.pid, **self.children()}.items():
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{pid}/status").read_text()  # noqa: ASYNC240 - a sleep of the whole harness harms nobody
                    size = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))
                    self.sizes.setdefault(pid, []).append((time.time(), size, len(os.listdir(f"/proc/{pid}/fd")), name))
            await asyncio.sleep(5)

    # -- from beginning to end ---------------------------------------------------------------------------------------------------------------

    async def run(self) -> dict[str, Any]:
        for server in (*self.servers, self.streamer):
            await server.open()
        self.write_config()
        environment = {**os.environ, "STATE_DIRECTORY": str(self.directory / "state")}
        with self.said.open("wb") as said:
            command = [sys.executable, "-P", "-m", "mcpproxy", "run", "-c", str(self.config)]
            self.process = subprocess.Popen(  # noqa: ASYNC220 - nothing else happens yet
                command, stdout=said, stderr=said, env=environment
            )
        while b"serving" not in self.said.read_bytes():
            await asyncio.sleep(0.1)
            if self.process.poll() is not None:
                raise SystemExit(self.said.read_text())
        work = [self.caller(number) for number in range(CALLERS)] + [self.listener(number) for number in range(STREAMS)]
        tasks = [asyncio.create_task(each) for each in (*work, self.rude(), self.servers_change(), self.bad_days(), self.watch())]
        began = time.time()
        while time.time() - began < self.seconds:
            await asyncio.sleep(1)
            if self.process.poll() is not None:
                self.seen.wrong.append(f"the daemon ended with {self.process.returncode}")
                break
            for task in tasks:
                if task.done():
                    task.result()
        self.over = True
        ended = time.time()
        for server in self.servers:
            await server.become("ok")
        await asyncio.sleep(1)
        while any(not task.done() for task in tasks):  # asyncio.wait_for may lose a cancellation that comes together with what it waits for
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
        children = list(self.children().values())
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.seen.wrong.append("the daemon did not end")
            self.process.kill()
        if self.process.returncode:
            self.seen.wrong.append(f"the daemon ended with {self.process.returncode}")
        self.seen.wrong += [f"process {pid} is left" for pid in children if Path(f"/proc/{pid}").exists()]  # noqa: ASYNC240
        return self.report(ended - began)

    def report(self, seconds: float) -> dict[str, Any]:
        logged: dict[str, str] = {}
        torn = 0
        for file in self.directory.glob("access*.log"):
            for line in file.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    torn += 1
                    continue
                logged[row["id"]] = row["end"]
        ends: Counter[str] = Counter()
        unexplained = []
        for when, name, how in self.seen.lost:
            near = any(abs(when - death) <= 3.0 for death in self.seen.deaths)
            if name == "connect":
                ends["not connected (a worker was ended)" if near else "not connected"] += 1
                if not near:
                    unexplained.append((name, how))
            elif name in logged:
                ends[logged[name]] += 1
            elif near:
                ends["its worker was ended"] += 1
            else:
                unexplained.append((name, how))
        growth = {}
        for pid, sizes in self.sizes.items():
            first = next((each for each in sizes if each[0] - sizes[0][0] >= OLD_S / 2), None)
            if first is not None and sizes[-1][0] - sizes[0][0] >= OLD_S:
                growth[f"{sizes[0][3]} ({pid})"] = {
                    "seconds": round(sizes[-1][0] - sizes[0][0]),
                    "grew_mib": round((sizes[-1][1] - first[1]) / 1024, 2),
                    "mib": round(sizes[-1][1] / 1024, 1),
                    "descriptors": [first[2], sizes[-1][2]],
                }
        self.seen.wrong += [f"{name} grew by {each['grew_mib']} MiB" for name, each in growth.items() if each["grew_mib"] > GROWTH_MIB]
        self.seen.wrong += [f"lost, and nothing says why: {each}" for each in unexplained[:20]]
        said = self.said.read_text(errors="replace")
        if "Traceback" in said:
            self.seen.wrong.append("a traceback: " + said[said.index("Traceback") :][:2000])
        return {
            "seconds": round(seconds),
            "calls": dict(self.seen.statuses),
            "events": self.seen.events,
            "done_to_it": dict(sorted(self.seen.done.items())),
            "lost_exchanges": {"number": len(self.seen.lost), "how_their_log_lines_end": dict(ends), "unexplained": len(unexplained)},
            "torn_log_lines": torn,
            "long_lived_processes": growth,
            "wrong": self.seen.wrong,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description="All bad days at once.")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where to leave the logs")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcpproxy-endure-") as name:
        report = asyncio.run(Endurance(Path(name), chosen.minutes * 60, chosen.seed, chosen.workers).run())
        if chosen.keep is not None:
            shutil.copytree(name, chosen.keep, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
    print(json.dumps(report, indent=2))
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
