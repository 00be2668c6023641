"""Does anybody notice a reload? Calls at a quarter of saturation, first undisturbed, then with another configuration every second."""

from __future__ import annotations

import os
import signal
import threading

from benchmarks import load
from benchmarks.lab import OURS, Lab, Proxy
from benchmarks.works.base import Figures, Scale, Target

EVERY_S = 1.0


class Reload:
    name = "reload"
    title = "calls over TLS while the configuration is reloaded every second"
    shown = {
        "times": "p99, times without",
        "p99_us": "p99 µs with reloads",
        "still_p99_us": "p99 µs without",
        "p50_us": "p50 µs with reloads",
        "still_p50_us": "p50 µs without",
        "reloads": "reloads",
    }
    targets: tuple[Target, ...] = (Target("times", 2.0, None),)
    note = "each reload changes a limit, so that every remembered head is judged again; only ours: nginx closes its clients' connections at a reload"

    def __init__(self) -> None:
        self._command = ""
        self.rate = 0.0

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        with lab.contender(OURS) as proxy:
            result = load.calls(lab, proxy, tls=True, seconds=scale.pick(4, 2))
            self.rate = result.requests / result.seconds / 4

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        if proxy.name != OURS:
            return {}
        seconds, url = scale.pick(10, 5), f"https://127.0.0.1:{proxy.tls}/mcp"
        still = load.paced(lab, url, self.rate, seconds)
        file, over, count = lab.directory / "mcpproxy.toml", threading.Event(), 0
        text = file.read_text()

        def reload() -> None:
            nonlocal count
            while not over.wait(EVERY_S):
                count += 1
                file.write_text(f'{text}\n[limits]\nkeepalive = "{75 + count}s"\n')
                os.kill(proxy.pid, signal.SIGHUP)

        thread = threading.Thread(target=reload)
        thread.start()
        try:
            moved = load.paced(lab, url, self.rate, seconds)
        finally:
            over.set()
            thread.join()
            file.write_text(text)
        said = (lab.directory / "mcpproxy.out").read_text(errors="replace").count("configuration reloaded")
        if said < count - 1:
            raise load.BadRun(f"{count} reloads asked for, {said} done")
        self._command = moved.command
        return {
            "times": moved.p99_us / still.p99_us,
            "p99_us": moved.p99_us,
            "still_p99_us": still.p99_us,
            "p50_us": moved.p50_us,
            "still_p50_us": still.p50_us,
            "reloads": float(count),
        }

    def command(self) -> str:
        return self._command
