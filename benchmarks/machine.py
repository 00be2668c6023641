"""What the kernel says about a process and this machine: CPU nanoseconds, resident memory, cores, versions."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

NEEDED = {"nginx": "nginx", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client"}  # command -> Debian package
NICENESS = "MCPPROXY_BENCH_NICE"  # set by --nice, read by everything we start
OPEN_FILES = 20_000  # 5 000 streams cost the proxy 10 000 descriptors


def missing() -> list[str]:
    """Commands that are not installed, as Debian packages."""
    return [package for command, package in NEEDED.items() if shutil.which(command, path=environment()["PATH"]) is None]


def environment() -> dict[str, str]:
    """Ours, with the folders in which Debian keeps its daemons."""
    return {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}


def has_mcpproxy() -> bool:
    return importlib.util.find_spec("mcpproxy.cli") is not None


def cores() -> tuple[int, int]:
    """(core of the proxy, core of load and upstream); the same one on a single-core machine."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def descendants(root: int) -> list[int]:
    """The process and all its children's children: nginx's master and worker are one contender."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(parents.get(pid, ()))
    return found


def cpu_ns(root: int) -> int:
    """User and system time so far, from the scheduler's clock; in ticks of 10 ms where the kernel keeps no schedstat."""
    total = 0
    for pid in descendants(root):
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                ran = int((task / "schedstat").read_text().split()[0])
                if ran == 0:
                    fields = (task / "stat").read_text().rpartition(")")[2].split()
                    ran = (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            except OSError:
                continue
            total += ran
    return total


def core_busy_ns(core: int) -> int:
    """How long this core was not idle since boot, whoever used it."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def take_place(core: int | None) -> Callable[[], None]:
    """For preexec_fn: this core (None: any), and the precedence that was asked for."""

    def settle() -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        if niceness := int(os.environ.get(NICENESS, "0")):
            os.setpriority(os.PRIO_PROCESS, 0, niceness)
            if Path("/proc/self/autogroup").exists():  # where sessions are scheduled as groups, niceness counts inside a session only
                os.setsid()
                Path("/proc/self/autogroup").write_text(str(niceness))

    return settle


def _kib(path: str, field: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise LookupError(f"{path} has no {field}")


def rss_kib(root: int) -> int:
    """Resident memory, counted page by page (statm and status round per core)."""
    return sum(_kib(f"/proc/{pid}/smaps_rollup", "Rss:") for pid in descendants(root))


def reset_peak(root: int) -> None:
    for pid in descendants(root):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_kib(root: int) -> int:
    return sum(_kib(f"/proc/{pid}/status", "VmHWM:") for pid in descendants(root))


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def describe() -> dict[str, str]:
    """The machine and every version that may explain a figure."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?"
    )
    root = Path(__file__).resolve().parent.parent
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "memory": f"{_kib('/proc/meminfo', 'MemTotal:') // 1024} MiB",
        "kernel": platform.release(),
        "congestion": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),  # bbr paces even the loopback
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "nginx": _first_line("nginx", "-v").rpartition("/")[2],
        "haproxy": _first_line("haproxy", "-v").split()[2],
        "wrk": _first_line("wrk", "-v").split()[1],
        "h2load": _first_line("h2load", "--version").rpartition("/")[2],
        "commit": _first_line("git", "-C", str(root), "describe", "--always", "--dirty"),
    }
