"""The same over HTTP/2: calls on many streams at a time, and one big download."""

from __future__ import annotations

import json
import statistics
import sys

from benchmarks import load, machine
from benchmarks.lab import Lab, Proxy
from benchmarks.load import BadRun
from benchmarks.origin import pattern_crc
from benchmarks.works.base import Figures, Scale, Target

MIB = 1024 * 1024
FIRST_CALLS = 10_000  # warm the pool, and tell how many make up the wanted seconds


class Calls:
    shown = {"cpu_us": "CPU µs/request", "requests_s": "requests/s", "proxy_core": "proxy core", "load_core": "load core"}
    note = "closed loop; where 'load core' is near 1 the requests/s are the load generator's, not the proxy's"

    def __init__(self, connections: int, streams: int, targets: tuple[Target, ...]) -> None:
        self.name, self.connections, self.streams, self.targets = f"h2_{connections}x{streams}", connections, streams, targets
        many = f"{connections} connections" if connections > 1 else "one connection"
        self.title = f"POST tools/call over HTTP/2, TLS 1.3, {many} × {streams} stream{'s' * (streams > 1)} at a time"
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        first = load.multiplexed(lab, proxy, self.connections, self.streams, FIRST_CALLS)
        count = round(first.requests / first.seconds * scale.pick(5, 2))
        result = load.multiplexed(lab, proxy, self.connections, self.streams, count)
        self._command = result.command
        return result.figures()

    def command(self) -> str:
        return self._command


class Download:
    """A hundred mebibytes on one stream, several times over, each on a new connection."""

    name = "h2_download"
    title = "100 MiB download on one HTTP/2 stream"
    shown = {"cpu_us_mib": "CPU µs/MiB", "mib_s": "MiB/s", "growth_mib": "growth MiB"}
    targets: tuple[Target, ...] = (Target("cpu_us_mib", 1.3),)
    note = (
        "median of several downloads, each on a new connection; the client's windows are wide open; growth: the highest RSS during them less "
        "RSS before; length and checksum are compared at both ends"
    )

    def __init__(self) -> None:
        self.size, self.crc = 100 * MIB, 0

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        self.crc = pattern_crc(self.size)

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        self.move(proxy)
        machine.reset_peak(proxy.pid)
        before = machine.peak_rss_kib(proxy.pid)
        taken = [self.move(proxy) for _ in range(int(scale.pick(9, 5)))]
        return {
            "cpu_us_mib": statistics.median(cpu for cpu, _ in taken) / (self.size / MIB),
            "mib_s": self.size / MIB / statistics.median(seconds for _, seconds in taken),
            "growth_mib": (machine.peak_rss_kib(proxy.pid) - before) / 1024,
        }

    def move(self, proxy: Proxy) -> tuple[float, float]:
        """(proxy CPU in µs, seconds)."""
        cpu = proxy.cpu_ns()
        output, _, _ = load.pinned([sys.executable, "-m", "benchmarks.transfer", str(proxy.tls), "h2down", str(self.size)])
        cpu = proxy.cpu_ns() - cpu
        said = json.loads(output.strip().splitlines()[-1])
        if (said["bytes"], said["crc"]) != (self.size, self.crc):
            raise BadRun(f"{proxy.name}: {said} is not what was sent ({self.size} bytes, crc {self.crc})")
        return cpu / 1000, float(said["seconds"])

    def command(self) -> str:
        return f"python -m benchmarks.transfer PORT h2down {self.size}"
