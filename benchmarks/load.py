"""Drive a contender from the load generator's core and say honestly what came of it.

`calls` is wrk: closed loop, as fast as 64 connections go; `multiplexed` is h2load, the same over HTTP/2. `paced` is h2load at a given pace:
each connection starts a call at fixed moments whether or not the proxy is quick, which is what a latency figure needs. All refuse to return
a result with a failed request in it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine
from benchmarks.lab import ANSWER, HERE, Lab, Proxy

CONNECTIONS = 64
STAGGER_MS = 11  # between the openings of paced connections; no multiple of their interval
HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
    "Mcp-Session-Id": "0f7d3b0d5a6c4e0c9d6b6b3d2f1a0e9c",
    "Mcp-Protocol-Version": "2025-06-18",
    "Authorization": "Bearer sk-agent-alpha-0123456789abcdef0123456789abcdef",
    "User-Agent": "python-httpx/0.28.1",
}
BODY = (
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",'
    '"arguments":{"message":"hello hello hello hello hello hello hello hello"}}}'
)


class BadRun(Exception):
    """A measurement with failed requests: not a result."""


@dataclass(frozen=True, slots=True)
class Calls:
    requests: int
    seconds: float
    cpu_us: float  # proxy CPU per request
    proxy_core: float  # share of its core the proxy used
    load_core: float  # share of the other core that load generator and upstream used
    command: str

    def figures(self) -> dict[str, float]:
        return {
            "cpu_us": self.cpu_us,
            "requests_s": self.requests / self.seconds,
            "proxy_core": self.proxy_core,
            "load_core": self.load_core,
        }


def pinned(command: list[str], extra: dict[str, str] | None = None) -> tuple[str, int, float]:
    """Run on the load core; (output, its CPU in ns, wall seconds)."""
    core = machine.cores()[1]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**machine.environment(), **(extra or {})},
        preexec_fn=machine.take_place(core),
    )
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BadRun(f"{' '.join(command)} ended with {process.returncode}\n{output[-1000:]}")
    return output, int((usage.ru_utime + usage.ru_stime) * 1e9), time.monotonic() - began


def calls(
    lab: Lab,
    proxy: Proxy,
    *,
    tls: bool,
    seconds: float,
    script: str = "post.lua",
    seed: str = "0",
    pooled: bool = True,
    path: str = "/mcp",
    shows: str = "",
) -> Calls:
    """wrk against the fixed answer. `pooled`: nothing else dials the upstream meanwhile. `shows`: the caller's field, for guard.lua."""
    url = f"https://127.0.0.1:{proxy.tls}{path}" if tls else f"http://127.0.0.1:{proxy.plain}{path}"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", "-s", str(HERE / "conf" / script), url]
    dialled, _ = upstream_status(lab)
    cpu, upstream = proxy.cpu_ns(), machine.cpu_ns(lab.fixed_pid)
    output, load_ns, wall = pinned(command, {"BENCH_SEED": seed, "BENCH_FIELD": shows})
    cpu, upstream = proxy.cpu_ns() - cpu, machine.cpu_ns(lab.fixed_pid) - upstream
    said = json.loads(output.rpartition("RESULT ")[2])
    failed = {kind: said[kind] for kind in ("connect", "read", "write", "status", "timeout") if said[kind]}
    if failed or not said["requests"]:
        raise BadRun(f"{proxy.name}: {said['requests']} requests, failed: {failed}")
    done = said["requests"]
    if pooled:
        expect_pooled(proxy, upstream_status(lab)[0] - dialled, CONNECTIONS, done)
    return Calls(
        requests=done,
        seconds=said["duration_us"] / 1e6,
        cpu_us=cpu / 1000 / done,
        proxy_core=cpu / 1e9 / wall,
        load_core=(load_ns + upstream) / 1e9 / wall,
        command=" ".join(command).replace(str(HERE), "benchmarks"),
    )


def multiplexed(lab: Lab, proxy: Proxy, connections: int, streams: int, count: int) -> Calls:
    """h2load against the fixed answer: COUNT calls over HTTP/2, STREAMS at a time on each connection."""
    command = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-n{count}"]
    url, concurrent = f"https://127.0.0.1:{proxy.tls}/mcp", connections * streams
    dialled, answered = upstream_status(lab)
    cpu, upstream = proxy.cpu_ns(), machine.cpu_ns(lab.fixed_pid)
    output, load_ns, wall = pinned([*command, *call_of(lab), url])
    cpu, upstream = proxy.cpu_ns() - cpu, machine.cpu_ns(lab.fixed_pid) - upstream
    accepted, requests = upstream_status(lab)
    wanted = (
        "Application protocol: h2\n",
        f" {count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout",
        f"status codes: {count} 2xx,",
        f"({count * len(ANSWER)}) data",
    )
    if missing := [words for words in wanted if words not in output]:
        raise BadRun(f"{proxy.name}: h2load does not say {missing}:\n{output}")
    if requests - answered != count + 1:  # the last one asked for the status
        raise BadRun(f"{proxy.name}: {count} calls, but the upstream answered {requests - answered - 1}")
    expect_pooled(proxy, accepted - dialled, concurrent, count)
    took = re.search(r"finished in ([\d.]+)(us|ms|s)\b", output)
    assert took is not None
    return Calls(
        requests=count,
        seconds=float(took[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1}[took[2]],
        cpu_us=cpu / 1000 / count,
        proxy_core=cpu / 1e9 / wall,
        load_core=(load_ns + upstream) / 1e9 / wall,
        command=" ".join([*command, "-d", "CALL", url]),
    )


def call_of(lab: Lab) -> list[str]:
    """What makes h2load post the measured call."""
    body = lab.directory / "body.json"
    body.write_text(BODY)
    return [f"-d{body}", *(f"-H{name}: {value}" for name, value in HEADERS.items())]


def expect_pooled(proxy: Proxy, dialled: int, concurrent: int, done: int) -> None:
    if dialled > concurrent * 4 + done / 1000:
        raise BadRun(f"{proxy.name}: {dialled} upstream connections for {done} requests: its pool is not tuned for this load")


def upstream_status(lab: Lab) -> tuple[int, int]:
    """(connections accepted, requests answered) by the fixed upstream so far."""
    connection = http.client.HTTPConnection("127.0.0.1", lab.fixed, timeout=10)
    connection.request("GET", "/status")
    page = connection.getresponse().read().decode()
    connection.close()
    accepted, _handled, requests = map(int, page.splitlines()[2].split())
    return accepted, requests


@dataclass(frozen=True, slots=True)
class Paced:
    requests: int
    rate: float
    p50_us: float
    p99_us: float
    p999_us: float
    command: str


def paced(lab: Lab, url: str, rate: float, seconds: float) -> Paced:
    """h2load at a fixed rate over 64 connections.

    The connections are opened one by one, so that their moments lie spread over the interval; opened together they would fire together, and
    the figure would be that of a burst of 64.
    """
    log = lab.directory / "paced.tsv"
    log.unlink(missing_ok=True)
    each = max(1, round(rate / CONNECTIONS))
    command = [
        "h2load",
        "--h1",
        "-t1",
        f"-c{CONNECTIONS}",
        f"--rps={each}",
        f"-n{round(each * seconds) * CONNECTIONS}",
        "-r1",
        f"--rate-period={STAGGER_MS}ms",
    ]
    output, _, _ = pinned([*command, f"--log-file={log}", *call_of(lab), url])
    if " 0 failed, 0 errored, 0 timeout" not in output:
        raise BadRun(f"{url}: {output}")
    return _read(log, each * CONNECTIONS, " ".join([*command, "-d", "CALL", url]))


def _read(log: Path, rate: float, command: str) -> Paced:
    """Only the time in which all connections were at work counts."""
    rows = [(int(start), status, int(took)) for start, status, took in (line.split("\t")[:3] for line in log.read_text().splitlines())]
    wrong = sum(status != "200" for _, status, _ in rows)
    if wrong or not rows:
        raise BadRun(f"{command}: {wrong} of {len(rows)} requests failed")
    ramp = CONNECTIONS * STAGGER_MS * 1000
    first, last = min(start for start, _, _ in rows) + ramp, max(start for start, _, _ in rows) - ramp
    counted = [took for start, _, took in rows if first < start < last]
    reached = len(counted) / ((last - first) / 1e6)
    if reached < 0.95 * rate:
        raise BadRun(f"{command}: only {reached:.0f} of {rate:.0f} requests/s were started, the load generator is too slow")
    cut = statistics.quantiles(counted, n=1000)
    return Paced(len(counted), reached, cut[499], cut[989], cut[998], command)
