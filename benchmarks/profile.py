"""Where does our process spend its time? `python -m benchmarks profile post_tls`.

Runs a work (quick) three times: undisturbed for its figures, under strace -c for the system calls (which slows it down: read the counts,
not the times), and under perf for the hot functions of kernel and interpreter. `--only nginx` looks at nginx instead.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import load, machine
from benchmarks.lab import Lab, Proxy, open_lab
from benchmarks.works.base import Scale, Work
from benchmarks.works.guard import Guarded

QUICK = Scale(quick=True, rounds=1)
SHARE_SHOWN = 0.01  # of all system calls: rarer ones are noise


def run(work: Work, ours: str, contender: str) -> int:
    with open_lab(ours) as lab:
        work.prepare(lab, [contender], QUICK)
        with lab.contender(contender, guards=isinstance(work, Guarded)) as proxy:
            print(f"{contender}, undisturbed: {_shown(work, lab, proxy)}")
        with lab.contender(contender, guards=isinstance(work, Guarded)) as proxy:
            strace = ["strace", "-f", "-c", "-U", "calls,errors,name", "-o", str(lab.directory / "strace"), "-p", _worker(proxy)]
            _, before = load.upstream_status(lab)
            with attached(strace):
                _shown(work, lab, proxy)
            _show_calls((lab.directory / "strace").read_text(), load.upstream_status(lab)[1] - before)
        with lab.contender(contender, guards=isinstance(work, Guarded)) as proxy:
            with attached(["perf", "record", "-q", "-g", "-F", "999", "-o", str(lab.directory / "perf"), "-p", _worker(proxy)]):
                _shown(work, lab, proxy)
            _show_perf(lab)
    return 0


def _shown(work: Work, lab: Lab, proxy: Proxy) -> str:
    try:
        figures = work.measure(lab, proxy, QUICK, 0)
    except load.BadRun as refusal:  # a tracer may slow a process too far for a result; what it saw is of use all the same
        return f"({refusal})"
    return ", ".join(f"{figures[figure]:.2f} {heading}" for figure, heading in work.shown.items())


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


def _show_calls(text: str, answers: int) -> None:
    """Counts, and per call answered by the fixed upstream where the work makes calls."""
    rows = [(int(words[0]), words[-1]) for line in text.splitlines() if (words := line.split()) and len(words) > 1 and words[0].isdigit()]
    total = max((count for count, _ in rows), default=0)
    print(f"system calls{' (and per call)' if answers > 100 else ''}")
    for count, name in rows:
        if count > total * SHARE_SHOWN:
            print(f"  {count:9}  {f'{count / answers:7.3f}  ' if answers > 100 else ''}{name}")


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
