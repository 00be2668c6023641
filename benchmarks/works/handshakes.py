"""What a new client costs: connect, TLS 1.3 handshake (full, or resumed by ticket), one call, close."""

from __future__ import annotations

import json
import sys

from benchmarks import load
from benchmarks.lab import Lab, Proxy
from benchmarks.load import BadRun
from benchmarks.works.base import Figures, Scale, Target


class Handshakes:
    name = "handshakes"
    title = "new TLS 1.3 connections with one call each"
    shown = {"full_us": "CPU µs/full", "resumed_us": "CPU µs/resumed", "full_s": "full/s", "resumed_s": "resumed/s"}
    targets: tuple[Target, ...] = ()
    note = "the client is Python on the load core: the rate is mostly its own, the CPU figure is the proxy's; no target is set"

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        pass

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        figures: Figures = {}
        load.calls(lab, proxy, tls=True, seconds=1)
        for kind in ("full", "resumed"):
            cpu = proxy.cpu_ns()
            output, _, _ = load.pinned([sys.executable, "-m", "benchmarks.handshake", str(proxy.tls), str(scale.pick(5, 2)), kind])
            cpu = proxy.cpu_ns() - cpu
            said = json.loads(output.strip().splitlines()[-1])
            unexpected = said["resumed"] if kind == "full" else said["done"] - said["resumed"]
            if said["failed"] or not said["done"] or unexpected > 0:
                raise BadRun(f"{proxy.name}: {kind}: {said}")
            figures[f"{kind}_us"] = cpu / 1000 / said["done"]
            figures[f"{kind}_s"] = said["done"] / said["seconds"]
        return figures

    def command(self) -> str:
        return "python -m benchmarks.handshake PORT 5 full|resumed"
