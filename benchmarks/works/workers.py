"""Two workers beside one, each time with both cores for everybody: what a second process brings, and what it costs.

On two cores load generator and upstream take a share of what the second worker could have. So there are two questions, and nginx is asked both, too:

    gain       requests/s with two workers, in times of those with one, where a request costs the proxy the most beside its client (every head is new)
    possible   the gain if only the CPU counted: two cores, shared with what a request costs load generator and upstream
    dearer     CPU for one request with two workers, in times of that with one, at the same number of requests a second (a third of what one can do)

`Tokens` asks for what costs a proxy ten times what it costs the others, so that the load generator permits nearly all of a second core to be used: callers
whose every request shows a token that was never seen, and must be verified.
"""

from __future__ import annotations

import json
import os
import re
import subprocess

from benchmarks import load, machine
from benchmarks.lab import HERE, Lab, Proxy
from benchmarks.works.base import Alone, Figures, Scale, Target

TOKENS = 50_000  # more than are verified in a measurement: none comes twice in the life of a daemon
GAIN = 1.7  # at least
PACE = 6016.0  # requests/s, 94 on each connection: what one worker does with a third of a core


class Workers:
    name = "workers"
    title = "two workers beside one, both cores for everybody, no TLS"
    shown = {
        "gain": "times the requests/s",
        "possible": "possible gain",
        "dearer": "times the CPU a request",
        "one_s": "requests/s, 1 worker",
        "two_s": "requests/s, 2 workers",
        "one_us": "CPU µs, 1 worker",
        "two_us": "CPU µs, 2 workers",
        "paced_one_us": "CPU µs at 6000/s, 1 worker",
        "paced_two_us": "CPU µs at 6000/s, 2 workers",
    }
    targets: tuple[Target, ...] = ()
    note = "gain: every head is new; possible: with the CPU that load generator and upstream leave; dearer: 6000 calls/s, heads known"

    def __init__(self) -> None:
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        figures: Figures = {}
        order = ((1, "one"), (2, "two")) if round_number % 2 == 0 else ((2, "two"), (1, "one"))
        other_us = 0.0
        for workers, word in order:
            with lab.contender(proxy.name, workers=workers) as contender:
                figures[f"paced_{word}_us"] = self._paced(lab, contender, scale.pick(5, 3))
            with lab.contender(proxy.name, workers=workers) as contender:
                self._new_heads(lab, contender, 1, f"{round_number}{word}warm")
                rate, ours, others = self._new_heads(lab, contender, scale.pick(5, 3), f"{round_number}{word}")
                figures[f"{word}_s"], figures[f"{word}_us"] = rate, ours
                if workers == 1:
                    other_us = others
        figures["gain"] = figures["two_s"] / figures["one_s"]
        figures["possible"] = 2 * figures["one_us"] / (figures["one_us"] + other_us)
        figures["dearer"] = figures["paced_two_us"] / figures["paced_one_us"]
        return figures

    def _paced(self, lab: Lab, proxy: Proxy, seconds: float) -> float:
        """CPU µs a request, of all its processes together."""
        url = f"http://127.0.0.1:{proxy.plain}/mcp"
        load.paced(lab, url, PACE, 1)
        before = proxy.cpu_ns()
        paced = load.paced(lab, url, PACE, seconds)
        self._command = paced.command
        return (proxy.cpu_ns() - before) / 1000 / (PACE * seconds)

    def _new_heads(self, lab: Lab, proxy: Proxy, seconds: float, seed: str) -> tuple[float, float, float]:
        return asked(lab, proxy, seconds, "misses.lua", "/mcp", {"BENCH_SEED": f"{proxy.name}-{seed}"})

    def command(self) -> str:
        return self._command


class Tokens(Alone):
    """Ours alone: the peers verify no tokens."""

    name = "tokens"
    title = "two workers beside one where every request shows a new token (EdDSA), both cores for everybody"
    shown = {
        "gain": "times the requests/s",
        "possible": "possible gain",
        "one_s": "requests/s, 1 worker",
        "two_s": "requests/s, 2 workers",
        "one_us": "CPU µs, 1 worker",
        "two_us": "CPU µs, 2 workers",
        "other_us": "CPU µs, load and server",
        "inverse": "1 / gain",
    }
    targets: tuple[Target, ...] = (Target("inverse", 1 / GAIN, None),)
    note = "each token is verified once: another one for each request; possible: with the CPU that load generator and upstream leave"

    def __init__(self) -> None:
        self._tokens = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        file = lab.directory / "tokens"
        with file.open("w") as output:
            output.writelines(f"{lab.callers.another_token(number)}\n" for number in range(TOKENS))
        self._tokens = str(file)

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        figures: Figures = {}
        for workers, word in ((1, "one"), (2, "two")) if round_number % 2 == 0 else ((2, "two"), (1, "one")):
            with lab.contender(proxy.name, guards=True, workers=workers) as contender:
                self._ask(lab, contender, 1, 0)
                rate, ours, others = self._ask(lab, contender, scale.pick(4, 3), TOKENS // 4)
                figures |= {f"{word}_s": rate, f"{word}_us": ours}
                if workers == 1:
                    figures["other_us"] = others
        figures["gain"], figures["inverse"] = figures["two_s"] / figures["one_s"], figures["one_s"] / figures["two_s"]
        figures["possible"] = 2 * figures["one_us"] / (figures["one_us"] + figures["other_us"])
        return figures

    def _ask(self, lab: Lab, proxy: Proxy, seconds: float, from_: int) -> tuple[float, float, float]:
        return asked(lab, proxy, seconds, "tokens.lua", "/mcp/jwt", {"BENCH_TOKENS": self._tokens, "BENCH_FROM": str(from_)})

    def command(self) -> str:
        return "wrk -t1 -c64 -s benchmarks/conf/tokens.lua"


def asked(lab: Lab, proxy: Proxy, seconds: float, script: str, path: str, told: dict[str, str]) -> tuple[float, float, float]:
    """(requests/s, CPU µs a request of the proxy, of load generator and upstream), with 64 connections and no core of anybody's own."""
    command = ["wrk", "-t1", "-c64", f"-d{seconds:g}s", "-s", str(HERE / "conf" / script), f"http://127.0.0.1:{proxy.plain}{path}"]
    cpu, upstream = proxy.cpu_ns(), machine.cpu_ns(lab.fixed_pid)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**machine.environment(), **told}, preexec_fn=machine.take_place(None))
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu, upstream = proxy.cpu_ns() - cpu, machine.cpu_ns(lab.fixed_pid) - upstream
    found = re.search(r"RESULT (\{.*\})", output)
    result = json.loads(found[1]) if found else {}
    if not result.get("requests") or any(result[kind] for kind in ("connect", "read", "write", "status", "timeout")):
        raise load.BadRun(f"{proxy.name}: {output[-500:]}")
    count, wall = result["requests"], result["duration_us"] / 1e6
    return count / wall, cpu / 1000 / count, (upstream / 1000 + (usage.ru_utime + usage.ru_stime) * 1e6) / count
