"""How much later does an answer come because a proxy stands in between, at a load it can carry?

Saturation is measured first (wrk, as post_tls), then calls are paced at half of it: at half of the contender's own, and at half of nginx's
for all. The same pace straight to the upstream is the base; what is above it was added by the proxy.
"""

from __future__ import annotations

from benchmarks import load
from benchmarks.lab import Lab, Proxy
from benchmarks.works.base import Figures, Scale, Target


class Latency:
    name = "latency"
    title = "latency of a paced call, TLS, at half of saturation"
    shown = {
        "added_p99_us": "added p99 µs",
        "p50_us": "p50 µs",
        "p99_us": "p99 µs",
        "same_p50_us": "p50 at same rate",
        "same_p99_us": "p99 at same rate",
        "direct_p50_us": "direct p50",
        "direct_p99_us": "direct p99",
        "rate": "requests/s",
    }
    targets: tuple[Target, ...] = (Target("added_p99_us", 1.5), Target("same_added_p99_us", 1.5))
    note = (
        "added = p99 through the proxy less p50 straight to the upstream at the same pace; "
        "'same rate' is half of nginx's saturation for all"
    )

    def __init__(self) -> None:
        self.saturation: dict[str, float] = {}
        self._command = ""

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        for name in contenders:
            with lab.contender(name) as proxy:
                load.calls(lab, proxy, tls=True, seconds=1)
                result = load.calls(lab, proxy, tls=True, seconds=scale.pick(4, 2))
                self.saturation[name] = result.requests / result.seconds

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        seconds = scale.pick(6, 3)
        through, direct = f"https://127.0.0.1:{proxy.tls}/mcp", f"http://127.0.0.1:{lab.fixed}/mcp"
        own = self.saturation[proxy.name] / 2
        same = self.saturation.get("nginx", self.saturation[proxy.name]) / 2
        at_own = load.paced(lab, through, own, seconds)
        base = load.paced(lab, direct, own, seconds)
        at_same = load.paced(lab, through, same, seconds)
        self._command = at_own.command
        return {
            "added_p99_us": at_own.p99_us - base.p50_us,
            "same_added_p99_us": at_same.p99_us - base.p50_us,
            "p50_us": at_own.p50_us,
            "p99_us": at_own.p99_us,
            "p999_us": at_own.p999_us,
            "same_p50_us": at_same.p50_us,
            "same_p99_us": at_same.p99_us,
            "direct_p50_us": base.p50_us,
            "direct_p99_us": base.p99_us,
            "rate": at_own.rate,
            "saturation": self.saturation[proxy.name],
        }

    def command(self) -> str:
        return self._command
