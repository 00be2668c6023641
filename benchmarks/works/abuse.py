"""What one hostile client can take from the others: calls on 64 honest connections, and beside them each attack over HTTP/2, one after the other.

The proxy is the bottleneck and has one core, so what the attack takes of its CPU is what the others lose: share = 1 - (CPU per honest call without) /
(CPU per honest call with). Read from the proxy's own clock, this holds whatever load generator and attacker take from each other on the other core.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from benchmarks import load, machine
from benchmarks.abuse import ATTACKS
from benchmarks.lab import HERE, Lab, Proxy
from benchmarks.load import BadRun
from benchmarks.works.base import Figures, Scale, Target

MOST = 0.2  # of the throughput: the others keep 80 %
RTT_MS = 0.0
SECONDS = 1.0
CONNECTIONS = {"half_uploads": 10}  # of a hundred streams each; of all others one at a time


class Abuse:
    name = "abuse"
    title = "share of the honest calls' throughput that one hostile HTTP/2 connection takes, opened again as soon as it is closed"
    shown = {"worst": "the worst", **{name: name.replace("_", " ") for name in ATTACKS}, "requests_s": "requests/s without"}
    targets: tuple[Target, ...] = tuple(Target(name, MOST, None) for name in ATTACKS if name != "reconnect")
    note = "share of the proxy's CPU that the attack takes while 64 honest connections ask as fast as they can; 'reconnect' is the handshakes alone"

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        load.calls(lab, proxy, tls=True, seconds=1)
        alone = [load.calls(lab, proxy, tls=True, seconds=SECONDS)]
        beside: dict[str, load.Calls] = {}
        for name in ATTACKS:
            beside[name] = self.under(lab, proxy, name)
            time.sleep(0.2)  # what it held is buried
            alone.append(load.calls(lab, proxy, tls=True, seconds=SECONDS, pooled=False))
        taken = {
            name: max(0.0, 1 - statistics.mean((before.cpu_us, after.cpu_us)) / with_it.cpu_us)
            for (name, with_it), before, after in zip(beside.items(), alone, alone[1:], strict=False)
        }
        return {"worst": max(taken.values()), **taken, "requests_s": statistics.median(one.requests / one.seconds for one in alone)}

    def under(self, lab: Lab, proxy: Proxy, name: str) -> load.Calls:
        """Honest calls with this attack beside them."""
        command = [
            sys.executable,
            "-m",
            "benchmarks.abuse",
            str(proxy.tls),
            name,
            str(SECONDS + 0.5),
            str(CONNECTIONS.get(name, 1)),
            str(RTT_MS),
        ]
        attacker = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=HERE.parent, env=machine.environment(), preexec_fn=machine.take_place(machine.cores()[1])
        )
        try:
            beside = load.calls(lab, proxy, tls=True, seconds=SECONDS, pooled=False)
        finally:
            output, _ = attacker.communicate(timeout=30)
        if attacker.returncode:
            raise BadRun(f"{proxy.name}: the attacker {name} ended with {attacker.returncode}")
        told = json.loads(output)
        rate = f"{told['connections'] / told['seconds']:.0f} connections/s, {told['mib'] / told['seconds']:.1f} MiB/s"
        print(f"  {name}: {beside.cpu_us:.1f} µs a call, {beside.requests} calls, beside {rate}", file=sys.stderr)
        return beside

    def command(self) -> str:
        return "python -m benchmarks.abuse PORT ATTACK SECONDS; wrk as in post_tls"
