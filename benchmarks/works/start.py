"""How long does it take from the command to the first answer?"""

from __future__ import annotations

import socket
import time

from benchmarks.lab import Lab, Proxy
from benchmarks.works.base import Figures, Scale, Target

REQUEST = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class Start:
    name = "start"
    title = "from the command to the first answer"
    shown = {"start_s": "seconds", "cpu_s": "CPU seconds"}
    targets: tuple[Target, ...] = (Target("start_s", 0.7, None),)
    note = "one worker, files in the cache of the kernel; another contender of the same name runs beside it and does nothing"

    def prepare(self, lab: Lab, contenders: list[str], scale: Scale) -> None:
        """Nothing."""

    def measure(self, lab: Lab, proxy: Proxy, scale: Scale, round_number: int) -> Figures:
        began = time.monotonic()
        with lab.contender(proxy.name) as fresh:
            with socket.create_connection(("127.0.0.1", fresh.plain)) as client:
                client.settimeout(30)
                client.sendall(REQUEST)
                said = b""
                while piece := client.recv(65536):
                    said += piece
            seconds = time.monotonic() - began
            assert said.startswith(b"HTTP/1.1 200"), said[:200]
            return {"start_s": seconds, "cpu_s": fresh.cpu_ns() / 1e9}

    def command(self) -> str:
        return "the daemon's own, then one POST"
