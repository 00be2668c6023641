"""One gibibyte each way over TLS: may a big body make the proxy grow, and what does a MiB cost?"""

from __future__ import annotations

import json
import sys

from benchmarks import load, machine
from benchmarks.lab import Lab, Proxy
from benchmarks.load import BadRun
from benchmarks.origin import pattern_crc
from benchmarks.works.base import Figures, Scale, Target

MIB = 1024 * 1024


class Bodies:
    name = "big_bodies"
    title = "1 GiB chunked download and upload over TLS"
    shown = {
        "down_us_mib": "down CPU µs/MiB",
        "up_us_mib": "up CPU µs/MiB",
        "down_growth_mib": "down growth MiB",
        "up_growth_mib": "up growth MiB",
        "down_mib_s": "down MiB/s",
        "up_mib_s": "up MiB/s",
    }
    targets: tuple[Target, ...] = (
        Target("down_us_mib", 1.2),
        Target("up_us_mib", 1.2),
        Target("down_growth_mib", 2.0, None),
        Target("up_growth_mib", 2.0, None),
    )
    note = (
        "growth: the highest RSS during the transfer less RSS before it, after 1 MiB each way to warm up; "
        "length and checksum are compared at both ends"
    )

    def __init__(self) -> None:
        self.crc: dict[int, int] = {}

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        for size in (MIB, self.size(scale)):
            self.crc[size] = pattern_crc(size)

    def size(self, scale: Scale) -> int:
        return int(scale.pick(1024, 256)) * MIB

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        figures: Figures = {}
        for direction in ("down", "up"):
            self.move(proxy, direction, MIB)
        for direction in ("down", "up"):
            size = self.size(scale)
            machine.reset_peak(proxy.pid)
            before, cpu = machine.peak_rss_kib(proxy.pid), proxy.cpu_ns()
            seconds = self.move(proxy, direction, size)
            figures[f"{direction}_us_mib"] = (proxy.cpu_ns() - cpu) / 1000 / (size / MIB)
            figures[f"{direction}_growth_mib"] = (machine.peak_rss_kib(proxy.pid) - before) / 1024
            figures[f"{direction}_mib_s"] = size / MIB / seconds
        return figures

    def move(self, proxy: Proxy, direction: str, size: int) -> float:
        output, _, _ = load.pinned([sys.executable, "-m", "benchmarks.transfer", str(proxy.tls), direction, str(size)])
        said = json.loads(output.strip().splitlines()[-1])
        if (said["bytes"], said["crc"]) != (size, self.crc[size]):
            raise BadRun(f"{proxy.name}: {direction}: {said} is not what was sent ({size} bytes, crc {self.crc[size]})")
        return float(said["seconds"])

    def command(self) -> str:
        return "python -m benchmarks.transfer PORT down|up 1073741824"
