"""Where does our process spend its time? `python -m benchmarks profile post_tls`.

Runs the load of a work against mcpproxy alone and looks at it from three sides, in turn: system calls per request (strace -c, which slows
it down: read the counts, not the times), hot functions (perf, both kernel and interpreter), and CPU per request without either.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import load, machine
from benchmarks.lab import Lab, Proxy, open_lab

SCRIPTS = {"post_tls": (True, "post.lua"), "post_plain": (False, "post.lua"), "misses": (True, "misses.lua")}
SECONDS = 4


def run(work: str, ours: str = "", contender: str = "mcpproxy") -> int:
    if work not in SCRIPTS:
        print(f"profile knows {', '.join(SCRIPTS)}", file=sys.stderr)
        return 2
    tls, script = SCRIPTS[work]
    with open_lab(ours) as lab, lab.contender(contender) as proxy:
        load.calls(lab, proxy, tls=tls, seconds=1, script=script, seed="warm")
        undisturbed = load.calls(lab, proxy, tls=tls, seconds=SECONDS, script=script, seed="plain")
        print(f"{contender} {work}: {undisturbed.cpu_us:.2f} µs/request at {undisturbed.requests / undisturbed.seconds:,.0f} requests/s")
        with attached(["strace", "-f", "-c", "-U", "calls,errors,name", "-o", str(lab.directory / "strace"), "-p", _worker(proxy)]):
            counted = load.calls(lab, proxy, tls=tls, seconds=SECONDS, script=script, seed="strace")
        _show_calls((lab.directory / "strace").read_text(), counted.requests)
        with attached(["perf", "record", "-q", "-g", "-F", "999", "-o", str(lab.directory / "perf"), "-p", _worker(proxy)]):
            load.calls(lab, proxy, tls=tls, seconds=SECONDS, script=script, seed="perf")
        _show_perf(lab)
    return 0


def _worker(proxy: Proxy) -> str:
    return str(machine.descendants(proxy.pid)[-1])


@contextmanager
def attached(command: list[str]) -> Iterator[None]:
    """A tracer that is attached while the body runs, if it is installed."""
    if shutil.which(command[0]) is None:
        print(f"({command[0]} is not installed)")
        yield
        return
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield
    finally:
        tracer.send_signal(2)  # both write their summary on interrupt
        _, said = tracer.communicate(timeout=60)
        if tracer.returncode not in (0, -2, 130):
            print(f"({' '.join(command)}: {said.decode().strip()})")


def _show_calls(text: str, requests: int) -> None:
    print("system calls per request")
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].isdigit() and int(words[0]) > requests / 100:
            print(f"  {int(words[0]) / requests:7.3f}  {words[-1]}")


def _show_perf(lab: Lab) -> None:
    if not (lab.directory / "perf").exists():
        return
    command = [
        "perf",
        "report",
        "-i",
        str(lab.directory / "perf"),
        "--no-children",
        "-g",
        "none",
        "--percent-limit",
        "0.7",
        "--stdio",
        "--sort",
        "dso,symbol",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print("\n".join(line for line in done.stdout.splitlines() if line.strip() and not line.startswith("#")))
